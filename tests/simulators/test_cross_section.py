"""The cross-section: formulas against kernels, draws against densities, and fits that find the truth."""

import math
from typing import Any

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InvalidInputError
from tracestore.simulators import cross_section_formulas as formulas
from tracestore.simulators.batched import run_batch
from tracestore.simulators.cross_section import TRUTH, cross_section_simulator, pseudo_data
from tracestore.simulators.cross_section_events import CollisionEventRows, CollisionEvents, total_cross_section
from tracestore.simulators.cross_section_kernels import cross_section_kernels
from tracestore.traces.distributions.row_draws import Rows

PARAMETERS = np.array([[0.7, 3.5, 4.5, 0.4, 0.15, 0.6], [0.3, 1.7, 9.0, 1.5, 0.4, 2.5]])
NUMBERS = tuple(TRUTH.values())
NAMES = ("density", "sum_of_logs", "total")
UNKNOWN: Any = "jax"


@pytest.fixture(scope="module")
def kernels():
    found = cross_section_kernels()
    if not found.total.is_native:
        pytest.skip("this machine has no C++ compiler")
    return found


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(3)
    x = np.exp(rng.uniform(math.log(0.01), math.log(0.75), 3001))
    return np.stack([x, np.exp(rng.uniform(math.log(4.0), math.log(1000.0), 3001))], 1)


def arguments(kernel, points):
    shape = kernel.shape.out(len(PARAMETERS), len(points))
    weights = np.random.default_rng(4).normal(size=shape)
    return ((points,) if kernel.shape.num_columns else ()), weights


