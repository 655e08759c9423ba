"""Weights: sizes, evidence and moments against exact values."""

import math

import numpy as np
import pytest

from tracestore.diagnostics.weights import (
    kish_ess,
    log_evidence,
    normalized_weights,
    weighted_ess,
    weighted_mcse,
    weighted_mean,
    weighted_quantile,
    weighted_variance,
)
from tracestore.errors import InvalidInputError


def test_kish() -> None:
    weights = np.array([1.0, 2.0, 3.0])
    assert kish_ess(np.log(weights) + 700.0) == pytest.approx(36 / 14)


def test_no_weight_at_all() -> None:
    assert kish_ess([-np.inf, -np.inf]) == 0.0
    value, error = log_evidence([-np.inf, -np.inf])
    assert value == -math.inf
    assert math.isnan(error)


def test_log_evidence_counts_the_dead() -> None:
    value, _ = log_evidence([math.log(3.0), -np.inf, -np.inf])
    assert value == pytest.approx(0.0)


def test_log_evidence_error_is_the_relative_error_of_the_mean() -> None:
    log_weights = np.random.default_rng(5).normal(size=2000)
    weights = np.exp(log_weights)
    expected = weights.std() / math.sqrt(2000) / weights.mean()
    assert log_evidence(log_weights).standard_error == pytest.approx(expected, rel=1e-9)


def test_error_of_equal_weights_is_the_plain_one() -> None:
    values = np.random.default_rng(6).normal(size=500)
    assert weighted_mcse(values, np.zeros(500)) == pytest.approx(values.std() / math.sqrt(500))


def test_values_without_weight_do_not_matter() -> None:
    assert weighted_mcse([1.0, 3.0, np.nan], [0.0, 0.0, -np.inf]) == weighted_mcse([1.0, 3.0], [0.0, 0.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refuses_weights_that_are_no_weights(bad: float) -> None:
    with pytest.raises(InvalidInputError, match="index 1"):
        kish_ess([0.0, bad])


def test_evidence_of_nothing() -> None:
    with pytest.raises(InvalidInputError, match="at least one draw"):
        log_evidence([])


def test_weights_of_any_size_are_normalized() -> None:
    np.testing.assert_allclose(normalized_weights([-5000.0, -5000.0 + math.log(3.0)]), [0.25, 0.75])


def test_moments_of_vectors() -> None:
    values = np.array([[1.0, 10.0], [3.0, 10.0], [np.inf, np.nan]])
    weights = np.array([0.5, 0.5, 0.0])
    np.testing.assert_allclose(weighted_mean(values, weights), [2.0, 10.0])
    np.testing.assert_allclose(weighted_variance(values[:2], weights[:2]), [1.0, 0.0])


def test_quantiles_of_equal_weights_are_order_statistics() -> None:
    values = np.random.default_rng(7).permutation(100)
    found = weighted_quantile(values, np.full(100, 0.01), np.arange(1, 101) / 100)
    np.testing.assert_array_equal(found, np.arange(100))


class TestSizeForOneQuantity:
    def test_equal_weights_count_all_draws(self) -> None:
        values = np.random.default_rng(7).normal(size=500)
        for method in ("mean", "tail"):
            assert weighted_ess(values, np.zeros(500), method=method) == pytest.approx(500)

    def test_it_is_the_variance_over_the_squared_error(self) -> None:
        rng = np.random.default_rng(8)
        values, log_weights = rng.normal(size=400), rng.normal(size=400)
        variance = float(weighted_variance(values, normalized_weights(log_weights)))
        assert weighted_ess(values, log_weights) == pytest.approx(variance / weighted_mcse(values, log_weights) ** 2)

    def test_weights_that_favor_the_tail_make_the_tail_precise_and_the_bulk_poor(self) -> None:
        # normal posterior from a proposal three times as wide: the tails are drawn more often than they deserve
        values = 3.0 * np.random.default_rng(9).normal(size=20_000)
        log_weights = -0.5 * values**2 + 0.5 * (values / 3.0) ** 2
        tail = weighted_ess(values, log_weights, method="quantile", probability=0.999)
        assert tail > 1.2 * kish_ess(log_weights)

    def test_size_predicts_the_scatter_of_repeated_estimates(self) -> None:
        rng = np.random.default_rng(10)
        values = rng.normal(size=(2000, 300))
        log_weights = 0.7 * values
        means = [float(weighted_mean(v, normalized_weights(w))) for v, w in zip(values, log_weights, strict=True)]
        sizes = [weighted_ess(v, w) for v, w in zip(values, log_weights, strict=True)]
        # the posterior is a normal of unit variance, shifted by 0.7
        assert 1.0 / np.var(means) == pytest.approx(np.median(sizes), rel=0.15)

    def test_constant_values_have_none(self) -> None:
        assert math.isnan(weighted_ess([1.0, 1.0, 2.0], [0.0, 0.0, -np.inf]))
        assert math.isnan(weighted_ess([1.0, 2.0], [-np.inf, -np.inf], method="tail"))

    @pytest.mark.parametrize(("method", "probability"), [("quantile", None), ("mean", 0.5)])
    def test_refuses_a_probability_that_does_not_fit(self, method, probability) -> None:
        with pytest.raises(InvalidInputError, match="belongs to the method 'quantile'"):
            weighted_ess([1.0], [0.0], method=method, probability=probability)
