from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from tests.hijacking.numpy_calls import GENERATOR, LEGACY, SIZED, Call, make, recorded

pytestmark = pytest.mark.statistical

NUM_VECTOR = 20_000
NUM_SCALAR = 1_500
SMALLEST_P = 1e-4

NUMERIC = [call for call in SIZED if call.args[:1] != (["a", "bb"],)]
NEITHER = ("bytes", "spawn", "permutation", "permuted", "tomaxint")


def assert_same_distribution(found, expected):
    """Compare each element of the answers, and sums of neighbors, which tell how they depend on each other."""
    found, expected = (np.asarray(part, np.float64).reshape(len(part), -1) for part in (found, expected))
    for column in range(found.shape[1]):
        assert stats.ks_2samp(found[:, column], expected[:, column]).pvalue > SMALLEST_P
        if column:
            pair = slice(column - 1, column + 1)
            first, second = (part[:, pair].sum(axis=1).round(9) for part in (found, expected))
            assert stats.ks_2samp(first, second).pvalue > SMALLEST_P


def name_of(parameter):
    """Name of a call; the exact distribution beside it has none that is the same in every process."""
    return str(parameter) if isinstance(parameter, Call) else "exact"


@pytest.mark.parametrize("kind", ["Generator", "RandomState"])
@pytest.mark.parametrize("call", NUMERIC, ids=str)
def test_vector_draws_are_distributed_as_those_of_numpy(kind, call):
    call = call._replace(options={**call.options, "size": NUM_VECTOR})
    found, _ = recorded(call, kind)
    assert_same_distribution(found[0], getattr(make(kind), call.method)(*call.args, **call.options))


@pytest.mark.parametrize("call", NUMERIC, ids=str)
def test_scalar_draws_are_distributed_as_those_of_numpy(call):
    found, _ = recorded(call, "Generator", repeats=NUM_SCALAR)
    expected = getattr(make("Generator"), call.method)(*call.args, **{**call.options, "size": NUM_VECTOR})
    assert_same_distribution(found, expected)


REPEATED = [
    *[("Generator", call) for call in GENERATOR if call.method not in NEITHER],
    *[("RandomState", call) for call in LEGACY if call.method not in NEITHER],
]


@pytest.mark.parametrize(("kind", "call"), REPEATED, ids=[f"{kind}-{call}" for kind, call in REPEATED])
def test_other_answers_are_distributed_as_those_of_numpy(kind, call):
    found, _ = recorded(call, kind, repeats=NUM_SCALAR)
    if np.size(found[0]):
        generator = make(kind)
        expected = [getattr(generator, call.method)(*call.args, **call.options) for _ in range(2 * NUM_SCALAR)]
        assert_same_distribution(np.array(found, np.float64), np.array(expected, np.float64))


ORDERS = [
    Call("permutation", ([0, 1, 2],)),
    Call("permuted", ([0, 1, 2],)),
    Call("choice", (3, 3), {"replace": False}),
    Call("choice", ([0, 1, 2], 3), {"replace": False, "shuffle": False}),
]


@pytest.mark.parametrize("call", ORDERS, ids=str)
def test_all_orders_are_as_likely(call):
    found, _ = recorded(call, "Generator", repeats=NUM_SCALAR)
    answers = [tuple(map(int, answer)) for answer in found]
    counts = [answers.count(order) for order in permutations(range(3))]
    assert sum(counts) == NUM_SCALAR
    assert stats.chisquare(counts).pvalue > SMALLEST_P


@pytest.mark.parametrize("number", [1, 2, 3])
def test_weighted_choice_without_replacement_takes_one_after_the_other(number):
    weights = [0.1, 0.3, 0.6]
    found, _ = recorded(Call("choice", (3, number), {"replace": False, "p": weights}), "Generator", repeats=NUM_SCALAR)
    answers = [tuple(map(int, answer)) for answer in found]
    orders = [*permutations(range(3), number)]
    masses = []
    for order in orders:
        mass, rest = 1.0, 1.0
        for index in order:
            mass, rest = mass * weights[index] / rest, rest - weights[index]
        masses.append(mass)
    counts = [answers.count(order) for order in orders]
    assert stats.chisquare(counts, NUM_SCALAR * np.array(masses) / sum(masses)).pvalue > SMALLEST_P