@pytest.mark.parametrize("name", NAMES)
def test_kernel_and_fallback_give_the_same_numbers(kernels, points, name):
    kernel = getattr(kernels, name)
    places, weights = arguments(kernel, points)
    native = kernel.call(PARAMETERS, *places), *kernel.gradient(PARAMETERS, *places, weights=weights)
    fallback = kernel.as_fallback()
    plain = fallback.call(PARAMETERS, *places), *fallback.gradient(PARAMETERS, *places, weights=weights)
    for one, other in zip(native, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_kernel_gives_the_same_bits_on_any_number_of_threads(kernels, points, name):
    kernel = getattr(kernels, name)
    places, weights = arguments(kernel, np.tile(points, (20, 1)))
    one, three = [kernel.gradient(PARAMETERS, *places, weights=weights, num_threads=number) for number in (1, 3)]
    assert all(map(np.array_equal, one, three))


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_the_values(points, name):
    kernel = getattr(cross_section_kernels(), name).as_fallback()
    places, weights = arguments(kernel, points)
    gradient = kernel.gradient(PARAMETERS, *places, weights=weights)[1]
    for column in range(6):
        step = np.zeros(6)
        step[column] = 1e-5
        change = kernel.call(PARAMETERS + step, *places) - kernel.call(PARAMETERS - step, *places)
        slope = (change * weights).reshape(2, -1).sum(1) / 2e-5
        np.testing.assert_allclose(gradient[:, column], slope, rtol=1e-5)


@pytest.mark.parametrize("row", PARAMETERS, ids=["truth", "extreme"])
def test_integral_is_as_exact_as_stated(row):
    points, weights = formulas.quadrature(80, 60)
    finer = float(formulas.cross_section(row[None], points)[0] @ weights)
    assert total_cross_section(row[None])[0] == pytest.approx(finer, rel=1e-12)


def test_cross_section_is_the_documented_formula():
    a, up, down, sea, slope, evolution = NUMBERS
    x, q2 = 0.3, 50.0
    t = math.log(math.log(q2 / 0.04) / math.log(4.0 / 0.04))

    def valence(number, power):
        beta = math.gamma(a) * math.gamma(power + 1.0) / math.gamma(a + power + 1.0)
        return number / beta * x**a * (1.0 - x) ** (power + evolution * t)

    structure = 4.0 / 9.0 * valence(2.0, up) + valence(1.0, down) / 9.0 + sea * x ** (-slope * (1 + t)) * (1 - x) ** 7
    y = q2 / (101_124.0 * x)
    expected = 2.0 * math.pi / 137.036**2 * 3.8938e8 / (x * q2**2) * (1.0 + (1.0 - y) ** 2) * structure
    assert cross_section_kernels().density.call(NUMBERS, np.array([[x, q2]]))[0] == pytest.approx(expected, rel=1e-4)


def test_valence_quarks_obey_their_sum_rules():
    x = np.exp(np.linspace(math.log(1e-12), math.log(0.999999), 400_001))
    widths = np.gradient(x)
    for charges, number, power in ((8.0 / 9.0, 2.0, 3.5), (1.0 / 9.0, 1.0, 4.5)):
        factor = math.exp(formulas._log_norm(charges, 0.7, power)[0]) * number / charges
        assert (factor * x ** (0.7 - 1.0) * (1.0 - x) ** power * widths).sum() == pytest.approx(number, rel=1e-6)


@pytest.mark.parametrize(
    "point", [(0.005, 10.0), (0.8, 10.0), (0.1, 3.0), (0.1, 1001.0), (1.5, 10.0), (math.nan, 10.0)]
)
def test_nothing_is_seen_outside_of_the_region(point):
    kernels = cross_section_kernels()
    events = np.array([(0.1, 10.0), point])
    for kernel in (kernels.sum_of_logs, kernels.sum_of_logs.as_fallback()):
        assert kernel.call(NUMBERS, events) == -math.inf
    assert kernels.density.call(NUMBERS, events)[1] == 0.0


@pytest.mark.statistical
@pytest.mark.parametrize("row", PARAMETERS, ids=["truth", "extreme"])
def test_draws_follow_the_density(row):
    drawn = CollisionEvents(row, 40_000).sample(np.random.default_rng(5))
    edges = [np.linspace(math.log(low), math.log(high), 9) for low, high in (formulas.X_RANGE, formulas.Q2_RANGE)]
    counts = np.histogramdd(np.log(drawn), edges)[0]
    expected = _expected(row, edges) * len(drawn)
    used = expected > 5.0
    chi_square = float(((counts - expected)[used] ** 2 / expected[used]).sum())
    assert abs(chi_square - used.sum()) < 4.0 * math.sqrt(2.0 * used.sum())


def _expected(row, edges):
    nodes, weights = np.polynomial.legendre.leggauss(8)
    shares = np.empty((8, 8))
    for i in range(8):
        for j in range(8):
            halves = [0.5 * (edge[k + 1] - edge[k]) for edge, k in zip(edges, (i, j), strict=True)]
            axes = [np.exp(edge[k] + half * (1.0 + nodes)) for edge, k, half in zip(edges, (i, j), halves, strict=True)]
            grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
            measure = np.outer(weights, weights).ravel() * halves[0] * halves[1] * grid.prod(1)
            shares[i, j] = formulas.cross_section(row[None], grid)[0] @ measure
    return shares / total_cross_section(row[None])[0]


def test_moments_are_those_of_draws():
    events = CollisionEvents(NUMBERS, 40_000)
    drawn = events.sample(np.random.default_rng(6))
    errors = np.abs(drawn.mean(0) - events.mean[0]) / np.sqrt(events.variance[0] / 40_000)
    assert errors.max() < 4.0


def test_density_is_normalized():
    points, weights = formulas.quadrature()
    density = [math.exp(CollisionEvents(NUMBERS, 1).log_prob(point[None])) for point in points]
    assert float(np.array(density) @ weights) == pytest.approx(1.0, rel=1e-10)


def test_rows_score_like_single_distributions(points):
    rows, events = CollisionEventRows(PARAMETERS, 500), points[:500]
    expected = [CollisionEvents(row, 500).log_prob(events) for row in PARAMETERS]
    shared = np.broadcast_to(events, (2, 500, 2))
    np.testing.assert_allclose(rows.log_prob_rows(shared), expected, rtol=1e-12)
    np.testing.assert_allclose(rows.log_prob_rows(shared.copy()), expected, rtol=1e-12)


def test_one_row_stands_for_all_traces(points):
    rows = Rows.of(CollisionEventRows(PARAMETERS[:1], 50), 3)
    assert rows.shape == (50, 2)
    assert rows.sample(np.random.default_rng(1)).shape == (3, 50, 2)
    assert len(set(rows.log_prob(np.broadcast_to(points[:50], (3, 50, 2))).tolist())) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CollisionEvents([1.0] * 5, 10), r"shape \(6,\); got \(5,\)"),
        (lambda: CollisionEventRows([1.0] * 6, 10), r"shape \(num_rows, 6\); got \(6,\)"),
        (lambda: CollisionEvents([0.7, 3.5, 4.5, 0.0, 0.15, 0.6], 10), "'sea' is 0.0"),
        (lambda: CollisionEvents([0.7, 3.5, math.nan, 0.4, 0.15, 0.6], 10), "'down_power' is nan"),
        (lambda: CollisionEvents(NUMBERS, 0), "`num_events` must be at least 1; got 0"),
        (lambda: cross_section_simulator(0), "`num_events` must be at least 1; got 0"),
        (lambda: cross_section_simulator(arrays=UNKNOWN), "must be one of"),
        (lambda: CollisionEvents(NUMBERS, 2).log_prob([[0.1, 10.0]]), r"shape \(2, 2\); got float64 \(1, 2\)"),
    ],
    ids=["five", "flat", "zero", "nan", "no-events", "no-simulator", "arrays", "value"],
)
def test_wrong_arguments_are_refused(make, words):
    with pytest.raises(InvalidInputError, match=words):
        make()


