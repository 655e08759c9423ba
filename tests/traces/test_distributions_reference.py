"""Log probabilities and moments against scipy, and against quadrature where scipy has nothing as accurate."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, special, stats

from tests.traces.distribution_cases import CONTINUOUS, DISCRETE, SCALAR, case_id
from tracestore.traces.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
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


def inner_grid(distribution, num_points):
    """Points inside the support, out to eight standard deviations."""
    low, high = distribution.support
    reach = 8.0 * distribution.stddev
    first, last = max(low, distribution.mean - reach), min(high, distribution.mean + reach)
    return np.linspace(first, last, num_points + 2)[1:-1]


def peaks(distribution):
    """Where a quadrature must look closely: kinks and steps."""
    low, high = distribution.support
    points = {distribution.mean, *getattr(distribution, "edges", [])}
    for component in getattr(distribution, "components", ()):
        points |= peaks(component) | set(component.support)
    return {point for point in points if low < point < high and math.isfinite(point)}


@pytest.mark.parametrize("case", [case for case in CONTINUOUS if case.reference], ids=case_id)
def test_log_density_agrees_with_scipy(case):
    grid = inner_grid(case.distribution, 41)
    expected = case.reference.logpdf(grid)
    found = [case.distribution.log_prob(x) for x in grid.tolist()]
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", [case for case in DISCRETE if case.reference], ids=case_id)
def test_log_mass_agrees_with_scipy(case):
    values = np.unique(np.round(inner_grid(case.distribution, 40)))
    found = [case.distribution.log_prob(x) for x in values.tolist()]
    np.testing.assert_allclose(found, case.reference.logpmf(values), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", [case for case in SCALAR if case.reference], ids=case_id)
def test_moments_agree_with_scipy(case):
    assert case.distribution.mean == pytest.approx(case.reference.mean(), rel=1e-7, abs=1e-9)
    assert case.distribution.variance == pytest.approx(case.reference.var(), rel=1e-6)
    assert case.distribution.stddev == math.sqrt(case.distribution.variance)


@pytest.mark.parametrize("case", CONTINUOUS, ids=case_id)
def test_density_integrates_to_one_and_to_the_moments(case):
    distribution = case.distribution
    low, high = distribution.support
    marks = [low, *sorted(peaks(distribution)), high]
    totals = np.zeros(3)
    for first, last in pairwise(marks):
        for power in range(3):
            totals[power] += integrate.quad(
                lambda x, power=power: x**power * math.exp(distribution.log_prob(x)),
                first,
                last,
                epsabs=1e-11,
                limit=200,
            )[0]
    assert totals[0] == pytest.approx(1.0, abs=1e-7)
    assert totals[1] == pytest.approx(distribution.mean, rel=1e-6, abs=1e-7)
    assert totals[2] - totals[1] ** 2 == pytest.approx(distribution.variance, rel=1e-5)


@pytest.mark.parametrize("case", DISCRETE, ids=case_id)
def test_mass_sums_to_one_and_to_the_moments(case):
    distribution = case.distribution
    low, high = distribution.support
    last = min(high, distribution.mean + 20.0 * distribution.stddev + 20.0)
    first = max(low, distribution.mean - 20.0 * distribution.stddev - 20.0)
    values = np.arange(math.floor(first), math.floor(last) + 1.0)
    mass = np.exp([distribution.log_prob(x) for x in values.tolist()])
    assert mass.sum() == pytest.approx(1.0, abs=1e-8)
    assert (mass * values).sum() == pytest.approx(distribution.mean, rel=1e-8)
    assert (mass * (values - distribution.mean) ** 2).sum() == pytest.approx(distribution.variance, rel=1e-8)


@pytest.mark.parametrize("distance", [0.1, 1.0, 4.9, 5.1, 10.0, 14.9, 15.1, 36.0, 1e3, 1e6])
@pytest.mark.parametrize("side", [1.0, -1.0], ids=["above", "below"])
@pytest.mark.parametrize("width", [1e-9, 1e-3, 1.0, math.inf])
def test_truncated_normal_far_from_its_mean(distance, side, width):
    bounds = sorted([side * distance, side * (distance + width)])
    far = TruncatedNormal(0.0, 1.0, *bounds)
    span = abs(bounds[1] - bounds[0])

    def density(t):
        return math.exp(-t * (distance + 0.5 * t))

    reach = min(span, 80.0 / (distance + math.sqrt(distance**2 + 80.0)))
    mass = integrate.quad(density, 0.0, reach, epsrel=1e-12)[0]
    mean = integrate.quad(lambda t: t * density(t), 0.0, reach, epsabs=0.0, epsrel=1e-12)[0] / mass
    at_bound = far.log_prob(side * distance)
    assert at_bound == pytest.approx(-math.log(mass), abs=1e-11)
    inside = side * (distance + 0.5 * min(span, 1.0 / distance))
    t = abs(inside) - distance  # as rounded by the spacing of floats there
    assert far.log_prob(inside) - at_bound == pytest.approx(-t * (distance + 0.5 * t), rel=1e-3, abs=1e-12)
    assert abs(far.mean - side * distance) == pytest.approx(mean, rel=1e-3, abs=2.0 * math.ulp(distance))
    rng = np.random.default_rng(1)
    draws = np.array([far.sample(rng) for _ in range(400)])
    assert ((draws >= bounds[0]) & (draws <= bounds[1])).all()
    if width > 1e-6:
        offsets = np.abs(draws - side * distance)
        assert offsets.mean() == pytest.approx(mean, rel=0.25)


@pytest.mark.parametrize(
    "parameters",
    [
        (0.0, 1e-300, 1.0, 2.0),
        (0.0, 5e-324, 1.0, 2.0),
        (0.0, 5e-324, -2.0, -1.0),
        (0.5, 5e-324, 0.0, 1.0),
        (0.0, 1e-10, 1.0, 2.0),
        (0.0, 1e300, 1.0, 2.0),
        (1.5, 1e300, 1.0, 2.0),
        (1e308, 1.0, -1e308, 0.0),
        (0.0, 1.0, 1e200, math.inf),
        (0.0, 1.0, -1e308, 1e308),
        (1.0, 1e-3, 0.0, 1.0),
        (0.0, 1.0, 37.0, math.nextafter(37.0, 38.0)),
    ],
    ids=str,
)
def test_truncated_normal_at_extremes_stays_finite(parameters):
    extreme = TruncatedNormal(*parameters)
    low, high = extreme.support
    rng = np.random.default_rng(1)
    for _ in range(50):
        x = extreme.sample(rng)
        assert low <= x <= high
        assert math.isfinite(x)
        assert not math.isnan(extreme.log_prob(x))
    assert math.isfinite(extreme.mean)
    assert low <= extreme.mean <= high
    assert extreme.variance >= 0.0
    for x in (low, high):
        assert extreme.log_prob(x) < math.inf


def test_truncated_normal_that_is_flat_is_uniform():
    rng = np.random.default_rng(1)
    for flat in (TruncatedNormal(0.5, 1e20, 0.0, 1.0), TruncatedNormal(-5.0, 1e20, 0.0, 1.0)):
        assert flat.log_prob(0.3) == pytest.approx(0.0, abs=1e-12)
        assert flat.variance == pytest.approx(1.0 / 12.0)
        assert stats.kstest([flat.sample(rng) for _ in range(500)], "uniform").pvalue > 1e-3


@pytest.mark.parametrize("concentration", [0.0, 1e-9, 0.5, 5.0, 19.9, 24.9, 25.1, 100.0, 1e4])
def test_vonmises_of_any_concentration(concentration):
    angle = VonMises(0.0, concentration)
    expected = -math.log(2.0 * math.pi) - math.log(special.ive(0, concentration))
    assert angle.log_prob(0.0) == pytest.approx(expected, rel=1e-13, abs=1e-14)
    ratio = 1e-3 / math.sqrt(1.0 + concentration)
    drop = -concentration * 0.5 * ratio**2 * (1.0 - ratio**2 / 12.0)
    assert angle.log_prob(ratio) - angle.log_prob(0.0) == pytest.approx(drop, abs=1e-12)


@pytest.mark.parametrize("concentration", [1e8, 1e16, 1e300, 1.7e308])
def test_vonmises_of_large_concentration_is_normal(concentration):
    angle, normal = VonMises(0.3, concentration), Normal(0.3, 1.0 / math.sqrt(concentration))
    assert angle.log_prob(0.3) == pytest.approx(normal.log_prob(0.3), rel=1e-9)
    assert angle.variance == pytest.approx(normal.variance, rel=1e-6)
    assert angle.mean == pytest.approx(0.3)


def test_multivariate_normal_agrees_with_scipy():
    rng = np.random.default_rng(1)
    root = rng.normal(size=(4, 4))
    covariance = root @ root.T + 0.1 * np.eye(4)
    loc = rng.normal(size=4)
    prior, reference = MultivariateNormal(loc, covariance), stats.multivariate_normal(loc, covariance)
    for x in rng.normal(size=(10, 4)) * 3.0:
        assert prior.log_prob(x) == pytest.approx(reference.logpdf(x), rel=1e-10)
    np.testing.assert_array_equal(prior.mean, loc)
    np.testing.assert_allclose(prior.variance, np.diagonal(covariance))
    np.testing.assert_allclose(prior.stddev, np.sqrt(np.diagonal(covariance)))


def test_multivariate_normal_takes_rounding_for_symmetry():
    covariance = np.array([[1.0, 0.3], [0.3 + 1e-12, 1.0]])
    prior = MultivariateNormal([0.0, 0.0], covariance)
    np.testing.assert_array_equal(prior.covariance, prior.covariance.T)


def test_large_vector_agrees_with_scipy():
    rng = np.random.default_rng(1)
    loc = rng.random((20, 35, 35))
    value = (loc + rng.normal(size=loc.shape)).astype(np.float32)
    assert Normal(loc, 0.4).log_prob(value) == pytest.approx(stats.norm(loc, 0.4).logpdf(value).sum(), rel=1e-12)
    scale = 0.1 + rng.random(35)
    assert Normal(loc, scale).log_prob(value) == pytest.approx(stats.norm(loc, scale).logpdf(value).sum(), rel=1e-12)
    counts = rng.poisson(100.0 * loc)
    assert Poisson(100.0 * loc).log_prob(counts) == pytest.approx(
        stats.poisson(100.0 * loc).logpmf(counts).sum(), rel=1e-11
    )


def test_uniform_includes_both_bounds():
    assert Uniform(0.0, 2.0).log_prob(0.0) == Uniform(0.0, 2.0).log_prob(2.0) == -math.log(2.0)
    assert Uniform(0.0, [1.0, 2.0]).log_prob([1.0, 2.0]) == -math.log(2.0)


def test_degenerate_counts():
    assert Poisson(0.0).log_prob(0) == 0.0
    assert Poisson(0.0).log_prob(1) == -math.inf
    assert Poisson(0.0).sample(np.random.default_rng(1)) == 0
    assert Poisson([0.0, 1.0]).log_prob([0, 0]) == pytest.approx(-1.0)
    assert Poisson([0.0, 1.0]).log_prob([1, 0]) == -math.inf
    for certain in (Bernoulli(1.0), Binomial(1, 1.0)):
        assert (certain.log_prob(1), certain.log_prob(0)) == (0.0, -math.inf)
    for never in (Bernoulli(0.0), Binomial(1, 0.0)):
        assert (never.log_prob(0), never.log_prob(1)) == (0.0, -math.inf)
    assert Binomial(0, 0.5).log_prob(0) == 0.0
    assert Bernoulli([1.0, 0.0]).log_prob([1, 0]) == 0.0
    assert Bernoulli([1.0, 0.0]).log_prob([0, 0]) == -math.inf
    assert Binomial([2, 2], [1.0, 0.0]).log_prob([2, 0]) == pytest.approx(0.0, abs=1e-13)
    assert Binomial([2, 2], [1.0, 0.0]).log_prob([1, 0]) == -math.inf
    assert Bernoulli(0.25).log_prob(True) == math.log(0.25)


@pytest.mark.parametrize(
    "peaked", [Gamma(0.01, 1.0), Weibull(1.0, 0.01), Beta(0.01, 0.01), Beta(0.02, 0.01, -1e6, 1e6)]
)
def test_draws_at_infinite_densities_have_finite_log_prob(peaked):
    rng = np.random.default_rng(1)
    low, high = peaked.support
    draws = [peaked.sample(rng) for _ in range(300)]
    assert all(low < x < high for x in draws)
    assert all(math.isfinite(peaked.log_prob(x)) for x in draws)
    assert math.isfinite(peaked.log_prob(low))


@pytest.mark.parametrize("empty", [Gamma(2.0, 1.0), Weibull(1.0, 2.0), Beta(2.0, 1.0), LogNormal(0.0, 1.0)])
def test_densities_that_vanish_at_a_bound(empty):
    assert empty.log_prob(0.0) == -math.inf
    vector = type(empty)(*[[number] * 2 for number in empty.parameters()])
    assert vector.log_prob([0.0, 0.5]) == -math.inf


def test_lognormal_draws_stay_floats():
    rng = np.random.default_rng(1)
    wide = LogNormal(0.0, 1e4)
    assert all(0.0 < wide.sample(rng) < math.inf for _ in range(20))
    vector = LogNormal([0.0, 0.0], 1e4).sample(rng)
    assert ((vector > 0.0) & np.isfinite(vector)).all()


def test_categorical_logits_are_log_weights():
    logits = [1000.0, 1001.0, -math.inf]
    expected = special.softmax(logits)
    np.testing.assert_allclose(Categorical(logits=logits).probs, expected, rtol=1e-12)
    assert Categorical(logits=logits).log_prob(2) == -math.inf
    assert Categorical([2, 6]) == Categorical([0.25, 0.75])


def test_piecewise_uniform_by_hand():
    histogram = PiecewiseUniform([0.0, 1.0, 3.0, 4.0], [1.0, 2.0, 0.0])
    expected = {0.0: 1 / 3, 0.5: 1 / 3, 1.0: 1 / 3, 2.9: 1 / 3, 3.0: 0.0, 3.5: 0.0, 4.0: 0.0}
    for x, density in expected.items():
        assert math.exp(histogram.log_prob(x)) == pytest.approx(density)
    skewed = PiecewiseUniform([0.0, 1.0, 3.0], [0.5, 0.5])
    assert [round(math.exp(skewed.log_prob(x)), 12) for x in (0.0, 1.0, 3.0)] == [0.5, 0.25, 0.25]


def test_mixture_by_hand():
    parts = [Normal(0.0, 1.0), Uniform(0.0, 4.0), Normal(9.0, 1.0)]
    mixture = Mixture(parts, [1.0, 3.0, 0.0])
    np.testing.assert_array_equal(mixture.probs, [0.25, 0.75, 0.0])
    expected = 0.25 * math.exp(parts[0].log_prob(0.5)) + 0.75 * 0.25
    assert mixture.log_prob(0.5) == pytest.approx(math.log(expected), rel=1e-14)
    assert mixture.log_prob(-200.0) == pytest.approx(math.log(0.25) + parts[0].log_prob(-200.0), rel=1e-14)
    assert mixture.mean == pytest.approx(0.75 * 2.0)
    assert mixture.support == (-math.inf, math.inf)
    assert Mixture(parts[1:2], [1.0]).log_prob(5.0) == -math.inf
