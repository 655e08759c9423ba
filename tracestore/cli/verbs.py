"""The verbs: each calls one public function and prints one result. Rooms are imported inside the verbs.

Results go to stdout, progress and remarks to stderr.
"""

import argparse
import dataclasses
import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

from tracestore.errors import InvalidInputError
from tracestore.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from tracestore.inference import Posterior
    from tracestore.store.trace_store import TraceStore

__all__ = ["run_infer", "run_info", "run_report", "run_simulate", "run_sort", "run_train", "run_verify"]

OK, PROBLEM = 0, 1
MARKOV_ENGINES = ("lmh", "rmh")
DEFAULT_CHAINS = 4


def run_simulate(args: argparse.Namespace) -> int:
    """Run a simulator and record its traces."""
    from tracestore.execution.generate import simulate
    from tracestore.simulators.catalog import resolve

    simulator = resolve(args.simulator)
    with Progress() as progress:
        store = simulate(
            simulator,
            args.store,
            num_traces=args.num_traces,
            workers=args.workers,
            seed=args.seed,
            append=args.append,
            observer=progress,
        )
    print(f"{len(store):,} traces of {simulator.name} in {args.store}")
    _report_failures(store)
    return OK


def run_sort(args: argparse.Namespace) -> int:
    """Copy a store, sorted by trace type."""
    from tracestore.sorting.execute import sort_store

    with Progress() as progress:
        store = sort_store(args.source, args.destination, observer=progress)
    print(f"{len(store):,} traces of {len(store.trace_types):,} trace types in {args.destination}")
    return OK


def run_info(args: argparse.Namespace) -> int:
    """Say what a store holds."""
    from tracestore.store.trace_store import TraceStore

    store = TraceStore.open(args.store)
    if args.json:
        print(json.dumps(_facts(store), indent=2))
    else:
        print(_description(store))
    return OK


def run_train(args: argparse.Namespace) -> int:
    """Train a proposal network on a store."""
    from tracestore.training import train

    with Progress() as progress:
        train(args.store, args.network, observer=progress)
    print(f"network trained on {args.store} in {args.network}")
    return OK


def run_infer(args: argparse.Namespace) -> int:
    """Infer what happened inside a simulator, given an observation."""
    _check_infer_words(args)
    from tracestore import inference
    from tracestore.cli.numbers_file import read_numbers
    from tracestore.simulators.catalog import resolve

    engines: dict[str, Callable[..., Posterior]] = {
        "prior": inference.prior,
        "is": inference.importance,
        "ic": inference.ic,
        "lmh": inference.lmh,
        "rmh": inference.rmh,
    }
    inputs: list[object] = [resolve(args.simulator)]
    if args.engine != "prior":
        inputs.append(read_numbers(args.observe))
    elif args.observe is not None:
        print("the engine prior draws its own observations; --observe is not used", file=sys.stderr)
    options: dict[str, object] = {"num_draws": args.num_draws, "seed": args.seed, "workers": args.workers}
    if args.engine in MARKOV_ENGINES:
        options["chains"] = args.chains or DEFAULT_CHAINS
    if args.engine == "ic":
        from tracestore.training import load_network

        options["network"] = load_network(args.network)
    with Progress() as progress:
        posterior = engines[args.engine](*inputs, args.output, **options, observer=progress)
    _print_posterior(posterior)
    return OK


def _check_infer_words(args: argparse.Namespace) -> None:
    engine = args.engine
    if engine != "prior" and args.observe is None:
        args.parser.error(f"the engine {engine} needs --observe FILE")
    if engine == "ic" and args.network is None:
        args.parser.error("the engine ic needs --network; train one with: tracestore train STORE NETWORK")
    if engine != "ic" and args.network is not None:
        args.parser.error(f"--network belongs to the engine ic; the engine {engine} uses none")
    if engine not in MARKOV_ENGINES and args.chains is not None:
        args.parser.error(f"--chains belongs to the engines lmh and rmh; the engine {engine} has none")


