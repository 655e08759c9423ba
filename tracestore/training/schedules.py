"""The learning rate as a pure function of the step; knows nothing of optimizers.

References: Goyal et al., arXiv:1706.02677 (warm-up, linear scaling with the batch). Baydin et al., SC'19, sections 6.3
and 7.1.2 (a polynomial of second order trained best; scaling by less than the square root worked better than linear).
"""

import dataclasses
import math
from typing import Literal

from tracestore.networks.config import Config

__all__ = ["Schedule", "learning_rate"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Schedule(Config):
    """How the learning rate changes over a training.

    Examples
    --------
    >>> Schedule(schedule="multi_step", milestones=(0.75, 0.5))
    Traceback (most recent call last):
    ...
    tracestore.errors.InvalidInputError: Schedule is not valid: `milestones` must rise between 0 and 1; got (0.75, 0.5).
    """

    learning_rate: float = 4e-3
    """Highest learning rate, reached at the end of the warm-up."""
    final_learning_rate: float = 4e-5
    """Learning rate of ``polynomial`` and ``cosine`` at the last step and after it."""
    schedule: Literal["constant", "multi_step", "polynomial", "cosine"] = "cosine"
    """Decay after the warm-up: none, a factor at each milestone, or a curve down to the final learning rate."""
    polynomial_order: Literal[1, 2] = 2
    """Order of ``polynomial``: 1 is a straight line, 2 the paper's choice."""
    milestones: tuple[float, ...] = (0.5,)
    """Shares of all steps, rising, at which ``multi_step`` lowers the learning rate."""
    milestone_factor: float = 0.1
    """What ``multi_step`` multiplies the learning rate by at each milestone."""
    warmup_fraction: float = 0.05
    """Share of all steps over which the learning rate rises linearly."""
    batch_scaling: float = 0.0
    """The whole curve is multiplied by the batch size relative to ``reference_batch_size`` to this power: 0 for no
    scaling, 0.5 for the square root, 1 for linear; the paper found that less than 0.5 works better than more."""
    reference_batch_size: int = 64
    """Traces per step, over all ranks, for which ``learning_rate`` is meant."""

    def _problems(self) -> list[str]:
        problems = [
            f"`{name}` must be positive; got {getattr(self, name)!r}"
            for name in ("learning_rate", "final_learning_rate", "reference_batch_size")
            if not 0 < getattr(self, name) < math.inf
        ]
        problems += [
            f"`{name}` must lie in [0, 1]; got {getattr(self, name)!r}"
            for name in ("milestone_factor", "batch_scaling")
            if not 0.0 <= getattr(self, name) <= 1.0
        ]
        if not 0.0 <= self.warmup_fraction < 1.0:
            problems.append(f"`warmup_fraction` must lie in [0, 1); got {self.warmup_fraction!r}")
        rising = all(low < high for low, high in zip((0.0, *self.milestones), (*self.milestones, 1.0), strict=True))
        if not rising:
            problems.append(f"`milestones` must rise between 0 and 1; got {self.milestones!r}")
        return problems


def learning_rate(schedule: Schedule, step: int, num_steps: int, *, batch_size: int | None = None) -> float:
    """Return the learning rate of a step.

    Parameters
    ----------
    schedule
        Curve and its ends.
    step
        Step, from 0. From ``num_steps`` on the rate stays where it ended.
    num_steps
        Steps of the whole training.
    batch_size
        Traces per step over all ranks and accumulated parts; None leaves the rate unscaled.

    Examples
    --------
    >>> schedule = Schedule(learning_rate=1.0, final_learning_rate=0.1, warmup_fraction=0.2)
    >>> [round(learning_rate(schedule, step, 10), 3) for step in (0, 1, 2, 6, 10, 20)]
    [0.5, 1.0, 1.0, 0.55, 0.1, 0.1]
    >>> learning_rate(Schedule(batch_scaling=0.5, reference_batch_size=64), 500, 10_000, batch_size=256)
    0.008
    """
    scale = 1.0
    if batch_size is not None and schedule.batch_scaling:
        scale = (batch_size / schedule.reference_batch_size) ** schedule.batch_scaling
    highest, final = scale * schedule.learning_rate, scale * schedule.final_learning_rate
    warmup = int(schedule.warmup_fraction * num_steps)
    if step < warmup:
        return highest * (step + 1) / warmup
    # clamped: an even power of what is left would rise again after the end
    left = 1.0 - min((step - warmup) / max(num_steps - warmup, 1), 1.0)
    match schedule.schedule:
        case "constant":
            return highest
        case "multi_step":
            # rounded: 0.55 * 100 is a little more than 55
            passed = sum(step >= round(milestone * num_steps) for milestone in schedule.milestones)
            return highest * schedule.milestone_factor**passed
        case "polynomial":
            share = left**schedule.polynomial_order
        case "cosine":
            share = 0.5 * (1.0 - math.cos(math.pi * left))
    return final + (highest - final) * share
