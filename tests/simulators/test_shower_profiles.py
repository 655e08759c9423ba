"""The published parametrization: its formulas at chosen numbers, and what follows from them."""

import math

import numpy as np
import pytest

from tracestore.errors import InvalidInputError
from tracestore.simulators.shower_profiles import (
    LongitudinalShape,
    Medium,
    ShapeLaw,
    depth_density,
    mean_shape,
    num_spots,
    radial_shape,
    shape_law,
    spot_shape,
)

HOMOGENEOUS = Medium(atomic_number=80.0, critical_energy=0.01, sampling_frequency=1e12, electron_to_mip=1.0)
ENERGY_OF_LOG_8 = 0.01 * math.exp(8.0)


def test_the_mean_profile_of_a_homogeneous_calorimeter_is_the_published_one() -> None:
    maximum, form = mean_shape(ENERGY_OF_LOG_8, HOMOGENEOUS)
    assert maximum == pytest.approx(8.0 - 0.858)
    assert form == pytest.approx(0.21 + (0.492 + 2.38 / 80.0) * 8.0)


def test_sampling_moves_the_mean_profile_as_published() -> None:
    sampling = Medium(atomic_number=80.0, critical_energy=0.01, sampling_frequency=2.0, electron_to_mip=0.6)
    change = np.subtract(mean_shape(ENERGY_OF_LOG_8, sampling), mean_shape(ENERGY_OF_LOG_8, HOMOGENEOUS))
    np.testing.assert_allclose(change, [-0.59 / 2.0 - 0.53 * 0.4, -0.444 / 2.0])


@pytest.mark.parametrize("medium", [HOMOGENEOUS, Medium()])
def test_the_maximum_moves_by_the_logarithm_of_the_energy(medium: Medium) -> None:
    depths = [mean_shape(energy, medium).maximum for energy in (5.0, 50.0, 500.0)]
    np.testing.assert_allclose(np.diff(depths), math.log(10.0))


def test_fluctuations_are_the_published_ones() -> None:
    sampling = Medium(atomic_number=80.0, critical_energy=0.01, sampling_frequency=2.0, electron_to_mip=0.6)
    law = shape_law(ENERGY_OF_LOG_8, sampling)
    maximum = 8.0 - 0.812 - 0.55 / 2.0 - 0.69 * 0.4
    form = 0.81 + (0.458 + 2.26 / 80.0) * 8.0 - 0.476 / 2.0
    np.testing.assert_allclose(law.means, np.log([maximum, form]))
    np.testing.assert_allclose(law.sds, [1.0 / (-2.5 + 1.25 * 8.0), 1.0 / (-0.82 + 0.79 * 8.0)])
    assert law.correlation == pytest.approx(0.784 - 0.023 * 8.0)


@pytest.mark.statistical
def test_two_standard_deviates_have_the_moments_of_the_law() -> None:
    law = ShapeLaw((2.0, 1.5), (0.1, 0.05), 0.6)
    logs = np.log([law.shape(*pair) for pair in np.random.default_rng(1).standard_normal((20_000, 2))])
    np.testing.assert_allclose(logs.mean(axis=0), law.means, atol=5 * 0.1 / math.sqrt(20_000))
    np.testing.assert_allclose(logs.std(axis=0), law.sds, rtol=0.03)
    assert np.corrcoef(logs.T)[0, 1] == pytest.approx(0.6, abs=0.03)


def test_a_profile_never_begins_at_its_maximum() -> None:
    assert ShapeLaw((2.0, 0.1), (0.1, 1.0), 0.0).shape(-5.0, 5.0).form == pytest.approx(1.05)


@pytest.mark.parametrize("shape", [LongitudinalShape(8.0, 5.0), LongitudinalShape(3.0, 1.5)])
def test_a_profile_is_a_density_with_its_maximum_where_it_says(shape: LongitudinalShape) -> None:
    depths = (np.arange(400_000, dtype=np.float64) + 0.5) * 1e-3
    density = depth_density(depths, shape)
    assert density.sum() * 1e-3 == pytest.approx(1.0, abs=1e-5)
    assert depths[density.argmax()] == pytest.approx(shape.maximum, abs=2e-3)


def test_spots_are_as_many_as_published() -> None:
    assert num_spots(1.0, HOMOGENEOUS) == pytest.approx(93.0 * math.log(80.0))
    assert num_spots(100.0, HOMOGENEOUS) / num_spots(10.0, HOMOGENEOUS) == pytest.approx(10.0**0.876)


def test_spots_lie_before_the_energy() -> None:
    maximum, form = spot_shape(LongitudinalShape(8.0, 5.0), HOMOGENEOUS)
    assert maximum == pytest.approx(8.0 * (0.698 + 0.00212 * 80.0))
    assert form == pytest.approx(5.0 * (0.639 + 0.00334 * 80.0))


def test_radii_of_a_homogeneous_calorimeter_are_the_published_ones() -> None:
    log_energy = math.log(50.0)
    core, tail, share = radial_shape(np.array([1.5]), 50.0, HOMOGENEOUS)
    assert core == pytest.approx(0.0251 + 0.00319 * log_energy + (0.1162 - 0.000381 * 80.0) * 1.5)
    spread = math.exp(-2.59 * 0.855) + math.exp((0.3585 + 0.0421 * log_energy) * 0.855)
    assert tail == pytest.approx((0.659 - 0.00309 * 80.0) * spread)
    before = (0.401 + 0.00187 * 80.0 - 1.5) / (1.313 - 0.0686 * log_energy)
    assert share == pytest.approx((2.632 - 0.00094 * 80.0) * math.exp(before - math.exp(before)))


def test_the_core_widens_with_depth() -> None:
    core = radial_shape(np.linspace(0.5, 3.0, 20), 100.0, Medium()).core
    assert (np.diff(core) > 0.0).all()


@pytest.mark.parametrize("energy", [1.0, 10.0, 1000.0])
def test_radii_and_share_stay_in_range_at_any_depth(energy: float) -> None:
    core, tail, share = radial_shape(np.linspace(0.0, 20.0, 500), energy, Medium())
    assert core.min() >= 0.04
    assert tail.min() >= 0.04
    assert share.min() >= 0.0
    assert share.max() <= 1.0


def test_all_wrong_properties_of_a_medium_are_named() -> None:
    with pytest.raises(InvalidInputError, match=r"`atomic_number`.*`critical_energy`"):
        Medium(atomic_number=-1.0, critical_energy=math.nan)
