"""Many runs in flight, one network call for all that wait.

The scheduler keeps slots full and serves the runs that wait by one call of the proposal session. It knows nothing of
how a run is suspended, nor where it runs; see `slots`. In this process the schedule is a function of the runs alone.
"""

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tracestore.errors import InvalidInputError
from tracestore.execution.greenlet_slots import GreenletSlots
from tracestore.execution.proposing import Ask, Asking, Mark, Previous, ProposalController
from tracestore.execution.provider import ProposalSession
from tracestore.execution.slots import Asked, Finished, Runner, Slots, WaveRun
from tracestore.simulators.base import MAX_SITES, Simulator
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site
from tracestore.traces.trace import Trace

__all__ = ["MAX_WAIT", "WavePolicy", "WaveRun", "WaveScheduler", "run_in_flight", "run_waves"]

MAX_WAIT = 0.001
"""Seconds for which a run that computes elsewhere may wait for others to share a call of the network."""


@dataclass(frozen=True, slots=True)
class WavePolicy:
    """When the runs that wait are served: at the first of these conditions, or when nobody runs anymore.

    Examples
    --------
    >>> WavePolicy(max_ready=8).max_wait
    inf
    """

    max_ready: int | None = None
    """So many wait; None waits for all."""
    max_wait: float = math.inf
    """The first of them has waited for so many seconds."""

    def __post_init__(self) -> None:
        if (self.max_ready is not None and self.max_ready < 1) or not self.max_wait >= 0.0:
            message = f"`max_ready` must be at least 1 and `max_wait` not negative; got {self}."
            raise InvalidInputError(message)


