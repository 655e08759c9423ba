"""One PPX program, started here or running elsewhere, as the process that talks to it sees it.

Everything happens when it is needed. A program whose run was cut short is brought back: a tracestore peer is told to
give the run up, another one that was started here is killed and started anew, another one elsewhere is answered from
the prior until its run ends. What was not started here is never killed. Must not know what a run is for.
"""

import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from tracestore.errors import (
    InvalidInputError,
    SimulatorError,
    SimulatorProtocolError,
    SimulatorTimeoutError,
)
from tracestore.ppx.leases import Lease, connectable
from tracestore.ppx.link import Link
from tracestore.ppx.messages import (
    Message,
    Observe,
    ObserveResult,
    Reset,
    RunResult,
    Sample,
    SampleResult,
    Tag,
    TagResult,
)
from tracestore.ppx.process import ProgramProcess
from tracestore.simulators.runtime import fatal

__all__ = ["Program", "ProgramSettings", "RemoteProgram", "StartedProgram", "command_for"]


MAX_STARTS = 3
"""So many times in a row a program may not shake hands before it is given up."""
MAX_MESSAGES = 10_000
"""So many messages of a run that nobody wants are answered from the prior."""
MAX_IPC_BYTES = 107
"""Longest path of a local socket."""


@dataclass(frozen=True, slots=True)
class ProgramSettings:
    """How programs are started, or where they are."""

    command: tuple[str, ...] = ()
    """Starts one; empty when they run elsewhere."""
    endpoints: tuple[str, ...] = ()
    """One for each program; empty to make them up."""
    instances: int = 1
    """Programs for each process that runs traces."""
    timeout: float = 30.0
    """Seconds for which a program may be silent."""
    restart_per_trace: bool = False
    """Start a program anew for each run."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of started programs beside those of this process."""
    folder: Path | None = None
    """Working directory of started programs."""
    output: Path | None = None
    """File to which their standard output is appended."""

    @property
    def label(self) -> str:
        """The command, without the folders of files, or the endpoints; for people."""
        if not self.command:
            return ",".join(self.endpoints)
        folder = self.folder or Path()
        words = [Path(word).name if "/" in word and (folder / word).is_file() else word for word in self.command[1:]]
        return shlex.join([Path(self.command[0]).name, *words])


class Program(Protocol):
    """One program, in the process that talks to it."""

    is_taken: bool
    """Whether it is in a run, or about to be."""

    @property
    def lease(self) -> Lease | None:
        """Has to be taken before the program is opened."""

    def open(self) -> Link:
        """Return a link over which a run can be asked for; waits for the program where necessary."""

    def close_run(self) -> None:
        """Take note that its run is over or given up, whatever state it is in; does not wait."""

    def end(self) -> None:
        """Let go of it for good; those that were started here are ended."""


class StartedProgram:
    """A program that is started here.

    Parameters
    ----------
    settings
        How it is started.
    endpoint
        Where it shall listen; None for a new local socket each time. A port ``*`` stands for any free one.
    """

    def __init__(self, settings: ProgramSettings, endpoint: str | None) -> None:
        self.settings = settings
        self.endpoint = endpoint
        self.is_taken = False
        self.lease = None if endpoint is None or endpoint.endswith(":*") else Lease(endpoint)
        self._process: ProgramProcess | None = None
        self._link: Link | None = None

    def open(self) -> Link:
        """Return an idle link to a running program, started if there is none."""
        if self._link is not None:
            with suppress(SimulatorError):
                _leave_run(self._link)
                if not self._link.is_broken and not self._link.is_gone():
                    return self._link
            self._kill()
        return self._start()

    def close_run(self) -> None:
        """Keep the program if it can be used again."""
        link, process = self._link, self._process
        if link is None or process is None:
            return
        if link.is_in_run:
            if not (link.is_tracestore and link.pending is not None and _give_up(link)):
                self._kill(patience=0.0)
        elif self.settings.restart_per_trace:
            self._kill(patience=0.0)
        else:
            process.trim_log()

    def end(self) -> None:
        """End the program."""
        self._kill()
        if self.lease is not None:
            self.lease.release()

    def _start(self) -> Link:
        last = ""
        for _ in range(MAX_STARTS):
            folder, endpoint = self._new_endpoint()
            try:
                process = self._launch(endpoint)
                return self._shake_hands(endpoint, process)
            except SimulatorProtocolError as error:
                self._kill()
                raise fatal(error) from None
            except SimulatorError as error:
                if self._process is None:  # not even started
                    raise fatal(error) from None
                last = str(error)
                self._kill()
            except BaseException:
                self._kill()
                raise
            finally:
                if folder is not None:  # connected sockets need no name anymore, so nothing is left behind
                    shutil.rmtree(folder, ignore_errors=True)
        message = f"The program {self.settings.label!r} did not shake hands, {MAX_STARTS} times in a row: {last}"
        raise fatal(SimulatorError(message, command=self.settings.command))

    def _launch(self, endpoint: str) -> ProgramProcess:
        settings = self.settings
        self._process = ProgramProcess(
            command_for(settings.command, endpoint),
            environment=settings.environment, folder=settings.folder, output=settings.output,
        )  # fmt: skip
        return self._process

    def _shake_hands(self, endpoint: str, process: ProgramProcess) -> Link:
        settings = self.settings
        self._link = Link(connectable(endpoint), timeout=settings.timeout, process=process, label=settings.label)
        try:
            self._link.shake_hands()
        except SimulatorTimeoutError as error:
            words = process.last_words()
            if not words:
                raise
            message = f"{error} It wrote: {words!r}"
            raise SimulatorTimeoutError(message, **error.fields) from None
        return self._link

    def _new_endpoint(self) -> tuple[str | None, str]:
        """Return a folder to be removed, and an endpoint."""
        if self.endpoint is None:
            folder = tempfile.mkdtemp(prefix="ppx-")
            if len(folder) + 2 > MAX_IPC_BYTES:
                shutil.rmtree(folder)
                folder = tempfile.mkdtemp(prefix="ppx-", dir="/tmp")  # private, but shorter
            return folder, f"ipc://{folder}/s"
        if self.endpoint.endswith(":*"):
            return None, _with_free_port(self.endpoint)
        return None, self.endpoint

    def _kill(self, patience: float | None = None) -> None:
        if self._link is not None:
            self._link.close()
        if self._process is not None:
            self._process.end(*([] if patience is None else [patience]))
        self._link = self._process = None


