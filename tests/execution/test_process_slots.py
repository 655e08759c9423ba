"""Slots in processes: the same traces as in one process, and whatever happens to a process is a recorded failure."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import tracestore as ts
from tests.execution.fragile_programs import ENDINGS, fragile
from tests.execution.test_waves import Session, walk
from tracestore.errors import InferenceError, InvalidInputError, SimulatorError
from tracestore.execution import TraceStreams, process_slots, run_waves
from tracestore.execution.amortized_rejection import AmortizedController, LoopSettings
from tracestore.execution.process_slots import ProcessSlots
from tracestore.execution.slots import Runner, WaveRun
from tracestore.execution.waves import WavePolicy, WaveScheduler
from tracestore.simulators import Simulator, rejection
from tracestore.traces import Trace, TraceStatus
from tracestore.traces.distributions import Distribution

pytestmark = pytest.mark.processes

OBSERVED = {"y": np.array(1.0)}


def make_runs(num_runs: int, *, asks: bool = True) -> list[WaveRun]:
    streams = TraceStreams(1, "test")
    return [WaveRun(stream, streams.generator(stream), OBSERVED, asks=asks) for stream in range(num_runs)]


def run(
    program: Simulator, num_runs: int, *, num_slots: int = 3, timeout: float | None = None, asks: bool = True
) -> list[Trace]:
    with ProcessSlots(Runner(program), num_slots, timeout=timeout) as slots:
        scheduler = WaveScheduler(slots, Session(), WavePolicy(max_ready=2, max_wait=0.001))
        traces = dict(scheduler.results(make_runs(num_runs, asks=asks)))
    return [traces[position] for position in range(num_runs)]


def assert_same(found: list[Trace], wanted: list[Trace]) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert (a.stream, a.layout, a.log_joint, a.failure) == (b.stream, b.layout, b.log_joint, b.failure)
        np.testing.assert_equal(a.log_proposal, b.log_proposal)
        np.testing.assert_array_equal(a.values, b.values)
        np.testing.assert_array_equal(a.parameters, b.parameters)
        assert a.observations == b.observations


def vectors() -> np.ndarray:
    """Draws and observations of several kinds, under names and without, and a loop."""
    for attempt in rejection():
        if ts.sample(ts.Uniform(0.0, 1.0)) < 0.5:
            attempt.accept()
    x = ts.sample(ts.Normal(np.zeros(3), np.ones(3)), name="x")
    ts.sample(ts.Categorical([0.2, 0.8]), control=False)
    ts.tag(x[:2], name="part")
    ts.observe(ts.Normal(x[0], 1.0), name="y", dtype=np.float32)
    ts.observe(ts.Normal(x[0], 1.0), 2.0)
    return x


@pytest.mark.parametrize("program", [walk, vectors])
@pytest.mark.parametrize("asks", [True, False])
def test_traces_are_those_of_one_process(program: object, asks: bool) -> None:
    one = Simulator(program, reentrant=True)  # type: ignore[arg-type]
    wanted = run_waves(one, Session(), make_runs(40, asks=asks), num_slots=1)
    assert_same(run_waves(one, Session(), make_runs(40, asks=asks), num_slots=8), wanted)
    assert_same(run(one, 40, asks=asks), wanted)


def test_runs_that_go_back_do_so_everywhere() -> None:
    """The session's running sum decides the proposals, so that a place restored in another slot would show."""

    def loop() -> float:
        start = ts.sample(ts.Normal(0.0, 1.0))
        for attempt in rejection():
            x: float = ts.sample(ts.Normal(0.0, 1.0))
            if x + ts.sample(ts.Normal(0.0, 1.0)) > start:
                attempt.accept()
        ts.observe(ts.Normal(x, 1.0), name="y")
        return x

    program, make = Simulator(loop, reentrant=True), partial(AmortizedController, settings=LoopSettings(0.2))
    serial, waves = (
        run_waves(program, Session(), make_runs(40), num_slots=slots, make_controller=make) for slots in (1, 8)
    )
    with ProcessSlots(Runner(program, make_controller=make), 3) as slots:
        apart = dict(WaveScheduler(slots, Session()).results(make_runs(40)))
    assert_same(waves, serial)
    assert_same([apart[position] for position in range(40)], serial)


@pytest.mark.parametrize("how", ENDINGS)
def test_a_bad_end_is_a_recorded_failure(how: str) -> None:
    traces = run(fragile(how), 24)
    wanted = run(fragile("well"), 24)
    bad = [trace.stream for trace in wanted if trace["bad"]]
    assert 4 < len(bad) < 20
    assert [trace.stream for trace in traces] == list(range(24))
    assert [trace.stream for trace in traces if trace.status is TraceStatus.FAILED] == bad
    assert {trace.failure for trace in traces if trace.stream in bad} == {ENDINGS[how]}
    # the others are none the worse for it
    assert_same([trace for trace in traces if not trace.failure], [trace for trace in wanted if not trace["bad"]])


def test_a_run_that_hangs_is_ended() -> None:
    traces = run(fragile("hang"), 8, timeout=0.2)
    failures = [trace.failure for trace in traces]
    assert set(failures) == {"", "the simulator computed for more than 0.2 seconds and was stopped"}


