"""A run of one of our simulators whose draws, observations and tags are decided by a controller elsewhere.

Must not know sockets.
"""

import math
from contextlib import suppress
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.ppx.messages import Message, Observe, ObserveResult, Sample, SampleResult, Tag, TagResult
from tracestore.simulators.base import MAX_SITES, PriorController
from tracestore.simulators.recorder import KeepPasses, LoopRule, Recorder, StopTrace, Value
from tracestore.traces.address import REJECTION
from tracestore.traces.distributions import Distribution
from tracestore.traces.trace import TraceStatus

__all__ = ["Channel", "RunAbandoned", "ServedRun"]

_UNUSED = np.random.default_rng()
"""Random numbers of recorders, which runs that are served do not draw."""


class RunAbandoned(StopTrace):
    """The controller wants no more of this run, or is gone.

    Parameters
    ----------
    reason
        Why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(TraceStatus.FAILED, reason)


class Channel(Protocol):
    """How a run reaches its controller."""

    is_tracestore: bool
    """Whether the controller understands more than PPX."""
    current: "ServedRun | None"
    """The run that is going on."""

    def ask(self, run: "ServedRun", message: Message) -> Message:
        """Send a message of a run and return the answer; raises `RunAbandoned` when the run is over."""

    def abandon(self, reason: str, request: Message | None) -> RunAbandoned:
        """End the current run; the request waits to be answered."""


class ServedRun(Recorder):
    """Asks for every value instead of recording it.

    Parameters
    ----------
    channel
        To the controller.
    """

    def __init__(self, channel: Channel) -> None:
        super().__init__(PriorController(), _UNUSED, None, MAX_SITES)
        self._channel = channel

    def sample(self, prior: Distribution, name: str, place: str, control: bool) -> Value:  # noqa: FBT001
        """Return the value that the controller has for a draw."""
        if self.num_open_loops:
            place = REJECTION + place
        answer = self._channel.ask(self, Sample(place, name, prior, control))
        if type(answer) is not SampleResult:
            raise self._wrong(answer, "SampleResult")
        value = _shaped(answer.value, prior)
        if value is None:
            raise self._channel.abandon(_unfit(answer.value, prior, place), answer)
        return value

    def observe(
        self, likelihood: Distribution, value: ArrayLike | None, name: str, place: str, dtype: DTypeLike | None
    ) -> Value:
        """Tell of an observation; return what the controller says it is, else what the program says, else None."""
        given: NDArray[np.generic] | None = None
        if value is not None:
            given = np.asarray(value, dtype)
            if given.dtype.kind not in "biuf":
                message = f"Observation {name!r} must be numeric; got dtype {given.dtype}."
                raise InvalidInputError(message, name=name)
        sent = None if given is None else given.astype(np.float64)
        answer = self._channel.ask(self, Observe(place, name, likelihood, sent))
        if type(answer) is not ObserveResult:
            raise self._wrong(answer, "ObserveResult")
        if answer.value is not None:
            scored = _shaped(answer.value, likelihood)
            if scored is None:
                raise self._channel.abandon(_unfit(answer.value, likelihood, place), answer)
            given = np.asarray(scored, dtype)
        if given is None:
            return None  # type: ignore[return-value]  # PPX does not send observed values back
        return given if given.ndim else given.item()  # type: ignore[return-value]

    def tag(self, value: ArrayLike, name: str, place: str) -> None:
        """Tell of a tag."""
        array = np.asarray(value)
        if array.dtype.kind not in "biuf" or not array.size:
            message = (
                f"A tag must be a number or an array of at least one number to be sent over PPX; "
                f"{name or place!r} got {value!r}."
            )
            raise InvalidInputError(message, name=name)
        self._tell(Tag(place, name, array.astype(np.float64)))

    def open_loop(self) -> LoopRule:
        """Enter a rejection loop, which a tracestore controller conducts."""
        self.num_open_loops += 1
        if not self._channel.is_tracestore:
            return KeepPasses()
        self.mark("open")
        return ServedLoop(self)

    def mark(self, name: str) -> float:
        """Tell of a step of a rejection loop; return whether the loop ends with it, as a number."""
        answer = self._tell(Tag(REJECTION, name, None))
        return 1.0 if answer.value is None else float(np.ravel(answer.value)[0])

    def leave_loop(self) -> None:
        """Tell that a rejection loop is left, unless the run is over: generators are closed late."""
        if self._channel.current is self:
            with suppress(RunAbandoned):  # raised again at the next draw; here perhaps while a generator is closed
                self.mark("leave")

    def _tell(self, tag: Tag) -> TagResult:
        answer = self._channel.ask(self, tag)
        if type(answer) is not TagResult:
            raise self._wrong(answer, "TagResult")
        return answer

    def _wrong(self, answer: Message, expected: str) -> RunAbandoned:
        return self._channel.abandon(f"the controller sent {type(answer).__name__} instead of {expected}", answer)


class ServedLoop:
    """A rejection loop that a controller elsewhere conducts.

    Parameters
    ----------
    run
        The run that it is in.
    """

    def __init__(self, run: ServedRun) -> None:
        self._run = run

    def start_attempt(self) -> None:
        """Tell that a pass begins."""
        self._run.mark("start")

    def end_attempt(self, *, is_accepted: bool) -> bool:
        """Tell how a pass ended; return whether the loop ends with it."""
        return self._run.mark("accepted" if is_accepted else "rejected") != 0.0 and is_accepted

    def leave(self) -> None:
        """Tell that the loop is left."""
        self._run.leave_loop()


def _shaped(value: float | NDArray[np.float64], distribution: Distribution) -> Value | None:
    """Give a value the shape and type that draws of a distribution have; None when it cannot have them."""
    shape = distribution.shape
    if shape:
        if np.size(value) != math.prod(shape):
            return None
        return np.array(value, np.float64).reshape(shape)
    if isinstance(value, np.ndarray):
        if value.size != 1:
            return None
        value = float(value.reshape(()))
    if distribution.is_discrete:
        return int(value) if math.isfinite(value) and float(value).is_integer() else None
    return value


def _unfit(value: Value, distribution: Distribution, place: str) -> str:
    found = f"{np.size(value)} numbers" if np.size(value) > 1 else repr(float(np.ravel(value)[0]))
    return f"the controller sent {found} for {distribution.suffix} at {place!r}"
