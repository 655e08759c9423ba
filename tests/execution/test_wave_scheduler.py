"""The scheduler alone: whom it serves and when, with slots and a clock made up for it."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

import tracestore as ts
from tests.execution.test_waves import Session
from tracestore.errors import InvalidInputError
from tracestore.execution.proposing import Mark
from tracestore.execution.slot_messages import failed_trace
from tracestore.execution.slots import Asked, Event, Finished, WaveRun
from tracestore.execution.waves import WavePolicy, WaveScheduler
from tracestore.traces import Site, SiteKind
from tracestore.traces.distributions import Distribution

PRIOR = ts.Normal(0.0, 1.0)
Script = list[tuple[float, list[Event]]]
SITE = Site("program:x~Normal#1", SiteKind.SAMPLE, True, "x", "Normal", (), 2)


def asked(slot: int, *marks: Mark) -> Asked:
    return Asked(slot, SITE, PRIOR, None, marks)


def finished(slot: int, stream: int) -> Finished:
    return Finished(slot, failed_trace(stream, "", 0.0))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class ScriptedSlots:
    """Reports what a script says, at the times that it says, and remembers what it was asked to do."""

    def __init__(self, num_slots: int, clock: Clock, script: Script) -> None:
        self.num_slots = num_slots
        self.clock = clock
        self.script = list(script)
        self.started: list[tuple[int, int]] = []
        self.answered: list[tuple[float, int]] = []

    def start(self, slot: int, run: WaveRun) -> None:
        self.started.append((slot, run.stream))

    def answer(self, slot: int, proposal: Distribution | None) -> None:
        self.answered.append((self.clock.now, slot))

    def wait(self, timeout: float | None) -> list[Event]:
        at, events = self.script[0]
        if timeout is not None and self.clock.now + timeout < at:
            self.clock.now += timeout
            return []
        self.script.pop(0)
        self.clock.now = max(self.clock.now, at)
        return events

    def close(self) -> None:
        pass


def run(slots: ScriptedSlots, num_runs: int, policy: WavePolicy, session: Session | None = None) -> list[int]:
    runs = [WaveRun(stream, np.random.default_rng(stream), {}) for stream in range(num_runs)]
    scheduler = WaveScheduler(slots, session or Session(), policy, clock=slots.clock)
    return [position for position, _ in scheduler.results(runs)]


def test_waits_for_everybody_without_a_limit() -> None:
    script: Script = [(1.0, [asked(1)]), (9.0, [asked(0)]), (10.0, [finished(0, 0), finished(1, 1)])]
    slots = ScriptedSlots(2, Clock(), script)
    assert run(slots, 2, WavePolicy()) == [0, 1]
    assert slots.answered == [(9.0, 0), (9.0, 1)]


def test_serves_when_enough_are_ready() -> None:
    script: Script = [
        (1.0, [asked(2)]),
        (2.0, [asked(0)]),
        (3.0, [finished(1, 1)]),
        (4.0, [finished(0, 0), finished(2, 2)]),
    ]
    slots = ScriptedSlots(3, Clock(), script)
    run(slots, 3, WavePolicy(max_ready=2))
    assert slots.answered == [(2.0, 0), (2.0, 2)]


def test_serves_when_the_first_has_waited_long_enough() -> None:
    script: Script = [
        (1.0, [asked(1)]),
        (1.5, [asked(2)]),
        (9.0, [finished(0, 0)]),
        (9.5, [finished(1, 1), finished(2, 2)]),
    ]
    slots = ScriptedSlots(3, Clock(), script)
    run(slots, 3, WavePolicy(max_wait=2.0))
    assert slots.answered == [(3.0, 1), (3.0, 2)]


def test_a_run_that_ends_may_be_the_last_that_others_wait_for() -> None:
    script: Script = [(1.0, [asked(1)]), (2.0, [finished(0, 0)]), (3.0, [finished(1, 1)])]
    slots = ScriptedSlots(2, Clock(), script)
    assert run(slots, 2, WavePolicy()) == [0, 1]
    assert slots.answered == [(2.0, 1)]


def test_a_free_slot_is_filled_before_others_are_served() -> None:
    script: Script = [(1.0, [asked(1), finished(0, 0)]), (2.0, [asked(0)]), (3.0, [finished(0, 2), finished(1, 1)])]
    slots = ScriptedSlots(2, Clock(), script)
    assert run(slots, 3, WavePolicy()) == [0, 2, 1]
    assert slots.started == [(0, 0), (1, 1), (0, 2)]
    assert slots.answered == [(2.0, 0), (2.0, 1)]


def test_a_run_that_dies_while_it_waits_is_not_answered() -> None:
    script: Script = [(1.0, [asked(0)]), (2.0, [finished(0, 0)]), (3.0, [asked(1)]), (4.0, [finished(1, 1)])]
    slots = ScriptedSlots(2, Clock(), script)
    run(slots, 2, WavePolicy())
    assert slots.answered == [(3.0, 1)]


def test_places_are_saved_and_restored_before_the_proposal() -> None:
    class Places(Session):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[object] = []

        def save(self, slot: int) -> object:
            self.calls.append(("save", slot))
            return f"place of {slot}"

        def restore(self, slot: int, saved: object) -> None:
            self.calls.append((saved, slot))

        def propose(self, slots: Sequence[int], *rest: object) -> list[Distribution | None]:
            self.calls.append(tuple(slots))
            return [None] * len(slots)

    script: Script = [
        (1.0, [asked(0), asked(1, Mark.SAVE)]),
        (2.0, [asked(1, Mark.RESTORE), finished(0, 0)]),
        (3.0, [finished(1, 1)]),
    ]
    session = Places()
    run(ScriptedSlots(2, Clock(), script), 2, WavePolicy(), session)
    assert session.calls == [("save", 1), (0, 1), ("place of 1", 1), (1,)]


def test_runs_are_read_as_slots_become_free() -> None:
    read: list[int] = []

    def endless() -> Iterator[WaveRun]:
        stream = 0
        while True:
            read.append(stream)
            yield WaveRun(stream, np.random.default_rng(stream), {})
            stream += 1

    script: Script = [(float(time), [finished(time % 2, time)]) for time in range(100)]
    results = WaveScheduler(ScriptedSlots(2, Clock(), script), None).results(endless())
    assert [next(results)[0] for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(read) == 7


@pytest.mark.parametrize("settings", [{"max_ready": 0}, {"max_wait": -1.0}, {"max_wait": float("nan")}])
def test_refuses_policies_without_sense(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match="`max_ready` must be at least 1"):
        WavePolicy(**settings)  # type: ignore[arg-type]
