"""A program in a process of its own: started, watched and ended.

It is in a session of its own and, on Linux, ends whenever the process (more exactly: the thread) that started it does.
Must not know what is said to it.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from tracestore.errors import SimulatorError

__all__ = ["ProgramProcess"]

MAX_WORDS = 600
"""Characters of what a program wrote last that are shown."""
MAX_LINES = 6
"""Lines of it."""
MAX_LOG_BYTES = 16 * 2**20
"""What a program wrote is forgotten when it is longer."""
PATIENCE = 0.5
"""Seconds that a program has to end when it is asked to."""

_SET_PARENT_DEATH_SIGNAL = 1


class ProgramProcess:
    """A running program; its standard input is empty, and what it writes to standard error is kept for messages.

    Parameters
    ----------
    command
        The program and its arguments.
    environment
        Variables beside those of this process.
    folder
        Working directory; None for that of this process.
    output
        File to which standard output is appended; None drops it.

    Raises
    ------
    SimulatorError
        When it cannot be started.

    Examples
    --------
    >>> program = ProgramProcess([sys.executable, "-c", "raise SystemExit('no data')"])
    >>> program.wait(10.0)
    >>> program.how_it_ended()
    "ended with exit code 1; it wrote: 'no data'"
    >>> program.end()
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        output: Path | None = None,
    ) -> None:
        self._log = _empty_log()
        try:
            with contextlib.ExitStack() as stack:
                out: BinaryIO | int = subprocess.DEVNULL if output is None else stack.enter_context(output.open("ab"))
                self._process = subprocess.Popen(
                    list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=self._log, cwd=folder,
                    env=os.environ | dict(environment or {}), start_new_session=True, preexec_fn=_die_with_parent(),
                )  # fmt: skip
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._log.close()
            message = f"The program {command[0]!r} cannot be started: {error}."
            raise SimulatorError(message, command=tuple(command)) from error
        self.pid = self._process.pid
        self.descriptor = _process_descriptor(self.pid)
        """Becomes readable when the process is gone; None where the system has no such descriptors."""

    def is_gone(self) -> bool:
        """Whether the process has ended; it stays a zombie, so that its number stays its own."""
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self, seconds: float) -> None:
        """Wait until it is gone, for so many seconds at most."""
        if self.descriptor is not None:
            poll = select.poll()
            poll.register(self.descriptor, select.POLLIN)
            poll.poll(int(seconds * 1000.0) + 1)
            return
        end = time.monotonic() + seconds
        while not self.is_gone() and time.monotonic() < end:
            time.sleep(0.005)

    def end(self, patience: float = PATIENCE) -> None:
        """End the process and what it has started.

        Parameters
        ----------
        patience
            Seconds that it has to end by itself when it is told to; with 0 it is killed.
        """
        if self._process.returncode is None:
            if patience and not self.is_gone():
                self._signal(signal.SIGTERM)
                self.wait(patience)
            self._signal(signal.SIGKILL)  # before its number is free for others
            self._process.wait()
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        self._log.close()

    def how_it_ended(self) -> str:
        """Say how the process ended, and what it wrote to standard error at last."""
        if self._process.returncode is None:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                return "is running"
            code = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        else:
            code = self._process.returncode
        how = f"ended with exit code {code}" if code >= 0 else f"was ended by {_signal_name(-code)}"
        words = self.last_words()
        return f"{how}; it wrote: {words!r}" if words else how

    def last_words(self) -> str:
        """Return the end of what it wrote to standard error; empty when that is not kept anymore."""
        if self._log.closed:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        text = os.pread(self._log.fileno(), 4 * MAX_WORDS, max(size - 4 * MAX_WORDS, 0)).decode(errors="replace")
        return "\n".join(text.strip().splitlines()[-MAX_LINES:])[-MAX_WORDS:]

    def trim_log(self) -> None:
        """Forget what it wrote when that is long."""
        if os.fstat(self._log.fileno()).st_size > MAX_LOG_BYTES:
            self._log.truncate(0)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def _empty_log() -> BinaryIO:
    """Return a file without a name; what is written goes to its end, wherever that is by then."""
    log = tempfile.TemporaryFile("w+b", buffering=0)  # noqa: SIM115  # closed by `ProgramProcess.end`
    fcntl.fcntl(log, fcntl.F_SETFL, fcntl.fcntl(log, fcntl.F_GETFL) | os.O_APPEND)  # the mode "a" does not do that
    return log


def _process_descriptor(pid: int) -> int | None:
    open_descriptor = getattr(os, "pidfd_open", None)
    if open_descriptor is None:
        return None
    try:
        return int(open_descriptor(pid))
    except OSError:  # an old kernel, or a sandbox
        return None


def _die_with_parent() -> Callable[[], None] | None:
    """Return what the new process does before it becomes the program; little is safe there, so all is prepared."""
    if sys.platform != "linux":
        return None
    prctl, getppid, leave, parent = ctypes.CDLL(None).prctl, os.getppid, os._exit, os.getpid()
    kill = int(signal.SIGKILL)

    def prepare() -> None:
        prctl(_SET_PARENT_DEATH_SIGNAL, kill)
        if getppid() != parent:  # it was quicker
            leave(1)

    return prepare


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
