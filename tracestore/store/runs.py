"""The run directory of a store: where traces of one layout lie side by side; what planners read instead of traces."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracestore.formats.base import SegmentRuns

__all__ = ["RunDirectory", "TraceTypeInfo"]


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
    def join(segments: Iterable[SegmentRuns]) -> "RunDirectory":
        """Run directory of consecutive segments; of each only what is copied stays."""
        columns = {name: _Growing(dtype) for name, dtype in _COLUMNS.items()}
        num_traces = 0
        for place, runs in enumerate(segments):
            columns["segment"].extend(np.full(len(runs.first), place, np.int32))
            columns["layout"].extend(runs.layout_id)
            columns["first"].extend(runs.first + num_traces)
            for name in ("trace_type", "num_traces", "num_sites", "seconds"):
                columns[name].extend(getattr(runs, name))
            num_traces += int(runs.num_traces.sum())
        return RunDirectory(**{name: column.array() for name, column in columns.items()})

    def trace_types(self) -> list[TraceTypeInfo]:
        """Trace types, the most frequent first."""
        if not len(self):
            return []
        by_type = np.argsort(self.trace_type)
        ids = self.trace_type[by_type]
        starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
        ids = ids[starts]
        num_traces = np.add.reduceat(self.num_traces[by_type], starts)
        num_sites = np.minimum.reduceat(self.num_sites[by_type], starts)
        order = np.lexsort((ids, -num_traces))
        return [TraceTypeInfo(int(ids[i]), int(num_traces[i]), int(num_sites[i])) for i in order]


_COLUMNS: dict[str, type[np.generic]] = {
    "segment": np.int32,
    "layout": np.uint64,
    "trace_type": np.uint64,
    "first": np.int64,
    "num_traces": np.int64,
    "num_sites": np.int32,
    "seconds": np.float64,
}


class _Growing:
    """A column that is added to; room that was not used yet takes no memory.

    Parameters
    ----------
    dtype
        Type of its numbers.
    """

    def __init__(self, dtype: type[np.generic]) -> None:
        self._room: NDArray[Any] = np.empty(2**10, dtype)
        self._size = 0

    def extend(self, part: NDArray[np.generic]) -> None:
        """Copy numbers to the end."""
        start, self._size = self._size, self._size + len(part)
        if self._size > len(self._room):
            room = np.empty(2 * self._size, self._room.dtype)
            room[:start] = self._room[:start]
            self._room = room
        self._room[start : self._size] = part

    def array(self) -> NDArray[Any]:
        """View what was added."""
        return self._room[: self._size]
