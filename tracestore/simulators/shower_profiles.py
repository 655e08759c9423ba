"""Shape of an electromagnetic shower: the published parametrization of Grindhammer and Peters.

Formulas and constants are those of G. Grindhammer and S. Peters, "The parameterized simulation of electromagnetic
showers in homogeneous and sampling calorimeters", hep-ex/0001020, appendix A: the Gamma profile along the depth, whose
maximum ``T`` and form ``alpha`` fluctuate together in their logarithms; the radial profile, a narrow core and a wide
tail; and the number of spots with its own profile along the depth. Depths are in radiation lengths, radii in Moliere
radii, energies in GeV. What a calorimeter is made of enters through the four numbers of a `Medium`; those are ours.

Two things are ours. In the paper the energy of each interval of depth fluctuates with the resolution of the
calorimeter and is shared equally by its spots; here the spots have exponential energies (`shower_spots`), and their
number makes the resolution: about 7 % at 1 GeV. And profiles are those of sampling calorimeters, while number
and depths of spots are those of homogeneous ones: there are several times as many, so that as many cells are hit as in
published Monte Carlo images (some 20 %). The other number was made to be small, for speed.

Knows nothing of cells, priors or traces.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError

__all__ = [
    "LongitudinalShape",
    "Medium",
    "RadialShape",
    "ShapeLaw",
    "depth_density",
    "mean_shape",
    "num_spots",
    "radial_shape",
    "shape_law",
    "spot_shape",
]

FloatArray = NDArray[np.float64]

LEAST_FORM = 1.05
"""Lowest form of a profile: at one the shower would begin at its maximum. Reached beyond four standard deviations."""
LEAST_RADIUS = 0.04
"""Smallest radius, in Moliere radii: the published forms are fits, and could leave the range that makes sense."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Medium:
    """What a sampling calorimeter is made of, as four effective numbers; the defaults are ours.

    The defaults stand for tungsten with silicon between, of the kind that detectors for electron-positron colliders
    are planned with. All problems are reported together.

    Examples
    --------
    >>> Medium().atomic_number
    74.0
    """

    atomic_number: float = 74.0
    """Effective atomic number; tungsten outweighs everything else."""
    critical_energy: float = 0.008
    """Energy in GeV at which the shower stops multiplying."""
    sampling_frequency: float = 1.0
    """Active layers in one radiation length: one in each layer of 5.1 mm."""
    electron_to_mip: float = 0.7
    """Response to electrons over that to minimum ionizing particles: 1 / (1 + 0.007 (74 - 14))."""

    def __post_init__(self) -> None:
        problems = [
            f"`{name}` must be a positive finite number; got {getattr(self, name)!r}"
            for name in ("atomic_number", "critical_energy", "sampling_frequency", "electron_to_mip")
            if not 0.0 < getattr(self, name) < math.inf
        ]
        if problems:
            message = "A medium cannot have these properties: " + "; ".join(problems) + "."
            raise InvalidInputError(message)


class LongitudinalShape(NamedTuple):
    """One Gamma profile along the depth."""

    maximum: float
    """Depth of the maximum, in radiation lengths."""
    form: float
    """``alpha``; the decline per radiation length is ``(form - 1) / maximum``."""


class ShapeLaw(NamedTuple):
    """Distribution of the two logarithms (maximum, form) at one energy: a bivariate Normal."""

    means: tuple[float, float]
    sds: tuple[float, float]
    correlation: float

    def shape(self, first: float, second: float) -> LongitudinalShape:
        """Return the profile that belongs to two independent standard Normal deviates."""
        together = math.sqrt(0.5 * (1.0 + self.correlation)) * first
        apart = math.sqrt(0.5 * (1.0 - self.correlation)) * second
        maximum = math.exp(self.means[0] + self.sds[0] * (together + apart))
        form = math.exp(self.means[1] + self.sds[1] * (together - apart))
        return LongitudinalShape(maximum, max(form, LEAST_FORM))


class RadialShape(NamedTuple):
    """Radial profile at some depths: ``share`` of the core with radius ``core``, the rest of the tail.

    Each part has density ``2 r R**2 / (r**2 + R**2)**2`` in the radius.
    """

    core: FloatArray
    tail: FloatArray
    share: FloatArray


def mean_shape(energy: float, medium: Medium) -> LongitudinalShape:
    """Return the profile of the mean shower.

    Parameters
    ----------
    energy
        Of the electron, in GeV.
    medium
        The calorimeter.

    Examples
    --------
    >>> mean_shape(100.0, Medium(electron_to_mip=1.0)).maximum - mean_shape(10.0, Medium()).maximum > 2.3
    True
    """
    log_y = _log_energy(energy, medium)
    inverse_frequency = 1.0 / medium.sampling_frequency
    maximum = log_y - 0.858 - 0.59 * inverse_frequency - 0.53 * (1.0 - medium.electron_to_mip)
    form = 0.21 + (0.492 + 2.38 / medium.atomic_number) * log_y - 0.444 * inverse_frequency
    return LongitudinalShape(maximum, form)


