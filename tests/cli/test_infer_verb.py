"""`tracestore infer` and `tracestore refine`: where draws are made, which words go together, what is printed."""

import json
import re
from typing import Any

import pytest

from tracestore.posteriors import open_posterior

FRAGILE = """
import os
import tracestore as ts

@ts.simulator
def fragile():
    x = ts.sample(ts.Normal(0.0, 1.0), name="x")
    if x > 1.0:
        os._exit(9)
    ts.observe(ts.Normal(x, 1.0), name="y")

@ts.simulator(reentrant=True)
def loop():
    for attempt in ts.rejection():
        x = ts.sample(ts.Uniform(0.0, 1.0), name="x")
        if ts.sample(ts.Uniform(0.0, 1.0)) < 4.0 * x * (1.0 - x):
            attempt.accept()
    ts.observe(ts.Binomial(5, x), name="five")
"""


@pytest.fixture
def observation(tmp_path):
    (tmp_path / "seen.json").write_text('{"obs0": 8.0, "obs1": 9.0}')
    return "seen.json"


@pytest.fixture
def network(run, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr("tracestore.training.job.DEFAULT_TRAINING_TRACES", 1_000)
    run("simulate", "gum", "traces", "--num-traces", 300, "--seed", 1)
    assert run("train", "traces", "network", "--set", "network.core_size=8")[0] == 0
    return "network"


@pytest.mark.processes
@pytest.mark.parametrize("engine", ["is", "rmh"])
@pytest.mark.parametrize("where", [("--workers", 2), ("--executor", "serial")], ids=str)
def test_draws_do_not_depend_on_where_they_are_made(run, observation, engine, where):
    words = ["--engine", engine, "--observe", observation, "--num-draws", 400, "--seed", 3]
    status, here, errors = run("infer", "gum", "here", *words)
    assert status == 0, errors
    status, there, errors = run("infer", "gum", "there", *words, *where)
    assert status == 0, errors
    assert here == there


@pytest.mark.processes
def test_a_simulator_that_takes_its_process_with_it_costs_single_draws(run, tmp_path, monkeypatch):
    (tmp_path / "fragile_programs_of_this_test.py").write_text(FRAGILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "o.json").write_text('{"y": 0.0}')
    status, _, errors = run(
        "infer", "fragile_programs_of_this_test:fragile", "out", "--engine", "is", "--observe", "o.json",
        "--num-draws", 60, "--simulator-processes", 2, "--timeout", 20,
    )  # fmt: skip
    assert status == 0, errors
    posterior = open_posterior(tmp_path / "out")
    assert len(posterior) == 60
    assert 0 < posterior.num_failed < 30
    assert f"{posterior.num_failed} draws failed in the simulator" in errors


def test_a_network_helps_chains(run, observation, network):
    words = ["--engine", "rmh", "--observe", observation, "--num-draws", 400, "--network", network]
    status, output, errors = run("infer", "gum", "post", *words)
    assert status == 0, errors
    assert "4 chains" in output


def test_amortized_loops_from_simulation_to_posterior(run, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr("tracestore.training.job.DEFAULT_TRAINING_TRACES", 1_000)
    (tmp_path / "looped_programs_of_this_test.py").write_text(FRAGILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    program = "looped_programs_of_this_test:loop"
    (tmp_path / "o.json").write_text('{"five": 5}')
    assert run("simulate", program, "traces", "--num-traces", 300, "--collapse-rejection")[0] == 0
    assert run("train", "traces", "net", "--set", "network.core_size=8")[0] == 0
    words = ["infer", program, "post", "--engine", "ic", "--observe", "o.json", "--num-draws", 300, "--network", "net"]
    status, _, errors = run(*words)
    assert status == 1
    assert "amortize_rejection=True" in errors
    status, output, errors = run(*words, "--amortize-rejection", "--defensive", 0.2)
    assert status == 0, errors
    assert "log evidence -2." in output


def test_refine_prints_its_rounds_and_the_posterior(run, observation, network, tmp_path):
    words = ["refine", "gum", "refined", "--network", network, "--observe", observation]
    words += ["--rounds", 2, "--num-draws", 300, "--goal", 1.0]
    status, output, errors = run(*words)
    assert status == 0, errors
    assert re.match(r"round 0: \d+ of 300 draws effective, pooled \d+\nround 1: ", output)
    assert "mu" in output
    assert len(open_posterior(tmp_path / "refined" / "posterior")) == 600
    assert [one["number"] for one in json.loads((tmp_path / "refined" / "rounds.json").read_text())] == [0, 1]
    assert run(*words)[:2] == (0, output)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--engine", "lmh", "--network", "n"], "--network belongs to the engines ic and rmh"),
        (["--engine", "is", "--defensive", "0.2"], "--defensive and --amortize-rejection belong to the engine ic"),
        (["--engine", "rmh", "--amortize-rejection"], "--defensive and --amortize-rejection belong to the engine ic"),
        (["--engine", "rmh", "--simulator-processes", "2"], "--simulator-processes and --timeout belong to"),
        (["--engine", "is", "--executor", "mpi", "--workers", "2"], "--workers does not go with the executor mpi"),
    ],
    ids=str,
)
def test_words_that_do_not_go_together(run, observation, words: list[str], complaint: str) -> None:
    status, _, errors = run("infer", "gum", "out", "--observe", observation, "--num-draws", 10, *words)
    assert status == 2
    assert complaint in errors


def test_a_timeout_without_processes_is_refused(run, observation, tmp_path: Any) -> None:
    words = ["--engine", "is", "--observe", observation, "--num-draws", 10, "--timeout", 5]
    status, _, errors = run("infer", "gum", "out", *words)
    assert status == 1
    assert "`timeout` needs `simulator_processes`" in errors
    assert not (tmp_path / "out").exists()


def test_chains_take_their_warm_up_and_thinning_from_words(run, observation, tmp_path: Any) -> None:
    words = ["--observe", observation, "--num-draws", 40, "--warmup", 0, "--thinning", 3]
    for engine in ("rmh", "lmh"):
        status, _, errors = run("infer", "gum", engine, "--engine", engine, *words)
        assert status == 0, errors
        config: Any = open_posterior(tmp_path / engine).store.job.fields["config"]
        assert (config["warmup"], config["thinning"]) == (0, 3)
    status, _, errors = run("infer", "gum", "is", "--engine", "is", *words)
    assert status == 2
    assert "--warmup and --thinning belong to the engines lmh, rmh, hmc, mala" in errors


GRADIENT_PROGRAM = """
import tracestore as ts

@ts.batched_simulator(arrays="torch")
def rising(n):
    slope = ts.sample(ts.Normal(0.0, 2.0), name="slope")
    ts.observe(ts.Normal(slope, 1.0), name="seen")
"""


@pytest.mark.parametrize("engine", ["hmc", "mala"])
def test_engines_that_follow_gradients(run, engine: str, tmp_path: Any, import_or_skip) -> None:
    import_or_skip("tracestore.simulators.tensor_target")
    (tmp_path / "rising_program.py").write_text(GRADIENT_PROGRAM)
    (tmp_path / "seen.json").write_text('{"seen": 1.0}')
    words = ["--engine", engine, "--observe", "seen.json", "--num-draws", 80, "--chains", 8, "--warmup", 20]
    status, output, errors = run("infer", "rising_program:rising", "out", *words)
    assert status == 0, errors
    assert "8 chains, acceptance" in output
    assert len(open_posterior(tmp_path / "out").trajectories) == 8
    status, _, errors = run("infer", "rising_program:rising", "other", *words, "--workers", 2)
    assert status == 2
    assert f"the chains of the engine {engine} step together in one process" in errors
    status, _, errors = run("infer", "gum", "other", *words)
    assert status == 1
    assert f"The engine '{engine}' follows gradients" in errors
