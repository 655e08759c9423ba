"""How gradient-based chains learn their step size and the shape of the posterior in their warm-up.

The step size follows Hoffman and Gelman (JMLR 2014): a first guess (algorithm 4), then dual averaging towards a mean
acceptance (section 3.2). The shape is estimated in windows that double, between a first and a last stretch for the step
size alone, as the Stan reference manual lays out its warm-up. Both learn from all chains together.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DualAveraging", "Shape", "estimate_shape", "window_ends"]

Array = NDArray[np.float64]

_SHRINKAGE, _OFFSET, _DECAY = 0.05, 10.0, 0.75
"""Gamma, t0 and kappa of the paper."""
_FIRST, _WINDOW, _LAST = 75, 25, 50
"""Steps of the stretches of a long warm-up, as in the manual."""
_PRIOR_DRAWS = 5.0
"""Weight of the former shape, in draws."""


class DualAveraging:
    """Tunes a step size to a mean acceptance.

    Parameters
    ----------
    step_size
        First guess.
    target
        Mean acceptance to reach.

    Examples
    --------
    >>> tuning = DualAveraging(1.0, 0.8)
    >>> for _ in range(2000):
    ...     tuning.update(math.exp(-tuning.step_size))
    >>> round(math.exp(-tuning.averaged), 2)
    0.8
    """

    def __init__(self, step_size: float, target: float) -> None:
        self.target = target
        self.restart(step_size)

    def restart(self, step_size: float) -> None:
        """Forget everything but a first guess."""
        self.step_size = self.averaged = step_size
        self._center = math.log(10.0 * step_size)
        self._count, self._error, self._log_averaged = 0, 0.0, 0.0

    def update(self, acceptance: float) -> None:
        """Learn from the acceptance of one step."""
        self._count += 1
        share = 1.0 / (self._count + _OFFSET)
        self._error = (1.0 - share) * self._error + share * (self.target - acceptance)
        log_step = self._center - math.sqrt(self._count) / _SHRINKAGE * self._error
        weight = self._count**-_DECAY
        self._log_averaged = weight * log_step + (1.0 - weight) * self._log_averaged
        self.step_size, self.averaged = math.exp(log_step), math.exp(self._log_averaged)


@dataclass(frozen=True, slots=True)
class Shape:
    """A linear map from directions of unit width to coordinates, and how wide the widest direction is after it."""

    factor: Array
    """Scales, shape ``(num_coordinates,)``, or a lower triangle, shape ``(num_coordinates, num_coordinates)``."""
    extent: float
    """Standard deviation of the posterior along its longest direction, in units of the map."""

    def stretch(self, directions: Array) -> Array:
        """Map directions of each chain to coordinates."""
        return directions * self.factor if self.factor.ndim == 1 else directions @ self.factor.T

    def pull_back(self, gradient: Array) -> Array:
        """Map gradients in coordinates to gradients in directions."""
        return gradient * self.factor if self.factor.ndim == 1 else gradient @ self.factor


def estimate_shape(points: Array, former: Shape, metric: str) -> Shape:
    """Estimate the shape of the posterior from points of it.

    Parameters
    ----------
    points
        Coordinates, shape ``(num_points, num_coordinates)``.
    former
        The shape in use; it counts as some draws, so that few points do not lead astray.
    metric
        ``diagonal`` or ``dense``.

    Examples
    --------
    >>> points = np.random.default_rng(1).normal(0.0, [1.0, 10.0], (20_000, 2))
    >>> found = estimate_shape(points, Shape(np.ones(2), 1.0), "diagonal")
    >>> found.factor.round().tolist(), round(found.extent, 1)
    ([1.0, 10.0], 1.0)
    """
    num_points, size = points.shape
    if num_points < 2 or not size:
        return former
    weight = num_points / (num_points + _PRIOR_DRAWS)
    variances = points.var(axis=0, ddof=1)
    known = former.factor**2 if former.factor.ndim == 1 else (former.factor**2).sum(axis=1)
    # of numbers that did not move at all nothing is learned
    scales = np.sqrt(np.where(variances > 0.0, np.exp(_mixed(variances, known, weight)), known))
    unit = (points - points.mean(axis=0)) / scales
    # shrunk towards independence, the more the fewer points there are
    correlation = num_points / (num_points + _PRIOR_DRAWS + size) * (unit.T @ unit / (num_points - 1))
    correlation[np.diag_indices(size)] = 1.0
    if metric == "dense":
        try:
            # in the memory layout in which it is read back: products depend on it, to the last bit
            return Shape(np.ascontiguousarray(scales[:, None] * np.linalg.cholesky(correlation)), 1.0)
        except np.linalg.LinAlgError:  # as good as degenerate
            pass
    return Shape(scales, math.sqrt(max(float(np.linalg.eigvalsh(correlation)[-1]), 1.0)))


def _mixed(variances: Array, known: Array, weight: float) -> Array:
    """Mean of the logs: scales differ by orders of magnitude."""
    with np.errstate(divide="ignore"):
        mixed: Array = weight * np.log(variances) + (1.0 - weight) * np.log(known)
    return mixed


def window_ends(warmup: int) -> list[int]:
    """Return the steps of a warm-up after which the shape is estimated anew.

    Parameters
    ----------
    warmup
        Steps of the whole warm-up.

    Examples
    --------
    >>> window_ends(1000)
    [75, 100, 150, 250, 450, 950]
    >>> window_ends(100)
    [15, 90]
    """
    if warmup < 20:
        return []
    if warmup < _FIRST + _WINDOW + _LAST:
        return [int(0.15 * warmup), warmup - int(0.1 * warmup)]
    last, ends, size = warmup - _LAST, [_FIRST], _WINDOW
    while ends[-1] < last:
        end = ends[-1] + size
        size *= 2
        ends.append(last if end + size > last else end)
    return ends
