"""Plan the global sort. Pure: reads a run directory, returns a `SortPlan`; copies nothing.

The order is by number of sites, trace type and layout; inside a layout by place in the source, so that the plan is a
function of the snapshot alone. Failed traces are sorted by their own layouts like all others.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import xxhash
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError, PlanError

__all__ = ["DEFAULT_SEGMENT_BYTES", "RunStatistics", "Runs", "SortPlan", "SortTask", "plan_sort"]

DEFAULT_SEGMENT_BYTES = 2**30
"""Raw size of an output segment."""

_ATOM = 64
"""Traces of the atoms whose purity is reported: what a loader on a parallel file system would read at once."""


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


@dataclass(frozen=True, slots=True)
class RunStatistics:
    """How well a store is sorted."""

    num_runs: int
    """Runs: stretches of one layout inside a segment."""
    mean_length: float
    """Mean traces of a run."""
    median_length: float
    """Length of the run in which the median trace is."""
    longest: int
    """Traces of the longest run."""
    atom_purity: float
    """Share of traces that fall into whole atoms of 64 traces of one run."""

    @staticmethod
    def of(num_traces: NDArray[np.int64]) -> "RunStatistics":
        """Summarize the lengths of all runs, shape ``(R,)``, at least one."""
        total = int(num_traces.sum())
        lengths = np.sort(num_traces)
        median = lengths[np.searchsorted(np.cumsum(lengths), total / 2)]
        pure = int((num_traces // _ATOM).sum()) * _ATOM
        return RunStatistics(
            len(lengths), total / len(lengths), float(median), int(lengths[-1]), pure / total if total else 0.0
        )


@dataclass(frozen=True, slots=True, eq=False)
class SortTask:
    """One output segment: stretches of source traces, to be copied one after another."""

    index: int
    """Number of the output segment, from 0."""
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
    """One per output segment, independent of each other."""
    segment_bytes: int
    """Target of an output segment's raw bytes."""
    num_traces: int
    """Traces copied."""
    num_bytes: int
    """Raw bytes read, and as many written; compression makes both smaller."""
    peak_bytes: int
    """Raw bytes of the largest output segment: what one task needs in memory at most, twice while it is written."""
    before: RunStatistics
    """Runs of the source."""
    after: RunStatistics
    """Runs of the result."""
    digest: str
    """Hash of order and cuts, 16 hexadecimal digits; output ids derive from it."""

    def __str__(self) -> str:
        gigabytes = self.num_bytes / 1e9
        return (
            f"sort {self.num_traces:,} traces, {gigabytes:.3g} GB, into {len(self.tasks)} segments of up to "
            f"{self.peak_bytes / 1e9:.3g} GB\n"
            f"runs: {self.before.num_runs:,} before, {self.after.num_runs:,} after\n"
            f"median run: {self.before.median_length:,.0f} traces before, {self.after.median_length:,.0f} after\n"
            f"traces in single-type atoms of {_ATOM}: {self.before.atom_purity:.1%} before, "
            f"{self.after.atom_purity:.1%} after"
        )


def plan_sort(runs: Runs, trace_bytes: ArrayLike, *, segment_bytes: int = DEFAULT_SEGMENT_BYTES) -> SortPlan:
    """Plan to sort a store by number of sites, trace type and layout.

    Parameters
    ----------
    runs
        Run directory of the source.
    trace_bytes
        Raw bytes of one trace: one number, or one per run.
    segment_bytes
        Raw size of an output segment; all outputs are of about one size, at most this plus one trace.

    Raises
    ------
    InvalidInputError
        When ``segment_bytes`` or ``trace_bytes`` is not positive.
    PlanError
        When the source holds no traces.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> runs = SimpleNamespace(segment=np.array([0, 0, 1]), layout=np.array([7, 8, 7]), trace_type=np.array([1, 2, 1]),
    ...                        first=np.array([0, 10, 15]), num_traces=np.array([10, 5, 5]),
    ...                        num_sites=np.array([3, 2, 3]))
    >>> plan = plan_sort(runs, trace_bytes=100, segment_bytes=1000)
    >>> [(task.first.tolist(), task.num_traces.tolist()) for task in plan.tasks]
    [([10, 0], [5, 5]), ([5, 15], [5, 5])]
    """
    if segment_bytes < 1:
        message = f"`segment_bytes` must be positive; got {segment_bytes}."
        raise InvalidInputError(message, argument="segment_bytes", found=segment_bytes)
    if np.any(np.asarray(trace_bytes) <= 0):
        message = "`trace_bytes` must be positive for every run."
        raise InvalidInputError(message, argument="trace_bytes")
    num_traces = int(runs.num_traces.sum())
    if num_traces == 0:
        message = "The store holds no traces, so there is nothing to sort; generate some first."
        raise PlanError(message)
    # within a layout, the global index is the order of segment and row
    order = np.lexsort((runs.first, runs.layout, runs.trace_type, runs.num_sites))
    lengths = runs.num_traces[order].astype(np.int64)
    sizes = np.broadcast_to(np.asarray(trace_bytes, np.float64), lengths.shape)[order]
    cuts = _cut(lengths, sizes, segment_bytes)
    run_ends = np.cumsum(lengths)
    starts = np.unique(np.concatenate((run_ends - lengths, cuts)))
    counts = np.diff(starts, append=num_traces)
    run = np.searchsorted(run_ends, starts, "right")
    task = np.searchsorted(cuts, starts, "right")
    first = runs.first[order][run] + starts - (run_ends - lengths)[run]
    segment, layout = runs.segment[order][run], runs.layout[order][run]
    borders = np.searchsorted(starts, cuts)
    nbytes = [round(float(part.sum())) for part in np.split(counts * sizes[run], borders)]
    columns = (np.split(column, borders) for column in (segment, first, counts))
    is_new = np.flatnonzero(np.diff(task, prepend=-1) | (np.diff(layout, prepend=layout[:1]) != 0))
    return SortPlan(
        tasks=tuple(SortTask(index, *parts) for index, parts in enumerate(zip(*columns, nbytes, strict=True))),
        segment_bytes=segment_bytes,
        num_traces=num_traces,
        num_bytes=sum(nbytes),
        peak_bytes=max(nbytes),
        before=RunStatistics.of(runs.num_traces),
        after=RunStatistics.of(np.add.reduceat(counts, is_new)),
        digest=_digest(first, counts, layout, task),
    )


def _cut(lengths: NDArray[np.int64], sizes: NDArray[np.float64], segment_bytes: int) -> NDArray[np.int64]:
    """Choose the places, in sorted traces, where the second and later outputs begin: all get about equal bytes."""
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
