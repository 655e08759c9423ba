"""Join small segments into large ones; traces keep their order and their indices."""

import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tracestore.errors import InvalidInputError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.formats.base import CodecChoice, SegmentEntry
from tracestore.formats.document import digest
from tracestore.store.trace_store import TraceStore
from tracestore.store.writer import place_segment
from tracestore.traces.batch import TraceBatch

__all__ = ["compact", "plan_compaction", "raw_bytes", "read_blocks"]

_BLOCK_BYTES = 32 * 2**20


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
        nbytes = raw_bytes(entry)
        if groups and size + nbytes <= segment_bytes:
            groups[-1].append(entry)
            size += nbytes
        else:
            groups.append([entry])
            size = nbytes
    return [tuple(group) for group in groups if rewrite or len(group) > 1]


def raw_bytes(entry: SegmentEntry) -> int:
    """Bytes of a segment when nothing is compressed, at most."""
    per_trace = sum(
        np.dtype(info.dtype).itemsize * int(np.prod(info.shape, dtype=np.int64))
        for info in entry.observations
        if not info.constant
    )
    return max(entry.nbytes, entry.num_traces * per_trace)


def compact(
    store: TraceStore,
    *,
    segment_bytes: int = 2**30,
    codec: CodecChoice | None = None,
    observer: Observer | None = None,
) -> int:
    """Replace runs of small segments by larger ones, each by a commit of its own.

    An interrupted call is continued by repeating it. The replaced segments stay on disk, for earlier snapshots, until
    `gc` removes them.

    Parameters
    ----------
    store
        The store; it is refreshed.
    segment_bytes
        Most raw bytes of a joined segment: about half the memory that is needed.
    codec
        Compress observations anew, in every segment; ``zstd`` for an archive.
    observer
        Told of progress, in traces.

    Returns
    -------
    int
        Number of the snapshot.

    Raises
    ------
    InvalidInputError
        When the size is not positive or the codec unknown.
    PublishConflictError
        When somebody else replaced the same segments in the meantime.
    ChecksumError
        When a byte of a segment changed; names file and block.

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
    groups = plan_compaction(store.segments, segment_bytes, rewrite=codec is not None)
    done, total = 0, sum(entry.num_traces for group in groups for entry in group)
    start = time.perf_counter()
    if observer is not None:
        observer(PhaseStarted("compact", total, 0))
    places = {entry.id: place for place, entry in enumerate(store.segments)}
    opened = TraceStore.at(store.storage, store.version)
    for group in groups:
        ids = [entry.id for entry in group]
        identity = digest(repr([(entry.id, entry.seal) for entry in group] + [codec]).encode())
        entry = store.find_segment(identity)
        num_traces = sum(one.num_traces for one in group)
        if entry is None:
            batches = read_blocks(opened, [places[one] for one in ids])
            entry = place_segment(
                store.storage,
                store.backend,
                identity,
                batches,
                codec=store.identity.codec if codec is None else codec,
            )
        if identity not in ids:
            store.publish([entry], replaces=ids)
        done += num_traces
        if observer is not None:
            observer(PhaseAdvanced("compact", done, total))
    if observer is not None:
        observer(PhaseFinished("compact", time.perf_counter() - start))
    return store.version


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
        entry, reader = store.segments[place], store.segment(place)
        per_block = max(1, _BLOCK_BYTES * entry.num_traces // max(raw_bytes(entry), 1))
        for start in range(0, entry.num_traces, per_block):
            yield reader.read(slice(start, min(start + per_block, entry.num_traces)))
