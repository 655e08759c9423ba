"""Many draws at once agree with the distribution of each row."""

import math

import numpy as np
import pytest

from tests.traces.distribution_cases import CASES
from tracestore.errors import InvalidInputError
from tracestore.traces.distributions import (
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
from tracestore.traces.distributions.row_categorical import CategoricalRows
from tracestore.traces.distributions.row_draws import Rows, is_vectorized

N = 60
RNG = np.random.default_rng(5)
ONE, TWO = RNG.uniform(0.5, 3.0, (2, N))
ROWWISE = {
    "normal": Normal(ONE, TWO),
    "normal-constant-scale": Normal(ONE, 2.0),
    "uniform": Uniform(-ONE, TWO),
    "beta": Beta(ONE, TWO, -1.0, ONE),
    "exponential": Exponential(ONE),
    "gamma": Gamma(ONE, TWO),
    "lognormal": LogNormal(ONE, TWO),
    "weibull": Weibull(ONE, TWO),
    "truncated": TruncatedNormal(ONE, TWO, 0.0, 3.0 * TWO),
    "vonmises": VonMises(ONE, TWO),
    "poisson": Poisson(ONE),
    "bernoulli": Bernoulli(ONE / 4.0),
    "binomial": Binomial(7, ONE / 4.0),
    "categorical": CategoricalRows(np.stack([ONE, TWO, np.zeros(N)], axis=1)),
    "mixture": Mixture([Normal(ONE, 1.0), Uniform(-TWO, ONE)], [0.3, 0.7]),
    "normal-vector": Normal(np.stack([ONE, TWO], axis=1), [1.0, 2.0]),
    "normal-one-row": Normal(np.array([[0.0, 5.0, 9.0]]), 1.0),
    "gamma-vector": Gamma(np.stack([ONE, TWO], axis=1), 2.0),
    "truncated-vector": TruncatedNormal(np.stack([ONE, TWO], axis=1), 1.0, 0.0, 2.0),
    "truncated-one-row": TruncatedNormal(np.zeros((1, 2)), 1.0, [[0.0, 8.0]], 9.0),
    "poisson-vector": Poisson(np.stack([ONE, TWO], axis=1)),
    "mixture-vector": Mixture([Normal(np.zeros((1, 2)), 1.0), Uniform(np.full((1, 2), -9.0), 9.0)], [0.5, 0.5]),
}
WHOLE = {case.id: case.distribution for case in CASES if not case.distribution.shape or case.id == "multivariate"}
ALL = {**ROWWISE, **{f"whole-{name}": prior for name, prior in WHOLE.items()}}
TERMS_CANCEL = {"whole-poisson-large": 1e-9}
"""Absolute tolerance where terms of 4e5 make a log probability of 6."""
OUTSIDE = (-1e300, -3.5, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0, 1e300, math.inf, -math.inf, math.nan)


def each_row(prior, num_rows):
    """The distribution of every row, from its own parameters."""
    rows = Rows.of(prior, num_rows)
    table = np.concatenate([np.broadcast_to(part, (num_rows, part.shape[1])) for part in rows.parameters()], axis=1)
    return [from_parameters(rows.first.structure, row, rows.shape) for row in table]


@pytest.mark.parametrize("name", ALL)
def test_log_probs_are_those_of_the_rows(name):
    rows = Rows.of(ALL[name], N)
    values = rows.sample(np.random.default_rng(1))
    singles = [one.log_prob(value) for one, value in zip(each_row(ALL[name], N), values, strict=True)]
    np.testing.assert_allclose(rows.log_prob(values), singles, rtol=1e-13, atol=TERMS_CANCEL.get(name, 1e-12))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("number", OUTSIDE)
def test_log_probs_of_odd_values_are_those_of_the_rows(name, number):
    rows = Rows.of(ALL[name], N)
    values = np.full((N, *rows.shape), number)
    singles = [
        one.log_prob(value if rows.shape else float(value))
        for one, value in zip(each_row(ALL[name], N), values, strict=True)
    ]
    np.testing.assert_allclose(rows.log_prob(values), singles, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("name", ALL)
def test_first_row_is_the_distribution_of_one_trace(name):
    rows = Rows.of(ALL[name], N)
    assert rows.first == each_row(ALL[name], N)[0]
    assert rows.first.shape == rows.shape


@pytest.mark.statistical
@pytest.mark.parametrize("name", ALL)
def test_draws_have_the_moments_of_their_rows(name):
    prior, repeats = ALL[name], 400
    rng = np.random.default_rng(2)
    rows = Rows.of(prior, N)
    draws = np.stack([rows.sample(rng) for _ in range(repeats)]).astype(float)
    singles = each_row(prior, N)
    mean = np.array([one.mean for one in singles])
    spread = np.array([one.stddev for one in singles])
    finite = np.isfinite(spread) & (spread > 0.0)
    scores = (draws.mean(axis=0) - mean)[finite] / spread[finite] * math.sqrt(repeats)
    assert np.abs(scores).max() < 6.0
    assert abs(np.mean(scores)) < 6.0 / math.sqrt(scores.size)
    assert np.isfinite(rows.log_prob(rows.sample(rng))).all()


@pytest.mark.parametrize("name", ALL)
def test_whole_numbers_stay_whole_numbers(name):
    rows = Rows.of(ALL[name], N)
    values = rows.sample(np.random.default_rng(3))
    assert values.shape == (N, *rows.shape)
    assert values.dtype == (np.int64 if rows.prior.is_discrete and not rows.shape else np.float64)


@pytest.mark.parametrize(
    "prior", [Normal(np.zeros(3), 1.0), Normal(np.zeros((3, 4)), 1.0), CategoricalRows([[1.0]] * 3)]
)
def test_another_first_axis_is_refused(prior):
    with pytest.raises(InvalidInputError, match=r"first axis of a prior is the trace axis.*got .*\(3"):
        Rows.of(prior, 4)


def test_vectors_with_correlations_have_no_trace_axis():
    rows = Rows.of(MultivariateNormal(np.zeros(N), np.eye(N)), N)
    assert rows.shape == (N,)


def test_values_of_another_shape_are_refused():
    with pytest.raises(InvalidInputError, match="must have shape"):
        Rows.of(Normal(0.0, 1.0), 4).log_prob(np.zeros(3))


def test_what_is_vectorized_is_told():
    assert is_vectorized(PiecewiseUniform([0.0, 1.0], [1.0]))
    assert is_vectorized(Mixture([Normal(0.0, 1.0), Uniform(0.0, 1.0)], [1.0, 1.0]))
    assert not is_vectorized(Mixture([TruncatedNormal(0.0, 1.0, 0.0, 1.0)], [1.0]))


def test_draws_do_not_depend_on_the_size_of_blocks(monkeypatch):
    from tracestore.traces.distributions import row_draws

    rows = Rows.of(Normal(np.arange(100.0), 1.0), 100)
    whole = rows.sample(np.random.default_rng(1))
    monkeypatch.setattr(row_draws, "ELEMENTS_AT_ONCE", 7)
    assert np.array_equal(rows.sample(np.random.default_rng(1)), whole)
    assert np.array_equal(rows.log_prob(whole), rows.log_prob(whole))


@pytest.mark.parametrize(
    ("weights", "found"),
    [([1.0, 2.0], "shape"), ([[1.0, -1.0]], "row 0"), ([[1.0, 1.0], [0.0, 0.0]], "row 1"), ([[math.nan]], "row 0")],
)
def test_weights_that_make_no_distribution_are_refused(weights, found):
    with pytest.raises(InvalidInputError, match=found):
        CategoricalRows(weights)


def test_categories_are_drawn_in_proportion():
    draws = Categorical([0.2, 0.0, 0.8])
    values = Rows.of(draws, 20_000).sample(np.random.default_rng(1))
    counts = np.bincount(values, minlength=3)
    assert counts[1] == 0
    assert abs(counts[0] / 20_000 - 0.2) < 0.02
