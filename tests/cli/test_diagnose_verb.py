"""`tracestore diagnose`: what it prints, and the exit status for scripts."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from tests.posteriors.made_chains import independent, make_chains
from tracestore.cli.diagnose_verb import add_diagnose_options, run_diagnose
from tracestore.errors import InvalidInputError, UnknownAddressError
from tracestore.execution import simulate
from tracestore.inference import importance
from tracestore.simulators.toys import gum
from tracestore.store import Job, TraceStore


@pytest.fixture
def diagnose(capsys):
    """Run the verb; return exit status and what it printed."""

    def diagnose(*words):
        parser = argparse.ArgumentParser()
        add_diagnose_options(parser)
        status = run_diagnose(parser.parse_args([str(word) for word in words]))
        return status, capsys.readouterr().out

    return diagnose


@pytest.fixture
def good(tmp_path: Path) -> Path:
    make_chains(tmp_path / "good", independent(4, 300, 1))
    return tmp_path / "good"


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    chains = independent(4, 300, 2)
    for draw in chains[0]:
        draw["mu"] += 4.0
    make_chains(tmp_path / "bad", chains)
    return tmp_path / "bad"


def many_observations(path: Path, log_weights: np.ndarray) -> Path:
    """Write draws for three observations as one store."""
    batch = importance(gum, {"obs0": 2.0, "obs1": 1.0}, path / "one", num_draws=900, seed=1).store.take(np.arange(900))
    batch.chain[:], batch.draw[:] = np.divmod(np.arange(900), 300)
    batch.log_weight[:] += log_weights
    fields = {
        "engine": "ic", "simulator": gum.name, "fingerprint": gum.fingerprint, "observation": "0", "num_observations": 3
    }  # fmt: skip
    store = TraceStore.create(path / "many", job=Job("infer", fields))
    with store.writer() as writer:
        writer.append(batch, work=[0])
    store.fold()
    return path / "many"


def test_a_good_posterior(diagnose, good: Path) -> None:
    status, output = diagnose(good)
    assert status == 0
    assert output.splitlines()[0].startswith(f"{good}: random-walk")
    assert output.splitlines()[0].endswith(": good")


def test_one_bad_posterior_of_two(diagnose, good: Path, bad: Path) -> None:
    status, output = diagnose(good, bad)
    assert status == 1
    assert f"{bad}: " in output
    assert "R-hat of 'mu'" in output
    assert "Run longer" in output


def test_limits(diagnose, good: Path) -> None:
    assert "doubtful" in diagnose(good, "--ess-per-chain", 5000)[1]
    with pytest.raises(InvalidInputError, match="rhat_max"):
        diagnose(good, "--rhat-max", 0.5)


def test_names(diagnose, good: Path) -> None:
    output = diagnose(good, "--name", "coin")[1]
    assert "extra" not in output
    with pytest.raises(UnknownAddressError, match="tau"):
        diagnose(good, "--name", "tau")


def test_json(diagnose, good: Path, bad: Path) -> None:
    status, output = diagnose(good, bad, "--json")
    found = json.loads(output)
    assert status == 1
    assert [(entry["posterior"], entry["exit_code"]) for entry in found] == [(str(good), 0), (str(bad), 1)]
    assert found[1]["findings"][0]["code"] in ("rhat", "ess-bulk", "ess-tail")


def test_many_observations_are_counted_and_the_worst_shown(diagnose, tmp_path: Path) -> None:
    log_weights = np.zeros(900)
    log_weights[300:600] = -np.inf
    status, output = diagnose(many_observations(tmp_path, log_weights))
    assert status == 1
    first, second = output.splitlines()[:2]
    assert "3 observations" in first
    assert "1 do not trust" in first
    assert second.startswith("  observation 1: do not trust")


def test_many_observations_as_json(diagnose, tmp_path: Path) -> None:
    found = json.loads(diagnose(many_observations(tmp_path, np.zeros(900)), "--json")[1])
    assert [entry["observation"] for entry in found] == [0, 1, 2]


def test_a_training_set_is_no_posterior(diagnose, tmp_path: Path) -> None:
    simulate(gum, tmp_path / "traces", num_traces=10, seed=1)
    with pytest.raises(InvalidInputError, match="not the output of an inference engine"):
        diagnose(tmp_path / "traces")