def test_rows_are_permuted_independently():
    found, _ = recorded(Call("permuted", ([[0, 1], [0, 1]],), {"axis": 1}), "Generator", repeats=NUM_SCALAR)
    codes = [int(rows[0, 0]) * 2 + int(rows[1, 0]) for rows in found]
    assert stats.chisquare(np.bincount(codes, minlength=4)).pvalue > SMALLEST_P


def test_bytes_are_uniform():
    found, _ = recorded(Call("bytes", (NUM_VECTOR,)), "Generator")
    assert stats.chisquare(np.bincount(np.frombuffer(found[0], np.uint8), minlength=256)).pvalue > SMALLEST_P


def test_integers_of_all_bits_are_uniform():
    found, _ = recorded(Call("integers", (0, 2**64, NUM_VECTOR), {"dtype": np.uint64}), "Generator")
    assert stats.chisquare(np.bincount((found[0] >> np.uint64(56)).astype(int), minlength=256)).pvalue > SMALLEST_P
    assert stats.chisquare(np.bincount((found[0] & np.uint64(255)).astype(int), minlength=256)).pvalue > SMALLEST_P


@pytest.mark.parametrize(
    ("call", "exact"),
    [
        (Call("normal", (1.0, 2.0)), stats.norm(1.0, 2.0)),
        (Call("exponential", (2.0,)), stats.expon(scale=2.0)),
        (Call("gamma", (2.5, 3.0)), stats.gamma(2.5, scale=3.0)),
        (Call("power", (3.0,)), stats.powerlaw(3.0)),
        (Call("pareto", (3.0,)), stats.lomax(3.0)),
        (Call("rayleigh", (2.0,)), stats.rayleigh(scale=2.0)),
        (Call("wald", (2.0, 3.0)), stats.invgauss(2.0 / 3.0, scale=3.0)),
        (Call("gumbel", (1.0, 2.0)), stats.gumbel_r(1.0, 2.0)),
        (Call("triangular", (-1.0, 0.5, 2.0)), stats.triang(0.5, -1.0, 3.0)),
        (Call("noncentral_f", (5.0, 9.0, 2.0)), stats.ncf(5.0, 9.0, 2.0)),
        (Call("standard_t", (5.0,)), stats.t(5.0)),
        (Call("laplace", (1.0, 2.0)), stats.laplace(1.0, 2.0)),
    ],
    ids=name_of,
)
def test_draws_follow_the_exact_distribution(call, exact):
    found, _ = recorded(call._replace(options={"size": NUM_VECTOR}), "Generator")
    assert stats.kstest(found[0], exact.cdf).pvalue > SMALLEST_P


@pytest.mark.parametrize(
    ("call", "mass"),
    [
        (Call("geometric", (0.3,)), stats.geom(0.3).pmf),
        (Call("geometric", (0.999,)), stats.geom(0.999).pmf),
        (Call("logseries", (0.6,)), stats.logser(0.6).pmf),
        (Call("zipf", (3.0,)), stats.zipf(3.0).pmf),
        (Call("negative_binomial", (4, 0.3)), stats.nbinom(4, 0.3).pmf),
        (Call("hypergeometric", (7, 5, 6)), stats.hypergeom(12, 7, 6).pmf),
        (Call("poisson", (4.0,)), stats.poisson(4.0).pmf),
    ],
    ids=name_of,
)
def test_counts_follow_the_exact_distribution(call, mass):
    found, _ = recorded(call._replace(options={"size": NUM_VECTOR}), "Generator")
    counts = np.bincount(found[0])
    expected = NUM_VECTOR * mass(np.arange(len(counts)))
    usual = expected > 5.0
    observed = np.append(counts[usual], NUM_VECTOR - counts[usual].sum())
    wanted = np.append(expected[usual], NUM_VECTOR - expected[usual].sum())
    assert stats.chisquare(observed + 1e-9, wanted + 1e-9).pvalue > SMALLEST_P
