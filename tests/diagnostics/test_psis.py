"""Pareto smoothing against arviz_stats (which negates its input) and against tails of known shape."""

import math

import numpy as np
import pytest
from arviz_stats.base import array_stats  # type: ignore[attr-defined]  # exported all the same

from tracestore.diagnostics.psis import khat_threshold, pareto_khat, smooth_log_weights
from tracestore.errors import InvalidInputError


@pytest.mark.parametrize("num_draws", [60, 225, 226, 5000])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_agrees_with_arviz(num_draws: int, scale: float) -> None:
    log_weights = scale * np.random.default_rng(num_draws).normal(size=num_draws)
    smoothed, khat = smooth_log_weights(log_weights)
    expected, expected_khat = array_stats.psislw(-log_weights)
    assert khat == pytest.approx(float(expected_khat), rel=1e-8)
    np.testing.assert_allclose(smoothed, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_finds_the_shape_of_a_pareto_tail(shape: float) -> None:
    weights = np.random.default_rng(8).pareto(1.0 / shape, size=40_000) + 1.0
    assert pareto_khat(np.log(weights)) == pytest.approx(shape, abs=0.1)


def test_thin_tail_is_not_alarming() -> None:
    assert pareto_khat(np.log(np.random.default_rng(9).uniform(size=10_000))) < 0.0


def test_one_huge_weight_is_alarming() -> None:
    log_weights = np.random.default_rng(10).normal(size=2000) * 8.0
    assert pareto_khat(log_weights) > 0.7


def test_equal_weights_have_no_tail() -> None:
    smoothed, khat = smooth_log_weights(np.full(1000, -3.0))
    assert khat == 0.0
    np.testing.assert_allclose(smoothed, -math.log(1000))


def test_zero_weights_stay_zero() -> None:
    log_weights = np.random.default_rng(11).normal(size=1000)
    log_weights[::2] = -np.inf
    smoothed, khat = smooth_log_weights(log_weights)
    assert math.isfinite(khat)
    assert (smoothed[::2] == -np.inf).all()
    assert np.exp(smoothed).sum() == pytest.approx(1.0)


def test_hardly_any_weight_cannot_be_judged() -> None:
    log_weights = np.full(1000, -np.inf)
    log_weights[:20] = 0.0
    assert pareto_khat(log_weights) == math.inf
    assert pareto_khat([0.0, 1.0, 2.0]) == math.inf


def test_a_few_weights_above_many_that_tie_have_no_shape_and_stay_as_they_are() -> None:
    log_weights = np.zeros(1000)
    log_weights[:3] = [3.0, 4.0, 5.0]
    smoothed, khat = smooth_log_weights(log_weights)
    assert khat == math.inf
    np.testing.assert_allclose(smoothed, log_weights - math.log(np.exp(log_weights).sum()))


def test_input_is_left_alone() -> None:
    log_weights = np.random.default_rng(12).normal(size=500)
    before = log_weights.copy()
    smooth_log_weights(log_weights)
    np.testing.assert_array_equal(log_weights, before)


@pytest.mark.parametrize("log_weights", [[0.0, np.nan], [np.inf], [-np.inf], []])
def test_refuses(log_weights: list[float]) -> None:
    with pytest.raises(InvalidInputError, match="not all -inf"):
        pareto_khat(log_weights)


def test_threshold_grows_with_the_number_of_draws() -> None:
    assert khat_threshold(50) < khat_threshold(500) <= khat_threshold(10**6) == 0.7


def test_a_grid_point_at_the_exponential_tail_is_no_division_by_zero() -> None:
    from tracestore.diagnostics.psis import _fit_pareto

    shape, scale = _fit_pareto(np.r_[np.full(20, 0.25), np.full(80, 0.5)])
    assert np.isfinite([shape, scale]).all()
