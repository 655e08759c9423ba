"""The loop around the step: accumulation, checkpoints kept, skipped steps on record, and signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tracestore as ts
from tests.networks.family_programs import TINY, every_family
from tracestore.errors import TrainingStoppedError
from tracestore.events import PhaseAdvanced
from tracestore.simulators import Simulator
from tracestore.training import TrainConfig, load_network, train
from tracestore.training.history import read_history

QUICK: dict[str, Any] = {"network": TINY, "epochs": 3, "batch_size": 32}
PROGRAM = """
import sys
from tests.networks.family_programs import TINY
from tracestore.training import TrainConfig, train
train(sys.argv[1], sys.argv[2], config=TrainConfig(network=TINY, epochs=200, batch_size=32, patience=None))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    program = Simulator(every_family, name="every_family")
    return ts.simulate(program, tmp_path_factory.mktemp("s") / "store", num_traces=300, seed=1)


def weights(path):
    return {file.name: file.read_bytes() for file in path.glob("*.safetensors")}


def test_accumulated_minibatches_make_one_step(store, tmp_path):
    config = TrainConfig(**QUICK, accumulate=3)
    network = train(store, tmp_path / "n", config=config)
    steps = list(read_history(tmp_path / "n"))
    num_training = network.summary["num_training_traces"]
    minibatches = -(-num_training // 32)
    assert network.summary["num_steps"] == 3 * -(-minibatches // 3) == len(steps)
    assert steps[0]["num_traces"] == 96
    assert steps[-1]["num_traces"] == 3 * num_training
    assert [step["step"] for step in steps if step["validation_loss"] is not None] == [
        epoch * -(-minibatches // 3) for epoch in (1, 2, 3)
    ]


class Stop(Exception):
    """Ends a training from its observer."""


def interrupt_after(number):
    calls = []

    def observe(event):
        calls.append(isinstance(event, PhaseAdvanced))
        if sum(calls) == number:
            raise Stop

    return observe


@pytest.mark.parametrize("settings", [{"accumulate": 2}, {"average": 0.9}, {"optimizer": "sgd_larc"}], ids=str)
def test_an_interrupted_training_ends_in_the_same_bits(store, tmp_path, settings):
    if "optimizer" in settings:
        settings = {"optimizer": ts.training.OptimizerConfig(kind=settings["optimizer"])}
    config = TrainConfig(**QUICK, **settings, checkpoint_seconds=1e-6)
    whole = train(store, tmp_path / "whole", config=config)
    with pytest.raises(Stop):
        train(store, tmp_path / "parts", config=config, observer=interrupt_after(7))
    parts = train(store, tmp_path / "parts", config=config)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert parts.summary["validation_loss"] == whole.summary["validation_loss"]
    losses = [[step["loss"] for step in read_history(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_the_newest_checkpoints_and_the_best_network_are_kept(store, tmp_path):
    config = TrainConfig(**QUICK, checkpoint_seconds=1e-6, keep_checkpoints=3)
    with pytest.raises(Stop):
        train(store, tmp_path / "n", config=config, observer=interrupt_after(14))
    kept = sorted(path.name for path in (tmp_path / "n").glob("checkpoint-*"))
    assert kept == [f"checkpoint-{step:09d}" for step in (11, 12, 13)]
    assert len(list((tmp_path / "n").glob("best-*"))) == 1


def test_skipped_steps_are_on_record(tmp_path, monkeypatch):
    def program():
        x = ts.sample(ts.Normal(0.0, 1.0), name="x")
        ts.observe(ts.Normal(x, 1.0), float("inf") if ts.sample(ts.Bernoulli(0.01)) else x, name="y")

    monkeypatch.setattr("tracestore.training.run.NUM_FIT_TRACES", 8)  # a bad one among them would be refused
    store = ts.simulate(Simulator(program, name="rarely"), tmp_path / "s", num_traces=1000, seed=3)
    bad = {index for index in range(1000) if abs(float(store[index]["y"])) > 1e38}
    network = train(store, tmp_path / "n", config=TrainConfig(network=TINY, epochs=1, batch_size=64, bad_loss="skip"))
    skipped = [step for step in read_history(tmp_path / "n") if "bad_traces" in step]
    assert skipped
    assert {trace for step in skipped for trace in step["bad_traces"]} <= bad
    assert all(step["loss"] is None for step in skipped)
    assert network.summary["num_skipped_steps"] == len(skipped)


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_first(store, tmp_path, number):
    path = tmp_path / "n"
    command = [sys.executable, "-c", PROGRAM, str(store.storage.url), str(path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    try:
        while sum(1 for _ in path.glob("checkpoint-*")) == 0:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (b"TrainingStoppedError" if number == signal.SIGTERM else b"KeyboardInterrupt") in errors, errors
    (checkpoint,) = path.glob("checkpoint-*")
    done = json.loads((checkpoint / "state.json").read_text())["progress"]["step"]
    assert list(read_history(path))[-1]["step"] == done
    if number == signal.SIGTERM:
        assert f"after step {done}".encode() in errors


def test_a_second_signal_has_its_usual_effect():
    from tracestore.training.stopping import StopRequest

    with StopRequest() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signal is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_stop_is_the_callers_to_handle(store, tmp_path):
    events = []

    def stop(event):
        events.append(isinstance(event, PhaseAdvanced))
        if events == [False, True]:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingStoppedError, match="after step 2; the same call continues"):
        train(store, tmp_path / "n", config=TrainConfig(**QUICK), observer=stop)
    train(store, tmp_path / "n", config=TrainConfig(**QUICK))
    train(store, tmp_path / "whole", config=TrainConfig(**QUICK))
    assert weights(tmp_path / "n") == weights(tmp_path / "whole")
    assert load_network(tmp_path / "n").summary["num_steps"] == len(list(read_history(tmp_path / "n")))
