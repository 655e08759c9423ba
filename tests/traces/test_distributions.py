"""What holds for every family: the interface, values of every kind, immutability, equality, text, pickles, errors."""

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

from tests.traces.distribution_cases import CASES, CONTINUOUS, DISCRETE, SCALAR, VECTOR, case_id
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
)


def elements(distribution):
    """Scalar distributions of the elements of a vector-valued one."""
    values = {name: np.broadcast_to(arg, distribution.shape).ravel() for name, arg in distribution.arguments().items()}
    count = math.prod(distribution.shape)
    return [type(distribution)(**{name: row[i].item() for name, row in values.items()}) for i in range(count)]


INDEPENDENT = [case for case in VECTOR if not isinstance(case.distribution, Mixture | MultivariateNormal)]


def test_cases_cover_every_family():
    assert {case.distribution.family.partition("(")[0] for case in CASES} == set(FAMILIES)


@pytest.mark.parametrize("case", SCALAR, ids=case_id)
def test_scalar_draws_are_python_numbers_with_finite_log_prob(case):
    rng = np.random.default_rng(1)
    distribution = case.distribution
    low, high = distribution.support
    for _ in range(200):
        value = distribution.sample(rng)
        assert type(value) is (int if distribution.is_discrete else float)
        assert low <= value <= high
        log_prob = distribution.log_prob(value)
        assert type(log_prob) is float
        assert math.isfinite(log_prob)


