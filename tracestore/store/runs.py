"""The run directory of a store: where traces of one layout lie side by side; what planners read instead of traces."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tracestore.formats.base import SegmentRuns

__all__ = ["RunDirectory", "TraceTypeInfo"]

NumberT = TypeVar("NumberT", bound=np.generic)


@dataclass(frozen=True, slots=True)
class TraceTypeInfo:
    """A trace type as a store holds it."""

    id: int
    num_traces: int
    num_sites: int
    """Sites of a trace; the smallest, when layouts of the type differ."""


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """All runs of a store, in order of traces; all arrays have shape ``(num_runs,)``.

    Examples
    --------
    >>> from tracestore.store import TraceStore
    >>> len(TraceStore.create("no-runs").runs)
    0
    """

    segment: NDArray[np.int32]
    """Position of the segment."""
    layout: NDArray[np.uint64]
    """Layout id."""
    trace_type: NDArray[np.uint64]
    """Trace type id."""
    first: NDArray[np.int64]
    """Index of the run's first trace in the store."""
    num_traces: NDArray[np.int64]
    num_sites: NDArray[np.int32]
    """Sites of each trace."""
    seconds: NDArray[np.float64]
    """Wall time of the run's traces, summed."""

    def __len__(self) -> int:
        return len(self.first)

    @staticmethod
    def join(segments: Sequence[SegmentRuns]) -> "RunDirectory":
        """Run directory of consecutive segments."""
        sizes = [int(runs.num_traces.sum()) for runs in segments]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        firsts = [runs.first + start for runs, start in zip(segments, starts, strict=False)]
        return RunDirectory(
            segment=np.repeat(np.arange(len(segments), dtype=np.int32), [len(runs.first) for runs in segments]),
            layout=_join([runs.layout_id for runs in segments], np.uint64),
            trace_type=_join([runs.trace_type for runs in segments], np.uint64),
            first=_join(firsts, np.int64),
            num_traces=_join([runs.num_traces for runs in segments], np.int64),
            num_sites=_join([runs.num_sites for runs in segments], np.int32),
            seconds=_join([runs.seconds for runs in segments], np.float64),
        )

    def trace_types(self) -> list[TraceTypeInfo]:
        """Trace types, the most frequent first."""
        if not len(self):
            return []
        ids, inverse = np.unique(self.trace_type, return_inverse=True)
        num_traces = np.bincount(inverse, self.num_traces).astype(np.int64)
        num_sites = np.full(len(ids), np.iinfo(np.int32).max)
        np.minimum.at(num_sites, inverse, self.num_sites)
        order = np.lexsort((ids, -num_traces))
        return [TraceTypeInfo(int(ids[i]), int(num_traces[i]), int(num_sites[i])) for i in order]


def _join(parts: Sequence[NDArray[NumberT]], dtype: type[NumberT]) -> NDArray[NumberT]:
    return np.concatenate([np.empty(0, dtype), *parts])
