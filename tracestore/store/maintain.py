"""Look after a store: find what is damaged, adopt what a killed writer sealed but did not publish."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tracestore.errors import FormatError, StoreError
from tracestore.formats.base import SegmentEntry, open_format
from tracestore.formats.segment_files import SEAL
from tracestore.store.fold import SEGMENTS, completed_units, pending_receipts, plan_fold
from tracestore.store.identity import IDENTITY, read_identity
from tracestore.store.manifest import Manifest, latest_version, read_manifest
from tracestore.store.receipt import RECEIPTS, Receipt, list_receipts, read_receipt
from tracestore.store.trace_store import TraceStore

__all__ = ["Problem", "recover", "verify"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a store."""

    path: str
    """File, relative to the store."""
    message: str


def verify(store: TraceStore, *, deep: bool = False) -> list[Problem]:
    """Check a store; everything that is wrong, not only the first thing.

    Parameters
    ----------
    store
        The store; its own snapshot is checked, the documents of earlier ones, and all receipts.
    deep
        Compare the checksum of every byte; otherwise of documents and small tables only, and the sizes of files.

    Returns
    -------
    list of Problem
        Empty for a sound store.

    Examples
    --------
    >>> verify(TraceStore.create("sound"), deep=True)
    []
    """
    problems = _verify_documents(store)
    try:
        known = set(store.addresses.ids.tolist())
    except FormatError as error:
        problems.append(Problem("dict", str(error)))
        known = None
    for index, entry in enumerate(store.segments):
        problems += _verify_segment(store, index, entry, known, deep=deep)
    return problems


def _verify_documents(store: TraceStore) -> list[Problem]:
    folded = {commit.receipt: commit.checksum for commit in store.manifest.commits}
    names = sorted({*folded, *list_receipts(store.storage)})
    problems = _problems_of(IDENTITY, partial(read_identity, store.storage))
    problems += _problems_of("manifests/LATEST", partial(latest_version, store.storage))
    for version in range(1, store.version + 1):
        problems += _problems_of(f"manifests/v{version:020d}.json", partial(read_manifest, store.storage, version))
    for name in names:
        check = partial(read_receipt, store.storage, name, expected=folded.get(name))
        problems += _problems_of(f"{RECEIPTS}/{name}.json", check)
    return problems


def _problems_of(file: str, check: Callable[[], object]) -> list[Problem]:
    try:
        check()
    except StoreError as error:
        return [Problem(file, str(error))]
    return []


def _verify_segment(
    store: TraceStore, index: int, entry: SegmentEntry, known: set[int] | None, *, deep: bool
) -> list[Problem]:
    reader = store.segment(index)
    found = [Problem(path, message) for path, message in reader.problems(deep=deep)]
    if found or known is None:
        return found
    missing = set(reader.addresses()[0].tolist()) - known
    if missing:
        message = f"{len(missing)} of its addresses are not in the dictionary of the snapshot."
        found.append(Problem(f"{SEGMENTS}/{entry.id}", message))
    return found


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
    manifest = store.manifest
    receipts = pending_receipts(store.storage, manifest)
    published = _published(store, manifest)
    adopted = []
    backend = open_format(store.backend)
    for identity in store.storage.folders(SEGMENTS):
        folder = f"{SEGMENTS}/{identity}"
        if identity in published or not store.storage.exists(f"{folder}/{SEAL}"):
            continue
        entry, origin = backend.read_seal(store.storage.below(folder), folder)
        if not origin:
            continue
        receipt = Receipt.from_origin(origin, entry)
        done = completed_units(manifest, plan_fold(manifest, receipts), receipt.job)
        reader = backend.open_segment(store.storage.below(folder), entry)
        if not done.isdisjoint(receipt.work) or reader.problems(deep=True):
            continue
        if store.storage.create(f"{RECEIPTS}/{receipt.name}.json", receipt.encode()):
            receipts.append(read_receipt(store.storage, receipt.name))
            adopted.append(entry.id)
    store.fold()
    return adopted


def _published(store: TraceStore, manifest: Manifest) -> set[str]:
    """Ids of all segments that a snapshot or a receipt names."""
    ids = {entry.id for entry in manifest.segments}
    for name in list_receipts(store.storage):
        segment = read_receipt(store.storage, name)[0].segment
        if segment is not None:
            ids.add(segment.id)
    return ids
