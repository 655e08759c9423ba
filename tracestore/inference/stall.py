"""Notices a chain that does not move, early, and says why."""

import logging
import time

from tracestore.inference.tally import Tally

__all__ = ["MAX_IDLE_SECONDS", "MAX_IDLE_STEPS", "StallWatch", "explain", "most"]

logger = logging.getLogger(__name__)

MAX_IDLE_STEPS = 2000
"""Steps without an accepted move after which a chain is said to stand still."""
MAX_IDLE_SECONDS = 40.0
"""The same in seconds, for slow simulators, after at least `MIN_STEPS`."""
MIN_STEPS = 50
_POOR_ACCEPTANCE = 0.002
_MIN_PROPOSED = 500
_LARGE_SHARE = 0.5


class StallWatch:
    """Warns once when a chain accepts nothing.

    Parameters
    ----------
    chain
        Number of the chain.
    tally
        Its counts.
    """

    def __init__(self, chain: int, tally: Tally) -> None:
        self.chain = chain
        self.tally = tally
        self.is_quiet = False
        """Steps need not be counted: the chain has moved, or the warning is out."""
        self._has_warned = False
        self._num_steps = 0
        self._since = time.monotonic()

    def step(self, *, has_moved: bool) -> None:
        """Count a step; to be called until `is_quiet`."""
        if has_moved:
            self.is_quiet = True
            return
        self._num_steps += 1
        seconds = time.monotonic() - self._since
        if self._num_steps >= MAX_IDLE_STEPS or (self._num_steps >= MIN_STEPS and seconds >= MAX_IDLE_SECONDS):
            self._warn()

    def end_warm_up(self) -> None:
        """Look at the acceptance of the whole warm-up."""
        proposed, accepted = self.tally.num_proposed, self.tally.num_accepted
        never = not accepted and proposed >= MIN_STEPS
        hardly = accepted < _POOR_ACCEPTANCE * proposed and proposed >= _MIN_PROPOSED
        if (never or hardly) and not self._has_warned:
            self._warn()

    def _warn(self) -> None:
        self.is_quiet = self._has_warned = True
        logger.warning("chain %d hardly moves: %s", self.chain, explain(self.tally))


def explain(tally: Tally) -> str:
    """Say in words why the moves of a chain are rejected, and what to do about it.

    Parameters
    ----------
    tally
        The counts.

    Examples
    --------
    >>> tally = Tally(["single"])
    >>> tally.moves["single"] = [100, 0, 90]
    >>> tally.count_reason(tally.failures, "ValueError: negative energy")
    >>> explain(tally)[:70]
    '0 of 100 moves were accepted (single 0/100). 90 % of the reruns failed'
    """
    total = max(tally.num_proposed, 1)
    moves = ", ".join(f"{name} {accepted}/{proposed}" for name, (proposed, accepted, _) in tally.moves.items())
    parts = [f"{tally.num_accepted} of {tally.num_proposed} moves were accepted ({moves})."]
    shares = {
        "failed": tally.num_failed / total,
        "impossible": sum(tally.impossible.values()) / total,
        "unscored": sum(tally.unscored.values()) / total,
    }
    if tally.failures:
        parts.append(f"{100 * shares['failed']:.0f} % of the reruns failed, most often with {most(tally.failures)!r}.")
    if tally.impossible:
        parts.append(
            f"In {100 * shares['impossible']:.0f} % the likelihood was zero, most often at the observe"
            f" {most(tally.impossible)!r}."
        )
    if tally.unscored:
        parts.append(
            f"{100 * shares['unscored']:.0f} % ended at a value outside its new support, most often at"
            f" {most(tally.unscored)!r}."
        )
    stuck = [address for address, (proposed, accepted) in tally.addresses.items() if proposed >= 5 and not accepted]
    if stuck:
        worst = max(stuck, key=lambda address: tally.addresses[address][0])
        parts.append(
            f"At {len(stuck)} of {len(tally.addresses)} addresses every move was rejected, {worst!r} first"
            f" ({tally.addresses[worst][0]} times)."
        )
    return " ".join([*parts, _advice(max(shares, key=lambda reason: shares[reason]), max(shares.values()))])


def most(reasons: dict[str, int]) -> str:
    """Return the most frequent of some reasons."""
    return max(reasons, key=lambda text: reasons[text])


def _advice(reason: str, share: float) -> str:
    if share < _LARGE_SHARE:
        reason = "low"
    return {
        "failed": (
            "The simulator fails for most values near the current ones: make it run for everything that its priors"
            " allow, or narrow the priors."
        ),
        "impossible": (
            "A likelihood that is zero almost everywhere leaves nothing to climb: observe with a distribution of"
            " unbounded support, such as a Normal with a larger scale."
        ),
        "unscored": (
            "A draw's support depends on earlier draws: use the same bounds everywhere, or give `independent` and"
            " `redraw` more weight in `move_weights`."
        ),
        "low": (
            "The likelihood falls sharply around the current state: make `single_scale` and `joint_scale` smaller, name"
            " the draws that should walk together, start from a trained `network`, or widen the likelihood."
        ),
    }[reason]
