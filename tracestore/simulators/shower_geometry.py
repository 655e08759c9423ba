"""Where the spots of a shower fall: the mean number of spots, and the mean energy of one, in every cell.

The calorimeter is a box of cells (x, y, depth). The electron enters at the middle of the front face; its direction
makes an angle with the face in the plane of y and depth, 90 degrees at normal incidence. Behind the box and at its
sides the shower leaks out.

Each part of the radial profile, ``R**2 / (pi (r**2 + R**2)**2)`` in two dimensions, is an average of Gaussians over
their precision ``s``, with weight ``R**2 exp(-s R**2)``. On a grid of precisions, in equal steps of the logarithm, the
sum of Gaussians is as good as the integral. A Gaussian is a product of a function of x and one of y, whose integrals
over cells are differences of error functions. So a shower costs products of small matrices, however many spots it has.

Our approximations: a layer is a few planes, and a row of cells has one depth in each of them, that of its middle.
Against spots thrown one by one, cells of an upright shower agree within a percent and those of a tilted one within a
tenth, but for the narrow core in its first two layers, which may come out one row aside. What flies out of the front is
lost. Sizes are in mm, and ours: cubic cells of 5.1 mm, which is one radiation length and 0.36 Moliere radii.

Knows nothing of priors or traces.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.simulators.shower_profiles import (
    LongitudinalShape,
    Medium,
    depth_density,
    num_spots,
    radial_shape,
    spot_shape,
)

__all__ = ["ShowerBox", "ShowerMapper", "SpotMap"]

FloatArray = NDArray[np.float64]

LOG_PRECISIONS = np.arange(math.log(1e-3), math.log(1e4), 0.8)
"""Grid of precisions, per squared Moliere radius; the sum over it equals the integral to 5e-5 for radii above 0.04."""
LEAST_DEPTH = 0.05
"""Depth along the axis, in radiation lengths, that stands for smaller and negative ones: no cell is impossible."""
_REACH = 6.0
_STEP = 1e-3
_PAIRS, _TILTED_PAIRS = 2, 1
"""Pairs of planes of a layer at which profiles are evaluated, those of Gauss and Legendre."""
_IN_PAIR = np.array([0.5 - math.sqrt(1.0 / 12.0), 0.5 + math.sqrt(1.0 / 12.0)])
_GRID_POINTS, _EARLY = 64, 0.3
"""Depths between which radial profiles are interpolated, and the depth below which these lie evenly; over that of the
maximum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShowerBox:
    """Cells of a calorimeter and the two lengths that a shower knows; all problems are reported together.

    Examples
    --------
    >>> ShowerBox(shape=(51, 51, 25)).num_cells
    65025
    """

    shape: tuple[int, int, int] = (25, 25, 25)
    """Number of cells along (x, y, depth)."""
    cell_size: float = 5.1
    """Size of a cell along x and y, in mm."""
    layer_depth: float = 5.1
    """Size of a cell along the depth, in mm."""
    radiation_length: float = 5.1
    """Effective radiation length in mm: that of tungsten is 3.5, the rest is thin."""
    moliere_radius: float = 14.0
    """Effective Moliere radius in mm."""

    def __post_init__(self) -> None:
        problems = []
        shape: tuple[object, ...] = self.shape
        if len(shape) != 3 or not all(isinstance(number, int) and number >= 1 for number in shape):
            problems.append(f"`shape` must be three positive whole numbers (x, y, depth); got {self.shape!r}")
        problems += [
            f"`{name}` must be a positive finite number; got {getattr(self, name)!r}"
            for name in ("cell_size", "layer_depth", "radiation_length", "moliere_radius")
            if not 0.0 < getattr(self, name) < math.inf
        ]
        if problems:
            message = "A calorimeter cannot be built from these settings: " + "; ".join(problems) + "."
            raise InvalidInputError(message)

    @property
    def num_cells(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)


class SpotMap(NamedTuple):
    """What a shower does to the cells on average."""

    rate: FloatArray
    """Mean number of spots of each cell, shape ``(x, y, depth)``."""
    scale: FloatArray
    """Mean energy in GeV of one spot, shape ``(1, y or 1, depth)``; all of it, not the visible part."""


