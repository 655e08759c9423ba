"""Gather the traces of one output segment: each source segment is opened once, read, and closed.

So the memory is that of the output, however many segments it comes from, and however large they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tracestore.formats.base import ObservationInfo, Rows, SegmentReader
from tracestore.sorting.plan import SortTask
from tracestore.store.snapshot import open_reader
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch

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
    columns = _columns_of(source, task)
    parts, order = [], []
    for reader, rows, places in _sources(source, task):
        parts.append(reader.read(rows, observations=()))
        order.append(places)
        for column in columns:
            column.add(reader, rows, places)
    joined = TraceBatch.concatenate(parts)
    parts.clear()
    back = np.empty(len(joined), np.int64)
    back[np.concatenate(order)] = np.arange(len(joined))
    observations = {column.info.name: column.values() for column in columns}
    return replace(joined.take(back), observations=observations)


def _sources(
    source: TraceStore, task: SortTask
) -> Iterator[tuple[SegmentReader, NDArray[np.int64], NDArray[np.int64]]]:
    """Open each source segment in turn: its reader, the rows to read of it, and their places in the output."""
    home = np.repeat(task.segment, task.num_traces)
    order = np.argsort(home, kind="stable")
    index = task.indices()
    layouts: dict[int, Layout] = {}
    for low, high in pairwise(np.flatnonzero(np.diff(home[order], prepend=-1, append=-1))):
        places = order[low:high]
        number = int(home[places[0]])
        reader = open_reader(source.storage, source.segments[number], source.verify_mode, layouts)
        yield reader, index[places] - source.first_traces[number], places


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
