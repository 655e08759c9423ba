"""Quantile functions against scipy."""

import math

import numpy as np
import pytest
from scipy import special, stats

from tracestore.diagnostics.quantile_functions import beta_cdf, beta_quantile, normal_quantile


def test_normal_quantiles_to_the_last_digits() -> None:
    # the quantile function is not defined better than its argument where this is close to one: compare below one half
    probability = np.concatenate([np.linspace(1e-6, 0.5, 50_001), 10.0 ** -np.arange(1, 300)])
    np.testing.assert_allclose(normal_quantile(probability), special.ndtri(probability), rtol=1.2e-15, atol=1e-16)


def test_normal_quantiles_are_odd() -> None:
    probability = np.arange(1, 1024) / 1024
    np.testing.assert_array_equal(normal_quantile(probability), -normal_quantile(1.0 - probability))


def test_normal_quantiles_at_and_beyond_the_ends() -> None:
    ends = normal_quantile([[0.0, 1.0], [-0.1, 1.1]])
    assert ends[0].tolist() == [-math.inf, math.inf]
    assert np.isnan(ends[1]).all()


def test_normal_quantile_of_a_number() -> None:
    assert normal_quantile(0.5).shape == ()


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.3, 0.7), (3.2, 900.0), (501.0, 500.0), (1e5, 3e5)])
@pytest.mark.parametrize("probability", [0.001, 0.16, 0.5, 0.84, 0.999])
def test_beta(a: float, b: float, probability: float) -> None:
    quantile = stats.beta.ppf(probability, a, b)
    assert beta_quantile(probability, a, b) == pytest.approx(quantile, rel=1e-9)
    assert beta_cdf(quantile, a, b) == pytest.approx(probability, rel=1e-8)


def test_beta_outside_its_support() -> None:
    assert (beta_cdf(-0.5, 2.0, 3.0), beta_cdf(1.5, 2.0, 3.0)) == (0.0, 1.0)