def test_time_that_a_run_waits_does_not_count() -> None:
    class Slow(Session):
        def propose(self, *request: object) -> list[Distribution | None]:
            time.sleep(0.4)
            return super().propose(*request)  # type: ignore[arg-type]

    def three() -> None:
        for _ in range(3):
            ts.sample(ts.Normal(0.0, 1.0))

    with ProcessSlots(Runner(Simulator(three)), 1, timeout=0.7) as slots:
        ((_, trace),) = WaveScheduler(slots, Slow()).results(make_runs(1))
    assert trace.failure == ""


def test_what_a_run_has_started_ends_with_it(tmp_path: Path) -> None:
    def starts_another() -> None:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        (tmp_path / "pid").write_text(str(child.pid))
        time.sleep(3600.0)

    assert "more than 1.5 seconds" in run(Simulator(starts_another), 1, timeout=1.5)[0].failure
    assert_ends(int((tmp_path / "pid").read_text()))


def test_the_same_processes_run_all_traces() -> None:
    def whose() -> int:
        return os.getpid()

    found = {trace.result for trace in run(Simulator(whose), 30, num_slots=2)}
    assert 1 <= len(found) <= 2
    assert os.getpid() not in found


def test_observations_may_change_from_run_to_run() -> None:
    streams = TraceStreams(1, "test")
    seen = [{"y": np.array(float(number // 3))} for number in range(12)]
    runs = [WaveRun(number, streams.generator(number), seen[number]) for number in range(12)]
    with ProcessSlots(Runner(Simulator(walk)), 2) as slots:
        for position, trace in WaveScheduler(slots, Session()).results(runs):
            assert trace["y"] == position // 3
            assert trace.observations["y"] is seen[position]["y"]


def test_an_error_of_an_engine_is_raised_here_and_ends_all() -> None:
    def curious() -> None:
        ts.observe(ts.Normal(0.0, 1.0), name="unknown")

    with pytest.raises(InvalidInputError, match="observes 'unknown' but no value was given"):
        run(Simulator(curious), 4)

    class Broken(Session):
        def propose(self, *_: object) -> list[Distribution | None]:
            raise InferenceError("no network")

    slots = ProcessSlots(Runner(Simulator(walk)), 2)
    with slots, pytest.raises(InferenceError, match="no network"):
        list(WaveScheduler(slots, Broken()).results(make_runs(4)))


def test_processes_that_cannot_start_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_slots, "serve_runs", lambda *_: os._exit(9))
    with pytest.raises(
        SimulatorError, match=r"No process for the simulator .* ended with exit code 9 before its first"
    ):
        run(Simulator(walk), 4)


def test_a_process_that_dies_idle_costs_no_run() -> None:
    with ProcessSlots(Runner(Simulator(os.getpid)), 1) as slots:
        scheduler = WaveScheduler(slots, None)
        ((_, first),) = scheduler.results(make_runs(1))
        os.kill(int(first["result"]), signal.SIGKILL)
        assert_ends(int(first["result"]))
        ((_, second),) = scheduler.results(make_runs(1))
        ((_, third),) = scheduler.results(make_runs(1))
    assert second.failure == ""
    assert second["result"] != first["result"]
    assert third["result"] == second["result"]  # the new process has its place, and is ended with the others
    assert_ends(int(second["result"]))


@pytest.mark.parametrize(("num_slots", "timeout"), [(0, None), (1, 0.0), (1, -1.0), (1, float("nan"))])
def test_refuses_numbers_without_sense(num_slots: int, timeout: float | None) -> None:
    with pytest.raises(InvalidInputError, match="must be at least 1"):
        ProcessSlots(Runner(Simulator(walk)), num_slots, timeout=timeout)


SCRIPT = """
import os, signal, sys, time
import numpy as np
import tracestore as ts
from tracestore.execution.amortized_rejection import AmortizedController, LoopSettings
from tracestore.execution.process_slots import ProcessSlots
from tracestore.execution.slots import Runner, WaveRun
from tracestore.execution.waves import WaveScheduler

def program():
    os.write(1, b"%d\\n" % os.getpid())  # whole lines, whoever else writes
    if int(ts.sample(ts.Categorical([0.0, 1.0]))):
        time.sleep(3600.0)

runs = [WaveRun(stream, np.random.default_rng(stream), {}, asks=False) for stream in range(2)]
with ProcessSlots(Runner(ts.simulators.Simulator(program)), 2) as slots:
    list(WaveScheduler(slots, None).results(runs))
"""


@pytest.fixture
def parent() -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process with two simulators that hang, and their process ids."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process, [int(process.stdout.readline()) for _ in range(2)]
    finally:
        process.kill()
        process.communicate()


def test_nothing_outlives_a_parent_that_is_killed(parent: tuple[subprocess.Popen[str], list[int]]) -> None:
    process, simulators = parent
    process.kill()
    for pid in simulators:
        assert_ends(pid)


def test_an_interrupt_ends_all_in_good_order(parent: tuple[subprocess.Popen[str], list[int]]) -> None:
    process, simulators = parent
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    for pid in simulators:
        assert_ends(pid)


def assert_ends(pid: int) -> None:
    """Wait for the end of a process; the limit of the test is the limit of the wait."""
    while Path(f"/proc/{pid}/stat").exists():
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
