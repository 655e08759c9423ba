"""Settings of the Markov engines that follow gradients."""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tracestore.errors import InvalidInputError

if TYPE_CHECKING:
    from tracestore.formats.document import JSON

__all__ = ["METRICS", "MOST_DENSE", "GradientConfig", "HMCConfig", "MALAConfig"]

METRICS = ("diagonal", "dense")
"""What the warm-up learns of the posterior's shape: a scale for each number, or their correlations, too."""
MOST_DENSE = 64
"""Most numbers for which correlations are learned unless asked otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientConfig:
    """What both engines share."""

    warmup: int = 500
    """Steps of each chain before the first kept draw; everything adapts in them and stays fixed afterwards."""
    thinning: int = 1
    """Steps from one kept draw to the next."""
    target_acceptance: float = 0.8
    """Mean probability of acceptance for which the step size is tuned, in ``(0, 1)``."""
    metric: str | None = None
    """One of `METRICS`; None learns correlations, too, when there are not more than `MOST_DENSE` numbers."""
    starts: int = 10
    """Prior draws among which each chain starts at the one of highest likelihood."""
    check_gradients: bool = True
    """Whether gradients are compared with differences before the chains start; costs two runs a draw."""

    def __post_init__(self) -> None:
        problems = self._problems()
        if problems:
            message = f"{type(self).__name__}: " + "; ".join(problems) + "."
            raise InvalidInputError(message, problems=tuple(problems))

    def _problems(self) -> list[str]:
        problems = [
            f"`{name}` must be at least {least}; got {number!r}"
            for name, least, number in (
                ("warmup", 0, self.warmup),
                ("thinning", 1, self.thinning),
                ("starts", 1, self.starts),
            )
            if number < least
        ]
        if not 0.0 < self.target_acceptance < 1.0:
            problems.append(f"`target_acceptance` must be between 0 and 1; got {self.target_acceptance!r}")
        if self.metric is not None and self.metric not in METRICS:
            problems.append(f"`metric` must be None or one of {', '.join(METRICS)}; got {self.metric!r}")
        return problems

    def to_json(self) -> dict[str, "JSON"]:
        """Return the settings as plain values, for the job record."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class HMCConfig(GradientConfig):
    """How Hamiltonian chains move.

    Examples
    --------
    >>> HMCConfig(warmup=200).target_acceptance
    0.8
    """

    length: float | None = None
    """Time that a trajectory follows the posterior's slopes, in standard deviations of the posterior; None learns it: a
    quarter period of the longest direction."""
    jitter: float = 0.3
    """Share by which the length varies evenly from step to step, so that it meets no period of the posterior."""
    max_steps: int = 256
    """Most gradients in one trajectory."""

    def _problems(self) -> list[str]:
        problems = GradientConfig._problems(self)  # `super` needs a closure that slotted dataclasses do not keep
        if self.length is not None and not 0.0 < self.length < math.inf:
            problems.append(f"`length` must be positive and finite; got {self.length!r}")
        if not 0.0 <= self.jitter < 1.0:
            problems.append(f"`jitter` must be at least 0 and below 1; got {self.jitter!r}")
        if self.max_steps < 1:
            problems.append(f"`max_steps` must be at least 1; got {self.max_steps!r}")
        return problems


@dataclass(frozen=True, kw_only=True, slots=True)
class MALAConfig(GradientConfig):
    """How Langevin chains move: as Hamiltonian ones whose trajectories have a single step.

    Examples
    --------
    >>> MALAConfig().target_acceptance
    0.574
    """

    warmup: int = 1000
    """Steps of each chain before the first kept draw; everything adapts in them and stays fixed afterwards."""
    target_acceptance: float = 0.574
    """Mean probability of acceptance for which the step size is tuned; the default is the best one in many dimensions
    (Roberts and Rosenthal 1998)."""
