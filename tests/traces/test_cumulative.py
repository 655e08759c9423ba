"""Distribution functions and quantiles against scipy and against each other."""

import math

import numpy as np
import pytest
from scipy import integrate

from tests.traces.distribution_cases import CONTINUOUS, DISCRETE, VECTOR, case_id
from tracestore.errors import InvalidInputError
from tracestore.traces.distributions import (
    Exponential,
    LogNormal,
    Mixture,
    Normal,
    PiecewiseUniform,
    TruncatedNormal,
    Uniform,
    Weibull,
)
from tracestore.traces.distributions.cumulative import cdf, has_cdf, quantile

SERVED = [case for case in CONTINUOUS if has_cdf(case.distribution)]
EXTREME = [
    Normal(1e6, 1e-3),
    LogNormal(-300.0, 30.0),
    Weibull(1e-3, 0.05),
    Weibull(1e3, 200.0),
    Exponential(1e300),
    TruncatedNormal(0.0, 1.0, 40.0, math.inf),
    TruncatedNormal(0.0, 1.0, -math.inf, -40.0),
    TruncatedNormal(0.0, 1.0, -9.0, -8.0),
    TruncatedNormal(0.0, 1e12, 3.0, 4.0),
    Uniform(1.0, 1.0 + 2.0**-50),
    PiecewiseUniform([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 0.0]),
    Mixture([Normal(-1e3, 1e-3), Normal(1e3, 1e-3)], [0.5, 0.5]),
    Mixture([Uniform(0.0, 1.0), Uniform(5.0, 6.0)], [0.25, 0.75]),
    Mixture([LogNormal(-200.0, 1.0), LogNormal(200.0, 1.0)], [0.5, 0.5]),
    Mixture([Normal(0.0, 1.0), Uniform(5.0, 6.0)], [1.0, 0.0]),
]


@pytest.mark.parametrize("case", [case for case in SERVED if case.reference], ids=case_id)
def test_cdf_agrees_with_scipy(case):
    values = case.reference.ppf(np.linspace(0.001, 0.999, 41))
    found = [cdf(case.distribution, value) for value in values.tolist()]
    np.testing.assert_allclose(found, case.reference.cdf(values), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", [case for case in SERVED if case.reference], ids=case_id)
def test_quantiles_agree_with_scipy(case):
    probabilities = np.array([1e-9, 1e-3, 0.1, 0.5, 0.7, 0.999, 1.0 - 1e-9])
    found = [quantile(case.distribution, probability) for probability in probabilities.tolist()]
    np.testing.assert_allclose(found, case.reference.ppf(probabilities), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("case", [case for case in SERVED if not case.reference], ids=case_id)
def test_cdf_is_the_integral_of_the_density(case):
    distribution = case.distribution
    low = max(distribution.support[0], distribution.mean - 12.0 * distribution.stddev)
    for value in [quantile(distribution, probability) for probability in (0.1, 0.45, 0.8)]:
        marks = np.linspace(low, value, 30)[1:-1].tolist()
        mass = integrate.quad(lambda x: math.exp(distribution.log_prob(x)), low, value, points=marks, limit=400)[0]
        assert cdf(distribution, value) == pytest.approx(mass, abs=1e-5)


@pytest.mark.parametrize("distribution", [case.distribution for case in SERVED] + EXTREME, ids=repr)
def test_quantile_inverts_the_cdf_inside_the_support(distribution):
    for probability in [0.0, 1e-12, 1e-3, 0.2, 0.5, 0.75, 0.999, 1.0 - 1e-12, 1.0]:
        value = quantile(distribution, probability)
        assert distribution.log_prob(value) > -math.inf
        # half the floats beside a quantile may be all there is
        beside = sorted(cdf(distribution, math.nextafter(value, way)) for way in (-math.inf, math.inf))
        assert beside[0] - 1e-9 <= probability <= beside[1] + 1e-9


@pytest.mark.parametrize("distribution", [case.distribution for case in SERVED] + EXTREME, ids=repr)
def test_cdf_rises_from_zero_to_one(distribution):
    values = [quantile(distribution, probability) for probability in np.linspace(0.0, 1.0, 50).tolist()]
    found = [cdf(distribution, value) for value in [-1e308, *values, 1e308]]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0.0, 1.0)


@pytest.mark.parametrize("case", DISCRETE + VECTOR, ids=case_id)
def test_other_distributions_are_refused(case):
    assert not has_cdf(case.distribution)
    for function in (cdf, quantile):
        with pytest.raises(InvalidInputError, match="no exact distribution function of"):
            function(case.distribution, 0.5)
