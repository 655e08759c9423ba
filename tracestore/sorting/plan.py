"""Plan the global sort. Pure: reads a run directory, returns a `SortPlan`; copies nothing.

The order is by number of sites, trace type and layout; inside a layout by place in the source, so that the plan is a
function of the snapshot alone. Failed traces are sorted by their own layouts like all others.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import xxhash
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError, PlanError
from tracestore.sorting.keeping import find_kept
from tracestore.sorting.statistics import ATOM, RunStatistics

__all__ = ["DEFAULT_SEGMENT_BYTES", "Runs", "SortPlan", "SortTask", "TraceSizes", "plan_sort"]

DEFAULT_SEGMENT_BYTES = 2**30
"""Raw size of an output segment."""


class Runs(Protocol):
    """What the planner reads of a store's run directory; one entry per run, in store order."""

    @property
    def segment(self) -> NDArray[np.int32]:
        """Place of the run's segment in the store."""

    @property
    def layout(self) -> NDArray[np.uint64]:
        """Layout of all its traces."""

    @property
    def trace_type(self) -> NDArray[np.uint64]:
        """Trace type of all its traces."""

    @property
    def first(self) -> NDArray[np.int64]:
        """Global index of its first trace."""

    @property
    def num_traces(self) -> NDArray[np.int64]:
        """Traces in the run."""

    @property
    def num_sites(self) -> NDArray[np.int32]:
        """Sites of each of its traces."""


@dataclass(frozen=True, slots=True, eq=False)
class TraceSizes:
    """Bytes of one trace of each run; arrays of shape ``(R,)``."""

    raw: NDArray[np.float64]
    """Without compression: what segments are cut by."""
    memory: NDArray[np.float64]
    """What a task needs in memory for it."""
    stored: NDArray[np.float64]
    """On disk."""


@dataclass(frozen=True, slots=True, eq=False)
class SortTask:
    """One output segment: stretches of source traces, to be copied one after another."""

    index: int
    """Number of the output segment among all segments of the result, from 0."""
    segment: NDArray[np.int32]
    """Source segment of each stretch, shape ``(C,)``."""
    first: NDArray[np.int64]
    """Global index of the first source trace of each stretch, shape ``(C,)``."""
    num_traces: NDArray[np.int64]
    """Traces of each stretch, shape ``(C,)``."""
    nbytes: int
    """Raw bytes of all of them."""

    @property
    def total(self) -> int:
        """Traces of the output segment."""
        return int(self.num_traces.sum())

    def indices(self) -> NDArray[np.int64]:
        """Global source indices of the output's traces, in order."""
        start = np.cumsum(self.num_traces) - self.num_traces
        indices: NDArray[np.int64] = np.arange(self.total) + np.repeat(self.first - start, self.num_traces)
        return indices


@dataclass(frozen=True, slots=True, eq=False)
class SortPlan:
    """What a sort would do; made by `plan_sort`."""

    tasks: tuple[SortTask, ...]
    """One per segment to be written, independent of each other."""
    kept: tuple[tuple[int, int], ...]
    """Segments that stay as they are: place in the result, place in the source."""
    segment_bytes: int
    """Target of an output segment's raw bytes."""
    num_traces: int
    """Traces of the store."""
    num_moved: int
    """Traces copied."""
    num_bytes: int
    """Raw bytes read, and as many written."""
    disk_bytes: int
    """Bytes read from disk, and about as many written, when compression stays as it is: the free space needed."""
    peak_bytes: int
    """Raw bytes of the largest output segment."""
    peak_memory: int
    """Memory that one task needs at most, beside the interpreter and its libraries."""
    before: RunStatistics
    """Runs of the source."""
    after: RunStatistics
    """Runs of the result."""
    digest: str
    """Hash of order and cuts, 16 hexadecimal digits."""

    @property
    def num_segments(self) -> int:
        """Segments of the result."""
        return len(self.tasks) + len(self.kept)

    def __str__(self) -> str:
        runs = [
            f"  {name:<32} {before:>12} before {after:>12} after"
            for name, before, after in (
                ("runs", f"{self.before.num_runs:,}", f"{self.after.num_runs:,}"),
                ("mean run, traces", f"{self.before.mean_length:,.1f}", f"{self.after.mean_length:,.1f}"),
                ("median run, traces", f"{self.before.median_length:,.0f}", f"{self.after.median_length:,.0f}"),
                ("longest run, traces", f"{self.before.longest:,}", f"{self.after.longest:,}"),
                (f"in single-type atoms of {ATOM}", f"{self.before.atom_purity:.1%}", f"{self.after.atom_purity:.1%}"),
            )
        ]
        staying = f", {len(self.kept):,} segments stay" if self.kept else ""
        return "\n".join(
            (
                f"sort {self.num_moved:,} of {self.num_traces:,} traces into {len(self.tasks):,} segments{staying}",
                f"  read and written, on disk        {_gigabytes(self.disk_bytes)}; that much free space is needed",
                f"  read and written, uncompressed   {_gigabytes(self.num_bytes)}",
                f"  largest segment, uncompressed    {_gigabytes(self.peak_bytes)}",
                f"  memory of one task               {_gigabytes(self.peak_memory)} at most",
                *runs,
            )
        )


