"""Draws follow the log probabilities that are reported for them."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, stats

from tests.traces.distribution_cases import CONTINUOUS, DISCRETE, VECTOR, case_id
from tests.traces.test_distributions import elements
from tests.traces.test_distributions_reference import peaks
from tracestore.traces.distributions import (
    Binomial,
    Categorical,
    Gamma,
    LogNormal,
    Mixture,
    MultivariateNormal,
    PiecewiseUniform,
    Poisson,
    Uniform,
    Weibull,
)

pytestmark = pytest.mark.statistical

NUM_BINS = 20
SMALLEST_P = 1e-4


def chi_square_p(counts, probabilities):
    """p-value of bin counts, bins of few expected counts joined."""
    counts, probabilities = np.asarray(counts, float), np.asarray(probabilities)
    assert counts[probabilities == 0.0].sum() == 0
    expected = probabilities / probabilities.sum() * counts.sum()
    rare = expected < 5.0
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 5.0:
        counts[-2] += counts[-1]
        expected[-2] += expected[-1]
        counts, expected = counts[:-1], expected[:-1]
    return stats.chisquare(counts, expected).pvalue if len(counts) > 1 else 1.0


def continuous_p(distribution, draws):
    """p-value of draws against the integral of the density over bins made from the first half of them."""
    first, second = np.split(np.asarray(draws), 2)
    low, high = distribution.support
    edges = [low, *np.unique(np.quantile(first, np.linspace(0.0, 1.0, NUM_BINS + 1)[1:-1])), high]
    probabilities = []
    for start, stop in pairwise(edges):
        marks = [start, *sorted(point for point in peaks(distribution) if start < point < stop), stop]
        parts = pairwise(marks)
        probabilities.append(
            sum(integrate.quad(lambda x: math.exp(distribution.log_prob(x)), *part)[0] for part in parts)
        )
    assert sum(probabilities) == pytest.approx(1.0, abs=1e-6)
    counts = np.histogram(second, [-np.inf, *edges[1:-1], np.inf])[0]
    return chi_square_p(counts, probabilities)


def discrete_p(distribution, draws):
    """p-value of draws against the mass of each whole number that they reach, and of all others together."""
    values = np.arange(min(draws), max(draws) + 1)
    mass = np.exp([distribution.log_prob(float(x)) for x in values])
    counts = np.bincount(np.asarray(draws, int) - int(values[0]), minlength=len(values))
    return chi_square_p(np.append(counts, 0), np.append(mass, max(1.0 - mass.sum(), 1e-300)))


@pytest.mark.parametrize("case", CONTINUOUS, ids=case_id)
def test_continuous_draws_follow_their_density(case):
    rng = np.random.default_rng(11)
    draws = [case.distribution.sample(rng) for _ in range(4000)]
    assert continuous_p(case.distribution, draws) > SMALLEST_P


@pytest.mark.parametrize("case", DISCRETE, ids=case_id)
def test_discrete_draws_follow_their_mass(case):
    rng = np.random.default_rng(12)
    draws = [case.distribution.sample(rng) for _ in range(4000)]
    assert discrete_p(case.distribution, draws) > SMALLEST_P


@pytest.mark.parametrize(
    "case",
    [case for case in VECTOR if not isinstance(case.distribution, Mixture | MultivariateNormal)],
    ids=case_id,
)
def test_elements_of_vector_draws_follow_their_own_distribution(case):
    rng = np.random.default_rng(13)
    draws = np.array([case.distribution.sample(rng).ravel() for _ in range(2000)])
    for part, column in zip(elements(case.distribution), draws.T, strict=True):
        p = (discrete_p if part.is_discrete else continuous_p)(part, column.tolist())
        assert p > SMALLEST_P


def test_elements_of_vector_draws_are_independent():
    rng = np.random.default_rng(14)
    draws = np.array([Uniform([0.0, 0.0], 1.0).sample(rng) for _ in range(4000)])
    assert abs(np.corrcoef(draws.T)[0, 1]) < 5.0 / math.sqrt(4000)


def test_multivariate_draws_are_white_after_decorrelation():
    prior = MultivariateNormal([1.0, -1.0], [[1.0, 0.6], [0.6, 2.0]])
    rng = np.random.default_rng(15)
    draws = np.array([prior.sample(rng) for _ in range(3000)])
    white = np.linalg.solve(np.linalg.cholesky(prior.covariance), (draws - prior.loc).T)
    assert stats.kstest((white**2).sum(axis=0), stats.chi2(2).cdf).pvalue > SMALLEST_P
    for row in white:
        assert stats.kstest(row, "norm").pvalue > SMALLEST_P


def test_vector_mixture_draws_all_elements_from_one_component():
    far_apart = Mixture([Uniform([0.0, 0.0], 1.0), Uniform([10.0, 10.0], 11.0)], [0.25, 0.75])
    rng = np.random.default_rng(16)
    draws = np.array([far_apart.sample(rng) for _ in range(1000)])
    upper = draws > 5.0
    assert (upper[:, 0] == upper[:, 1]).all()
    assert upper[:, 0].mean() == pytest.approx(0.75, abs=5.0 * math.sqrt(0.25 * 0.75 / 1000))


class FixedUniform:
    """A generator whose uniform numbers are given."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self):
        return self.numbers.pop(0)


