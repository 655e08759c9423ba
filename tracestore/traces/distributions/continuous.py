"""Continuous families on the real line and the half line: Normal, LogNormal, Exponential, Gamma, Weibull."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.traces.distributions.base import HALF_LOG_TWO_PI, Numeric, Value, read_scalar
from tracestore.traces.distributions.elementwise import (
    CONCENTRATION,
    FINITE,
    HUGE,
    POSITIVE,
    TINY,
    Elementwise,
    Parameter,
)
from tracestore.traces.distributions.special import lgamma

__all__ = ["Exponential", "Gamma", "LogNormal", "Normal", "Weibull"]

LOG_TINY = math.log(TINY)
LOG_HUGE = math.log(HUGE)


class Normal(Elementwise):
    """Normal distribution.

    Parameters
    ----------
    loc
        Mean, a number or an array.
    scale
        Standard deviation, positive.

    Raises
    ------
    InvalidInputError
        When a parameter is not allowed.

    Examples
    --------
    >>> prior = Normal(1.0, 2.0)
    >>> prior
    Normal(loc=1.0, scale=2.0)
    >>> round(prior.log_prob(1.0), 4)
    -1.6121
    """

    __slots__ = ()

    family = "Normal"
    is_discrete = False
    support = (-math.inf, math.inf)
    loc = Parameter("Mean.", FINITE)
    scale = Parameter("Standard deviation.", POSITIVE)

    def __init__(self, loc: Numeric, scale: Numeric) -> None:
        # the common case, checked without building arrays: comparisons are False for NaN
        if type(loc) is float and type(scale) is float and -HUGE <= loc <= HUGE and 0.0 < scale <= HUGE:
            self._scalars = (loc, scale)
            self._arrays = ()
            self._shape = ()
        else:
            self._set(loc, scale)

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw one value."""
        if self._scalars:
            loc, scale = self._scalars
            return loc + scale * rng.standard_normal()
        return self._arrays[0] + self._arrays[1] * rng.standard_normal(self._shape)

    def log_prob(self, value: Numeric) -> float:
        """Log density of a value, summed over elements."""
        if not self._scalars:
            return self._log_prob_of_vector(value)
        x = value if type(value) is float else read_scalar(value)
        loc, scale = self._scalars
        z = (x - loc) / scale
        log_prob = -0.5 * z * z - math.log(scale) - HALF_LOG_TWO_PI
        return log_prob if log_prob == log_prob else -math.inf

    def _log_prob_of_array(self, x: NDArray[np.floating]) -> float:
        loc, scale = self._arrays
        z = x - loc
        # in place, because allocating a large array takes as long as computing it; and not a dot product, whose
        # rounding depends on the number of threads
        z /= scale
        z *= z
        return -0.5 * float(z.sum()) - self._summed(np.log(scale)) - z.size * HALF_LOG_TWO_PI

    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        loc, scale = self._as_arrays()
        return loc, scale * scale


