"""Fold receipts into the next snapshot: a set union that any number of processes may attempt at once (format 2.16)."""

import warnings
from collections.abc import Collection, Sequence
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
    "Replacement",
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


@dataclass(frozen=True, slots=True)
class Replacement:
    """Segments, in order, and the ids of those that they stand for."""

    segments: tuple[SegmentEntry, ...]
    replaces: tuple[str, ...] = ()

    def is_published(self, present: Sequence[str]) -> bool:
        """Whether the segments are there, those that they stand for are not, and moved ones are in order."""
        listed, replaced = [entry.id for entry in self.segments], set(self.replaces)
        if not set(listed) <= set(present) or (replaced - set(listed)) & set(present):
            return False
        return replaced.isdisjoint(listed) or [identity for identity in present if identity in set(listed)] == listed

    def placed(self, present: Collection[str]) -> list[SegmentEntry]:
        """Those that get a new place: segments that are there already stay there, unless they are replaced, too."""
        return [entry for entry in self.segments if entry.id not in present or entry.id in self.replaces]


def publish_segments(storage: Storage, replacements: Sequence[Replacement]) -> Manifest:
    """Publish sealed segments without receipts, all in one snapshot.

    Parameters
    ----------
    storage
        The store.
    replacements
        Segments that are in place, and what they stand for: they take the place of the first of these, or come last
        when there are none.

    Raises
    ------
    PublishConflictError
        When a segment to be replaced is not in the store any more.
    """
    while True:
        manifest = read_manifest(storage, latest_version(storage))
        present = [entry.id for entry in manifest.segments]
        left = [one for one in replacements if not one.is_published(present)]
        if not left:
            return manifest
        gone = sorted({identity for one in left for identity in one.replaces} - set(present))
        if gone:
            message = f"Segments {', '.join(gone)} are not in version {manifest.version} any more; plan again."
            raise PublishConflictError(message, segments=gone)
        segments = _replaced(manifest.segments, left)
        changed = replace(manifest, segments=segments, commits=_moved(storage, manifest.commits, left))
        published = publish_next(storage, changed, [entry for entry in segments if entry.id not in set(present)])
        if published is not None:
            return published


def _replaced(segments: Sequence[SegmentEntry], replacements: Sequence[Replacement]) -> tuple[SegmentEntry, ...]:
    """Put segments where the first of those are that they stand for."""
    place_of = {entry.id: place for place, entry in enumerate(segments)}
    heads = {min(map(place_of.__getitem__, one.replaces), default=-1 - k): one for k, one in enumerate(replacements)}
    dropped = {identity for one in replacements for identity in one.replaces}
    found: list[SegmentEntry] = []
    for place, entry in enumerate(segments):
        if place in heads:
            found += heads[place].placed(place_of)
        if entry.id not in dropped:
            found.append(entry)
    return (*found, *(entry for one in replacements if not one.replaces for entry in one.placed(place_of)))


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


def _moved(storage: Storage, commits: Sequence[Commit], replacements: Sequence[Replacement]) -> tuple[Commit, ...]:
    """Say of every commit where its traces are when some segments stand for others: each in one of these, or spread."""
    homes: dict[str, list[str]] = {}
    for one in replacements:
        listed = {entry.id for entry in one.segments}
        new = [entry.id for entry in one.segments if entry.id not in one.replaces]
        homes |= {identity: new for identity in one.replaces if identity not in listed}
    if not homes:
        return tuple(commits)
    moved = []
    for commit in commits:
        ids = segments_of(storage, commit)
        found = [homes.get(identity, [identity]) for identity in ids]
        is_spread = any(len(home) != 1 for home in found)
        moved.append(replace(commit, segments=() if is_spread else tuple(dict.fromkeys(home[0] for home in found))))
    return tuple(moved)


def _warn_of_duplicates(plan: FoldPlan) -> None:
    names = [commit.receipt for commit in plan.commits if commit.set_aside]
    if names:
        message = (
            f"{len(names)} receipts repeat work that was committed before and were set aside: {', '.join(names)}. "
            "Two processes may be running the same job."
        )
        warnings.warn(message, TracestoreWarning, stacklevel=3)
