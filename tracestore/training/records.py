"""What a training step did and where its time went: frozen records, and the clock that fills them."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace

__all__ = ["StepClock", "StepRecord", "StepTimes"]


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of one step on one rank; on an accelerator, those in which the processor was busy or waited."""

    read: float = 0.0
    """Waiting for the minibatch."""
    forward: float = 0.0
    """From the columns of the traces to the loss, growth of tables included."""
    backward: float = 0.0
    """Gradients, with the sums over ranks that run meanwhile."""
    optimize: float = 0.0
    """Clipping and the update."""
    sync: float = 0.0
    """Waiting for other ranks."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.read + self.forward + self.backward + self.optimize + self.sync

    @property
    def busy(self) -> float:
        """What this rank itself needs for the step: everything but waiting for others."""
        return self.total - self.sync

    def __add__(self, other: "StepTimes") -> "StepTimes":
        return StepTimes(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


class StepClock:
    """Adds up the seconds of the parts of a step.

    Examples
    --------
    >>> clock = StepClock()
    >>> with clock.part("forward"):
    ...     total = sum(range(1000))
    >>> clock.times.forward > 0.0, clock.times.backward
    (True, 0.0)
    """

    def __init__(self) -> None:
        self.times = StepTimes()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count a block as a part of the step."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Count seconds as a part of the step."""
        self.times = replace(self.times, **{name: getattr(self.times, name) + seconds})


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What one step did; the same on all ranks but for the times."""

    step: int
    """Steps done, this one included."""
    num_traces: int
    """Traces of the step, all ranks together."""
    loss: float
    """Mean over the traces: of -log q, unmodelled sites with their prior, or of the sum of all terms."""
    gradient_norm: float
    """Before clipping."""
    learning_rate: float
    terms: Mapping[str, float] = field(default_factory=dict)
    """What the loss is the sum of, by name, if it has several terms."""
    bad_traces: tuple[int, ...] = ()
    """Traces whose loss is not finite, for which the step was skipped."""
    is_skipped: bool = False
    """Nothing was learned, because the loss or its gradient is not finite."""
    stops: bool = False
    """A rank wants to stop after this step."""
    times: StepTimes = StepTimes()
    reduced_bytes: int = 0
    """What this rank gave to sums over ranks."""
    dense_bytes: int = 0
    """What it would have given if whole tables had been summed."""
