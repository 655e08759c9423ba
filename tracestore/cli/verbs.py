"""The verbs: each calls one public function and prints one result. Rooms are imported inside the verbs.

Results go to stdout, progress and remarks to stderr.
"""

import argparse
import sys
from collections import Counter
from typing import TYPE_CHECKING

from tracestore.cli.executor_options import open_executor
from tracestore.cli.simulator_options import load_simulator
from tracestore.errors import InvalidInputError
from tracestore.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tracestore.store.trace_store import TraceStore

__all__ = ["run_report", "run_simulate"]

OK = 0


def run_simulate(args: argparse.Namespace) -> int:
    """Run a simulator and record its traces."""
    from tracestore.execution.generate import simulate
    from tracestore.executors import ProcessExecutor, SerialExecutor
    from tracestore.store.location import StoreLocation

    simulator = load_simulator(args)
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
            max_sites=args.max_sites,
            collapse_rejection=args.collapse_rejection,
            simulator_processes=args.simulator_processes,
            timeout=args.timeout,
            observer=progress,
        )
    print(f"{len(store):,} traces of {simulator.name} in {args.store}")
    _report_failures(store)
    return OK


def run_report(args: argparse.Namespace) -> int:
    """Show posteriors side by side in one HTML file."""
    from tracestore.cli.numbers_file import read_numbers
    from tracestore.posteriors import open_posterior
    from tracestore.reports.report import write_report

    truth = None
    if args.truth is not None:
        truth = {name: _single(name, value) for name, value in read_numbers(args.truth).items()}
    posteriors = [open_posterior(path) for path in args.posteriors]
    write_report(posteriors, args.html, truth=truth, calibration=args.calibration)
    print(f"report in {args.html}")
    return OK


def _report_failures(store: "TraceStore") -> None:
    reasons = Counter(store.failures().values())
    if not reasons:
        return
    print(f"{reasons.total():,} of them failed; most often:", file=sys.stderr)
    for reason, count in reasons.most_common(3):
        print(f"  {count:,} x {reason}", file=sys.stderr)


def _single(name: str, array: "NDArray[np.float64]") -> float:
    if array.size != 1:
        raise InvalidInputError(f"The true value of {name!r} must be one number; got {array.size}.", name=name)
    return float(array.item())
