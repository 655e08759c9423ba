"""Gather the traces of one output segment: each source segment is opened once, read, and closed.

So the memory is that of the output, however many segments it comes from, and however large they are.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tracestore.formats.base import ObservationInfo, Rows, SegmentReader
from tracestore.formats.tile_places import count_up
from tracestore.sorting.plan import SortTask
from tracestore.store.snapshot import open_reader
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TRACE_COLUMNS, TraceBatch

if TYPE_CHECKING:
    from tracestore.traces.layout import Layout

__all__ = ["gather"]


def gather(source: TraceStore, task: SortTask) -> TraceBatch:
    """Read the traces of a task, in its order, with the observations that its source segments have.

    Parameters
    ----------
    source
        The store that was planned.
    task
        What to read.

    Raises
    ------
    ChecksumError
        When a byte changed since it was sealed; names file and block.
    """
    flat, observations = _FlatColumns(task), _columns_of(source, task)
    layouts: dict[int, Layout] = {}
    first_places = np.cumsum(task.num_traces) - task.num_traces
    for number in np.unique(task.segment).tolist():
        stretches = np.flatnonzero(task.segment == number)
        counts = task.num_traces[stretches]
        rows = count_up(task.first[stretches] - source.first_traces[number], counts)
        places = count_up(first_places[stretches], counts)
        reader = open_reader(source.storage, source.segments[number], source.verify_mode, layouts)
        flat.add(reader.read(_as_slice(rows), observations=()), stretches, places)
        for column in observations:
            column.add(reader, rows, places)
    return flat.batch({column.info.name: column.values() for column in observations})


class _FlatColumns:
    """Columns of the output without observations; stretches are put in order as a whole, not row by row."""

    def __init__(self, task: SortTask) -> None:
        self.task = task
        self.layouts: dict[Layout, int] = {}
        self.layout_index = np.empty(task.total, np.int32)
        self.columns: dict[str, Any] = {name: np.empty(task.total, dtype) for name, dtype in TRACE_COLUMNS}
        self.pieces: dict[str, list[NDArray[np.float64]]] = {
            name: [np.empty(0)] * len(task.first) for name in ("values", "log_probs", "parameters")
        }
        self.failures: dict[int, str] = {}

    def add(self, part: TraceBatch, stretches: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        """Take the stretches of a source segment, which the part has in order; `places` are those of its rows."""
        numbers = [self.layouts.setdefault(layout, len(self.layouts)) for layout in part.layouts]
        self.layout_index[places] = np.array(numbers, np.int32)[part.layout_index]
        for name, column in self.columns.items():
            column[places] = getattr(part, name)
        bounds = np.concatenate(([0], np.cumsum(self.task.num_traces[stretches])))
        for name, offsets in (
            ("values", part.value_offsets),
            ("log_probs", part.site_offsets),
            ("parameters", part.parameter_offsets),
        ):
            flat, pieces = getattr(part, name), self.pieces[name]
            for stretch, (low, high) in zip(stretches.tolist(), pairwise(offsets[bounds].tolist()), strict=True):
                pieces[stretch] = flat[low:high]
        self.failures |= {int(places[row]): reason for row, reason in part.failures.items()}

    def batch(self, observations: dict[str, NDArray[np.generic]]) -> TraceBatch:
        """Join the pieces, giving them up one column after the other."""
        joined: dict[str, Any] = {name: np.concatenate(self.pieces.pop(name)) for name in list(self.pieces)}
        return TraceBatch(
            layouts=tuple(self.layouts),
            layout_index=self.layout_index,
            observations=observations,
            failures=dict(sorted(self.failures.items())),
            **joined,
            **self.columns,
        )


def _columns_of(source: TraceStore, task: SortTask) -> list["_Column"]:
    entries = [source.segments[number] for number in np.unique(task.segment)]
    infos = {info.name: info for entry in entries for info in entry.observations}
    return [_Column(info, task.total) for _, info in sorted(infos.items())]


@dataclass
class _Column:
    """An observation of the output: one row as long as all traces share it, else a row for each."""

    info: ObservationInfo
    num_traces: int
    shared: NDArray[np.generic] | None = None
    rows: NDArray[np.generic] | None = None

    def add(self, reader: SegmentReader, rows: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        """Read it of one source segment; zeros where that has none."""
        found = reader.constant_observation(self.info.name, rows) if self.info.name in reader.observations else None
        if self.rows is None:
            if found is not None and (self.shared is None or found.tobytes() == self.shared.tobytes()):
                self.shared = np.array(found)
                return
            self.rows = self._spread()
        reader.fill_observation(self.info.name, _as_slice(rows), self.rows, _as_slice(places))

    def values(self) -> NDArray[np.generic]:
        """All rows; a broadcast view when there is only one."""
        if self.rows is not None:
            return self.rows
        return np.broadcast_to(np.asarray(self.shared), (self.num_traces, *self.info.shape))

    def _spread(self) -> NDArray[np.generic]:
        """Make a row for each trace; those that were added so far have the one that they share."""
        rows: NDArray[np.generic] = np.empty((self.num_traces, *self.info.shape), self.info.dtype)
        if self.shared is not None:
            rows[:] = self.shared
        return rows


def _as_slice(index: NDArray[np.int64]) -> Rows:
    """Consecutive numbers as a slice, which is copied without looking at each."""
    is_range = int(index[-1]) - int(index[0]) == len(index) - 1 and bool((np.diff(index) == 1).all())
    return slice(int(index[0]), int(index[-1]) + 1) if is_range else index
