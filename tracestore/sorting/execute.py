"""Carry out a sort plan: independent copy tasks, one per output segment, then one publication.

Output ids derive from the plan, and a segment's bytes from its traces alone: any executor gives the same store, byte by
byte, and a repeated call does only what is missing. Nothing is published before all outputs are in place.
"""

import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from tracestore.errors import InsufficientSpaceError, InvalidInputError, PlanError, StoreError, StoreExistsError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.executors import Executor, SerialExecutor
from tracestore.formats.base import CodecChoice, SegmentEntry
from tracestore.sorting.plan import DEFAULT_SEGMENT_BYTES, SortPlan, SortTask, plan_sort
from tracestore.storage import Storage
from tracestore.store.fold import pending_receipts
from tracestore.store.identity import IDENTITY
from tracestore.store.job import Job
from tracestore.store.location import StorePath, to_location
from tracestore.store.manifest import read_manifest
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch

__all__ = ["CopySegment", "plan_store", "sort_store"]

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 32 * 2**20
"""Raw size of the pieces in which a task reads its traces."""

_TRACE_BYTES = 64
_SITE_BYTES = 32
"""Raw size of a trace's own columns, and of a site: a value, a log probability and two parameters."""

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class CopySegment:
    """Copies the traces of a task into an output segment; the same one in every process, as often as asked."""

    source: TraceStore
    destination: TraceStore
    prefix: str
    """Common part of the ids of all outputs."""

    def __call__(self, task: SortTask) -> tuple[int, SegmentEntry]:
        """Make the task's output unless it is there; its number and entry."""
        identity = self.segment_id(task.index)
        found = self.destination.find_segment(identity)
        if found is None:
            found = self.destination.write_segment(identity, self._read(task))
        return task.index, found

    def segment_id(self, index: int) -> str:
        """Name of an output segment."""
        return f"{self.prefix}-{index:06d}"

    def _read(self, task: SortTask) -> Iterator[TraceBatch]:
        indices = task.indices()
        per_block = max(1, _BLOCK_BYTES * len(indices) // max(task.nbytes, 1))
        for start in range(0, len(indices), per_block):
            yield self.source.take(indices[start : start + per_block])


def plan_store(source: TraceStore, *, segment_bytes: int = DEFAULT_SEGMENT_BYTES) -> SortPlan:
    """Plan to sort a store, and change nothing.

    Parameters
    ----------
    source
        The store.
    segment_bytes
        Raw size of an output segment.

    Raises
    ------
    InvalidInputError
        When ``segment_bytes`` is not positive.
    PlanError
        When the store holds no traces, or traces of several simulators.
    StoreError
        When sealed segments are not part of a snapshot yet.

    Examples
    --------
    >>> import tempfile, tracestore as ts
    >>> from tracestore.simulators.toys import geometric
    >>> store = ts.simulate(geometric, tempfile.mkdtemp() + "/traces", num_traces=100, seed=1)
    >>> plan = plan_store(store)
    >>> plan.num_traces, len(plan.tasks)
    (100, 1)
    """
    manifest = read_manifest(source.storage, source.version)
    pending = [receipt.name for receipt, _ in pending_receipts(source.storage, manifest)]
    if pending:
        message = (
            f"{len(pending)} sealed segments of {source.storage.url} are not part of its newest snapshot "
            f"({_some(pending)}); repeat the call that wrote them, or call `TraceStore.open(path).fold()`."
        )
        raise StoreError(message, receipts=tuple(pending))
    simulators = sorted({str(job.fields["simulator"]) for job in manifest.jobs.values() if "simulator" in job.fields})
    if len(simulators) > 1:
        message = (
            f"{source.storage.url} mixes traces of several simulators ({_some(simulators)}); sort them in stores of "
            "their own."
        )
        raise PlanError(message, simulators=tuple(simulators))
    return plan_sort(source.runs, _trace_bytes(source), segment_bytes=segment_bytes)


def sort_store(
    source: TraceStore | StorePath,
    destination: StorePath,
    *,
    executor: Executor | None = None,
    segment_bytes: int = DEFAULT_SEGMENT_BYTES,
    backend: str | None = None,
    codec: CodecChoice | None = None,
    observer: Observer | None = None,
) -> TraceStore:
    """Copy a store so that traces are ordered by number of sites, trace type and layout.

    An interrupted call is continued by repeating it: outputs that are in place are kept. Serial and parallel executors
    give byte-identical stores. Failed traces are copied like all others.

    Parameters
    ----------
    source
        A store or its path; it is not changed.
    destination
        Where the sorted store shall be: a new path, or one that the same call began.
    executor
        Who copies; None copies in this process.
    segment_bytes
        Raw size of an output segment: about the memory that a task needs.
    backend, codec
        Format of the sorted store's segments and compression of its observations; those of the source by default.
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
        When the store holds no traces, or traces of several simulators.
    StoreError
        When sealed segments are not part of a snapshot yet, or a worker dies.
    ChecksumError
        When a byte of the source changed; names file and block.

    Examples
    --------
    >>> import tempfile, tracestore as ts
    >>> from tracestore.simulators.toys import geometric
    >>> folder = Path(tempfile.mkdtemp())
    >>> store = ts.simulate(geometric, folder / "traces", num_traces=100, seed=1)
    >>> ordered = ts.sort_store(store, folder / "sorted")
    >>> len(ordered), bool((np.diff(ordered.runs.num_sites) >= 0).all())
    (100, True)
    """
    start = time.perf_counter()
    opened = source if isinstance(source, TraceStore) else TraceStore.open(source)
    target = to_location(destination).open()
    _require_apart(opened.storage, target)
    plan = plan_store(opened, segment_bytes=segment_bytes)
    result = _open_destination(opened, destination, plan, backend, codec)
    prefix = xxhash.xxh3_64_hexdigest(f"{opened.snapshot_id} {plan.digest}".encode())
    copy = CopySegment(opened, result, prefix)
    entries = {task.index: result.find_segment(copy.segment_id(task.index)) for task in plan.tasks}
    left = [task for task in plan.tasks if entries[task.index] is None]
    _require_space(opened, result.storage, sum(task.total for task in left) / plan.num_traces)
    done = plan.num_traces - sum(task.total for task in left)
    if observer is not None:
        observer(PhaseStarted("sort", plan.num_traces, done))
    for index, entry in (executor or SerialExecutor()).run(copy, left, label="sort"):
        entries[index] = entry
        done += plan.tasks[index].total
        if observer is not None:
            observer(PhaseAdvanced("sort", done, plan.num_traces))
    result.publish([entry for _, entry in sorted(entries.items()) if entry is not None])
    seconds = time.perf_counter() - start
    logger.info("sorted %d traces into %d segments in %.1f s", plan.num_traces, len(plan.tasks), seconds)
    if observer is not None:
        observer(PhaseFinished("sort", seconds))
    return result


def _open_destination(
    source: TraceStore, destination: StorePath, plan: SortPlan, backend: str | None, codec: CodecChoice | None
) -> TraceStore:
    place = to_location(destination, backend=backend or source.backend, codec=codec or source.identity.codec)
    origin = {} if source.job is None else source.job.fields
    job = Job(
        "sort",
        {
            **{name: origin[name] for name in ("simulator", "fingerprint") if name in origin},
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
        return TraceStore.create(
            place,
            job=job,
            attributes=source.attributes,
            uuid=identity,
        )
    except StoreExistsError:
        if not place.open().exists(IDENTITY):
            raise
        return TraceStore.open_or_create(place, job)


def _trace_bytes(source: TraceStore) -> NDArray[np.float64]:
    """Estimate the raw bytes of a trace of each run, from the run directory and the sizes of segments alone."""
    runs = source.runs
    observed = np.array(
        [
            sum(
                np.dtype(info.dtype).itemsize * int(np.prod(info.shape))
                for info in entry.observations
                if not info.constant
            )
            for entry in source.segments
        ],
        np.float64,
    )
    flat = _TRACE_BYTES + _SITE_BYTES * runs.num_sites.astype(np.float64)
    estimated = np.bincount(runs.segment, flat * runs.num_traces, minlength=len(observed))
    stored = np.array(
        [entry.nbytes - size * entry.num_traces for entry, size in zip(source.segments, observed, strict=True)]
    )
    # vector-valued draws make sites larger than that; never believe in less, since what is constant takes memory, too
    factor = np.maximum(1.0, stored / np.maximum(estimated, 1.0))
    return np.asarray(flat * factor[runs.segment] + observed[runs.segment])


def _require_apart(source: Storage, destination: Storage) -> None:
    inside, outside = (Path(one.url).resolve() if one.is_local else Path(one.url) for one in (source, destination))
    if inside == outside or inside in outside.parents or outside in inside.parents:
        message = f"The sorted store {destination.url} would overlap its source {source.url}; choose a path beside it."
        raise InvalidInputError(message, source=source.url, destination=destination.url)


def _require_space(source: TraceStore, destination: Storage, share: float) -> None:
    needed = round(share * sum(entry.nbytes for entry in source.segments))
    free = destination.free_bytes()
    if free is not None and needed > free:
        message = (
            f"Sorting into {destination.url} needs {needed / 1e9:.3g} GB, but only {free / 1e9:.3g} GB are free there; "
            f"make room for {(needed - free) / 1e9:.3g} GB more, or choose another disk."
        )
        raise InsufficientSpaceError(message, needed=needed, free=free)


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
