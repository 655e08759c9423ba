"""Continuous families on an interval: Uniform, Beta, VonMises."""

import math
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.traces.distributions.base import (
    Numeric,
    Value,
    read_scalar,
)
from tracestore.traces.distributions.elementwise import (
    CONCENTRATION,
    FINITE,
    HUGE,
    NOT_NEGATIVE,
    Elementwise,
    Parameter,
)
from tracestore.traces.distributions.special import gauss_legendre, lgamma, log_bessel_i0_scaled

__all__ = ["Beta", "Uniform", "VonMises"]

LOG_TWO_PI = math.log(2.0 * math.pi)


class Uniform(Elementwise):
    """Uniform distribution on an interval.

    Parameters
    ----------
    low, high
        Bounds, finite, ``low < high``; numbers or arrays. The density includes both.

    Raises
    ------
    InvalidInputError
        When a parameter is not allowed.

    Examples
    --------
    >>> prior = Uniform(-1.0, 1.0)
    >>> round(prior.log_prob(1.0), 4), prior.log_prob(1.1)
    (-0.6931, -inf)
    """

    __slots__ = ()

    family = "Uniform"
    is_discrete = False
    low = Parameter("Lower bound.", FINITE)
    high = Parameter("Upper bound.", FINITE)

    def __init__(self, low: Numeric, high: Numeric) -> None:
        # the common case, checked without building arrays: comparisons are False for NaN
        if type(low) is float and type(high) is float and -HUGE <= low < high <= HUGE and high - low <= HUGE:
            self._scalars = (low, high)
            self._arrays = ()
            self._shape = ()
        else:
            self._set(low, high)

    def _fit_together(self, *numbers: float) -> bool:
        low, high = numbers
        return low < high and high - low <= HUGE

    def _check_together(self, *arrays: NDArray[np.float64]) -> None:
        check_bounds(self.family, *arrays)

    @property
    def support(self) -> tuple[float, float]:
        """Lowest and highest possible value, over all elements."""
        return outer_bounds(*self._as_arrays())

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw one value."""
        if self._scalars:
            low, high = self._scalars
            x = low + (high - low) * rng.random()
            return min(x, high)
        lows, highs = self._arrays
        return np.minimum(lows + (highs - lows) * rng.random(self._shape), highs)

    def log_prob(self, value: Numeric) -> float:
        """Log density of a value, summed over elements."""
        if not self._scalars:
            return self._log_prob_of_vector(value)
        x = value if type(value) is float else read_scalar(value)
        low, high = self._scalars
        return -math.log(high - low) if low <= x <= high else -math.inf

    def _log_prob_of_array(self, x: NDArray[np.floating]) -> float:
        low, high = self._arrays
        if not ((x >= low) & (x <= high)).all():
            return -math.inf
        return -self._summed(np.log(high - low))

    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        low, high = self._as_arrays()
        return 0.5 * low + 0.5 * high, (high - low) ** 2 / 12.0


class Beta(Elementwise):
    """Beta distribution, by default on the interval from 0 to 1.

    Its density may grow without bound towards the bounds; at a bound itself `log_prob` then gives the value of the
    nearest float inside, and draws are always inside.

    Parameters
    ----------
    concentration1
        Exponent of the distance from the lower bound plus one, positive; a number or an array.
    concentration0
        Exponent of the distance from the upper bound plus one, positive.
    low, high
        Bounds, finite, ``low < high``.

    Raises
    ------
    InvalidInputError
        When a parameter is not allowed.

    Examples
    --------
    >>> prior = Beta(2.0, 1.0, low=0.0, high=3.0)
    >>> prior.mean, round(prior.log_prob(3.0), 4), prior.log_prob(0.0)
    (2.0, -0.4055, -inf)
    """

    __slots__ = ()

    family = "Beta"
    is_discrete = False
    concentration1 = Parameter("Exponent at the lower bound plus one.", CONCENTRATION)
    concentration0 = Parameter("Exponent at the upper bound plus one.", CONCENTRATION)
    low = Parameter("Lower bound.", FINITE)
    high = Parameter("Upper bound.", FINITE)

    def __init__(
        self, concentration1: ArrayLike, concentration0: ArrayLike, low: ArrayLike = 0.0, high: ArrayLike = 1.0
    ) -> None:
        self._set(concentration1, concentration0, low, high)

    def _fit_together(self, *numbers: float) -> bool:
        low, high = numbers[2:]
        return low < math.nextafter(low, high) < high and high - low <= HUGE

    def _check_together(self, *arrays: NDArray[np.float64]) -> None:
        low, high = arrays[2:]
        # the open interval must hold a float
        check_bounds(self.family, np.nextafter(low, high), high)
        check_bounds(self.family, low, high)

    @property
    def support(self) -> tuple[float, float]:
        """Lowest and highest possible value, over all elements."""
        return outer_bounds(*self._as_arrays()[2:])

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw one value."""
        if self._scalars:
            first, second, low, high = self._scalars
            x = low + (high - low) * rng.beta(first, second)
            return min(max(x, math.nextafter(low, high)), math.nextafter(high, low))
        firsts, seconds, lows, highs = self._arrays
        drawn = lows + (highs - lows) * rng.beta(firsts, seconds, self._shape)
        return np.clip(drawn, np.nextafter(lows, highs), np.nextafter(highs, lows))

    def log_prob(self, value: Numeric) -> float:
        """Log density of a value, summed over elements."""
        if not self._scalars:
            return self._log_prob_of_vector(value)
        x = value if type(value) is float else read_scalar(value)
        first, second, low, high = self._scalars
        if not low <= x <= high or (x == low and first > 1.0) or (x == high and second > 1.0):
            return -math.inf
        x = min(max(x, math.nextafter(low, high)), math.nextafter(high, low))
        log_norm = math.lgamma(first) + math.lgamma(second) - math.lgamma(first + second)
        log_width = math.log(high - low)
        return (
            (first - 1.0) * (math.log(x - low) - log_width)
            + (second - 1.0) * (math.log(high - x) - log_width)
            - log_norm
            - log_width
        )

    def _log_prob_of_array(self, x: NDArray[np.floating]) -> float:
        first, second, low, high = self._arrays
        empty = ((x == low) & (first > 1.0)) | ((x == high) & (second > 1.0))
        if not ((x >= low) & (x <= high) & ~empty).all():
            return -math.inf
        inside = np.clip(x.astype(np.float64), np.nextafter(low, high), np.nextafter(high, low))
        log_width = np.log(high - low)
        terms = (first - 1.0) * (np.log(inside - low) - log_width)
        terms = terms + (second - 1.0) * (np.log(high - inside) - log_width)
        return float(terms.sum()) - self._summed(lgamma(first) + lgamma(second) - lgamma(first + second) + log_width)

    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        first, second, low, high = self._as_arrays()
        total = first + second
        fraction = first / total
        return low + (high - low) * fraction, (high - low) ** 2 * fraction * (second / total) / (total + 1.0)


