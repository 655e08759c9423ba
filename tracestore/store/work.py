"""Work of a job that a store holds: units completed, and what their makers wanted to find again."""

from tracestore.formats.document import JSON
from tracestore.storage import Storage
from tracestore.store.fold import completed_units, pending_receipts, plan_fold
from tracestore.store.job import Job
from tracestore.store.manifest import Manifest
from tracestore.store.receipt import expand_ranges, read_receipt

__all__ = ["completed_work", "work_states"]


def completed_work(storage: Storage, manifest: Manifest, job: Job | None) -> set[int]:
    """Units of work of a job that are published, receipts that are not folded yet included."""
    return completed_units(manifest, plan_fold(manifest, pending_receipts(storage, manifest)), job)


def work_states(storage: Storage, manifest: Manifest, job: Job | None) -> list[tuple[list[int], JSON]]:
    """Work and state of each append of a job that gave a state, in order of receipts.

    Receipts are in the order in which they were folded, then by name; those of one writer in the order of writing.
    """
    pending = plan_fold(manifest, pending_receipts(storage, manifest)).commits
    key = None if job is None else job.hash
    states = []
    for commit in (*manifest.commits, *pending):
        if commit.has_state and not commit.set_aside and commit.job == key:
            receipt, _ = read_receipt(storage, commit.receipt, expected=commit.checksum)
            states += [(expand_ranges(part.work), part.state) for part in receipt.commits if part.state is not None]
    return states
