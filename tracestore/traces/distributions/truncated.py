"""The normal distribution between bounds, accurate however far out the bounds are.

The density is written relative to the point of the allowed interval that is nearest to the mean. When the interval
contains the mean, that is the mean itself. Otherwise it is a bound, *a* standard deviations away, and with *t* the
distance from it in standard deviations the density is ``exp(-a t - t**2 / 2) / mass``, where the mass follows from
Mills ratios (or a short quadrature when the density hardly varies): nothing underflows, and no two large numbers
cancel.
"""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.traces.distributions.base import Numeric, Value, read_scalar
from tracestore.traces.distributions.elementwise import FINITE, HUGE, NOT_NAN, POSITIVE, Elementwise, Parameter
from tracestore.traces.distributions.special import (
    SQRT_HALF,
    SQRT_HALF_PI,
    exponential_decay_integral,
    gauss_legendre,
    mills_ratio,
)

__all__ = ["TruncatedNormal"]

FARTHEST = 1e150
"""Distance in standard deviations beyond which bounds are taken to be here; its square is still a float."""
FLAT_BELOW = 1e-8
"""Change of the log density over the interval below which it is sampled as uniform."""
TAIL_FROM = 5.0
"""Distance in standard deviations from which quantiles are found in the tail itself."""
SMALLEST_UNIFORM = 2.0**-54
LARGEST_UNIFORM = 1.0 - 2.0**-53

_inverse_cdf = NormalDist().inv_cdf


