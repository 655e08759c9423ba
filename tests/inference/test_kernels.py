"""Single-site kernels: proper densities, and moves that leave the prior invariant."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from tracestore.inference.kernels import propose, site_kernel
from tracestore.traces.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Distribution,
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
)

CONTINUOUS = {
    "normal": (Normal(1.0, 2.0), 0.4),
    "mixture": (Mixture([Normal(-2.0, 0.5), Normal(2.0, 1.0)], [0.3, 0.7]), 1.0),
    "uniform": (Uniform(-1.0, 3.0), -0.9),
    "beta": (Beta(2.0, 3.0), 0.2),
    "truncated": (TruncatedNormal(0.0, 1.0, -0.5, 2.0), 1.9),
    "von mises": (VonMises(0.3, 2.0), 3.0),
    "exponential": (Exponential(0.7), 0.5),
    "gamma": (Gamma(2.0, 1.5), 3.0),
    "log-normal": (LogNormal(0.2, 0.8), 1.1),
    "weibull": (Weibull(1.5, 2.0), 0.8),
    "histogram": (PiecewiseUniform([0.0, 0.5, 1.0, 3.0], [0.2, 0.5, 0.3]), 0.9),
    "half line from 1": (TruncatedNormal(0.0, 1.0, 1.0, math.inf), 1.3),
    "half line to 0": (TruncatedNormal(0.0, 1.0, -math.inf, 0.0), -0.1),
}
DISCRETE = {
    "poisson": Poisson(2.5),
    "large poisson": Poisson(30.0),
    "binomial": Binomial(6, 0.3),
    "bernoulli": Bernoulli(0.3),
    "categorical": Categorical([0.2, 0.5, 0.3]),
}


def metropolis(prior: Distribution, value: Any, rng: np.random.Generator, kernel_share: float) -> Any:
    """One step with the prior as the target: what remains of the ratio is the site's correction."""
    moved = propose(prior, value, prior.log_prob(value), rng, kernel_share=kernel_share, scale=1.0)
    accepts = moved.log_prob > -math.inf and math.log(rng.random()) < moved.correction
    return moved.value if accepts else value


@pytest.mark.parametrize("case", CONTINUOUS, ids=str)
def test_kernel_is_a_density_around_the_value(case: str) -> None:
    prior, value = CONTINUOUS[case]
    kernel = site_kernel(prior, value, 1.0)
    assert kernel is not None
    low, high = (max(prior.support[0], -40.0), min(prior.support[1], 40.0))
    if case.startswith("half"):
        low, high = -40.0, 40.0  # may leave the support, and is rejected then
    total, _ = integrate.quad(lambda x: math.exp(kernel.log_prob(x)), low, high, points=[value], limit=200)
    assert total == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("case", CONTINUOUS, ids=str)
def test_kernel_draws_what_it_scores(case: str) -> None:
    prior, value = CONTINUOUS[case]
    kernel = site_kernel(prior, value, 0.7)
    assert kernel is not None
    rng = np.random.default_rng(1)
    draws = np.array([kernel.sample(rng) for _ in range(2000)])
    low = -40.0 if case.startswith("half") else max(prior.support[0], -40.0)
    grid = np.linspace(low if low > -40.0 else draws.min() - 1.0, draws.max() + 1.0, 4001)
    inside = grid if case.startswith("half") else grid[(grid > prior.support[0]) & (grid < prior.support[1])]
    density = np.array([math.exp(kernel.log_prob(x)) for x in inside])
    cdf = integrate.cumulative_trapezoid(density, inside, initial=0.0)
    assert stats.kstest(draws, lambda x: np.interp(x, inside, cdf / cdf[-1])).pvalue > 0.001


