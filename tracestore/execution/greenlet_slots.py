"""Slots in this process: each run is a greenlet, suspended where it waits for a proposal, or outside of this process.

Only for reentrant programs: several runs are in the middle of the simulator at once. What computes may be this process,
or programs at the end of sockets that the runs wait for.
"""

import math
import time
from typing import Any

from greenlet import getcurrent, greenlet

from tracestore.execution.proposing import Asking, Mark, Previous
from tracestore.execution.slots import Asked, Event, Finished, Runner, WaveRun
from tracestore.simulators.outside import Outside, suspend_by
from tracestore.simulators.runtime import Recorder, activate
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site

__all__ = ["GreenletSlots"]


class GreenletSlots:
    """Runs in flight in this process; satisfies `Slots`.

    A run goes on, in `start` and `answer`, until it waits or ends. When no run waits outside, `wait` never has to, and
    whatever depends on its events alone is a function of the runs.

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
        self._outer, self._outer_suspend = activate(None), suspend_by(None)

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

    def wait(self, timeout: float | None) -> list[Event]:
        """Return what has happened since the last call; waits outside as long as there is nothing to tell."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        while self._go_on() and not self._events and time.monotonic() < end:
            waited_for = [place.outside for place in self._places if place.outside is not None]
            left = min(end, *(outside.deadline for outside in waited_for)) - time.monotonic()
            if waited_for and left > 0.0:
                waited_for[0].wait_any(waited_for, None if left == math.inf else left)
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """End all runs in flight."""
        for place in self._places:
            if place.task is not None and not place.task.dead:
                place.task.throw()
        activate(self._outer)
        suspend_by(self._outer_suspend)

    def _go_on(self) -> bool:
        """Resume the runs that need not wait outside anymore; tells whether any waited."""
        places = [place for place in self._places if place.outside is not None]
        for place in places:
            outside = place.outside
            if outside is not None and (outside.is_ready() or outside.deadline <= time.monotonic()):
                place.outside = None
                place.seconds += time.perf_counter() - place.since
                self._resume(place)
        return bool(places)

    def _resume(self, place: "_Place", *passed: object) -> None:
        """Let a run go on; counts the time that it does not wait for a proposal."""
        start = time.perf_counter()
        activate(place.recorder)
        suspend_by(place.wait_outside)
        returned = place.task.switch(*passed)
        place.since = time.perf_counter()
        place.seconds += place.since - start
        if place.outside is not None:
            return
        if place.task.dead:
            returned.seconds = place.seconds
            returned = Finished(place.number, returned)
        self._events.append(returned)


class _Place:
    """A slot, with its suspended greenlet."""

    __slots__ = ("hub", "number", "outside", "recorder", "seconds", "since", "task")

    def __init__(self, number: int, hub: greenlet) -> None:
        self.number = number
        self.hub = hub
        self.task: Any = None
        self.recorder: Recorder | None = None
        self.seconds = 0.0
        self.outside: Outside | None = None
        """What the run waits for outside."""
        self.since = 0.0
        """When it was suspended last."""

    def wait_outside(self, outside: Outside) -> None:
        self.outside = outside
        self.hub.switch()

    def ask(self, site: Site, prior: Distribution, previous: Previous, marks: tuple[Mark, ...]) -> Distribution | None:
        answer: Distribution | None = self.hub.switch(Asked(self.number, site, prior, previous, marks))
        return answer