def test_a_maximum_likelihood_fit_finds_the_truth():
    optimize = pytest.importorskip("scipy.optimize")
    data, kernels = pseudo_data(20_000, seed=3), cross_section_kernels()

    def objective(logs):
        parameters = np.exp(logs)
        log_sum, by_events = kernels.sum_of_logs.gradient(parameters, data["events"])
        total, by_total = kernels.total.gradient(parameters)
        gradient = by_events - data["luminosity"] * by_total
        return data["luminosity"] * total - log_sum, -gradient * parameters

    found = optimize.minimize(objective, np.log(NUMBERS) + 0.1, jac=True, method="BFGS")
    pulls = (found.x - np.log(NUMBERS)) / np.sqrt(np.diag(found.hess_inv))
    assert np.abs(pulls).max() < 3.0


def test_chains_find_the_truth(tmp_path):
    data = pseudo_data(2000, seed=4)
    config = ts.inference.RMHConfig(warmup=300)
    posterior = ts.inference.rmh(
        cross_section_simulator(2000), data, tmp_path / "draws", num_draws=6400, chains=32, seed=1, config=config
    )
    for name in ("intercept", "up_power", "sea", "slope"):
        mean, std = float(np.asarray(posterior.mean(name))), float(np.asarray(posterior.std(name)))
        assert abs(mean - TRUTH[name]) < 3.0 * std
        assert std < {"intercept": 0.12, "up_power": 0.6, "sea": 0.1, "slope": 0.05}[name]


def test_events_are_stored_once_and_not_for_each_trace(tmp_path):
    data = pseudo_data(5000, seed=4)
    config = ts.inference.RMHConfig(warmup=20)
    posterior = ts.inference.rmh(
        cross_section_simulator(5000), data, tmp_path / "draws", num_draws=320, chains=16, seed=1, config=config
    )
    num_bytes = sum(path.stat().st_size for path in (tmp_path / "draws").rglob("*") if path.is_file())
    assert len(posterior.store) == 320
    assert num_bytes < 12 * data["events"].nbytes


def test_a_batch_shares_the_events_that_it_is_given():
    data = pseudo_data(100_000, seed=4)
    batch = run_batch(cross_section_simulator(100_000), 16, np.random.default_rng(1), observations=data)
    assert batch.observations["events"].strides[0] == 0


def test_one_trace_scores_like_a_batch():
    data, program = pseudo_data(300, seed=4), cross_section_simulator(300)
    batch = run_batch(program, 3, np.random.default_rng(1), observations=data)
    values = batch.values.reshape(3, -1)[:, :6]
    total = total_cross_section(values)
    expected = [
        CollisionEvents(row, 300).log_prob(data["events"]) + ts.Gamma(300.0, float(rate)).log_prob(data["luminosity"])
        for row, rate in zip(values, total, strict=True)
    ]
    np.testing.assert_allclose(batch.log_likelihood, expected, rtol=1e-11)


def test_a_program_sees_the_events_without_a_copy_for_each_trace():
    seen = []

    def program():
        parameters = np.repeat(PARAMETERS[:1], ts.simulators.batched.num_traces(), 0)
        seen.append(ts.observe(CollisionEventRows(parameters, 100_000), name="events"))

    events = pseudo_data(100_000, seed=4)["events"]
    run_batch(ts.batched_simulator(program), 16, np.random.default_rng(1), observations={"events": events})
    assert np.array_equal(seen[0][15], events)
    assert seen[0].strides[0] == 0
    assert not np.may_share_memory(seen[0], events)
