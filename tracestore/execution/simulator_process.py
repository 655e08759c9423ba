"""The process of one slot: runs the traces that its parent orders, one at a time, and asks for proposals.

Whatever the simulator does to its process (a segmentation fault, an exit, an endless loop) happens here. The process
ends when its pipe is closed and, on Linux, whenever its parent does, even in the middle of native code.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from tracestore.execution.pool import to_worker_error
from tracestore.execution.proposing import Asking, Mark, Previous
from tracestore.execution.slot_messages import Observations, PackedTrace, SitesSent
from tracestore.execution.slots import Runner, WaveRun
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site

__all__ = ["serve_runs"]

_SET_PARENT_DEATH_SIGNAL = 1


def serve_runs(runner: Runner, connection: Connection, inherited: Sequence[Connection], parent: int) -> None:
    """Run what the parent orders until its end of the pipe is closed.

    Parameters
    ----------
    runner
        How a run is executed.
    connection
        This end of the pipe.
    inherited
        Ends of other pipes that came with the fork.
    parent
        The parent's process id.
    """
    _end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()  # else this process would keep a dead parent's pipe ends open
    _Process(runner, connection).serve()


def _end_with_parent(parent: int) -> None:
    os.setpgid(0, 0)  # whatever the simulator starts is killed with it
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it was quicker
        os._exit(1)


class _Process:
    def __init__(self, runner: Runner, connection: Connection) -> None:
        self._runner = runner
        self._connection = connection
        self._sites = SitesSent()
        self._given: Observations | None = None
        self._start = 0.0
        self._waited = 0.0

    def serve(self) -> None:
        self._send(("ready",))
        while True:
            stream, rng, asks, *news = self._receive()
            if news:
                self._given = _frozen(news[0])
            run = WaveRun(stream, rng, self._given, asks=asks)
            self._start, self._waited = time.perf_counter(), 0.0
            try:
                trace = self._runner.finish(self._runner.recorder(run, Asking(self._ask)), run)
            except Exception as error:  # noqa: BLE001  # an error of ours, raised again in the parent
                self._send(("error", to_worker_error(error)))
                continue
            trace.seconds -= self._waited
            packed = PackedTrace.of(trace, self._sites.number, self._given)
            self._send(("finished", self._sites.take_new(), packed))

    def _ask(self, site: Site, prior: Distribution, previous: Previous, marks: tuple[Mark, ...]) -> Distribution | None:
        start = time.perf_counter()
        number = self._sites.number(site)
        used = start - self._start - self._waited
        self._send(("asked", self._sites.take_new(), number, prior, previous, marks, used))
        answer: Distribution | None = self._receive()
        self._waited += time.perf_counter() - start
        return answer

    def _send(self, message: tuple[object, ...]) -> None:
        try:
            self._connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)  # no exception: a simulator might swallow it

    def _receive(self) -> Any:  # noqa: ANN401  # whatever the parent sent
        try:
            return self._connection.recv()
        except (EOFError, ConnectionResetError):
            os._exit(0)


def _frozen(observations: Observations | None) -> Observations | None:
    """Keep a simulator from changing what it is given, as in its parent."""
    if observations is not None:
        for array in observations.values():
            array.setflags(write=False)
    return observations
