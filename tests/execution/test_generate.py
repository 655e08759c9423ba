"""Prior generation: the same traces from any number of workers, interrupted or not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tracestore as ts
from tracestore import TraceStore
from tracestore.errors import InvalidInputError, SimulatorError, StoreExistsError
from tracestore.events import Event, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.execution import plan_chunks
from tracestore.simulators import toys


def by_stream(store: TraceStore) -> dict[int, float]:
    values, indices = store.values("result")
    return dict(zip(store.column("stream")[indices].tolist(), values.tolist(), strict=True))


def test_chunks_cover_the_job_once() -> None:
    chunks = plan_chunks(1000, 64)
    assert [chunk.index for chunk in chunks] == list(range(16))
    streams = [s for chunk in chunks for s in range(chunk.first, chunk.first + chunk.num_traces)]
    assert streams == list(range(1000))
    for bad in ((0, None), (5, 0), (-3, None)):
        with pytest.raises(InvalidInputError, match="at least 1"):
            plan_chunks(*bad)


def test_a_job_is_returned_when_complete_and_refused_when_different(tmp_path: Path) -> None:
    store = ts.simulate(toys.gum, tmp_path / "s", num_traces=50, seed=1)
    again = ts.simulate(toys.gum, tmp_path / "s", num_traces=50, seed=1)
    assert (len(store), again.version) == (50, store.version)
    with pytest.raises(StoreExistsError, match="seed"):
        ts.simulate(toys.gum, tmp_path / "s", num_traces=50, seed=2)
    with pytest.raises(StoreExistsError, match="simulator"):
        ts.simulate(toys.hmm, tmp_path / "s", num_traces=50, seed=1)
    assert len(TraceStore.open(tmp_path / "s")) == 50


def test_appending_adds_new_streams(tmp_path: Path) -> None:
    ts.simulate(toys.gum, tmp_path / "s", num_traces=50, seed=1)
    store = ts.simulate(toys.gum, tmp_path / "s", num_traces=30, seed=1, append=True)
    assert sorted(store.column("stream").tolist()) == list(range(80))
    assert by_stream(ts.simulate(toys.gum, tmp_path / "t", num_traces=80, seed=1)) == by_stream(store)
    with pytest.raises(InvalidInputError, match="append to a store of the same simulator"):
        ts.simulate(toys.hmm, tmp_path / "s", num_traces=30, append=True)


def test_failures_are_counted_and_the_others_go_on(tmp_path: Path) -> None:
    def fragile() -> float:
        x = ts.sample(ts.Normal(0.0, 1.0), name="x")
        if x > 0:
            raise ValueError("too far")
        return x

    events: list[Event] = []
    store = ts.simulate(fragile, tmp_path / "s", num_traces=100, seed=1, observer=events.append)
    failed = store.failures()
    assert 20 < len(failed) < 80
    assert set(failed.values()) == {"ValueError: too far"}
    assert len(store) == 100
    last = [event for event in events if isinstance(event, PhaseAdvanced)][-1]
    assert (last.done, last.failed) == (100, len(failed))
    assert isinstance(events[0], PhaseStarted)
    assert isinstance(events[-1], PhaseFinished)


def test_an_interrupt_in_one_process_keeps_finished_chunks(tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, PhaseAdvanced) and event.done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ts.simulate(toys.gum, tmp_path / "s", num_traces=100, seed=1, chunk_size=10, observer=interrupt)
    assert sorted(TraceStore.open(tmp_path / "s").column("stream").tolist()) == list(range(30))
    events: list[Event] = []
    store = ts.simulate(toys.gum, tmp_path / "s", num_traces=100, seed=1, chunk_size=10, observer=events.append)
    assert isinstance(events[0], PhaseStarted)
    assert events[0].done == 30
    assert by_stream(store) == by_stream(ts.simulate(toys.gum, tmp_path / "t", num_traces=100, seed=1))


@pytest.mark.processes
def test_workers_do_not_change_the_traces(tmp_path: Path) -> None:
    one = ts.simulate(toys.gum_marsaglia, tmp_path / "one", num_traces=300, seed=3)
    two = ts.simulate(toys.gum_marsaglia, tmp_path / "two", num_traces=300, seed=3, workers=2)
    assert by_stream(one) == by_stream(two)
    assert sorted(two.column("stream").tolist()) == list(range(300))


@pytest.mark.processes
def test_an_error_in_a_worker_reaches_the_caller(tmp_path: Path) -> None:
    def broken() -> float:
        os._exit(3)

    with pytest.raises(SimulatorError, match="exit code 3"):
        ts.simulate(broken, tmp_path / "s", num_traces=10, workers=2)


SCRIPT = """
import sys, time
import tracestore as ts
from tracestore.simulators import toys

def slow():
    time.sleep(float(sys.argv[2]))
    return toys.gum.function()

slow = ts.simulators.Simulator(slow, name="slow")
ts.simulate(slow, sys.argv[1], num_traces=600, seed=5, workers=2, chunk_size=10)
"""


@pytest.mark.processes
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_job_keeps_its_finished_chunks_and_goes_on(tmp_path: Path, sent: signal.Signals) -> None:
    path = tmp_path / "s"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path), "0.02"], stderr=subprocess.DEVNULL)
    while not (path / "TRACESTORE.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1.5)  # some six of the sixty chunks, which take six seconds in all
    process.send_signal(sent)
    process.wait(30)
    deadline = time.monotonic() + 60
    while not (held := len(TraceStore.open(path).completed_work())) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert 0 < held < 60, "the workers seal what they have, and the job was not complete"
    subprocess.run([sys.executable, "-c", SCRIPT, str(path), "0"], check=True)
    store = TraceStore.open(path)
    assert sorted(store.column("stream").tolist()) == list(range(600))
    np.testing.assert_array_equal(np.sort([*store.completed_work()]), np.arange(60))
