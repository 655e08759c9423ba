"""The command line: one function a verb, each calling one public function and printing one result.

Results go to stdout, progress and messages to stderr. Exit status: 0 good, 1 a problem was found or the work
failed, 2 wrong usage, 130 interrupted. Rooms are imported inside the verbs, so that ``--help`` is instant.
"""

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tracestore.errors import InvalidInputError, TracestoreError
from tracestore.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tracestore.inference import Posterior
    from tracestore.store.trace_store import TraceStore

__all__ = ["main", "make_parser", "read_observations"]

OK, PROBLEM, INTERRUPTED = 0, 1, 130
ENGINES = ("prior", "is", "ic", "lmh", "rmh")
MARKOV_ENGINES = ("lmh", "rmh")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments
        The words after ``tracestore``; those of the process by default.

    Returns
    -------
    int
        The exit status.
    """
    args = make_parser().parse_args(arguments)
    logging.getLogger("tracestore").setLevel(logging.DEBUG if args.debug else logging.WARNING)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger("tracestore").addHandler(handler)
    try:
        status: int = args.verb(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _end_line()
        print("Interrupted." if args.only_reads else "Interrupted; the same command continues.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left, for example `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PROBLEM
    except (TracestoreError, OSError) as error:
        if args.debug:
            raise
        _end_line()
        print(f"tracestore {args.command}: error: {error}", file=sys.stderr)
        for note in getattr(error, "__notes__", []):
            print(f"  {note}", file=sys.stderr)
        return PROBLEM
    finally:
        logging.getLogger("tracestore").removeHandler(handler)
    return status


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="tracestore", description="Record, sort, learn from and infer with execution traces of simulators."
    )
    parser.add_argument("--version", action=_Version)
    verbs = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="log in detail, and show where an error comes from")

    def add(verb: Callable[[argparse.Namespace], int], *, only_reads: bool = False) -> argparse.ArgumentParser:
        name, text = verb.__name__.removeprefix("run_"), (verb.__doc__ or "").strip()
        command = verbs.add_parser(name, help=text, description=text, parents=[common])
        command.set_defaults(verb=verb, only_reads=only_reads, parser=command)
        return command

    simulate = add(run_simulate)
    _add_simulator(simulate)
    simulate.add_argument("store", metavar="STORE", help="the store to write")
    simulate.add_argument("--num-traces", metavar="N", type=_positive, required=True, help="traces to record")
    _add_workers_and_seed(simulate)
    simulate.add_argument("--append", action="store_true", help="add to a store that exists already")

    sort = add(run_sort)
    sort.add_argument("source", metavar="SRC", help="the store to read")
    sort.add_argument("destination", metavar="DST", help="the store to write")

    info = add(run_info, only_reads=True)
    info.add_argument("store", metavar="STORE", help="the store, or a posterior")
    info.add_argument("--json", action="store_true", help="print JSON for programs")

    train = add(run_train)
    train.add_argument("store", metavar="STORE", help="the store to learn from")
    train.add_argument("network", metavar="NETWORK", help="the network to write")

    infer = add(run_infer)
    _add_simulator(infer)
    infer.add_argument("output", metavar="OUT", help="the posterior to write")
    infer.add_argument("--engine", choices=ENGINES, required=True, help="how to infer")
    infer.add_argument("--observe", metavar="FILE", required=True, help="JSON object or npz archive, name to numbers")
    infer.add_argument("--network", metavar="NETWORK", help="a trained network (engine ic)")
    infer.add_argument("--num-draws", metavar="N", type=_positive, required=True, help="draws, all chains together")
    infer.add_argument("--chains", metavar="C", type=_positive, help="Markov chains (engines lmh, rmh; default 4)")
    _add_workers_and_seed(infer)

    report = add(run_report, only_reads=True)
    report.add_argument("posteriors", metavar="POSTERIOR", nargs="+", help="posteriors of the same observation")
    report.add_argument("--html", metavar="FILE", required=True, help="the file to write")
    report.add_argument("--truth", metavar="FILE", help="what is true, if known: a JSON object, name to number")

    verify = add(run_verify, only_reads=True)
    verify.add_argument("store", metavar="STORE", help="the store")
    verify.add_argument("--json", action="store_true", help="print JSON for programs")
    return parser


# ---------------------------------------------------------------------------------------------------------- verbs


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

    facts = _describe(TraceStore.open(args.store))
    if args.json:
        print(json.dumps(facts, indent=2, default=str))
        return OK
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, item in value.items():
                print(f"  {key}: {_text(item)}")
        else:
            print(f"{name}: {_text(value)}")
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
    if args.engine == "ic" and args.network is None:
        args.parser.error("the engine ic needs --network; train one with: tracestore train STORE NETWORK")
    if args.engine != "ic" and args.network is not None:
        args.parser.error(f"--network belongs to the engine ic; the engine {args.engine} uses none")
    if args.engine not in MARKOV_ENGINES and args.chains is not None:
        args.parser.error(f"--chains belongs to the engines lmh and rmh; the engine {args.engine} has none")
    from tracestore import inference
    from tracestore.simulators.catalog import resolve

    simulator = resolve(args.simulator)
    observations = read_observations(args.observe)
    with Progress() as progress:
        common = {"num_draws": args.num_draws, "seed": args.seed, "workers": args.workers, "observer": progress}
        match args.engine:
            case "prior":
                posterior = inference.prior(simulator, observations, args.output, **common)
            case "is":
                posterior = inference.importance(simulator, observations, args.output, **common)
            case "ic":
                from tracestore.training import load_network

                network = load_network(args.network)
                posterior = inference.ic(simulator, observations, args.output, network=network, **common)
            case "lmh":
                posterior = inference.lmh(simulator, observations, args.output, chains=args.chains or 4, **common)
            case _:
                posterior = inference.rmh(simulator, observations, args.output, chains=args.chains or 4, **common)
    _print_posterior(posterior)
    return OK


def run_report(args: argparse.Namespace) -> int:
    """Show posteriors side by side in one HTML file."""
    from tracestore import inference
    from tracestore.inference.report import write_report

    truth = None
    if args.truth is not None:
        truth = {name: float(value) for name, value in read_observations(args.truth).items()}
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
            print(problem)
        print(f"{len(problems)} problems in {args.store}" if problems else f"{args.store} is intact")
    return PROBLEM if problems else OK


# ---------------------------------------------------------------------------------------------------------- input


def read_observations(path: str | Path) -> "dict[str, NDArray[np.float64]]":
    """Read named numbers from a file.

    Parameters
    ----------
    path
        A ``.json`` file with one object, name to number or nested list of numbers; or a ``.npz`` archive.

    Returns
    -------
    dict
        Arrays by name; a number is an array of shape ().

    Raises
    ------
    InvalidInputError
        When the file does not exist, is of another kind, or holds something else than numbers.
    """
    import numpy as np

    path = Path(path)
    if not path.is_file():
        raise InvalidInputError(f"There is no file {str(path)!r}.", path=str(path))
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as archive:
                found: Mapping[str, object] = {name: archive[name] for name in archive.files}
        except (ValueError, OSError) as error:
            raise InvalidInputError(f"{str(path)!r} is not an npz archive of numbers: {error}") from error
    elif path.suffix == ".json":
        try:
            found = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise InvalidInputError(f"{str(path)!r} is not JSON: {error}") from error
    else:
        raise InvalidInputError(f"{str(path)!r} has the ending {path.suffix!r}; give a .json or an .npz file.")
    if not isinstance(found, dict) or not found:
        raise InvalidInputError(f"{str(path)!r} must hold one JSON object, name to number or list of numbers.")
    return {name: _numbers(name, value, path) for name, value in found.items()}


def _numbers(name: str, value: object, path: Path) -> "NDArray[np.float64]":
    import numpy as np

    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        message = f"{name!r} in {str(path)!r} must be a number or a rectangular list of numbers; got {value!r:.60}."
        raise InvalidInputError(message, name=name)
    return array.astype(np.float64)


# --------------------------------------------------------------------------------------------------------- output


def _describe(store: "TraceStore") -> dict[str, object]:
    segments = list(store.segments)
    facts: dict[str, object] = {
        "path": str(store.path),
        "version": store.version,
        "traces": len(store),
        "failed": len(store.failures()),
        "trace types": len(store.trace_types),
        "addresses": len(store.addresses),
        "segments": len(segments),
        "bytes": sum(segment.nbytes for segment in segments),
        "observations": {name: list(shape) for name, shape in store.observation_shapes.items()},
    }
    if store.job is not None:
        facts["job"] = {"verb": store.job.verb, **store.job.fields}
    return facts


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _report_failures(store: "TraceStore") -> None:
    reasons = Counter(store.failures().values())
    if not reasons:
        return
    print(f"{reasons.total():,} of them failed; most often:", file=sys.stderr)
    for reason, count in reasons.most_common(3):
        print(f"  {count:,} x {reason}", file=sys.stderr)


def _print_posterior(posterior: "Posterior") -> None:
    print(posterior)


def _end_line() -> None:
    if sys.stderr.isatty():
        print(file=sys.stderr)


# -------------------------------------------------------------------------------------------------------- parsing


def _add_simulator(command: argparse.ArgumentParser) -> None:
    text = "module:object, or gum, gum-marsaglia, branching, hmm, geometric, tau"
    command.add_argument("simulator", metavar="SIMULATOR", help=text)


def _add_workers_and_seed(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workers", metavar="W", type=_positive, default=1, help="processes (default 1)")
    command.add_argument("--seed", metavar="S", type=_seed, default=0, help="of all random draws (default 0)")


class _Version(argparse.Action):
    """Print the version; looked up only when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from tracestore import __version__

        print(f"tracestore {__version__}")
        parser.exit()


def _positive(text: str) -> int:
    number = _integer(text)
    if number < 1:
        message = f"must be at least 1; got {number}"
        raise argparse.ArgumentTypeError(message)
    return number


def _seed(text: str) -> int:
    number = _integer(text)
    if number < 0:
        message = f"must not be negative; got {number}"
        raise argparse.ArgumentTypeError(message)
    return number


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        message = f"must be a whole number; got {text!r}"
        raise argparse.ArgumentTypeError(message) from error


# ------------------------------------------------------------------------------------------------------- progress
