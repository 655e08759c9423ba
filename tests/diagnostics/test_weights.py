"""Weights: sizes, evidence and moments against exact values."""

import math

import numpy as np
import pytest

from tracestore.diagnostics.weights import (
    kish_ess,
    log_evidence,
    normalized_weights,
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
