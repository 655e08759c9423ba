"""The verbs: each calls one public function and prints one result. Rooms are imported inside the verbs.

Results go to stdout, progress and remarks to stderr.
"""

import argparse
import sys
from collections import Counter
from typing import TYPE_CHECKING

from tracestore.cli.executor_options import open_executor
from tracestore.errors import InvalidInputError
from tracestore.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from tracestore.inference import Posterior
    from tracestore.store.trace_store import TraceStore

__all__ = ["run_infer", "run_report", "run_simulate"]

OK = 0
MARKOV_ENGINES = ("lmh", "rmh")
DEFAULT_CHAINS = 4


def run_simulate(args: argparse.Namespace) -> int:
    """Run a simulator and record its traces."""
    from tracestore.execution.generate import simulate
    from tracestore.executors import ProcessExecutor, SerialExecutor
    from tracestore.simulators.catalog import resolve
    from tracestore.store.location import StoreLocation

    simulator = resolve(args.simulator)
    with open_executor(args) as executor, Progress() as progress:
        if executor is None:
            return OK
        # on this machine workers are forked from this process, which has the simulator already
        is_here = isinstance(executor, SerialExecutor | ProcessExecutor)
        store = simulate(
            simulator,
            StoreLocation(args.store, backend=args.backend, codec=args.codec),
            num_traces=args.num_traces,
            workers=executor.workers if isinstance(executor, ProcessExecutor) else 1,
            executor=None if is_here else executor,
            seed=args.seed,
            append=args.append,
            observer=progress,
        )
    print(f"{len(store):,} traces of {simulator.name} in {args.store}")
    _report_failures(store)
    return OK


def run_infer(args: argparse.Namespace) -> int:
    """Infer what happened inside a simulator, given an observation."""
    _check_infer_words(args)
    from tracestore import inference
    from tracestore.cli.numbers_file import read_numbers
    from tracestore.simulators.catalog import resolve
    from tracestore.store.location import StoreLocation

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
        place = StoreLocation(args.output, backend=args.backend, codec=args.codec)
        posterior = engines[args.engine](*inputs, place, **options, observer=progress)
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
    from tracestore.reports.report import write_report

    truth = None
    if args.truth is not None:
        truth = {name: _single(name, value) for name, value in read_numbers(args.truth).items()}
    posteriors = [inference.open_posterior(path) for path in args.posteriors]
    write_report(posteriors, args.html, truth=truth)
    print(f"report in {args.html}")
    return OK


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
