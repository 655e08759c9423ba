"""Batches of a store as torch tensors, through a real `torch.utils.data.DataLoader` that knows its position."""

import weakref
from collections.abc import Collection, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from tracestore._extras import extra
from tracestore.errors import InvalidInputError
from tracestore.samplers.parcels import Parcel, ParcelDataset, forget_slabs
from tracestore.samplers.plan import BatchPlan
from tracestore.samplers.policy import BatchPolicy
from tracestore.samplers.read_ahead import read_ahead
from tracestore.samplers.sampler import BucketedBatchSampler
from tracestore.samplers.selection import Subset, select_traces
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.samplers.trace_dataset import TraceDataset
from tracestore.samplers.world import World
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore

with extra("train"):
    import torch
    from torch.utils.data import DataLoader

__all__ = ["LoaderOptions", "TraceLoader", "trace_loader"]

StartMethod = Literal["fork", "spawn", "forkserver"]
"""How worker processes come into being."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderOptions:
    """How batches are read; which ones they are does not depend on it.

    Raises
    ------
    InvalidInputError
        Names every option that is out of range.
    """

    num_workers: int = 0
    """Processes that read ahead; 0 reads in this process."""
    prefetch: int | None = None
    """Batches that are read ahead: by each worker, 2 by default; without workers by one thread, none by default."""
    start_method: StartMethod | None = None
    """How workers start; None for torch's default."""
    pin_memory: bool = False
    """Hand out batches in page-locked memory."""

    def __post_init__(self) -> None:
        problems = [
            f"`{name}` must be a whole number of at least 0; got {value!r}"
            for name in ("num_workers", "prefetch")
            if (value := getattr(self, name)) is not None and (type(value) is not int or value < 0)
        ]
        if not problems and self.num_workers and self.prefetch == 0:
            problems.append("`prefetch` must be at least 1 with workers; got 0")
        if self.start_method not in {None, *get_args(StartMethod)}:
            problems.append(
                f"`start_method` must be one of {', '.join(get_args(StartMethod))}; got {self.start_method!r}"
            )
        elif not problems and self.start_method is not None and not self.num_workers:
            problems.append("`start_method` is for workers, but `num_workers` is 0; leave it out, or ask for workers")
        if problems:
            message = "; ".join(problems) + "."
            raise InvalidInputError(message, problems=tuple(problems))


_DEFAULT_OPTIONS = LoaderOptions()


class TraceLoader(DataLoader[TensorBatch]):
    """A `DataLoader` of whole batches that knows its position exactly, whatever has been read ahead.

    Iterating goes on where the last iteration stopped, to the end of the epoch; made by `trace_loader`.

    Parameters
    ----------
    dataset
        The traces.
    sampler
        The batches of this rank.
    options
        How they are read.
    """

    def __init__(
        self, dataset: TraceDataset, sampler: BucketedBatchSampler, options: LoaderOptions = _DEFAULT_OPTIONS
    ) -> None:
        has_workers = options.num_workers > 0
        num_ahead = 2 if options.prefetch is None else options.prefetch
        parcels = ParcelDataset(dataset, num_ahead)
        super().__init__(
            parcels if has_workers else dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=options.num_workers,
            pin_memory=options.pin_memory,
            persistent_workers=has_workers,
            prefetch_factor=num_ahead if has_workers else None,
            multiprocessing_context=options.start_method,
        )
        self.plan = sampler.plan
        self._layouts = dataset.store.layouts
        weakref.finalize(self, forget_slabs, parcels.token)
        self._depth = 0 if has_workers else options.prefetch or 0
        self._walk = sampler
        # the sampler runs ahead of what has been handed out; this one does not
        self._position = BucketedBatchSampler(
            sampler.plan,
            world=sampler.world,
            snapshot=sampler.snapshot,
            subset=sampler.subset,
            start=(sampler.epoch, sampler.step),
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
        """Batches of a whole epoch, wherever the next iteration begins: programs that resume count with it."""
        return self.plan.num_steps

    def __iter__(self) -> Generator[TensorBatch, None, None]:  # type: ignore[override]  # iterates as well
        epoch, step = self.epoch, self.step
        self._walk.seek(epoch, step)
        items: Iterator[TensorBatch | Parcel] = super().__iter__()
        ahead = read_ahead(items, self._depth) if self._depth else None
        try:
            for item, done in zip(ahead or items, range(step, self.plan.num_steps), strict=True):
                self._position.seek_after(epoch, done)
                batch = item.unpack(self._layouts) if isinstance(item, Parcel) else item
                yield replace(batch, step_size=self.plan.step_size(epoch, done))
        finally:
            if ahead is not None:
                ahead.close()

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

    def continue_from(self, state: Mapping[str, str | int]) -> None:
        """Go on with a training whose store has grown since; see `BucketedBatchSampler.continue_from`.

        Parameters
        ----------
        state
            The five values, saved on an earlier snapshot of this store.

        Raises
        ------
        CheckpointMismatchError
            When the state belongs to another seed or policy, or is incomplete.
        """
        self._position.continue_from(state)


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
    observations: Collection[str] | None = None,
    observation_dtype: torch.dtype = torch.float32,
    prefetch: int | None = None,
    start_method: StartMethod | None = None,
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
        Processes that read ahead; 0 reads in this process, which is fastest on a local disk.
    subset
        ``train`` and ``validation`` are the two parts of the store, ``all`` is both.
    validation_fraction
        Expected share of the validation part.
    start
        Epoch and step to begin with.
    observations
        Names of the observations to read; None for all, empty for none.
    observation_dtype
        Type of the observations: ``torch.float32``, ``torch.bfloat16`` or ``torch.float16``.
    prefetch
        Batches that are read ahead: by each worker, 2 by default; without workers by one thread, none by default.
    start_method
        How workers start: ``fork``, ``spawn`` or ``forkserver``; None for torch's default.
    pin_memory
        Hand out batches in page-locked memory.

    Raises
    ------
    InvalidInputError
        When ``global_batch`` is missing, contradicts the policy, the store lacks an observation, or another argument is
        out of range.
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
        its_own = f"a budget of {policy.budget:g}" if policy.budget is not None else str(policy.global_batch)
        message = f"`global_batch` is {global_batch}, but the policy has {its_own}; give one of them."
        raise InvalidInputError(message, argument="global_batch", found=global_batch, expected=policy.global_batch)
    options = LoaderOptions(
        num_workers=num_workers, prefetch=prefetch, start_method=start_method, pin_memory=pin_memory
    )
    opened = store if isinstance(store, TraceStore) else TraceStore.open(store)
    dataset = TraceDataset(opened, observations=observations, observation_dtype=observation_dtype)
    status, stream = (np.asarray(opened.column(name), np.int64) for name in ("status", "stream"))
    selected = select_traces(status, stream, subset, validation_fraction)
    observed = np.array([segment.observation_bytes for segment in opened.segments], np.float64)
    plan = BatchPlan(
        opened.runs,
        policy,
        seed,
        selected=None if selected.all() else selected,
        observation_bytes=observed[opened.runs.segment],
    )
    sampler = BucketedBatchSampler(
        plan,
        world=World.from_environment() if world is None else world,
        snapshot=opened.snapshot_id,
        subset=subset if subset == "all" else f"{subset} {validation_fraction!r}",
        start=start,
    )
    return TraceLoader(dataset, sampler, options)
