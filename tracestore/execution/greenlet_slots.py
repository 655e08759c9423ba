"""Slots in this process: each run is a greenlet, suspended where it waits for a proposal.

Only for reentrant programs: several runs are in the middle of the simulator at once.
"""

import time
from typing import Any

from greenlet import getcurrent, greenlet

from tracestore.execution.proposing import Asking, Mark, Previous
from tracestore.execution.slots import Asked, Event, Finished, Runner, WaveRun
from tracestore.simulators.runtime import Recorder, activate
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site

__all__ = ["GreenletSlots"]


class GreenletSlots:
    """Runs in flight in this process; satisfies `Slots`.

    A run goes on, in `start` and `answer`, until it waits or ends. `wait` never has to wait, and whatever depends on
    its events alone is a function of the runs.

    Parameters
    ----------
    runner
        How a run is executed; its program must be reentrant.
    num_slots
        Number of slots.
    """

    def __init__(self, runner: Runner, num_slots: int) -> None:
        self._runner = runner
        hub = getcurrent()
        self._places = [_Place(number, hub) for number in range(num_slots)]
        self._events: list[Event] = []
        self._outside = activate(None)

    @property
    def num_slots(self) -> int:
        """Number of slots."""
        return len(self._places)

    def start(self, slot: int, run: WaveRun) -> None:
        """Run a trace in a free slot until it waits or ends."""
        place = self._places[slot]
        place.recorder = self._runner.recorder(run, Asking(place.ask))
        place.task = greenlet(self._runner.finish)
        place.seconds = 0.0
        self._resume(place, place.recorder, run)

    def answer(self, slot: int, proposal: Distribution | None) -> None:
        """Resume a waiting run until it waits again or ends."""
        self._resume(self._places[slot], proposal)

    def wait(self, timeout: float | None) -> list[Event]:  # there is nothing to wait for
        """Return what has happened since the last call."""
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """End all runs in flight."""
        for place in self._places:
            if place.task is not None and not place.task.dead:
                place.task.throw()
        activate(self._outside)

    def _resume(self, place: "_Place", *passed: object) -> None:
        """Let a run go on; counts the time that it is not suspended."""
        start = time.perf_counter()
        activate(place.recorder)
        returned = place.task.switch(*passed)
        place.seconds += time.perf_counter() - start
        if place.task.dead:
            returned.seconds = place.seconds
            returned = Finished(place.number, returned)
        self._events.append(returned)


class _Place:
    """A slot, with its suspended greenlet."""

    __slots__ = ("hub", "number", "recorder", "seconds", "task")

    def __init__(self, number: int, hub: greenlet) -> None:
        self.number = number
        self.hub = hub
        self.task: Any = None
        self.recorder: Recorder | None = None
        self.seconds = 0.0

    def ask(self, site: Site, prior: Distribution, previous: Previous, marks: tuple[Mark, ...]) -> Distribution | None:
        answer: Distribution | None = self.hub.switch(Asked(self.number, site, prior, previous, marks))
        return answer