class WaveScheduler:
    """Runs traces in slots, and asks a session for the proposals of all runs that wait.

    Parameters
    ----------
    slots
        Where runs are in flight. Closing it is up to who made it.
    session
        Source of the proposals, with at least as many slots; without one the prior proposes everywhere.
    policy
        When those that wait are served.
    clock
        Tells seconds.
    """

    def __init__(
        self,
        slots: Slots,
        session: ProposalSession | None,
        policy: WavePolicy | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = slots
        self._serving = _Serving(session)
        self._policy = WavePolicy() if policy is None else policy
        self._clock = clock
        self._free = list(range(slots.num_slots))
        self._position: dict[int, int] = {}
        """Which run is in a slot."""
        self._waiting: dict[int, Asked] = {}
        self._since = 0.0
        """When the first of them began to wait."""

    def results(self, runs: Iterable[WaveRun]) -> Generator[tuple[int, Trace]]:
        """Yield traces as they are finished, each with the position of its run.

        Take all of it before the next call.

        Parameters
        ----------
        runs
            May be endless; is read as slots become free.

        Raises
        ------
        InferenceError
            When the session fails.
        SimulatorError
            When simulators cannot be started.
        """
        pending = enumerate(runs)
        self._refill(pending)
        while self._position:
            events = self._slots.wait(self._time_left())
            finished = [self._note(event) for event in events]
            self._refill(pending)
            yield from (found for found in finished if found is not None)
            if self._waiting and self._is_due():
                self._serve()

    def _refill(self, pending: Iterator[tuple[int, WaveRun]]) -> None:
        while self._free:
            position, run = next(pending, (0, None))
            if run is None:
                return
            slot = self._free.pop(0)
            self._serving.assign(slot, run.observation)
            self._position[slot] = position
            self._slots.start(slot, run)

    def _note(self, event: Asked | Finished) -> tuple[int, Trace] | None:
        """Take note of an event; returns what is finished."""
        slot = event.slot
        if isinstance(event, Finished):
            self._free.append(slot)
            self._waiting.pop(slot, None)  # it may have died while it waited
            return self._position.pop(slot), event.trace
        if not self._waiting:
            self._since = self._clock()
        self._waiting[slot] = event
        return None

    def _is_due(self) -> bool:
        num_ready, policy = len(self._waiting), self._policy
        return (
            num_ready == len(self._position)
            or (policy.max_ready is not None and num_ready >= policy.max_ready)
            or self._clock() >= self._since + policy.max_wait
        )

    def _time_left(self) -> float | None:
        """Return for how long those that wait may wait for others."""
        if not self._waiting or self._policy.max_wait == math.inf:
            return None
        return max(self._since + self._policy.max_wait - self._clock(), 0.0)

    def _serve(self) -> None:
        """Serve all that wait, in the order of their slots."""
        waiting = sorted(self._waiting.values(), key=_slot_of)
        self._waiting = {}
        for asked, answer in zip(waiting, self._serving.propose(waiting), strict=True):
            self._slots.answer(asked.slot, answer)


def _slot_of(asked: Asked) -> int:
    return asked.slot


class _Serving:
    """A session, and the places to which its slots may go back."""

    def __init__(self, session: ProposalSession | None) -> None:
        self._session = session
        self._saved: dict[int, object] = {}

    def assign(self, slot: int, observation: int) -> None:
        """Say for which observation a slot runs from now on."""
        if self._session is not None:
            self._session.assign(slot, observation)

    def propose(self, waiting: Sequence[Asked]) -> Sequence[Distribution | None]:
        """Return what the waiting runs shall draw from."""
        session = self._session
        if session is None:
            return [None] * len(waiting)
        for asked in waiting:
            for mark in asked.marks:
                if mark is Mark.SAVE:
                    self._saved[asked.slot] = session.save(asked.slot)
                else:
                    session.restore(asked.slot, self._saved[asked.slot])
        slots, sites, priors, previous, _ = zip(*waiting, strict=True)
        return session.propose(slots, sites, priors, previous)


def run_waves(
    program: Simulator,
    session: ProposalSession,
    runs: Sequence[WaveRun],
    *,
    num_slots: int = 64,
    max_sites: int = MAX_SITES,
    make_controller: Callable[[Ask], ProposalController] = ProposalController,
) -> list[Trace]:
    """Run traces in this process whose draws come from a proposal session.

    A simulator that is not reentrant runs one trace at a time.

    Parameters
    ----------
    program
        The simulator.
    session
        Source of the proposals, with at least ``num_slots`` slots.
    runs
        The traces to run.
    num_slots
        Runs in flight at once, when the simulator is reentrant.
    max_sites
        Length cap of a trace.
    make_controller
        Makes the controller of a run, which asks for proposals.

    Returns
    -------
    list of Trace
        In the order of ``runs``; ``log_proposal`` is the log density of the controlled draws under what they were drawn
        from.

    Raises
    ------
    InvalidInputError
        When an observation is missing.
    """
    runner = Runner(program, max_sites, make_controller=make_controller)
    if not program.is_reentrant or min(num_slots, len(runs), program.max_in_flight or num_slots) <= 1:
        return _run_one_by_one(runner, session, runs)
    return run_in_flight(runner, session, runs, num_slots=num_slots)


def run_in_flight(
    runner: Runner, session: ProposalSession | None, runs: Sequence[WaveRun], *, num_slots: int = 64
) -> list[Trace]:
    """Run traces of a reentrant program in this process, several in flight.

    Parameters
    ----------
    runner
        How a run is executed.
    session
        Source of the proposals, with at least ``num_slots`` slots; without one the prior proposes everywhere.
    runs
        The traces to run.
    num_slots
        Runs in flight at once; fewer where the program allows fewer.

    Returns
    -------
    list of Trace
        In the order of ``runs``.
    """
    limit = runner.program.max_in_flight
    num_slots = min(num_slots, len(runs), limit or num_slots)
    # programs outside are idle while they wait for proposals, so those that wait are served soon
    policy = None if limit is None else WavePolicy(max_ready=max(1, num_slots // 2), max_wait=MAX_WAIT)
    slots = GreenletSlots(runner, num_slots)
    try:
        traces = dict(WaveScheduler(slots, session, policy).results(runs))
    finally:
        slots.close()
    return [traces[position] for position in range(len(runs))]


def _run_one_by_one(runner: Runner, session: ProposalSession, runs: Sequence[WaveRun]) -> list[Trace]:
    """Run one trace after the other, each call of the network from inside the run: nothing is suspended."""
    serving = _Serving(session)

    def ask(site: Site, prior: Distribution, previous: Previous, marks: tuple[Mark, ...]) -> Distribution | None:
        return serving.propose([Asked(0, site, prior, previous, marks)])[0]

    traces = []
    for run in runs:
        serving.assign(0, run.observation)
        traces.append(runner.finish(runner.recorder(run, Asking(ask)), run))
    return traces
