"""Online training: resumes to the last bit, loses and repeats nothing, grows on all ranks alike."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from safetensors.numpy import load_file

import tracestore as ts
from tests.networks.family_programs import TINY
from tests.training.online_program import NUM_TRACES, PROGRAM, SETTINGS
from tracestore.errors import InvalidInputError, SimulatorError, StoreExistsError
from tracestore.events import Event, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.simulators import Simulator, toys
from tracestore.training import TrainConfig, load_network
from tracestore.training.history import read_history
from tracestore.training.online import train_online

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "training" / "online_program.py"
MPIEXEC = Path(sys.executable).with_name("mpiexec")
TORCHRUN = Path(sys.executable).with_name("torchrun")
CONFIG = TrainConfig(**SETTINGS)
ALWAYS_SAVES = TrainConfig(**SETTINGS, checkpoint_seconds=1e-6)


class Stop(Exception):
    """Ends a training from its observer."""


def stop_after(num_steps):
    steps = 0

    def observe(event):
        nonlocal steps
        steps += isinstance(event, PhaseAdvanced) and event.phase == "train"
        if steps == num_steps:
            raise Stop

    return observe


def weights(path):
    return (path / "weights.safetensors").read_bytes()


def losses(path):
    return [step["loss"] for step in read_history(path)]


def run(folder, *start, **asked):
    """Run the script; its exit status and what it wrote."""
    done = subprocess.run(
        [*(start or [sys.executable]), str(SCRIPT), str(folder), json.dumps(asked)],
        capture_output=True,
        text=True,
        timeout=250,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    return done.returncode, done.stderr + done.stdout


def require_complete(path, tmp_path):
    """The store holds the traces that `simulate` makes, each once."""
    store = ts.TraceStore.open(path)
    assert sorted(store.column("stream").tolist()) == list(range(NUM_TRACES))
    expected = ts.simulate(PROGRAM, tmp_path / "expected", num_traces=NUM_TRACES, seed=SETTINGS["seed"])
    found, wanted = (one.take(np.argsort(one.column("stream"))) for one in (store, expected))
    np.testing.assert_array_equal(found.values, wanted.values)
    np.testing.assert_array_equal(found.observations["total"], wanted.observations["total"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The network of a training that nothing interrupts, and its folder."""
    path = tmp_path_factory.mktemp("whole") / "n"
    return path, train_online(PROGRAM, path, num_traces=NUM_TRACES, config=CONFIG)


def test_every_trace_is_trained_on_once(whole):
    path, network = whole
    steps = list(read_history(path))
    assert [step["num_traces"] for step in steps] == [*range(32, NUM_TRACES, 32), NUM_TRACES]
    assert network.summary["num_training_traces"] == NUM_TRACES
    assert network.summary["num_traces"] == NUM_TRACES + network.summary["num_validation_traces"]
    assert network.summary["num_failed"] == 0
    depths = {row.base for row in network.vocabulary.rows if "level" in row.base}
    assert len(depths) > 8


def test_new_addresses_appear_during_the_training(tmp_path):
    """Otherwise the tests of growth show nothing."""
    store = ts.simulate(PROGRAM, tmp_path / "s", num_traces=NUM_TRACES, seed=SETTINGS["seed"])
    streams = store.column("stream").astype(np.int64)
    first, last = (
        {site.base for layout in store.take(rows).layouts for site in layout.sites}
        for rows in (streams < 32, streams >= 32)
    )
    assert len(last - first) >= 2


