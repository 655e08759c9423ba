"""The PPX programs that runs are given to, in each process that runs traces.

A forked worker has programs of its own and leaves its parent's alone. Must not know how a program is started, nor what
is said to it.
"""

import os
import threading
import time
from collections.abc import Sequence
from multiprocessing.util import Finalize

from tracestore.errors import SimulatorError, SimulatorTimeoutError
from tracestore.ppx.link import Waited
from tracestore.ppx.program import Program, ProgramSettings, RemoteProgram, StartedProgram
from tracestore.simulators.outside import wait_for
from tracestore.simulators.runtime import fatal

__all__ = ["Programs"]


class Programs:
    """The programs of this process; of each process that this one forks, too.

    Parameters
    ----------
    settings
        How they are started, or where they are.
    """

    def __init__(self, settings: ProgramSettings) -> None:
        self.settings = settings
        self._by_process: dict[int, _Here] = {}  # a parent's stay in it: nothing of them may be touched

    def take(self) -> Program:
        """Take a program for a run.

        Raises
        ------
        SimulatorError
            When all are in runs of this process.
        SimulatorTimeoutError
            When all are in runs of other processes, and stay there.
        """
        free = _FreeProgram(self._here(), self.settings.timeout)
        if not free.is_ready():
            if free.are_all_taken():
                message = f"All {len(free.here.programs)} programs are in runs already; give more `instances`."
                raise fatal(SimulatorError(message))
            try:
                wait_for(free)
            except BaseException:
                if free.found is not None:
                    self.give_back(free.found)
                raise
        if free.found is None:
            message = (
                f"The programs at {', '.join(self.settings.endpoints)} were all in use by other processes for"
                f" {self.settings.timeout:g} seconds; give as many endpoints as there are runs in flight, or fewer"
                " workers."
            )
            raise fatal(SimulatorTimeoutError(message))
        return free.found

    def give_back(self, program: Program) -> None:
        """Give a program back after its run, whatever came of that."""
        try:
            program.close_run()
        finally:
            program.is_taken = False

    def end(self) -> None:
        """End the programs that this process started, and let go of others; the next run begins anew."""
        here = self._by_process.pop(os.getpid(), None)
        if here is not None:
            here.end()

    def _here(self) -> "_Here":
        process = os.getpid()
        here = self._by_process.get(process)
        if here is None:
            try:
                here = self._by_process.setdefault(process, _Here(_make(self.settings)))
            except SimulatorError as error:
                raise fatal(error) from None
            # unlike one of weakref's, called at the end of worker processes, too, and not for what a parent has
            Finalize(self, here.end, exitpriority=10)
        return here


class _Here:
    """The programs of one process."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self.programs = programs
        self.lock = threading.Lock()

    def end(self) -> None:
        for program in self.programs:
            program.end()


class _FreeProgram(Waited):
    """A program that nobody uses; takes the first that it finds."""

    pause = 0.002

    def __init__(self, here: _Here, seconds: float) -> None:
        self.here = here
        self.deadline = time.monotonic() + seconds
        self.found: Program | None = None

    def is_ready(self) -> bool:
        if self.found is None:
            with self.here.lock:
                self.found = next(filter(_is_free, self.here.programs), None)
                if self.found is not None:
                    self.found.is_taken = True
        return self.found is not None

    def are_all_taken(self) -> bool:
        return all(program.is_taken for program in self.here.programs)


def _is_free(program: Program) -> bool:
    """Whether nobody uses a program; its lease is taken then."""
    return not program.is_taken and (program.lease is None or program.lease.take())


def _make(settings: ProgramSettings) -> list[Program]:
    if not settings.command:
        return [RemoteProgram(settings, endpoint) for endpoint in settings.endpoints]
    endpoints: Sequence[str | None] = settings.endpoints or (None,) * settings.instances
    return [StartedProgram(settings, endpoint) for endpoint in endpoints]
