"""The distributions that only proposals use: no prior of a store is one of these."""

import copy
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate

from tracestore.errors import InvalidInputError
from tracestore.traces.distributions import (
    FAMILIES,
    Beta,
    Exponential,
    MultivariateNormal,
    Normal,
    Poisson,
    Uniform,
    VonMises,
)
from tracestore.traces.distributions.counted import CountHistogram
from tracestore.traces.distributions.joint import FactorNormal, Independent
from tracestore.traces.distributions.splined import Splined

SPLINED = Splined(Exponential(0.5), [0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [1.0, 3.0, 0.2, 0.7])
EACH = [
    CountHistogram([10, 11, 15, 40], [0.2, 0.0, 0.8]),
    Independent([Normal(0.0, 1.0), Uniform(0.0, 2.0), Beta(2.0, 2.0), VonMises(0.0, 1.0)], (2, 2)),
    Independent([Poisson(3.0), CountHistogram([0, 5], [1.0])]),
    FactorNormal([[0.0, 1.0]], [[1.0, 0.0], [0.5, 2.0]]),
    SPLINED,
]


@pytest.mark.parametrize("distribution", EACH, ids=repr)
class TestEach:
    def test_draws_have_the_shape_the_support_and_the_moments(self, distribution):
        rng = np.random.default_rng(1)
        draws = [distribution.sample(rng) for _ in range(20_000)]
        assert np.shape(draws[0]) == distribution.shape
        assert distribution.shape or type(draws[0]) is (int if distribution.is_discrete else float)
        assert all(math.isfinite(distribution.log_prob(draw)) for draw in draws[:500])
        low, high = distribution.support
        assert (np.array(draws) >= low).all()
        assert (np.array(draws) <= high).all()
        error = 5.0 * np.asarray(distribution.stddev) / math.sqrt(len(draws))
        assert (np.abs(np.mean(draws, axis=0) - distribution.mean) < error).all()
        np.testing.assert_allclose(np.var(draws, axis=0), distribution.variance, rtol=0.1)

    def test_it_is_equal_to_its_copies_and_not_to_another(self, distribution):
        again = pickle.loads(pickle.dumps(distribution))
        assert again == distribution == copy.copy(distribution)
        assert hash(again) == hash(distribution)
        assert distribution != Normal(0.0, 1.0)
        np.testing.assert_array_equal(again.parameters(), distribution.parameters())

    def test_no_store_takes_it_for_a_prior(self, distribution):
        assert distribution.family.partition("(")[0] not in FAMILIES


def test_a_count_histogram_spreads_its_mass_evenly_inside_an_interval():
    histogram = CountHistogram([2, 4, 10], [1.0, 3.0])
    mass = [math.exp(histogram.log_prob(count)) for count in range(12)]
    np.testing.assert_allclose(mass, [0, 0] + [0.125] * 2 + [0.125] * 6 + [0, 0])
    assert histogram.log_prob(2.5) == -math.inf
    assert histogram.log_prob(math.nan) == -math.inf


def test_draws_of_a_count_histogram_reach_both_ends_of_an_interval():
    rng = np.random.default_rng(2)
    histogram = CountHistogram([5, 8, 9], [0.5, 0.5])
    assert {histogram.sample(rng) for _ in range(200)} == {5, 6, 7, 8}


def test_a_factor_normal_is_the_multivariate_normal_of_its_covariance():
    factor = np.array([[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [-1.0, 0.3, 0.1]])
    expected = MultivariateNormal([1.0, 2.0, 3.0], factor @ factor.T)
    found = FactorNormal([1.0, 2.0, 3.0], factor)
    for value in np.random.default_rng(3).normal(size=(5, 3)):
        assert found.log_prob(value) == pytest.approx(expected.log_prob(value))
    assert found.log_prob([math.nan, 0.0, 0.0]) == -math.inf
    assert found.log_prob([0.0, math.inf, 0.0]) == -math.inf


def test_a_long_factor_normal_is_scored_like_a_short_one():
    factor = np.tril(np.random.default_rng(4).normal(size=(12, 12)))
    np.fill_diagonal(factor, np.arange(1.0, 13.0))
    found = FactorNormal(np.arange(12.0), factor)
    value = np.random.default_rng(5).normal(size=12)
    assert found.log_prob(value) == pytest.approx(
        MultivariateNormal(np.arange(12.0), factor @ factor.T).log_prob(value)
    )
    value[3] = math.inf
    assert found.log_prob(value) == -math.inf


def test_independent_elements_add_their_log_probs():
    product = Independent([Normal(0.0, 1.0), Uniform(0.0, 2.0)])
    expected = Normal(0.0, 1.0).log_prob(0.3) + Uniform(0.0, 2.0).log_prob(1.0)
    assert product.log_prob([0.3, 1.0]) == pytest.approx(expected)
    assert product.log_prob([0.3, 3.0]) == -math.inf


def test_a_splined_density_integrates_to_one():
    def density(x):
        return math.exp(SPLINED.log_prob(x))

    marks = np.linspace(0.0, 80.0, 200)
    total = sum(integrate.quad(density, low, high)[0] for low, high in pairwise(marks.tolist()))
    assert total == pytest.approx(1.0, abs=1e-7)


def test_a_straight_spline_leaves_the_prior():
    straight = Splined(Normal(1.0, 2.0), [0.25, 0.75], [0.25, 0.75], [1.0, 1.0, 1.0])
    assert straight.log_prob(0.3) == pytest.approx(Normal(1.0, 2.0).log_prob(0.3))
    assert (straight.mean, straight.variance) == pytest.approx((1.0, 4.0), rel=1e-2)


WRONG = [
    (lambda: CountHistogram([0, 1], [0.5, 0.5]), "one more than its weights"),
    (lambda: CountHistogram([0, 1.5], [1.0]), "increasing whole numbers"),
    (lambda: CountHistogram([1, 1], [1.0]), "increasing whole numbers"),
    (lambda: CountHistogram([0, 2.0**60], [1.0]), "increasing whole numbers"),
    (lambda: CountHistogram([0, math.nan], [1.0]), "increasing whole numbers"),
    (lambda: Independent([]), "at least one and fill the shape"),
    (lambda: Independent([Normal(0.0, 1.0)], (2,)), "at least one and fill the shape"),
    (lambda: Independent([Normal(0.0, 1.0), Poisson(1.0)]), "all discrete or all continuous"),
    (lambda: Independent([Normal([0.0], 1.0)]), "must be scalar"),
    (lambda: FactorNormal([0.0], [1.0]), r"shape \(d, d\)"),
    (lambda: FactorNormal([], np.empty((0, 0))), r"shape \(d, d\)"),
    (lambda: FactorNormal([0.0, 1.0], np.ones((2, 2))), "lower triangular"),
    (lambda: FactorNormal([0.0, 1.0], np.diag([1.0, 0.0])), "positive diagonal"),
    (lambda: FactorNormal([0.0, math.inf], np.eye(2)), "must be finite"),
    (lambda: Splined(Poisson(1.0), [1.0], [1.0], [1.0, 1.0]), "exact distribution function; got Poisson"),
    (lambda: Splined(Normal(0.0, 1.0), [1.0], [0.5, 0.5], [1.0, 1.0]), "equally many"),
    (lambda: Splined(Normal(0.0, 1.0), [1.0, 0.0], [0.5, 0.5], [1.0, 1.0, 1.0]), "positive and finite"),
    (lambda: Splined(Normal(0.0, 1.0), [1.0], [1.0], [1.0, math.inf]), "positive and finite"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_parameters_are_refused(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()
