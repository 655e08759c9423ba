"""One run of a PPX program: its messages become draws, observations and tags of the present run here.

Must not know where the program is, nor how it is brought out of a run that ends early.
"""

from collections.abc import Callable

import numpy as np

from tracestore.errors import SimulatorError, SimulatorProtocolError
from tracestore.ppx.link import Link
from tracestore.ppx.message_types import FAILURE
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
from tracestore.simulators.recorder import KeepPasses, LoopRule, StopTrace
from tracestore.simulators.runtime import current_recorder, fatal, observe, sample, tag
from tracestore.traces.address import REJECTION
from tracestore.traces.trace import TraceStatus

__all__ = ["Conversation"]

MAX_MARKS = 10_000
"""Most marks of rejection loops in a row, without a draw, an observation or a tag between them."""

_EMPTY_OBSERVE_RESULT = ObserveResult()
_EMPTY_TAG_RESULT = TagResult()


class Conversation:
    """One run of a program.

    Parameters
    ----------
    link
        To an idle program.
    place
        Turns addresses as they are sent into those that are recorded; None keeps them.
    """

    def __init__(self, link: Link, place: Callable[[str], str] | None = None) -> None:
        self._link = link
        self._place = place
        self._recorder = current_recorder()
        self._is_tracestore = link.is_tracestore
        self._loops: list[LoopRule] = []
        self._num_marks = 0
        self._failure: str | None = None

    def run(self) -> object:
        """Run the program once.

        Returns
        -------
        object
            What the program returned: None, a number, or an array.

        Raises
        ------
        SimulatorTimeoutError
            When the program is silent for too long.
        SimulatorProtocolError
            When it breaks the protocol.
        SimulatorError
            When it dies or gives up.
        """
        link = self._link
        try:
            link.begin_run()
            while True:
                message = link.receive()
                if type(message) is RunResult:
                    return _returned(message)
                link.send(self._answer(message))
        finally:
            while self._loops:  # left by an error
                self._leave_loop()

    def _answer(self, message: Message) -> Message:
        if isinstance(message, Sample):
            return self._sample(message)
        if isinstance(message, Observe):
            return self._observe(message)
        if isinstance(message, Tag):
            return self._tag(message)
        if isinstance(message, Reset):
            raise self._given_up()
        text = (
            f"{self._link.who} broke the protocol: it sent {type(message).__name__} during a run,"
            " where Sample, Observe, Tag or RunResult may come."
        )
        raise SimulatorProtocolError(text, endpoint=self._link.endpoint)

    def _sample(self, message: Sample) -> SampleResult:
        address = message.address
        if self._place is not None:
            address = self._place(address)
        if self._loops:
            address = address.removeprefix(REJECTION)  # the recorder adds it
        elif self._recorder is not None and self._recorder.make_loop is not None and address.startswith(REJECTION):
            raise self._loop_without_passes(address)
        self._num_marks = 0
        value = sample(message.prior, name=message.name or None, address=address, control=message.control)
        return SampleResult(value)

    def _observe(self, message: Observe) -> ObserveResult:
        address = message.address
        if self._place is not None:
            address = self._place(address)
        self._num_marks = 0
        value = observe(message.likelihood, message.value, name=message.name or None, address=address)
        return ObserveResult(value) if self._is_tracestore else _EMPTY_OBSERVE_RESULT

    def _tag(self, message: Tag) -> TagResult:
        if self._is_tracestore:
            if message.address == REJECTION:
                return self._mark(message.name)
            if message.address == FAILURE:
                self._failure = message.name
                return _EMPTY_TAG_RESULT
        if message.value is None:
            text = f"{self._link.who} broke the protocol: its tag {message.name!r} has no value."
            raise SimulatorProtocolError(text, endpoint=self._link.endpoint)
        self._num_marks = 0
        address = message.address if self._place is None else self._place(message.address)
        tag(message.value, name=message.name or None, address=address)
        return _EMPTY_TAG_RESULT

    def _mark(self, name: str) -> TagResult:
        """Conduct a rejection loop as the program tells of it."""
        self._num_marks += 1
        if name == "open":
            self._loops.append(KeepPasses() if self._recorder is None else self._recorder.open_loop())
        elif not self._loops or name not in ("start", "accepted", "rejected", "leave"):
            raise self._wrong_mark(f"sent the mark {name!r} with {len(self._loops)} rejection loops open")
        elif name == "start":
            self._loops[-1].start_attempt()
        elif name == "leave":
            self._leave_loop()
        else:
            is_over = self._loops[-1].end_attempt(is_accepted=name == "accepted")
            return TagResult(1.0 if is_over else 0.0)
        if self._num_marks > MAX_MARKS:
            raise self._wrong_mark(f"went through {MAX_MARKS} marks of rejection loops without a draw")
        return _EMPTY_TAG_RESULT

    def _wrong_mark(self, what: str) -> SimulatorProtocolError:
        text = f"{self._link.who} {what}."
        return SimulatorProtocolError(text, endpoint=self._link.endpoint)

    def _loop_without_passes(self, address: str) -> SimulatorProtocolError:
        text = (
            f"A rejection loop of the program at {self._link.endpoint} cannot be collapsed, since it does not tell its"
            f" passes apart, at {address!r}; mark it attempt by attempt, or keep all passes."
        )
        return fatal(SimulatorProtocolError(text, endpoint=self._link.endpoint))

    def _leave_loop(self) -> None:
        self._loops.pop().leave()
        if self._recorder is not None:
            self._recorder.close_loop()

    def _given_up(self) -> BaseException:
        if self._failure is None:
            text = f"{self._link.who} gave its run up: it answered with Reset, as one that was not in a run."
            return SimulatorProtocolError(text, endpoint=self._link.endpoint)
        if self._recorder is None:
            return SimulatorError(self._failure, endpoint=self._link.endpoint)
        return StopTrace(TraceStatus.FAILED, self._failure)  # the trace fails as it would where the program runs


def _returned(message: RunResult) -> object:
    """Return what a simulator returns: a number where there is one."""
    found = message.result
    if found is None or found.size == 0:
        return None
    return float(found.reshape(())) if found.size == 1 else np.asarray(found)
