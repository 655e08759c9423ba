"""Peak, skewness and kurtosis of weighted draws."""

import math

import numpy as np
import pytest

from tracestore.posteriors.shape import central_moment_ratio, mode_of


def even(count: int) -> np.ndarray:
    return np.full(count, 1.0 / count)


class TestDiscrete:
    def test_heaviest_value(self) -> None:
        assert mode_of([1.0, 2.0, 2.0, 3.0], np.array([0.3, 0.2, 0.2, 0.3])) == 2.0

    def test_smallest_of_ties(self) -> None:
        assert mode_of([5.0, 1.0], np.array([0.5, 0.5])) == 1.0

    def test_draws_without_weight_do_not_count(self) -> None:
        assert mode_of([7.0, 1.5, np.nan], np.array([1.0, 0.0, 0.0])) == 7.0

    def test_constant_fractions(self) -> None:
        assert mode_of([0.25, 0.25], even(2)) == 0.25


class TestContinuous:
    def test_of_a_normal(self) -> None:
        draws = np.random.default_rng(1).normal(3.0, 2.0, 20_000)
        assert mode_of(draws, even(20_000)) == pytest.approx(3.0, abs=0.25)

    def test_at_the_edge_of_a_support(self) -> None:
        draws = np.random.default_rng(2).exponential(size=20_000)
        assert mode_of(draws, even(20_000)) == pytest.approx(0.0, abs=0.05)
        assert mode_of(-draws, even(20_000)) == pytest.approx(0.0, abs=0.05)

    def test_of_the_higher_one_of_two_peaks(self) -> None:
        rng = np.random.default_rng(3)
        draws = np.concatenate([rng.normal(-5.0, 1.0, 4000), rng.normal(5.0, 1.0, 6000)])
        assert mode_of(draws, even(10_000)) == pytest.approx(5.0, abs=0.5)

    def test_follows_the_weights(self) -> None:
        rng = np.random.default_rng(4)
        draws = np.concatenate([rng.normal(-5.0, 1.0, 5000), rng.normal(5.0, 1.0, 5000)])
        weights = np.where(draws < 0.0, 3.0, 1.0)
        assert mode_of(draws, weights / weights.sum()) == pytest.approx(-5.0, abs=0.5)

    def test_far_draws_do_not_coarsen_it(self) -> None:
        draws = np.append(np.random.default_rng(5).normal(1.0, 0.1, 20_000), [1e6, -1e6])
        assert mode_of(draws, even(20_002)) == pytest.approx(1.0, abs=0.05)

    def test_one_heavy_draw_does_not_decide(self) -> None:
        draws = np.random.default_rng(6).normal(0.0, 1.0, 5001)
        draws[-1] = 2.5
        weights = np.append(np.full(5000, 0.99 / 5000), 0.01)
        assert abs(mode_of(draws, weights)) < 0.5


class TestMoments:
    def test_of_a_skewed_distribution(self) -> None:
        draws = np.random.default_rng(7).exponential(size=400_000)
        assert central_moment_ratio(draws, even(400_000), 3) == pytest.approx(2.0, abs=0.05)
        assert central_moment_ratio(draws, even(400_000), 4) == pytest.approx(9.0, abs=0.7)

    def test_follow_the_weights(self) -> None:
        weighted = central_moment_ratio(np.array([0.0, 1.0, 4.0]), np.array([0.5, 0.25, 0.25]), 3)
        repeated = central_moment_ratio(np.array([0.0, 0.0, 1.0, 4.0]), even(4), 3)
        assert weighted == pytest.approx(float(repeated))

    def test_of_constants_do_not_exist(self) -> None:
        assert math.isnan(central_moment_ratio(np.ones(3), even(3), 3))
