"""A link to one PPX program: who it is, and one message at a time in turns.

A run that waits for the program's message may be suspended meanwhile, see `wait_for`. Must not know how programs are
started, nor what the messages mean.
"""

import time
from collections.abc import Sequence
from typing import Protocol, Self

from tracestore import __version__
from tracestore.errors import SimulatorError, SimulatorProtocolError, SimulatorTimeoutError, TracestoreError
from tracestore.ppx.messages import Handshake, HandshakeResult, Message, Reset, Run, RunResult, decode, encode
from tracestore.ppx.sockets import (
    Socket,
    Source,
    close_watched,
    connect_req,
    has_frame,
    poll_frame,
    send_frame,
    wait_any,
    wait_sources,
    watch_connection,
    watched,
)
from tracestore.simulators.outside import wait_for

__all__ = ["Link", "Waited", "Watched"]

OURS = "tracestore"
"""Beginning of the system name of peers that understand more than PPX."""
_RUN = encode(Run())
LAST_MOMENT = 0.05
"""Seconds in which what a program sent before it ended still arrives."""


class Watched(Protocol):
    """The process at the other end, where it is on this machine and was started here."""

    descriptor: int | None
    """Becomes readable when the process is gone; None where there is no such thing."""

    def is_gone(self) -> bool:
        """Whether the process has ended."""

    def how_it_ended(self) -> str:
        """Say how it ended."""


class Waited:
    """Something that a run waits for; satisfies `Outside`, and all of its subclasses can be waited for together."""

    deadline: float = float("inf")
    """When waiting is given up, on the clock of `time.monotonic`."""
    sources: "tuple[Source, ...]" = ()
    """Receive what is waited for."""
    descriptor: int | None = None
    """The one of them that is a file descriptor, if there is one."""
    is_signalled = False
    """Whether that was readable when it was waited for."""
    pause: float | None = None
    """Seconds after which `is_ready` wants to be asked again; None when the sources tell everything."""

    def is_ready(self) -> bool:
        """Whether there is something to go on with."""
        raise NotImplementedError

    @classmethod
    def wait_any(cls, several: Sequence[Self], timeout: float | None) -> None:
        """Block until one of several is perhaps ready.

        Parameters
        ----------
        several
            What is waited for.
        timeout
            Seconds to wait at most; None waits as long as it takes.
        """
        for one in several:
            if one.pause is not None and (timeout is None or one.pause < timeout):
                timeout = one.pause
        for source, _ in wait_sources([source for one in several for source in one.sources], timeout):
            if isinstance(source, int):
                for one in several:
                    one.is_signalled |= one.descriptor == source