class LogNormal(Elementwise):
    """Distribution of the exponential of a normal number.

    Parameters
    ----------
    loc
        Mean of the logarithm, a number or an array.
    scale
        Standard deviation of the logarithm, positive.

    Raises
    ------
    InvalidInputError
        When a parameter is not allowed.

    Examples
    --------
    >>> round(LogNormal(0.0, 1.0).log_prob(2.0), 4)
    -1.8523
    """

    __slots__ = ()

    family = "LogNormal"
    is_discrete = False
    support = (0.0, math.inf)
    loc = Parameter("Mean of the logarithm.", FINITE)
    scale = Parameter("Standard deviation of the logarithm.", POSITIVE)

    def __init__(self, loc: Numeric, scale: Numeric) -> None:
        self._set(loc, scale)

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw one value."""
        if self._scalars:
            loc, scale = self._scalars
            return math.exp(min(max(loc + scale * rng.standard_normal(), LOG_TINY), LOG_HUGE))
        loc_array, scale_array = self._arrays
        logs = loc_array + scale_array * rng.standard_normal(self._shape)
        return np.exp(np.clip(logs, LOG_TINY, LOG_HUGE))

    def log_prob(self, value: Numeric) -> float:
        """Log density of a value, summed over elements."""
        if not self._scalars:
            return self._log_prob_of_vector(value)
        x = value if type(value) is float else read_scalar(value)
        if not 0.0 < x < math.inf:
            return -math.inf
        loc, scale = self._scalars
        log_x = math.log(x)
        z = (log_x - loc) / scale
        return -0.5 * z * z - log_x - math.log(scale) - HALF_LOG_TWO_PI

    def _log_prob_of_array(self, x: NDArray[np.floating]) -> float:
        x = x.astype(np.float64, copy=False)  # what follows is lost in single precision
        if not (x > 0.0).all():
            return -math.inf
        loc, scale = self._arrays
        log_x: NDArray[np.floating] = np.log(x)
        z = (log_x - loc) / scale
        terms = -0.5 * z * z - log_x
        return float(terms.sum()) - self._summed(np.log(scale)) - z.size * HALF_LOG_TWO_PI

    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        loc, scale = self._as_arrays()
        square = scale * scale
        return np.exp(loc + 0.5 * square), np.expm1(square) * np.exp(2.0 * loc + square)


class Exponential(Elementwise):
    """Exponential distribution.

    Parameters
    ----------
    rate
        Inverse of the mean, positive; a number or an array.

    Raises
    ------
    InvalidInputError
        When the parameter is not allowed.

    Examples
    --------
    >>> Exponential(2.0).mean
    0.5
    """

    __slots__ = ()

    family = "Exponential"
    is_discrete = False
    support = (0.0, math.inf)
    rate = Parameter("Inverse of the mean.", POSITIVE)

    def __init__(self, rate: Numeric) -> None:
        self._set(rate)

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw one value."""
        if self._scalars:
            return min(rng.standard_exponential() / self._scalars[0], HUGE)
        return np.minimum(rng.standard_exponential(self._shape) / self._arrays[0], HUGE)

    def log_prob(self, value: Numeric) -> float:
        """Log density of a value, summed over elements."""
        if not self._scalars:
            return self._log_prob_of_vector(value)
        x = value if type(value) is float else read_scalar(value)
        rate = self._scalars[0]
        return math.log(rate) - rate * x if x >= 0.0 else -math.inf

    def _log_prob_of_array(self, x: NDArray[np.floating]) -> float:
        if not (x >= 0.0).all():
            return -math.inf
        rate = self._arrays[0]
        return self._summed(np.log(rate)) - float((rate * x).sum())

    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        mean = 1.0 / self._as_arrays()[0]
        return mean, mean * mean


