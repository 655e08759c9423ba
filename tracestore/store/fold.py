"""Fold receipts into the next snapshot: a set union that any number of processes may attempt at once (format 2.16)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tracestore.errors import PublishConflictError, TracestoreWarning
from tracestore.formats.base import SegmentEntry, open_format
from tracestore.store.addresses import AddressBook
from tracestore.store.job import Job
from tracestore.store.manifest import Commit, Manifest, latest_version, publish_manifest, read_manifest
from tracestore.store.receipt import Receipt, expand_ranges, list_receipts, read_receipt, to_ranges

__all__ = ["SEGMENTS", "FoldPlan", "completed_units", "fold", "pending_receipts", "plan_fold", "publish_segments"]

SEGMENTS = "segments"


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """What folding some receipts adds to a snapshot."""

    segments: tuple[SegmentEntry, ...]
    commits: tuple[Commit, ...]
    jobs: dict[str, Job]


def pending_receipts(root: Path, manifest: Manifest) -> list[tuple[Receipt, str]]:
    """Read the receipts that a snapshot does not include, with their checksums, in order of name."""
    folded = {commit.receipt for commit in manifest.commits}
    return [read_receipt(root, name) for name in list_receipts(root) if name not in folded]


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
        commit = Commit(receipt.name, checksum, key, (), has_state, set_aside=True)
        if units.isdisjoint(receipt.work):
            units |= receipt.work
            commit = replace(commit, work=to_ranges(receipt.work), set_aside=False)
            if receipt.segment is not None:
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


def fold(root: Path) -> Manifest:
    """Fold all pending receipts; the newest snapshot, whoever published it."""
    while True:
        manifest = read_manifest(root, latest_version(root))
        receipts = pending_receipts(root, manifest)
        if not receipts:
            return manifest
        plan = plan_fold(manifest, receipts)
        published = _publish_next(root, manifest, plan.segments, plan.commits, plan.jobs)
        if published is not None:
            _warn_of_duplicates(plan)
            return published


def publish_segments(root: Path, segments: Sequence[SegmentEntry], *, replaces: Sequence[str] = ()) -> Manifest:
    """Publish sealed segments without receipts, in the order given.

    Parameters
    ----------
    root
        The store.
    segments
        Segments that are in place; those that the store has already are left where they are.
    replaces
        Ids of segments that the new ones stand for.

    Raises
    ------
    PublishConflictError
        When a segment to be replaced is not in the store any more.
    """
    while True:
        manifest = read_manifest(root, latest_version(root))
        present = {entry.id for entry in manifest.segments}
        new = [entry for entry in segments if entry.id not in present]
        if not new:
            return manifest
        gone = [identity for identity in replaces if identity not in present]
        if gone:
            message = f"Segments {', '.join(gone)} are not in version {manifest.version} any more; plan again."
            raise PublishConflictError(message, segments=gone)
        kept = tuple(entry for entry in manifest.segments if entry.id not in replaces)
        published = _publish_next(root, replace(manifest, segments=kept), new, (), {})
        if published is not None:
            return published


def _publish_next(
    root: Path,
    manifest: Manifest,
    segments: Sequence[SegmentEntry],
    commits: Sequence[Commit],
    jobs: dict[str, Job],
) -> Manifest | None:
    readers = (
        open_format(entry.encoding).open_segment(root / SEGMENTS / entry.id, entry, layouts={}) for entry in segments
    )
    piece = AddressBook(root, manifest.pieces).extend(reader.addresses() for reader in readers)
    return publish_manifest(
        root,
        Manifest(
            version=manifest.version + 1,
            segments=(*manifest.segments, *segments),
            commits=(*manifest.commits, *commits),
            jobs={**manifest.jobs, **jobs},
            pieces=manifest.pieces if piece is None else (*manifest.pieces, piece),
        ),
    )


def _warn_of_duplicates(plan: FoldPlan) -> None:
    names = [commit.receipt for commit in plan.commits if commit.set_aside]
    if names:
        message = (
            f"{len(names)} receipts repeat work that was committed before and were set aside: {', '.join(names)}. "
            "Two processes may be running the same job."
        )
        warnings.warn(message, TracestoreWarning, stacklevel=3)