class ShowerMapper:
    """Computes the spot maps of showers in one box.

    Parameters
    ----------
    box
        The cells.
    medium
        What they are made of.

    Examples
    --------
    >>> from tracestore.simulators.shower_profiles import mean_shape
    >>> mapper = ShowerMapper(ShowerBox(), Medium())
    >>> rate, scale = mapper.spots(100.0, mean_shape(100.0, Medium()))
    >>> rate.shape, bool(97.0 < (rate * scale).sum() < 100.0)
    ((25, 25, 25), True)
    """

    __slots__ = ("_across_x", "_across_y", "_edges_y", "_precisions", "_widths", "box", "medium")

    def __init__(self, box: ShowerBox, medium: Medium) -> None:
        self.box, self.medium = box, medium
        num_x, num_y, _ = box.shape
        self._precisions = np.exp(LOG_PRECISIONS)
        self._widths = np.sqrt(2.0 * self._precisions) / box.moliere_radius
        self._edges_y = _edges(num_y, box.cell_size)
        self._across_x = _shares(_edges(num_x, box.cell_size)[:, None] * self._widths).T.copy()
        self._across_y = _shares(self._edges_y[:, None] * self._widths)

    def spots(self, energy: float, shape: LongitudinalShape, angle: float = 90.0) -> SpotMap:
        """Return the mean spots of a shower.

        Parameters
        ----------
        energy
            Of the electron, in GeV.
        shape
            Profile of its energy along the axis.
        angle
            Between the direction and the front face in degrees, between 0 and 180. Below 90 the shower leans to large
            y, above to small y.
        """
        spots, number = spot_shape(shape, self.medium), num_spots(energy, self.medium)
        rows, density, depths = (
            self._upright(energy, shape, spots)
            if angle == 90.0
            else self._tilted(energy, shape, spots, math.radians(angle))
        )
        # layer by layer: products this small never go to several threads, and so are the same everywhere
        rate = (rows * number) @ self._across_x
        energies = depth_density(depths, shape).sum(axis=1)
        scale = energy / number * energies / density.sum(axis=1)
        return SpotMap(np.ascontiguousarray(rate.transpose(2, 1, 0)), scale.T[None])

    def _upright(self, energy: float, shape: LongitudinalShape, spots: LongitudinalShape) -> "_Rows":
        """Return the rows of a shower at normal incidence: each plane has one depth."""
        planes, thickness = self._planes(_PAIRS)
        depths = planes / self.box.radiation_length
        density = depth_density(depths, spots)
        weights = self._weights(depths / shape.maximum, energy)
        layers = np.einsum("lp,lpk->lk", density, weights) * (thickness / self.box.radiation_length)
        return _Rows(layers[:, None, :] * self._across_y, density[:, :, None], depths[:, :, None])

    def _tilted(self, energy: float, shape: LongitudinalShape, spots: LongitudinalShape, radians: float) -> "_Rows":
        """Return the rows of a tilted shower: in a plane, the depth along the axis varies with y."""
        sine, cosine = math.sin(radians), math.cos(radians)
        planes, thickness = self._planes(_TILTED_PAIRS)
        length = self.box.radiation_length
        edges = self._edges_y - planes[:, :, None] * (cosine / sine)  # from where the axis crosses the plane
        middles = 0.5 * (edges[:, :, 1:] + edges[:, :, :-1])
        depths = np.maximum(planes[:, :, None] / (sine * length) + middles * (cosine / length), LEAST_DEPTH)
        density = depth_density(depths, spots)
        weights = self._interpolated_weights(depths / shape.maximum, energy)
        weights *= density[..., None] * (thickness / (length * sine))
        weights *= _shares((edges * sine)[..., None] * self._widths)
        return _Rows(weights.sum(axis=1), density, depths)

    def _planes(self, num_pairs: int) -> tuple[FloatArray, float]:
        """Return the depths in mm of the planes of every layer, shape (layers, planes), and the thickness of each."""
        num_layers, thickness = self.box.shape[2], self.box.layer_depth / num_pairs
        planes = (np.arange(num_layers * num_pairs, dtype=np.float64)[:, None] + _IN_PAIR) * thickness
        return planes.reshape(num_layers, 2 * num_pairs), 0.5 * thickness

    def _weights(self, scaled_depths: FloatArray, energy: float) -> FloatArray:
        """Return the share of each Gaussian, on the last axis, in the radial profile at some depths."""
        radial = radial_shape(scaled_depths, energy, self.medium)
        step = float(LOG_PRECISIONS[1] - LOG_PRECISIONS[0])
        core, tail = (self._precisions * (radius * radius)[..., None] for radius in (radial.core, radial.tail))
        share = radial.share[..., None]
        weights: FloatArray = step * (share * core * np.exp(-core) + (1.0 - share) * tail * np.exp(-tail))
        return weights

    def _interpolated_weights(self, scaled_depths: FloatArray, energy: float) -> FloatArray:
        """Return the same for many depths, interpolated between a few."""
        most = math.log1p(float(scaled_depths.max()) / _EARLY)
        grid = np.linspace(0.0, most, _GRID_POINTS)
        known = self._weights(_EARLY * np.expm1(grid), energy)
        places = np.log1p(scaled_depths / _EARLY) * ((_GRID_POINTS - 1) / most)
        below = np.minimum(places.astype(np.int64), _GRID_POINTS - 2)
        weights = np.diff(known, axis=0)[below]
        weights *= (places - below)[..., None]
        weights += known[below]
        return weights


class _Rows(NamedTuple):
    """A shower before its cells along x are told apart."""

    rows: FloatArray
    """Spots of each row by Gaussian, for one spot in all, shape (layers, y, Gaussians)."""
    density: FloatArray
    """Density of spots along the axis, shape (layers, planes, y or 1)."""
    depths: FloatArray
    """Depth along the axis in radiation lengths, of the same shape."""


def _edges(number: int, size: float) -> FloatArray:
    """Return the edges of a row of cells whose middle is at zero."""
    return (np.arange(number + 1, dtype=np.float64) - 0.5 * number) * size


def _normal_table() -> FloatArray:
    """Return the distribution function of a standard Normal on a fine grid that begins at -`_REACH`."""
    grid = np.arange(round(2 * _REACH / _STEP) + 2) * _STEP - _REACH
    return np.array([0.5 * math.erfc(-point / math.sqrt(2.0)) for point in grid])


_NORMAL = _normal_table()


def _shares(edges: FloatArray) -> FloatArray:
    """Return what a standard Normal leaves between neighbors on the axis before the last, edges in its own units."""
    places = (np.clip(edges, -_REACH, _REACH) + _REACH) / _STEP
    below = places.astype(np.int64)
    lower = _NORMAL[below]
    values = lower + (places - below) * (_NORMAL[below + 1] - lower)
    differences: FloatArray = np.diff(values, axis=-2)
    return differences
