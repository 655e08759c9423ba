"""Join small segments into large ones; traces keep their order and their indices."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracestore.errors import InvalidInputError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.executors import Executor, SerialExecutor
from tracestore.formats.base import CodecChoice, SegmentEntry, SegmentReader
from tracestore.formats.document import digest
from tracestore.storage import Storage
from tracestore.store.fold import Replacement, publish_segments
from tracestore.store.sealed import find_segment
from tracestore.store.snapshot import open_reader
from tracestore.store.trace_store import TraceStore
from tracestore.store.writer import place_segment
from tracestore.traces.batch import TraceBatch

if TYPE_CHECKING:
    from tracestore.traces.layout import Layout

__all__ = ["JoinSegments", "compact", "plan_compaction", "read_blocks"]

_BLOCK_BYTES = 32 * 2**20

_MOST_PUBLICATIONS = 16


def plan_compaction(
    segments: Sequence[SegmentEntry], segment_bytes: int, *, rewrite: bool = False
) -> list[tuple[SegmentEntry, ...]]:
    """Choose neighboring segments to join. Pure.

    Parameters
    ----------
    segments
        Segments in order.
    segment_bytes
        Most raw bytes of a joined segment.
    rewrite
        Also choose segments that have no neighbor to be joined with.

    Examples
    --------
    >>> def entry(name, nbytes):
    ...     return SegmentEntry(name, "arrow/2", num_traces=1, num_failed=0, nbytes=nbytes, seal="", runs="")
    >>> groups = plan_compaction([entry("a", 4), entry("b", 5), entry("c", 9), entry("d", 1)], 10)
    >>> [[one.id for one in group] for group in groups]
    [['a', 'b'], ['c', 'd']]
    """
    groups: list[list[SegmentEntry]] = []
    size = 0
    for entry in segments:
        nbytes = entry.raw_bytes
        if groups and size + nbytes <= segment_bytes:
            groups[-1].append(entry)
            size += nbytes
        else:
            groups.append([entry])
            size = nbytes
    return [tuple(group) for group in groups if rewrite or len(group) > 1]


def compact(
    store: TraceStore,
    *,
    segment_bytes: int = 2**30,
    codec: CodecChoice | None = None,
    executor: Executor | None = None,
    observer: Observer | None = None,
) -> int:
    """Replace runs of small segments by larger ones, in up to 16 commits.

    An interrupted call is continued by repeating it: segments that were written are found, published or not. Every
    executor gives the same store, byte by byte. The replaced segments stay on disk, for earlier snapshots, until
    `gc` removes them.

    Parameters
    ----------
    store
        The store; it is refreshed.
    segment_bytes
        Most raw bytes of a joined segment: about half the memory that is needed.
    codec
        Compress observations anew, in every segment; ``zstd`` for an archive.
    executor
        Where segments are joined; None is this process.
    observer
        Told of progress, in traces.

    Returns
    -------
    int
        Number of the snapshot.

    Raises
    ------
    InvalidInputError
        When the size is not positive, the codec unknown, or a worker's memory too small.
    PublishConflictError
        When somebody else replaced the same segments in the meantime.
    ChecksumError
        When a byte of a segment changed; names file and block.
    ExecutorError
        When workers die.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.toys import gum
    >>> store = ts.simulate(gum, "traces", num_traces=10, seed=1)
    >>> more = ts.simulate(gum, "traces", num_traces=10, seed=2, append=True)
    >>> len(more.segments), compact(more), len(more.segments), len(more)
    (2, 3, 1, 20)
    """
    if segment_bytes < 1:
        message = f"`segment_bytes` must be positive; got {segment_bytes}."
        raise InvalidInputError(message, argument="segment_bytes")
    store.refresh()
    executor = executor or SerialExecutor()
    groups = plan_compaction(store.segments, segment_bytes, rewrite=codec is not None)
    _require_memory(executor, groups)
    tasks = [_Task(number, _identity(group, codec), group) for number, group in enumerate(groups)]
    join = JoinSegments(store.storage, store.backend, store.identity.codec if codec is None else codec)
    # every publication writes a manifest of the whole store; where they fall depends on the plan alone
    per_publication = math.ceil(len(tasks) / _MOST_PUBLICATIONS)
    done, nbytes, total = 0, 0, sum(task.num_traces for task in tasks)
    start = time.perf_counter()
    if observer is not None:
        observer(PhaseStarted("compact", total, 0))
    arrived: dict[int, SegmentEntry] = {}
    published = 0
    for number, entry in executor.run(join, tasks, label="compact"):
        arrived[number] = entry
        while published < len(tasks):
            batch = tasks[published : published + per_publication]
            if not all(task.number in arrived for task in batch):
                break
            publish_segments(store.storage, [Replacement((arrived[task.number],), task.ids) for task in batch])
            store.refresh()
            published += len(batch)
        done += tasks[number].num_traces
        nbytes += tasks[number].nbytes
        if observer is not None:
            observer(PhaseAdvanced("compact", done, total, nbytes=nbytes))
    if observer is not None:
        observer(PhaseFinished("compact", time.perf_counter() - start))
    return store.version


@dataclass(frozen=True, slots=True)
class _Task:
    """Neighboring segments that become one."""

    number: int
    identity: str
    group: tuple[SegmentEntry, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(entry.id for entry in self.group)

    @property
    def num_traces(self) -> int:
        return sum(entry.num_traces for entry in self.group)

    @property
    def nbytes(self) -> int:
        return sum(entry.raw_bytes for entry in self.group)


@dataclass(frozen=True, slots=True)
class JoinSegments:
    """Writes the traces of some segments as one; the same bytes in every process, as often as asked."""

    storage: Storage
    backend: str
    codec: CodecChoice

    def __call__(self, task: _Task) -> tuple[int, SegmentEntry]:
        """Make the segment unless it is there; the task's number, and the entry."""
        found = find_segment(self.storage, self.backend, task.identity)
        if found is None:
            batches = self._read(task.group)
            found = place_segment(self.storage, self.backend, task.identity, batches, codec=self.codec)
        return task.number, found

    def _read(self, group: Sequence[SegmentEntry]) -> Iterator[TraceBatch]:
        known: dict[int, Layout] = {}
        for entry in group:
            # one open at a time: thousands of small segments would keep their files mapped
            yield from _read_segment(entry, open_reader(self.storage, entry, "first", known))