@pytest.mark.parametrize("case", VECTOR, ids=case_id)
def test_vector_draws_are_float64_arrays_with_finite_log_prob(case):
    rng = np.random.default_rng(1)
    distribution = case.distribution
    low, high = distribution.support
    for _ in range(20):
        value = distribution.sample(rng)
        assert isinstance(value, np.ndarray)
        assert (value.dtype, value.shape) == (np.float64, distribution.shape)
        assert ((low <= value) & (value <= high)).all()
        log_prob = distribution.log_prob(value)
        assert type(log_prob) is float
        assert math.isfinite(log_prob)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_same_state_of_the_generator_gives_the_same_draw(case):
    first, second = (case.distribution.sample(np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("case", INDEPENDENT, ids=case_id)
def test_vector_log_prob_is_the_sum_over_elements(case):
    rng = np.random.default_rng(2)
    parts = elements(case.distribution)
    for _ in range(5):
        value = case.distribution.sample(rng)
        expected = sum(part.log_prob(number) for part, number in zip(parts, value.ravel().tolist(), strict=True))
        assert case.distribution.log_prob(value) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("case", INDEPENDENT, ids=case_id)
def test_vector_moments_are_those_of_elements(case):
    parts = elements(case.distribution)
    for name in ("mean", "variance", "stddev"):
        moments = getattr(case.distribution, name)
        assert moments.shape == case.distribution.shape
        np.testing.assert_allclose(moments.ravel(), [getattr(part, name) for part in parts], rtol=1e-12)


@pytest.mark.parametrize("case", [case for case in VECTOR if math.prod(case.distribution.shape)], ids=case_id)
def test_one_bad_element_makes_the_log_prob_minus_infinity(case):
    value = case.distribution.sample(np.random.default_rng(3))
    for bad in (math.nan, math.inf, -math.inf):
        broken = value.copy()
        broken.flat[-1] = bad
        assert case.distribution.log_prob(broken) == -math.inf
    low, high = case.distribution.support
    for bad in (low - 1.0, high + 1.0):
        if math.isfinite(bad):
            broken = value.copy()
            broken.flat[0] = bad
            assert case.distribution.log_prob(broken) == -math.inf


@pytest.mark.parametrize("case", SCALAR, ids=case_id)
def test_outside_the_support_is_minus_infinity(case):
    low, high = case.distribution.support
    beyond = [math.nan, math.inf, -math.inf, low - 1e-9 * max(abs(low), 1.0), high + 1e-9 * max(abs(high), 1.0)]
    for value in beyond:
        assert case.distribution.log_prob(value) == -math.inf


@pytest.mark.parametrize("case", SCALAR, ids=case_id)
@pytest.mark.parametrize("value", [10**400, -(10**400), 1e308, -1e308], ids=["10^400", "-10^400", "1e308", "-1e308"])
def test_enormous_values_do_not_raise(case, value):
    assert case.distribution.log_prob(value) < -1e5


@pytest.mark.parametrize("case", DISCRETE, ids=case_id)
def test_fractions_have_no_mass(case):
    assert case.distribution.log_prob(0.5) == -math.inf
    assert case.distribution.log_prob(1.0 + 1e-9) == -math.inf


@pytest.mark.parametrize("case", SCALAR, ids=case_id)
def test_numbers_of_every_kind_score_alike(case):
    value = case.distribution.sample(np.random.default_rng(4))
    expected = case.distribution.log_prob(float(value))
    assert case.distribution.log_prob(np.float64(value)) == expected
    assert case.distribution.log_prob(np.array(value)) == expected
    if case.distribution.is_discrete:
        assert case.distribution.log_prob(np.int32(value)) == expected
        assert case.distribution.log_prob(int(value)) == expected


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_values_of_another_shape_are_refused(case):
    shape = case.distribution.shape
    for wrong in [(1, *shape), (*shape, 2)]:
        with pytest.raises(InvalidInputError, match="shape"):
            case.distribution.log_prob(np.zeros(wrong))


@pytest.mark.parametrize("case", CASES, ids=case_id)
@pytest.mark.parametrize("value", ["one", None, 1j])
def test_values_that_are_not_numbers_are_refused(case, value):
    with pytest.raises(InvalidInputError, match="number"):
        case.distribution.log_prob(value)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_parameters_are_flat_float64_of_the_right_number(case):
    parameters = case.distribution.parameters()
    assert (parameters.dtype, parameters.shape) == (np.float64, (case.distribution.num_parameters,))


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_pickles_and_copies_are_equal(case):
    distribution = case.distribution
    for other in (pickle.loads(pickle.dumps(distribution)), copy.deepcopy(distribution), copy.copy(distribution)):
        assert other == distribution
        assert hash(other) == hash(distribution)
        assert repr(other) == repr(distribution)
        np.testing.assert_array_equal(
            other.sample(np.random.default_rng(5)), distribution.sample(np.random.default_rng(5))
        )


def test_no_two_cases_are_equal():
    distributions = [case.distribution for case in CASES]
    assert len(set(distributions)) == len(distributions)


def test_equality_is_by_family_shape_and_parameters():
    assert Normal(0, 1) == Normal(-0.0, np.float32(1.0))
    assert hash(Normal(0, 1)) == hash(Normal(-0.0, 1.0))
    assert Normal([0.0, 0.0], 1.0) == Normal(0.0, [1.0, 1.0])
    assert Normal([0.0], [1.0]) != Normal(0.0, 1.0)
    assert Normal(0.0, 1.0) != LogNormal(0.0, 1.0)
    assert Normal(0.0, 1.0) != "Normal"
    # equal flat parameters, different sizes
    assert Normal(np.zeros((2, 1)), 1.0) != Normal(np.zeros((1, 2)), 1.0)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_text_form_rebuilds_small_distributions(case):
    if case.repr:
        assert repr(case.distribution) == case.repr
    if not case.distribution.shape:
        assert eval(repr(case.distribution), {**globals(), "inf": math.inf}) == case.distribution


def test_text_form_of_long_rows_is_short():
    assert len(repr(Categorical(np.ones(1000)))) < 200
    assert len(repr(Normal(np.zeros(1000), 1.0))) < 200


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_distributions_do_not_change(case):
    distribution = case.distribution
    for name, argument in distribution.arguments().items():
        with pytest.raises(AttributeError):
            setattr(distribution, name, argument)
        held = getattr(distribution, name)
        if isinstance(held, np.ndarray) and held.size:
            before = distribution.parameters()
            try:
                held.flat[0] = 99.0
            except ValueError:
                continue
            np.testing.assert_array_equal(distribution.parameters(), before)
    with pytest.raises(AttributeError):
        distribution.comment = "mine"
    with pytest.raises(AttributeError):
        distribution.shape = (3,)


def test_parameters_are_copied_from_the_caller():
    loc = np.zeros(3)
    prior = Normal(loc, 1.0)
    loc[:] = 5.0
    assert prior == Normal(np.zeros(3), 1.0)


@pytest.mark.parametrize(
    ("distribution", "suffix"),
    [
        (Normal(0.0, 1.0), "Normal"),
        (Normal([0.0] * 3, 1.0), "Normal[3]"),
        (Poisson(np.ones((2, 3))), "Poisson[2,3]"),
        (Categorical([1] * 5), "Categorical(5)"),
        (PiecewiseUniform([0, 1, 2], [1, 1]), "PiecewiseUniform(2)"),
        (MultivariateNormal([0, 0], np.eye(2)), "MultivariateNormal[2]"),
        (Mixture([Normal(0, 1), Uniform(0, 1)], [1, 1]), "Mixture(Normal,Uniform)"),
        (Mixture([Normal([0, 0], 1), Normal([0, 0], 1)], [1, 1]), "Mixture(Normal,Normal)[2]"),
        (Mixture([Categorical([1, 1]), Poisson(1)], [1, 1]), "Mixture(Categorical(2),Poisson)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_suffix_tells_family_size_and_shape(distribution, suffix):
    assert distribution.suffix == suffix


NOTHING: Any = None
NUMBER: Any = 3.0
REFUSED = {
    "nan": (lambda: Normal(math.nan, 1.0), r"`loc` of Normal must be a finite number; got nan"),
    "infinite": (lambda: Normal(math.inf, 1.0), r"`loc` of Normal .* got inf"),
    "zero scale": (lambda: Normal(0.0, 0.0), r"`scale` of Normal must be a positive finite number; got 0.0"),
    "negative element": (lambda: Normal(0.0, [1.0, -2.0]), r"`scale` of Normal .* got -2.0 at index \(1,\)"),
    "nan element": (lambda: Normal([[0.0, math.nan]], 1.0), r"`loc` of Normal .* got nan at index \(0, 1\)"),
    "text": (lambda: Normal("1.0", 1.0), r"`loc` of Normal must be a number .* got '1.0'"),
    "none": (lambda: Normal(NOTHING, 1.0), r"`loc` of Normal must be a number .* got None"),
    "complex": (lambda: Normal(1j, 1.0), r"`loc` of Normal must be a number"),
    "ragged": (lambda: Normal([[1.0], [1.0, 2.0]], 1.0), r"`loc` of Normal must be a number or an array"),
    "huge whole number": (lambda: Normal(10**400, 1.0), r"`loc` of Normal must be a number"),
    "shapes": (lambda: Normal([1.0, 2.0], [1.0, 2.0, 3.0]), r"broadcast .* `loc` \(2,\), `scale` \(3,\)"),
    "uniform order": (lambda: Uniform(1.0, 0.0), r"Uniform needs `low` below `high` .* low=1.0 and high=0.0"),
    "uniform empty": (lambda: Uniform(1.0, 1.0), r"Uniform needs `low` below `high`"),
    "uniform nan": (lambda: Uniform(0.0, math.nan), r"`high` of Uniform must be a finite number; got nan"),
    "uniform infinite": (lambda: Uniform(0.0, math.inf), r"`high` of Uniform .* got inf"),
    "uniform width": (lambda: Uniform(-1.7e308, 1.7e308), r"finite width"),
    "uniform vector": (lambda: Uniform([0.0, 3.0], 2.0), r"Uniform needs `low` below `high`"),
    "poisson": (lambda: Poisson(-1), r"`rate` of Poisson must be a number from 0 to 2\*\*53; got -1.0"),
    "poisson huge": (lambda: Poisson(1e17), r"`rate` of Poisson .* got 1e\+17"),
    "bernoulli": (lambda: Bernoulli(1.5), r"`probs` of Bernoulli must be a probability from 0 to 1; got 1.5"),
    "beta": (lambda: Beta(0, 1), r"`concentration1` of Beta must be a positive number .* got 0.0"),
    "beta bounds": (lambda: Beta(1, 1, 2, 1), r"Beta needs `low` below `high`"),
    "beta narrow": (lambda: Beta(1, 1, 1.0, math.nextafter(1.0, 2.0)), r"Beta needs `low` below `high`"),
    "exponential": (lambda: Exponential(0.0), r"`rate` of Exponential"),
    "gamma": (lambda: Gamma(1.0, -1.0), r"`rate` of Gamma .* got -1.0"),
    "lognormal": (lambda: LogNormal(0.0, math.nan), r"`scale` of LogNormal .* got nan"),
    "binomial fraction": (lambda: Binomial(1.5, 0.5), r"`total_count` of Binomial must be a whole number .* got 1.5"),
    "binomial negative": (lambda: Binomial([2, -1], 0.5), r"`total_count` of Binomial .* got -1.0 at index \(1,\)"),
    "weibull": (lambda: Weibull(1.0, 0.0), r"`concentration` of Weibull"),
    "truncated order": (lambda: TruncatedNormal(0, 1, 2, 1), r"TruncatedNormal needs `low` below `high`; got low=2.0"),
    "truncated nan": (lambda: TruncatedNormal(0, 1, math.nan, 1), r"`low` of TruncatedNormal .* got nan"),
    "truncated scale": (lambda: TruncatedNormal(0, 0, 0, 1), r"`scale` of TruncatedNormal"),
    "truncated beyond": (lambda: TruncatedNormal(0, 1, math.inf, math.inf), r"TruncatedNormal needs `low` below"),
    "vonmises": (lambda: VonMises(0.0, -1.0), r"`concentration` of VonMises .* got -1.0"),
    "categorical negative": (lambda: Categorical([0.5, -0.5, 1]), r"`probs` of Categorical .* got -0.5 among 3"),
    "categorical zero": (lambda: Categorical([0.0, 0.0]), r"`probs` of Categorical .* got 0.0 among 2"),
    "categorical nan": (lambda: Categorical([0.5, math.nan]), r"`probs` of Categorical .* got nan among 2"),
    "categorical infinite": (lambda: Categorical([math.inf, -math.inf]), r"`probs` of Categorical .* got inf"),
    "categorical sum": (lambda: Categorical([1.7e308, 1.7e308]), r"`probs` of Categorical .* got inf among 2"),
    "categorical none": (lambda: Categorical([]), r"`probs` of Categorical must hold at least one weight"),
    "categorical matrix": (lambda: Categorical(np.ones((2, 2))), r"`probs` of Categorical must be one row .* \(2, 2\)"),
    "categorical number": (lambda: Categorical(0.5), r"`probs` of Categorical must be one row"),
    "categorical neither": (lambda: Categorical(), r"one of `probs` and `logits`; got neither"),
    "categorical both": (lambda: Categorical([1.0], logits=[1.0]), r"one of `probs` and `logits`; got both"),
    "logits nan": (lambda: Categorical(logits=[0.0, math.nan]), r"`logits` of Categorical .* got a maximum of nan"),
    "logits nothing": (lambda: Categorical(logits=[-math.inf]), r"`logits` of Categorical .* got a maximum of -inf"),
    "logits shape": (lambda: Categorical(logits=3.0), r"`logits` of Categorical must be one row"),
    "edges number": (lambda: PiecewiseUniform([0, 1], [1, 1]), r"`edges` .* one number more than the 2 `probs`"),
    "edges order": (lambda: PiecewiseUniform([0, 1, 1], [1, 1]), r"`edges` .* increasing; got \[0.0, 1.0, 1.0\]"),
    "edges infinite": (lambda: PiecewiseUniform([0, math.inf], [1]), r"`edges` .* must be finite"),
    "edges nan": (lambda: PiecewiseUniform([0, math.nan, 1], [1, 1]), r"`edges` .* must be finite and increasing"),
    "mixture number": (lambda: Mixture([Normal(0, 1)], [0.5, 0.5]), r"2 weights and 1 components"),
    "mixture none": (lambda: Mixture([], []), r"`probs` of Mixture must hold at least one weight"),
    "mixture thing": (lambda: Mixture([Normal(0, 1), NUMBER], [1, 1]), r"`components` of Mixture .* got 3.0"),
    "mixture kinds": (lambda: Mixture([Normal(0, 1), Poisson(1)], [1, 1]), r"all discrete .* got Normal and Poisson"),
    "mixture shapes": (
        lambda: Mixture([Normal(0, 1), Normal([0], 1)], [1, 1]),
        r"one shape, .* Normal and Normal\[1\]",
    ),
    "covariance shape": (
        lambda: MultivariateNormal([0, 0], [[1.0]]),
        r"\(d,\) and \(d, d\) .* got \(2,\) and \(1, 1\)",
    ),
    "covariance sides": (lambda: MultivariateNormal([0, 0], [[1, 0.5], [0.2, 1]]), r"`covariance` .* symmetric"),
    "covariance sign": (lambda: MultivariateNormal([0, 0], [[1, 2], [2, 1]]), r"`covariance` .* positive definite"),
    "covariance nan": (lambda: MultivariateNormal([0], [[math.nan]]), r"`covariance` .* must be finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_parameters_are_refused_by_name_and_value(name):
    make, message = REFUSED[name]
    with pytest.raises(InvalidInputError, match=message):
        make()


@pytest.mark.parametrize(
    "case", [case for case in CONTINUOUS if not isinstance(case.distribution, Mixture)], ids=case_id
)
def test_whole_number_parameters_are_taken(case):
    rounded = {name: np.round(arg) for name, arg in case.distribution.arguments().items() if np.all(np.isfinite(arg))}
    if set(rounded) == set(case.distribution.arguments()) and min(np.min(arg) for arg in rounded.values()) > 0:
        whole = {name: int(arg) if np.ndim(arg) == 0 else arg.astype(int) for name, arg in rounded.items()}
        assert type(case.distribution)(**whole) == type(case.distribution)(**rounded)