def plan_sort(
    runs: Runs,
    sizes: TraceSizes | ArrayLike,
    *,
    segment_bytes: int = DEFAULT_SEGMENT_BYTES,
    keep_sorted: bool = False,
) -> SortPlan:
    """Plan to sort a store by number of sites, trace type and layout.

    Parameters
    ----------
    runs
        Run directory of the source.
    sizes
        Bytes of one trace of each run, or raw bytes alone: one number, or one per run.
    segment_bytes
        Raw size of an output segment; outputs are of about one size, at most this plus one trace.
    keep_sorted
        Let segments stay that nothing has to go into: for a sort in place.

    Raises
    ------
    InvalidInputError
        When ``segment_bytes`` or a size is not positive.
    PlanError
        When the source holds no traces.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> runs = SimpleNamespace(segment=np.array([0, 0, 1]), layout=np.array([7, 8, 7]), trace_type=np.array([1, 2, 1]),
    ...                        first=np.array([0, 10, 15]), num_traces=np.array([10, 5, 5]),
    ...                        num_sites=np.array([3, 2, 3]))
    >>> plan = plan_sort(runs, 100, segment_bytes=1000)
    >>> [(task.first.tolist(), task.num_traces.tolist()) for task in plan.tasks]
    [([10, 0], [5, 5]), ([5, 15], [5, 5])]
    """
    if segment_bytes < 1:
        message = f"`segment_bytes` must be positive; got {segment_bytes}."
        raise InvalidInputError(message, argument="segment_bytes", found=segment_bytes)
    num_traces = int(runs.num_traces.sum())
    if num_traces == 0:
        message = "The store holds no traces, so there is nothing to sort; generate some first."
        raise PlanError(message)
    sizes = _require_sizes(sizes, len(runs.num_traces))
    # within a layout, the global index is the order of segment and row
    order = np.lexsort((runs.first, runs.layout, runs.trace_type, runs.num_sites))
    segment, lengths = runs.segment[order], runs.num_traces[order].astype(np.int64)
    raw = sizes.raw[order]
    is_kept = np.zeros(len(order), np.bool_)
    if keep_sorted:
        per_segment = np.bincount(segment, lengths * raw).astype(np.float64)
        is_kept = find_kept(segment, runs.first[order], per_segment, segment_bytes)[segment]
    cuts = _cut_all(segment, is_kept, lengths, raw, segment_bytes)
    run_ends = np.cumsum(lengths)
    # two sorted arrays: a stable sort merges them, where `unique` would hash every number
    starts = np.sort(np.concatenate((run_ends - lengths, cuts)), kind="stable")
    starts = starts[np.diff(starts, prepend=-1) != 0]
    counts = np.diff(starts, append=num_traces)
    run = np.searchsorted(run_ends, starts, "right")
    output = np.searchsorted(cuts, starts, "right") - 1
    stretches = _Stretches(
        segment=segment[run],
        first=runs.first[order][run] + starts - (run_ends - lengths)[run],
        counts=counts,
        output=output,
        is_kept=is_kept[run],
    )
    layout = runs.layout[order][run]
    is_new = np.flatnonzero(np.diff(output, prepend=-1) | (np.diff(layout, prepend=layout[:1]) != 0))
    tasks = stretches.tasks(raw[run])
    memory = np.bincount(output, counts * sizes.memory[order][run], len(cuts))[[task.index for task in tasks]]
    moved = ~stretches.is_kept
    return SortPlan(
        tasks=tasks,
        kept=stretches.kept(),
        segment_bytes=segment_bytes,
        num_traces=num_traces,
        num_moved=int(counts[moved].sum()),
        num_bytes=sum(task.nbytes for task in tasks),
        disk_bytes=round(float((counts * sizes.stored[order][run])[moved].sum())),
        peak_bytes=max((task.nbytes for task in tasks), default=0),
        peak_memory=round(float(memory.max(initial=0.0))),
        before=RunStatistics.of(runs.num_traces),
        after=RunStatistics.of(np.add.reduceat(counts, is_new)),
        digest=_digest(stretches.first, counts, layout, output),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Stretches:
    """Stretches of source traces in the order of the result."""

    segment: NDArray[np.int32]
    first: NDArray[np.int64]
    counts: NDArray[np.int64]
    output: NDArray[np.int64]
    is_kept: NDArray[np.bool_]

    def tasks(self, raw: NDArray[np.float64]) -> tuple[SortTask, ...]:
        """One for each output that is copied."""
        borders = np.flatnonzero(np.diff(self.output)) + 1
        columns = (np.split(column, borders) for column in (self.segment, self.first, self.counts))
        nbytes = np.split(self.counts * raw, borders)
        kept = self.is_kept[np.concatenate(([0], borders))]
        parts = enumerate(zip(*columns, nbytes, strict=True))
        return tuple(
            SortTask(index, segment, first, counts, round(float(sizes.sum())))
            for index, (segment, first, counts, sizes) in parts
            if not kept[index]
        )

    def kept(self) -> tuple[tuple[int, int], ...]:
        """Place in the result and in the source of the others."""
        pairs = np.unique(np.stack((self.output, self.segment))[:, self.is_kept], axis=1)
        return tuple((int(output), int(segment)) for output, segment in pairs.T)


def _require_sizes(sizes: TraceSizes | ArrayLike, num_runs: int) -> TraceSizes:
    if not isinstance(sizes, TraceSizes):
        raw = np.broadcast_to(np.asarray(sizes, np.float64), num_runs)
        sizes = TraceSizes(raw, raw, raw)
    if any(np.any(column <= 0) for column in (sizes.raw, sizes.memory, sizes.stored)):
        message = "`sizes` must be positive for every run."
        raise InvalidInputError(message, argument="sizes")
    return sizes


def _cut_all(
    segment: NDArray[np.int32],
    is_kept: NDArray[np.bool_],
    lengths: NDArray[np.int64],
    sizes: NDArray[np.float64],
    segment_bytes: int,
) -> NDArray[np.int64]:
    """Places, in sorted traces, where outputs begin: at kept segments, and in pieces of equal size between them."""
    key = np.where(is_kept, segment, -1)
    borders = [*np.flatnonzero(np.diff(key, prepend=-2)).tolist(), len(key)]
    begins = np.concatenate(([0], np.cumsum(lengths)))
    cuts = []
    for low, high in itertools.pairwise(borders):
        cuts.append(begins[low : low + 1])
        if not is_kept[low]:
            cuts.append(begins[low] + _cut(lengths[low:high], sizes[low:high], segment_bytes))
    return np.concatenate(cuts).astype(np.int64)


def _cut(lengths: NDArray[np.int64], sizes: NDArray[np.float64], segment_bytes: int) -> NDArray[np.int64]:
    """Places, in the traces of some runs, where the second and later outputs begin: all get about equal bytes."""
    nbytes = np.cumsum(lengths * sizes)
    num_outputs = max(1, math.ceil(nbytes[-1] / segment_bytes))
    targets = np.arange(1, num_outputs) * (nbytes[-1] / num_outputs)
    run = np.minimum(np.searchsorted(nbytes, targets), len(lengths) - 1)
    behind = np.floor((nbytes[run] - targets) / sizes[run]).astype(np.int64)
    places: NDArray[np.int64] = np.unique(np.cumsum(lengths)[run] - behind)
    inside = (places > 0) & (places < lengths.sum())
    return np.asarray(places[inside])


def _digest(*columns: NDArray[np.generic]) -> str:
    hasher = xxhash.xxh3_64()
    for column in columns:
        hasher.update(np.ascontiguousarray(column).astype("<u8").tobytes())
    return hasher.hexdigest()


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.3g} MB"
