"""Segments as parts of their own, opened one at a time, and a function called with each; knows no executor by name."""

import pickle
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Generic, TypeVar, cast

from tracestore.errors import InvalidInputError, TracestoreError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.executors import Executor, SerialExecutor
from tracestore.formats.base import ObservationInfo, SegmentEntry, SegmentReader, Verify
from tracestore.storage import LocalStorage, Storage
from tracestore.store.manifest import DictionaryPiece, Manifest
from tracestore.store.sequence import TraceSequence
from tracestore.store.snapshot import LayoutTable, Snapshot, open_reader
from tracestore.traces.layout import Layout

__all__ = ["SegmentSource", "SegmentTask", "SegmentTraces", "map_segments", "reachable"]

Result = TypeVar("Result")


class SegmentTraces(TraceSequence):
    """The traces of one segment of a store; indices of traces count from 0 here.

    Whatever a store offers for reading works, and reads files of this segment alone. Observations are those of the
    whole store: one that the segment lacks reads as zeros, and its type is the one that the store gives it.

    Parameters
    ----------
    snapshot
        The segment alone.
    position
        Place of the segment in the store.
    first_trace
        Index in the store of the segment's first trace.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.toys import gum
    >>> store = ts.simulate(gum, "parts", num_traces=100, seed=1)
    >>> store.map_segments(lambda part: (part.position, part.first_trace, len(part)))
    [(0, 0, 100)]
    """

    def __init__(self, snapshot: Snapshot, position: int, first_trace: int) -> None:
        super().__init__(snapshot)
        self.position = position
        self.first_trace = first_trace

    @property
    def id(self) -> str:
        """Name of the segment in the store."""
        return self.segments[0].id

    @cached_property
    def layouts(self) -> Mapping[int, Layout]:
        """Layouts of the segment by id, built when touched."""
        # kept here: the snapshot would refer to its own table, and its files stay mapped until cycles are collected
        return LayoutTable(self._snapshot)

    def __repr__(self) -> str:
        return f"SegmentTraces({self.id!r}, first_trace={self.first_trace}, num_traces={len(self)})"


@dataclass(frozen=True, slots=True)
class SegmentTask:
    """A segment of a snapshot, and where it is."""

    position: int
    first_trace: int
    entry: SegmentEntry


@dataclass(frozen=True, slots=True)
class SegmentSource:
    """What a worker needs to open any segment of a snapshot, without reading the manifest again."""

    storage: Storage
    version: int
    pieces: tuple[DictionaryPiece, ...]
    type_pieces: tuple[DictionaryPiece, ...]
    observations: tuple[ObservationInfo, ...]
    """Those of the whole store."""
    verify: Verify

    @staticmethod
    def of(snapshot: Snapshot, verify: Verify) -> "SegmentSource":
        """Take what a snapshot knows."""
        manifest = snapshot.manifest
        return SegmentSource(
            reachable(snapshot.storage),
            manifest.version,
            manifest.pieces,
            manifest.type_pieces,
            tuple(snapshot.observations.values()),
            verify,
        )

    def open(self, task: SegmentTask) -> SegmentTraces:
        """Open a segment; nothing of it is kept elsewhere, layouts included."""
        manifest = Manifest(self.version, (task.entry,), pieces=self.pieces, type_pieces=self.type_pieces)
        known: dict[int, Layout] = {}
        reopen = partial(_open, self.storage, self.verify, known)
        snapshot = Snapshot(self.storage, manifest, [reopen(task.entry)], known, reopen)
        snapshot.observations = {info.name: info for info in self.observations}
        return SegmentTraces(snapshot, task.position, task.first_trace)


def reachable(storage: Storage) -> Storage:
    """Storage that is found after a change of the working directory, too."""
    return LocalStorage(storage.root.absolute()) if isinstance(storage, LocalStorage) else storage


def map_segments(
    snapshot: Snapshot,
    function: Callable[[SegmentTraces], Result],
    *,
    verify: Verify,
    executor: Executor | None = None,
    observer: Observer | None = None,
) -> list[Result]:
    """Call a function with each segment of a snapshot; see `TraceStore.map_segments`.

    Parameters
    ----------
    snapshot
        The traces.
    function
        What to do with a segment.
    verify
        When checksums of blocks are compared.
    executor
        Where it is done; None is this process.
    observer
        Told of progress.

    Raises
    ------
    InvalidInputError
        When the function cannot be sent to the workers.
    """
    start = time.perf_counter()
    segments = snapshot.manifest.segments
    firsts: list[int] = snapshot.first[:-1].tolist()
    tasks = [SegmentTask(*placed) for placed in zip(range(len(segments)), firsts, segments, strict=True)]
    call = _CallWithSegment(function, SegmentSource.of(snapshot, verify))
    results: dict[int, Result] = {}
    failure: Exception | None = None
    if observer is not None:
        observer(PhaseStarted("map", snapshot.num_traces))
    done = nbytes = 0
    try:
        for position, result in _run(executor or SerialExecutor(), call, tasks):
            results[position] = result
            done += segments[position].num_traces
            nbytes += segments[position].raw_bytes
            if observer is not None:
                observer(PhaseAdvanced("map", done, snapshot.num_traces, nbytes=nbytes))
    except _FunctionError as carrier:
        failure = carrier.error
    if failure is not None:
        raise failure  # here, so that it does not look as if it came from the carrier
    if observer is not None:
        observer(PhaseFinished("map", time.perf_counter() - start))
    return [results[position] for position in range(len(tasks))]


class _FunctionError(TracestoreError):
    """Carries what the function raised: every executor hands on errors of the library, with whatever is in them."""

    @property
    def error(self) -> Exception:
        """What the function raised."""
        return cast("Exception", self.fields["error"])


@dataclass(frozen=True, slots=True, repr=False)
class _CallWithSegment(Generic[Result]):
    """Opens the segment of a task and calls the function with it."""

    function: Callable[[SegmentTraces], Result]
    source: SegmentSource

    def __repr__(self) -> str:
        return f"The function {_name_of(self.function)!r}"

    def __call__(self, task: SegmentTask) -> tuple[int, Result]:
        try:
            return task.position, self.function(self.source.open(task))
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            last = task.first_trace + task.entry.num_traces - 1
            error.add_note(
                f"with segment {task.entry.id} of {self.source.storage.url}: number {task.position}, traces "
                f"{task.first_trace} to {last}; raised in {place.name}, {place.filename}, line {place.lineno}"
            )
            raise _FunctionError(str(error), error=error) from error


def _run(executor: Executor, call: _CallWithSegment[Result], tasks: list[SegmentTask]) -> Iterator[tuple[int, Result]]:
    name = _name_of(call.function)
    try:
        yield from executor.run(call, tasks, label=f"map {name}")
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if _can_be_pickled(call.function):
            raise
        message = (
            f"The function {name!r} cannot be sent to the workers of {type(executor).__name__} ({error}); define it at "
            "the top of a module that they can import, and give it plain data instead of open files, locks or clients."
        )
        raise InvalidInputError(message, function=name) from error


def _name_of(function: Callable[..., object]) -> str:
    """Name a function for people; of a partial one, that of the function within."""
    inner = function.func if isinstance(function, partial) else function
    name: str = getattr(inner, "__name__", type(inner).__name__)
    return name.strip("<>")


def _can_be_pickled(function: Callable[..., object]) -> bool:
    try:
        pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


def _open(storage: Storage, verify: Verify, known: dict[int, Layout], entry: SegmentEntry) -> SegmentReader:
    return open_reader(storage, entry, verify, known)