class RemoteProgram:
    """A program that runs already and is never ended here.

    Parameters
    ----------
    settings
        The timeout.
    endpoint
        Where it listens.
    """

    def __init__(self, settings: ProgramSettings, endpoint: str) -> None:
        self.settings = settings
        self.endpoint = connectable(endpoint)
        self.is_taken = False
        self.lease = Lease(endpoint)
        self._link: Link | None = None
        self._has_connected = False
        self._num_failures = 0

    def open(self) -> Link:
        """Return an idle link; ends a run first that was given up."""
        link = self._link
        if link is not None:
            try:
                _leave_run(link)
            except SimulatorError as error:
                if not link.is_broken:
                    raise self._failure(error) from None
        if link is None or link.is_broken or link.is_gone():
            self._connect()
        assert self._link is not None
        self._num_failures, self._has_connected = 0, True
        return self._link

    def close_run(self) -> None:
        """Let others have it unless it is still in the run."""
        link = self._link
        if link is not None and link.is_in_run and not link.is_broken:
            if link.is_tracestore and link.pending is not None:
                _give_up(link)
            return
        if link is not None and link.is_broken:
            self._drop()
        self.lease.release()

    def end(self) -> None:
        """Let go of it, its run ended if that is possible."""
        if self._link is not None:
            with suppress(SimulatorError):
                _leave_run(self._link)
        self._drop()
        self.lease.close()

    def _connect(self) -> None:
        self._drop()
        link = Link(self.endpoint, timeout=self.settings.timeout)
        try:
            link.shake_hands()
        except SimulatorError as error:
            link.close()
            raise self._failure(error) from None
        except BaseException:
            link.close()
            raise
        self._link = link

    def _failure(self, error: SimulatorError) -> SimulatorError:
        """Return an error that ends the job unless it may pass."""
        self._num_failures += 1
        may_pass = self._has_connected and not isinstance(error, SimulatorProtocolError)
        return error if may_pass and self._num_failures < MAX_STARTS else fatal(error)

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def command_for(command: Sequence[str], endpoint: str) -> list[str]:
    """Return a command that is told the endpoint: in place of ``{endpoint}``, else as the last argument.

    Examples
    --------
    >>> command_for(["simulate", "--at={endpoint}"], "ipc://@a")
    ['simulate', '--at=ipc://@a']
    """
    told = [word.replace("{endpoint}", endpoint) for word in command]
    return told if told != list(command) else [*told, endpoint]


def _with_free_port(endpoint: str) -> str:
    """Return an endpoint with a port that was free a moment ago, in place of ``*``."""
    host = connectable(endpoint).removeprefix("tcp://").removesuffix(":*")
    try:
        with socket.create_server((host, 0)) as server:
            return f"{endpoint.removesuffix('*')}{server.getsockname()[1]}"
    except OSError as error:
        message = f"The endpoint {endpoint!r} has no free port here: {error}; give tcp://127.0.0.1:*."
        raise InvalidInputError(message, endpoint=endpoint) from error


def _give_up(link: Link) -> bool:
    """Tell a tracestore peer, whose turn it is not, to give its run up; tells whether that was possible."""
    with suppress(SimulatorError):
        link.send(Reset())
    return not link.is_broken


def _leave_run(link: Link) -> None:
    """Bring a link out of a run that was given up, if there is one.

    Raises
    ------
    SimulatorError
        When that is impossible.
    """
    if not link.is_in_run:
        return
    rng = np.random.default_rng()
    link.wait_on()
    end = link.deadline
    for _ in range(MAX_MESSAGES):
        message = link.pending or link.receive()
        if isinstance(message, RunResult | Reset):
            return
        link.send(Reset() if link.is_tracestore else _plain_answer(message, rng))
        if time.monotonic() > end:
            break
    text = f"{link.who} does not come to an end of a run that was given up."
    raise SimulatorTimeoutError(text, endpoint=link.endpoint)


def _plain_answer(message: Message, rng: np.random.Generator) -> Message:
    if isinstance(message, Sample):
        return SampleResult(message.prior.sample(rng))
    if isinstance(message, Observe):
        return ObserveResult()
    if isinstance(message, Tag):
        return TagResult()
    text = f"A program in a run that was given up sent {type(message).__name__}."
    raise SimulatorProtocolError(text)
