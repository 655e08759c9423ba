"""The verbs that look after a store: each calls one public function and prints one result, as JSON if asked.

Results go to stdout, progress and remarks to stderr. Rooms are imported inside the verbs.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from tracestore.cli.executor_options import open_executor
from tracestore.progress import Progress

if TYPE_CHECKING:
    from tracestore.store.trace_store import TraceStore

__all__ = [
    "run_compact",
    "run_convert",
    "run_export",
    "run_gc",
    "run_info",
    "run_quarantine",
    "run_recover",
    "run_verify",
]

OK, PROBLEM = 0, 1


def run_info(args: argparse.Namespace) -> int:
    """Say what a store holds."""
    from tracestore.store.trace_store import TraceStore

    store = TraceStore.open(args.store)
    return _answer(args, _facts(store), _description(store))


def run_verify(args: argparse.Namespace) -> int:
    """Check a store and report what is wrong; --deep reads every byte and recomputes the log probabilities."""
    from tracestore.store import verify
    from tracestore.store.trace_store import TraceStore

    with Progress() as progress:
        problems = verify(TraceStore.open(args.store), deep=args.deep, observer=progress)
    lines = [f"{problem.path}: {problem.message}" for problem in problems]
    sound = "is intact" if args.deep else "shows no problem; --deep reads every byte"
    lines.append(f"{len(problems)} problems in {args.store}" if problems else f"{args.store} {sound}")
    facts = {"store": args.store, "deep": args.deep, "problems": [dataclasses.asdict(one) for one in problems]}
    _answer(args, facts, "\n".join(lines))
    return PROBLEM if problems else OK


def run_recover(args: argparse.Namespace) -> int:
    """Publish what a killed writer sealed, and fold what was not folded."""
    from tracestore.store import recover
    from tracestore.store.trace_store import TraceStore

    store = TraceStore.open(args.store)
    before = len(store)
    adopted = recover(store)
    facts = {"store": args.store, "adopted": adopted, "version": store.version, "num_traces": len(store)}
    text = (
        f"{len(adopted)} segments adopted; {len(store) - before:,} more traces visible, {len(store):,} in all, "
        f"version {store.version}"
    )
    return _answer(args, facts, text)


def run_gc(args: argparse.Namespace) -> int:
    """Remove what no snapshot has used for some time: replaced segments, dead unfinished work."""
    from tracestore.store import gc
    from tracestore.store.trace_store import TraceStore

    garbage = gc(TraceStore.open(args.store), older_than=args.older_than, dry_run=args.dry_run)
    if garbage.orphans:
        message = f"{len(garbage.orphans)} sealed segments are in no snapshot; `tracestore recover` publishes them"
        print(message, file=sys.stderr)
    verb = "would be removed" if args.dry_run else "removed"
    text = f"{len(garbage.segments)} segments and {len(garbage.staging)} unfinished ones {verb}"
    if not args.dry_run:
        text += f", {_size(garbage.nbytes)}"
    return _answer(args, {"store": args.store, "dry_run": args.dry_run, **dataclasses.asdict(garbage)}, text)


def run_quarantine(args: argparse.Namespace) -> int:
    """Take a damaged segment out of a store; what made its traces can make them again."""
    from tracestore.store import quarantine
    from tracestore.store.trace_store import TraceStore

    store = TraceStore.open(args.store)
    version = quarantine(store, args.segment, reason=args.reason)
    facts = {"store": args.store, "segment": args.segment, "version": version, "num_traces": len(store)}
    return _answer(args, facts, f"{args.segment} is not in version {version}, which has {len(store):,} traces")


def run_compact(args: argparse.Namespace) -> int:
    """Join small segments into large ones; the order of traces stays."""
    from tracestore.store import compact
    from tracestore.store.trace_store import TraceStore

    store = TraceStore.open(args.store)
    before = len(store.segments)
    start_method: Literal["fork", "spawn"] = "fork" if store.storage.is_local else "spawn"
    with open_executor(args, start_method=start_method) as executor, Progress() as progress:
        if executor is None:
            return OK
        options = {"segment_bytes": args.segment_bytes, "codec": args.codec}
        version = compact(store, **options, executor=executor, observer=progress)
    facts = {"store": args.store, "version": version, "num_segments": len(store.segments), "before": before}
    return _answer(args, facts, f"{before} segments became {len(store.segments)}, version {version}")


def run_convert(args: argparse.Namespace) -> int:
    """Copy a store to another backend, codec or place."""
    from tracestore.store import convert
    from tracestore.store.trace_store import TraceStore

    source = TraceStore.open(args.source)
    with Progress() as progress:
        copy = convert(source, args.destination, backend=args.backend, codec=args.codec, observer=progress)
    facts = {"store": args.destination, "backend": copy.backend, "num_traces": len(copy), "nbytes": copy.stats().nbytes}
    text = f"{len(copy):,} traces in {args.destination}, backend {copy.backend}, {_size(copy.stats().nbytes)}"
    return _answer(args, facts, text)


def run_export(args: argparse.Namespace) -> int:
    """Write the traces to a file for other programs."""
    from tracestore.store.export import export
    from tracestore.store.trace_store import TraceStore

    store = TraceStore.open(args.store)
    with Progress() as progress:
        path = export(store, args.output, to=args.to, observations=args.observation, observer=progress)
    nbytes = path.stat().st_size
    facts = {"store": args.store, "path": str(path), "to": args.to, "num_traces": len(store), "nbytes": nbytes}
    return _answer(args, facts, f"{len(store):,} traces in {path}, {_size(nbytes)}")


def _answer(args: argparse.Namespace, facts: Mapping[str, object], text: str) -> int:
    print(json.dumps(facts, indent=2) if args.json else text)
    return OK


def _facts(store: "TraceStore") -> dict[str, object]:
    return {
        "path": store.storage.url,
        "backend": store.backend,
        "codec": store.identity.codec,
        "version": store.version,
        "snapshot": store.snapshot_id,
        **dataclasses.asdict(store.stats()),
        "observations": {name: list(shape) for name, shape in store.observation_shapes.items()},
        "codecs": {name: dict(codecs) for name, codecs in store.codecs().items()},
        "quarantined": [dataclasses.asdict(one) for one in store.manifest.quarantined],
        "job": None if store.job is None else {"verb": store.job.verb, **store.job.fields},
    }


def _description(store: "TraceStore") -> str:
    stats = store.stats()
    shapes = {name: "x".join(map(str, shape)) or "number" for name, shape in store.observation_shapes.items()}
    lines = [
        f"{store.storage.url}, version {store.version}, backend {store.backend}",
        f"  traces        {stats.num_traces:,}, of them {stats.num_failed:,} failed",
        f"  trace types   {stats.num_trace_types:,} ({stats.num_layouts:,} layouts)",
        f"  addresses     {stats.num_addresses:,}",
        f"  sites         {stats.num_sites:,}, at most {stats.max_sites:,} in one trace",
        f"  observations  {', '.join(f'{name} ({shape})' for name, shape in shapes.items()) or 'none'}",
        f"  on disk       {_size(stats.nbytes)} in {stats.num_segments:,} segments",
        f"                observations {_size(stats.observation_bytes)}, sites {_size(stats.site_bytes)}",
        *(f"  codec         {name}: {_codecs(codecs)}" for name, codecs in store.codecs().items()),
        f"  simulating    {stats.seconds:.1f} s",
    ]
    if stats.num_states < stats.num_traces:
        lines.append(f"  states        {stats.num_states:,}; other traces share the sites of the one before")
    lines += [
        f"  quarantined   {one.id}, {one.num_traces:,} traces: {one.reason}" for one in store.manifest.quarantined
    ]
    if stats.num_pending:
        lines.append(
            f"  pending       {stats.num_pending} sealed segments that no snapshot has; recover publishes them"
        )
    if store.job is not None:
        lines.append(f"  job           {store.job.verb}")
        lines += [f"    {name} = {json.dumps(value)}" for name, value in store.job.fields.items()]
    return "\n".join(lines)


def _codecs(codecs: Mapping[str, int]) -> str:
    return ", ".join(f"{codec} in {num} segments" for codec, num in codecs.items())


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB"
