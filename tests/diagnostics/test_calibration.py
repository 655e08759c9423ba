"""Calibration: ranks, uniformity and coverage, on posteriors that are right and that are wrong in one way."""

import math

import numpy as np
import pytest
from scipy import stats

from tracestore.diagnostics.calibration import (
    central_coverage,
    ecdf_band,
    randomized_pit,
    shape_of,
    uniformity_pvalue,
)
from tracestore.errors import InvalidInputError


def pit_of(rng: np.random.Generator, *, width: float = 1.0, shift: float = 0.0, num_trials: int = 400) -> np.ndarray:
    """Ranks in normal posteriors of another width, shifted in units of their own."""
    truths = rng.normal(size=num_trials)
    return np.array([randomized_pit(shift + width * rng.normal(size=99), truth, rng) for truth in truths])


class TestRanks:
    def test_ranks_of_exchangeable_draws_are_uniform_at_any_number(self) -> None:
        rng = np.random.default_rng(1)
        pit = [randomized_pit(rng.normal(size=3), float(rng.normal()), rng) for _ in range(4000)]
        assert stats.kstest(pit, "uniform").pvalue > 0.01

    def test_ties_are_broken_at_random(self) -> None:
        rng = np.random.default_rng(2)
        pit = [randomized_pit(rng.integers(0, 2, size=10), float(rng.integers(0, 2)), rng) for _ in range(4000)]
        assert stats.kstest(pit, "uniform").pvalue > 0.01

    def test_weighted_draws_rank_like_draws_of_their_target(self) -> None:
        rng = np.random.default_rng(3)
        pit = []
        for truth in rng.normal(size=2000):
            draws = 2.0 * rng.normal(size=400)
            log_weights = -0.5 * draws**2 + 0.5 * (draws / 2.0) ** 2
            pit.append(randomized_pit(draws, truth, rng, log_weights=log_weights))
        assert stats.kstest(pit, "uniform").pvalue > 0.01

    def test_weights_of_zero_do_not_count(self) -> None:
        rng = np.random.default_rng(4)
        assert randomized_pit([0.0, 9.0, 9.0], 5.0, rng, log_weights=[0.0, -np.inf, -np.inf]) >= 0.5

    def test_a_size_of_its_own_widens_the_steps(self) -> None:
        rng = np.random.default_rng(5)
        found = [randomized_pit(np.zeros(1000), 1.0, rng, size=1.0) for _ in range(200)]
        assert 0.5 <= min(found) < 0.6

    def test_refuses_draws_without_weight(self) -> None:
        with pytest.raises(InvalidInputError, match="found none"):
            randomized_pit([1.0], 0.0, np.random.default_rng(6), log_weights=[-np.inf])


class TestUniformity:
    def test_pvalues_of_uniform_values_are_uniform(self) -> None:
        rng = np.random.default_rng(7)
        found = [uniformity_pvalue(rng.random(60)) for _ in range(1000)]
        # counts are discrete, so that the test is a little conservative
        assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.02)
        assert np.mean(np.array(found) < 0.5) == pytest.approx(0.5, abs=0.06)

    @pytest.mark.parametrize(
        "wrong", [{"width": 0.6}, {"width": 1.7}, {"shift": 0.4}], ids=["too narrow", "too wide", "shifted"]
    )
    def test_wrong_posteriors_are_found(self, wrong: dict[str, float]) -> None:
        assert uniformity_pvalue(pit_of(np.random.default_rng(8), **wrong)) < 1e-4  # type: ignore[arg-type]

    @pytest.mark.parametrize("num_values", [1, 2, 5])
    def test_a_few_values_are_enough_for_a_number(self, num_values: int) -> None:
        assert 0.0 < uniformity_pvalue(np.random.default_rng(9).random(num_values)) <= 1.0

    @pytest.mark.parametrize("coverage", [0.5, 0.95])
    def test_the_band_covers_as_often_as_it_says(self, coverage: float) -> None:
        rng = np.random.default_rng(10)
        band = ecdf_band(50, coverage=coverage)
        samples = np.sort(rng.random((4000, 50)), axis=1)
        inside = 0
        for values in samples:
            ecdf = np.searchsorted(values, band.points, side="right") / 50
            inside += int(((ecdf >= band.lower - 1e-9) & (ecdf <= band.upper + 1e-9)).all())
        # counts are discrete: the band covers no less than asked for, and little more
        assert coverage - 0.02 < inside / 4000 < coverage + 0.06

    def test_the_band_at_one_point_is_the_binomial_interval(self) -> None:
        band = ecdf_band(100, num_points=2, coverage=0.95)
        assert band.lower[0] * 100 == stats.binom.ppf(0.025, 100, 0.5)
        assert band.upper[0] * 100 == stats.binom.ppf(0.975, 100, 0.5)

    @pytest.mark.parametrize("pit", [[], [1.5], [math.nan]])
    def test_refuses_what_is_no_rank(self, pit: list[float]) -> None:
        with pytest.raises(InvalidInputError, match="between 0 and 1"):
            uniformity_pvalue(pit)


class TestShape:
    @pytest.mark.parametrize(
        ("wrong", "bias", "spread"),
        [
            ({}, 0, 0),
            ({"width": 0.6}, 0, 1),
            ({"width": 1.7}, 0, -1),
            ({"shift": 0.4}, -1, 0),
            ({"shift": -0.4}, 1, 0),
        ],
        ids=["right", "too narrow", "too wide", "draws too large", "draws too small"],
    )
    def test_it_tells_how_a_posterior_is_wrong(self, wrong: dict[str, float], bias: int, spread: int) -> None:
        found = shape_of(pit_of(np.random.default_rng(11), **wrong))  # type: ignore[arg-type]
        assert [int(np.sign(number)) * (abs(number) > 3.0) for number in found] == [bias, spread]

    def test_its_numbers_are_standard_errors(self) -> None:
        rng = np.random.default_rng(12)
        found = np.array([shape_of(rng.random(30)) for _ in range(3000)])
        np.testing.assert_allclose(found.std(axis=0), 1.0, atol=0.05)
        np.testing.assert_allclose(found.mean(axis=0), 0.0, atol=0.06)

    def test_coverage_of_narrow_posteriors_is_too_small(self) -> None:
        rng = np.random.default_rng(13)
        np.testing.assert_allclose(central_coverage(pit_of(rng, num_trials=2000), [0.5, 0.9]), [0.5, 0.9], atol=0.03)
        # a central half of a normal of width 0.6 is a central 31 % of one of width 1
        narrow = central_coverage(pit_of(rng, width=0.6, num_trials=2000), [0.5])
        assert narrow[0] == pytest.approx(0.314, abs=0.03)
