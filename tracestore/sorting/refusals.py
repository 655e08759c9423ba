"""What a sort refuses before it copies anything; each with what to do about it."""

from pathlib import Path

from tracestore.errors import InsufficientSpaceError, InvalidInputError, PlanError, StoreError
from tracestore.executors import Executor
from tracestore.sorting.plan import SortPlan
from tracestore.storage import Storage
from tracestore.store.fold import pending_receipts
from tracestore.store.manifest import read_manifest
from tracestore.store.trace_store import TraceStore

__all__ = [
    "require_apart",
    "require_folded",
    "require_memory",
    "require_movable",
    "require_one_kind",
    "require_sound",
    "require_space",
]

_MOST_NAMED = 5
_USABLE_MEMORY = 0.8
"""Share of a worker's memory limit that a task may need: schedulers pause workers above about that."""
_WORKER_MEMORY = 180_000_000
"""What a worker takes before its first task: the interpreter and its libraries."""


def require_folded(source: TraceStore) -> None:
    """Refuse a store with sealed segments that its snapshot lacks."""
    pending = [receipt.name for receipt, _ in pending_receipts(source.storage, source.manifest)]
    if pending:
        message = (
            f"{len(pending)} sealed segments of {source.storage.url} are not part of its newest snapshot "
            f"({_some(pending)}); repeat the call that wrote them, or call `TraceStore.open(path).fold()`."
        )
        raise StoreError(message, receipts=tuple(pending))


def require_one_kind(source: TraceStore) -> None:
    """Refuse traces of several simulators, and observations that differ in type or shape from segment to segment."""
    manifest = read_manifest(source.storage, source.version)
    simulators = sorted({str(job.fields["simulator"]) for job in manifest.jobs.values() if "simulator" in job.fields})
    if len(simulators) > 1:
        message = (
            f"{source.storage.url} mixes traces of several simulators ({_some(simulators)}); sort them in stores of "
            "their own."
        )
        raise PlanError(message, simulators=tuple(simulators))
    kinds: dict[str, dict[str, str]] = {}
    for entry in source.segments:
        for info in entry.observations:
            kind = f"{info.dtype} of shape {info.shape}"
            kinds.setdefault(info.name, {}).setdefault(kind, entry.id)
    for name, found in kinds.items():
        if len(found) > 1:
            listed = _some([f"{kind} in segment {identity}" for kind, identity in found.items()])
            message = (
                f"Observation {name!r} of {source.storage.url} is of several kinds: {listed}; write them to stores of "
                "their own, and sort these."
            )
            raise PlanError(message, name=name, kinds=tuple(found))


def require_sound(source: TraceStore) -> None:
    """Refuse a store whose damage shows without reading every byte: files that are missing or cut."""
    damaged = {
        entry.id: ": ".join(problems[0])
        for place, entry in enumerate(source.segments)
        if (problems := source.segment(place).file_problems())
    }
    if damaged:
        path, (identity, problem) = source.storage.url, next(iter(damaged.items()))
        message = (
            f"{len(damaged)} segments of {path} are damaged ({_some(list(damaged))}), the first: {problem}; "
            f"restore the files, or take each out: `tracestore quarantine {path} {identity} --reason TEXT`."
        )
        raise StoreError(message, segments=tuple(damaged))


def require_apart(source: Storage, destination: Storage) -> None:
    """Refuse a destination that is, holds or lies in the source."""
    inside, outside = (Path(one.url).resolve() if one.is_local else Path(one.url) for one in (source, destination))
    if inside == outside or inside in outside.parents or outside in inside.parents:
        message = (
            f"The sorted store {destination.url} would overlap its source {source.url}; choose a path beside it, or "
            "give no destination to sort in place."
        )
        raise InvalidInputError(message, source=source.url, destination=destination.url)


def require_movable(source: TraceStore) -> None:
    """Refuse to reorder results of inference in place: their order is that of chains and draws."""
    if source.job is not None and source.job.verb == "infer":
        message = f"{source.storage.url} is a posterior, whose draws are in order; sort it into a new store."
        raise PlanError(message, verb=source.job.verb)


def require_space(storage: Storage, needed: int) -> None:
    """Refuse when the result would not fit."""
    free = storage.free_bytes()
    if free is not None and needed > free:
        message = (
            f"Sorting into {storage.url} needs {needed / 1e9:.3g} GB, but only {free / 1e9:.3g} GB are free there; "
            f"make room for {(needed - free) / 1e9:.3g} GB more, or choose another disk."
        )
        raise InsufficientSpaceError(message, needed=needed, free=free)


def require_memory(executor: Executor, plan: SortPlan) -> None:
    """Refuse when a task would not fit into the memory of a worker."""
    limit = executor.memory_limit
    if limit is None:
        return
    usable = _USABLE_MEMORY * limit - _WORKER_MEMORY
    if plan.peak_memory > usable:
        suggestion = int(plan.segment_bytes * max(usable, 0.0) / plan.peak_memory)
        advice = f"use segments of at most {suggestion:,} bytes, or workers" if suggestion > 0 else "use workers"
        message = (
            f"A task needs up to {plan.peak_memory / 1e9:.3g} GB of memory beside {_WORKER_MEMORY / 1e9:.2g} GB for "
            f"the worker itself, but a worker may use {limit / 1e9:.3g} GB, of which a fifth is kept free; {advice} "
            "with more."
        )
        raise PlanError(message, needed=plan.peak_memory, limit=limit)


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
