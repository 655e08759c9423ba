"""Walk through a plan: one rank's steps in order, with a state of five values."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import CheckpointMismatchError
from tracestore.samplers.plan import BatchPlan
from tracestore.samplers.world import World

__all__ = ["BucketedBatchSampler"]

_REMEDIES = {
    "snapshot": "open the store at the version it was trained on, or begin the next epoch on the new one with "
    "`continue_from`",
    "seed": "use the same seed",
    "policy": "use the same policy and subset",
}


class BucketedBatchSampler:
    """Yield the trace indices of one rank, step by step to the end of the epoch.

    Give it to any loader that takes an iterable of indices; every item is a whole batch. Iterating goes on where the
    last iteration stopped; after the last step of an epoch comes the first of the next, in a new iteration.

    Parameters
    ----------
    plan
        The batches.
    world
        This rank; with several workers per rank, this worker's share of the steps.
    snapshot
        Identity of what the plan was made from, compared when a state is loaded.
    subset
        Which of its traces, in words; a part of the policy when a state is loaded.
    start
        Epoch and step to begin with.

    Raises
    ------
    PlanError
        When the number of ranks does not divide the slots of the plan.
    InvalidInputError
        When the epoch has no such step.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from tracestore.samplers import BatchPolicy
    >>> runs = SimpleNamespace(first=np.array([0]), num_traces=np.array([100]), num_sites=np.array([3]),
    ...                        trace_type=np.array([1], np.uint64))
    >>> sampler = BucketedBatchSampler(BatchPlan(runs, BatchPolicy(global_batch=32), seed=1), snapshot="v1")
    >>> [len(indices) for indices in sampler]
    [32, 32, 32, 4]
    >>> sampler.epoch, sampler.step
    (1, 0)
    """

    def __init__(
        self,
        plan: BatchPlan,
        *,
        world: World | None = None,
        snapshot: str = "",
        subset: str = "",
        start: tuple[int, int] = (0, 0),
    ) -> None:
        self.plan = plan
        self.world = World() if world is None else world
        self.snapshot = snapshot
        self.subset = subset
        plan.require_ranks(self.world.num_ranks)
        self.seek(*start)

    def __iter__(self) -> "_Iteration":
        return _Iteration(self)

    def __len__(self) -> int:
        """Batches that the next iteration yields."""
        steps = range(self.step, self.plan.num_steps)
        return len(steps[self.world.worker_of_rank :: self.world.workers_per_rank])

    def seek(self, epoch: int, step: int = 0) -> None:
        """Make the next iteration begin with a step of an epoch.

        Parameters
        ----------
        epoch
            Pass over the traces, from 0.
        step
            Step within the epoch, from 0.

        Raises
        ------
        InvalidInputError
            When the epoch has no such step.
        """
        self.plan.require_position(epoch, step)
        # numpy's integers would make the state unfit for JSON
        self.epoch = int(epoch)
        self.step = int(step)

    def seek_after(self, epoch: int, step: int) -> None:
        """Make the next iteration begin after a step, in the next epoch when it was the last."""
        is_last = step + 1 == self.plan.num_steps
        self.seek(epoch + 1 if is_last else epoch, 0 if is_last else step + 1)

    def state_dict(self) -> dict[str, str | int]:
        """Describe the position in five values, valid at every number of ranks and workers."""
        return {
            "snapshot": self.snapshot,
            "seed": int(self.plan.seed),
            "epoch": self.epoch,
            "step": self.step,
            "policy": f"{self.plan.policy.digest} {self.subset}".rstrip(),
        }

    def load_state_dict(self, state: Mapping[str, str | int]) -> None:
        """Go to a position saved by `state_dict`, possibly at another number of ranks.

        Parameters
        ----------
        state
            The five values.

        Raises
        ------
        CheckpointMismatchError
            When the state belongs to another snapshot, seed or policy, or is incomplete.
        """
        self._require_same(state, _REMEDIES)
        self.seek(int(state["epoch"]), int(state["step"]))

    def continue_from(self, state: Mapping[str, str | int]) -> None:
        """Go on with a training whose store has grown since: begin the next epoch, on this sampler's snapshot.

        What was left of an interrupted epoch on the old snapshot is given up; to keep it, finish that epoch with a
        sampler of the old snapshot first. A state at step 0 had begun nothing, so its epoch itself comes next. With a
        state of this very snapshot nothing is given up: it is loaded as by `load_state_dict`. That both snapshots are
        of one store is not checked.

        Parameters
        ----------
        state
            The five values.

        Raises
        ------
        CheckpointMismatchError
            When the state belongs to another seed or policy, or is incomplete.

        Examples
        --------
        >>> from types import SimpleNamespace
        >>> from tracestore.samplers import BatchPolicy
        >>> def open_store(num_traces):
        ...     runs = SimpleNamespace(first=np.array([0]), num_traces=np.array([num_traces]), num_sites=np.array([3]),
        ...                            trace_type=np.array([1], np.uint64))
        ...     return BucketedBatchSampler(BatchPlan(runs, BatchPolicy(global_batch=32)), snapshot=f"{num_traces}")
        >>> small, grown = open_store(100), open_store(150)
        >>> _ = next(iter(small))
        >>> grown.continue_from(small.state_dict())
        >>> grown.epoch, grown.step, sum(len(indices) for indices in grown)
        (1, 0, 150)
        """
        self._require_same(state, ("seed", "policy"))
        if state["snapshot"] == self.snapshot:
            self.load_state_dict(state)
        else:
            self.seek(int(state["epoch"]) + (int(state["step"]) > 0))

    def _require_same(self, state: Mapping[str, str | int], names: Iterable[str]) -> None:
        """Refuse a state that lacks a value or differs in one of these."""
        own = self.state_dict()
        missing = sorted(own.keys() - state.keys())
        if missing:
            message = f"The sampler's state lacks {', '.join(missing)}; pass what `state_dict` returned."
            raise CheckpointMismatchError(message, missing=tuple(missing))
        for name in names:
            if state[name] != own[name]:
                message = (
                    f"The state was saved with {name} {state[name]!r}, this sampler has {own[name]!r}; "
                    f"{_REMEDIES[name]}."
                )
                raise CheckpointMismatchError(message, field=name, expected=own[name], found=state[name])


class _Iteration(Iterator[NDArray[np.int64]]):
    """The rest of an epoch: moves its sampler along.

    Knows its own position too, at the end of an epoch the end, where the sampler's is the beginning of the next: a
    loader of torchdata that is restored there reads ahead in an iteration that it then gives up.
    """

    def __init__(self, sampler: BucketedBatchSampler) -> None:
        self._sampler = sampler
        self._steps: Iterator[int]
        self._is_over: bool
        self._begin(sampler.epoch, sampler.step)

    def __next__(self) -> NDArray[np.int64]:
        sampler = self._sampler
        step = next(self._steps, None)
        if step is None:
            if not self._is_over:
                self._is_over = True
                sampler.seek(self._epoch + 1)
            raise StopIteration
        indices = sampler.plan.step(self._epoch, step, sampler.world)
        sampler.seek_after(self._epoch, step)
        self._step = step + 1
        return indices

    def state_dict(self) -> dict[str, str | int]:
        return {**self._sampler.state_dict(), "epoch": self._epoch, "step": self._step}

    def load_state_dict(self, state: Mapping[str, str | int]) -> None:
        self._sampler._require_same(state, _REMEDIES)
        self._begin(int(state["epoch"]), int(state["step"]))

    def _begin(self, epoch: int, step: int) -> None:
        world = self._sampler.world
        self._epoch, self._step, self._is_over = epoch, step, False
        steps = range(step, self._sampler.plan.num_steps)
        self._steps = iter(steps[world.worker_of_rank :: world.workers_per_rank])
