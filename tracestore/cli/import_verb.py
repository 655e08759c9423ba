"""The verb that imports data sets of pyprob: its words, one call, the report. Rooms are imported inside the verb."""

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Literal

from tracestore.cli.executor_options import add_executor_options, open_executor
from tracestore.cli.words import parse_codec, parse_size
from tracestore.progress import Progress

if TYPE_CHECKING:
    from tracestore.importers.pyprob_import import PyprobImport

__all__ = ["add_import_options", "run_import_pyprob"]

OK, PROBLEM = 0, 1


def add_import_options(parser: argparse.ArgumentParser) -> None:
    """Give the verb its words.

    Parameters
    ----------
    parser
        The parser of the verb.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_import_options(parser)
    >>> parser.parse_args(["data", "traces", "--tag", "a", "--tag", "b"]).tag
    ['a', 'b']
    """
    parser.add_argument("directory", metavar="DIR", help="the directory that pyprob saved the data set in")
    parser.add_argument("store", metavar="STORE", help="the store to write")
    text = "files to take: those that pyprob sorted, the others, or sorted ones if there are any (default auto)"
    parser.add_argument("--which", choices=("auto", "sorted", "unsorted"), default="auto", help=text)
    text = "a variable that is a tag, in traces that do not tell; may be repeated"
    parser.add_argument("--tag", metavar="NAME", action="append", default=[], help=text)
    text = "a variable that is an observation, in traces that do not tell; may be repeated"
    parser.add_argument("--observation", metavar="NAME", action="append", default=[], help=text)
    text = "pyprob's address dictionary (default: the only one in DIR or beside it, if addresses need one)"
    parser.add_argument("--address-dictionary", metavar="FILE", help=text)
    text = "most bytes of a segment, such as 500MB or 2GiB (default 1GiB); bounds the memory of a task"
    parser.add_argument("--segment-bytes", metavar="SIZE", type=parse_size, default=2**30, help=text)
    parser.add_argument("--backend", choices=("arrow", "zarr"), default="arrow", help="format of the segments")
    text = "how observations are compressed: auto, none, lz4, zstd, or NAME=CODEC,..."
    parser.add_argument("--codec", metavar="CODEC", type=parse_codec, default="auto", help=text)
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    add_executor_options(parser)


def run_import_pyprob(args: argparse.Namespace) -> int:
    """Convert a data set of pyprob 1.x into a store; an interrupted import is continued by the same command."""
    from tracestore.importers.pyprob_import import import_pyprob
    from tracestore.store.location import StoreLocation

    start_method: Literal["fork", "spawn"] = "spawn" if "://" in args.store else "fork"
    with open_executor(args, start_method=start_method) as executor, Progress() as progress:
        if executor is None:
            return OK
        report = import_pyprob(
            args.directory,
            StoreLocation(args.store, backend=args.backend, codec=args.codec),
            executor=executor,
            which=args.which,
            tags=args.tag,
            observations=args.observation,
            address_dictionary=args.address_dictionary,
            segment_bytes=args.segment_bytes,
            observer=progress,
        )
    print(json.dumps(_facts(report), indent=2) if args.json else report)
    return OK if report.is_complete else PROBLEM


def _facts(report: "PyprobImport") -> dict[str, object]:
    facts: dict[str, object] = {
        field.name: getattr(report, field.name) for field in dataclasses.fields(report) if field.name != "store"
    }
    problems = [{"file": file, "record": record, "reason": reason} for file, record, reason in report.problems]
    return {"store": report.store.storage.url, **facts, "problems": problems}
