"""Bands, bins and correlations against exact cases."""

import math

import numpy as np
import pytest

from tracestore.diagnostics.bands import bin_values, bootstrap_band, correlation_matrix, ratio_band
from tracestore.errors import InvalidInputError


@pytest.mark.statistical
def test_a_band_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    bands = [bootstrap_band(rng.normal(size=(80, 1)), seed=seed, num_resamples=200) for seed in range(300)]
    covered = np.mean([band.lower[0] <= 0.0 <= band.upper[0] for band in bands])
    assert 0.90 < covered < 0.98


def test_a_band_is_a_function_of_the_seed() -> None:
    values = np.random.default_rng(1).normal(size=(50, 2, 3))
    one, again, other = (bootstrap_band(values, seed=seed) for seed in (1, 1, 2))
    assert one.mean.shape == (2, 3)
    np.testing.assert_array_equal(one.lower, again.lower)
    assert (one.lower != other.lower).any()
    np.testing.assert_allclose(one.mean, values.mean(axis=0))


def test_constant_values_have_a_band_of_no_width() -> None:
    band = bootstrap_band(np.full((9, 2), 3.0), seed=1)
    assert band.lower.tolist() == band.mean.tolist() == band.upper.tolist() == [3.0, 3.0]


def test_bins_hold_their_lower_edge_and_the_last_both() -> None:
    found = bin_values([1.0, 2.0, 4.0, 8.0, 16.0], [0.0, 1.0, 1.5, 2.0, 2.5], [0.0, 1.0, 2.0])
    assert found.counts.tolist() == [1, 3]
    np.testing.assert_allclose(found.mean, [1.0, 14.0 / 3.0])
    assert math.isnan(found.sd[0])
    assert found.sd[1] == pytest.approx(np.std([2.0, 4.0, 8.0], ddof=1))
    assert found.error[1] == pytest.approx(found.sd[1] / math.sqrt(3.0))


def test_an_empty_bin_has_no_mean() -> None:
    found = bin_values([1.0], [0.5], [0.0, 1.0, 2.0])
    assert found.counts.tolist() == [1, 0]
    assert math.isnan(found.mean[1])


def test_correlations_equal_those_of_numpy() -> None:
    values = np.random.default_rng(1).normal(size=(30, 4)) @ np.random.default_rng(2).normal(size=(4, 4))
    np.testing.assert_allclose(correlation_matrix(values), np.corrcoef(values.T))


def test_a_feature_that_does_not_vary_has_no_correlation() -> None:
    assert np.isnan(correlation_matrix([[1.0, 2.0], [1.0, 3.0]])[0, 1])


def test_the_band_of_a_correlation_holds_it() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(400, 2)) @ [[1.0, 0.6], [0.0, 0.8]]
    band = bootstrap_band(values, seed=1, statistic=correlation_matrix)
    np.testing.assert_array_equal(band.mean, correlation_matrix(values))
    assert band.lower[0, 1] < 0.6 < band.upper[0, 1]
    assert 0.05 < band.upper[0, 1] - band.lower[0, 1] < 0.25


def test_a_ratio_is_that_of_the_means() -> None:
    rng = np.random.default_rng(1)
    one, other = 1.0 + rng.random((50, 3)), 2.0 + rng.random((70, 3))
    band = ratio_band(one, other, seed=1)
    np.testing.assert_allclose(band.mean, one.mean(axis=0) / other.mean(axis=0))
    assert (band.lower < band.mean).all()
    assert (band.mean < band.upper).all()


def test_a_ratio_to_nothing_is_no_number() -> None:
    assert np.isnan(ratio_band([[0.0]], [[0.0]], seed=1).mean[0])


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: bootstrap_band([[math.inf]], seed=1), "`values` must be finite"),
        (lambda: bootstrap_band([1.0], seed=1, level=1.0), "level between 0 and 1"),
        (lambda: bin_values([1.0], [1.0], [1.0, 0.0]), "must ascend"),
        (lambda: bin_values([1.0], [1.0, 2.0], [0.0, 1.0]), "one length"),
        (lambda: correlation_matrix([[1.0, 2.0]]), "two rows"),
        (lambda: ratio_band([[1.0]], [[1.0, 2.0]], seed=1), "rows of one shape"),
    ],
)
def test_what_cannot_be_is_refused(call, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        call()