@pytest.mark.statistical
@pytest.mark.parametrize("kernel_share", [0.5, 1.0])
@pytest.mark.parametrize("case", CONTINUOUS, ids=str)
def test_continuous_prior_is_invariant(case: str, kernel_share: float) -> None:
    prior, _ = CONTINUOUS[case]
    rng = np.random.default_rng(2)
    starts = [prior.sample(rng) for _ in range(3000)]
    moved = [metropolis(prior, metropolis(prior, value, rng, kernel_share), rng, kernel_share) for value in starts]
    fresh = [prior.sample(rng) for _ in range(20_000)]
    assert stats.ks_2samp(moved, fresh).pvalue > 0.001
    assert np.mean(np.array(moved) != np.array(starts)) > 0.3


@pytest.mark.statistical
@pytest.mark.parametrize("case", DISCRETE, ids=str)
def test_discrete_prior_is_invariant(case: str) -> None:
    prior = DISCRETE[case]
    rng = np.random.default_rng(3)
    moved = [metropolis(prior, prior.sample(rng), rng, 0.5) for _ in range(6000)]
    values, counts = np.unique(moved, return_counts=True)
    expected = np.array([math.exp(prior.log_prob(int(value))) for value in values]) * len(moved)
    common = expected > 5
    assert (
        stats.chisquare(counts[common], expected[common] * counts[common].sum() / expected[common].sum()).pvalue > 0.001
    )


def test_correction_is_that_of_the_mixture() -> None:
    prior = Uniform(0.0, 1.0)
    rng = np.random.default_rng(4)
    for value in (0.02, 0.5, 0.97):
        moved = propose(prior, value, prior.log_prob(value), rng, kernel_share=0.3, scale=2.0)
        forward, backward = site_kernel(prior, value, 2.0), site_kernel(prior, moved.value, 2.0)
        assert forward is not None
        assert backward is not None
        there = 0.3 * math.exp(forward.log_prob(moved.value)) + 0.7
        back = 0.3 * math.exp(backward.log_prob(value)) + 0.7
        assert moved.correction == pytest.approx(math.log(back / there))


def test_prior_proposal_needs_no_correction() -> None:
    moved = propose(Normal(0.0, 1.0), 3.0, -5.4, np.random.default_rng(5), kernel_share=0.0, scale=1.0)
    assert moved.correction == 0.0


@pytest.mark.parametrize("prior", [Bernoulli(0.5), Categorical([0.5, 0.5])], ids=["bernoulli", "categorical"])
def test_categories_have_no_neighbours(prior: Distribution) -> None:
    assert site_kernel(prior, 1, 1.0) is None


def test_a_count_never_goes_below_zero() -> None:
    prior = Poisson(0.1)
    rng = np.random.default_rng(6)
    moves = [propose(prior, 0, prior.log_prob(0), rng, kernel_share=1.0, scale=1.0) for _ in range(20)]
    assert {moved.log_prob == -math.inf for moved in moves} == {True, False}
    assert all(moved.value == 1 for moved in moves if moved.log_prob > -math.inf)


@pytest.mark.parametrize("size", [3, 4000])
def test_vectors_of_many_dimensions_do_not_underflow(size: int) -> None:
    prior = Normal(np.zeros(size), np.ones(size))
    rng = np.random.default_rng(7)
    value = prior.sample(rng)
    moved = propose(prior, value, prior.log_prob(value), rng, kernel_share=1.0, scale=0.1)
    assert np.shape(moved.value) == (size,)
    # the kernel is symmetric: the correction is the ratio of the prior densities
    assert moved.correction == pytest.approx(moved.log_prob - prior.log_prob(value), abs=1e-6 * size)
    assert abs(moved.correction) < 10.0


@pytest.mark.parametrize(
    "prior",
    [Uniform(np.zeros(3), np.ones(3)), Gamma(np.full(3, 2.0), np.ones(3))],
    ids=["bounded", "positive"],
)
def test_vector_kernels_stay_in_the_support(prior: Distribution) -> None:
    rng = np.random.default_rng(8)
    value = prior.sample(rng)
    moved = propose(prior, value, prior.log_prob(value), rng, kernel_share=1.0, scale=1.0)
    assert math.isfinite(moved.log_prob)
    assert math.isfinite(moved.correction)


