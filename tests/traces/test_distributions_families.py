"""Distributions survive the way through their flat parameters."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traces.distribution_cases import CASES
from tracestore.errors import InvalidInputError
from tracestore.traces.distributions import (
    FAMILIES,
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Exponential,
    Gamma,
    LogNormal,
    Mixture,
    MultivariateNormal,
    Normal,
    PiecewiseUniform,
    Poisson,
    TruncatedNormal,
    Uniform,
    VonMises,
    Weibull,
    from_parameters,
)

FINITE = st.floats(-1e6, 1e6)
POSITIVE = st.floats(1e-6, 1e6)
PROBABILITY = st.floats(0.0, 1.0)
BOUNDS = st.tuples(FINITE, POSITIVE).map(lambda pair: (pair[0], pair[0] + pair[1]))
WEIGHTS = st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=6)


def histogram(weights, low, widths):
    edges = low + np.cumsum([0.0, *widths[: len(weights)]])
    return PiecewiseUniform(edges, weights)


CONTINUOUS_SCALARS = st.one_of(
    st.builds(Normal, FINITE, POSITIVE),
    BOUNDS.map(lambda bounds: Uniform(*bounds)),
    st.builds(lambda a, b, bounds: Beta(a, b, *bounds), POSITIVE, POSITIVE, BOUNDS),
    st.builds(Exponential, POSITIVE),
    st.builds(Gamma, POSITIVE, POSITIVE),
    st.builds(LogNormal, FINITE, POSITIVE),
    st.builds(Weibull, POSITIVE, POSITIVE),
    st.builds(lambda loc, scale, bounds: TruncatedNormal(loc, scale, *bounds), FINITE, POSITIVE, BOUNDS),
    st.builds(VonMises, FINITE, POSITIVE),
    st.builds(histogram, WEIGHTS, st.floats(-100, 100), st.lists(st.floats(0.1, 9), min_size=6, max_size=6)),
)
DISCRETE_SCALARS = st.one_of(
    st.builds(Poisson, st.floats(0.0, 1e6)),
    st.builds(Bernoulli, PROBABILITY),
    st.builds(Binomial, st.integers(0, 2**53), PROBABILITY),
    st.builds(Categorical, WEIGHTS),
)


@st.composite
def mixtures(draw, parts):
    components = draw(st.lists(parts, min_size=1, max_size=4))
    size = len(components)
    return Mixture(components, draw(st.lists(st.floats(1e-9, 1e9), min_size=size, max_size=size)))


SCALARS = st.one_of(
    CONTINUOUS_SCALARS,
    DISCRETE_SCALARS,
    st.recursive(CONTINUOUS_SCALARS, mixtures, max_leaves=8),
    st.recursive(DISCRETE_SCALARS, mixtures, max_leaves=8),
)


def assert_round_trip(distribution):
    parameters = distribution.parameters()
    again = from_parameters(distribution.family, parameters, distribution.shape)
    assert again == distribution
    np.testing.assert_array_equal(again.parameters(), parameters)
    assert (again.family, again.suffix, again.shape) == (distribution.family, distribution.suffix, distribution.shape)
    structured = from_parameters(distribution.structure, parameters, distribution.shape)
    assert structured == distribution
    value = distribution.sample(np.random.default_rng(1))
    assert again.log_prob(value) == pytest.approx(distribution.log_prob(value), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_case_survives(case):
    assert_round_trip(case.distribution)


@given(SCALARS)
def test_any_scalar_distribution_survives(distribution):
    assert_round_trip(distribution)


@given(SCALARS)
def test_draws_of_any_scalar_distribution_are_in_its_support(distribution):
    rng = np.random.default_rng(2)
    low, high = distribution.support
    for _ in range(5):
        value = distribution.sample(rng)
        assert low <= value <= high
        assert not math.isnan(distribution.log_prob(value))
        assert distribution.log_prob(value) < math.inf


@given(st.lists(st.tuples(FINITE, POSITIVE), min_size=1, max_size=6), st.booleans())
def test_any_vector_survives(pairs, is_column):
    loc, scale = np.array(pairs).T
    shape = (len(pairs), 1) if is_column else (len(pairs),)
    assert_round_trip(Normal(loc.reshape(shape), scale.reshape(shape)))


def test_parameters_are_in_constructor_order():
    np.testing.assert_array_equal(Normal([1.0, 2.0], 3.0).parameters(), [1.0, 2.0, 3.0, 3.0])
    np.testing.assert_array_equal(Beta(2, 3).parameters(), [2.0, 3.0, 0.0, 1.0])
    np.testing.assert_array_equal(PiecewiseUniform([0, 1, 2], [1, 3]).parameters(), [0.0, 1.0, 2.0, 0.25, 0.75])
    np.testing.assert_array_equal(
        MultivariateNormal([5, 6], [[1, 0.5], [0.5, 2]]).parameters(), [5.0, 6.0, 1.0, 0.5, 0.5, 2.0]
    )
    mixture = Mixture([Normal(1, 2), TruncatedNormal(3, 4, 5, 6)], [0.25, 0.75])
    assert mixture.family == "Mixture(Normal,TruncatedNormal)"
    np.testing.assert_array_equal(mixture.parameters(), [1, 2, 3, 4, 5, 6, 0.25, 0.75])


def test_size_of_a_lone_categorical_follows_from_its_parameters():
    assert from_parameters("Categorical", [0.25, 0.75]) == Categorical([0.25, 0.75])
    assert from_parameters("PiecewiseUniform", [0.0, 1.0, 2.0, 0.5, 0.5]) == PiecewiseUniform([0, 1, 2], [0.5, 0.5])


def test_families_never_change_place():
    assert FAMILIES == (
        "Normal",
        "Uniform",
        "Categorical",
        "Poisson",
        "Bernoulli",
        "Beta",
        "Exponential",
        "Gamma",
        "LogNormal",
        "Binomial",
        "Weibull",
        "TruncatedNormal",
        "VonMises",
        "MultivariateNormal",
        "Mixture",
        "PiecewiseUniform",
    )


@pytest.mark.parametrize(
    "family",
    [
        "",
        "normal",
        "Norm",
        "Normal(2)",
        "Normal[2]",
        "Mixture",
        "Mixture()",
        "Mixture(Normal",
        "Mixture(Normal,)",
        "Mixture(Normal))",
        "Mixture(Normal Normal)",
        "Mixture(2)",
        "Categorical(0)",
        "Categorical(-1)",
    ],
)
def test_unknown_families_are_refused(family):
    with pytest.raises(InvalidInputError, match="names no distribution family; allowed: Normal, Uniform"):
        from_parameters(family, [0.5, 0.5])


@pytest.mark.parametrize(
    ("family", "parameters", "shape", "message"),
    [
        ("Normal", [1.0], (), r"Normal with draws of shape \(\) has 2 parameters; got shape \(1,\)"),
        ("Normal", [[1.0, 2.0]], (), r"has 2 parameters; got shape \(1, 2\)"),
        ("Normal", [1.0, 2.0], (2,), r"shape \(2,\) has 4 parameters"),
        ("Normal", [1.0, -2.0], (), r"`scale` of Normal .* got -2.0"),
        ("Categorical(3)", [0.5, 0.5], (), r"has 3 parameters; got shape \(2,\)"),
        ("Categorical", [], (), r"has 1 parameters; got shape \(0,\)"),
        ("Categorical", [0.5, 0.5], (2,), r"Categorical draws are scalar"),
        ("PiecewiseUniform", [0.0, 1.0], (), r"has 3 parameters"),
        ("MultivariateNormal", [0.0, 1.0], (), r"must have one dimension"),
        ("Mixture(Normal,Normal)", [0.0, 1.0], (), r"has 6 parameters"),
        ("Mixture(Categorical,Poisson)", [0.5, 0.5, 1.0], (), r"needs its size, as in Categorical\(5\)"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(family, parameters, shape, message):
    with pytest.raises(InvalidInputError, match=message):
        from_parameters(family, parameters, shape)
