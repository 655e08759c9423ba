"""Adopt what a killed writer sealed but did not publish (format 2.10)."""

from tracestore.errors import FormatError
from tracestore.formats.base import SegmentEntry, open_format
from tracestore.formats.segment_files import SEAL
from tracestore.store.fold import SEGMENTS, completed_units, pending_receipts, plan_fold
from tracestore.store.manifest import Manifest
from tracestore.store.receipt import RECEIPTS, Receipt, list_receipts, read_receipt
from tracestore.store.trace_store import TraceStore

__all__ = ["find_orphans", "recover"]


def recover(store: TraceStore) -> list[str]:
    """Publish segments that a killed writer sealed without a receipt, and fold.

    A segment is adopted when every byte of it is sound and its work is not complete by now. Segments with prescribed
    ids are left to the plan that they belong to.

    Parameters
    ----------
    store
        The store; it is refreshed.

    Returns
    -------
    list of str
        Ids of the adopted segments.

    Examples
    --------
    >>> recover(TraceStore.create("nothing-lost"))
    []
    """
    store.refresh()
    backend = open_format(store.backend)
    adopted = []
    taken = pending_receipts(store.storage, store.manifest)
    for entry, receipt in find_orphans(store):
        done = completed_units(store.manifest, plan_fold(store.manifest, taken), receipt.job)
        reader = backend.open_segment(store.storage.below(f"{SEGMENTS}/{entry.id}"), entry)
        if not done.isdisjoint(receipt.work) or reader.problems(deep=True):
            continue
        if store.storage.create(f"{RECEIPTS}/{receipt.name}.json", receipt.encode()):
            taken.append(read_receipt(store.storage, receipt.name))
            adopted.append(entry.id)
    store.fold()
    return adopted


def find_orphans(store: TraceStore) -> list[tuple[SegmentEntry, Receipt]]:
    """Find sealed segments that no snapshot and no receipt names, with the receipt that each was to have.

    Parameters
    ----------
    store
        The store, at its newest snapshot.

    Raises
    ------
    FormatError
        When the seal of one is damaged.
    """
    published = _published(store, store.manifest)
    backend = open_format(store.backend)
    orphans = []
    for identity in store.storage.folders(SEGMENTS):
        folder = f"{SEGMENTS}/{identity}"
        if identity in published or not store.storage.exists(f"{folder}/{SEAL}"):
            continue
        try:
            entry, origin = backend.read_seal(store.storage.below(folder), folder)
        except FormatError:
            if store.storage.exists(f"{folder}/{SEAL}"):
                raise
            # collected in the meantime
            continue
        if origin:
            orphans.append((entry, Receipt.from_origin(origin, entry)))
    return orphans


def _published(store: TraceStore, manifest: Manifest) -> set[str]:
    """Ids of all segments that a snapshot or a receipt names."""
    ids = {entry.id for entry in manifest.segments} | {one.id for one in manifest.quarantined}
    for name in list_receipts(store.storage):
        segment = read_receipt(store.storage, name)[0].segment
        if segment is not None:
            ids.add(segment.id)
    return ids
