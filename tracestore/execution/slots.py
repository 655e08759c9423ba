"""Slots: places where a run of a simulator can be in flight, and what passes between them and a scheduler.

The scheduler knows slots, not simulators: it starts runs, is told of draws that want a proposal and of traces that are
finished, and answers. What is behind a slot may be a greenlet, a process, or a program at the end of a socket.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tracestore.execution.proposing import Ask, Mark, Previous, ProposalController
from tracestore.simulators.base import MAX_SITES, PriorController, Simulator, execute
from tracestore.simulators.recorder import CollapsedLoop, Recorder
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site
from tracestore.traces.trace import Trace

__all__ = ["Asked", "Event", "Finished", "Runner", "Slots", "WaveRun"]

PRIOR = PriorController()


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
    asks: bool = True
    """Whether controlled draws ask for proposals; otherwise all come from the prior."""


class Asked(NamedTuple):
    """A run has reached a controlled draw and waits for a proposal."""

    slot: int
    site: Site
    prior: Distribution
    previous: Previous
    """What the run drew when it asked before; None at the first time."""
    marks: tuple[Mark, ...] = ()
    """What to do with the slot's state before."""


class Finished(NamedTuple):
    """A run has ended, well or not; its slot is free."""

    slot: int
    trace: Trace


Event = Asked | Finished


class Slots(Protocol):
    """Runs a simulator in several places at once.

    A slot is free, running or waiting. `start` makes a free slot run. A running slot comes to wait (`Asked`) or becomes
    free (`Finished`); both are reported by `wait`. `answer` makes a waiting slot run again. No slot is ever lost: a
    simulator that dies or hangs is reported as `Finished` with a trace that says so, and the slot can be started again.

    Whoever implements it for programs behind sockets keeps one recorder for each program on this side: `start` sends
    the program its order to run, a message of the program about a draw is given to the recorder, whose controller
    either has the value at once or leads to `Asked`, and `answer` sends the value drawn from the proposal. `wait` polls
    the sockets; a program that is gone, or silent for too long, ends its run as failed. Nothing here calls back into
    the scheduler, and nothing but `wait` blocks.
    """

    @property
    def num_slots(self) -> int:
        """Number of slots; they count from 0."""

    def start(self, slot: int, run: WaveRun) -> None:
        """Run a trace in a free slot."""

    def answer(self, slot: int, proposal: Distribution | None) -> None:
        """Give a waiting run what it shall draw from; None stands for the prior."""

    def wait(self, timeout: float | None) -> Sequence[Event]:
        """Return what has happened since the last call, at least one event unless time runs out.

        Parameters
        ----------
        timeout
            Seconds to wait for the first event at most; None waits as long as it takes.
        """

    def close(self) -> None:
        """End all runs in flight, and whatever the slots are made of. Closing twice does nothing."""


@dataclass(frozen=True, slots=True)
class Runner:
    """How a run is executed, wherever that is."""

    program: Simulator
    max_sites: int = MAX_SITES
    """Length cap of a trace."""
    collapse_rejection: bool = False
    """Keep only the accepted pass of each rejection loop, where runs do not ask."""
    make_controller: Callable[[Ask], ProposalController] = ProposalController
    """Makes the controller of a run that asks for proposals."""

    def recorder(self, run: WaveRun, ask: Ask) -> Recorder:
        """Return a recorder for a run, which asks for proposals by `ask`."""
        if not run.asks:
            return self._prior_recorder(run)
        controller = self.make_controller(ask)
        return Recorder(controller, run.rng, run.observations, self.max_sites, make_loop=controller.make_loop)

    def run_from_prior(self, run: WaveRun) -> Trace:
        """Run a trace in this process, with all draws from the prior."""
        return self.finish(self._prior_recorder(run), run)

    def finish(self, recorder: Recorder, run: WaveRun) -> Trace:
        """Run the simulator under a recorder, and return its trace."""
        trace = execute(self.program, recorder, run.stream)
        if isinstance(recorder.controller, ProposalController):
            trace.log_proposal = recorder.controller.log_proposal
        return trace

    def _prior_recorder(self, run: WaveRun) -> Recorder:
        make_loop = CollapsedLoop if self.collapse_rejection else None
        return Recorder(PRIOR, run.rng, run.observations, self.max_sites, make_loop=make_loop)
