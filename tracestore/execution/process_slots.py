"""Slots in processes of their own: programs that are not reentrant run many at once, and may crash or hang.

Each slot has a forked process that runs one trace at a time and asks over its own pipe. A process that dies, or that
computes for longer than allowed, is replaced; its run is recorded as a failed trace.
"""

import contextlib
import math
import multiprocessing
import os
import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Self

from tracestore.errors import InvalidInputError, SimulatorError
from tracestore.execution.simulator_process import serve_runs
from tracestore.execution.slot_messages import PackedTrace, SitesSeen, failed_trace
from tracestore.execution.slots import Asked, Event, Finished, Runner, WaveRun
from tracestore.traces.distributions import Distribution

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

__all__ = ["ProcessSlots"]

MAX_FAILED_STARTS = 3
"""Processes that may end one after the other before they could run anything."""
GRACE_SECONDS = 1.0
"""How long a process that is idle may take to end."""

_NEVER_SENT: Any = object()


@dataclass(slots=True, eq=False)
class _Worker:
    """A process and what is known of it."""

    slot: int
    process: "BaseProcess"
    connection: Connection
    sites: SitesSeen = field(default_factory=SitesSeen)
    observations: Any = _NEVER_SENT
    """What was given to it last."""
    is_ready: bool = False
    run: WaveRun | None = None
    """What it runs now."""
    used: float = 0.0
    """Seconds that the run had computed when it asked last."""
    resumed: float = 0.0
    """When it was started or answered last."""
    deadline: float = math.inf
    """When it has computed for too long; infinite while it waits."""