def run_report(args: argparse.Namespace) -> int:
    """Show posteriors side by side in one HTML file."""
    from tracestore import inference
    from tracestore.cli.numbers_file import read_numbers
    from tracestore.inference.report import write_report

    truth = None
    if args.truth is not None:
        truth = {name: _single(name, value) for name, value in read_numbers(args.truth).items()}
    posteriors = [inference.open_posterior(path) for path in args.posteriors]
    write_report(posteriors, args.html, truth=truth)
    print(f"report in {args.html}")
    return OK


def run_verify(args: argparse.Namespace) -> int:
    """Read every byte of a store and report what is wrong."""
    from tracestore.store import verify
    from tracestore.store.trace_store import TraceStore

    problems = verify(TraceStore.open(args.store), deep=True)
    if args.json:
        print(json.dumps({"store": args.store, "problems": [dataclasses.asdict(p) for p in problems]}, indent=2))
    else:
        for problem in problems:
            print(f"{problem.path}: {problem.message}")
        print(f"{len(problems)} problems in {args.store}" if problems else f"{args.store} is intact")
    return PROBLEM if problems else OK


def _facts(store: "TraceStore") -> dict[str, object]:
    return {
        "path": str(store.path),
        "version": store.version,
        "snapshot": store.snapshot_id,
        **dataclasses.asdict(store.stats()),
        "observations": {name: list(shape) for name, shape in store.observation_shapes.items()},
        "job": None if store.job is None else {"verb": store.job.verb, **store.job.fields},
    }


def _description(store: "TraceStore") -> str:
    stats = store.stats()
    shapes = {name: "x".join(map(str, shape)) or "number" for name, shape in store.observation_shapes.items()}
    lines = [
        f"{store.path}, version {store.version}",
        f"  traces        {stats.num_traces:,}, of them {stats.num_failed:,} failed",
        f"  trace types   {stats.num_trace_types:,} ({stats.num_layouts:,} layouts)",
        f"  addresses     {stats.num_addresses:,}",
        f"  sites         {stats.num_sites:,}, at most {stats.max_sites:,} in one trace",
        f"  observations  {', '.join(f'{name} ({shape})' for name, shape in shapes.items()) or 'none'}",
        f"  on disk       {_size(stats.nbytes)} in {stats.num_segments:,} segments",
        f"                observations {_size(stats.observation_bytes)}, sites {_size(stats.site_bytes)}",
        f"  simulating    {stats.seconds:.1f} s",
    ]
    if store.job is not None:
        lines.append(f"  job           {store.job.verb}")
        lines += [f"    {name} = {json.dumps(value)}" for name, value in store.job.fields.items()]
    return "\n".join(lines)


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB"


def _report_failures(store: "TraceStore") -> None:
    reasons = Counter(store.failures().values())
    if not reasons:
        return
    print(f"{reasons.total():,} of them failed; most often:", file=sys.stderr)
    for reason, count in reasons.most_common(3):
        print(f"  {count:,} x {reason}", file=sys.stderr)


def _print_posterior(posterior: "Posterior") -> None:
    print(posterior)
    if posterior.engine == "prior":
        pass  # equal weights, no observation: nothing to judge
    elif posterior.is_weighted:
        evidence = f"{posterior.log_evidence:.4f} +- {posterior.log_evidence_se:.4f}"
        print(f"log evidence {evidence}, ESS {posterior.ess:.0f}, k-hat {posterior.khat:.2f}")
    else:
        print(f"{posterior.num_chains} chains, acceptance {posterior.acceptance:.2f}, ESS {posterior.ess:.0f}")
    print(posterior.summary())
    if posterior.num_failed:
        print(f"{posterior.num_failed:,} draws failed in the simulator and have weight zero", file=sys.stderr)


def _single(name: str, array: "NDArray[np.float64]") -> float:
    if array.size != 1:
        raise InvalidInputError(f"The true value of {name!r} must be one number; got {array.size}.", name=name)
    return float(array.item())