def shape_law(energy: float, medium: Medium) -> ShapeLaw:
    """Return how the profiles of single showers fluctuate.

    Parameters
    ----------
    energy
        Of the electron, in GeV; 1 GeV and more, below the fits have no meaning.
    medium
        The calorimeter.

    Examples
    --------
    >>> law = shape_law(100.0, Medium())
    >>> round(law.correlation, 3), law.sds[0] < shape_law(10.0, Medium()).sds[0]
    (0.567, True)
    """
    log_y = _log_energy(energy, medium)
    inverse_frequency = 1.0 / medium.sampling_frequency
    maximum = log_y - 0.812 - 0.55 * inverse_frequency - 0.69 * (1.0 - medium.electron_to_mip)
    form = 0.81 + (0.458 + 2.26 / medium.atomic_number) * log_y - 0.476 * inverse_frequency
    return ShapeLaw(
        means=(math.log(maximum), math.log(form)),
        sds=(1.0 / (-2.5 + 1.25 * log_y), 1.0 / (-0.82 + 0.79 * log_y)),
        correlation=0.784 - 0.023 * log_y,
    )


def spot_shape(shape: LongitudinalShape, medium: Medium) -> LongitudinalShape:
    """Return the profile of the number of spots of a shower with the given profile of energy.

    Examples
    --------
    >>> spot_shape(LongitudinalShape(8.0, 5.0), Medium()).maximum < 8.0
    True
    """
    return LongitudinalShape(
        shape.maximum * (0.698 + 0.00212 * medium.atomic_number),
        max(shape.form * (0.639 + 0.00334 * medium.atomic_number), LEAST_FORM),
    )


def num_spots(energy: float, medium: Medium) -> float:
    """Return the mean number of spots of an electron with an energy in GeV.

    Examples
    --------
    >>> round(num_spots(100.0, Medium()))
    22613
    """
    return 93.0 * math.log(medium.atomic_number) * math.pow(energy, 0.876)


def depth_density(depths: FloatArray, shape: LongitudinalShape) -> FloatArray:
    """Return the density of a profile along the depth, per radiation length.

    Parameters
    ----------
    depths
        Positive, in radiation lengths, any shape.
    shape
        The profile.

    Examples
    --------
    >>> depths = np.arange(0.005, 60.0, 0.01)
    >>> round(float(depth_density(depths, LongitudinalShape(8.0, 5.0)).sum() * 0.01), 6)
    1.0
    """
    decline = (shape.form - 1.0) / shape.maximum
    scale = shape.form * math.log(decline) - math.lgamma(shape.form)
    density: FloatArray = np.exp((shape.form - 1.0) * np.log(depths) - decline * depths + scale)
    return density


def radial_shape(scaled_depths: FloatArray, energy: float, medium: Medium) -> RadialShape:
    """Return the mean radial profile.

    Parameters
    ----------
    scaled_depths
        Depths over that of the maximum of this shower (``tau``), any shape.
    energy
        Of the electron, in GeV.
    medium
        The calorimeter.

    Examples
    --------
    >>> radial = radial_shape(np.array([1.0]), 100.0, Medium())
    >>> bool(radial.core < 0.2 < radial.tail), bool(0.0 < radial.share < 1.0)
    (True, True)
    """
    tau, log_energy, z = scaled_depths, math.log(energy), medium.atomic_number
    inverse_frequency, deficit = 1.0 / medium.sampling_frequency, 1.0 - medium.electron_to_mip
    early = inverse_frequency * np.exp(-tau)
    core = 0.0251 + 0.00319 * log_energy + (0.1162 - 0.000381 * z) * tau
    core = core - 0.0203 * deficit + 0.0397 * early
    from_start = tau - 0.645
    tail = (0.659 - 0.00309 * z) * (np.exp(-2.59 * from_start) + np.exp((0.3585 + 0.0421 * log_energy) * from_start))
    tail = tail - 0.14 * deficit - 0.495 * early
    before = (0.401 + 0.00187 * z - tau) / (1.313 - 0.0686 * log_energy)
    share = (2.632 - 0.00094 * z) * np.exp(before - np.exp(before))
    share = share + deficit * (0.348 - 0.642 * inverse_frequency * np.exp(-((tau - 1.0) ** 2)))
    return RadialShape(np.maximum(core, LEAST_RADIUS), np.maximum(tail, LEAST_RADIUS), np.clip(share, 0.0, 1.0))


def _log_energy(energy: float, medium: Medium) -> float:
    """Return ``ln y``, the logarithm of the energy over the critical one."""
    return math.log(energy / medium.critical_energy)
