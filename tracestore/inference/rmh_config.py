"""Settings of the Markov engines."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tracestore.errors import InvalidInputError

if TYPE_CHECKING:
    from tracestore.formats.document import JSON

__all__ = ["MOVES", "RMHConfig"]

MOVES = ("single", "walk", "redraw", "walk_redraw", "independent", "ic")
"""Moves, in the order in which their counts are kept.

``single``: one site changes, by a local kernel or the prior. ``walk``: a joint Gaussian random walk on the named
continuous draws. ``redraw``: the block of unnamed draws comes anew from the prior. ``walk_redraw``: both at once.
``independent``: every draw comes anew from the prior. ``ic``: every draw comes from a network, or with a small
probability from the prior; needs a network.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RMHConfig:
    """How Markov chains on traces move.

    Examples
    --------
    >>> RMHConfig(warmup=500).thinning
    1
    """

    warmup: int = 1000
    """Steps of each chain before the first kept draw; step sizes adapt in them and stay fixed afterwards."""
    thinning: int = 1
    """Steps from one kept draw to the next."""
    move_weights: Mapping[str, float] | None = None
    """Relative frequency of each move of `MOVES`; None chooses by what the simulator draws, about half ``single``, and
    a quarter ``ic`` when there is a network."""
    kernel_share: float = 0.5
    """In a single-site move, the probability of the local kernel; otherwise the prior proposes."""
    single_scale: float = 1.0
    """Factor on the width of the local kernel: the prior's standard deviation, or a tenth of a bounded interval."""
    joint_scale: float = 0.25
    """Step of the joint walk before adaptation, in standard deviations of the prior."""
    joint_names: tuple[str, ...] | None = None
    """Names that walk together; None for all named controlled continuous draws."""
    starts: int = 10
    """Prior draws among which each chain starts at the one of highest likelihood."""
    starts_from_ic: bool = True
    """Whether chains start from draws of the network, when there is one, chosen by their weights."""
    defensive: float = 0.1
    """Share of the prior in the mixture from which ``ic`` moves propose, in ``(0, 1]``."""
    num_slots: int = 64
    """Runs in flight at once, served by one call of the network, when the simulator is reentrant."""

    def __post_init__(self) -> None:
        problems = self._problems()
        if problems:
            message = "RMHConfig: " + "; ".join(problems) + "."
            raise InvalidInputError(message, problems=tuple(problems))
        if self.move_weights is not None:
            object.__setattr__(
                self, "move_weights", {name: float(self.move_weights[name]) for name in self.move_weights}
            )

    def _problems(self) -> list[str]:
        problems = [
            f"`{name}` must be at least {least}; got {number!r}"
            for name, least, number in (
                ("warmup", 0, self.warmup),
                ("thinning", 1, self.thinning),
                ("starts", 1, self.starts),
                ("num_slots", 1, self.num_slots),
            )
            if number < least
        ]
        problems += [
            f"`{name}` must be positive and finite; got {number!r}"
            for name, number in (("single_scale", self.single_scale), ("joint_scale", self.joint_scale))
            if not 0.0 < number < math.inf
        ]
        if not 0.0 <= self.kernel_share <= 1.0:
            problems.append(f"`kernel_share` must be between 0 and 1; got {self.kernel_share!r}")
        if not 0.0 < self.defensive <= 1.0:
            problems.append(f"`defensive` must be above 0 and at most 1; got {self.defensive!r}")
        weights = self.move_weights
        if weights is not None:
            unknown = [name for name in weights if name not in MOVES]
            if unknown:
                problems.append(f"`move_weights` has unknown moves {unknown}; the moves are {list(MOVES)}")
            bad = {name: weight for name, weight in weights.items() if not 0.0 <= weight < math.inf}
            if bad or not sum(weights.values()) > 0.0:
                problems.append(f"`move_weights` must be finite, not negative and not all zero; got {dict(weights)}")
        return problems

    def to_json(self) -> dict[str, "JSON"]:
        """Return the settings as plain values, for the job record."""
        return {
            **asdict(self),
            "joint_names": None if self.joint_names is None else list(self.joint_names),
            "move_weights": None if self.move_weights is None else dict(self.move_weights),
        }
