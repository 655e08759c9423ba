"""A deep-inelastic cross-section at leading order with toy parton densities, and its gradient, in numpy.

Electrons of a collider scatter off protons. At momentum fraction ``x`` and squared momentum transfer ``Q2``,

    d2(sigma) / dx dQ2 = 2 pi alpha^2 / (x Q2^2) (1 + (1 - y)^2) F2(x, Q2),    y = Q2 / (s x),

with ``F2 = 4/9 x u(x, Q2) + 1/9 x d(x, Q2) + S(x, Q2)`` and, at ``t = log(log(Q2 / L2) / log(Q20 / L2))``,

    x u = 2 / B(a, b_u + 1) x^a (1 - x)^(b_u + k t),        x d = 1 / B(a, b_d + 1) x^a (1 - x)^(b_d + k t),
    S = sea x^(-slope (1 + t)) (1 - x)^7.

Valence quarks have a Regge intercept in common and obey the number sum rules at the starting scale; powers that are
linear in ``t`` stand for evolution, as in D. Duke and J. Owens, Phys. Rev. D 30 (1984) 49. That they are toys, what is
fixed and the sizes of the constants are choices of this module. Cross-sections are in pb / GeV^2, integrals in pb.

These functions are the fallback of ``native/src/cross_section.cpp``, which has the same formulas. Knows no kernels.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tracestore.traces.distributions.special import lgamma

__all__ = [
    "COUPLING",
    "PARAMETERS",
    "Q2_RANGE",
    "SQUARED_ENERGY",
    "X_RANGE",
    "cross_section",
    "cross_section_gradient",
    "highest_structure",
    "quadrature",
    "sum_of_log_cross_sections",
    "sum_of_log_cross_sections_gradient",
    "total_cross_section",
    "total_cross_section_gradient",
]

Array = NDArray[np.float64]

PARAMETERS = ("intercept", "up_power", "down_power", "sea", "slope", "evolution")
"""Names of the parameters, in order: ``a``, ``b_u``, ``b_d``, ``sea``, ``slope`` and ``k`` above."""
X_RANGE = (0.01, 0.75)
"""Momentum fractions that are measured."""
Q2_RANGE = (4.0, 1000.0)
"""Squared momentum transfers that are measured, GeV^2."""
SQUARED_ENERGY = 101_124.0
"""Square of the energy of a collision, GeV^2."""

COUPLING = 1.3028e5
"""2 pi alpha^2 (hbar c)^2, pb GeV^2."""
LOG_LAMBDA2 = math.log(0.04)
LOG_START = math.log(math.log(Q2_RANGE[0]) - LOG_LAMBDA2)
SEA_POWER = 7.0
_POINTS_AT_ONCE = 8192
_DIGAMMA_SERIES = (691.0 / 32760, 1.0 / 132, 1.0 / 240, 1.0 / 252, 1.0 / 120, 1.0 / 12)


def cross_section(parameters: Array, points: Array) -> Array:
    """Return the cross-section at each point, for each row of parameters.

    Parameters
    ----------
    parameters
        Positive, in the order of `PARAMETERS`, shape ``(num_rows, 6)``.
    points
        Columns ``x`` and ``Q2``, shape ``(num_points, 2)``. Outside of `X_RANGE` and `Q2_RANGE` nothing is seen: zero.

    Returns
    -------
    ndarray of float64
        In pb / GeV^2, shape ``(num_rows, num_points)``.

    Examples
    --------
    >>> parameters = np.array([[0.7, 3.5, 4.5, 0.4, 0.15, 0.6]])
    >>> cross_section(parameters, np.array([[0.1, 10.0]])).round(1)
    array([[15185.4]])
    """
    out = np.empty((len(parameters), len(points)))
    for low, part in _parts_of(points):
        for row, numbers in enumerate(parameters):
            out[row, low : low + len(part)] = _Terms(numbers, part).values()
    return out


def cross_section_gradient(parameters: Array, points: Array, weights: Array) -> tuple[Array, Array]:
    """Return `cross_section`, and the gradient of its weighted sum over points.

    Parameters
    ----------
    parameters, points
        As in `cross_section`.
    weights
        Shape ``(num_rows, num_points)``.

    Examples
    --------
    >>> parameters = np.array([[0.7, 3.5, 4.5, 0.4, 0.15, 0.6]])
    >>> cross_section_gradient(parameters, np.array([[0.1, 10.0]]), np.ones((1, 1)))[1].shape
    (1, 6)
    """
    out, gradient = np.empty((len(parameters), len(points))), np.zeros(parameters.shape)
    for low, part in _parts_of(points):
        here = slice(low, low + len(part))
        for row, numbers in enumerate(parameters):
            terms = _Terms(numbers, part)
            out[row, here] = terms.values()
            gradient[row] += terms.gradient(weights[row, here] * terms.factor)
    return out, gradient


def sum_of_log_cross_sections(parameters: Array, points: Array) -> Array:
    """Return the sum over events of the logs of `cross_section`.

    Parameters
    ----------
    parameters, points
        As in `cross_section`.

    Returns
    -------
    ndarray of float64
        Shape ``(num_rows,)``.

    Examples
    --------
    >>> parameters = np.array([[0.7, 3.5, 4.5, 0.4, 0.15, 0.6]])
    >>> sum_of_log_cross_sections(parameters, np.array([[0.1, 10.0], [0.1, 10.0]])).round(3)
    array([19.256])
    """
    out = np.zeros(len(parameters))
    for _, part in _parts_of(points):
        for row, numbers in enumerate(parameters):
            out[row] += _Terms(numbers, part).sum_of_logs()
    return out


def sum_of_log_cross_sections_gradient(parameters: Array, points: Array, weights: Array) -> tuple[Array, Array]:
    """Return `sum_of_log_cross_sections` and its gradient.

    Parameters
    ----------
    parameters, points
        As in `cross_section`.
    weights
        Factors of the rows' gradients, shape ``(num_rows,)``.

    Examples
    --------
    >>> parameters = np.array([[0.7, 3.5, 4.5, 0.4, 0.15, 0.6]])
    >>> sum_of_log_cross_sections_gradient(parameters, np.array([[0.1, 10.0]]), np.ones(1))[1].shape
    (1, 6)
    """
    out, gradient = np.zeros(len(parameters)), np.zeros(parameters.shape)
    for _, part in _parts_of(points):
        for row, numbers in enumerate(parameters):
            terms = _Terms(numbers, part)
            out[row] += terms.sum_of_logs()
            gradient[row] += weights[row] * terms.gradient(1.0 / terms.structure())
    return out, gradient


def total_cross_section(parameters: Array, points: Array | None = None) -> Array:
    """Return the integral of `cross_section` over `X_RANGE` and `Q2_RANGE`.

    By Gauss-Legendre quadrature in ``log x`` and ``log Q2``. The relative error is below 1e-12 for parameters within
    the priors of `tracestore.simulators.cross_section`, and grows with the powers.

    Parameters
    ----------
    parameters
        As in `cross_section`.
    points
        Not used; fallbacks of kernels get points.

    Returns
    -------
    ndarray of float64
        In pb, shape ``(num_rows,)``.

    Examples
    --------
    >>> total_cross_section(np.array([[0.7, 3.5, 4.5, 0.4, 0.15, 0.6]])).round(1)
    array([152975.9])
    """
    nodes, weights = quadrature()
    return np.array([float(_Terms(row, nodes).values() @ weights) for row in parameters])


def total_cross_section_gradient(parameters: Array, points: Array | None, weights: Array) -> tuple[Array, Array]:
    """Return `total_cross_section` and its gradient.

    Parameters
    ----------
    parameters, points
        As in `total_cross_section`.
    weights
        Factors of the rows' gradients, shape ``(num_rows,)``.

    Examples
    --------
    >>> parameters = np.array([[0.7, 3.5, 4.5, 0.4, 0.15, 0.6]])
    >>> total_cross_section_gradient(parameters, None, np.ones(1))[1].shape
    (1, 6)
    """
    nodes, node_weights = quadrature()
    terms = [_Terms(row, nodes) for row in parameters]
    out = np.array([float(each.values() @ node_weights) for each in terms])
    gradients = [
        weight * each.gradient(node_weights * each.factor) for weight, each in zip(weights, terms, strict=True)
    ]
    return out, np.array(gradients).reshape(parameters.shape)


def highest_structure(parameters: Array, x: Array, highest_x: Array, q2: Array, highest_q2: Array) -> Array:
    """Bound F2 from above in cells, term by term: each factor is highest at one end of a cell.

    Parameters
    ----------
    parameters
        Positive, shape ``(6,)``.
    x, highest_x, q2, highest_q2
        Ends of the cells, each of shape ``(num_cells,)``.

    Examples
    --------
    >>> ends = np.array([0.1]), np.array([0.11]), np.array([10.0]), np.array([11.0])
    >>> highest_structure(np.array([0.7, 3.5, 4.5, 0.4, 0.15, 0.6]), *ends).round(3)
    array([0.605])
    """
    intercept, up_power, down_power, sea, slope, evolution = parameters.tolist()
    log_rest, softer = np.log(1.0 - x), evolution * (np.log(np.log(q2) - LOG_LAMBDA2) - LOG_START)
    highest_scale = np.log(np.log(highest_q2) - LOG_LAMBDA2) - LOG_START
    total = np.exp(math.log(sea) - slope * (1.0 + highest_scale) * np.log(x) + SEA_POWER * log_rest)
    for charges, power in ((2.0 * 4.0 / 9.0, up_power), (1.0 / 9.0, down_power)):
        log_norm = _log_norm(charges, intercept, power)[0]
        total += np.exp(log_norm + intercept * np.log(highest_x) + (power + softer) * log_rest)
    return np.asarray(total, np.float64)


class _Terms:
    """The parts of the cross-section at some points, for one row of parameters."""

    def __init__(self, parameters: Array, points: Array) -> None:
        intercept, up_power, down_power, self.sea_size, slope, evolution = parameters.tolist()
        x, q2 = points[:, 0], points[:, 1]
        is_inside = (x >= X_RANGE[0]) & (x <= X_RANGE[1]) & (q2 >= Q2_RANGE[0]) & (q2 <= Q2_RANGE[1])
        x, q2 = np.where(is_inside, x, 0.1), np.where(is_inside, q2, 10.0)
        self.log_x, self.log_rest = np.log(x), np.log(1.0 - x)
        self.scale = np.log(np.log(q2) - LOG_LAMBDA2) - LOG_START
        rest = 1.0 - q2 / (SQUARED_ENERGY * x)
        self.factor = np.where(is_inside, COUPLING * (1.0 + rest * rest) / (x * q2 * q2), 0.0)
        softer, common = evolution * self.scale, intercept * self.log_x
        log_up, self.up_slopes = _log_norm(2.0 * 4.0 / 9.0, intercept, up_power)
        log_down, self.down_slopes = _log_norm(1.0 / 9.0, intercept, down_power)
        log_sea = math.log(self.sea_size) if self.sea_size > 0.0 else math.nan
        self.up = np.exp(log_up + common + (up_power + softer) * self.log_rest)
        self.down = np.exp(log_down + common + (down_power + softer) * self.log_rest)
        self.sea = np.exp(log_sea - slope * (1.0 + self.scale) * self.log_x + SEA_POWER * self.log_rest)

    def structure(self) -> Array:
        """F2."""
        total: Array = self.up + self.down + self.sea
        return total

    def values(self) -> Array:
        """Cross-sections."""
        return self.factor * self.structure()

    def sum_of_logs(self) -> float:
        """Sum of the logs of cross-sections."""
        with np.errstate(divide="ignore"):
            return float(np.log(self.values()).sum())

    def gradient(self, weights: Array) -> Array:
        """Gradient of the sum of F2 with weights."""
        up, down, sea = weights * self.up, weights * self.down, weights * self.sea
        valence = up + down
        by_intercept = up.sum() * self.up_slopes[0] + down.sum() * self.down_slopes[0] + valence @ self.log_x
        return np.array(
            [
                by_intercept,
                up.sum() * self.up_slopes[1] + up @ self.log_rest,
                down.sum() * self.down_slopes[1] + down @ self.log_rest,
                sea.sum() / self.sea_size,
                -(sea * (1.0 + self.scale)) @ self.log_x,
                (valence * self.scale) @ self.log_rest,
            ]
        )


def _log_norm(charges: float, intercept: float, power: float) -> tuple[float, tuple[float, float]]:
    """Log of a valence density's factor, and its derivatives by intercept and power."""
    a, b, both = lgamma(np.array([intercept, power + 1.0, intercept + power + 1.0])).tolist()
    together = _digamma(intercept + power + 1.0)
    return math.log(charges) - (a + b - both), (together - _digamma(intercept), together - _digamma(power + 1.0))


