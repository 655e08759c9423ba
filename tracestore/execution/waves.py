"""Many runs in flight, one network call for all that wait.

A run that reaches a controlled site asks for a proposal and is suspended. When every live run waits, all are served by
one call and resumed in slot order, so the schedule is a function of the runs alone. Runs are greenlets; a simulator
that is not reentrant runs one trace at a time.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from greenlet import getcurrent, greenlet
from numpy.typing import NDArray

from tracestore.execution.provider import ProposalSession
from tracestore.simulators.base import MAX_SITES, Simulator, execute
from tracestore.simulators.runtime import Controller, Recorder, activate
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site
from tracestore.traces.trace import Trace

__all__ = ["Ask", "WaveRun", "run_waves"]

Previous = float | NDArray[np.float64] | None


class Ask(Protocol):
    """Asks the proposal session for one site; given to the controller of a run."""

    def __call__(self, site: Site, prior: Distribution, previous: Previous) -> Distribution | None:
        """Return the proposal, or None for the prior."""


@dataclass(frozen=True, slots=True)
class WaveRun:
    """One trace to run."""

    stream: int
    """Number of its random stream."""
    rng: np.random.Generator
    """Its own generator; runs in flight must not share one."""
    make_controller: Callable[[Ask], Controller]
    """Makes its controller, which may ask for proposals."""


def run_waves(
    program: Simulator,
    session: ProposalSession,
    runs: Sequence[WaveRun],
    *,
    observations: Mapping[str, NDArray[np.generic]] | None,
    num_slots: int = 64,
    max_sites: int = MAX_SITES,
) -> list[Trace]:
    """Run traces whose draws come from a proposal session.

    Parameters
    ----------
    program
        The simulator.
    session
        Source of the proposals, with at least ``num_slots`` slots.
    runs
        The traces to run.
    observations
        Values of the named observes.
    num_slots
        Runs in flight at once, when the simulator is reentrant.
    max_sites
        Length cap of a trace.

    Returns
    -------
    list of Trace
        In the order of ``runs``.

    Raises
    ------
    InvalidInputError
        When an observation is missing.
    """

    def recorder(run: WaveRun, ask: Ask) -> Recorder:
        return Recorder(run.make_controller(ask), run.rng, observations, max_sites)

    if not program.is_reentrant or num_slots == 1 or len(runs) == 1:

        def ask_now(site: Site, prior: Distribution, previous: Previous) -> Distribution | None:
            return session.propose([0], [site], [prior], [previous])[0]

        return [execute(program, recorder(run, ask_now), run.stream) for run in runs]
    wave = _Wave(program, session, recorder, iter(enumerate(runs)))
    return wave.run(min(num_slots, len(runs)), len(runs))


class _Slot:
    """A place for one run at a time, with its suspended greenlet and what it waits for."""

    def __init__(self, number: int, hub: greenlet) -> None:
        self.number = number
        self.hub = hub
        self.index = -1
        self.task: Any = None
        self.recorder: Recorder | None = None
        self.request: tuple[Site, Distribution, Previous] | None = None
        self.seconds = 0.0

    def run(self, *answer: Distribution | None) -> None:
        """Start or resume the task; measures the time that it is not suspended."""
        start = time.perf_counter()
        activate(self.recorder)
        self.task.switch(*answer)
        self.seconds += time.perf_counter() - start

    def ask(self, site: Site, prior: Distribution, previous: Previous) -> Distribution | None:
        self.request = (site, prior, previous)
        answer: Distribution | None = self.hub.switch(None)
        return answer


class _Wave:
    def __init__(
        self,
        program: Simulator,
        session: ProposalSession,
        recorder: Callable[[WaveRun, Ask], Recorder],
        pending: Iterator[tuple[int, WaveRun]],
    ) -> None:
        self.program = program
        self.session = session
        self.recorder = recorder
        self.pending = pending
        self.traces: dict[int, Trace] = {}

    def run(self, num_slots: int, num_runs: int) -> list[Trace]:
        """Keep the slots full until no run is left."""
        hub = getcurrent()
        outside = activate(None)
        slots = [_Slot(number, hub) for number in range(num_slots)]
        try:
            for slot in slots:
                self._refill(slot)
            while waiting := [slot for slot in slots if slot.request is not None]:
                answers = self._serve(waiting)
                for slot, answer in zip(waiting, answers, strict=True):
                    slot.request = None
                    self._resume(slot, answer)
        finally:
            for slot in slots:
                if slot.task is not None and not slot.task.dead:
                    slot.task.throw()  # an engine error ends all runs in flight
            activate(outside)
        return [self.traces[index] for index in range(num_runs)]

    def _serve(self, waiting: list[_Slot]) -> list[Distribution | None]:
        requests = [slot.request for slot in waiting if slot.request is not None]
        sites, priors, previous = zip(*requests, strict=True)
        return self.session.propose([slot.number for slot in waiting], sites, priors, previous)

    def _refill(self, slot: _Slot) -> None:
        """Start runs in a slot until one waits or none is left."""
        for index, run in self.pending:
            slot.recorder = self.recorder(run, slot.ask)
            slot.index = index
            slot.task = greenlet(lambda slot=slot, run=run: self._finish(slot, run))
            slot.seconds = 0.0
            slot.run()
            if slot.request is not None:
                return
            self.traces[index].seconds = slot.seconds

    def _resume(self, slot: _Slot, answer: Distribution | None) -> None:
        slot.run(answer)
        if slot.request is None:
            self.traces[slot.index].seconds = slot.seconds
            self._refill(slot)

    def _finish(self, slot: _Slot, run: WaveRun) -> None:
        if slot.recorder is not None:
            self.traces[slot.index] = execute(self.program, slot.recorder, run.stream)
