"""What the warm-up learns: step sizes, shapes, windows; and what is counted afterwards."""

import math

import numpy as np
import pytest

from tracestore.inference.gradient_adaptation import DualAveraging, Shape, estimate_shape, window_ends
from tracestore.inference.gradient_tally import GradientTally


@pytest.mark.parametrize("warmup", [0, 10, 20, 100, 149, 150, 200, 500, 1000, 5000])
def test_windows_end_before_the_last_stretch(warmup):
    ends = window_ends(warmup)
    assert ends == sorted(set(ends))
    assert not ends or ends[-1] == warmup - (50 if warmup >= 150 else int(0.1 * warmup))


def test_windows_of_a_long_warmup_double():
    sizes = np.diff(window_ends(5000))
    assert (sizes[1:-1] == 2 * sizes[:-2]).all()


def test_a_step_size_reaches_its_acceptance():
    tuning = DualAveraging(100.0, 0.7)
    rng = np.random.default_rng(1)
    for _ in range(3000):
        tuning.update(min(1.0, math.exp(-0.5 * tuning.step_size**2) * rng.uniform(0.8, 1.2)))
    assert math.exp(-0.5 * tuning.averaged**2) == pytest.approx(0.7, abs=0.03)


@pytest.fixture
def points():
    correlation = np.array([[1.0, 0.9], [0.9, 1.0]])
    return np.random.default_rng(1).multivariate_normal(
        [0.0, 5.0], correlation * np.outer([1.0, 1e-3], [1.0, 1e-3]), 5000
    )


def test_a_diagonal_shape_tells_how_long_the_longest_direction_is(points):
    shape = estimate_shape(points, Shape(np.ones(2), 1.0), "diagonal")
    np.testing.assert_allclose(shape.factor, [1.0, 1e-3], rtol=0.05)
    assert shape.extent == pytest.approx(math.sqrt(1.9), rel=0.02)


def test_a_dense_shape_makes_the_posterior_round(points):
    shape = estimate_shape(points, Shape(np.ones(2), 1.0), "dense")
    unit = np.linalg.solve(shape.factor, (points - points.mean(axis=0)).T)
    np.testing.assert_allclose(np.cov(unit), np.eye(2), atol=0.1)


def test_a_dense_shape_stretches_and_pulls_back_consistently(points):
    shape = estimate_shape(points, Shape(np.ones(2), 1.0), "dense")
    direction, gradient = np.random.default_rng(2).normal(size=(2, 7, 2))
    work = (shape.stretch(direction) * gradient).sum(axis=1)
    np.testing.assert_allclose((direction * shape.pull_back(gradient)).sum(axis=1), work)


def test_nothing_is_learned_of_numbers_that_stand_still():
    former = Shape(np.array([3.0, 4.0]), 1.0)
    assert estimate_shape(np.zeros((50, 2)), former, "diagonal").factor.tolist() == [3.0, 4.0]
    assert estimate_shape(np.zeros((1, 2)), former, "dense") is former


def test_energies_are_counted_as_they_are_defined():
    energies = np.random.default_rng(1).normal(size=(200, 3)).cumsum(axis=0)
    tally = GradientTally(3, "hmc")
    nobody = np.zeros(3, np.bool_)
    for row in energies:
        tally.count(nobody, nobody, np.ones(3), 4, row)
    expected = (np.diff(energies, axis=0) ** 2).sum(axis=0) / ((energies - energies.mean(axis=0)) ** 2).sum(axis=0)
    np.testing.assert_allclose([state["ebfmi"] for state in tally.to_json()], expected)


def test_counts_survive_their_states():
    tally = GradientTally(2, "mala")
    rng = np.random.default_rng(1)
    for _ in range(5):
        moved = rng.random(2) < 0.5
        tally.count(moved, ~moved, rng.random(2), 1, rng.random(2))
    again = GradientTally(2, "mala")
    again.restore(tally.to_json())
    assert again.to_json() == tally.to_json()
