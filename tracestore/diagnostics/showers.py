"""What physicists measure on showers: profiles, response, hits and moments.

A shower is an array of energies of cells ``(x, y, depth)``. `summarize_showers` reads the cells once and keeps what
everything else is computed from, a hundred numbers a shower; summaries of batches are joined by `join_summaries`.
Numbers in, numbers out; knows nothing of simulators, networks or traces.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tracestore.diagnostics.bands import finite_numbers
from tracestore.errors import InvalidInputError

__all__ = [
    "AXES",
    "ShowerFeatures",
    "ShowerSummary",
    "join_summaries",
    "shower_features",
    "summarize_showers",
]

FloatArray = npt.NDArray[np.float64]

AXES = ("x", "y", "depth")
"""Names of the axes of a shower."""
_BLOCK_CELLS = 2**22
_LEAST_HITS = 0.5
"""Stands for no hit in a logarithm."""


@dataclass(frozen=True, slots=True, eq=False)
class ShowerSummary:
    """What is kept of N showers.

    Examples
    --------
    >>> cells = np.zeros((1, 3, 3, 4))
    >>> cells[0, 1, 1, :2] = 1.0, 3.0
    >>> summary = summarize_showers(cells, thresholds=(0.0, 2.0))
    >>> summary.total, summary.profiles[2], summary.hits
    (array([4.]), array([[1., 3., 0., 0.]]), array([[2, 1]]))
    >>> summary.centers, summary.widths
    (array([[1.  , 1.  , 0.75]]), array([[0.       , 0.       , 0.4330127]]))
    """

    profiles: tuple[FloatArray, FloatArray, FloatArray]
    """Energy by cell along each axis, summed over the other two: three arrays of shape ``(N, cells of the axis)``."""
    hits: npt.NDArray[np.int64]
    """Number of cells above each threshold, shape ``(N, thresholds)``."""
    thresholds: tuple[float, ...]
    """In the unit of the cells; a hit is above, not at, the threshold."""

    def __len__(self) -> int:
        """Showers."""
        return len(self.hits)

    @property
    def total(self) -> FloatArray:
        """Energy of all cells of each shower, shape ``(N,)``."""
        total: FloatArray = self.profiles[2].sum(axis=1)
        return total

    @property
    def centers(self) -> FloatArray:
        """Mean cell along each axis, weighted by energy, shape ``(N, 3)``; the middle when there is no energy."""
        return np.stack([_moments(profile)[0] for profile in self.profiles], axis=1)

    @property
    def widths(self) -> FloatArray:
        """Standard deviation along each axis in cells, weighted by energy, shape ``(N, 3)``; zero at least."""
        return np.stack([_moments(profile)[1] for profile in self.profiles], axis=1)

    def select(self, chosen: npt.ArrayLike) -> "ShowerSummary":
        """Return the summary of some of the showers, by indices or a mask."""
        rows = np.asarray(chosen)
        one, two, three = (profile[rows] for profile in self.profiles)
        return ShowerSummary((one, two, three), self.hits[rows], self.thresholds)


class ShowerFeatures(NamedTuple):
    """A table of high-level features."""

    names: tuple[str, ...]
    values: FloatArray
    """Shape ``(N, names)``."""


def summarize_showers(showers: npt.ArrayLike, *, thresholds: Sequence[float] = (0.0,)) -> ShowerSummary:
    """Read the cells of showers once and keep what observables are computed from.

    Parameters
    ----------
    showers
        Energies, shape ``(N, x, y, depth)``, any unit; a memory map is read in blocks.
    thresholds
        Energies above which cells are counted as hits.

    Returns
    -------
    ShowerSummary
        Of the same showers in the same order.

    Raises
    ------
    InvalidInputError
        When there is no shower, the shape is another, a cell is not finite, or there is no threshold.

    Examples
    --------
    >>> summarize_showers(np.ones((2, 3, 4, 5))).hits.tolist()
    [[60], [60]]
    """
    cells = np.asarray(showers)
    if cells.ndim != 4 or not cells.size or cells.dtype.kind not in "fiu":
        message = (
            f"Showers must be numbers of shape (N, x, y, depth), with N of 1 or more; got {cells.dtype} {cells.shape}."
        )
        raise InvalidInputError(message, argument="showers")
    limits = tuple(float(threshold) for threshold in thresholds)
    if not limits or not all(map(math.isfinite, limits)):
        message = f"`thresholds` must be one finite number or more; got {limits!r}."
        raise InvalidInputError(message, argument="thresholds")
    step = max(1, _BLOCK_CELLS // math.prod(cells.shape[1:]))
    parts = [_summarize_block(cells[low : low + step], limits, low) for low in range(0, len(cells), step)]
    return join_summaries(parts)


def join_summaries(parts: Sequence[ShowerSummary]) -> ShowerSummary:
    """Join summaries of batches, in order.

    Raises
    ------
    InvalidInputError
        When there is none, or they differ in shape or thresholds.

    Examples
    --------
    >>> part = summarize_showers(np.ones((2, 3, 4, 5)))
    >>> len(join_summaries([part, part]))
    4
    """
    kinds = {(part.thresholds, *(profile.shape[1] for profile in part.profiles)) for part in parts}
    if len(kinds) != 1:
        message = f"Only summaries of the same cells and thresholds can be joined; got {len(kinds)} kinds."
        raise InvalidInputError(message, argument="parts")
    one, two, three = (np.concatenate([part.profiles[axis] for part in parts]) for axis in range(3))
    return ShowerSummary((one, two, three), np.concatenate([part.hits for part in parts]), parts[0].thresholds)


def shower_features(
    summary: ShowerSummary, energies: npt.ArrayLike, *, angles: npt.ArrayLike | None = None
) -> ShowerFeatures:
    """Return the high-level features by which two sets of showers are compared and told apart.

    Parameters
    ----------
    summary
        Of the showers.
    energies
        Of the particles, shape ``(N,)``, positive.
    angles
        Of the particles, shape ``(N,)``, where they differ.

    Returns
    -------
    ShowerFeatures
        Logarithm of the energy, the angle, response (total over energy), logarithms of the numbers of hits, center and
        width along each axis, and the shares of the energy in the first and in the last third of the layers.

    Raises
    ------
    InvalidInputError
        When there is not one positive energy, and one angle, a shower.

    Examples
    --------
    >>> table = shower_features(summarize_showers(np.ones((2, 3, 3, 6))), [10.0, 20.0])
    >>> table.names[:3], table.values.shape
    (('log_energy', 'response', 'log_hits_above_0'), (2, 11))
    """
    given = _one_a_shower(energies, "energies", len(summary))
    if not (given > 0.0).all():
        message = f"Energies must be positive; the lowest is {float(given.min())!r}."
        raise InvalidInputError(message, argument="energies")
    columns = {"log_energy": np.log(given)}
    if angles is not None:
        columns["angle"] = _one_a_shower(angles, "angles", len(summary))
    columns["response"] = summary.total / given
    for threshold, hits in zip(summary.thresholds, summary.hits.T, strict=True):
        columns[f"log_hits_above_{threshold:g}"] = np.log(np.maximum(hits, _LEAST_HITS))
    for name, center, width in zip(AXES, summary.centers.T, summary.widths.T, strict=True):
        columns |= {f"center_{name}": center, f"width_{name}": width}
    layers = np.array_split(summary.profiles[2], 3, axis=1)
    scale = np.where(summary.total > 0.0, summary.total, 1.0)
    columns |= {"first_third": layers[0].sum(axis=1) / scale, "last_third": layers[2].sum(axis=1) / scale}
    return ShowerFeatures(tuple(columns), np.stack(list(columns.values()), axis=1))


def _summarize_block(cells: npt.NDArray[np.generic], thresholds: tuple[float, ...], first: int) -> ShowerSummary:
    block = np.asarray(cells)
    x, y, depth = (block.sum(axis=axes, dtype=np.float64) for axes in ((2, 3), (1, 3), (1, 2)))
    is_bad = ~np.isfinite(depth).all(axis=1)
    if is_bad.any():
        index = first + int(np.flatnonzero(is_bad)[0])
        message = f"Cells must be finite; shower {index} has one that is not."
        raise InvalidInputError(message, argument="showers", index=index)
    flat = block.reshape(len(block), -1)
    hits = np.stack([np.count_nonzero(flat > threshold, axis=1) for threshold in thresholds], axis=1)
    return ShowerSummary((x, y, depth), hits.astype(np.int64), thresholds)


def _moments(profile: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of the cell, shape ``(N,)`` each."""
    places = np.arange(profile.shape[1], dtype=np.float64)
    total = profile.sum(axis=1)
    has_energy = total > 0.0
    scale = np.where(has_energy, total, 1.0)
    mean = np.where(has_energy, profile @ places / scale, places.mean())
    variance = ((places - mean[:, None]) ** 2 * profile).sum(axis=1) / scale
    return mean, np.sqrt(np.where(has_energy, np.maximum(variance, 0.0), 0.0))


def _one_a_shower(values: npt.ArrayLike, name: str, number: int) -> FloatArray:
    numbers = finite_numbers(values, name)
    if numbers.shape != (number,):
        message = f"`{name}` must have one number for each of {number} showers; got shape {numbers.shape}."
        raise InvalidInputError(message, argument=name)
    return numbers
