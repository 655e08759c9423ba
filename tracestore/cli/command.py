"""From words to a verb: the parser, the exit status, and what an error or an interruption looks like.

Exit status: 0 good, 1 a problem was found or the work failed, 2 wrong usage, 130 interrupted, 143 told to stop.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

from tracestore.cli import store_verbs, verbs
from tracestore.cli.calibrate_verb import add_calibrate_options, run_calibrate
from tracestore.cli.compare_verb import add_compare_options, run_compare
from tracestore.cli.diagnose_verb import add_diagnose_options, run_diagnose
from tracestore.cli.executor_options import add_executor_options
from tracestore.cli.import_verb import add_import_options, run_import_pyprob
from tracestore.cli.infer_verb import add_infer_options, add_refine_options, run_infer, run_refine
from tracestore.cli.plan_verb import add_plan_options, run_plan
from tracestore.cli.profile_verb import add_profile_options, run_profile
from tracestore.cli.serve_verb import add_serve_options, run_serve
from tracestore.cli.simulator_options import add_length_cap, add_simulator_options
from tracestore.cli.sort_verb import run_sort
from tracestore.cli.surrogate_verb import add_surrogate_options, run_surrogate
from tracestore.cli.train_verb import add_online_options, add_train_options, run_train, run_train_online
from tracestore.cli.words import parse_codec, parse_duration, parse_positive, parse_size, parse_whole
from tracestore.errors import TracestoreError

__all__ = ["main", "make_parser"]

PROBLEM, INTERRUPTED = 1, 130


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
        name, text = verb.__name__.removeprefix("run_").replace("_", "-"), (verb.__doc__ or "").strip()
        command = commands.add_parser(name, help=text, description=text, parents=[common])
        command.set_defaults(verb=verb, only_reads=only_reads, parser=command)
        return command

    simulate = add(verbs.run_simulate)
    add_simulator_options(simulate)
    simulate.add_argument("store", metavar="STORE", help="the store to write")
    simulate.add_argument("--num-traces", metavar="N", type=parse_positive, required=True, help="traces to record")
    add_length_cap(simulate)
    _add_seed(simulate)
    add_executor_options(simulate)
    simulate.add_argument("--append", action="store_true", help="add to a store that exists already")
    text = "run the simulator in so many processes of its own, beside each worker: one that dies costs one trace"
    simulate.add_argument("--simulator-processes", metavar="N", type=parse_positive, default=0, help=text)
    text = "seconds after which a run in such a process is a recorded failure"
    simulate.add_argument("--timeout", metavar="SECONDS", type=float, help=text)
    text = "keep only the accepted pass of each rejection loop, to train for infer --amortize-rejection"
    simulate.add_argument("--collapse-rejection", action="store_true", help=text)
    _add_format(simulate, default="arrow")

    sort = add(run_sort)
    sort.add_argument("source", metavar="SRC", help="the store to read")
    sort.add_argument("destination", metavar="DST", nargs="?", help="the store to write (default: SRC, in place)")
    sort.add_argument("--dry-run", action="store_true", help="only say what would be done, and what it takes")
    _add_segment_bytes(sort, "raw size of a segment", "; a task needs two to four times that in memory")
    _add_format(sort, default=None)
    add_executor_options(sort)
    sort.add_argument("--json", action="store_true", help="print JSON for programs")

    add_plan_options(add(run_plan, only_reads=True))
    add_import_options(add(run_import_pyprob))

    _add_training_verbs(add)

    add_infer_options(add(run_infer))
    add_refine_options(add(run_refine))
    add_diagnose_options(add(run_diagnose, only_reads=True))
    add_calibrate_options(add(run_calibrate))
    add_compare_options(add(run_compare, only_reads=True))
    add_serve_options(add(run_serve, only_reads=True))
    add_profile_options(add(run_profile, only_reads=True))

    _add_report(add)
    _add_store_verbs(add)
    return parser


def _add_report(add: Callable[..., argparse.ArgumentParser]) -> None:
    report = add(verbs.run_report, only_reads=True)
    report.add_argument("posteriors", metavar="POSTERIOR", nargs="+", help="posteriors of the same observation")
    report.add_argument("--html", metavar="FILE", required=True, help="the file to write")
    report.add_argument("--truth", metavar="FILE", help="what is true, if known: a JSON object, name to number")
    text = "a folder that `calibrate` wrote, to show beside the posteriors; may be repeated"
    report.add_argument("--calibration", metavar="DIR", action="append", help=text)


def _add_training_verbs(add: Callable[..., argparse.ArgumentParser]) -> None:
    add_train_options(add(run_train))
    add_online_options(add(run_train_online))
    add_surrogate_options(add(run_surrogate))


def _add_store_verbs(add: Callable[..., argparse.ArgumentParser]) -> None:
    def of_store(verb: Callable[[argparse.Namespace], int], *, only_reads: bool = False) -> argparse.ArgumentParser:
        command = add(verb, only_reads=only_reads)
        command.add_argument("store", metavar="STORE", help="the store, or a posterior")
        return command

    info = of_store(store_verbs.run_info, only_reads=True)
    verify = of_store(store_verbs.run_verify, only_reads=True)
    verify.add_argument("--deep", action="store_true", help="read every byte, and recompute the log probabilities")
    recover = of_store(store_verbs.run_recover)
    collect = of_store(store_verbs.run_gc)
    text = "only what has been unused for this long: seconds, or a number with s, m, h or d, such as 7d"
    collect.add_argument("--older-than", metavar="TIME", type=parse_duration, required=True, help=text)
    collect.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    quarantine = of_store(store_verbs.run_quarantine)
    quarantine.add_argument("segment", metavar="SEGMENT", help="id of the segment, as verify names it")
    quarantine.add_argument("--reason", metavar="TEXT", required=True, help="what is wrong with it")
    compact = of_store(store_verbs.run_compact)
    _add_segment_bytes(compact, "most bytes of a joined segment")
    compact.add_argument("--codec", metavar="CODEC", type=parse_codec, help="compress observations anew, such as zstd")
    add_executor_options(compact)
    convert = add(store_verbs.run_convert)
    convert.add_argument("source", metavar="SRC", help="the store to read: a path or a URL")
    convert.add_argument("destination", metavar="DST", help="the store to write: a path or a URL")
    _add_format(convert, default=None)
    # an interrupted export leaves nothing, so there is nothing to continue
    export = of_store(store_verbs.run_export, only_reads=True)
    export.add_argument("output", metavar="OUT", help="the file to write; it must not exist")
    text = "an observation to include; may be repeated (default all)"
    export.add_argument("--observation", metavar="NAME", action="append", help=text)
    export.add_argument("--to", choices=("parquet", "awkward", "hdf5"), required=True, help="kind of file")
    for command in (info, verify, recover, collect, quarantine, compact, convert, export):
        command.add_argument("--json", action="store_true", help="print JSON for programs")


def _add_segment_bytes(command: argparse.ArgumentParser, meaning: str, remark: str = "") -> None:
    text = f"{meaning}, such as 500MB or 2GiB (default 1GiB){remark}"
    command.add_argument("--segment-bytes", metavar="SIZE", type=parse_size, default=2**30, help=text)


def _add_format(command: argparse.ArgumentParser, *, default: str | None) -> None:
    as_source = " (default: as the source)" if default is None else ""
    command.add_argument(
        "--backend", choices=("arrow", "zarr"), default=default, help=f"format of the segments{as_source}"
    )
    text = f"how observations are compressed: auto, none, lz4, zstd, or NAME=CODEC,...{as_source}"
    command.add_argument("--codec", metavar="CODEC", type=parse_codec, default="auto" if default else None, help=text)


def _add_seed(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", metavar="S", type=parse_whole, default=0, help="of all random draws (default 0)")


class _Version(argparse.Action):
    """Print the version; looked up only when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from tracestore import __version__

        print(f"tracestore {__version__}")
        parser.exit()
