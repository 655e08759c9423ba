"""Processes of closed programs, one for each run, into which a library was preloaded.

Starting a process takes longer than a short run, so the process of the next run is loaded while there is nothing else
to do; it waits before it enters the program's main. Folders are used again. Must not know what a run draws.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.util import Finalize
from pathlib import Path

from tracestore.errors import SimulatorError, SimulatorTimeoutError
from tracestore.ppx.direct import DirectLink, Ending
from tracestore.simulators.outside import wait_for
from tracestore.simulators.runtime import fatal

__all__ = ["Preloaded", "PreloadedPlaces", "ProgramOutput"]

MAX_WORDS = 600
"""Characters of what a program wrote to standard error last that are shown."""


@dataclass(frozen=True, slots=True)
class ProgramOutput:
    """What a program left behind when it ended well."""

    stdout: str
    """What it wrote to standard output; bytes that are no UTF-8 are replaced."""
    folder: Path
    """The folder in which it ran, with the files that it wrote; emptied after the run."""
    exit_code: int
    """Its exit code."""


@dataclass(frozen=True, slots=True)
class Preloaded:
    """How a program is started."""

    command: tuple[str, ...]
    """The program and its arguments."""
    environment: Mapping[str, str]
    """Variables beside those of this process."""
    timeout: float
    """Seconds for which it may be silent."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Links in the folder of each run, by name."""


class PreloadedPlaces:
    """Places for runs, in this process and in each that it forks.

    Parameters
    ----------
    settings
        How the program is started.
    """

    def __init__(self, settings: Preloaded) -> None:
        self.settings = settings
        self._free: dict[int, list[_Place]] = {}  # those of a parent process stay its own

    def take(self) -> "_Place":
        """Take a place with a process that waits for its run.

        Raises
        ------
        SimulatorError
            When the program cannot be started.
        """
        with contextlib.suppress(IndexError):
            return self._here().pop()
        place = _Place(self.settings)
        place.start()
        return place

    def give_back(self, place: "_Place") -> None:
        """Give a place back after its run, whatever came of it; loads the program for the next one."""
        try:
            place.clear()
            place.start()
        except (SimulatorError, OSError):  # the next run will say it, at a new place
            place.close()
        else:
            self._here().append(place)

    def end(self) -> None:
        """End the processes that wait for a run."""
        _close(self._here())

    def _here(self) -> "list[_Place]":
        free = self._free.get(os.getpid())
        if free is None:
            free = self._free[os.getpid()] = []
            # unlike weakref's, also at the end of worker processes, and never in those that are forked from here
            Finalize(self, _close, (free,), exitpriority=10)
        return free


class _Place:
    """A folder, and one process after the other."""

    def __init__(self, settings: Preloaded) -> None:
        self.settings = settings
        self.name = Path(settings.command[0]).name
        self.folder = Path(tempfile.mkdtemp(prefix="ppx-"))
        self._process: _Process | None = None
        self._link: DirectLink | None = None

    def start(self) -> None:
        """Load the program."""
        for name, target in self.settings.files.items():
            (self.folder / name).symlink_to(target)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = self._process = _Process(self.settings, self.folder, theirs.fileno())
            except BaseException:
                ours.close()
                raise
        self._link = DirectLink(ours, process, timeout=self.settings.timeout, label=self.name)

    def connect(self) -> DirectLink:
        """Return a link to the program, which has shaken hands.

        Raises
        ------
        SimulatorError
            When it does not answer.
        """
        link = self._link
        assert link is not None
        try:
            link.shake_hands()
        except SimulatorTimeoutError as error:
            message = f"{error} Or nothing was preloaded into it, as into what another program starts."
            raise fatal(SimulatorError(message)) from None
        except SimulatorError as error:
            raise fatal(error) from None
        return link

    def finish(self) -> ProgramOutput:
        """Wait until the program is gone, and collect what it left.

        Raises
        ------
        SimulatorTimeoutError
            When it stays.
        SimulatorError
            When it did not end well.
        """
        process = self._process
        assert process is not None
        timeout = self.settings.timeout
        if not wait_for(Ending(process, timeout)):
            message = f"The program {self.name!r} was still there {timeout:g} seconds after its run."
            raise SimulatorTimeoutError(message)
        code = process.exit_code()
        if code != 0:
            message = f"The program {self.name!r} {process.how_it_ended()}."
            raise SimulatorError(message)
        return ProgramOutput(process.output(), self.folder, code)

    def clear(self) -> None:
        """End the process if it still runs, and empty the folder."""
        if self._link is not None:
            self._link.close()
        if self._process is not None:
            self._process.end()
        self._link = self._process = None
        with os.scandir(self.folder) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry)
                else:
                    Path(entry).unlink()

    def close(self) -> None:
        """End the process, and remove everything."""
        with contextlib.suppress(OSError):
            self.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


class _Process:
    """A process that dies with this one; satisfies `Watched`.

    The preloaded library asks the system for that, so that nothing has to be done between fork and exec, which would
    cost more than the start itself.
    """

    def __init__(self, settings: Preloaded, folder: Path, connection: int) -> None:
        variables = {
            **settings.environment,
            "PWD": str(folder),
            "TRACESTORE_PPX_CONNECTION": str(connection),
            "TRACESTORE_PPX_PARENT": str(os.getpid()),
        }
        self._output, self._log = os.memfd_create("stdout"), os.memfd_create("stderr")
        self.descriptor: int | None = None
        try:
            self._process = subprocess.Popen(
                settings.command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._log, cwd=folder,
                env=os.environ | variables, start_new_session=True, pass_fds=(connection,),
            )  # fmt: skip
        except (OSError, ValueError) as error:
            self._close()
            message = f"The program {settings.command[0]!r} cannot be started: {error}."
            raise fatal(SimulatorError(message, command=settings.command)) from error
        with contextlib.suppress(OSError):  # an old kernel, or a sandbox
            self.descriptor = os.pidfd_open(self._process.pid)

    def is_gone(self) -> bool:
        """Whether the process has ended; it stays a zombie, so that its number stays its own."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def exit_code(self) -> int:
        """Return its exit code, or the negative number of the signal that ended it; it must be gone."""
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        assert found is not None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def how_it_ended(self) -> str:
        """Say how it ended, and what it wrote to standard error last."""
        code = self.exit_code()
        names = {int(number): number.name for number in signal.Signals}
        how = f"ended with exit code {code}" if code >= 0 else f"was ended by {names.get(-code, f'signal {-code}')}"
        words = _read(self._log, max(os.fstat(self._log).st_size - 4 * MAX_WORDS, 0)).strip()[-MAX_WORDS:]
        return f"{how}; it wrote: {words!r}" if words else how

    def output(self) -> str:
        """Return what it wrote to standard output."""
        return _read(self._output, 0)

    def end(self) -> None:
        """Kill it, with what it has started, if it still runs."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # before its number is free for others
        self._process.wait()
        self._close()

    def _close(self) -> None:
        for descriptor in (self._output, self._log, self.descriptor):
            if descriptor is not None:
                os.close(descriptor)
        self.descriptor = None


def _close(places: list[_Place]) -> None:
    while places:
        places.pop().close()


def _read(descriptor: int, start: int) -> str:
    size = os.fstat(descriptor).st_size
    parts = []
    while start < size and (part := os.pread(descriptor, size - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts).decode(errors="replace")
