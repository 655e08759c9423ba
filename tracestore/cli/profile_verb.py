"""The verb that says where a simulator's time goes. Rooms are imported inside the verb."""

import argparse
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracestore.cli.simulator_options import add_length_cap, add_simulator_options, load_simulator
from tracestore.cli.words import parse_codec, parse_duration, parse_positive, parse_whole

__all__ = ["add_profile_options", "run_profile"]


def add_profile_options(parser: argparse.ArgumentParser) -> None:
    """Give the verb its words.

    Parameters
    ----------
    parser
        The parser of the verb.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_profile_options(parser)
    >>> parser.parse_args(["gum", "--num-traces", "500", "--kernel-threads", "1,2"]).kernel_threads
    [1, 2]
    """
    add_simulator_options(parser)
    length = parser.add_mutually_exclusive_group()
    text = "traces of the profiled run (default: as many as take --seconds)"
    length.add_argument("--num-traces", metavar="N", type=parse_positive, help=text)
    text = "about how long the profiled run shall take; all together takes four times as long (default 3s)"
    length.add_argument("--seconds", metavar="S", type=_parse_seconds, help=text)
    parser.add_argument("--out", metavar="FILE", help="HTML page to write, with a flame graph")
    text = "a trained network: profile inference with it (ic)"
    parser.add_argument("--network", metavar="NETWORK", help=text)
    text = "the observation for the network: a JSON object or npz archive, or NAME=NUMBER, which may be repeated"
    parser.add_argument("--observe", metavar="FILE|NAME=NUMBER", action="append", help=text)
    text = "numbers of threads on which native kernels of the program are timed: 1,2,4, or all"
    parser.add_argument("--kernel-threads", metavar="N,...", type=_parse_threads, help=text)
    text = "format of the temporary store"
    parser.add_argument("--store-format", choices=("arrow", "zarr"), default="arrow", help=text)
    text = "how its observations are compressed: auto, none, lz4, zstd, or NAME=CODEC,..."
    parser.add_argument("--codec", metavar="CODEC", type=parse_codec, default="auto", help=text)
    add_length_cap(parser)
    parser.add_argument("--seed", metavar="S", type=parse_whole, default=0, help="of all random draws (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.set_defaults(parser=parser)


def run_profile(args: argparse.Namespace) -> int:
    """Say where a simulator's time goes: the program, its draws, recording, writing, a network, native kernels."""
    if (args.network is None) != (args.observe is None):
        absent, there = ("--network", "--observe") if args.network is None else ("--observe", "--network")
        args.parser.error(f"{there} needs {absent}")
    if args.out is not None and Path(args.out).is_dir():
        args.parser.error(f"--out: {args.out!r} is a folder; give the name of a file")
    from tracestore.cli.numbers_file import read_observations
    from tracestore.profiling import profile

    network = None
    if args.network is not None:
        from tracestore.training import load_network

        network = load_network(args.network)
    with _unwinding():
        found = profile(
            load_simulator(args),
            num_traces=args.num_traces,
            seconds=args.seconds,
            path=args.out,
            network=network,
            observations=None if args.observe is None else read_observations(args.observe),
            threads=args.kernel_threads,
            seed=args.seed,
            max_sites=args.max_sites,
            backend=args.store_format,
            codec=args.codec,
        )
    if args.json:
        print(json.dumps(found.to_dict(), indent=2, allow_nan=False))
        return 0
    print(found.table())
    if args.kernel_threads is not None and not found.kernels:
        print("\nThe program called no native kernel, so there is nothing to time on several threads.")
    if args.out is not None:
        print(f"\nprofile in {args.out}")
    return 0


@contextmanager
def _unwinding() -> Iterator[None]:
    """End by SIGTERM as by an exception, so that temporary stores are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no signals are handled there
        return
    previous = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _parse_seconds(text: str) -> float:
    seconds = parse_duration(text)
    if seconds <= 0.0:
        message = f"must be more than zero; got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return seconds


def _parse_threads(text: str) -> list[int]:
    if text == "all":
        from tracestore.native.kernel import default_threads

        return list(range(1, default_threads() + 1))
    return sorted({parse_positive(part) for part in text.split(",")})