def fixed(*numbers):
    return FixedUniform(*numbers)


LAST = 1.0 - 2.0**-53


@pytest.mark.parametrize("probs", [[0.0, 1.0, 0.0], [0.0, 0.1, 0.2, 0.7, 0.0], [0.0, *[1 / 7] * 7, 0.0]])
@pytest.mark.parametrize("uniform", [0.0, 0.5, LAST])
def test_weights_of_zero_are_never_drawn(probs, uniform):
    assert probs[Categorical(probs).sample(fixed(uniform))] > 0.0
    histogram = PiecewiseUniform(np.arange(len(probs) + 1), probs)
    for inner in (0.0, LAST):
        assert math.isfinite(histogram.log_prob(histogram.sample(fixed(uniform, inner))))


@pytest.mark.parametrize("case", [case for case in CONTINUOUS if "truncated" in case.id], ids=case_id)
@pytest.mark.parametrize("uniform", [0.0, 2.0**-53, 0.5, LAST])
def test_truncated_draws_of_extreme_uniforms_are_finite_and_inside(case, uniform):
    low, high = case.distribution.support
    x = case.distribution.sample(fixed(uniform))
    assert math.isfinite(x)
    assert low <= x <= high
    assert math.isfinite(case.distribution.log_prob(x))


@pytest.mark.parametrize("case", [case for case in CONTINUOUS if "truncated" in case.id], ids=case_id)
def test_truncated_draws_are_quantiles(case):
    grid = np.linspace(0.01, 0.99, 15)
    draws = np.array([case.distribution.sample(fixed(u)) for u in grid])
    found = case.reference.cdf(draws)
    # the tail is drawn from the bound that is nearer to the mean
    if found[0] > found[-1]:
        found = 1.0 - found
    np.testing.assert_allclose(found, grid, atol=2e-9)


@pytest.mark.parametrize(
    ("distribution", "value"),
    [
        (Gamma([1.0, 1.0], 1.0), 0.0),
        (Weibull([1.0, 1.0], 1.0), 0.0),
        (LogNormal([0.0, 0.0], 1.0), 3.0),
        (Poisson([1.0, 1.0]), 2.0**24),
        (Binomial([2.0**30, 2.0**30], 0.5), 2.0**24),
    ],
    ids=lambda given: getattr(given, "family", None),
)
def test_values_in_single_precision_have_the_log_prob_of_the_same_numbers(distribution, value):
    values = np.full(2, value)
    assert distribution.log_prob(values.astype(np.float32)) == pytest.approx(distribution.log_prob(values), rel=1e-14)