def _identity(group: Sequence[SegmentEntry], codec: CodecChoice | None) -> str:
    """Id of a joined segment, a function of what is in it."""
    return digest(repr([(entry.id, entry.seal) for entry in group] + [codec]).encode())


def _require_memory(executor: Executor, groups: Sequence[Sequence[SegmentEntry]]) -> None:
    needed = 2 * max((sum(entry.raw_bytes for entry in group) for group in groups), default=0)
    limit = executor.memory_limit
    if limit is not None and needed > limit:
        message = (
            f"Joining segments needs {needed} bytes of memory, and a worker of the executor may use {limit}; give a "
            "smaller `segment_bytes`, or workers with more memory."
        )
        raise InvalidInputError(message, argument="segment_bytes", needed=needed, limit=limit)


def read_blocks(store: TraceStore, places: Iterable[int]) -> Iterator[TraceBatch]:
    """Read the traces of some segments in blocks of moderate size, with the observations of each segment alone.

    Parameters
    ----------
    store
        Where they are.
    places
        Positions of the segments.
    """
    for place in places:
        yield from _read_segment(store.segments[place], store.segment(place))


def _read_segment(entry: SegmentEntry, reader: SegmentReader) -> Iterator[TraceBatch]:
    per_block = max(1, _BLOCK_BYTES * entry.num_traces // max(entry.raw_bytes, 1))
    for start in range(0, entry.num_traces, per_block):
        yield reader.read(slice(start, min(start + per_block, entry.num_traces)))
