"""Commit a segment once, however often and by however many processes that is tried: for tasks that run on workers."""

import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from tracestore.errors import StoreError
from tracestore.formats.base import CodecChoice, open_format
from tracestore.formats.document import JSON
from tracestore.formats.segment_files import SEAL
from tracestore.storage import Storage, raise_if_full
from tracestore.store.fold import SEGMENTS
from tracestore.store.job import Job
from tracestore.store.manifest import Manifest, latest_version, read_manifest
from tracestore.store.receipt import RECEIPTS, Receipt, WorkCommit, read_receipt, to_ranges
from tracestore.traces.batch import TraceBatch

__all__ = ["CommittedSegment", "commit_segment", "find_committed", "next_unquarantined"]


@dataclass(frozen=True, slots=True)
class CommittedSegment:
    """What is committed under an id."""

    num_traces: int
    num_failed: int
    nbytes: int
    """Bytes of the segment's files; 0 when there were no traces."""
    state: JSON
    """What the maker wanted to remember."""


def commit_segment(
    storage: Storage,
    backend: str,
    job: Job | None,
    segment_id: str,
    batches: Iterable[TraceBatch],
    *,
    work: Iterable[int],
    state: JSON = None,
    codec: CodecChoice = "auto",
) -> CommittedSegment:
    """Write a segment under a prescribed id and publish the receipt of its work; folds nothing.

    The first segment in place under the id is the one that counts, and its receipt is a function of its seal: whoever
    tries again, at the same time or later, publishes the same receipt.

    Parameters
    ----------
    storage
        The store.
    backend
        Name of the segment format.
    job
        Job that the work belongs to.
    segment_id
        1 to 64 characters of ``0-9 a-z - _``; always stands for the same work of the same job.
    batches
        The traces; not touched when the segment is there. When there are none, only work and state are recorded.
    work
        Units of work that are complete with it.
    state
        Anything, as JSON, that the job wants to find again.
    codec
        How observations are compressed.

    Raises
    ------
    StoreError
        When the id stands for other work.
    InsufficientSpaceError
        When the disk is full.
    """
    identity = _newest_unquarantined(storage, segment_id)
    wanted = Receipt(identity, 0, job, None, (WorkCommit(to_ranges(work), state),))
    file, folder = f"{RECEIPTS}/{wanted.name}.json", f"{SEGMENTS}/{identity}"
    if not storage.exists(file):
        if not storage.exists(f"{folder}/{SEAL}"):
            _place(storage, backend, wanted, batches, codec)
        receipt = wanted
        if storage.exists(f"{folder}/{SEAL}"):
            entry, origin = open_format(backend).read_seal(storage.below(folder), folder)
            receipt = Receipt.from_origin(origin, entry) if origin else wanted
        storage.create(file, receipt.encode())
    found, _ = read_receipt(storage, wanted.name)
    if (found.job, found.work) != (wanted.job, wanted.work):
        message = (
            f"{segment_id} in {storage.url} stands for other work than the {len(wanted.work)} units asked for; "
            "give each piece of work an id of its own."
        )
        raise StoreError(message, segment=segment_id)
    return _committed(found)


def find_committed(storage: Storage, segment_id: str) -> CommittedSegment | None:
    """Say what is committed under an id; None when nothing is."""
    name = Receipt(_newest_unquarantined(storage, segment_id), 0, None, None, ()).name
    return _committed(read_receipt(storage, name)[0]) if storage.exists(f"{RECEIPTS}/{name}.json") else None


def _committed(receipt: Receipt) -> CommittedSegment:
    entry = receipt.segment
    state = receipt.commits[0].state
    if entry is None:
        return CommittedSegment(0, 0, 0, state)
    return CommittedSegment(entry.num_traces, entry.num_failed, entry.nbytes, state)


def next_unquarantined(segment_id: str, manifest: Manifest) -> str:
    """Return the id, or the next one like it when damage made its segment useless: its work is done again.

    Parameters
    ----------
    segment_id
        A prescribed id.
    manifest
        Says which segments are quarantined.
    """
    quarantined = {one.id for one in manifest.quarantined}
    identity, attempt = segment_id, 1
    while identity in quarantined:
        attempt += 1
        identity = f"{segment_id}-{attempt}"
    return identity


def _newest_unquarantined(storage: Storage, segment_id: str) -> str:
    return next_unquarantined(segment_id, read_manifest(storage, latest_version(storage)))


def _place(storage: Storage, backend: str, receipt: Receipt, batches: Iterable[TraceBatch], codec: CodecChoice) -> None:
    """Write the segment aside and move it into place, unless another process was first."""
    lumps = [batch for batch in batches if len(batch)]
    if not lumps:
        return
    staging = storage.staging(f"{receipt.writer}-{secrets.token_hex(4)}")
    try:
        staging.mkdir(parents=True)
        open_format(backend).write_segment(
            staging,
            lumps,
            segment_id=receipt.writer,
            keep_order=False,
            codec=codec,
            is_remote=not storage.is_local,
            origin=receipt.origin(),
        )
        storage.place(staging, f"{SEGMENTS}/{receipt.writer}")
    except OSError as error:
        raise_if_full(error, storage.url)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