class VonMises(Elementwise):
    """Von Mises distribution of an angle, on the interval from -pi to pi.

    Its mean and variance are those of the number on that interval, not circular ones.

    Parameters
    ----------
    loc
        Most probable angle in radians; a number or an array.
    concentration
        Inverse of the squared width, at least zero; zero gives a uniform angle.

    Raises
    ------
    InvalidInputError
        When a parameter is not allowed.

    Examples
    --------
    >>> prior = VonMises(0.0, 4.0)
    >>> round(prior.log_prob(0.0), 4), prior.log_prob(4.0)
    (-0.2628, -inf)
    """

    __slots__ = ("_log_norms",)

    family = "VonMises"
    is_discrete = False
    support = (-math.pi, math.pi)
    loc = Parameter("Most probable angle in radians.", FINITE)
    concentration = Parameter("Inverse of the squared width.", NOT_NEGATIVE)

    def __init__(self, loc: Numeric, concentration: ArrayLike) -> None:
        self._set(loc, concentration)
        values = self._as_arrays()[1]
        log_norms = [LOG_TWO_PI + log_bessel_i0_scaled(number) for number in values.ravel().tolist()]
        self._log_norms = np.array(log_norms).reshape(values.shape)

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw one value."""
        if self._scalars:
            loc, concentration = self._scalars
            return min(max(rng.vonmises(loc, concentration), -math.pi), math.pi)
        drawn = rng.vonmises(self._arrays[0], self._arrays[1], self._shape)
        return np.clip(drawn, -math.pi, math.pi)

    def log_prob(self, value: Numeric) -> float:
        """Log density of a value, summed over elements."""
        if not self._scalars:
            return self._log_prob_of_vector(value)
        x = value if type(value) is float else read_scalar(value)
        if not -math.pi <= x <= math.pi:
            return -math.inf
        loc, concentration = self._scalars
        # cos(x) - 1 without cancellation, which a large concentration would magnify
        half = math.sin(0.5 * (x - loc))
        return -2.0 * (half * half * concentration) - float(self._log_norms)

    def _log_prob_of_array(self, x: NDArray[np.floating]) -> float:
        if not ((x >= -math.pi) & (x <= math.pi)).all():
            return -math.inf
        loc, concentration = self._arrays
        half = np.sin(0.5 * (x - loc))
        return -2.0 * float((half * half * concentration).sum()) - self._summed(self._log_norms)

    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        columns = [np.broadcast_to(array, self._shape).ravel().tolist() for array in self._as_arrays()]
        pairs = np.array([_angle_moments(*row) for row in zip(*columns, strict=True)]).reshape(*self._shape, 2)
        return pairs[..., 0], pairs[..., 1]


def check_bounds(family: str, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
    """Require ``low < high`` and a width that is a float."""
    if not ((low < high) & np.isfinite(high - low)).all():
        message = (
            f"{family} needs `low` below `high` and a finite width; "
            f"got low={low.tolist()!r} and high={high.tolist()!r}."
        )
        raise InvalidInputError(message)


def outer_bounds(low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[float, float]:
    """Lowest lower and highest upper bound; the whole line when there is no element."""
    return (float(low.min()), float(high.max())) if low.size and high.size else (-math.inf, math.inf)


def _angle_moments(loc: float, concentration: float) -> tuple[float, float]:
    """Mean and variance on the interval, by quadrature on each side of where the angle jumps from pi to -pi."""
    loc = math.remainder(loc, 2.0 * math.pi)
    # the density falls by exp(-40) within this distance from its peak
    reach = math.pi if concentration <= 20.0 else 2.0 * math.asin(math.sqrt(20.0 / concentration))
    nodes, weights = gauss_legendre(96)
    jump = math.copysign(math.pi, loc) - loc
    ends = sorted({-reach, reach, *([jump] if -reach < jump < reach else [])})
    offsets = np.concatenate([first + (last - first) * nodes for first, last in pairwise(ends)])
    density = np.concatenate([(last - first) * weights for first, last in pairwise(ends)])
    density *= np.exp(-2.0 * (concentration * np.sin(0.5 * offsets) ** 2))
    density /= density.sum()
    angles = loc + offsets
    angles = angles - 2.0 * math.pi * np.round(angles / (2.0 * math.pi))
    mean = float((density * angles).sum())
    return mean, float((density * (angles - mean) ** 2).sum())
