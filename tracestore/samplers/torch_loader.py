"""Batches of a store as torch tensors, through a real `torch.utils.data.DataLoader`.

Every item that the loader asks for is a whole batch: one read per column instead of one per trace. Worker processes
open the store for themselves and send tensors through shared memory; layouts stay at home, where they are known.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore._extras import extra
from tracestore.errors import InvalidInputError
from tracestore.samplers.plan import BatchPlan
from tracestore.samplers.policy import BatchPolicy
from tracestore.samplers.sampler import BucketedBatchSampler
from tracestore.samplers.selection import Subset, select_traces
from tracestore.samplers.world import World
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore
from tracestore.traces import Layout, TraceBatch

with extra("train"):
    import torch
    from torch.utils.data import DataLoader, Dataset

__all__ = ["TensorBatch", "TraceDataset", "TraceLoader", "trace_loader"]


@dataclass(frozen=True, eq=False)
class TensorBatch:
    """The columns of a `TraceBatch` that training reads, as tensors; trace by trace and, inside, site by site.

    Examples
    --------
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> rng = np.random.default_rng(1)
    >>> traces = [run_trace(toys.gum, PriorController(), rng) for _ in range(3)]
    >>> batch = TensorBatch.from_batch(TraceBatch.from_traces(traces), [4, 5, 6])
    >>> len(batch), batch.observations["obs0"].dtype, batch.trace_index.tolist()
    (3, torch.float32, [4, 5, 6])
    """

    layouts: tuple[Layout, ...]
    """The distinct layouts of the batch."""
    layout_index: torch.Tensor
    """Position of each trace's layout in ``layouts``, int64, shape ``(N,)``."""
    values: torch.Tensor
    """Stored values, float64, flat."""
    parameters: torch.Tensor
    """Parameters of priors and likelihoods, float64, flat."""
    log_probs: torch.Tensor
    """Log probabilities, one per site, float64, flat."""
    observations: Mapping[str, torch.Tensor]
    """Named observations, float32, shape ``(N, *shape)``; zeros where a trace has none."""
    trace_index: torch.Tensor
    """Global index of each trace in the store, int64, shape ``(N,)``."""

    @staticmethod
    def from_batch(batch: TraceBatch, trace_index: ArrayLike) -> "TensorBatch":
        """Share or convert the columns of a batch.

        Parameters
        ----------
        batch
            N traces.
        trace_index
            Their global indices, shape ``(N,)``.
        """
        return TensorBatch(
            layouts=batch.layouts,
            layout_index=_tensor(batch.layout_index, np.int64),
            values=_tensor(batch.values, np.float64),
            parameters=_tensor(batch.parameters, np.float64),
            log_probs=_tensor(batch.log_probs, np.float64),
            observations={name: _observation(column) for name, column in batch.observations.items()},
            trace_index=_tensor(np.asarray(trace_index), np.int64),
        )

    def __len__(self) -> int:
        return len(self.layout_index)

    def pin_memory(self) -> "TensorBatch":
        """Copy to page-locked memory, from which copies to a GPU are asynchronous."""
        return self._map(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "TensorBatch":
        """Copy to a device.

        Parameters
        ----------
        device
            Where the tensors shall be.
        non_blocking
            Do not wait for copies from pinned memory.
        """
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "TensorBatch":
        return replace(
            self,
            layout_index=change(self.layout_index),
            values=change(self.values),
            parameters=change(self.parameters),
            log_probs=change(self.log_probs),
            observations={name: change(column) for name, column in self.observations.items()},
            trace_index=change(self.trace_index),
        )


class TraceDataset(Dataset[TensorBatch]):
    """A store as a map-style dataset whose items are whole batches.

    Works with any sampler that yields arrays of trace indices and ``batch_size=None``, in forked and in spawned
    workers.

    Parameters
    ----------
    store
        An open store; workers read the same snapshot.

    Examples
    --------
    >>> import tracestore as ts, tempfile
    >>> store = ts.simulate(ts.simulators.toys.gum, tempfile.mkdtemp() + "/traces", num_traces=100, seed=1)
    >>> loader = DataLoader(TraceDataset(store), sampler=[[5, 3], [70]], batch_size=None)
    >>> [batch.trace_index.tolist() for batch in loader]
    [[5, 3], [70]]
    """

    def __init__(self, store: TraceStore) -> None:
        self.store = store

    def __len__(self) -> int:
        """Traces in the store."""
        return len(self.store)

    def __getitem__(self, indices: ArrayLike) -> TensorBatch:
        """Read some traces, in the order asked for."""
        chosen: NDArray[np.int64] = np.atleast_1d(np.asarray(indices, np.int64))
        return TensorBatch.from_batch(self.store.take(chosen), chosen)


@dataclass(frozen=True, eq=False)
class _Parcel:
    """A batch on its way from a worker: pickled layouts would outweigh small batches, so that only their ids travel."""

    batch: TensorBatch
    layout_ids: tuple[int, ...]

    def pin_memory(self) -> "_Parcel":
        return replace(self, batch=self.batch.pin_memory())


class _ParcelDataset(TraceDataset):
    def __getitem__(self, indices: ArrayLike) -> _Parcel:  # type: ignore[override]  # unpacked by the loader
        batch = super().__getitem__(indices)
        return _Parcel(replace(batch, layouts=()), tuple(layout.id for layout in batch.layouts))


class TraceLoader(DataLoader[TensorBatch]):
    """A `DataLoader` of whole batches that knows its position exactly, whatever its workers have prefetched.

    Iterating goes on where the last iteration stopped, to the end of the epoch; made by `trace_loader`.

    Parameters
    ----------
    dataset
        The traces.
    sampler
        The batches of this rank.
    num_workers
        Processes that read ahead; 0 reads in this process.
    pin_memory
        Hand out batches in page-locked memory.
    """

    def __init__(
        self, dataset: TraceDataset, sampler: BucketedBatchSampler, *, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        super().__init__(
            _ParcelDataset(dataset.store) if num_workers else dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
        )
        self.plan = sampler.plan
        self._layouts = dataset.store.layouts
        self._walk = sampler
        # the sampler runs ahead of what has been handed out; this one does not
        self._position = BucketedBatchSampler(
            sampler.plan, world=sampler.world, snapshot=sampler.snapshot, start=(sampler.epoch, sampler.step)
        )

    @property
    def epoch(self) -> int:
        """Epoch of the next batch."""
        return self._position.epoch

    @property
    def step(self) -> int:
        """Step, within its epoch, of the next batch."""
        return self._position.step

    def __len__(self) -> int:
        """Batches that the next iteration yields."""
        return len(self._position)

    def __iter__(self) -> Iterator[TensorBatch]:  # type: ignore[override]  # a generator iterates as well
        epoch, step = self.epoch, self.step
        self._walk.seek(epoch, step)
        steps = range(step, self.plan.num_steps)
        for item, done in zip(super().__iter__(), steps, strict=True):
            self._position.seek_after(epoch, done)
            yield self._unpack(item)

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
        self._position.seek(epoch, step)

    def state_dict(self) -> dict[str, str | int]:
        """Describe the position after the last batch handed out in five values; see `BucketedBatchSampler`."""
        return self._position.state_dict()

    def load_state_dict(self, state: Mapping[str, str | int]) -> None:
        """Go to a position saved by `state_dict`.

        Parameters
        ----------
        state
            The five values.

        Raises
        ------
        CheckpointMismatchError
            When the state belongs to another snapshot, seed or policy, or is incomplete.
        """
        self._position.load_state_dict(state)

    def _unpack(self, item: "TensorBatch | _Parcel") -> TensorBatch:
        if isinstance(item, TensorBatch):
            return item
        return replace(item.batch, layouts=tuple(self._layouts[identity] for identity in item.layout_ids))


def trace_loader(
    store: TraceStore | StorePath,
    *,
    global_batch: int | None = None,
    seed: int = 0,
    policy: BatchPolicy | None = None,
    world: World | None = None,
    num_workers: int = 0,
    subset: Subset = "all",
    validation_fraction: float = 0.1,
    start: tuple[int, int] = (0, 0),
    pin_memory: bool = False,
) -> TraceLoader:
    """Load batches of a store's successful traces for training.

    Every trace comes exactly once per epoch, over all ranks; the batches do not depend on ``num_workers``, and as sets
    not on the number of ranks.

    Parameters
    ----------
    store
        A store or its path.
    global_batch
        Traces of one step, all ranks together; may be left out when a policy is given.
    seed
        Key of the order.
    policy
        Sizes, order and costs; None for `BatchPolicy.local`, in sequential order for the validation subset.
    world
        Rank and number of ranks; None reads the launcher's variables.
    num_workers
        Processes that read ahead; 0 reads in this process.
    subset
        ``train`` and ``validation`` are the two parts of the store, ``all`` is both.
    validation_fraction
        Expected share of the validation part.
    start
        Epoch and step to begin with.
    pin_memory
        Hand out batches in page-locked memory.

    Raises
    ------
    InvalidInputError
        When ``global_batch`` is missing, contradicts the policy, or another argument is out of range.
    PlanError
        When the subset has too few traces or the number of ranks does not divide a step.

    Examples
    --------
    >>> import tracestore as ts, tempfile
    >>> store = ts.simulate(ts.simulators.toys.gum, tempfile.mkdtemp() + "/traces", num_traces=100, seed=1)
    >>> [len(batch) for batch in trace_loader(store, global_batch=40, seed=1)]
    [40, 40, 20]
    """
    if policy is None and global_batch is None:
        message = "`global_batch` is missing; give the number of traces of a step, or a `policy`."
        raise InvalidInputError(message, argument="global_batch")
    if policy is None:
        policy = BatchPolicy.local(global_batch or 0, order="sequential" if subset == "validation" else "deck")
    elif global_batch not in {None, policy.global_batch}:
        message = f"`global_batch` is {global_batch}, but the policy has {policy.global_batch}; give one of them."
        raise InvalidInputError(message, argument="global_batch", found=global_batch, expected=policy.global_batch)
    opened = store if isinstance(store, TraceStore) else TraceStore.open(store)
    status, stream = (np.asarray(opened.column(name), np.int64) for name in ("status", "stream"))
    selected = select_traces(status, stream, subset, validation_fraction)
    plan = BatchPlan(opened.runs, policy, seed, selected=None if selected.all() else selected)
    part = subset if subset == "all" else f"{subset} {validation_fraction!r}"
    sampler = BucketedBatchSampler(
        plan,
        world=World.from_environment() if world is None else world,
        snapshot=f"{opened.snapshot_id} {part}",
        start=start,
    )
    return TraceLoader(TraceDataset(opened), sampler, num_workers=num_workers, pin_memory=pin_memory)


def _tensor(column: NDArray[np.generic], dtype: type[np.number]) -> torch.Tensor:
    owned = np.ascontiguousarray(column, dtype)
    # torch has no read-only tensors: columns that are views of a mapped file are copied, once
    return torch.from_numpy(owned if owned.flags.writeable else owned.copy())


def _observation(column: NDArray[np.generic]) -> torch.Tensor:
    if len(column) and column.strides[0] == 0:
        return _tensor(column[0], np.float32).expand(column.shape)
    return _tensor(column, np.float32)