def test_an_angle_goes_round() -> None:
    kernel = site_kernel(VonMises(0.0, 1.0), 3.1, 0.5)
    rng = np.random.default_rng(9)
    draws = np.array([kernel.sample(rng) for _ in range(400)])
    assert 0.3 < np.mean(draws < 0.0) < 0.6  # beyond pi, which is as near as below it
    assert kernel.log_prob(-3.1) > kernel.log_prob(2.9)


def test_correlated_steps_have_the_correlation_of_the_prior() -> None:
    prior = MultivariateNormal([0.0, 0.0], [[1.0, 0.9], [0.9, 1.0]])
    value = np.array([0.5, -0.5])
    kernel = site_kernel(prior, value, 1.0)
    rng = np.random.default_rng(10)
    draws = np.array([kernel.sample(rng) for _ in range(4000)])
    assert np.corrcoef(draws.T)[0, 1] == pytest.approx(0.9, abs=0.02)
    np.testing.assert_allclose(draws.mean(axis=0), value, atol=0.05)
    there = stats.multivariate_normal.logpdf([1.0, 0.2], value, prior.covariance / 2)
    assert kernel.log_prob(np.array([1.0, 0.2])) == pytest.approx(there)


def test_steps_of_a_count_reach_its_standard_deviation() -> None:
    prior = Poisson(900.0)
    kernel = site_kernel(prior, 900, 1.0)
    rng = np.random.default_rng(11)
    draws = np.array([kernel.sample(rng) for _ in range(2000)]) - 900
    assert set(np.abs(draws)) == set(range(1, 31))
    assert kernel.log_prob(930) == pytest.approx(math.log(1 / 60))
    assert kernel.log_prob(931) == kernel.log_prob(900) == -math.inf


VECTORS = {
    "normal": Normal([0.0, 1.0], [1.0, 2.0]),
    "correlated": MultivariateNormal([0.0, 1.0], [[1.0, 0.8], [0.8, 1.0]]),
    "bounded": Uniform([0.0, 1.0], [1.0, 3.0]),
    "bounds of their own": TruncatedNormal(0.0, 1.0, [-1.0, 0.5], [1.0, math.inf]),
    "positive": Gamma([2.0, 0.7], [1.0, 1.0]),
    "angles": VonMises([3.0, 0.0], [2.0, 0.5]),
    "mixture": Mixture([Normal([-2.0, 0.0], 0.5), Normal([2.0, 1.0], 1.0)], [0.3, 0.7]),
}


@pytest.mark.statistical
@pytest.mark.parametrize("kernel_share", [0.5, 1.0])
@pytest.mark.parametrize("case", VECTORS, ids=str)
def test_vector_prior_is_invariant(case: str, kernel_share: float) -> None:
    prior = VECTORS[case]
    rng = np.random.default_rng(12)
    starts = [prior.sample(rng) for _ in range(2000)]
    moved = np.array([metropolis(prior, metropolis(prior, v, rng, kernel_share), rng, kernel_share) for v in starts])
    fresh = np.array([prior.sample(rng) for _ in range(10_000)])
    for feature in (lambda x: x[:, 0], lambda x: x[:, 1], lambda x: x[:, 0] * x[:, 1]):
        assert stats.ks_2samp(feature(moved), feature(fresh)).pvalue > 0.001
    assert np.mean((moved != np.array(starts)).any(axis=1)) > 0.3


def test_a_value_that_scores_nan_is_outside() -> None:
    class Odd(Normal):
        def log_prob(self, value: Any) -> float:
            return math.nan

    moved = propose(Odd(0.0, 1.0), 0.3, -1.0, np.random.default_rng(13), kernel_share=0.5, scale=1.0)
    assert moved.log_prob == -math.inf
