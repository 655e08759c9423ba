"""The verb that serves a simulator to PPX controllers. Rooms are imported inside the verb."""

import argparse
import sys
import time
from typing import TextIO

from tracestore.cli.simulator_options import BUNDLED
from tracestore.cli.words import parse_duration, parse_positive
from tracestore.events import Event, PhaseAdvanced
from tracestore.progress import Progress

__all__ = ["add_serve_options", "run_serve"]

OK, SIGNALED = 0, 128
ENDPOINT = "tcp://127.0.0.1:5555"
SECONDS_BETWEEN_LINES = 10.0
ALL_INTERFACES = ("tcp://0.0.0.0:", "tcp://[::]:")


def add_serve_options(parser: argparse.ArgumentParser) -> None:
    """Give the verb its words.

    Parameters
    ----------
    parser
        The parser of the verb.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_serve_options(parser)
    >>> parser.parse_args(["gum", "--endpoint", "ipc://@gum", "--timeout", "30s"]).timeout
    30.0
    """
    parser.add_argument("simulator", metavar="SIMULATOR", help=f"module:object, or {', '.join(BUNDLED)}")
    text = (
        f"where to listen: tcp://HOST:PORT, where the host * means all interfaces, or ipc://PATH (default {ENDPOINT},"
        " for this machine only)"
    )
    parser.add_argument("--endpoint", metavar="ENDPOINT", default=ENDPOINT, help=text)
    parser.add_argument("--max-runs", metavar="N", type=parse_positive, help="end after so many runs (default: never)")
    text = "abandon a run whose controller does not answer for so long (default: wait)"
    parser.add_argument("--timeout", metavar="SECONDS", type=parse_duration, help=text)


def run_serve(args: argparse.Namespace) -> int:
    """Serve a simulator to controllers that speak PPX, such as pyprob."""
    from tracestore.ppx.serving import SimulatorServer
    from tracestore.simulators.catalog import resolve

    simulator = resolve(args.simulator)
    with SimulatorServer(simulator, args.endpoint, timeout=args.timeout) as server, Progress() as progress:
        print(f"serving {simulator.name} at {server.endpoint}", flush=True)
        if server.endpoint.startswith(ALL_INTERFACES):
            text = (
                "warning: it listens on all interfaces, and PPX has no authentication: whoever reaches this port can"
                " run the simulator; tcp://127.0.0.1:PORT is for this machine only"
            )
            print(text, file=sys.stderr, flush=True)
        served = server.serve(max_runs=args.max_runs, observer=progress if args.max_runs else _Counts(sys.stderr))
    words = [f"{served.num_runs:,} runs of {simulator.name}"]
    words += [f"{served.num_failed:,} of them failed"] if served.num_failed else []
    words += [f"{served.num_abandoned:,} more were abandoned"] if served.num_abandoned else []
    ended = {0: "served", 2: "interrupted: served"}.get(served.signal, "told to stop: served")
    print(f"{ended} {', '.join(words)}")
    return SIGNALED + served.signal if served.signal else OK


class _Counts:
    """Writes how many runs there were, now and then: no share is known of a number without an end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next_time = time.monotonic()

    def __call__(self, event: Event) -> None:
        if isinstance(event, PhaseAdvanced) and time.monotonic() >= self._next_time:
            self._next_time = time.monotonic() + SECONDS_BETWEEN_LINES
            failed = f", {event.failed:,} failed" if event.failed else ""
            self._stream.write(f"serve: {event.done:,} runs{failed}\n")
            self._stream.flush()
