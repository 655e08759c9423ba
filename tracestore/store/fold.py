"""Fold receipts into the next snapshot: a set union that any number of processes may attempt at once (format 2.16)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tracestore.errors import PublishConflictError, TracestoreWarning
from tracestore.formats.base import SegmentEntry, open_format
from tracestore.storage import Storage
from tracestore.store.addresses import AddressBook
from tracestore.store.job import Job
from tracestore.store.manifest import Commit, Manifest, latest_version, publish_manifest, read_manifest
from tracestore.store.receipt import Receipt, expand_ranges, list_receipts, read_receipt, to_ranges
from tracestore.store.trace_types import TraceTypeBook

__all__ = [
    "SEGMENTS",
    "FoldPlan",
    "completed_units",
    "fold",
    "pending_receipts",
    "plan_fold",
    "publish_next",
    "publish_segments",
    "segments_of",
]

SEGMENTS = "segments"


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """What folding some receipts adds to a snapshot."""

    segments: tuple[SegmentEntry, ...]
    commits: tuple[Commit, ...]
    jobs: dict[str, Job]


def pending_receipts(storage: Storage, manifest: Manifest) -> list[tuple[Receipt, str]]:
    """Read the receipts that a snapshot does not include, with their checksums, in order of name."""
    folded = {commit.receipt for commit in manifest.commits}
    return [read_receipt(storage, name) for name in list_receipts(storage) if name not in folded]


def plan_fold(manifest: Manifest, receipts: Sequence[tuple[Receipt, str]]) -> FoldPlan:
    """Decide what receipts add. Pure.

    A receipt with a unit of work that is committed already is set aside whole: what else it claims counts as not
    done, and a resumed job does it again.

    Parameters
    ----------
    manifest
        The snapshot to add to.
    receipts
        Receipts that it does not include, with their checksums.
    """
    done: dict[str | None, set[int]] = {}
    for commit in manifest.commits:
        done.setdefault(commit.job, set()).update(expand_ranges(commit.work))
    segments, commits, jobs = [], [], {}
    for receipt, checksum in receipts:
        key = None if receipt.job is None else receipt.job.hash
        units = done.setdefault(key, set())
        has_state = any(commit.state is not None for commit in receipt.commits)
        commit = Commit(receipt.name, checksum, key, (), has_state, set_aside=True, segments=())
        if units.isdisjoint(receipt.work):
            units |= receipt.work
            commit = replace(commit, work=to_ranges(receipt.work), set_aside=False)
            if receipt.segment is not None:
                commit = replace(commit, segments=(receipt.segment.id,))
                segments.append(receipt.segment)
        if receipt.job is not None:
            jobs[receipt.job.hash] = receipt.job
        commits.append(commit)
    return FoldPlan(tuple(segments), tuple(commits), jobs)


def completed_units(manifest: Manifest, plan: FoldPlan, job: Job | None) -> set[int]:
    """Units of work of a job that are committed, or will be when pending receipts are folded."""
    key = None if job is None else job.hash
    commits = (*manifest.commits, *plan.commits)
    return {unit for commit in commits if commit.job == key for unit in expand_ranges(commit.work)}


def fold(storage: Storage) -> Manifest:
    """Fold all pending receipts; the newest snapshot, whoever published it."""
    while True:
        manifest = read_manifest(storage, latest_version(storage))
        receipts = pending_receipts(storage, manifest)
        if not receipts:
            return manifest
        plan = plan_fold(manifest, receipts)
        changed = replace(
            manifest,
            segments=(*manifest.segments, *plan.segments),
            commits=(*manifest.commits, *plan.commits),
            jobs={**manifest.jobs, **plan.jobs},
        )
        published = publish_next(storage, changed, plan.segments)
        if published is not None:
            _warn_of_duplicates(plan)
            return published


def publish_segments(storage: Storage, segments: Sequence[SegmentEntry], *, replaces: Sequence[str] = ()) -> Manifest:
    """Publish sealed segments without receipts, in the order given.

    Parameters
    ----------
    storage
        The store.
    segments
        Segments that are in place; those that the store has already are left where they are, unless they are among
        those replaced.
    replaces
        Ids of segments that the ones given stand for: they take the place of the first of these.

    Raises
    ------
    PublishConflictError
        When a segment to be replaced is not in the store any more.
    """
    listed, replaced = [entry.id for entry in segments], set(replaces)
    while True:
        manifest = read_manifest(storage, latest_version(storage))
        present = [entry.id for entry in manifest.segments]
        if _is_published(listed, replaced, present):
            return manifest
        gone = sorted(replaced - set(present))
        if gone:
            message = f"Segments {', '.join(gone)} are not in version {manifest.version} any more; plan again."
            raise PublishConflictError(message, segments=gone)
        place = min((present.index(identity) for identity in replaced), default=len(present))
        before, after = manifest.segments[:place], manifest.segments[place:]
        placed = tuple(entry for entry in segments if entry.id in replaced or entry.id not in set(present))
        others = tuple(entry for entry in after if entry.id not in replaced)
        new = [entry for entry in placed if entry.id not in set(present)]
        commits = _moved(storage, manifest.commits, replaced - set(listed), tuple(entry.id for entry in new))
        published = publish_next(storage, replace(manifest, segments=(*before, *placed, *others), commits=commits), new)
        if published is not None:
            return published


def _is_published(listed: Sequence[str], replaced: set[str], present: Sequence[str]) -> bool:
    """Whether segments are there, those that they stand for are not, and moved ones are in order."""
    if not set(listed) <= set(present) or (replaced - set(listed)) & set(present):
        return False
    return replaced.isdisjoint(listed) or [identity for identity in present if identity in set(listed)] == listed


def publish_next(storage: Storage, manifest: Manifest, new: Sequence[SegmentEntry] = ()) -> Manifest | None:
    """Publish a changed manifest as the next version, with dictionaries that hold its new segments.

    Returns
    -------
    Manifest or None
        None when another process was first: read the newest and begin again.
    """
    readers = [
        open_format(entry.encoding).open_segment(storage.below(f"{SEGMENTS}/{entry.id}"), entry, layouts={})
        for entry in new
    ]
    addresses = AddressBook(storage, manifest.pieces).extend(reader.addresses() for reader in readers)
    types = TraceTypeBook(storage, manifest.type_pieces).extend((reader.trace_types() for reader in readers), addresses)
    changed = replace(manifest, version=manifest.version + 1, pieces=addresses.pieces, type_pieces=types.pieces)
    return publish_manifest(storage, changed)


def segments_of(storage: Storage, commit: Commit) -> tuple[str, ...]:
    """Ids of the segments that hold the traces of a commit."""
    if commit.segments is not None:
        return commit.segments
    receipt, _ = read_receipt(storage, commit.receipt, expected=commit.checksum)
    return () if receipt.segment is None or commit.set_aside else (receipt.segment.id,)


def _moved(storage: Storage, commits: Sequence[Commit], gone: set[str], new: tuple[str, ...]) -> tuple[Commit, ...]:
    """Say of every commit where its traces are when some segments stand for others: in the one, or spread."""
    if not gone:
        return tuple(commits)
    moved = []
    for commit in commits:
        ids = segments_of(storage, commit)
        moved.append(replace(commit, segments=ids if gone.isdisjoint(ids) else new if len(new) == 1 else ()))
    return tuple(moved)


def _warn_of_duplicates(plan: FoldPlan) -> None:
    names = [commit.receipt for commit in plan.commits if commit.set_aside]
    if names:
        message = (
            f"{len(names)} receipts repeat work that was committed before and were set aside: {', '.join(names)}. "
            "Two processes may be running the same job."
        )
        warnings.warn(message, TracestoreWarning, stacklevel=3)
