"""Rounds of an unmodified blackjack environment as a probabilistic program, and the example that infers with it."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import SimulatorProtocolError
from tracestore.hijacking import hijack
from tracestore.simulators import PriorController, ReplayController, Simulator, run_trace
from tracestore.simulators.replay_check import require_deterministic, require_reproducible
from tracestore.traces import TraceStatus

pytest.importorskip("gymnasium")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))
example = importlib.import_module("blackjack_inference")

SEEN = {"open": 9, "result": 2}


def play():
    """One round, with no observation."""
    with hijack("numpy"):
        reward, open_card, hidden_card = example.play_round(example.TABLE)
    return 100.0 * reward + 10.0 * open_card + hidden_card


game = Simulator(play)


def simulate(seed, program=game, **options):
    return run_trace(program, PriorController(), np.random.default_rng(seed), **options)


def test_cards_are_draws_from_the_deck():
    trace = simulate(1)
    assert {site.address.rpartition("~")[2].partition("#")[0] for site in trace.sites if not site.name} <= {
        "Categorical(13)",
        "Categorical(4)",
        "Categorical(3)",
    }
    assert 5 <= len(trace) <= 15


def test_rounds_are_of_few_types():
    assert len({simulate(seed).layout.trace_type for seed in range(60)}) < 20


def test_recorded_draws_in_any_order_reproduce_every_round():
    traces = [simulate(seed) for seed in range(50)]
    order = np.random.default_rng(0).permutation(50).tolist()
    replayed = {one: run_trace(game, ReplayController(traces[one]), np.random.default_rng(99)) for one in order}
    assert [replayed[one].values.tolist() for one in range(50)] == [trace.values.tolist() for trace in traces]


def test_a_trace_is_a_function_of_its_draws():
    require_reproducible(game, seed=3)
    require_deterministic(example.blackjack, simulate(2, example.blackjack))


def test_a_cap_is_a_recorded_failure_and_the_next_run_is_clean():
    assert simulate(4, max_sites=3).status is TraceStatus.CAPPED
    assert simulate(5).failure == ""


def test_a_draw_that_escapes_is_reported():
    bits = np.random.PCG64(1)

    def program():
        with hijack("numpy"):
            example.play_round(example.TABLE)
            return float(bits.random_raw() % 10)

    with pytest.raises(SimulatorProtocolError, match="not recorded"):
        simulate(1, Simulator(program))


def test_the_checker_of_gymnasium_takes_another_way_the_first_time_which_is_refused():
    import gymnasium

    table = gymnasium.make("Blackjack-v1")

    def program():
        with hijack("numpy"):
            return example.play_round(table)[0]

    checked = Simulator(program)
    with pytest.raises(SimulatorProtocolError, match="does not reproduce a trace"):
        require_deterministic(checked, simulate(1, checked))


def test_the_enumeration_is_a_distribution_that_follows_the_rules():
    posterior = example.exact_posterior(open_seen=9, result=2)
    assert sum(posterior.values()) == pytest.approx(1.0)
    assert posterior[1] < 0.01  # with an ace the dealer would have had 21
    scores = example.final_scores(16, has_ace=False)
    assert scores[0] == pytest.approx(8 / 13)


def test_importance_sampling_agrees_with_the_enumeration(tmp_path):
    found = ts.inference.importance(example.blackjack, SEEN, tmp_path / "is", num_draws=3000, seed=1)
    exact = example.exact_posterior(9, 2)
    chances = found.probabilities("hidden")
    for card in (1, 7, 10):
        error = (exact[card] * (1.0 - exact[card]) / found.ess) ** 0.5
        assert abs(chances.get(float(card), 0.0) - exact[card]) <= 4.0 * error


def test_a_chain_agrees_with_the_enumeration(tmp_path):
    found = ts.inference.rmh(example.blackjack, SEEN, tmp_path / "rmh", num_draws=4000, chains=2, seed=1)
    exact = example.exact_posterior(9, 2)
    assert found.probabilities("hidden").get(10.0, 0.0) == pytest.approx(exact[10], abs=0.06)


ADDRESSES = """
import sys
sys.path.insert(0, "tests/hijacking")
from test_gymnasium import simulate
for seed in range(20):
    for site in simulate(seed).sites:
        print(site.address)
"""


def run_python(arguments, hash_seed="random"):
    """Run the interpreter in the root of the project; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=250, cwd=ROOT,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.processes
def test_addresses_and_their_order_do_not_depend_on_the_process():
    first, second = (run_python(["-c", ADDRESSES], hash_seed) for hash_seed in ("1", "2"))
    assert len(first.splitlines()) > 90
    assert first == second


@pytest.mark.processes
@pytest.mark.slow
def test_the_example_shows_three_engines_beside_the_exact_answer():
    pytest.importorskip("torch")
    table = run_python([str(example.__file__), "--reduced", "--workers", "1"])
    rows = [line.split() for line in table.splitlines() if line.strip()][2:12]
    assert [row[0] for row in rows] == ["ace", *map(str, range(2, 11))]
    exact, sampled = (np.array([float(row[column]) for row in rows]) for column in (2, 3))
    assert np.abs(exact - sampled).max() < 0.12


@pytest.mark.processes
def test_without_gymnasium_the_example_names_the_extra(tmp_path):
    (tmp_path / "gymnasium.py").write_text("raise ModuleNotFoundError('gone', name='gymnasium')\n")
    done = subprocess.run(
        [sys.executable, str(example.__file__)], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "pip install 'tracestore[gym]'" in done.stderr
