"""Posterior predictive checks: models that make the data, and models that cannot."""

import math
from pathlib import Path

import numpy as np
import pytest

from tracestore.errors import InvalidInputError
from tracestore.inference import importance, rmh
from tracestore.posteriors import Posterior
from tracestore.posteriors.findings import Verdict
from tracestore.posteriors.predictive import PredictiveCheck, PredictiveStatistic, predictive_check
from tracestore.simulators.base import simulator
from tracestore.simulators.runtime import observe, sample
from tracestore.traces.distributions import Bernoulli, Normal

SEEN = np.random.default_rng(3).normal(0.5, 1.0, size=20)


@simulator
def sample_of_twenty() -> None:
    """A mean, and twenty numbers around it."""
    mean = sample(Normal(0.0, 1.0), name="mean")
    observe(Normal(np.full(20, mean), np.ones(20)), name="numbers")


@simulator
def single() -> None:
    """A number that is seen with noise as large as itself."""
    x = sample(Normal(0.0, 1.0), name="x")
    observe(Normal(x, 1.0), name="y")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("predictive")


@pytest.fixture(scope="module")
def fitting(folder: Path) -> Posterior:
    return importance(sample_of_twenty, {"numbers": SEEN}, folder / "fitting", num_draws=1500, seed=1)


@pytest.mark.parametrize("again", [False, True], ids=["from stored likelihoods", "by running again"])
class TestBothWays:
    def test_a_model_that_makes_the_data(self, fitting: Posterior, again: bool) -> None:
        check = predictive_check(fitting, num_draws=400, simulator=sample_of_twenty if again else None)
        assert check.diagnosis.verdict is Verdict.GOOD
        assert [statistic.name for statistic in check] == [
            f"{word} of numbers" for word in ("mean", "sd", "smallest", "largest")
        ]

    def test_an_outlier_is_found_by_the_largest_number(self, folder: Path, again: bool) -> None:
        numbers = SEEN.copy()
        numbers[3] = 9.0
        posterior = importance(
            sample_of_twenty, {"numbers": numbers}, folder / f"outlier-{again}", num_draws=1500, seed=1
        )
        check = predictive_check(posterior, num_draws=4000, simulator=sample_of_twenty if again else None)
        finding = next(finding for finding in check.diagnosis.findings if finding.subject == "largest of numbers")
        assert finding.verdict is not Verdict.GOOD
        assert "larger than in 100 %" in finding.text
        assert check.pit["numbers"].shape == (20,)
        assert check.pit["numbers"][3] == 1.0

    def test_the_predictive_distribution_is_exact(self, folder: Path, again: bool) -> None:
        posterior = importance(single, {"y": 2.0}, folder / f"single-{again}", num_draws=4000, seed=2)
        check = predictive_check(posterior, num_draws=4000, seed=3, simulator=single if again else None)
        draws = check[0].draws
        # posterior N(1, 1/2) plus unit noise
        assert draws.mean() == pytest.approx(1.0, abs=0.1)
        assert draws.std() == pytest.approx(math.sqrt(1.5), abs=0.07)
        assert check[0].p_value == pytest.approx(0.207, abs=0.03)


def test_draws_are_chosen_by_weight(folder: Path) -> None:
    chains = rmh(single, {"y": 2.0}, folder / "chains", num_draws=2000, chains=2, seed=1)
    assert predictive_check(chains, num_draws=2000)[0].draws.mean() == pytest.approx(1.0, abs=0.2)


def test_statistics_are_the_callers(fitting: Posterior) -> None:
    check = predictive_check(
        fitting, statistics={"middle": lambda data: float(np.median(data["numbers"].astype(float)))}, num_draws=50
    )
    assert [statistic.name for statistic in check] == ["middle"]
    assert check[0].observed == np.median(SEEN)


def test_the_same_seed_gives_the_same_draws(fitting: Posterior) -> None:
    first, again, other = (predictive_check(fitting, num_draws=20, seed=seed)[0].draws for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_other_data_may_be_given(fitting: Posterior) -> None:
    check = predictive_check(fitting, num_draws=200, observed={"numbers": np.full(20, 30.0)})
    assert check[0].p_value == 0.0


def test_a_likelihood_that_is_not_stored_needs_the_simulator(folder: Path) -> None:
    @simulator
    def large() -> None:
        mean = sample(Normal(0.0, 1.0), name="mean")
        observe(Normal(np.full(200, mean), np.ones(200)), name="image")

    posterior = importance(large, {"image": np.zeros(200)}, folder / "large", num_draws=200, seed=1)
    with pytest.raises(InvalidInputError, match="'image' has too many parameters"):
        predictive_check(posterior, num_draws=10)
    assert len(predictive_check(posterior, num_draws=10, simulator=large).draws) == 10


def test_a_fixed_draw_is_drawn_anew_by_the_simulator(folder: Path) -> None:
    @simulator
    def fixed() -> None:
        x = sample(Normal(0.0, 1.0), name="x")
        sample(Normal(x, 1.0), name="y")

    posterior = importance(fixed, {"y": 2.0}, folder / "fixed", num_draws=2000, seed=1)
    check = predictive_check(posterior, num_draws=2000, simulator=fixed)
    assert check[0].draws.mean() == pytest.approx(1.0, abs=0.15)


def test_runs_that_fail_are_counted(folder: Path) -> None:
    @simulator
    def fragile() -> None:
        x = sample(Normal(0.0, 1.0), name="x")
        if observe(Normal(x, 1.0), name="y") < 0.0:
            raise ValueError("negative")

    posterior = importance(fragile, {"y": 2.0}, folder / "fragile", num_draws=500, seed=1)
    check = predictive_check(posterior, num_draws=200, simulator=fragile)
    assert 0 < check.num_failed < 100
    assert len(check.draws) == 200 - check.num_failed
    assert check.diagnosis.of("failed-runs")


def test_paths_without_an_observation_have_no_number_for_it(folder: Path) -> None:
    @simulator
    def paths() -> None:
        if sample(Bernoulli(0.5), name="coin"):
            observe(Normal(0.0, 1.0), name="only")
        observe(Normal(0.0, 1.0), name="y")

    posterior = importance(paths, {"y": 0.0, "only": 0.0}, folder / "paths", num_draws=200, seed=1)
    check = predictive_check(posterior, statistics={"y": lambda data: float(data["y"])}, num_draws=100)
    assert 0 < sum("only" in data for data in check.draws) < 100
    with pytest.raises(InvalidInputError, match="needs 'only', which drawn data number"):
        predictive_check(posterior, num_draws=100)


def test_a_p_value_says_no_more_than_its_draws() -> None:
    statistic = PredictiveStatistic("t", 9.0, np.zeros(99))
    assert statistic.p_value == 0.0
    assert statistic.two_sided == 0.02


def test_ties_count_half() -> None:
    assert PredictiveStatistic("t", 1.0, np.array([0.0, 1.0, 1.0, 2.0])).p_value == 0.5


def test_refuses_statistics_that_are_no_numbers() -> None:
    with pytest.raises(InvalidInputError, match="'odd' is NaN"):
        PredictiveCheck({"y": np.array(1.0)}, [], {"odd": lambda data: math.nan})
