"""Electromagnetic showers in a calorimeter of small cells: a parametrized simulator, not a Monte Carlo of particles.

An electron of random energy (and direction) makes a shower whose profile along the depth fluctuates, and whose spots
fall into cells. The image, the visible energy of every cell, is an observation with an exact likelihood: the number of
spots of a cell is Poisson and the energy of each is exponential, so that a cell is zero exactly where no spot fell.

What is published: the profile along the depth, its fluctuations and their correlation, the radial profile and its
development, number and depths of the spots (Grindhammer and Peters, see `shower_profiles`). What is our choice: four
numbers that stand for tungsten and silicon (`Medium`), sizes of the cells, radiation length and Moliere radius
(`ShowerBox`), the sampling fraction, exponential energies of spots, and the mixture of formulas for sampling
and for homogeneous calorimeters. Nothing is fitted to a detector or to a Monte Carlo. Shape of the images and ranges of
energy and angle are those of published studies of generative networks.

The single spots are no draws of the trace, but summed over in the likelihood. As draws they would be up to a hundred
thousand positions in a trace, which nobody infers; noise in each cell, which would also give a likelihood, would
destroy the zeros; and an image kept as a tag would be float64 and never scored. So a trace is a handful of numbers
and its image, which the store keeps as float32 and compresses. A larger program that needs the image of a shower on
the way to its own observation calls `draw_shower`.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.simulators.base import Simulator, simulator
from tracestore.simulators.runtime import observe, sample, tag
from tracestore.simulators.shower_geometry import ShowerBox, ShowerMapper
from tracestore.simulators.shower_profiles import Medium, shape_law
from tracestore.simulators.shower_spots import SpotEnergies
from tracestore.traces.distributions import Normal, Uniform

__all__ = [
    "ANGLE_CONFIG",
    "ShowerConfig",
    "ShowerModel",
    "draw_shower",
    "shower",
    "shower_angle",
    "shower_simulator",
]

NORMAL_INCIDENCE = 90.0
"""Angle in degrees between the direction of the electron and the front face."""
LEAST_ENERGY = 1.0
"""Energy in GeV below which the published formulas are not used."""
_SHAPE = Normal(np.zeros(2), 1.0)
_UNIT = Uniform(0.0, 1.0)
_PATTERNS = 2.0**53


@dataclass(frozen=True, kw_only=True, slots=True)
class ShowerConfig:
    """Calorimeter and priors of a shower simulator; all problems are reported together.

    Examples
    --------
    >>> ShowerConfig(energy_range=(100.0, 200.0)).box.shape
    (25, 25, 25)
    """

    box: ShowerBox = field(default_factory=ShowerBox)
    """The cells."""
    medium: Medium = field(default_factory=Medium)
    """What they are made of."""
    sampling_fraction: float = 0.025
    """Visible part of the energy that is deposited."""
    energy_range: tuple[float, float] = (10.0, 500.0)
    """Lowest and highest energy in GeV, at least 1."""
    energy_prior: Literal["uniform", "log-uniform"] = "uniform"
    """Whether the energy is uniform or its logarithm is."""
    angle_range: tuple[float, float] | None = None
    """Lowest and highest angle between direction and front face in degrees, uniform in between; None is normal
    incidence, and no draw."""

    def __post_init__(self) -> None:
        problems = []
        if not 0.0 < self.sampling_fraction <= 1.0:
            problems.append(f"`sampling_fraction` must be above 0 and at most 1; got {self.sampling_fraction!r}")
        low, high = self.energy_range
        if not LEAST_ENERGY <= low < high < math.inf:
            problems.append(f"`energy_range` must be two ascending energies from 1 GeV on; got {self.energy_range!r}")
        if self.energy_prior not in {"uniform", "log-uniform"}:
            problems.append(f"`energy_prior` must be 'uniform' or 'log-uniform'; got {self.energy_prior!r}")
        if self.angle_range is not None:
            low, high = self.angle_range
            if not 30.0 <= low < high <= 150.0:
                problems.append(
                    f"`angle_range` must be two ascending angles from 30 to 150 degrees; got {self.angle_range!r}"
                )
        if problems:
            message = "Showers cannot be simulated with these settings: " + "; ".join(problems) + "."
            raise InvalidInputError(message)


ANGLE_CONFIG = ShowerConfig(box=ShowerBox(shape=(51, 51, 25)), energy_range=(2.0, 500.0), angle_range=(60.0, 120.0))
"""Settings of the bundled simulator `shower_angle`."""


class ShowerModel:
    """Showers in one calorimeter, as a distribution of images and as a program.

    Parameters
    ----------
    config
        Calorimeter and priors.

    Examples
    --------
    >>> model = ShowerModel(ShowerConfig())
    >>> cells = model.cells(100.0, np.zeros(2))
    >>> image = cells.sample(np.random.default_rng(1))
    >>> image.shape, bool(2.2 < image.sum() < 2.8), bool((image == 0.0).mean() > 0.8)
    ((25, 25, 25), True, True)
    """

    __slots__ = ("_mapper", "config")

    def __init__(self, config: ShowerConfig) -> None:
        self.config = config
        self._mapper = ShowerMapper(config.box, config.medium)

    def cells(self, energy: float, deviates: NDArray[np.float64], angle: float = NORMAL_INCIDENCE) -> SpotEnergies:
        """Return the distribution of the image of a shower.

        Parameters
        ----------
        energy
            Of the electron in GeV.
        deviates
            Two independent standard Normal numbers that fix the profile along the depth, shape ``(2,)``: the first
            raises maximum and form together, the second raises the maximum and lowers the form.
        angle
            Between the direction and the front face, in degrees; below 90 the shower leans to large y.

        Returns
        -------
        SpotEnergies
            Of the visible energies in GeV, shape ``(x, y, depth)``.

        Raises
        ------
        InvalidInputError
            When the energy is below 1 GeV, or the angle not between 30 and 150 degrees.
        """
        if not (LEAST_ENERGY <= energy < math.inf and 30.0 <= angle <= 150.0):
            message = (
                "A shower needs an energy from 1 GeV on and an angle from 30 to 150 degrees; "
                f"got {energy!r} GeV and {angle!r} degrees."
            )
            raise InvalidInputError(message)
        shape = shape_law(energy, self.config.medium).shape(float(deviates[0]), float(deviates[1]))
        rate, scale = self._mapper.spots(energy, shape, angle)
        return SpotEnergies(rate, scale * self.config.sampling_fraction)

    def run(self) -> None:
        """Draw an electron from the priors and observe its shower."""
        energy, angle = self._draw_electron()
        deviates = sample(_SHAPE, name="shape")
        observe(self.cells(energy, deviates, angle), name="shower", dtype=np.float32)

    def _draw_electron(self) -> tuple[float, float]:
        low, high = self.config.energy_range
        if self.config.energy_prior == "uniform":
            energy = float(sample(Uniform(low, high), name="energy"))
        else:
            energy = math.exp(sample(Uniform(math.log(low), math.log(high)), name="log_energy"))
            tag(energy, name="energy")
        if self.config.angle_range is None:
            return energy, NORMAL_INCIDENCE
        return energy, float(sample(Uniform(*self.config.angle_range), name="angle"))


def draw_shower(
    model: ShowerModel,
    energy: float,
    angle: float = NORMAL_INCIDENCE,
    *,
    name: str = "shower",
    control: bool = True,
) -> NDArray[np.float32]:
    """Draw the image of a shower inside a larger program; all of it is recorded by three numbers.

    Two are the deviates of the profile along the depth. The third, uniform, is the number of the pattern of spots:
    every value stands for one pattern, which it fixes to the last bit, and neighboring values have nothing in common.
    So a trace stays small and can be run again, and a Markov chain that moves this number draws another pattern.

    Parameters
    ----------
    model
        The calorimeter; its priors are not used.
    energy
        Of the electron in GeV.
    angle
        Between the direction and the front face, in degrees.
    name
        Beginning of the names of the draws, ``NAME.shape`` and ``NAME.spots``.
    control
        False keeps inference from proposing the draws: they come from their priors.

    Returns
    -------
    numpy.ndarray
        Visible energies in GeV, float32 of shape ``(x, y, depth)``.

    Raises
    ------
    InvalidInputError
        When the energy is below 1 GeV, or the angle not between 30 and 150 degrees.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators import PriorController, run_trace
    >>> model = ShowerModel(ShowerConfig())
    >>> @ts.simulator
    ... def two_electrons():
    ...     image = draw_shower(model, 20.0, name="first") + draw_shower(model, 50.0, name="second")
    ...     ts.observe(ts.Normal(image.sum(axis=(0, 1)), 0.01), name="layers")
    >>> trace = run_trace(two_electrons, PriorController(), np.random.default_rng(1))
    >>> [site.name for site in trace.sites]
    ['first.shape', 'first.spots', 'second.shape', 'second.spots', 'layers']
    """
    deviates = sample(_SHAPE, name=f"{name}.shape", control=control)
    pattern = float(sample(_UNIT, name=f"{name}.spots", control=control))
    cells = model.cells(energy, deviates, angle)
    return cells.sample(np.random.default_rng(int(pattern * _PATTERNS))).astype(np.float32)


def shower_simulator(config: ShowerConfig) -> Simulator:
    """Return a simulator of showers with settings of your own.

    Its draws and observation are those of `shower`, with ``log_energy`` drawn and ``energy`` a tag when the energy is
    log-uniform, and ``angle`` drawn when there is a range of it. Settings that differ from the defaults are part of its
    name, and so of every job.

    Parameters
    ----------
    config
        Calorimeter and priors.

    Examples
    --------
    >>> import tracestore as ts
    >>> program = shower_simulator(ShowerConfig(energy_range=(100.0, 200.0)))
    >>> store = ts.simulate(program, "showers", num_traces=20, seed=1)
    >>> labels, images = store.as_arrays(["energy"], observations=["shower"])
    >>> labels.shape, images.shape, bool((labels >= 100.0).all())
    ((20, 1), (20, 25, 25, 25), True)
    """
    default = ShowerConfig()
    values = {one.name: getattr(config, one.name) for one in fields(config)}
    changed = [f"{name}={value!r}" for name, value in values.items() if value != getattr(default, name)]
    name = f"{__name__}:shower_simulator({', '.join(changed)})"
    return Simulator(ShowerModel(config).run, reentrant=True, name=name)


_UPRIGHT = ShowerModel(ShowerConfig())
_TILTED = ShowerModel(ANGLE_CONFIG)


@simulator(reentrant=True)
def shower() -> None:
    """Shower of an electron of 10 to 500 GeV at normal incidence, in 25 x 25 x 25 cells.

    Draws: ``energy`` in GeV, and ``shape``, two standard Normal numbers that fix the profile along the depth.
    Observation: ``shower``, visible energies in GeV, float32 of shape (25, 25, 25): x, y, depth.
    """
    _UPRIGHT.run()


@simulator(reentrant=True)
def shower_angle() -> None:
    """Shower of an electron of 2 to 500 GeV at 60 to 120 degrees to the front face, in 51 x 51 x 25 cells.

    Draws: ``energy`` in GeV, ``angle`` in degrees, and ``shape`` as in `shower`. Observation: ``shower``, visible
    energies in GeV, float32 of shape (51, 51, 25): x, y, depth.
    """
    _TILTED.run()
