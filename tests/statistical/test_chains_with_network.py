"""Chains that a network helps: exact however wrong it is, and fast where single draws cannot move alone."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.inference.providers import RuleProvider
from tests.statistical.programs import PROGRAMS, Exact, rare_success, two_paths
from tests.statistical.test_engines import assert_exact, hasty, misplaced, near, overconfident, patient
from tracestore.inference import Posterior, RMHConfig, rmh
from tracestore.simulators.base import Simulator, simulator
from tracestore.simulators.runtime import observe, sample
from tracestore.simulators.toys import geometric, gum
from tracestore.traces.distributions import Bernoulli, Distribution, Mixture, Normal
from tracestore.traces.layout import Site

pytestmark = pytest.mark.statistical

Rule = Callable[[Site, Distribution, float | None], Distribution | None]


def by_label(label: str) -> Exact:
    return next(exact for exact in PROGRAMS if exact.label == label)


def chains(program: Simulator, exact: Exact, rule: Rule, path: Path, **config: object) -> Posterior:
    return rmh(
        program, exact.observations, path, network=RuleProvider(program, {"x"}, rule), num_draws=12_000, seed=111,
        config=RMHConfig(**config),  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("rule", [near, misplaced, overconfident], ids=lambda rule: rule.__name__)
def test_a_known_mean(rule: Rule, tmp_path: Path) -> None:
    exact = by_label("gum 8 9")
    assert_exact(chains(gum, exact, rule, tmp_path / "post"), exact)


@pytest.mark.parametrize("rule", [patient, hasty], ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("program", [geometric, rare_success], ids=lambda program: program.__name__)
def test_unbounded_loops(program: Simulator, rule: Rule, tmp_path: Path) -> None:
    exact = by_label("geometric 3" if program is geometric else "rare_success 7")
    assert_exact(chains(program, exact, rule, tmp_path / "post"), exact)


def one_sided(site: Site, prior: Distribution, previous: float | None) -> Distribution:
    """Knows the branch by halves, and has the draws of one path a little off."""
    return Bernoulli(0.8) if prior.family == "Bernoulli" else Normal(0.8, 0.7)


@pytest.mark.parametrize("moves", [{"ic": 1.0}, {"ic": 0.3, "single": 0.7}], ids=["alone", "mixed"])
def test_a_change_of_path(moves: dict[str, float], tmp_path: Path) -> None:
    exact = by_label("two paths 2.2")
    assert_exact(chains(two_paths, exact, one_sided, tmp_path / "post", move_weights=moves), exact)


@simulator(reentrant=True)
def two_wells() -> float:
    """Two places explain the data equally well, and both draws must change to get from one to the other."""
    x = sample(Normal(0.0, 3.0), name="x")
    y = sample(Normal(0.0, 3.0), name="y")
    observe(Normal(x * y, 0.3), name="product")
    observe(Normal(abs(x), 0.1), name="size")
    return x


def both_wells(site: Site, prior: Distribution, previous: float | None) -> Distribution:
    if site.name == "x":
        return Mixture([Normal(-3.0, 0.15), Normal(3.0, 0.15)], [0.5, 0.5])
    return Normal(12.0 / float(previous or 1.0), 0.3)


def test_wells_are_left_by_way_of_the_network(tmp_path: Path) -> None:
    observed = {"product": 12.0, "size": 3.0}
    moves = {"single": 1.0, "walk": 1.0}
    settings = {"num_draws": 4000, "chains": 8, "seed": 112}
    alone = rmh(two_wells, observed, tmp_path / "alone", config=RMHConfig(move_weights=moves), **settings)  # type: ignore[arg-type]
    helped = rmh(
        two_wells, observed, tmp_path / "helped", network=RuleProvider(two_wells, {"x"}, both_wells),
        config=RMHConfig(move_weights={**moves, "ic": 0.5}), **settings,  # type: ignore[arg-type]
    )  # fmt: skip
    draws = helped.values("x")
    sides = [np.mean(draws.values[draws.chain == chain] > 0.0) for chain in range(8)]
    assert all(0.1 < share < 0.9 for share in sides)  # about 20 effective draws in each
    assert float(alone.rhat("x")) > 1.5  # each chain stays where it began
    assert float(helped.rhat("x")) < 1.1
    assert float(helped.ess_of("x")) > 5 * float(alone.ess_of("x"))
    # by symmetry x > 0 has probability 1/2, and |x| a posterior that a grid gives
    grid = np.linspace(2.0, 4.0, 2001)
    spread = np.hypot(0.3, 3.0 * grid)
    density = stats.norm.pdf(grid, 0.0, 3.0) * stats.norm.pdf(3.0, grid, 0.1) * stats.norm.pdf(12.0, 0.0, spread)
    mean = float((grid * density).sum() / density.sum())
    sizes = np.abs(draws.values)
    assert abs(sizes.mean() - mean) < 5 * sizes.std() / math.sqrt(float(helped.ess_of("x")))
