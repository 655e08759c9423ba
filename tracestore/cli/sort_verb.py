"""The verb that sorts a store: a plan to look at, or the work on any executor. Rooms are imported inside the verb."""

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Literal

from tracestore.cli.executor_options import open_executor
from tracestore.progress import Progress

if TYPE_CHECKING:
    from tracestore.sorting import SortPlan
    from tracestore.store.trace_store import TraceStore

__all__ = ["run_sort"]

OK = 0


def run_sort(args: argparse.Namespace) -> int:
    """Sort a store by trace type, into a new store or in place."""
    if args.destination is None and (args.backend is not None or args.codec is not None):
        args.parser.error("--backend and --codec need a DST; a store sorted in place keeps its own")
    if args.dry_run:
        return _show_plan(args)
    from tracestore.sorting import sort_store

    with open_executor(args, start_method=_start_method(args)) as executor, Progress() as progress:
        if executor is None:
            return OK
        store = sort_store(
            args.source,
            args.destination,
            executor=executor,
            segment_bytes=args.segment_bytes,
            backend=args.backend,
            codec=args.codec,
            observer=progress,
        )
    facts = {
        "store": store.storage.url,
        "version": store.version,
        "num_traces": len(store),
        "num_trace_types": len(store.trace_types),
        "num_segments": len(store.segments),
    }
    text = (
        f"{len(store):,} traces of {len(store.trace_types):,} trace types in {store.storage.url}, "
        f"{len(store.segments):,} segments"
    )
    print(json.dumps(facts, indent=2) if args.json else text)
    return OK


def _show_plan(args: argparse.Namespace) -> int:
    from tracestore.sorting import plan_store
    from tracestore.store.location import to_location
    from tracestore.store.trace_store import TraceStore

    store = TraceStore.open(args.source)
    plan = plan_store(store, segment_bytes=args.segment_bytes, in_place=args.destination is None)
    free = (store.storage if args.destination is None else to_location(args.destination).open()).free_bytes()
    print(json.dumps(_facts(store, plan, free), indent=2) if args.json else _description(plan, free))
    return OK


def _description(plan: "SortPlan", free: int | None) -> str:
    if not plan.tasks:
        return f"nothing to copy: {plan.num_traces:,} traces in {plan.num_segments:,} segments are sorted\n{plan}"
    known = "" if free is None else f"\n  {'free there':<32} {free / 1e9:.3g} GB"
    return f"{plan}{known}"


def _facts(store: "TraceStore", plan: "SortPlan", free: int | None) -> dict[str, object]:
    numbers = ("num_traces", "num_moved", "segment_bytes", "num_bytes", "disk_bytes", "peak_bytes", "peak_memory")
    return {
        "store": store.storage.url,
        "snapshot": store.snapshot_id,
        "num_tasks": len(plan.tasks),
        "num_kept": len(plan.kept),
        **{name: getattr(plan, name) for name in numbers},
        "free_bytes": free,
        "before": dataclasses.asdict(plan.before),
        "after": dataclasses.asdict(plan.after),
        "digest": plan.digest,
    }


def _start_method(args: argparse.Namespace) -> Literal["fork", "spawn"]:
    """Fork processes, unless an object store is involved: its client does not survive that."""
    places = (args.source, args.destination or "")
    return "spawn" if any("://" in place for place in places) else "fork"
