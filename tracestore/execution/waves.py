"""Many runs in flight, one network call for all that wait.

A run that reaches a controlled site asks for a proposal and is suspended. When every live run waits, all are served by
one call and resumed in slot order, so the schedule is a function of the runs alone. Runs are greenlets; a simulator
that is not reentrant runs one trace at a time.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from greenlet import getcurrent, greenlet
from numpy.typing import NDArray

from tracestore.execution.proposing import Ask, Previous, ProposalController
from tracestore.execution.provider import ProposalSession
from tracestore.simulators.base import MAX_SITES, Simulator, execute
from tracestore.simulators.runtime import Recorder, activate
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site
from tracestore.traces.trace import Trace

__all__ = ["WaveRun", "run_waves"]


@dataclass(frozen=True, slots=True)
class WaveRun:
    """One trace to run."""

    stream: int
    """Number of its random stream."""
    rng: np.random.Generator
    """Its own generator; runs in flight must not share one."""
    observations: Mapping[str, NDArray[np.generic]] | None
    """Values of the named observes."""
    observation: int = 0
    """Number of these observations within the session."""


def run_waves(
    program: Simulator,
    session: ProposalSession,
    runs: Sequence[WaveRun],
    *,
    num_slots: int = 64,
    max_sites: int = MAX_SITES,
    make_controller: Callable[[Ask], ProposalController] = ProposalController,
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

    def recorder(run: WaveRun, ask: Ask) -> Recorder:
        return Recorder(make_controller(ask), run.rng, run.observations, max_sites)

    if not program.is_reentrant or num_slots == 1 or len(runs) == 1:

        def ask_now(site: Site, prior: Distribution, previous: Previous) -> Distribution | None:
            return session.propose([0], [site], [prior], [previous])[0]

        traces = []
        for run in runs:
            session.assign(0, run.observation)
            traces.append(_finished(program, recorder(run, ask_now), run))
        return traces
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
            self.session.assign(slot.number, run.observation)
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
            self.traces[slot.index] = _finished(self.program, slot.recorder, run)


def _finished(program: Simulator, recorder: Recorder, run: WaveRun) -> Trace:
    trace = execute(program, recorder, run.stream)
    if isinstance(recorder.controller, ProposalController):
        trace.log_proposal = recorder.controller.log_proposal
    return trace
