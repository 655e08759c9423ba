"""ZeroMQ sockets for PPX: the one module that knows ZeroMQ.

One side of a conversation has a REQ socket that connects, the other a REP socket that is bound; they send in turns, one
frame a message. There is one context for each process, made anew after a fork: sockets do not survive it.

Must not know what is in the frames.
"""

import os
from collections.abc import Iterable, Sequence
from typing import cast

from tracestore._extras import extra
from tracestore.errors import InvalidInputError, SimulatorProtocolError

with extra("ppx"):
    import zmq
    from zmq.backend import zmq_poll

__all__ = [
    "Socket",
    "Source",
    "bind_rep",
    "bound_endpoint",
    "close_watched",
    "connect_req",
    "has_frame",
    "poll_frame",
    "receive_frame",
    "send_frame",
    "wait_any",
    "wait_sources",
    "watch_connection",
    "watched",
]

MAX_PORT = 65_535
LINGER_MILLISECONDS = 100
"""How long a closed socket goes on to deliver what was sent."""
MAX_MESSAGE_BYTES = 256 * 2**20
"""A peer that sends a longer message is cut off."""

Socket = zmq.Socket[bytes]

_LONGEST_WAIT = 3600.0
"""Seconds; longer waits are cut in pieces, since milliseconds must fit 32 bits."""
_contexts: dict[int, zmq.Context[Socket]] = {}  # by process; those of a parent must stay, lest they are terminated


def bind_rep(endpoint: str) -> Socket:
    """Make a socket that is bound to an endpoint and answers requests.

    Parameters
    ----------
    endpoint
        ``tcp://HOST:PORT``, where the host may be ``*`` or the name of an interface and the port may be ``*`` for any
        free one; ``ipc://PATH``; or ``ipc://@NAME`` for an abstract name, on Linux.

    Raises
    ------
    InvalidInputError
        When the endpoint is malformed, in use, or of another machine.

    Examples
    --------
    >>> with bind_rep("tcp://127.0.0.1:*") as socket:
    ...     bound_endpoint(socket).startswith("tcp://127.0.0.1:")
    True
    """
    socket = _context().socket(zmq.REP)
    return _attach(socket, endpoint, "bind")


def connect_req(endpoint: str) -> Socket:
    """Make a socket that sends requests to an endpoint; nobody needs to be there yet.

    Parameters
    ----------
    endpoint
        ``tcp://HOST:PORT``, ``ipc://PATH`` or ``ipc://@NAME``.

    Raises
    ------
    InvalidInputError
        When the endpoint is malformed.

    Examples
    --------
    >>> with bind_rep("tcp://127.0.0.1:*") as server, connect_req(bound_endpoint(server)) as client:
    ...     send_frame(client, b"question")
    ...     wait_any([server], [], 10.0)
    ...     receive_frame(server)
    b'question'
    """
    socket = _context().socket(zmq.REQ)
    return _attach(socket, endpoint, "connect")


def bound_endpoint(socket: Socket) -> str:
    """Return where a bound socket is, its port filled in."""
    return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))


def watch_connection(socket: Socket) -> Socket:
    """Return a socket that receives a frame when the other end of a connected one goes away.

    Both are closed by `close_watched`.
    """
    return socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)


def close_watched(socket: Socket, watch: Socket) -> None:
    """Close a socket with what watches its connection."""
    socket.disable_monitor()  # else an event that nobody receives would block the I/O thread, and with it every socket
    watch.close(0)
    socket.close()


def has_frame(socket: Socket) -> bool:
    """Whether a frame is there to be received; does not block."""
    return bool(cast("int", socket.get(_EVENTS)) & _POLLIN)


def receive_frame(socket: Socket) -> bytes:
    """Take the frame that is there.

    Raises
    ------
    SimulatorProtocolError
        When none is there, or the socket has to send first.
    """
    frame = poll_frame(socket)
    if frame is None:
        message = "There is no message to be received."
        raise SimulatorProtocolError(message)
    return frame


def poll_frame(socket: Socket) -> bytes | None:
    """Take the frame that is there; None when there is none.

    Raises
    ------
    SimulatorProtocolError
        When the socket has to send first.
    """
    try:
        return socket.recv(_NOBLOCK)
    except zmq.Again:
        return None
    except zmq.ZMQError as error:
        message = f"A message could not be received ({error})."
        raise SimulatorProtocolError(message) from error


def send_frame(socket: Socket, frame: bytes) -> None:
    """Send a frame; does not wait for anybody to take it.

    Raises
    ------
    SimulatorProtocolError
        When it is the other side's turn, or the other side sent a message in several parts, which PPX does not have.
    """
    try:
        socket.send(frame, _NOBLOCK)
    except zmq.ZMQError as error:
        if error.errno == zmq.EFSM and has_frame(socket):
            message = "The other side sent a message in several parts; a PPX message is one frame."
        else:
            message = f"A message could not be sent ({error})."
        raise SimulatorProtocolError(message) from error


def wait_any(sockets: Iterable[Socket], descriptors: Iterable[int], timeout: float | None) -> None:
    """Block until a frame can be received or a file descriptor is readable.

    Parameters
    ----------
    sockets
        Sockets to wait for.
    descriptors
        File descriptors to wait for.
    timeout
        Seconds to wait at most; None waits as long as it takes, though the call may return after an hour.
    """
    wait_sources([*watched(sockets), *watched(descriptors)], timeout)


def watched(sources: "Iterable[Socket | int]") -> "tuple[Source, ...]":
    """Return sockets or file descriptors as `wait_sources` takes them."""
    return tuple((source, _POLLIN) for source in sources)


def wait_sources(sources: "list[Source]", timeout: float | None) -> "Sequence[Source]":
    """Block as `wait_any` does, for what was prepared by `watched`; returns those that are ready."""
    seconds = _LONGEST_WAIT if timeout is None else min(max(timeout, 0.0), _LONGEST_WAIT)
    return zmq_poll(sources, int(seconds * 1000.0) + 1)


Source = tuple[Socket | int, int]

_POLLIN = int(zmq.POLLIN)  # plain numbers: those of the package are enumerations, and slow to combine
_NOBLOCK = int(zmq.NOBLOCK)
_EVENTS = int(zmq.EVENTS)


def _context() -> "zmq.Context[Socket]":
    process = os.getpid()
    context = _contexts.get(process)
    if context is None:
        context = _contexts[process] = zmq.Context()
    return context


def _require_port(endpoint: str) -> None:
    """Refuse a port that does not exist: ZeroMQ takes another one."""
    port = endpoint.rpartition(":")[2]
    if endpoint.startswith("tcp://") and port.isdecimal() and int(port) > MAX_PORT:
        message = f"there is no port {port}"
        raise ValueError(message)


def _attach(socket: Socket, endpoint: str, verb: str) -> Socket:
    socket.setsockopt(zmq.LINGER, LINGER_MILLISECONDS)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    try:
        _require_port(endpoint)
        (socket.bind if verb == "bind" else socket.connect)(endpoint)
    except (zmq.ZMQError, TypeError, ValueError) as error:
        socket.close()
        reason = os.strerror(error.errno) if isinstance(error, zmq.ZMQError) and error.errno else str(error)
        message = (
            f"Cannot {verb} to the endpoint {endpoint!r}: {reason.lower() or 'malformed'}; give tcp://HOST:PORT,"
            " ipc://PATH or ipc://@NAME."
        )
        raise InvalidInputError(message, endpoint=endpoint) from error
    return socket
