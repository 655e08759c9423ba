"""Copy a store to another place, backend or codec: the same traces, work, jobs and dictionaries."""

import time
import uuid
from dataclasses import replace

from tracestore.errors import StoreError, StoreExistsError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.formats.base import CodecChoice, SegmentEntry
from tracestore.store.compaction import read_blocks
from tracestore.store.dictionary_file import piece_file
from tracestore.store.fold import pending_receipts, publish_next
from tracestore.store.identity import IDENTITY
from tracestore.store.location import StorePath, to_location
from tracestore.store.manifest import Manifest
from tracestore.store.receipt import RECEIPTS
from tracestore.store.trace_store import TraceStore
from tracestore.store.writer import place_segment

__all__ = ["convert"]


def convert(
    source: TraceStore,
    destination: StorePath,
    *,
    backend: str | None = None,
    codec: CodecChoice | None = None,
    observer: Observer | None = None,
) -> TraceStore:
    """Copy the snapshot of a store, segment by segment.

    The copy has the same traces in the same order, the same job, completed work and states, attributes and dense
    numbers of addresses: what the source can do, such as resuming a simulation, the copy can. An interrupted call is
    continued by repeating it.

    Parameters
    ----------
    source
        The store; it is not changed.
    destination
        A new path, URL or location, or one that the same call began.
    backend
        Format of the copy's segments; that of the source by default.
    codec
        How observations are compressed; as the source says by default.
    observer
        Told of progress, in traces.

    Returns
    -------
    TraceStore
        The copy.

    Raises
    ------
    StoreExistsError
        When the destination holds something else.
    StoreError
        When sealed segments of the source are not part of a snapshot yet.
    InvalidInputError
        When backend or codec is unknown.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.toys import gum
    >>> store = ts.simulate(gum, "traces", num_traces=10, seed=1)
    >>> copy = convert(store, "copy", backend="zarr")
    >>> copy.backend, len(copy), copy[3]["mu"] == store[3]["mu"], copy.completed_work() == store.completed_work()
    ('zarr', 10, True, True)
    """
    _require_folded(source)
    copy = _open_copy(source, destination, backend, codec)
    start = time.perf_counter()
    if observer is not None:
        observer(PhaseStarted("convert", len(source), 0))
    entries: list[SegmentEntry] = []
    for place, (first, entry) in enumerate(zip(source.first_traces.tolist(), source.segments, strict=True)):
        found = copy.find_segment(entry.id)
        if found is None:
            batches = read_blocks(source, [place])
            found = place_segment(copy.storage, copy.backend, entry.id, batches, codec=copy.identity.codec)
        entries.append(found)
        if observer is not None:
            observer(PhaseAdvanced("convert", first + entry.num_traces, len(source)))
    if copy.version == 0 and source.version:
        _publish(source.manifest, source, copy, entries)
    # after the manifest, whose commits say that they are folded: they name segments in the encoding of the source
    for commit in source.manifest.commits:
        file = f"{RECEIPTS}/{commit.receipt}.json"
        copy.storage.create(file, source.storage.read(file))
    copy.refresh()
    if observer is not None:
        observer(PhaseFinished("convert", time.perf_counter() - start))
    return copy


def _publish(manifest: Manifest, source: TraceStore, copy: TraceStore, entries: list[SegmentEntry]) -> None:
    for piece in (*manifest.pieces, *manifest.type_pieces):
        copy.storage.create(piece_file(piece), source.storage.read(piece_file(piece)))
    publish_next(copy.storage, replace(manifest, version=0, segments=tuple(entries), quarantined=()), entries)


def _open_copy(
    source: TraceStore,
    destination: StorePath,
    backend: str | None,
    codec: CodecChoice | None,
) -> TraceStore:
    place = to_location(destination, backend=source.backend, codec=source.identity.codec)
    backend, codec = backend or place.backend, place.codec if codec is None else codec
    place = replace(place, backend=backend, codec=codec)
    copy_of = {"uuid": source.uuid, "snapshot": source.snapshot_id}
    try:
        return TraceStore.create(
            place,
            job=source.job,
            attributes=source.attributes,
            uuid=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{source.snapshot_id} {source.uuid} {backend} {codec}")),
            copy_of=copy_of,
        )
    except StoreExistsError:
        if not place.open().exists(IDENTITY):
            raise
        found = TraceStore.open(place)
        asked = (copy_of, backend, codec)
        if (found.identity.copy_of, found.backend, found.identity.codec) != asked:
            message = (
                f"{found.storage.url} holds another store than this copy of {source.storage.url} "
                f"(backend {backend!r}, codec {codec!r}); use another path."
            )
            raise StoreExistsError(message, path=found.storage.url) from None
        return found


def _require_folded(source: TraceStore) -> None:
    pending = pending_receipts(source.storage, source.manifest)
    if pending:
        message = (
            f"{len(pending)} sealed segments of {source.storage.url} are not part of its snapshot; repeat the call "
            "that wrote them, or call `TraceStore.open(path).fold()`."
        )
        raise StoreError(message, receipts=tuple(receipt.name for receipt, _ in pending))
