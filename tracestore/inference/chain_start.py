"""Where a Markov chain starts when nothing better is known: at the most likely one of a few prior draws."""

import logging
import math
import time

import numpy as np

from tracestore.errors import InferenceError
from tracestore.inference.moves import Entry, Fresh
from tracestore.inference.rerun import Target
from tracestore.inference.stall import MAX_IDLE_SECONDS, most
from tracestore.inference.tally import Tally
from tracestore.traces.trace import Trace, TraceStatus

__all__ = ["MAX_START_DRAWS", "start_from_prior"]

logger = logging.getLogger(__name__)

MAX_START_DRAWS = 10_000
"""Prior draws after which a chain without a possible start gives up."""


def start_from_prior(target: Target, rng: np.random.Generator, chain: int) -> tuple[Trace, dict[int, Entry]]:
    """Draw from the prior until enough draws are made and one of them is possible.

    Parameters
    ----------
    target
        Simulator and observation; its settings say how many draws are enough.
    rng
        Random numbers.
    chain
        Number of the chain, for the messages.

    Returns
    -------
    trace, entries
        The most likely draw, and its values as moves need them.

    Raises
    ------
    InferenceError
        When no prior draw explains the observation at all; says what happened to them.
    """
    best: tuple[Trace, Fresh] | None = None
    reasons = Tally(())
    since, is_told = time.monotonic(), False
    for attempt in range(1, MAX_START_DRAWS + 1):
        move = Fresh(target.joint_names)
        trace = target.run(move, rng)
        if trace.status is not TraceStatus.OK:
            reasons.count_reason(reasons.failures, trace.failure)
        elif not -math.inf < trace.log_joint < math.inf:
            reasons.count_reason(reasons.impossible, _impossible_at(trace))
        elif best is None or trace.log_likelihood > best[0].log_likelihood:
            best = trace, move
        if best is not None and attempt >= target.config.starts:
            return best[0], best[1].entries
        if best is None and not is_told and time.monotonic() - since >= MAX_IDLE_SECONDS:
            is_told = True
            logger.warning("chain %d has no start after %d prior draws: %s", chain, attempt, _explain(reasons))
    message = (
        f"No start for a Markov chain: none of {MAX_START_DRAWS} prior draws of {target.program.name!r} ended well with"
        f" a likelihood above zero: {_explain(reasons)} Check the observation, or observe with a distribution of"
        " unbounded support."
    )
    raise InferenceError(message)


def _impossible_at(trace: Trace) -> str:
    for site, log_prob in zip(trace.sites, trace.log_probs.tolist(), strict=True):
        if math.isinf(log_prob):
            return site.name or site.address
    return ""


def _explain(reasons: Tally) -> str:
    parts = []
    if reasons.failures:
        parts.append(f"{sum(reasons.failures.values())} failed, most often with {most(reasons.failures)!r}")
    if reasons.impossible:
        number = sum(reasons.impossible.values())
        parts.append(f"{number} had the likelihood zero, most often at the observe {most(reasons.impossible)!r}")
    return "; ".join(parts) + "."
