"""The verb that checks whether an engine's posteriors are right on average. Rooms are imported inside the verb."""

import argparse
import json

from tracestore.cli.simulator_options import add_simulator_options, load_simulator
from tracestore.cli.words import parse_positive, parse_whole
from tracestore.progress import Progress

__all__ = ["add_calibrate_options", "run_calibrate"]

ENGINES = ("is", "ic", "lmh", "rmh")
MARKOV_ENGINES = ("lmh", "rmh")
DEFAULT_CHAINS = 4


def add_calibrate_options(parser: argparse.ArgumentParser) -> None:
    """Give the verb its words.

    Parameters
    ----------
    parser
        The parser of the verb.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_calibrate_options(parser)
    >>> parser.parse_args(["gum", "calibration", "--engine", "is"]).num_trials
    200
    """
    add_simulator_options(parser)
    parser.add_argument("output", metavar="OUT", help="folder for truths, posteriors and the result")
    parser.add_argument("--engine", choices=ENGINES, required=True, help="how to infer")
    parser.add_argument("--network", metavar="NETWORK", help="a trained network (engine ic)")
    text = "truths to draw from the prior and to infer (default 200)"
    parser.add_argument("--num-trials", metavar="N", type=parse_positive, default=200, help=text)
    text = "draws for each, all chains together (default 1000)"
    parser.add_argument("--num-draws", metavar="N", type=parse_positive, default=1000, help=text)
    parser.add_argument(
        "--chains", metavar="C", type=parse_positive, help="Markov chains (engines lmh, rmh; default 4)"
    )
    text = "a variable to rank, by name or address; may be repeated (default all)"
    parser.add_argument("--name", metavar="NAME", action="append", help=text)
    parser.add_argument("--seed", metavar="S", type=parse_whole, default=0, help="of all random draws (default 0)")
    parser.add_argument("--workers", metavar="W", type=parse_positive, default=1, help="processes (default 1)")
    parser.add_argument("--html", metavar="FILE", help="also draw the ranks and the coverage on a page")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.set_defaults(parser=parser)


def run_calibrate(args: argparse.Namespace) -> int:
    """Check whether truths drawn from the prior rank uniformly in their posteriors; the exit status is 1 when not."""
    _check_words(args)
    from tracestore.inference.calibration import calibrate

    network = None
    if args.engine == "ic":
        from tracestore.training import load_network

        network = load_network(args.network)
    simulator = load_simulator(args)
    with Progress() as progress:
        found = calibrate(
            simulator,
            args.output,
            engine=args.engine,
            network=network,
            num_trials=args.num_trials,
            num_draws=args.num_draws,
            chains=args.chains or DEFAULT_CHAINS,
            names=args.name,
            seed=args.seed,
            workers=args.workers,
            observer=progress,
        )
    if args.html is not None:
        from tracestore.reports.calibration_page import write_calibration_page

        write_calibration_page(found, args.html)
    print(json.dumps(found.to_json(), indent=2) if args.json else f"{args.output}: {found}")
    return found.exit_code


def _check_words(args: argparse.Namespace) -> None:
    if args.engine == "ic" and args.network is None:
        args.parser.error("the engine ic needs --network; train one with: tracestore train STORE NETWORK")
    if args.engine != "ic" and args.network is not None:
        args.parser.error(f"--network belongs to the engine ic; the engine {args.engine} uses none")
    if args.engine not in MARKOV_ENGINES and args.chains is not None:
        args.parser.error(f"--chains belongs to the engines lmh and rmh; the engine {args.engine} has none")
