"""One of our simulators as a PPX program: pyprob, tracestore or others drive it over a socket.

PPX has no authentication: whoever reaches the endpoint can run the simulator, though nothing else. The program is for
one controller at a time, since a message does not tell who sent it.
"""

import logging
import math
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tracestore import __version__
from tracestore.errors import InvalidInputError, SimulatorProtocolError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.ppx.link import OURS
from tracestore.ppx.message_types import FAILURE
from tracestore.ppx.messages import Handshake, HandshakeResult, Message, Reset, Run, RunResult, Tag, decode, encode
from tracestore.ppx.served_run import RunAbandoned, ServedRun
from tracestore.ppx.signals import Signaled, SignalWatch
from tracestore.ppx.sockets import bind_rep, bound_endpoint, has_frame, receive_frame, send_frame, wait_any
from tracestore.simulators.addresses import mark_root
from tracestore.simulators.base import Simulator, as_simulator
from tracestore.simulators.runtime import activate

__all__ = ["DEFAULT_ENDPOINT", "ServedRuns", "SimulatorServer", "serve"]

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5555"
"""The port of PPX by convention; on this machine only, because nobody is asked for a password."""
MAX_FAILURE_CHARACTERS = 10_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedRuns:
    """What a server has done."""

    num_runs: int
    """Runs that ended by themselves, with a result or a failure."""
    num_failed: int
    """Runs among them in which the simulator raised."""
    num_abandoned: int
    """Runs that the controller gave up, or did not answer."""
    signal: int = 0
    """Number of the signal that ended serving; 0 for none."""


def serve(
    simulator: object,
    endpoint: str = DEFAULT_ENDPOINT,
    *,
    max_runs: int | None = None,
    timeout: float | None = None,
    observer: Observer | None = None,
) -> ServedRuns:
    """Serve a simulator to PPX controllers until interrupted.

    Parameters
    ----------
    simulator
        A simulator or any function without arguments.
    endpoint
        ``tcp://HOST:PORT``, ``ipc://PATH`` or ``ipc://@NAME``; the host ``*`` means all interfaces.
    max_runs
        Ends after so many runs; None goes on.
    timeout
        Seconds after which a run is abandoned whose controller does not answer; None waits for it, or for the next
        controller.
    observer
        Receives progress events.

    Returns
    -------
    ServedRuns
        After `max_runs`, or when SIGINT or SIGTERM came, also in the middle of a run.

    Raises
    ------
    InvalidInputError
        When the endpoint is malformed or in use, or a number is not positive.

    Examples
    --------
    >>> from tracestore.simulators import toys
    >>> serve(toys.gum, "tcp://127.0.0.1:*", max_runs=0)
    ServedRuns(num_runs=0, num_failed=0, num_abandoned=0, signal=0)
    """
    with SimulatorServer(simulator, endpoint, timeout=timeout) as server:
        return server.serve(max_runs=max_runs, observer=observer)


