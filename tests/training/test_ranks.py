"""The verb `train` on several ranks: one network, the losses of one rank, the same errors everywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from safetensors.numpy import load_file

import tracestore as ts
from tests.networks.family_programs import TINY, every_family
from tracestore.simulators import Simulator
from tracestore.training import TrainConfig, train
from tracestore.training.history import read_history

ROOT = Path(__file__).resolve().parents[2]
MPIEXEC = Path(sys.executable).with_name("mpiexec")
TORCHRUN = Path(sys.executable).with_name("torchrun")
PROGRAM = """
import json, sys, torch
from tests.networks.family_programs import TINY
from tracestore.samplers.world import World
from tracestore.training import TrainConfig, train
fields, of_second = json.loads(sys.argv[3])
rank, modules = World.from_environment().rank, {}
if of_second.pop("own_module", False):
    torch.manual_seed(rank)
    modules["v"] = torch.nn.Linear(3, 5)
    modules["v"].weight.data *= 100.0
if rank == 1:
    fields.update(of_second)
train(sys.argv[1], sys.argv[2], config=TrainConfig(network=TINY, batch_size=32, **fields), modules=modules)
"""
SETTINGS: dict[str, Any] = {"epochs": 2, "seed": 4}

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    program = Simulator(every_family, name="every_family")
    return ts.simulate(program, tmp_path_factory.mktemp("s") / "store", num_traces=300, seed=1)


def run(launcher, num_ranks, store, path, **of_second):
    """Run the program on some ranks; exit status, and what they wrote."""
    if launcher == "mpi":
        pytest.importorskip("mpi4py")
        start = [str(MPIEXEC), "-n", str(num_ranks), sys.executable]
    else:
        start = [str(TORCHRUN), "--standalone", "--nproc-per-node", str(num_ranks)]
    script = Path(path).with_suffix(".py")
    script.write_text(PROGRAM)
    words = [str(script), str(store.storage.url), str(path), json.dumps([SETTINGS, of_second])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*start, *words], capture_output=True, text=True, timeout=250, env=environment, check=False)
    return done.returncode, done.stderr + done.stdout


def losses(path):
    return [step["loss"] for step in read_history(path)]


@pytest.fixture(scope="module")
def alone(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("alone") / "n"
    return path, train(store, path, config=TrainConfig(network=TINY, batch_size=32, **SETTINGS))


@pytest.mark.parametrize("launcher", ["torch", "mpi"])
def test_two_ranks_train_the_network_of_one(store, alone, tmp_path, launcher):
    path, network = alone
    status, text = run(launcher, 2, store, tmp_path / "n")
    assert status == 0, text
    np.testing.assert_allclose(losses(tmp_path / "n"), losses(path), rtol=1e-4)
    found = ts.training.load_network(tmp_path / "n")
    for name in ("num_traces", "num_steps", "num_training_traces", "num_parameters", "num_seen"):
        assert found.summary[name] == network.summary[name], name
    assert found.summary["validation_loss"] == pytest.approx(network.summary["validation_loss"], rel=1e-3)
    one, two = (list(read_history(tmp_path / "n", rank)) for rank in (0, 1))
    assert [step["loss"] for step in one] == [step["loss"] for step in two]
    assert all(step["reduced_bytes"] > 0 for step in (*one, *two))
    assert all(step["times"]["sync"] > 0 for step in (*one, *two))


def test_a_module_of_the_users_own_starts_from_that_of_rank_0(store, tmp_path):
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 5)
    module.weight.data *= 100.0
    train(store, tmp_path / "one", config=TrainConfig(network=TINY, batch_size=32, **SETTINGS), modules={"v": module})
    status, text = run("torch", 2, store, tmp_path / "two", own_module=True)
    assert status == 0, text
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)


def test_ranks_with_other_settings_are_refused(store, tmp_path):
    status, text = run("torch", 2, store, tmp_path / "n", learning_rate=0.5)
    assert status != 0
    assert "The ranks do not match: config.learning_rate is" in text
    assert not (tmp_path / "n").exists()


def test_another_number_of_ranks_goes_on(store, alone, tmp_path):
    """A training that one rank began and two finish has the losses of one."""
    path, _ = alone

    class Stop(Exception):
        pass

    def stop(event):
        if getattr(event, "done", 0) > 300:
            raise Stop

    config = TrainConfig(network=TINY, batch_size=32, checkpoint_seconds=1e-6, **SETTINGS)
    with pytest.raises(Stop):
        train(store, tmp_path / "n", config=config, observer=stop)
    begun = {file.name: load_file(file) for file in (tmp_path / "n").rglob("weights.safetensors")}
    assert begun
    status, text = run("torch", 2, store, tmp_path / "n")
    assert status == 0, text
    np.testing.assert_allclose(losses(tmp_path / "n"), losses(path), rtol=1e-4)
    assert next(iter(read_history(tmp_path / "n", 1)))["step"] > 1


def test_ranks_that_do_not_divide_a_minibatch_are_told_which_do(store, tmp_path):
    status, text = run("torch", 3, store, tmp_path / "n")
    assert status != 0
    assert "1, 2, 4, 8, 16, 32" in text
