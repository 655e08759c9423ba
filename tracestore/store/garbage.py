"""Collect what no retained snapshot names: replaced and duplicate segments, dead staging (format 2.21)."""

from dataclasses import dataclass

from tracestore.errors import InvalidInputError
from tracestore.storage import Storage
from tracestore.store.fold import SEGMENTS, completed_units, pending_receipts, plan_fold
from tracestore.store.manifest import expire_versions, latest_version, manifest_file, read_manifest
from tracestore.store.recovery import find_orphans
from tracestore.store.trace_store import TraceStore

__all__ = ["Garbage", "gc"]

STAGING = "staging"


@dataclass(frozen=True, slots=True)
class Garbage:
    """What a collection removed, or would remove."""

    segments: tuple[str, ...]
    """Ids of segments that no retained snapshot names."""
    staging: tuple[str, ...]
    """Unfinished work of writers that are gone."""
    nbytes: int
    """Bytes of all of them; 0 when nothing was removed because it was a dry run."""
    oldest_version: int
    """The oldest snapshot that stays whole."""
    orphans: tuple[str, ...]
    """Sealed segments that `recover` would adopt; never collected."""


def gc(store: TraceStore, *, older_than: float, dry_run: bool = False) -> Garbage:
    """Remove what has been unused for some time.

    Retained are the newest snapshot and those that were the newest within the time given. Segments that only older
    snapshots name are removed, and these snapshots can no longer be opened; their manifests stay. Sealed segments that
    `recover` would adopt, quarantined ones, and everything younger than the time given are left alone.

    Parameters
    ----------
    store
        The store; it is refreshed.
    older_than
        Seconds. Give more than any reader keeps an old snapshot open, and more than any job takes to publish what it
        has put in place.
    dry_run
        Only say what would be removed.

    Raises
    ------
    InvalidInputError
        When the time is negative.

    Examples
    --------
    >>> gc(TraceStore.create("clean"), older_than=3600.0).segments
    ()
    """
    if not older_than >= 0:
        message = f"`older_than` must be a number of seconds, at least 0; got {older_than}."
        raise InvalidInputError(message, argument="older_than")
    storage = store.storage
    staging = [name for name in storage.folders(STAGING) if _idle_seconds(storage, f"{STAGING}/{name}") > older_than]
    # first, so that there is room for what follows
    nbytes = 0 if dry_run else sum(_remove(storage, f"{STAGING}/{name}") for name in staging)
    while True:
        store.refresh()
        oldest = _oldest_retained(store, older_than)
        orphans = _adoptable(store)
        used = _named_since(store, oldest) | set(orphans)
        segments = [
            identity
            for identity in storage.folders(SEGMENTS)
            if identity not in used and _idle_seconds(storage, f"{SEGMENTS}/{identity}") > older_than
        ]
        if dry_run:
            return Garbage(tuple(segments), tuple(staging), 0, oldest, tuple(orphans))
        if segments:
            # before anything is gone, so that nobody opens a snapshot that is not whole
            expire_versions(storage, oldest)
        if latest_version(storage) == store.version:
            break
    nbytes += sum(_remove(storage, f"{SEGMENTS}/{identity}") for identity in segments)
    return Garbage(tuple(segments), tuple(staging), nbytes, oldest, tuple(orphans))


def _idle_seconds(storage: Storage, folder: str) -> float:
    """Time since a folder changed; 0 when its owner, or another collector, has just moved or removed it."""
    try:
        return storage.seconds_since_change(folder)
    except FileNotFoundError:
        return 0.0


def _remove(storage: Storage, folder: str) -> int:
    """Remove a folder; 0 bytes when another collector does so at the same time."""
    try:
        return storage.remove(folder)
    except FileNotFoundError:
        return 0


def _oldest_retained(store: TraceStore, older_than: float) -> int:
    """Find the oldest version that was the newest one less than some seconds ago."""
    version = store.version
    while version > 1 and store.storage.seconds_since_change(manifest_file(version)) <= older_than:
        version -= 1
    return version


def _named_since(store: TraceStore, oldest: int) -> set[str]:
    """Ids of segments that retained snapshots and pending receipts name, and of those quarantined."""
    names: set[str] = set()
    for version in range(max(oldest, 1), store.version + 1):
        manifest = read_manifest(store.storage, version)
        names |= {entry.id for entry in manifest.segments} | {one.id for one in manifest.quarantined}
    for receipt, _ in pending_receipts(store.storage, store.manifest):
        if receipt.segment is not None:
            names.add(receipt.segment.id)
    return names


def _adoptable(store: TraceStore) -> list[str]:
    """Ids of sealed segments whose work is not complete."""
    plan = plan_fold(store.manifest, pending_receipts(store.storage, store.manifest))
    return [
        entry.id
        for entry, receipt in find_orphans(store)
        if completed_units(store.manifest, plan, receipt.job).isdisjoint(receipt.work)
    ]