class TruncatedNormal(Elementwise):
    """Normal distribution restricted to an interval.

    Parameters
    ----------
    loc
        Mean before truncation, a number or an array; it may lie outside the interval.
    scale
        Standard deviation before truncation, positive.
    low, high
        Bounds, ``low < high``; infinite ones are allowed. The density includes both.

    Raises
    ------
    InvalidInputError
        When a parameter is not allowed.

    Examples
    --------
    >>> prior = TruncatedNormal(0.0, 1.0, 0.0, 1.0)
    >>> round(prior.log_prob(0.5), 4), prior.log_prob(1.5)
    (0.0309, -inf)
    >>> round(TruncatedNormal(0.0, 1.0, 50.0, 60.0).mean, 4)
    50.02
    """

    __slots__ = ("_distance", "_elements", "_log_mass", "_ratio", "_sign", "_width")

    family = "TruncatedNormal"
    is_discrete = False
    loc = Parameter("Mean before truncation.", FINITE)
    scale = Parameter("Standard deviation before truncation.", POSITIVE)
    low = Parameter("Lower bound.", NOT_NAN)
    high = Parameter("Upper bound.", NOT_NAN)

    _elements: tuple["TruncatedNormal", ...]

    def __init__(self, loc: Numeric, scale: Numeric, low: Numeric, high: Numeric) -> None:
        # the common case, checked without building arrays: comparisons are False for NaN
        if (
            type(loc) is float
            and type(scale) is float
            and type(low) is float
            and type(high) is float
            and -HUGE <= loc <= HUGE
            and 0.0 < scale <= HUGE
            and low < high
        ):
            self._scalars, self._arrays, self._shape = (loc, scale, low, high), (), ()
        else:
            self._set(loc, scale, low, high)
        if self._scalars:
            self._elements = ()
            self._prepare(*self._scalars)
        else:
            columns = [np.broadcast_to(array, self._shape).ravel().tolist() for array in self._arrays]
            self._elements = tuple([TruncatedNormal(*row) for row in zip(*columns, strict=True)])

    def _fit_together(self, *numbers: float) -> bool:
        low, high = numbers[2:]
        return low < high

    def _check_together(self, *arrays: NDArray[np.float64]) -> None:
        low, high = arrays[2:]
        if not (low < high).all():
            message = f"TruncatedNormal needs `low` below `high`; got low={low.tolist()!r} and high={high.tolist()!r}."
            raise InvalidInputError(message)

    def _prepare(self, loc: float, scale: float, low: float, high: float) -> None:
        """Find the reference point, the distance to it, the width, and the log mass relative to its density."""
        below, above = (low - loc) / scale, (high - loc) / scale
        width = self._width = (high - low) / scale
        if below <= 0.0 <= above:
            self._sign, self._distance, self._ratio = 0.0, 0.0, 0.0
            if width < FLAT_BELOW:
                self._log_mass = math.log(high - low)
            else:
                mass = SQRT_HALF_PI * (math.erf(above * SQRT_HALF) - math.erf(below * SQRT_HALF))
                self._log_mass = math.log(scale) + math.log(mass)
            return
        self._sign = 1.0 if below > 0.0 else -1.0
        distance = self._distance = min(abs(below if below > 0.0 else above), FARTHEST)
        nearest = mills_ratio(distance)
        drop = width * (distance + 0.5 * width)
        if drop <= 1.0:
            part = exponential_decay_integral(width * distance, 0.5 * width * width)
            self._log_mass = math.log(high - low) + math.log(part)
            self._ratio = width * part / nearest
        else:
            mass = nearest - (mills_ratio(distance + width) * math.exp(-drop) if drop < 700.0 else 0.0)
            self._log_mass = math.log(scale) + math.log(mass)
            self._ratio = mass / nearest

    @property
    def support(self) -> tuple[float, float]:
        """Lowest and highest possible value, over all elements."""
        low, high = self._as_arrays()[2:]
        return (float(low.min()), float(high.max())) if low.size and high.size else (-math.inf, math.inf)

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw one value."""
        if not self._scalars:
            drawn = [element.sample(rng) for element in self._elements]
            return np.array(drawn, np.float64).reshape(self._shape)
        return self._at(rng.random() or SMALLEST_UNIFORM)

    def _at(self, uniform: float) -> float:
        """Where a share of the mass lies between the value and the bound that is nearest to the mean, or the lower."""
        loc, scale, low, high = self._scalars
        width, distance = self._width, self._distance
        if width * (distance + 0.5 * width) < FLAT_BELOW:
            x = low + (high - low) * uniform
        elif not self._sign:
            x = loc + scale * _quantile((low - loc) / scale, (high - loc) / scale, uniform)
        else:
            t = _tail_quantile(distance, -math.log1p(-uniform * self._ratio))
            x = low + scale * t if self._sign > 0.0 else high - scale * t
        return min(max(x, low), high)

    def log_prob(self, value: Numeric) -> float:
        """Log density of a value, summed over elements."""
        if not self._scalars:
            return self._log_prob_of_vector(value)
        x = value if type(value) is float else read_scalar(value)
        loc, scale, low, high = self._scalars
        if not low <= x <= high:
            return -math.inf
        if self._sign == 0.0:
            t = (x - loc) / scale
        else:
            t = (x - low) / scale if self._sign > 0.0 else (high - x) / scale
        return -t * (self._distance + 0.5 * t) - self._log_mass

    def cdf(self, value: float) -> float:
        """Return the probability of a smaller value; for scalar distributions."""
        loc, scale, low, high = self._scalars
        x = min(max(value, low), high)
        width, distance = self._width, self._distance
        if width * (distance + 0.5 * width) < FLAT_BELOW:
            return (x - low) / (high - low)
        if not self._sign:
            below = math.erf((low - loc) / scale * SQRT_HALF)
            mass = math.erf((high - loc) / scale * SQRT_HALF) - below
            return (math.erf((x - loc) / scale * SQRT_HALF) - below) / mass
        t = (x - low) / scale if self._sign > 0.0 else (high - x) / scale
        rest = mills_ratio(distance + t) * math.exp(-t * (distance + 0.5 * t)) / mills_ratio(distance)
        share = min(max((1.0 - rest) / self._ratio, 0.0), 1.0)
        return share if self._sign > 0.0 else 1.0 - share

    def quantile(self, probability: float) -> float:
        """Return the value that a draw is below with a probability inside (0, 1); for scalar distributions."""
        is_flat = self._width * (self._distance + 0.5 * self._width) < FLAT_BELOW
        return self._at(min(1.0 - probability, LARGEST_UNIFORM) if self._sign < 0.0 and not is_flat else probability)

    def _log_prob_of_array(self, x: NDArray[np.floating]) -> float:
        numbers = x.ravel().tolist()
        return math.fsum([element.log_prob(number) for element, number in zip(self._elements, numbers, strict=True)])

    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self._scalars:
            mean, variance = self._scalar_moments()
            return np.array(mean), np.array(variance)
        pairs = np.array([element._scalar_moments() for element in self._elements]).reshape(*self._shape, 2)
        return pairs[..., 0], pairs[..., 1]

    def _scalar_moments(self) -> tuple[float, float]:
        """Mean and variance by quadrature: the closed forms lose all digits in the tails."""
        loc, scale, low, high = self._scalars
        nodes, weights = gauss_legendre(96)
        if self._sign:
            # the density falls by exp(-40) within this length
            first = 0.0
            length = min(self._width, 80.0 / (self._distance + math.sqrt(self._distance**2 + 80.0)))
            start = low if self._sign > 0.0 else high
        else:
            first = max((low - loc) / scale, -10.0)
            length = min((high - loc) / scale, 10.0) - first
            start = max(loc + scale * first, low)
        t = first + length * nodes
        density = weights * np.exp(-t * (self._distance + 0.5 * t))
        density /= density.sum()
        fraction = float((density * nodes).sum())
        spread = float((density * (nodes - fraction) ** 2).sum())
        reach = min(scale * length, high - low)
        return start + (self._sign or 1.0) * reach * fraction, reach * reach * spread


def _quantile(below: float, above: float, uniform: float) -> float:
    """Quantile of the standard normal between bounds around zero, from the tail in which it lies."""
    low_tail = 0.5 * math.erfc(-below * SQRT_HALF)
    high_tail = 0.5 * math.erfc(above * SQRT_HALF)
    mass = 0.5 * (math.erf(above * SQRT_HALF) - math.erf(below * SQRT_HALF))
    probability = low_tail + uniform * mass
    if probability <= 0.5:
        return _inverse_cdf(probability)
    return -_inverse_cdf(high_tail + (1.0 - uniform) * mass)


def _tail_quantile(distance: float, exponent: float) -> float:
    """Where the upper tail beyond ``distance``, relative to itself, has fallen to ``exp(-exponent)``."""
    if distance < TAIL_FROM:
        tail = 0.5 * math.erfc(distance * SQRT_HALF)
        return -_inverse_cdf(tail * math.exp(-exponent)) - distance
    nearest = mills_ratio(distance)
    t = 2.0 * exponent / (distance + math.sqrt(distance * distance + 2.0 * exponent))
    for _ in range(4):  # Newton's method on the logarithm of the tail, which is concave
        ratio = mills_ratio(distance + t)
        t -= ratio * (t * (distance + 0.5 * t) - math.log(ratio / nearest) - exponent)
    return t
