"""Carry out a sort plan: independent copy tasks, one per output segment, then one publication.

The id of an output is a hash of the source segments and rows that go into it, and its bytes depend on its traces alone:
any executor gives the same store, byte by byte, and a repeated call does only what is missing. Nothing is published
before all outputs are in place.
"""

import logging
import time
import uuid
from dataclasses import dataclass, replace

from tracestore.errors import FormatError, InvalidInputError, StoreExistsError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.executors import Executor, SerialExecutor
from tracestore.formats.base import CodecChoice, SegmentEntry
from tracestore.formats.document import digest
from tracestore.sorting import refusals
from tracestore.sorting.gather import gather
from tracestore.sorting.plan import DEFAULT_SEGMENT_BYTES, SortPlan, SortTask, plan_sort
from tracestore.sorting.sizes import estimate_sizes
from tracestore.store.commit import next_unquarantined
from tracestore.store.identity import IDENTITY
from tracestore.store.job import Job
from tracestore.store.location import StorePath, to_location
from tracestore.store.trace_store import TraceStore

__all__ = ["CopySegment", "plan_store", "sort_store"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CopySegment:
    """Copies the traces of a task into an output segment; the same one in every process, as often as asked."""

    source: TraceStore
    destination: TraceStore

    def __call__(self, task: SortTask) -> tuple[int, SegmentEntry]:
        """Make the task's output unless it is there; its number and entry."""
        identity = self.segment_id(task)
        found = self.destination.find_segment(identity)
        if found is None:
            try:
                found = self.destination.write_segment(identity, [gather(self.source, task)])
            except FormatError as error:
                path = self.source.storage.url
                error.add_note(
                    f"`tracestore verify --deep {path}` finds all damage, and `tracestore quarantine {path} SEGMENT "
                    "--reason TEXT` takes a segment out; then repeat the call."
                )
                raise
        return task.index, found

    def segment_id(self, task: SortTask) -> str:
        """Name of an output segment: what goes into it, whatever snapshot it is planned from."""
        rows = task.first - self.source.first_traces[task.segment]
        names = [self.source.segments[place].id for place in task.segment.tolist()]
        numbers = rows.astype("<i8").tobytes() + task.num_traces.astype("<i8").tobytes()
        identity = digest("\n".join(names).encode() + b"\n\n" + numbers)
        return next_unquarantined(identity, self.destination.manifest)


def plan_store(source: TraceStore, *, segment_bytes: int = DEFAULT_SEGMENT_BYTES, in_place: bool = False) -> SortPlan:
    """Plan to sort a store, and change nothing.

    Parameters
    ----------
    source
        The store.
    segment_bytes
        Raw size of an output segment.
    in_place
        Plan to sort the store itself: segments stay that nothing has to go into.

    Raises
    ------
    InvalidInputError
        When ``segment_bytes`` is not positive.
    PlanError
        When the store holds no traces, traces of several simulators, or observations of several kinds; or when a
        posterior is to be sorted in place.
    StoreError
        When sealed segments are not part of a snapshot yet, or files are missing or cut.

    Examples
    --------
    >>> import tempfile, tracestore as ts
    >>> from tracestore.simulators.toys import geometric
    >>> store = ts.simulate(geometric, tempfile.mkdtemp() + "/traces", num_traces=100, seed=1)
    >>> plan = plan_store(store)
    >>> plan.num_traces, len(plan.tasks)
    (100, 1)
    """
    refusals.require_folded(source)
    refusals.require_one_kind(source)
    if in_place:
        refusals.require_movable(source)
    refusals.require_sound(source)
    return plan_sort(source.runs, estimate_sizes(source), segment_bytes=segment_bytes, keep_sorted=in_place)


def sort_store(
    source: TraceStore | StorePath,
    destination: StorePath | None = None,
    *,
    executor: Executor | None = None,
    segment_bytes: int = DEFAULT_SEGMENT_BYTES,
    backend: str | None = None,
    codec: CodecChoice | None = None,
    observer: Observer | None = None,
) -> TraceStore:
    """Order traces by number of sites, trace type and layout, in a new store or in place.

    An interrupted call is continued by repeating it: outputs that are in place are kept. All executors give
    byte-identical stores. Failed traces are copied like all others.

    In place, one new snapshot replaces all segments at once; those whose traces are neighbors in the new order already
    stay as they are. So a sorted store that grew is sorted again by moving only what the new traces touch. The
    replaced segments stay on disk, for earlier snapshots, until `gc` removes them.

    Parameters
    ----------
    source
        A store or its path; not changed when there is a destination, and refreshed when there is none.
    destination
        Where the sorted store shall be: a new path, or one that the same call began. None sorts in place.
    executor
        Who copies; None copies in this process. Workers need the same paths.
    segment_bytes
        Raw size of an output segment: about the memory that a task needs, see `SortPlan.peak_memory`.
    backend, codec
        Format of the sorted store's segments and compression of its observations; those of the source by default.
        Neither may be given in place.
    observer
        Told of progress, in traces.

    Returns
    -------
    TraceStore
        The sorted store.

    Raises
    ------
    StoreExistsError
        When the destination holds something else; names the field that differs.
    InvalidInputError
        When source and destination overlap, or ``segment_bytes`` is not positive.
    InsufficientSpaceError
        When the destination lacks space; says how much.
    PlanError
        When the store cannot be sorted, see `plan_store`, or a task needs more memory than a worker has.
    StoreError
        When sealed segments are not part of a snapshot yet, or files are missing or cut.
    PublishConflictError
        When another process replaced segments while the store was sorted in place; repeat the call.
    ExecutorError
        When a worker dies, or cannot do its work.
    ChecksumError
        When a byte of the source changed; names file and block.

    Examples
    --------
    >>> import tempfile, tracestore as ts
    >>> from pathlib import Path
    >>> from tracestore.simulators.toys import geometric
    >>> folder = Path(tempfile.mkdtemp())
    >>> store = ts.simulate(geometric, folder / "traces", num_traces=100, seed=1)
    >>> ordered = ts.sort_store(store, folder / "sorted")
    >>> num_sites = ordered.runs.num_sites.tolist()
    >>> len(ordered), num_sites == sorted(num_sites)
    (100, True)
    """
    start = time.perf_counter()
    opened = source if isinstance(source, TraceStore) else TraceStore.open(source)
    if destination is None:
        _require_own_format(backend, codec)
        opened.refresh()
    else:
        refusals.require_apart(opened.storage, to_location(destination).open())
    plan = plan_store(opened, segment_bytes=segment_bytes, in_place=destination is None)
    executor = executor or SerialExecutor()
    refusals.require_memory(executor, plan)
    if destination is None:
        # tasks read the snapshot that was planned, whatever this object shows when they are done
        result, opened = opened, TraceStore.at(opened.storage, opened.version, opened.verify_mode)
    else:
        result = _open_destination(opened, destination, plan, backend, codec)
    entries = _copy(CopySegment(opened, result), plan, executor, observer)
    _publish(opened, result, plan, entries)
    seconds = time.perf_counter() - start
    logger.info("sorted %d traces into %d segments in %.1f s", plan.num_moved, len(plan.tasks), seconds)
    if observer is not None:
        observer(PhaseFinished("sort", seconds))
    return result


def _copy(copy: CopySegment, plan: SortPlan, executor: Executor, observer: Observer | None) -> dict[int, SegmentEntry]:
    """Make the outputs that are missing; entries of all outputs by number."""
    found = {task.index: copy.destination.find_segment(copy.segment_id(task)) for task in plan.tasks}
    entries = {index: entry for index, entry in found.items() if entry is not None}
    left = [task for task in plan.tasks if task.index not in entries]
    is_alike = (copy.destination.backend, copy.destination.identity.codec) == (
        copy.source.backend,
        copy.source.identity.codec,
    )
    share = sum(task.nbytes for task in left) / max(plan.num_bytes, 1)
    refusals.require_space(copy.destination.storage, round(share * (plan.disk_bytes if is_alike else plan.num_bytes)))
    tasks = {task.index: task for task in left}
    done, nbytes = plan.num_moved - sum(task.total for task in left), 0
    if observer is not None:
        observer(PhaseStarted("sort", plan.num_moved, done))
    for index, entry in executor.run(copy, left, label="sort"):
        entries[index] = entry
        done += tasks[index].total
        nbytes += tasks[index].nbytes
        if observer is not None:
            observer(PhaseAdvanced("sort", done, plan.num_moved, nbytes=nbytes))
    return entries


def _publish(source: TraceStore, result: TraceStore, plan: SortPlan, entries: dict[int, SegmentEntry]) -> None:
    in_place = result.storage.url == source.storage.url
    listed = entries | {output: source.segments[place] for output, place in plan.kept}
    # of an output that was quarantined the next attempt goes where the plan wants it, between those that are there
    present = {entry.id for entry in result.segments}
    replaced = [entry.id for entry in source.segments if in_place]
    replaced = replaced or [entry.id for entry in listed.values() if entry.id in present]
    result.publish([entry for _, entry in sorted(listed.items())], replaces=replaced)


def _require_own_format(backend: str | None, codec: CodecChoice | None) -> None:
    if backend is not None or codec is not None:
        message = "A store sorted in place keeps its backend and codec; give a destination for others."
        raise InvalidInputError(message, backend=backend, codec=codec)


def _open_destination(
    source: TraceStore, destination: StorePath, plan: SortPlan, backend: str | None, codec: CodecChoice | None
) -> TraceStore:
    place = to_location(destination, backend=source.backend, codec=source.identity.codec)
    place = replace(place, backend=backend or place.backend, codec=place.codec if codec is None else codec)
    origin = {} if source.job is None else source.job.fields
    job = Job(
        "sort",
        {
            **{
                name: origin[name]
                for name in ("simulator", "fingerprint", "build", "collapse_rejection")
                if name in origin
            },
            "source": source.uuid,
            "snapshot": source.snapshot_id,
            "segment_bytes": plan.segment_bytes,
            "plan": plan.digest,
            **({} if place.backend == source.backend else {"backend": place.backend}),
            **({} if place.codec == source.identity.codec else {"codec": place.codec}),
        },
    )
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, job.hash))
    try:
        return TraceStore.create(place, job=job, attributes=source.attributes, uuid=identity)
    except StoreExistsError:
        if not place.open().exists(IDENTITY):
            raise
        return TraceStore.open_or_create(place, job)