def _digamma(x: float) -> float:
    """Return the derivative of `math.lgamma`; NIST Digital Library of Mathematical Functions, 5.11.2."""
    total = 0.0
    while x < 8.0:
        if not x > 0.0:
            return math.nan
        total -= 1.0 / x
        x += 1.0
    inverse = 1.0 / (x * x)
    series = _DIGAMMA_SERIES[0]
    for coefficient in _DIGAMMA_SERIES[1:]:
        series = coefficient - series * inverse
    return total + math.log(x) - 0.5 / x - series * inverse


def _parts_of(points: Array) -> Iterator[tuple[int, Array]]:
    return ((low, points[low : low + _POINTS_AT_ONCE]) for low in range(0, len(points), _POINTS_AT_ONCE))


@lru_cache(maxsize=4)
def quadrature(num_x: int = 40, num_q2: int = 20) -> tuple[Array, Array]:
    """Return points and weights whose weighted sum of values is an integral over the region of the measurement.

    Parameters
    ----------
    num_x, num_q2
        Nodes of Gauss-Legendre quadrature in ``log x`` and ``log Q2``.

    Returns
    -------
    tuple of two ndarrays of float64
        Shapes ``(num_x * num_q2, 2)`` and ``(num_x * num_q2,)``.

    Examples
    --------
    >>> points, weights = quadrature()
    >>> round(float(weights.sum()), 6) == round(0.74 * 996.0, 6)
    True
    """
    axes = []
    for number, (low, high) in ((num_x, X_RANGE), (num_q2, Q2_RANGE)):
        nodes, weights = np.polynomial.legendre.leggauss(number)
        half = 0.5 * math.log(high / low)
        values = low * np.exp(half * (1.0 + nodes))
        axes.append((values, weights * half * values))
    (x, by_x), (q2, by_q2) = axes
    grid = np.stack(np.meshgrid(x, q2, indexing="ij"), -1).reshape(-1, 2)
    return np.ascontiguousarray(grid), np.outer(by_x, by_q2).reshape(-1)