class Link(Waited):
    """The inference side's end of a conversation with one program.

    Parameters
    ----------
    endpoint
        Where the program listens.
    timeout
        Seconds for which the program may be silent when it is its turn.
    process
        The program's process, if it was started here.
    label
        What the program is called in messages, where the endpoint tells nothing.

    Raises
    ------
    InvalidInputError
        When the endpoint is malformed.
    """

    def __init__(self, endpoint: str, *, timeout: float, process: Watched | None = None, label: str = "") -> None:
        self.endpoint = endpoint
        self.who = f"The program {label!r}" if label else f"The program at {endpoint}"
        """Begins messages about the program."""
        self.timeout = timeout
        self.process = process
        self._socket: Socket = connect_req(endpoint)
        self._watch = watch_connection(self._socket) if process is None else None
        self.sources = watched([self._socket] if self._watch is None else [self._socket, self._watch])
        self.descriptor = None if process is None else process.descriptor
        if self.descriptor is not None:
            self.sources += watched([self.descriptor])
        self.pause = 0.05 if process is not None and process.descriptor is None else None
        self.system_name = ""
        """What the program said that it is written with; empty before the handshake."""
        self.model_name = ""
        """What the program said that it is called."""
        self.is_tracestore = False
        """Whether it understands more than PPX."""
        self.is_in_run = False
        """Whether it has not ended the run that it was asked for."""
        self.pending: Message | None = None
        """What it sent and was not answered; None when it is its turn to send, or when it is idle."""
        self.is_broken = False
        """Whether nothing more can be said over this link."""

    def __repr__(self) -> str:
        return f"Link({self.endpoint!r})"

    def shake_hands(self) -> None:
        """Ask the program who it is.

        Raises
        ------
        SimulatorTimeoutError
            When it does not answer in time.
        SimulatorProtocolError
            When it answers something else, or speaks another version of PPX.
        SimulatorError
            When its process ends.
        """
        self.send(Handshake(f"{OURS} {__version__}"))
        answer = self.receive()
        if not isinstance(answer, HandshakeResult):
            self.is_broken = True
            message = (
                f"{self.who} answered the handshake with {type(answer).__name__}; it is in a run"
                " that somebody else began, or does not speak PPX."
            )
            raise SimulatorProtocolError(message, endpoint=self.endpoint)
        self.pending = None
        self.system_name, self.model_name = answer.system_name, answer.model_name
        self.is_tracestore = answer.system_name.startswith(OURS)

    def begin_run(self) -> None:
        """Ask an idle program for a run."""
        self.is_in_run = True
        self._send(_RUN)

    def send(self, message: Message) -> None:
        """Send a message; from now on it is the program's turn.

        Raises
        ------
        SimulatorProtocolError
            When it is not our turn, or PPX cannot say this.
        """
        self._send(encode(message))

    def receive(self) -> Message:
        """Wait for the program's message.

        Returns
        -------
        Message
            Which is kept as `pending` until it is answered, unless it ends a run.

        Raises
        ------
        SimulatorTimeoutError
            When the program was silent for too long.
        SimulatorError
            When its process ended.
        SimulatorProtocolError
            When what it sent is no message.
        """
        if not wait_for(self) and not self.is_gone():
            text = (
                f"{self.who} was silent for {self.timeout:g} seconds: nobody is there, or it computes for longer;"
                " then give it more with `timeout` (`--silence` on the command line)."
            )
            raise SimulatorTimeoutError(text, endpoint=self.endpoint, timeout=self.timeout)
        frame = poll_frame(self._socket)
        if frame is None:
            frame = self._last_frame()
        try:
            message = decode(frame)
        except TracestoreError as error:
            self.is_broken = True
            raise self._protocol_error(error) from error
        if type(message) is RunResult or type(message) is Reset:
            self.is_in_run = False
        else:
            self.pending = message
        return message

    def is_ready(self) -> bool:
        """Whether the program has sent a message or is gone."""
        # a process with a descriptor is not asked again and again: whoever waits is told
        return has_frame(self._socket) or self.is_signalled or (self.descriptor is None and self.is_gone())

    def is_gone(self) -> bool:
        """Whether the program has ended, as far as that can be known."""
        if self._watch is not None:
            return has_frame(self._watch)
        return self.process is not None and self.process.is_gone()

    def wait_on(self) -> None:
        """Give the program its time anew, when it is its turn."""
        self.deadline = time.monotonic() + self.timeout

    def close(self) -> None:
        """Close the socket; the program is not told."""
        self.is_broken = True
        if self._watch is None:
            self._socket.close()
        else:
            close_watched(self._socket, self._watch)

    def _send(self, frame: bytes) -> None:
        try:
            send_frame(self._socket, frame)
        except SimulatorProtocolError as error:
            self.is_broken = True
            raise self._protocol_error(error) from error
        self.pending = None
        self.wait_on()

    def _last_frame(self) -> bytes:
        """Return what the program sent before it was gone; without that, say how it ended."""
        wait_any([self._socket], [], LAST_MOMENT)
        frame = poll_frame(self._socket)
        if frame is not None:
            return frame
        self.is_broken = True
        how = "closed its connection" if self.process is None else self.process.how_it_ended()
        message = f"{self.who} {how}."
        raise SimulatorError(message, endpoint=self.endpoint)

    def _protocol_error(self, error: TracestoreError) -> SimulatorProtocolError:
        fields = error.fields | {"endpoint": self.endpoint}
        return SimulatorProtocolError(f"{self.who} broke the protocol: {error}", **fields)
