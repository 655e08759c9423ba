"""Runs that wait outside of this process: others go on meanwhile, and nothing depends on who is first."""

import math
import threading
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest

import tracestore as ts
from tracestore.execution import TraceStreams, WaveRun
from tracestore.execution.prior_draws import PriorDraws
from tracestore.execution.slots import Runner
from tracestore.execution.waves import run_in_flight
from tracestore.execution.workers import Chunk
from tracestore.simulators import Simulator
from tracestore.simulators.outside import wait_for
from tracestore.traces.trace import Trace, TraceStatus


class Bell:
    """Rings when it is waited for: of several, the newest first."""

    most: ClassVar[int] = 0
    """Bells that were waited for at once."""

    def __init__(self, deadline: float = math.inf, *, is_broken: bool = False) -> None:
        self.deadline = deadline
        self.is_broken = is_broken
        self.has_rung = False

    def is_ready(self) -> bool:
        return self.has_rung

    @classmethod
    def wait_any(cls, several: Sequence["Bell"], timeout: float | None) -> None:
        cls.most = max(cls.most, len(several))
        working = [bell for bell in several if not bell.is_broken]
        if working:
            working[-1].has_rung = True


@pytest.fixture(autouse=True)
def _no_bells() -> None:
    Bell.most = 0


def walk() -> float:
    position = 0.0
    for _ in range(int(ts.sample(ts.Poisson(3.0), name="n"))):
        assert wait_for(Bell())
        position += ts.sample(ts.Normal(0.0, 1.0))
    ts.observe(ts.Normal(position, 1.0), 1.0, name="y")
    return position


def broken() -> None:
    if ts.sample(ts.Bernoulli(0.5), name="is_broken") and not wait_for(Bell(deadline=0.0, is_broken=True)):
        raise RuntimeError("silent")
    assert wait_for(Bell())


def in_flight(function: object, num_slots: int, *, limit: int | None = 64, num_runs: int = 40) -> list[Trace]:
    program = Simulator(function, reentrant=True, max_in_flight=limit)  # type: ignore[arg-type]
    streams = TraceStreams(1, "test")
    runs = [WaveRun(stream, streams.generator(stream), {}, asks=False) for stream in range(num_runs)]
    return run_in_flight(Runner(program), None, runs, num_slots=num_slots)


@pytest.mark.parametrize("num_slots", [2, 7, 64])
def test_runs_that_wait_outside_equal_serial_ones(num_slots: int) -> None:
    serial, interleaved = in_flight(walk, 1), in_flight(walk, num_slots)
    for a, b in zip(serial, interleaved, strict=True):
        assert (a.stream, a.status) == (b.stream, TraceStatus.OK)
        np.testing.assert_array_equal(a.values, b.values)


def test_many_are_waited_for_at_once() -> None:
    in_flight(walk, 16)
    assert Bell.most > 8


def test_the_program_limits_what_is_in_flight() -> None:
    in_flight(walk, 16, limit=3)
    assert Bell.most == 3


def test_who_is_silent_fails_and_the_others_go_on() -> None:
    traces = in_flight(broken, 8)
    failed = [trace.failure for trace in traces if trace["is_broken"]]
    assert 0 < len(failed) < len(traces)
    assert set(failed) == {"RuntimeError: silent"}
    assert all(trace.status is TraceStatus.OK for trace in traces if not trace["is_broken"])


def test_prior_traces_do_not_depend_on_what_is_in_flight() -> None:
    recipe, chunk = PriorDraws(seed=1, purpose="simulate", max_sites=100), Chunk(0, 5, 30)
    alone = recipe.traces(Simulator(walk), chunk)
    together = recipe.traces(Simulator(walk, reentrant=True, max_in_flight=8), chunk)
    assert Bell.most > 1
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a.values, b.values)


def test_nothing_is_suspended_outside_of_slots() -> None:
    in_flight(walk, 8)
    rung = threading.Event()

    class Slow(Bell):
        @classmethod
        def wait_any(cls, several: Sequence[Bell], timeout: float | None) -> None:
            rung.set()
            super().wait_any(several, timeout)

    assert wait_for(Slow())
    assert rung.is_set()