@pytest.mark.processes
@pytest.mark.parametrize("num_steps", [1, 4])
def test_an_interrupted_training_ends_in_the_same_bits(whole, tmp_path, num_steps):
    with pytest.raises(Stop):
        train_online(
            PROGRAM,
            tmp_path / "n",
            num_traces=NUM_TRACES,
            config=ALWAYS_SAVES,
            store=tmp_path / "s",
            observer=stop_after(num_steps),
        )
    kept = ts.TraceStore.open(tmp_path / "s")
    assert len(kept) == 32 * num_steps
    network = train_online(
        PROGRAM, tmp_path / "n", num_traces=NUM_TRACES, config=ALWAYS_SAVES, store=tmp_path / "s", workers=2
    )
    assert weights(tmp_path / "n") == weights(whole[0])
    assert losses(tmp_path / "n") == losses(whole[0])
    assert network.summary["num_training_traces"] == NUM_TRACES
    require_complete(tmp_path / "s", tmp_path)


@pytest.mark.processes
def test_a_killed_training_loses_and_repeats_nothing(whole, tmp_path):
    status, _ = run(tmp_path, kill_after=6, store=True, workers=1, checkpoint_seconds=1e-6)
    assert status == -signal.SIGKILL
    assert any((tmp_path / "n").glob("checkpoint-*"))
    assert len(ts.TraceStore.open(tmp_path / "s")) == 0  # what the killed process had not sealed is gone
    train_online(PROGRAM, tmp_path / "n", num_traces=NUM_TRACES, config=CONFIG, store=tmp_path / "s")
    assert weights(tmp_path / "n") == weights(whole[0])
    assert losses(tmp_path / "n") == losses(whole[0])
    require_complete(tmp_path / "s", tmp_path)


@pytest.mark.processes
def test_a_signal_to_the_whole_group_stops_between_steps(whole, tmp_path):
    status, text = run(tmp_path, signal_after=4, store=True, workers=2)
    assert status == 1, text
    assert "TrainingStoppedError" in text
    assert "was told to stop after step 5; the same call continues" in text
    assert len(ts.TraceStore.open(tmp_path / "s")) == 32 * 5
    train_online(PROGRAM, tmp_path / "n", num_traces=NUM_TRACES, config=CONFIG)
    assert weights(tmp_path / "n") == weights(whole[0])


def test_a_store_that_is_asked_for_later_is_filled(whole, tmp_path):
    before = weights(whole[0])
    train_online(PROGRAM, whole[0], num_traces=NUM_TRACES, config=CONFIG, store=tmp_path / "s")
    assert weights(whole[0]) == before
    require_complete(tmp_path / "s", tmp_path)


def test_another_job_is_refused(whole, tmp_path):
    with pytest.raises(StoreExistsError, match="num_traces"):
        train_online(PROGRAM, whole[0], num_traces=NUM_TRACES + 1, config=CONFIG)
    ts.simulate(toys.gum, tmp_path / "s", num_traces=5)
    with pytest.raises(StoreExistsError, match="simulator"):
        train_online(PROGRAM, tmp_path / "n", num_traces=NUM_TRACES, config=CONFIG, store=tmp_path / "s")


# ------------------------------------------------------------------------------------------------------------- failures


def fragile():
    x = ts.sample(ts.Normal(0.0, 1.0), name="x")
    ts.observe(ts.Normal(x, 1.0), name="y")
    if x > 0.5:
        raise ValueError("too far")


def test_failed_traces_are_left_out_and_counted(tmp_path):
    events: list[Event] = []
    network = train_online(
        Simulator(fragile),
        tmp_path / "n",
        num_traces=100,
        config=TrainConfig(network=TINY, batch_size=25),
        store=tmp_path / "s",
        observer=events.append,
    )
    store = ts.TraceStore.open(tmp_path / "s")
    num_failed, summary = len(store.failures()), network.summary
    assert 10 < num_failed < 60
    assert summary["num_training_traces"] == 100 - num_failed
    assert (
        summary["num_traces"]
        == summary["num_training_traces"] + summary["num_validation_traces"] + (summary["num_failed"])
    )
    last = [event for event in events if isinstance(event, PhaseAdvanced)][-1]
    assert (last.done, last.total, last.failed) == (100, 100, num_failed)