class SimulatorServer:
    """A simulator bound to an endpoint; see `serve`.

    Parameters
    ----------
    simulator
        A simulator or any function without arguments.
    endpoint
        Where to listen.
    timeout
        Seconds after which a run is abandoned whose controller does not answer; None never.

    Raises
    ------
    InvalidInputError
        When the endpoint is malformed or in use, or the timeout is not positive.

    Examples
    --------
    >>> from tracestore.simulators import toys
    >>> with SimulatorServer(toys.gum, "tcp://127.0.0.1:*") as server:
    ...     server.endpoint.startswith("tcp://127.0.0.1:")
    True
    """

    def __init__(self, simulator: object, endpoint: str = DEFAULT_ENDPOINT, *, timeout: float | None = None) -> None:
        if timeout is not None and not timeout > 0.0:
            message = f"`timeout` must be a positive number of seconds or None; got {timeout!r}."
            raise InvalidInputError(message)
        self.simulator: Simulator = as_simulator(simulator)
        self._socket = bind_rep(endpoint)
        self.endpoint = bound_endpoint(self._socket)
        """Where it listens, with the port that was chosen."""
        self._timeout = timeout
        self.is_tracestore = False
        self.current: ServedRun | None = None
        self._pending: Message | None = None
        self._signals = SignalWatch()
        self._num_runs = self._num_failed = self._num_abandoned = 0
        self._lock = threading.Lock()
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def serve(self, *, max_runs: int | None = None, observer: Observer | None = None) -> ServedRuns:
        """Answer controllers until so many runs have ended, or a signal comes.

        Parameters
        ----------
        max_runs
            Ends after so many runs; None goes on.
        observer
            Receives progress events.
        """
        if max_runs is not None and max_runs < 0:
            message = f"`max_runs` must be a whole number from 0 or None; got {max_runs!r}."
            raise InvalidInputError(message)
        start = time.perf_counter()
        total = max_runs or 0
        last = math.inf if max_runs is None else self._num_runs + max_runs
        if observer is not None:
            observer(PhaseStarted("serve", total, unit="runs"))
        with self._signals:
            try:
                while self._num_runs < last:
                    is_run = self._answer(self._next_request())
                    if observer is not None and is_run:
                        observer(PhaseAdvanced("serve", self._num_runs, total, self._num_failed))
            except Signaled:
                self._say_goodbye()
        if observer is not None and not self._signals.number:
            observer(PhaseFinished("serve", time.perf_counter() - start))
        return ServedRuns(self._num_runs, self._num_failed, self._num_abandoned, self._signals.number)

    # ------------------------------------------------------------------------------------------------------- idle

    def _next_request(self) -> Message:
        """Return the next request; those that cannot be read are answered at once."""
        while self._pending is None:
            try:
                self._pending = self._receive(None)
            except SimulatorProtocolError as error:
                self._warn(f"A message was answered with Reset: {error}")
                self._send(Reset())
        request, self._pending = self._pending, None
        return request

    def _answer(self, request: Message) -> bool:
        """Answer a request while idle; return whether it was one for a run."""
        if isinstance(request, Run):
            self._run()
            return True
        if isinstance(request, Handshake):
            self.is_tracestore = request.system_name.startswith(OURS)
            self._send(HandshakeResult(f"{OURS} {__version__}", self.simulator.name))
            return False
        if not isinstance(request, Reset):
            self._warn(f"{type(request).__name__} came while no run was going on; it was answered with Reset.")
        self._send(Reset())
        return False

    def _run(self) -> None:
        run = self.current = ServedRun(self)
        previous = activate(run)
        frame, failure = b"", ""
        try:
            frame = encode(RunResult(_sendable(_call(self.simulator))))
            failure = _swallowed(run)
        except RunAbandoned:
            pass  # counted below, where a run is also found that swallowed this
        except Exception as error:  # noqa: BLE001  # whatever a simulator raises is told to the controller
            failure = f"{type(error).__name__}: {error}"
        finally:
            activate(previous)
        if self._signals.number:
            raise Signaled
        if self.current is run:
            self._num_runs += 1
            if failure:
                self._num_failed += 1
                failure = failure[:MAX_FAILURE_CHARACTERS].encode(errors="replace").decode()
                self._warn(f"The simulator failed: {failure}")
                self._tell_failure(run, failure)
            else:
                self._send_frame(frame)
        self.current = None

    def _tell_failure(self, run: ServedRun, failure: str) -> None:
        if not self.is_tracestore:  # PPX has no words for it
            self._send(RunResult(None))
            return
        try:
            self.ask(run, Tag(FAILURE, failure, None))
        except RunAbandoned:
            self._num_abandoned -= 1  # the run was over already
        else:
            self._send(Reset())

    # ------------------------------------------------------------------------------------------------ during a run

    def ask(self, run: ServedRun, message: Message) -> Message:
        """Send a message of the running simulator and return the answer.

        Raises
        ------
        RunAbandoned
            When there is none, because the controller wants something else.
        """
        with self._lock:  # draws may come from several threads
            if self._signals.number:
                raise Signaled
            if self.current is not run:
                raise RunAbandoned("the run is over")
            frame = encode(message)
            if not self._send_frame(frame):
                raise self.abandon("the controller sent a message in several parts", None)
            try:
                answer = self._receive(self._timeout)
            except TimeoutError:
                raise self.abandon(f"the controller did not answer for {self._timeout:g} seconds", None) from None
            except SimulatorProtocolError as error:
                raise self.abandon(str(error), Reset()) from None
        if isinstance(answer, Handshake | Run | Reset):
            raise self.abandon(f"the controller sent {type(answer).__name__}", answer)
        return answer

    def abandon(self, reason: str, request: Message | None) -> RunAbandoned:
        """End the run; the request is answered when the simulator has come to an end."""
        self.current = None
        self._pending = request
        self._num_abandoned += 1
        self._warn(f"A run was abandoned: {reason}.")
        return RunAbandoned(reason)

    # ----------------------------------------------------------------------------------------------------- frames

    def _receive(self, timeout: float | None) -> Message:
        socket = self._socket
        deadline = None if timeout is None else time.monotonic() + timeout
        while not has_frame(socket):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0.0:
                raise TimeoutError
            wait_any([socket], self._signals.descriptors, left)
            self._signals.drain()
        return decode(receive_frame(socket))

    def _send(self, message: Message) -> None:
        self._send_frame(encode(message))

    def _send_frame(self, frame: bytes) -> bool:
        """Send an answer; False when the request came in several parts, and was answered with Reset."""
        try:
            send_frame(self._socket, frame)
        except SimulatorProtocolError as error:
            while has_frame(self._socket):
                receive_frame(self._socket)
            self._warn(f"A message was answered with Reset: {error}")
            send_frame(self._socket, encode(Reset()))
            return False
        return True

    def _say_goodbye(self) -> None:
        """Answer a controller that is waiting; most often none is, and the socket says so."""
        self.current = None
        try:
            send_frame(self._socket, encode(Reset()))
        except SimulatorProtocolError as error:
            _log.debug("Nobody was waiting for an answer: %s", error)

    def _warn(self, text: str) -> None:
        """Log a line, the same one loudly only once."""
        level = logging.DEBUG if text in self._told or len(self._told) >= 100 else logging.WARNING
        self._told.add(text) if level == logging.WARNING else None
        _log.log(level, "%s", text)


@mark_root
def _call(simulator: Simulator) -> object:
    return simulator.function()


def _sendable(result: object) -> NDArray[np.float64] | None:
    """Return the result as numbers; None where it is none, as in traces."""
    if isinstance(result, bool | int | float | np.generic | np.ndarray):
        array = np.asarray(result)
        if array.dtype.kind in "biuf" and array.size:
            return array.astype(np.float64)
    return None


def _swallowed(run: ServedRun) -> str:
    """Return what makes a run worthless although the simulator returned."""
    error = run.left_loop or run.fatal
    return "" if error is None else f"{type(error).__name__}: {error}"
