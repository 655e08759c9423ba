"""Walk through a plan: one rank's steps in order, with a state of five values."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import CheckpointMismatchError
from tracestore.samplers.plan import BatchPlan
from tracestore.samplers.world import World

__all__ = ["BucketedBatchSampler"]


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
        self, plan: BatchPlan, *, world: World | None = None, snapshot: str = "", start: tuple[int, int] = (0, 0)
    ) -> None:
        self.plan = plan
        self.world = World() if world is None else world
        self.snapshot = snapshot
        plan.require_ranks(self.world.num_ranks)
        self.seek(*start)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        epoch = self.epoch
        for step in range(self.step, self.plan.num_steps)[self.world.worker_of_rank :: self.world.workers_per_rank]:
            indices = self.plan.step(epoch, step, self.world)
            self.seek_after(epoch, step)
            yield indices
        self.seek(epoch + 1, 0)

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
        self.epoch = epoch
        self.step = step

    def seek_after(self, epoch: int, step: int) -> None:
        """Make the next iteration begin after a step, in the next epoch when it was the last."""
        is_last = step + 1 == self.plan.num_steps
        self.seek(epoch + 1 if is_last else epoch, 0 if is_last else step + 1)

    def state_dict(self) -> dict[str, str | int]:
        """Describe the position in five values, valid at every number of ranks and workers."""
        return {
            "snapshot": self.snapshot,
            "seed": self.plan.seed,
            "epoch": self.epoch,
            "step": self.step,
            "policy": self.plan.policy.digest,
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
        own = self.state_dict()
        missing = sorted(own.keys() - state.keys())
        if missing:
            message = f"The sampler's state lacks {', '.join(missing)}; pass what `state_dict` returned."
            raise CheckpointMismatchError(message, missing=tuple(missing))
        for name, remedy in (
            ("snapshot", "open the store at the version it was trained on, or start a new epoch on the new one"),
            ("seed", "use the same seed"),
            ("policy", "use the same policy"),
        ):
            if state[name] != own[name]:
                message = f"The state was saved with {name} {state[name]!r}, this sampler has {own[name]!r}; {remedy}."
                raise CheckpointMismatchError(message, field=name, expected=own[name], found=state[name])
        self.seek(int(state["epoch"]), int(state["step"]))