def test_a_simulator_that_always_fails_is_refused(tmp_path):
    def broken():
        raise ValueError("always")

    with pytest.raises(InvalidInputError, match=r"first 50 traces .* all failed; the first one: ValueError: always"):
        train_online(Simulator(broken), tmp_path / "n", num_traces=50)
    with pytest.raises(InvalidInputError, match="`num_traces` must be at least 2; got 1"):
        train_online(toys.gum, tmp_path / "m", num_traces=1)


@pytest.mark.processes
def test_a_worker_that_dies_is_an_error_and_the_same_call_continues(tmp_path):
    home = os.getpid()

    def deadly():
        x = ts.sample(ts.Normal(0.0, 1.0), name="x")
        ts.observe(ts.Normal(x, 1.0), name="y")
        if x > 2.5 and os.getpid() != home and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    config = TrainConfig(network=TINY, batch_size=20, checkpoint_seconds=1e-6)
    with pytest.raises(SimulatorError, match="died with exit code -9"):
        train_online(Simulator(deadly), tmp_path / "n", num_traces=600, config=config, workers=1)
    network = train_online(Simulator(deadly), tmp_path / "n", num_traces=600, config=config, workers=1)
    assert network.summary["num_training_traces"] == 600


def test_observers_are_told_of_simulating_and_training(tmp_path):
    events: list[Event] = []
    train_online(
        toys.gum,
        tmp_path / "n",
        num_traces=60,
        config=TrainConfig(network=TINY, batch_size=20),
        observer=events.append,
    )
    started = [(event.phase, event.total) for event in events if isinstance(event, PhaseStarted)]
    assert started == [("simulate", 12), ("train", 60)]
    assert [event.phase for event in events if isinstance(event, PhaseFinished)] == ["simulate", "train"]
    assert [event.done for event in events if isinstance(event, PhaseAdvanced) and event.phase == "train"] == [
        20,
        40,
        60,
    ]


def test_a_trained_network_goes_on(tmp_path):
    config = TrainConfig(network=TINY, batch_size=20, learning_rate=1e-3)
    first = train_online(toys.gum, tmp_path / "first", num_traces=400, config=config)
    more = TrainConfig(batch_size=20, learning_rate=1e-5, seed=1)
    second = train_online(toys.gum, tmp_path / "second", num_traces=60, config=more, start=first)
    assert second.config == first.config
    assert losses(tmp_path / "second")[0] < losses(tmp_path / "first")[0]
    for name, value in first.state_dict().items():
        if name != "active":
            np.testing.assert_allclose(value, second.state_dict()[name], atol=1e-3)
    with pytest.raises(StoreExistsError, match="start"):
        train_online(toys.gum, tmp_path / "second", num_traces=60, config=more, start=second)


# ---------------------------------------------------------------------------------------------------------------- ranks


@pytest.mark.processes
@pytest.mark.parametrize("launcher", ["torch", "mpi"])
def test_two_ranks_grow_the_network_of_one(whole, tmp_path, launcher):
    if launcher == "mpi":
        pytest.importorskip("mpi4py")
        start = [str(MPIEXEC), "-n", "2", sys.executable]
    else:
        start = [str(TORCHRUN), "--standalone", "--nproc-per-node", "2"]
    status, text = run(tmp_path, *start, store=True, workers=1)
    assert status == 0, text
    path, network = whole
    found = load_network(tmp_path / "n")
    np.testing.assert_allclose(losses(tmp_path / "n"), losses(path), rtol=1e-4)
    assert [row.key for row in found.vocabulary.rows] == [row.key for row in network.vocabulary.rows]
    assert found.summary["num_training_traces"] == NUM_TRACES
    ranks = [load_file(tmp_path / f"rank-{rank}.safetensors") for rank in range(2)]
    assert ranks[0].keys() == ranks[1].keys()
    for name, value in ranks[0].items():
        np.testing.assert_array_equal(value, ranks[1][name])
    require_complete(tmp_path / "s", tmp_path)
