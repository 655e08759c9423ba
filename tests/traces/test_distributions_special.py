"""Special functions against scipy."""

import math

import numpy as np
import pytest
from scipy import integrate, special

from tracestore.traces.distributions.special import (
    exponential_decay_integral,
    gauss_legendre,
    lgamma,
    log_bessel_i0_scaled,
    mills_ratio,
)


def test_lgamma():
    x = np.concatenate([np.geomspace(1e-300, 1e12, 400), np.arange(1.0, 200.0), np.linspace(7.9, 8.1, 21)])
    expected = special.gammaln(x)
    np.testing.assert_array_less(np.abs(lgamma(x) - expected), 2e-14 * np.maximum(1.0, np.abs(expected)))


def test_lgamma_keeps_shape_and_input():
    x = np.array([[0.5, 1.0], [9.0, 100.0]])
    before = x.copy()
    assert lgamma(x).shape == (2, 2)
    np.testing.assert_array_equal(x, before)
    assert lgamma(np.array(5.0)).shape == ()
    assert float(lgamma(np.array(5.0))) == pytest.approx(math.log(24.0), rel=1e-14)
    assert lgamma(np.array([5.0], np.float32)).dtype == np.float64


@pytest.mark.parametrize("x", [0.0, 1e-300, 0.1, 1.0, 5.0, 14.999, 15.0, 15.001, 40.0, 1e5, 1e100, 1e200])
def test_mills_ratio(x):
    expected = math.sqrt(0.5 * math.pi) * special.erfcx(x * math.sqrt(0.5))
    assert mills_ratio(x) == pytest.approx(expected, rel=5e-14)


def test_mills_ratio_at_infinity():
    assert mills_ratio(math.inf) == 0.0


@pytest.mark.parametrize("x", [0.0, 1e-300, 1e-8, 0.5, 3.0, 24.999, 25.0, 25.001, 500.0, 1e6])
def test_log_bessel(x):
    assert log_bessel_i0_scaled(x) == pytest.approx(math.log(special.ive(0, x)), rel=1e-12, abs=1e-15)


def test_log_bessel_of_large_numbers():
    assert log_bessel_i0_scaled(1e300) == pytest.approx(-0.5 * (math.log(2.0 * math.pi) + math.log(1e300)), rel=1e-14)


@pytest.mark.parametrize(("linear", "quadratic"), [(0.0, 0.0), (1.0, 0.0), (0.5, 0.5), (0.0, 1.0), (1e-9, 1e-20)])
def test_exponential_decay_integral(linear, quadratic):
    expected = integrate.quad(lambda s: math.exp(-linear * s - quadratic * s * s), 0.0, 1.0, epsabs=1e-14)[0]
    assert exponential_decay_integral(linear, quadratic) == pytest.approx(expected, rel=1e-14)


def test_quadrature_is_on_the_unit_interval():
    nodes, weights = gauss_legendre(10)
    assert (weights * nodes**19).sum() == pytest.approx(1.0 / 20.0, rel=1e-13)
