"""Log probabilities of the elements of many draws at once, family by family, before anything is summed.

Each function takes the values and the parameters of one family, arrays that broadcast against each other, and returns
one log probability an element. NaN and what is outside the support are left to the caller's mask or come out as minus
infinity. The formulas are those of the scalar distributions, with numpy's logarithms: both agree to a few units in the
last place.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from tracestore.traces.distributions.base import HALF_LOG_TWO_PI
from tracestore.traces.distributions.elementwise import MAX_COUNT, TINY, Elementwise
from tracestore.traces.distributions.special import lgamma

if TYPE_CHECKING:
    from tracestore.traces.distributions.bounded import VonMises
    from tracestore.traces.distributions.truncated import TruncatedNormal

__all__ = ["element_terms", "has_terms", "term_arrays"]

Array = NDArray[np.float64]


def has_terms(prior: Elementwise) -> bool:
    """Tell whether the elements of a family are scored here; a class derived from a family is another one.

    Examples
    --------
    >>> from tracestore.traces.distributions import Normal
    >>> has_terms(Normal(0.0, 1.0))
    True
    """
    return type(prior).__name__ in _TERMS


def term_arrays(prior: Elementwise) -> tuple[Array, ...]:
    """Return what `element_terms` needs of a distribution: arrays that broadcast to its shape.

    Parameters
    ----------
    prior
        A distribution that `has_terms`.

    Examples
    --------
    >>> from tracestore.traces.distributions import Normal
    >>> [array.shape for array in term_arrays(Normal([0.0, 1.0], 2.0))]
    [(2,), ()]
    """
    if prior.family == "VonMises":
        return _arrays_of_angles(cast("VonMises", prior))
    if prior.family == "TruncatedNormal":
        return _arrays_of_truncated(cast("TruncatedNormal", prior))
    return prior._as_arrays()


def element_terms(family: str, values: Array, arrays: tuple[Array, ...]) -> Array:
    """Score elements.

    Parameters
    ----------
    family
        Of the distribution.
    values
        Any shape.
    arrays
        What `term_arrays` returned, or rows of it.

    Returns
    -------
    ndarray of float64
        Of the shape of the values; minus infinity outside the support and for NaN.

    Examples
    --------
    >>> from tracestore.traces.distributions import Uniform
    >>> element_terms("Uniform", np.array([0.5, 3.0]), term_arrays(Uniform(0.0, 2.0)))
    array([-0.69314718,        -inf])
    """
    with np.errstate(all="ignore"):
        terms = _TERMS[family](values, *arrays)
    is_nan = np.isnan(terms)
    if is_nan.any():
        terms[is_nan] = -math.inf
    return terms


def _normal(x: Array, loc: Array, scale: Array) -> Array:
    z = x - loc
    z /= scale
    z *= z
    z *= -0.5
    z -= np.log(scale)
    z -= HALF_LOG_TWO_PI
    return z


def _log_normal(x: Array, loc: Array, scale: Array) -> Array:
    log_x = np.log(x)
    terms = _normal(log_x, loc, scale) - log_x
    return np.where((x > 0.0) & (x < math.inf), terms, -math.inf)


def _exponential(x: Array, rate: Array) -> Array:
    return np.where(x >= 0.0, np.log(rate) - rate * x, -math.inf)


def _gamma(x: Array, concentration: Array, rate: Array) -> Array:
    positive = np.maximum(x, TINY)
    log_x = np.log(positive)
    terms = concentration * (np.log(rate) + log_x) - log_x - rate * positive - lgamma(concentration)
    is_inside = (x >= 0.0) & (x < math.inf) & ~((x == 0.0) & (concentration > 1.0))
    return np.where(is_inside, terms, -math.inf)


def _weibull(x: Array, scale: Array, concentration: Array) -> Array:
    log_x = np.log(np.maximum(x, TINY))
    exponent = concentration * (log_x - np.log(scale))
    terms = np.log(concentration) + exponent - log_x - np.exp(exponent)
    is_inside = (x >= 0.0) & (x < math.inf) & ~((x == 0.0) & (concentration > 1.0))
    return np.where(is_inside, terms, -math.inf)


def _uniform(x: Array, low: Array, high: Array) -> Array:
    return np.where((x >= low) & (x <= high), -np.log(high - low), -math.inf)


def _beta(x: Array, first: Array, second: Array, low: Array, high: Array) -> Array:
    is_empty = ((x == low) & (first > 1.0)) | ((x == high) & (second > 1.0))
    inside = np.clip(x, np.nextafter(low, high), np.nextafter(high, low))
    log_width = np.log(high - low)
    terms = (first - 1.0) * (np.log(inside - low) - log_width)
    terms = terms + (second - 1.0) * (np.log(high - inside) - log_width)
    terms = terms - (lgamma(first) + lgamma(second) - lgamma(first + second)) - log_width
    return np.where((x >= low) & (x <= high) & ~is_empty, terms, -math.inf)


def _von_mises(x: Array, loc: Array, concentration: Array, log_norm: Array) -> Array:
    half = np.sin(0.5 * (x - loc))
    terms = -2.0 * (half * half * concentration) - log_norm
    return np.where((x >= -math.pi) & (x <= math.pi), terms, -math.inf)


def _truncated_normal(
    x: Array, loc: Array, scale: Array, low: Array, high: Array, sign: Array, distance: Array, log_mass: Array
) -> Array:
    t = np.where(sign == 0.0, x - loc, np.where(sign > 0.0, x - low, high - x)) / scale
    return np.where((x >= low) & (x <= high), -t * (distance + 0.5 * t) - log_mass, -math.inf)


def _bernoulli(x: Array, probs: Array) -> Array:
    terms = np.where(x == 1.0, np.log(probs), np.log1p(-probs))
    return np.where((x == 0.0) | (x == 1.0), terms, -math.inf)


def _poisson(x: Array, rate: Array) -> Array:
    is_count = (x >= 0.0) & (x <= MAX_COUNT) & (x == np.floor(x))
    count = np.where(is_count, x, 0.0)
    # a rate of zero allows a count of zero only, whose term is zero whatever finite logarithm stands there
    terms = count * np.log(np.where(rate == 0.0, 1.0, rate)) - rate - lgamma(count + 1.0)
    return np.where(is_count & ~((rate == 0.0) & (x > 0.0)), terms, -math.inf)


def _binomial(x: Array, total_count: Array, probs: Array) -> Array:
    is_inside = (x >= 0.0) & (x <= total_count) & (x == np.floor(x))
    count = np.where(is_inside, x, 0.0)
    failures = total_count - count
    is_inside &= ~(((probs == 0.0) & (count > 0.0)) | ((probs == 1.0) & (failures > 0.0)))
    terms = lgamma(total_count + 1.0) - lgamma(count + 1.0) - lgamma(failures + 1.0)
    terms = terms + count * np.log(np.where(probs == 0.0, 1.0, probs))
    terms = terms + failures * np.log1p(-np.where(probs == 1.0, 0.0, probs))
    return np.where(is_inside, terms, -math.inf)


def _point_mass(x: Array, location: Array, tolerance: Array) -> Array:
    return np.where(np.abs(x - location) <= tolerance, 0.0, -math.inf)


_TERMS: dict[str, Callable[..., Array]] = {
    "Normal": _normal,
    "LogNormal": _log_normal,
    "Exponential": _exponential,
    "Gamma": _gamma,
    "Weibull": _weibull,
    "Uniform": _uniform,
    "Beta": _beta,
    "VonMises": _von_mises,
    "TruncatedNormal": _truncated_normal,
    "Bernoulli": _bernoulli,
    "Poisson": _poisson,
    "Binomial": _binomial,
    "PointMass": _point_mass,
}


def _arrays_of_angles(prior: "VonMises") -> tuple[Array, ...]:
    return *prior._as_arrays(), prior._log_norms


def _arrays_of_truncated(prior: "TruncatedNormal") -> tuple[Array, ...]:
    elements = prior._elements or (prior,)
    # one pass over the elements, each of which was made when the distribution was
    prepared = np.array([(one._sign, one._distance, one._log_mass) for one in elements]).reshape(*prior.shape, 3)
    return *prior._as_arrays(), prepared[..., 0], prepared[..., 1], prepared[..., 2]