class Gamma(Elementwise):
    """Gamma distribution.

    Its density may grow without bound towards zero; at zero itself `log_prob` gives the value of the smallest normal
    float, which is also the smallest draw.

    Parameters
    ----------
    concentration
        Shape parameter, positive; a number or an array.
    rate
        Inverse scale, positive.

    Raises
    ------
    InvalidInputError
        When a parameter is not allowed.

    Examples
    --------
    >>> Gamma(3.0, 2.0).mean
    1.5
    """

    __slots__ = ()

    family = "Gamma"
    is_discrete = False
    support = (0.0, math.inf)
    concentration = Parameter("Shape parameter.", CONCENTRATION)
    rate = Parameter("Inverse scale.", POSITIVE)

    def __init__(self, concentration: ArrayLike, rate: Numeric) -> None:
        self._set(concentration, rate)

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw one value."""
        if self._scalars:
            concentration, rate = self._scalars
            return min(max(rng.standard_gamma(concentration) / rate, TINY), HUGE)
        with np.errstate(over="ignore"):
            return np.clip(rng.standard_gamma(self._arrays[0], self._shape) / self._arrays[1], TINY, HUGE)

    def log_prob(self, value: Numeric) -> float:
        """Log density of a value, summed over elements."""
        if not self._scalars:
            return self._log_prob_of_vector(value)
        x = value if type(value) is float else read_scalar(value)
        if not 0.0 <= x < math.inf:
            return -math.inf
        concentration, rate = self._scalars
        if x == 0.0:
            if concentration > 1.0:
                return -math.inf
            x = TINY
        log_x = math.log(x)
        return concentration * (math.log(rate) + log_x) - log_x - rate * x - math.lgamma(concentration)

    def _log_prob_of_array(self, x: NDArray[np.floating]) -> float:
        x = x.astype(np.float64, copy=False)  # what follows is lost in single precision
        concentration, rate = self._arrays
        if not (x >= 0.0).all() or ((x == 0.0) & (concentration > 1.0)).any():
            return -math.inf
        positive = np.maximum(x, TINY)
        log_x = np.log(positive)
        terms = concentration * (np.log(rate) + log_x) - log_x - rate * positive
        return float(terms.sum()) - self._summed(lgamma(concentration))

    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        concentration, rate = self._as_arrays()
        return concentration / rate, concentration / rate / rate


class Weibull(Elementwise):
    """Weibull distribution.

    Its density may grow without bound towards zero; at zero itself `log_prob` gives the value of the smallest normal
    float, which is also the smallest draw.

    Parameters
    ----------
    scale
        Value below which a fraction of ``1 - 1 / e`` falls, positive; a number or an array.
    concentration
        Shape parameter, positive; one gives an exponential distribution.

    Raises
    ------
    InvalidInputError
        When a parameter is not allowed.

    Examples
    --------
    >>> round(Weibull(2.0, 1.5).mean, 4)
    1.8055
    """

    __slots__ = ()

    family = "Weibull"
    is_discrete = False
    support = (0.0, math.inf)
    scale = Parameter("Scale.", POSITIVE)
    concentration = Parameter("Shape parameter.", CONCENTRATION)

    def __init__(self, scale: Numeric, concentration: ArrayLike) -> None:
        self._set(scale, concentration)

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw one value."""
        scale, concentration = self._as_arrays()
        with np.errstate(over="ignore", under="ignore"):
            drawn = np.clip(scale * rng.weibull(concentration, self._shape or None), TINY, HUGE)
        return drawn if self._shape else float(drawn)

    def log_prob(self, value: Numeric) -> float:
        """Log density of a value, summed over elements."""
        if not self._scalars:
            return self._log_prob_of_vector(value)
        x = value if type(value) is float else read_scalar(value)
        if not 0.0 <= x < math.inf:
            return -math.inf
        scale, concentration = self._scalars
        if x == 0.0:
            if concentration > 1.0:
                return -math.inf
            x = TINY
        log_ratio = math.log(x) - math.log(scale)
        exponent = concentration * log_ratio
        if exponent > LOG_HUGE:
            return -math.inf
        return math.log(concentration) + exponent - math.log(x) - math.exp(exponent)

    def _log_prob_of_array(self, x: NDArray[np.floating]) -> float:
        x = x.astype(np.float64, copy=False)  # what follows is lost in single precision
        scale, concentration = self._arrays
        if not (x >= 0.0).all() or ((x == 0.0) & (concentration > 1.0)).any():
            return -math.inf
        log_x = np.log(np.maximum(x, TINY))
        exponent = concentration * (log_x - np.log(scale))
        return float((exponent - log_x - np.exp(exponent)).sum()) + self._summed(np.log(concentration))

    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scale, concentration = self._as_arrays()
        inverse = 1.0 / concentration
        first, second = lgamma(1.0 + inverse), lgamma(1.0 + 2.0 * inverse)
        # gamma(1 + 2 / k) - gamma(1 + 1 / k)**2, whose terms agree in most digits when k is large
        return scale * np.exp(first), scale * scale * np.exp(2.0 * first) * np.expm1(second - 2.0 * first)
