"""A link to a preloaded program over a pair of connected sockets, without the ZeroMQ library in between.

The bytes are those of ZeroMQ (ZMTP 3.0, one REQ and one REP socket), so that the program's end serves both kinds of
link. There is one peer, which is there from the start; without a thread that passes messages on, a draw takes half the
time. Must not know how programs are started, nor what the messages mean.
"""

import socket
import time

from tracestore import __version__
from tracestore.errors import SimulatorError, SimulatorProtocolError, SimulatorTimeoutError, TracestoreError
from tracestore.ppx.link import OURS, Waited, Watched
from tracestore.ppx.messages import Handshake, HandshakeResult, Message, Run, decode, encode
from tracestore.ppx.sockets import watched
from tracestore.simulators.outside import wait_for

__all__ = ["DirectLink", "Ending"]

MAX_FRAME_BYTES = 16 * 2**20
"""A program that sends a longer frame is cut off."""
PART_BYTES = 1 << 16
"""So much is read at once."""

_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x03REQ"
_MORE, _LONG, _COMMAND = 1, 2, 4
_RUN = encode(Run())


class Ending(Waited):
    """The end of a process, as something to wait for.

    Parameters
    ----------
    process
        The process.
    timeout
        Seconds to wait at most.
    """

    def __init__(self, process: Watched, timeout: float) -> None:
        self._process = process
        self.sources = () if process.descriptor is None else watched([process.descriptor])
        self.pause = None if process.descriptor is not None else 0.005
        self.deadline = time.monotonic() + timeout

    def is_ready(self) -> bool:
        """Whether it is gone."""
        return self._process.is_gone()


class DirectLink(Waited):
    """The inference side's end of a conversation with one program.

    Parameters
    ----------
    connection
        Connected to the program; is closed by `close`.
    process
        The program's process.
    timeout
        Seconds for which the program may be silent when it is its turn.
    label
        What the program is called in messages.
    """

    def __init__(self, connection: socket.socket, process: Watched, *, timeout: float, label: str) -> None:
        connection.setblocking(False)
        self.process = process
        self.timeout = timeout
        self.who = f"The program {label!r}"
        self.sources = watched([connection.fileno(), *([] if process.descriptor is None else [process.descriptor])])
        self.pause = None if process.descriptor is not None else 0.05
        self._connection = connection
        self._received = bytearray()
        self._frame: bytes | None = None
        self._is_greeted = False
        self._is_closed = False

    def shake_hands(self) -> None:
        """Ask the program who it is.

        Raises
        ------
        SimulatorTimeoutError
            When it does not answer in time.
        SimulatorProtocolError
            When it answers something else.
        SimulatorError
            When its process ends.
        """
        hello = encode(Handshake(f"{OURS} {__version__}"))
        self._transmit(_GREETING + bytes([_COMMAND, len(_READY)]) + _READY + _enveloped(hello))
        answer = self.receive()
        if not isinstance(answer, HandshakeResult):
            message = f"{self.who} answered the handshake with {type(answer).__name__}."
            raise SimulatorProtocolError(message)

    def begin_run(self) -> None:
        """Ask for a run."""
        self._transmit(_enveloped(_RUN))

    def send(self, message: Message) -> None:
        """Send a message; from now on it is the program's turn."""
        self._transmit(_enveloped(encode(message)))

    def receive(self) -> Message:
        """Wait for the program's message.

        Raises
        ------
        SimulatorTimeoutError
            When the program was silent for too long.
        SimulatorError
            When its process ended.
        SimulatorProtocolError
            When what it sent is no message.
        """
        if not wait_for(self):
            message = (
                f"{self.who} was silent for {self.timeout:g} seconds; give it more with `timeout` if it computes for so"
                " long."
            )
            raise SimulatorTimeoutError(message, timeout=self.timeout)
        frame = self._frame or self._poll()  # what it sent before it was gone
        if frame is None:
            is_gone = wait_for(Ending(self.process, self.timeout))
            message = f"{self.who} {self.process.how_it_ended() if is_gone else 'closed its connection'}."
            raise SimulatorError(message)
        self._frame = None
        try:
            return decode(frame)
        except TracestoreError as error:
            raise self._protocol_error(str(error)) from error

    def is_ready(self) -> bool:
        """Whether the program has sent a message or is gone."""
        if self._frame is None:
            self._frame = self._poll()
        return self._frame is not None or self._is_closed or self.process.is_gone()

    def close(self) -> None:
        """Close the connection; the program is not told."""
        self._connection.close()

    def _transmit(self, data: bytes) -> None:
        """Send; the few bytes of a message always fit, since the program has read what came before."""
        self.deadline = time.monotonic() + self.timeout
        try:
            num_sent = self._connection.send(data)
        except (BrokenPipeError, ConnectionResetError):
            self._is_closed = True  # `receive` says how it ended
            return
        except BlockingIOError:
            num_sent = 0
        if num_sent != len(data):
            raise self._protocol_error("it does not read what it is sent")

    def _poll(self) -> bytes | None:
        """Return the body of the next message, if all of it is there."""
        while True:
            body = self._parse()
            if body is not None or self._is_closed:
                return body
            try:
                part = self._connection.recv(PART_BYTES)
            except BlockingIOError:
                return None
            except ConnectionResetError:
                part = b""
            self._is_closed = not part
            self._received += part

    def _parse(self) -> bytes | None:
        """Take the frames of one message, which are an empty one and the body, out of what was received."""
        received, start = self._received, 0
        if not self._is_greeted:
            if len(received) < len(_GREETING):
                return None
            if received[0] != 0xFF or received[9] != 0x7F:
                raise self._protocol_error("it did not greet as ZeroMQ does")
            start = len(_GREETING)
        while len(received) >= start + 2:
            flags = received[start]
            head = 9 if flags & _LONG else 2
            if len(received) < start + head:
                return None
            size = int.from_bytes(received[start + 1 : start + head], "big")
            if size > MAX_FRAME_BYTES:
                raise self._protocol_error(f"it announced a frame of {size} bytes")
            end = start + head + size
            if len(received) < end:
                return None
            if not flags & (_MORE | _COMMAND):
                body = bytes(received[start + head : end])
                del received[:end]
                self._is_greeted = True
                return body
            start = end
        return None

    def _protocol_error(self, reason: str) -> SimulatorProtocolError:
        return SimulatorProtocolError(f"{self.who} broke the protocol: {reason}")


def _enveloped(frame: bytes) -> bytes:
    """Put a frame behind the empty one that a REQ socket sends first."""
    size = len(frame)
    head = bytes([_MORE, 0, 0, size]) if size < 256 else bytes([_MORE, 0, _LONG]) + size.to_bytes(8, "big")
    return head + frame
