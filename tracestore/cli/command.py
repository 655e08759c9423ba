"""From words to a verb: the parser, the exit status, and what an error or an interruption looks like.

Exit status: 0 good, 1 a problem was found or the work failed, 2 wrong usage, 130 interrupted.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

from tracestore.cli import verbs
from tracestore.errors import TracestoreError

__all__ = ["main", "make_parser"]

PROBLEM, INTERRUPTED = 1, 130
ENGINES = ("prior", "is", "ic", "lmh", "rmh")


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
        print("Interrupted." if args.only_reads else "Interrupted; the same command continues.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left, for example `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PROBLEM
    except (TracestoreError, OSError) as error:
        if args.debug:
            raise
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
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="log in detail, and show where an error comes from")

    def add(verb: Callable[[argparse.Namespace], int], *, only_reads: bool = False) -> argparse.ArgumentParser:
        name, text = verb.__name__.removeprefix("run_"), (verb.__doc__ or "").strip()
        command = commands.add_parser(name, help=text, description=text, parents=[common])
        command.set_defaults(verb=verb, only_reads=only_reads, parser=command)
        return command

    simulate = add(verbs.run_simulate)
    _add_simulator(simulate)
    simulate.add_argument("store", metavar="STORE", help="the store to write")
    simulate.add_argument("--num-traces", metavar="N", type=_positive, required=True, help="traces to record")
    _add_workers_and_seed(simulate)
    simulate.add_argument("--append", action="store_true", help="add to a store that exists already")

    sort = add(verbs.run_sort)
    sort.add_argument("source", metavar="SRC", help="the store to read")
    sort.add_argument("destination", metavar="DST", help="the store to write")

    info = add(verbs.run_info, only_reads=True)
    info.add_argument("store", metavar="STORE", help="the store, or a posterior")
    info.add_argument("--json", action="store_true", help="print JSON for programs")

    train = add(verbs.run_train)
    train.add_argument("store", metavar="STORE", help="the store to learn from")
    train.add_argument("network", metavar="NETWORK", help="the network to write")

    infer = add(verbs.run_infer)
    _add_simulator(infer)
    infer.add_argument("output", metavar="OUT", help="the posterior to write")
    infer.add_argument("--engine", choices=ENGINES, required=True, help="how to infer")
    infer.add_argument("--observe", metavar="FILE", help="JSON object or npz archive, name to numbers")
    infer.add_argument("--network", metavar="NETWORK", help="a trained network (engine ic)")
    infer.add_argument("--num-draws", metavar="N", type=_positive, required=True, help="draws, all chains together")
    infer.add_argument("--chains", metavar="C", type=_positive, help="Markov chains (engines lmh, rmh; default 4)")
    _add_workers_and_seed(infer)

    report = add(verbs.run_report, only_reads=True)
    report.add_argument("posteriors", metavar="POSTERIOR", nargs="+", help="posteriors of the same observation")
    report.add_argument("--html", metavar="FILE", required=True, help="the file to write")
    report.add_argument("--truth", metavar="FILE", help="what is true, if known: a JSON object, name to number")

    verify = add(verbs.run_verify, only_reads=True)
    verify.add_argument("store", metavar="STORE", help="the store")
    verify.add_argument("--json", action="store_true", help="print JSON for programs")
    return parser


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
