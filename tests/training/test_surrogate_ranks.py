"""The verb `train_surrogate` on two ranks: the losses of one, and the same errors everywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from tests.training.surrogate_programs import make_store, settings
from tracestore.surrogates import load_surrogate
from tracestore.training import train_surrogate
from tracestore.training.history import read_history

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = Path(sys.executable).with_name("torchrun")
PROGRAM = """
import json, sys
from tests.training.surrogate_programs import settings
from tracestore.samplers.world import World
from tracestore.training import train_surrogate
fields, of_second = json.loads(sys.argv[3])
if World.from_environment().rank == 1:
    fields.update(of_second)
train_surrogate(sys.argv[1], sys.argv[2], config=settings(**fields))
"""
RANKS = (("one", 0), ("two", 0), ("two", 1))
"""Trainings and ranks whose histories are compared."""
FIELDS = {"batch_size": 34, "max_gradient_norm": 1.0}

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("s") / "store")


def run(store, path, **of_second):
    """Run the program on two ranks; exit status, and what they wrote."""
    script = Path(path).with_suffix(".py")
    script.write_text(PROGRAM)
    start = [str(TORCHRUN), "--standalone", "--nproc-per-node", "2"]
    words = [str(script), str(store.storage.url), str(path), json.dumps([FIELDS, of_second])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*start, *words], capture_output=True, text=True, timeout=250, env=environment, check=False)
    return done.returncode, done.stderr + done.stdout


def test_two_ranks_train_the_surrogate_of_one(store, tmp_path):
    alone = train_surrogate(store, tmp_path / "one", config=settings(**FIELDS))
    status, text = run(store, tmp_path / "two")
    assert status == 0, text
    one, two, second = (list(read_history(tmp_path / name, rank)) for name, rank in RANKS)
    for name in one[0]["terms"]:
        values = [[step["terms"][name] for step in steps] for steps in (one, two)]
        np.testing.assert_allclose(values[1], values[0], rtol=2e-3, atol=1e-5, err_msg=name)
    assert [step["loss"] for step in two] == [step["loss"] for step in second]
    assert all(step["reduced_bytes"] > 0 for step in two)
    found = load_surrogate(tmp_path / "two")
    assert found.summary["num_ranks"] == 2
    assert found.summary["validation_loss"] == pytest.approx(alone.summary["validation_loss"], rel=1e-2)
    for name in ("num_traces", "num_failed", "num_steps", "num_training_traces", "best_step"):
        assert found.summary[name] == alone.summary[name], name


def test_ranks_with_other_settings_are_refused(store, tmp_path):
    status, text = run(store, tmp_path / "n", learning_rate=0.5)
    assert status != 0
    assert "The ranks do not match: config.learning_rate is" in text
    assert not (tmp_path / "n").exists()
