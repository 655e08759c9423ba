"""Waves: interleaved runs equal serial ones, and the network is asked in full batches."""

import time
from collections.abc import Sequence

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InferenceError
from tracestore.execution import TraceStreams, WaveRun, run_waves
from tracestore.simulators import Simulator, toys
from tracestore.simulators.runtime import Value
from tracestore.traces import Site, Trace, TraceBatch
from tracestore.traces.distributions import Distribution


class Session:
    """Shifts Normal priors by the slot's running sum, so that a mixed-up slot would show."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.sums: dict[int, float] = {}

    def assign(self, slot: int, observation: int) -> None:
        pass

    def save(self, slot: int) -> object:
        return self.sums[slot]

    def restore(self, slot: int, saved: object) -> None:
        self.sums[slot] = float(saved)  # type: ignore[arg-type]

    def propose(
        self,
        slots: Sequence[int],
        sites: Sequence[Site],
        priors: Sequence[Distribution],
        previous: Sequence[Value | None],
    ) -> list[Distribution | None]:
        self.sizes.append(len(slots))
        answers: list[Distribution | None] = []
        for slot, prior, value in zip(slots, priors, previous, strict=True):
            self.sums[slot] = 0.0 if value is None else self.sums[slot] + float(np.sum(value))
            shifts = isinstance(prior, ts.Normal) and not prior.shape
            answers.append(ts.Normal(self.sums[slot], 1.0) if shifts else None)
        return answers

    def log_prob(self, batch: TraceBatch, observation: int | np.ndarray = 0) -> np.ndarray:
        return np.zeros(len(batch))


def walk() -> float:
    position = 0.0
    for _ in range(int(ts.sample(ts.Poisson(3.0), name="n"))):
        position += ts.sample(ts.Normal(0.0, 1.0))
    ts.observe(ts.Normal(position, 1.0), 1.0, name="y")
    return position


def wave(program: Simulator, session: Session, num_slots: int, num_runs: int = 50) -> list[Trace]:
    streams = TraceStreams(1, "test")
    runs = [WaveRun(stream, streams.generator(stream), {}) for stream in range(num_runs)]
    return run_waves(program, session, runs, num_slots=num_slots)


@pytest.mark.parametrize("num_slots", [2, 7, 64])
def test_interleaved_equals_serial(num_slots: int) -> None:
    program = Simulator(walk, reentrant=True)
    serial, interleaved = wave(program, Session(), 1), wave(program, Session(), num_slots)
    assert len(serial) == len(interleaved) == 50
    for a, b in zip(serial, interleaved, strict=True):
        assert a.stream == b.stream
        np.testing.assert_array_equal(a.values, b.values)
        assert a.log_joint == b.log_joint


def test_all_waiting_runs_share_one_call() -> None:
    session = Session()
    wave(Simulator(walk, reentrant=True), session, 16)
    assert max(session.sizes) == 16
    assert sum(session.sizes) / len(session.sizes) > 8


def test_a_trace_counts_only_the_time_it_runs() -> None:
    start = time.perf_counter()
    traces = wave(Simulator(walk, reentrant=True), Session(), 25)
    assert 0 < sum(trace.seconds for trace in traces) < time.perf_counter() - start


def test_programs_with_state_of_their_own_run_one_at_a_time() -> None:
    session = Session()
    wave(Simulator(walk), session, 16)
    assert set(session.sizes) == {1}


def test_a_failing_run_does_not_disturb_its_neighbours() -> None:
    def fragile() -> float:
        x = ts.sample(ts.Normal(0.0, 1.0), name="x")
        if x > 0.5:
            raise ValueError("too far")
        return walk()

    serial, interleaved = (
        wave(Simulator(fragile, reentrant=True), Session(), 1),
        wave(Simulator(fragile, reentrant=True), Session(), 8),
    )
    assert [trace.failure for trace in serial] == [trace.failure for trace in interleaved]
    assert {trace.failure for trace in serial} == {"", "ValueError: too far"}


def test_an_error_of_the_session_ends_the_wave() -> None:
    class Broken(Session):
        def propose(self, *_: object) -> list[Distribution | None]:
            raise InferenceError("no network")

    for num_slots in (1, 8):
        with pytest.raises(InferenceError, match="no network"):
            wave(Simulator(walk, reentrant=True), Broken(), num_slots)
        assert isinstance(toys.gum(), float)  # no run is left active