class ProcessSlots:
    """Runs in flight in processes of their own; satisfies `Slots`.

    Use it as a context manager. Processes are forked at their first run.

    Parameters
    ----------
    runner
        How a run is executed.
    num_slots
        Processes.
    timeout
        Seconds that a run may compute, without the time that it waits for proposals; None sets no limit.
    clock
        Tells seconds.

    Raises
    ------
    InvalidInputError
        When an argument is out of range.
    """

    def __init__(
        self,
        runner: Runner,
        num_slots: int,
        *,
        timeout: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if num_slots < 1 or (timeout is not None and not timeout > 0.0):
            message = f"`num_slots` must be at least 1 and `timeout` positive; got {num_slots} and {timeout}."
            raise InvalidInputError(message, num_slots=num_slots, timeout=timeout)
        self._runner = runner
        self._timeout = math.inf if timeout is None else timeout
        self._clock = clock
        self._workers: list[_Worker | None] = [None] * num_slots
        self._num_failed_starts = 0
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def num_slots(self) -> int:
        """Number of slots."""
        return len(self._workers)

    def start(self, slot: int, run: WaveRun) -> None:
        """Run a trace in a free slot."""
        worker = self._workers[slot]
        if worker is None or not _order(worker, run):
            if worker is not None:
                self._bury(worker)  # it died while it had nothing to do
            worker = self._workers[slot] = self._fork(slot)
            _order(worker, run)  # when it cannot start, its end of the pipe tells
        worker.run, worker.used, worker.resumed = run, 0.0, self._clock()
        if worker.is_ready:
            self._resume(worker)

    def answer(self, slot: int, proposal: Distribution | None) -> None:
        """Give a waiting run what it shall draw from."""
        worker = self._workers[slot]
        if worker is not None:
            _try_to_send(worker.connection, proposal)
            self._resume(worker)

    def wait(self, timeout: float | None) -> list[Event]:
        """Return what has happened since the last call, at least one event unless time runs out."""
        end = math.inf if timeout is None else self._clock() + timeout
        while True:
            deadline = min([end, *(worker.deadline for worker in self._workers if worker is not None)])
            left = None if deadline == math.inf else max(deadline - self._clock(), 0.0)
            ready: list[_Worker] = [key.data for key, _ in self._selector.select(left)]
            # who has sent something has not hung, however late it is read
            hung = [worker for worker in self._late(self._clock()) if worker not in ready]
            events = [*map(self._receive, ready), *map(self._end_hung, hung)]
            found = [event for event in events if event is not None]
            if found or self._clock() >= end:
                return found

    def close(self) -> None:
        """End all processes, and their runs."""
        workers = [worker for worker in self._workers if worker is not None]
        self._workers = [None] * len(self._workers)
        self._selector.close()
        for worker in workers:
            worker.connection.close()
            if worker.run is not None:
                _kill(worker.process)
        for worker in workers:
            worker.process.join(GRACE_SECONDS)
            if worker.process.exitcode is None:
                _kill(worker.process)
                worker.process.join()
            worker.process.close()

    def _late(self, now: float) -> list[_Worker]:
        return [worker for worker in self._workers if worker is not None and worker.deadline <= now]

    def _fork(self, slot: int) -> _Worker:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        inherited = [worker.connection for worker in self._workers if worker is not None]
        process = context.Process(
            target=serve_runs, args=(self._runner, theirs, [*inherited, ours], os.getpid()), name=f"simulator {slot}"
        )
        process.start()
        theirs.close()
        worker = _Worker(slot, process, ours)
        self._selector.register(ours, selectors.EVENT_READ, worker)
        return worker

    def _resume(self, worker: _Worker) -> None:
        worker.resumed = self._clock()
        worker.deadline = worker.resumed + self._timeout - worker.used

    def _receive(self, worker: _Worker) -> Event | None:
        try:
            kind, *content = worker.connection.recv()
        except (EOFError, OSError):  # the second when it died in the middle of a message
            return self._end_dead(worker)
        if kind == "ready":
            worker.is_ready, self._num_failed_starts = True, 0
            if worker.run is not None:
                self._resume(worker)  # the time that it took to start is not the run's
            return None
        if kind == "error":
            raise content[0]
        worker.sites.learn(content[0])
        worker.deadline = math.inf
        if kind == "asked":
            number, prior, previous, marks, worker.used = content[1:]
            return Asked(worker.slot, worker.sites[number], prior, previous, marks)
        run, worker.run = worker.run, None
        packed: PackedTrace = content[1]
        return Finished(worker.slot, packed.unpack(worker.sites, None if run is None else run.observations))

    def _end_dead(self, worker: _Worker) -> Event | None:
        """Deal with a process that is gone."""
        how = _how_it_ended(self._bury(worker))
        if worker.run is None:
            return None
        if worker.is_ready:
            return self._fail(worker, f"the simulator's process {how}")
        self._num_failed_starts += 1
        if self._num_failed_starts >= MAX_FAILED_STARTS:
            message = (
                f"No process for the simulator {self._runner.program.name!r} can be started: each of the last "
                f"{self._num_failed_starts} {how} before its first run. See what it wrote, or run without processes."
            )
            raise SimulatorError(message, simulator=self._runner.program.name)
        self.start(worker.slot, worker.run)
        return None

    def _end_hung(self, worker: _Worker) -> Event:
        self._bury(worker, is_hung=True)
        return self._fail(worker, f"the simulator computed for more than {self._timeout:g} seconds and was stopped")

    def _fail(self, worker: _Worker, failure: str) -> Finished:
        run = worker.run
        seconds = worker.used + self._clock() - worker.resumed
        return Finished(worker.slot, failed_trace(0 if run is None else run.stream, failure, seconds))

    def _bury(self, worker: _Worker, *, is_hung: bool = False) -> int:
        """Make an end of a process; returns its exit code."""
        self._selector.unregister(worker.connection)
        worker.connection.close()
        if not is_hung:
            wait([worker.process.sentinel], GRACE_SECONDS)  # it may be about to end, and has its own exit code
        _kill(worker.process)  # and what it has started
        worker.process.join()
        self._workers[worker.slot] = None
        code = worker.process.exitcode or 0
        worker.process.close()
        return code


def _order(worker: _Worker, run: WaveRun) -> bool:
    """Order a run; False when the process is gone."""
    news = () if run.observations is worker.observations else (run.observations,)
    worker.observations = run.observations
    return _try_to_send(worker.connection, (run.stream, run.rng, run.asks, *news))


def _try_to_send(connection: Connection, message: object) -> bool:
    try:
        connection.send(message)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _kill(process: "BaseProcess") -> None:
    """Kill a process and what it has started; nothing happens to one that is dead."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if process.pid is not None:
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    return f"was killed by signal {name}"
