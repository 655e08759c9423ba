"""Train for some wall time instead of some epochs: the time that is spent, and steps until it is.

Ranks have clocks of their own. Only that of rank 0 counts: a trainer sums what `TimeBudget.report` gives over ranks,
with everything else, and all ranks go by the sum.
"""

import time
from collections.abc import Callable, Iterator, Mapping

from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.samplers.torch_loader import TraceLoader

__all__ = ["TimeBudget", "TimedSource"]


class TimeBudget:
    """Seconds of training, of which some are spent.

    Parameters
    ----------
    seconds
        All of them.
    is_leader
        Whether the clock of this rank counts.
    clock
        A monotonic clock in seconds; for tests.

    Examples
    --------
    >>> now = iter([0.0, 2.0])
    >>> budget = TimeBudget(8.0, clock=lambda: next(now))
    >>> budget.start()
    >>> budget.agree(budget.report())
    >>> budget.share
    0.25
    """

    def __init__(self, seconds: float, *, is_leader: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.spent = 0.0
        """What all ranks have agreed on."""
        self._is_leader = is_leader
        self._clock = clock
        self._before = self._started = 0.0

    @property
    def share(self) -> float:
        """Share that is spent, from 0 to 1."""
        return min(self.spent / self.seconds, 1.0)

    def start(self) -> None:
        """Let the time run."""
        self._before, self._started = self.spent, self._clock()

    def report(self) -> float:
        """Return what rank 0 has spent; 0 on others, so that the sum is that of rank 0."""
        return self._before + self._clock() - self._started if self._is_leader else 0.0

    def agree(self, spent: float) -> None:
        """Take in the sum over ranks of what they report."""
        self.spent = spent


class TimedSource:
    """Steps from the traces of a store, epoch after epoch, until a budget is spent.

    Validations come when the share that is spent has passed equal parts.

    Parameters
    ----------
    loader
        Minibatches.
    budget
        Time that is left.
    num_validations
        Validations of the whole training.
    """

    def __init__(self, loader: TraceLoader, budget: TimeBudget, num_validations: int) -> None:
        self.loader = loader
        self.budget = budget
        self._num_validations = num_validations
        self._part = 0

    @property
    def _num_done(self) -> int:
        return self.loader.epoch * self.loader.plan.num_steps + self.loader.step

    @property
    def num_steps(self) -> int:
        """Steps of the whole training: those that are done when the time is spent, before that an estimate."""
        done, share = self._num_done, self.budget.share
        return done if share >= 1.0 else done + max(1, round(done * (1.0 / max(share, 1e-3) - 1.0)))

    @property
    def num_traces(self) -> int:
        """Traces of the whole training, as for steps."""
        plan, epoch, step = self.loader.plan, self.loader.epoch, self.loader.step
        if self.budget.share >= 1.0:
            return epoch * plan.num_traces + sum(plan.step_size(epoch, done) for done in range(step))
        return -(-self.num_steps * plan.num_traces // plan.num_steps)

    def __iter__(self) -> Iterator[tuple[TensorBatch, ...]]:
        """Yield steps until the next validation is due."""
        self._part = int(self.budget.share * self._num_validations)
        self.budget.start()
        while True:
            for batch in self.loader:
                yield (batch,)
                if self.is_at_validation:
                    return

    @property
    def is_at_validation(self) -> bool:
        """Whether the share that is spent has passed a part."""
        return int(self.budget.share * self._num_validations) > self._part

    def state_dict(self) -> Mapping[str, str | int]:
        """Describe position and time after the step handed out last."""
        return {**self.loader.state_dict(), "spent_microseconds": round(self.budget.spent * 1e6)}

    def load_state_dict(self, state: Mapping[str, str | int]) -> None:
        """Go to a position saved by `state_dict`."""
        position = dict(state)
        self.budget.agree(int(position.pop("spent_microseconds")) / 1e6)
        self.loader.load_state_dict(position)
