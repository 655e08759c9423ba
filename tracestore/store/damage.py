"""Take a damaged segment out of a store, by an explicit commit that says so (format 2.20)."""

from collections.abc import Sequence
from dataclasses import replace

from tracestore.errors import InvalidInputError
from tracestore.store.fold import publish_next, segments_of
from tracestore.store.manifest import Commit, Quarantine, latest_version, read_manifest
from tracestore.store.trace_store import TraceStore

__all__ = ["quarantine"]


def quarantine(store: TraceStore, segment_id: str, *, reason: str) -> int:
    """Publish a snapshot without a segment.

    The files stay where they are, and earlier snapshots still name the segment. Work that was completed with it counts
    as not done, so that the call which made the store makes these traces again. Not so when a sort in place has spread
    the traces of each call's pieces over several segments: then the work stays done, and the traces are gone for good.

    Parameters
    ----------
    store
        The store; it is refreshed.
    segment_id
        Id of the segment, as `verify` names it.
    reason
        What is wrong with it, for those who read the manifest later.

    Returns
    -------
    int
        Number of the snapshot.

    Raises
    ------
    InvalidInputError
        When the newest snapshot has no such segment, or the reason is empty.

    Examples
    --------
    >>> quarantine(TraceStore.create("sound"), "0a1b", reason="a broken disk")
    Traceback (most recent call last):
        ...
    tracestore.errors.InvalidInputError: Version 0 of sound has no segment '0a1b'; `verify` names the damaged ones.
    """
    if not reason.strip():
        message = "`reason` must say what is wrong with the segment; it is empty."
        raise InvalidInputError(message, argument="reason")
    while True:
        manifest = read_manifest(store.storage, latest_version(store.storage))
        entry = next((entry for entry in manifest.segments if entry.id == segment_id), None)
        if entry is None:
            message = (
                f"Version {manifest.version} of {store.storage.url} has no segment {segment_id!r}; "
                "`verify` names the damaged ones."
            )
            raise InvalidInputError(message, argument="segment_id")
        changed = replace(
            manifest,
            segments=tuple(one for one in manifest.segments if one is not entry),
            commits=_without_work_of(store, manifest.commits, segment_id),
            quarantined=(*manifest.quarantined, Quarantine(segment_id, entry.num_traces, reason)),
        )
        if publish_next(store.storage, changed) is not None:
            store.refresh()
            return store.version


def _without_work_of(store: TraceStore, commits: Sequence[Commit], segment_id: str) -> tuple[Commit, ...]:
    """Set the commits of a segment aside; a compacted one has several, one that a sort has spread none."""
    return tuple(
        replace(commit, work=(), has_state=False, set_aside=True, segments=())
        if segment_id in segments_of(store.storage, commit)
        else commit
        for commit in commits
    )
