"""Compound Poisson energies: exact zeros, moments, a likelihood that is normalized, and what is refused."""

import math
import pickle

import numpy as np
import pytest

from tracestore.errors import InvalidInputError
from tracestore.simulators.shower_spots import SpotEnergies, log_bessel_i1


def integral_of_bessel_i1(x: float) -> float:
    """The log of the integral of exp(x cos t) cos t over half a turn, by the midpoint rule, which converges at once."""
    angles = (np.arange(2000) + 0.5) * math.pi / 2000
    return x + math.log((np.exp(x * (np.cos(angles) - 1.0)) * np.cos(angles)).mean())


@pytest.mark.parametrize("x", [1e-3, 0.5, 3.7, 3.8, 20.0, 500.0])
def test_the_bessel_function_equals_its_integral(x: float) -> None:
    assert log_bessel_i1(np.array([x]))[0] == pytest.approx(integral_of_bessel_i1(x), abs=1e-6)


@pytest.mark.parametrize("rate", [0.05, 1.0, 12.0])
def test_probability_of_zero_and_density_sum_to_one(rate: float) -> None:
    cell = SpotEnergies([rate], [0.5])
    step = 40.0 / 20_000
    density = sum(math.exp(cell.log_prob([(index + 0.5) * step])) for index in range(20_000))
    assert math.exp(cell.log_prob([0.0])) + step * density == pytest.approx(1.0, abs=1e-5)


@pytest.mark.statistical
def test_draws_have_the_moments_and_the_zeros_of_the_distribution() -> None:
    rate, scale = np.full(200_000, 0.7), 2.0
    draw = SpotEnergies(rate, scale).sample(np.random.default_rng(1))
    assert (draw == 0.0).mean() == pytest.approx(math.exp(-0.7), abs=0.005)
    assert draw.mean() == pytest.approx(1.4, abs=0.03)
    assert draw.var() == pytest.approx(2.0 * 0.7 * 4.0, rel=0.03)
    assert SpotEnergies(rate, scale).variance[0] == pytest.approx(5.6)


def test_cells_are_scored_independently() -> None:
    rate, scale, value = np.array([0.3, 2.0, 9.0]), np.array([1.0, 0.5, 0.1]), np.array([0.0, 0.7, 1.2])
    single = sum(SpotEnergies([r], [s]).log_prob([x]) for r, s, x in zip(rate, scale, value, strict=True))
    assert SpotEnergies(rate, scale).log_prob(value) == pytest.approx(single)


def test_a_cell_without_spots_is_zero_and_nothing_else() -> None:
    cells = SpotEnergies([0.0, 1.0], 1.0)
    assert cells.sample(np.random.default_rng(1))[0] == 0.0
    assert cells.log_prob([0.0, 0.0]) == -1.0
    assert cells.log_prob([1e-9, 0.0]) == -math.inf


@pytest.mark.parametrize("value", [[-1.0, 0.0], [math.nan, 0.0], [math.inf, 0.0]])
def test_impossible_values_have_no_density(value: list[float]) -> None:
    assert SpotEnergies([1.0, 1.0], 1.0).log_prob(value) == -math.inf


def test_single_precision_is_scored_like_double_precision() -> None:
    cells = SpotEnergies(np.full((4, 4), 2.0), 0.1)
    value = cells.sample(np.random.default_rng(1)).astype(np.float32)
    assert cells.log_prob(value) == cells.log_prob(value.astype(np.float64))


def test_scales_of_rows_count_for_all_their_cells() -> None:
    rate, rows = np.arange(1.0, 7.0).reshape(2, 3), np.array([[0.5], [2.0]])
    np.testing.assert_allclose(SpotEnergies(rate, rows).mean, rate * rows)
    assert SpotEnergies(rate, rows) == SpotEnergies(rate, np.broadcast_to(rows, (2, 3)))


def test_a_copy_through_pickle_is_equal() -> None:
    cells = SpotEnergies([1.0, 2.0], [0.5])
    assert pickle.loads(pickle.dumps(cells)) == cells


def test_parameters_do_not_change_afterwards() -> None:
    rate = np.ones(2)
    cells = SpotEnergies(rate, 1.0)
    rate[:] = 5.0
    assert cells.mean.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="read-only"):
        cells.arguments()["rate"][0] = 5.0  # type: ignore[index]


@pytest.mark.parametrize(
    ("rate", "scale", "named"),
    [
        (1.0, 1.0, "array with a cell"),
        ([-1.0], 1.0, "not negative"),
        ([math.nan], 1.0, "not negative"),
        ([1.0], 0.0, "finite and positive"),
        ([1.0, 1.0], [1.0, 1.0, 1.0], "broadcast"),
    ],
)
def test_wrong_parameters_are_refused(rate: object, scale: object, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        SpotEnergies(rate, scale)  # type: ignore[arg-type]


def test_a_value_of_another_shape_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"shape \(2,\)"):
        SpotEnergies([1.0, 1.0], 1.0).log_prob([1.0, 1.0, 1.0])
