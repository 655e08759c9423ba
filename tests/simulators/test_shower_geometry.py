"""Spots in cells: against spots thrown one by one, conservation, symmetry, tilt."""

import math

import numpy as np
import pytest

from tracestore.errors import InvalidInputError
from tracestore.simulators.shower_geometry import ShowerBox, ShowerMapper
from tracestore.simulators.shower_profiles import (
    LongitudinalShape,
    Medium,
    mean_shape,
    num_spots,
    radial_shape,
    spot_shape,
)

MEDIUM = Medium()
NUM_THROWN = 400_000
UPRIGHT = ShowerMapper(ShowerBox(), MEDIUM)
TILTED = ShowerMapper(ShowerBox(shape=(51, 51, 25)), MEDIUM)


def thrown_spots(box: ShowerBox, energy: float, shape: LongitudinalShape, angle: float, number: int) -> np.ndarray:
    """The share of spots in each cell, each thrown by the published formulas as they are written."""
    rng = np.random.default_rng(1)
    maximum, form = spot_shape(shape, MEDIUM)
    depth = rng.gamma(form, maximum / (form - 1.0), number)
    core, tail, share = radial_shape(depth / shape.maximum, energy, MEDIUM)
    radius = np.where(rng.random(number) < share, core, tail) * box.moliere_radius
    uniform = rng.random(number)
    radius *= np.sqrt(uniform / (1.0 - uniform))
    turn = rng.uniform(0.0, 2.0 * math.pi, number)
    x, across, along = radius * np.cos(turn), radius * np.sin(turn), depth * box.radiation_length
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    y, z = along * cosine + across * sine, along * sine - across * cosine
    sizes = (box.cell_size, box.cell_size, box.layer_depth)
    halves = np.array([box.shape[0] / 2, box.shape[1] / 2, 0.0])
    edges = [np.arange(n + 1) - half for n, half in zip(box.shape, halves, strict=True)]
    places = np.stack([x, y, z], axis=1) / sizes
    return np.histogramdd(places, bins=edges)[0] / number


@pytest.mark.statistical
@pytest.mark.parametrize(("energy", "angle"), [(20.0, 90.0), (300.0, 90.0), (20.0, 65.0), (300.0, 120.0)])
def test_cells_get_the_share_of_spots_that_are_thrown_one_by_one(energy: float, angle: float) -> None:
    mapper, shape = (UPRIGHT if angle == 90.0 else TILTED), mean_shape(energy, MEDIUM)
    expected = thrown_spots(mapper.box, energy, shape, angle, NUM_THROWN)
    found = mapper.spots(energy, shape, angle).rate / num_spots(energy, MEDIUM)
    assert found.sum() == pytest.approx(expected.sum(), abs=0.004)
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        np.testing.assert_allclose(found.sum(axis=others), expected.sum(axis=others), rtol=0.03, atol=0.003)
    # cell by cell where there are many spots: within the error of counting, and that of rows with one depth; in the
    # first layers of a tilted shower, the narrow core may come out one row aside
    large = expected > 5e-4
    large[:, :, :2] &= angle == 90.0
    assert large.sum() > 150
    error = 4.5 * np.sqrt(expected / NUM_THROWN) + (0.01 if angle == 90.0 else 0.12) * expected
    assert (np.abs(found - expected)[large] < error[large]).all()
    assert abs((found[large] / expected[large]).mean() - 1.0) < 0.01


@pytest.mark.parametrize("energy", [10.0, 100.0, 500.0])
def test_most_of_the_energy_is_contained(energy: float) -> None:
    rate, scale = UPRIGHT.spots(energy, mean_shape(energy, MEDIUM))
    assert 0.975 < (rate * scale).sum() / energy < 0.995


def test_energies_of_spots_and_layers_follow_the_profile() -> None:
    """In a box that loses nothing at its sides, layers hold the profile of the energy, not that of the spots."""
    wide = ShowerMapper(ShowerBox(shape=(5, 5, 60), cell_size=400.0), MEDIUM)
    rate, scale = wide.spots(50.0, LongitudinalShape(8.0, 5.0))
    layers = (rate * scale).sum(axis=(0, 1)) / 50.0
    depths = (np.arange(60_000) + 0.5) * 1e-3
    shares = (0.5**5 / math.gamma(5.0) * depths**4 * np.exp(-0.5 * depths)).reshape(60, -1).sum(axis=1) * 1e-3
    np.testing.assert_allclose(layers, shares, rtol=0.03, atol=2e-4)


@pytest.mark.parametrize("angle", [90.0, 70.0])
def test_left_and_right_are_alike(angle: float) -> None:
    rate = TILTED.spots(50.0, mean_shape(50.0, MEDIUM), angle).rate
    np.testing.assert_allclose(rate, rate[::-1], rtol=1e-6)


def test_an_upright_shower_looks_the_same_along_x_and_y() -> None:
    rate = UPRIGHT.spots(50.0, mean_shape(50.0, MEDIUM)).rate
    np.testing.assert_allclose(rate, rate.transpose(1, 0, 2), rtol=1e-9)


def test_supplementary_angles_make_mirrored_showers() -> None:
    one, other = (TILTED.spots(50.0, mean_shape(50.0, MEDIUM), angle) for angle in (70.0, 110.0))
    np.testing.assert_allclose(one.rate, other.rate[:, ::-1], rtol=1e-6)
    np.testing.assert_allclose(one.scale, other.scale[:, ::-1], rtol=1e-6)


@pytest.mark.parametrize("angle", [60.0, 80.0, 120.0])
def test_a_tilted_shower_leaves_its_row_as_its_direction_says(angle: float) -> None:
    rate = TILTED.spots(100.0, mean_shape(100.0, MEDIUM), angle).rate
    layers = [5, 12]
    centers = [float(rate[25, :, layer].argmax() - 25) for layer in layers]
    expected = [(layer + 0.5) / math.tan(math.radians(angle)) for layer in layers]
    np.testing.assert_allclose(centers, expected, atol=0.75)


def test_a_slight_tilt_changes_little() -> None:
    upright, slight = (UPRIGHT.spots(100.0, mean_shape(100.0, MEDIUM), angle) for angle in (90.0, 89.9999))
    large = upright.rate > 1.0
    np.testing.assert_allclose(slight.rate[large], upright.rate[large], rtol=0.1)
    assert slight.rate.sum() == pytest.approx(upright.rate.sum(), rel=2e-3)


def test_no_cell_is_impossible() -> None:
    assert TILTED.spots(2.0, mean_shape(2.0, MEDIUM), 60.0).rate.min() > 0.0


def test_all_wrong_settings_of_a_box_are_named() -> None:
    with pytest.raises(InvalidInputError, match=r"`shape`.*`cell_size`"):
        ShowerBox(shape=(25, 0, 25), cell_size=-1.0)
