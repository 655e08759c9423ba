"""Engines whose simulator runs in processes of its own: same draws, exact posteriors, failures in the budget."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.execution.fragile_programs import ENDINGS, fragile
from tests.inference.providers import RuleProvider
from tracestore.errors import InvalidInputError, SimulatorError
from tracestore.inference import ic, ic_many, importance, prior
from tracestore.posteriors.posterior import Posterior
from tracestore.simulators.base import Simulator
from tracestore.simulators.toys import geometric, gum
from tracestore.traces.distributions import Bernoulli, Distribution, Normal
from tracestore.traces.layout import Site

pytestmark = pytest.mark.processes

OBSERVED = {"obs0": 8.0, "obs1": 9.0}
NUM_PROCESSES = 3


def columns(posterior: Posterior) -> dict[str, np.ndarray]:
    store = posterior.store
    order = np.argsort(store.column("stream"))
    return {name: np.asarray(store.column(name))[order] for name in ("stream", "log_prior", "log_weight", "draw")}


def assert_same(one: Posterior, two: Posterior) -> None:
    for name, column in columns(one).items():
        np.testing.assert_array_equal(columns(two)[name], column, err_msg=name)


def fragile_rule(site: Site, prior: Distribution, previous: float | None) -> Distribution:
    return Bernoulli(0.2) if isinstance(prior, Bernoulli) else Normal(0.4, 1.0)


def test_prior_and_importance_are_bit_identical(tmp_path: Path) -> None:
    assert_same(
        importance(gum, OBSERVED, tmp_path / "a", num_draws=200, seed=1),
        importance(gum, OBSERVED, tmp_path / "b", num_draws=200, seed=1, simulator_processes=NUM_PROCESSES),
    )
    assert_same(
        prior(gum, tmp_path / "c", num_draws=200, seed=1),
        prior(gum, tmp_path / "d", num_draws=200, seed=1, simulator_processes=NUM_PROCESSES, timeout=60.0),
    )


def test_ic_with_a_rule_is_the_same_in_every_place(tmp_path: Path) -> None:
    def run(path: str, program: Simulator, **places: Any) -> Posterior:
        network = RuleProvider(program, {"x"}, lambda *_: Bernoulli(0.3))
        return ic(program, {"obs": 3.0}, tmp_path / path, network=network, num_draws=300, num_slots=8, seed=3, **places)

    lonely = Simulator(geometric.function, name=geometric.name)
    waves = run("waves", geometric)
    assert_same(waves, run("alone", lonely))
    assert_same(waves, run("processes", lonely, simulator_processes=NUM_PROCESSES))
    assert_same(waves, run("workers", lonely, simulator_processes=2, workers=2))


def test_many_observations(tmp_path: Path) -> None:
    several = [{"obs": float(k)} for k in range(4)]
    one, two = (
        ic_many(
            geometric, several, tmp_path / str(number), num_draws=40, seed=2, simulator_processes=number,
            network=RuleProvider(geometric, {"x"}, lambda *_: Bernoulli(0.3)),
        )
        for number in (0, NUM_PROCESSES)
    )  # fmt: skip
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(np.sort(a.log_weights), np.sort(b.log_weights))


@pytest.mark.parametrize("engine", ["importance", "ic"])
def test_a_program_that_crashes_has_an_exact_posterior(tmp_path: Path, engine: str) -> None:
    """It dies with probability 0.3; what is left is a normal mean seen with noise, times 0.7 for the evidence."""
    program, settings = fragile("exit", 0.3), {"num_draws": 500, "seed": 4, "simulator_processes": NUM_PROCESSES}
    if engine == "importance":
        posterior = importance(program, {"y": 1.2}, tmp_path / "post", **settings)  # type: ignore[arg-type]
    else:
        network = RuleProvider(program, {"x"}, fragile_rule)
        posterior = ic(program, {"y": 1.2}, tmp_path / "post", network=network, **settings)  # type: ignore[arg-type]
    log_evidence = math.log(0.7) + stats.norm.logpdf(1.2, 0.0, math.sqrt(2.0))
    assert abs(posterior.log_evidence - log_evidence) < 4 * posterior.log_evidence_se
    assert abs(float(posterior.mean("x")) - 0.6) < 4 * float(posterior.mcse("x"))
    assert posterior.store.column("stream").size == 500
    share = 0.3 if engine == "importance" else 0.1 * 0.3 + 0.9 * 0.2
    assert posterior.num_failed == pytest.approx(500 * share, abs=5 * math.sqrt(500 * share * (1 - share)))
    assert {trace.failure for trace in posterior.store} == {"", ENDINGS["exit"]}


def test_a_simulator_that_always_crashes_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SimulatorError, match=r"failed in all of .* killed by signal SIGKILL"):
        importance(fragile("kill", 1.0), {"y": 1.0}, tmp_path / "post", num_draws=10, simulator_processes=1)
    assert not (tmp_path / "post").exists()


def test_a_timeout_needs_a_process(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="`timeout` needs `simulator_processes`"):
        importance(gum, OBSERVED, tmp_path / "post", num_draws=10, timeout=1.0)
