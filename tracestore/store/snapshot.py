"""Reading a pinned snapshot: many segments as one sequence of traces. Never lists directories, never writes."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError, TraceTypeMismatchError, UnknownAddressError
from tracestore.formats.base import ObservationInfo, Rows, SegmentEntry, SegmentReader, SegmentRuns, Verify, open_format
from tracestore.storage import Storage
from tracestore.store.addresses import AddressBook
from tracestore.store.fold import SEGMENTS
from tracestore.store.manifest import Manifest
from tracestore.store.runs import RunDirectory
from tracestore.store.trace_types import TraceTypeBook
from tracestore.traces.batch import TRACE_COLUMNS, TraceBatch
from tracestore.traces.layout import Layout

__all__ = ["LayoutTable", "Snapshot", "open_reader"]

_MOST_KEPT_BYTES = 2**30
"""What was fetched or decoded of the segments but the one in use."""


class Snapshot:
    """The traces of one version of a store.

    Parameters
    ----------
    storage
        The store.
    manifest
        The version.
    readers
        Reader of each segment, in order.
    known
        Layouts by id, kept from snapshot to snapshot.
    reopen
        Makes a reader anew.
    """

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        readers: Sequence[SegmentReader],
        known: dict[int, Layout],
        reopen: Callable[[SegmentEntry], SegmentReader],
    ) -> None:
        self.storage = storage
        self.manifest = manifest
        self.known_layouts = known
        self._readers = list(readers)
        self._reopen = reopen
        self._recent: OrderedDict[int, None] = OrderedDict()
        sizes = [entry.num_traces for entry in manifest.segments]
        self.first = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(sizes, np.int64))])
        """Index of each segment's first trace, and the number of traces."""
        self._first_of: list[int] = self.first.tolist()

    @property
    def num_traces(self) -> int:
        """Number of traces."""
        return int(self.first[-1])

    def segment(self, index: int) -> SegmentReader:
        """Reader of a segment by position."""
        reader = self._readers[index]
        if reader.kept_bytes or index in self._recent:
            self._limit_kept(index)
        return reader

    def segments(self) -> Iterator[SegmentReader]:
        """Readers of all segments, in order."""
        return map(self.segment, range(len(self._readers)))

    def runs_by_segment(self) -> Iterator[SegmentRuns]:
        """Yield the run directory of each segment, in order; on a disk none stays mapped, there may be thousands."""
        # of an object store what is fetched is kept, within limits: a request costs more than memory
        readers = map(self._reopen, self.manifest.segments) if self.storage.is_local else self.segments()
        return (reader.runs for reader in readers)

    @cached_property
    def runs(self) -> RunDirectory:
        """Runs of all segments."""
        return RunDirectory.join(self.runs_by_segment())

    @cached_property
    def addresses(self) -> AddressBook:
        """The address dictionary."""
        return AddressBook(self.storage, self.manifest.pieces)

    @cached_property
    def trace_type_book(self) -> TraceTypeBook:
        """The trace-type dictionary."""
        return TraceTypeBook(self.storage, self.manifest.type_pieces)

    @cached_property
    def layouts(self) -> "LayoutTable":
        """All layouts by id."""
        return LayoutTable(self)

    @cached_property
    def observations(self) -> dict[str, ObservationInfo]:
        """Named observations over all segments: common shape, a type that holds every segment's."""
        found: dict[str, ObservationInfo] = {}
        for entry in self.manifest.segments:
            for info in entry.observations:
                before = found.get(info.name, info)
                if before.shape != info.shape:
                    message = (
                        f"Observation {info.name!r} has shape {before.shape} in one segment of {self.storage.url} and "
                        f"{info.shape} in segment {entry.id}; write them to different stores."
                    )
                    raise InvalidInputError(message, name=info.name)
                dtype = np.result_type(np.dtype(before.dtype), np.dtype(info.dtype)).newbyteorder("<").str
                found[info.name] = ObservationInfo(info.name, dtype, info.shape)
        return found

    def take(
        self,
        indices: ArrayLike,
        *,
        observations: Collection[str] | None = None,
        out: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> TraceBatch:
        """Read traces in the order asked for; observations named in `out` into the arrays given there."""
        index = self._normalize(indices)
        names = self.observations if observations is None else self._known_names(observations)
        given = {} if out is None else self._require_buffers(out, names, len(index))
        if not len(index):
            return self._empty(names)
        smallest, largest = int(index.min()), int(index.max())
        place = bisect_right(self._first_of, smallest) - 1
        if largest < self._first_of[place + 1]:
            reader, first = self.segment(place), self._first_of[place]
            is_range = largest - smallest == len(index) - 1 and bool((index[1:] > index[:-1]).all())
            rows: Rows = slice(smallest - first, largest - first + 1) if is_range else index - first
            fresh = [name for name in names if name not in given]
            batch = self._complete(reader.read(rows, observations=fresh), fresh)
            for name, buffer in given.items():
                reader.fill_observation(name, rows, buffer)
            if not given:
                return batch
            found = {**batch.observations, **given}
            return _with_observations(batch, {name: found[name] for name in names})
        home = np.searchsorted(self.first, index, "right") - 1
        order = np.argsort(home, kind="stable")
        bounds = np.flatnonzero(np.diff(home[order], prepend=-1, append=-1))
        parts = []
        for low, high in pairwise(bounds):
            place = int(home[order[low]])
            chosen = order[low:high]
            parts.append((self.segment(place), index[chosen] - self.first[place], chosen))
        joined = TraceBatch.concatenate([reader.read(rows, observations=()) for reader, rows, _ in parts])
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return _with_observations(
            joined.take(back),
            {name: self._gather(name, parts, len(index), given.get(name)) for name in names},
        )

    def column(self, name: str) -> NDArray[np.generic]:
        """Read one number per trace."""
        dtypes = dict(TRACE_COLUMNS)
        if name not in dtypes:
            message = f"There is no column {name!r}; columns: {', '.join(dtypes)}."
            raise InvalidInputError(message, name=name)
        return np.concatenate([np.empty(0, dtypes[name]), *(reader.column(name) for reader in self.segments())])

    def values(self, name: str) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        """Read the values of a name or address, and the indices of the traces that have it."""
        values, indices = [], []
        for part, rows in self.values_by_segment(name):
            values.append(part)
            indices.append(rows)
        if not values:
            message = f"No trace of {self.storage.url} has a site {name!r}; `addresses` lists all addresses."
            raise UnknownAddressError(message, name=name)
        shapes = {part.shape[1:] for part in values}
        if len(shapes) > 1:
            message = f"Values of {name!r} differ in shape between segments: {sorted(shapes)}; ask for full addresses."
            raise TraceTypeMismatchError(message, name=name)
        if len(values) == 1:
            return values[0], indices[0]
        return np.concatenate(values), np.concatenate(indices)

    def values_by_segment(self, name: str) -> Iterator[tuple[NDArray[np.generic], NDArray[np.int64]]]:
        """Yield the values of a name or address, and the indices of the traces that have it, segment by segment."""
        for place, reader in enumerate(self.segments()):
            found = reader.values(name)
            if found is not None:
                yield found[0], found[1] + self.first[place]

    def failures(self) -> dict[int, str]:
        """Reasons of the traces that failed, by index."""
        return {
            int(self.first[place]) + row: reason
            for place, entry in enumerate(self.manifest.segments)
            if entry.num_failed
            for row, reason in self.segment(place).failures().items()
        }

    def _limit_kept(self, index: int) -> None:
        """Forget what the segments used longest ago keep in memory, when it is much; who reads them keeps theirs."""
        self._recent[index] = None
        self._recent.move_to_end(index)
        total = sum(self._readers[recent].kept_bytes for recent in self._recent)
        while total > _MOST_KEPT_BYTES and len(self._recent) > 1:
            oldest, _ = self._recent.popitem(last=False)
            total -= self._readers[oldest].kept_bytes
            self._readers[oldest] = self._reopen(self.manifest.segments[oldest])

    def _normalize(self, indices: ArrayLike) -> NDArray[np.int64]:
        index = np.asarray(indices)
        if index.dtype == np.bool_:
            index = np.flatnonzero(index)
        if index.ndim != 1 or (index.dtype.kind not in "iu" and len(index)):
            message = (
                f"`indices` must be a one-dimensional array of integers; got {index.dtype} of shape {index.shape}."
            )
            raise InvalidInputError(message)
        index = index.astype(np.int64)
        low, high = (int(index.min()), int(index.max())) if len(index) else (0, -1)
        if low < -self.num_traces or high >= self.num_traces:
            message = f"`indices` must be below {self.num_traces}; got {low} to {high}."
            raise InvalidInputError(message)
        return index if low >= 0 else np.where(index < 0, index + self.num_traces, index)

    def _known_names(self, names: Collection[str]) -> list[str]:
        unknown = sorted(set(names) - set(self.observations))
        if unknown:
            message = f"There is no observation {', '.join(unknown)}; observations: {', '.join(self.observations)}."
            raise InvalidInputError(message, names=unknown)
        return [name for name in self.observations if name in names]

    def _require_buffers(
        self, out: Mapping[str, NDArray[np.generic]], names: Collection[str], num_traces: int
    ) -> Mapping[str, NDArray[np.generic]]:
        """Refuse arrays that observations do not fit into."""
        self._known_names(out)
        for name, buffer in out.items():
            info = self.observations[name]
            if name not in names or buffer.shape != (num_traces, *info.shape) or buffer.dtype != info.dtype:
                message = (
                    f"`out` must have arrays of observations that are read, {name!r} with shape "
                    f"{(num_traces, *info.shape)} and type {info.dtype}; got {buffer.shape} and {buffer.dtype.str}."
                )
                raise InvalidInputError(message, name=name)
        return out

    def _complete(self, batch: TraceBatch, names: Collection[str]) -> TraceBatch:
        """Add observations that the segment lacks, and widen those that it holds in a narrower type."""
        columns: dict[str, NDArray[np.generic]] = {}
        for name in names:
            info = self.observations[name]
            column = batch.observations.get(name)
            if column is None:
                columns[name] = np.zeros((len(batch), *info.shape), info.dtype)
            else:
                columns[name] = column if column.dtype == info.dtype else column.astype(info.dtype)
        return (
            batch
            if columns.keys() == batch.observations.keys()
            and all(columns[name] is batch.observations[name] for name in columns)
            else _with_observations(batch, columns)
        )

    def _gather(
        self,
        name: str,
        parts: Sequence[tuple[SegmentReader, NDArray[np.int64], NDArray[np.int64]]],
        num_traces: int,
        buffer: NDArray[np.generic] | None,
    ) -> NDArray[np.generic]:
        """Read an observation of several segments into one array, or one row when all traces share it."""
        info = self.observations[name]
        shape = (num_traces, *info.shape)
        known = [reader.observations.get(name) for reader, _, _ in parts]
        first = known[0]
        if buffer is None and first is not None and first.constant and all(other == first for other in known):
            shared = [reader.constant_observation(name, rows) for reader, rows, _ in parts]
            if shared[0] is not None and all(row is not None for row in shared):
                return np.broadcast_to(shared[0].astype(info.dtype), shape)
        out = np.empty(shape, info.dtype) if buffer is None else buffer
        for reader, rows, chosen in parts:
            consecutive = bool((np.diff(chosen) == 1).all())
            places: Rows = slice(int(chosen[0]), int(chosen[0]) + len(chosen)) if consecutive else chosen
            reader.fill_observation(name, rows, out, places)
        return out

    def _empty(self, names: Collection[str]) -> TraceBatch:
        numbers = np.empty(0)
        infos = {name: self.observations[name] for name in names}
        columns: dict[str, Any] = {name: np.empty(0, dtype) for name, dtype in TRACE_COLUMNS}
        observations = {name: np.empty((0, *info.shape), info.dtype) for name, info in infos.items()}
        return TraceBatch((), np.empty(0, np.int32), numbers, numbers, numbers, observations, **columns)


def open_reader(storage: Storage, entry: SegmentEntry, verify: Verify, known: dict[int, Layout]) -> SegmentReader:
    """Open a segment of a store; `known` is the table of layouts that its segments share."""
    folder = storage.below(f"{SEGMENTS}/{entry.id}")
    return open_format(entry.encoding).open_segment(folder, entry, verify=verify, layouts=known)


class LayoutTable(Mapping[int, Layout]):
    """Layouts of a snapshot by id, built when touched.

    Parameters
    ----------
    snapshot
        Where they are.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        ids, first = np.unique(snapshot.runs.layout, return_index=True)
        self._segments = dict(zip(ids.tolist(), snapshot.runs.segment[first].tolist(), strict=True))

    def __len__(self) -> int:
        return len(self._segments)

    def __iter__(self) -> Iterator[int]:
        return iter(self._segments)

    def __getitem__(self, identity: int) -> Layout:
        known = self._snapshot.known_layouts
        segment = self._segments[int(identity)]
        if identity not in known:
            runs = self._snapshot.segment(segment).runs
            place = int(runs.layout[np.flatnonzero(runs.layout_id == np.uint64(identity))[0]])
            return self._snapshot.segment(segment).layouts[place]
        return known[int(identity)]


def _with_observations(batch: TraceBatch, observations: dict[str, NDArray[np.generic]]) -> TraceBatch:
    return replace(batch, observations=observations)
