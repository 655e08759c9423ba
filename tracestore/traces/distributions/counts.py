"""Families of counts: Bernoulli, Binomial, Poisson."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.traces.distributions.base import (
    Numeric,
    Value,
    read_scalar,
)
from tracestore.traces.distributions.elementwise import (
    COUNT,
    MAX_COUNT,
    PROBABILITY,
    RATE,
    Elementwise,
    Parameter,
)
from tracestore.traces.distributions.special import lgamma

__all__ = ["Bernoulli", "Binomial", "Poisson"]


class Bernoulli(Elementwise):
    """One with a probability, else zero.

    Parameters
    ----------
    probs
        Probability of one; a number or an array.

    Raises
    ------
    InvalidInputError
        When the parameter is not allowed.

    Examples
    --------
    >>> round(Bernoulli(0.25).log_prob(1), 4)
    -1.3863
    """

    __slots__ = ()

    family = "Bernoulli"
    is_discrete = True
    support = (0.0, 1.0)
    probs = Parameter("Probability of one.", PROBABILITY)

    def __init__(self, probs: Numeric) -> None:
        self._set(probs)

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw one value."""
        if self._scalars:
            return int(rng.random() < self._scalars[0])
        return (rng.random(self._shape) < self._arrays[0]).astype(np.float64)

    def log_prob(self, value: Numeric) -> float:
        """Log mass of a value, summed over elements."""
        if not self._scalars:
            return self._log_prob_of_vector(value)
        x = value if type(value) is float else read_scalar(value)
        probs = self._scalars[0]
        if x == 1.0:
            return math.log(probs) if probs > 0.0 else -math.inf
        if x == 0.0:
            return math.log1p(-probs) if probs < 1.0 else -math.inf
        return -math.inf

    def _log_prob_of_array(self, x: NDArray[np.floating]) -> float:
        if not ((x == 0.0) | (x == 1.0)).all():
            return -math.inf
        probs = self._arrays[0]
        return float(np.where(x == 1.0, np.log(probs), np.log1p(-probs)).sum())

    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        probs = self._as_arrays()[0]
        return probs, probs * (1.0 - probs)


class Poisson(Elementwise):
    """Poisson distribution.

    Parameters
    ----------
    rate
        Mean, at least zero; a number or an array.

    Raises
    ------
    InvalidInputError
        When the parameter is not allowed.

    Examples
    --------
    >>> round(Poisson(4.0).log_prob(3), 4)
    -1.6329
    """

    __slots__ = ()

    family = "Poisson"
    is_discrete = True
    support = (0.0, math.inf)
    rate = Parameter("Mean.", RATE)

    def __init__(self, rate: Numeric) -> None:
        self._set(rate)

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw one value."""
        if self._scalars:
            return int(rng.poisson(self._scalars[0]))
        return rng.poisson(self._arrays[0], self._shape).astype(np.float64)

    def log_prob(self, value: Numeric) -> float:
        """Log mass of a value, summed over elements."""
        if not self._scalars:
            return self._log_prob_of_vector(value)
        x = value if type(value) is float else read_scalar(value)
        if not 0.0 <= x <= MAX_COUNT or not x.is_integer():
            return -math.inf
        rate = self._scalars[0]
        if rate == 0.0:
            return 0.0 if x == 0.0 else -math.inf
        return x * math.log(rate) - rate - math.lgamma(x + 1.0)

    def _log_prob_of_array(self, x: NDArray[np.floating]) -> float:
        x = x.astype(np.float64, copy=False)  # what follows is lost in single precision
        rate = self._arrays[0]
        if not _are_counts(x) or ((rate == 0.0) & (x > 0.0)).any():
            return -math.inf
        # a rate of zero meets counts of zero only, whose term is zero whatever finite logarithm stands there
        log_rate = np.log(np.where(rate == 0.0, 1.0, rate))
        return float((x * log_rate - lgamma(x + 1.0)).sum()) - self._summed(rate)

    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rate = self._as_arrays()[0]
        return rate, rate


class Binomial(Elementwise):
    """Number of successes in a fixed number of trials.

    Parameters
    ----------
    total_count
        Number of trials, a whole number of at least zero; a number or an array.
    probs
        Probability of success in each.

    Raises
    ------
    InvalidInputError
        When a parameter is not allowed.

    Examples
    --------
    >>> round(Binomial(10, 0.5).log_prob(5), 4)
    -1.402
    """

    __slots__ = ()

    family = "Binomial"
    is_discrete = True
    total_count = Parameter("Number of trials.", COUNT)
    probs = Parameter("Probability of success in each trial.", PROBABILITY)

    def __init__(self, total_count: ArrayLike, probs: Numeric) -> None:
        self._set(total_count, probs)

    @property
    def support(self) -> tuple[float, float]:
        """Lowest and highest possible value, over all elements."""
        return 0.0, float(self._as_arrays()[0].max(initial=0.0))

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw one value."""
        if self._scalars:
            total_count, probs = self._scalars
            return int(rng.binomial(int(total_count), probs))
        return rng.binomial(self._arrays[0].astype(np.int64), self._arrays[1], self._shape).astype(np.float64)

    def log_prob(self, value: Numeric) -> float:
        """Log mass of a value, summed over elements."""
        if not self._scalars:
            return self._log_prob_of_vector(value)
        x = value if type(value) is float else read_scalar(value)
        total_count, probs = self._scalars
        if not 0.0 <= x <= total_count or not x.is_integer():
            return -math.inf
        failures = total_count - x
        if (probs == 0.0 and x) or (probs == 1.0 and failures):
            return -math.inf
        log_prob = math.lgamma(total_count + 1.0) - math.lgamma(x + 1.0) - math.lgamma(failures + 1.0)
        if x:
            log_prob += x * math.log(probs)
        if failures:
            log_prob += failures * math.log1p(-probs)
        return log_prob

    def _log_prob_of_array(self, x: NDArray[np.floating]) -> float:
        x = x.astype(np.float64, copy=False)  # what follows is lost in single precision
        total_count, probs = self._arrays
        failures = total_count - x
        if not _are_counts(x) or not (failures >= 0.0).all():
            return -math.inf
        if ((probs == 0.0) & (x > 0.0)).any() or ((probs == 1.0) & (failures > 0.0)).any():
            return -math.inf
        log_success = np.log(np.where(probs == 0.0, 1.0, probs))
        log_failure = np.log1p(-np.where(probs == 1.0, 0.0, probs))
        terms = x * log_success + failures * log_failure - lgamma(x + 1.0) - lgamma(failures + 1.0)
        return float(terms.sum()) + self._summed(lgamma(total_count + 1.0))

    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        total_count, probs = self._as_arrays()
        return total_count * probs, total_count * probs * (1.0 - probs)


def _are_counts(x: NDArray[np.floating]) -> bool:
    return bool(((x >= 0.0) & (x <= MAX_COUNT) & (x == np.floor(x))).all())
