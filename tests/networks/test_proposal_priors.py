"""Proposals under priors with any parameters: the loss and the drawn distribution agree."""

import math

import numpy as np
import pytest

pytest.importorskip("torch")
from hypothesis import given
from hypothesis import strategies as st

import tracestore as ts
from tests.networks.proposal_cases import BINNED, SMALL, SPLINE, drawn_from, head_of, random_raw, torch_log_prob

FINITE = st.floats(-1e4, 1e4)
POSITIVE = st.floats(1e-3, 1e3)
BOUNDS = st.tuples(FINITE, st.floats(1e-2, 1e4)).map(lambda pair: (pair[0], pair[0] + pair[1]))
OPEN_BOUNDS = st.one_of(BOUNDS, FINITE.map(lambda low: (low, math.inf)), FINITE.map(lambda high: (-math.inf, high)))
WEIGHTS = st.lists(st.floats(0.0, 10.0), min_size=1, max_size=6).filter(lambda weights: sum(weights) > 1e-3)
PROBABILITY = st.floats(0.0, 1.0)

LINES = st.one_of(
    st.builds(ts.Normal, FINITE, POSITIVE),
    BOUNDS.map(lambda bounds: ts.Uniform(*bounds)),
    st.builds(ts.Exponential, POSITIVE),
    st.builds(ts.LogNormal, st.floats(-20.0, 20.0), st.floats(1e-2, 10.0)),
    st.builds(ts.Weibull, POSITIVE, st.floats(0.2, 50.0)),
    st.builds(lambda loc, scale, bounds: ts.TruncatedNormal(loc, scale, *bounds), FINITE, POSITIVE, OPEN_BOUNDS),
)
HISTOGRAMS = WEIGHTS.map(lambda weights: ts.PiecewiseUniform(np.arange(len(weights) + 1.0), weights))
OTHERS = st.one_of(
    st.builds(ts.Gamma, st.floats(0.05, 1e3), POSITIVE),
    st.builds(lambda a, b, bounds: ts.Beta(a, b, *bounds), st.floats(0.1, 100.0), st.floats(0.1, 100.0), BOUNDS),
    st.builds(ts.VonMises, FINITE, st.floats(0.0, 1e6)),
)
COUNTS = st.one_of(
    st.builds(ts.Bernoulli, PROBABILITY),
    st.builds(ts.Poisson, st.one_of(st.just(0.0), st.floats(0.0, 1e5))),
    st.builds(ts.Binomial, st.integers(0, 10**5), PROBABILITY),
    st.builds(ts.Categorical, WEIGHTS),
)
MIXTURES = st.lists(st.one_of(LINES, HISTOGRAMS), min_size=1, max_size=3).map(
    lambda parts: ts.Mixture(parts, [1.0] * len(parts))
)


def assert_agree(prior, config, seed, rel=1e-9):
    head = head_of(prior, config)
    raw = random_raw(head, 1, seed=seed)[0]
    distribution = drawn_from(head, raw, prior)
    rng = np.random.default_rng(seed)
    draws = [*(prior.sample(rng) for _ in range(3)), *(distribution.sample(rng) for _ in range(3))]
    found = torch_log_prob(head, raw, prior, draws).numpy()
    expected = np.array([distribution.log_prob(draw) for draw in draws])
    log_prior = np.array([prior.log_prob(draw) for draw in draws])
    assert np.isfinite(found).all()
    assert (log_prior > -math.inf).all()
    np.testing.assert_allclose(found, expected, rtol=rel, atol=rel)
    assert (found - log_prior >= math.log(config.prior_fraction) - 1e-9).all()


@given(st.one_of(LINES, OTHERS, COUNTS), st.integers(0, 100))
def test_mixtures_and_counts(prior, seed):
    # where a scale is a millionth of a value, as many digits of the value are lost
    assert_agree(prior, SMALL, seed, rel=1e-6)


@given(BOUNDS, st.integers(0, 100))
def test_bins(bounds, seed):
    assert_agree(ts.Uniform(*bounds), BINNED, seed)


@given(st.one_of(LINES, HISTOGRAMS, MIXTURES), st.integers(0, 100))
def test_splines(prior, seed):
    assert_agree(prior, SPLINE, seed, rel=1e-6)


@given(st.lists(st.tuples(FINITE, POSITIVE), min_size=1, max_size=10), st.integers(0, 100))
def test_vectors(pairs, seed):
    loc, scale = np.array(pairs).T
    assert_agree(ts.Normal(loc, scale), SMALL, seed, rel=1e-6)
    assert_agree(ts.TruncatedNormal(loc, scale, loc - 1.0, math.inf), SMALL, seed, rel=1e-6)
    assert_agree(ts.Poisson(scale), SMALL, seed, rel=1e-6)
