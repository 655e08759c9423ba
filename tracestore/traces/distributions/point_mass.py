"""A value that is certain. Not among the families that traces and networks know: nothing can be proposed from it."""

import math

import numpy as np
from numpy.typing import NDArray

from tracestore.traces.distributions.base import Numeric, Value, read_scalar
from tracestore.traces.distributions.elementwise import FINITE, NOT_NEGATIVE, Elementwise, Parameter

__all__ = ["PointMass"]


class PointMass(Elementwise):
    """All of the probability at one value: what a program computes from its draws without noise.

    Its `log_prob` is zero at the value and minus infinity elsewhere, so that a program which observes it can be run
    again with what it observed, but not conditioned on anything else.

    Parameters
    ----------
    location
        The value, finite; a number or an array.
    tolerance
        How far a value may be away and still count as this one, at least zero: room for rounding.

    Raises
    ------
    InvalidInputError
        When a parameter is not allowed.

    Examples
    --------
    >>> PointMass(2.0).log_prob(2.0), PointMass(2.0).log_prob(2.1), PointMass(2.0, 0.5).log_prob(2.1)
    (0.0, -inf, 0.0)
    """

    __slots__ = ()

    family = "PointMass"
    is_discrete = False
    location = Parameter("The value.", FINITE)
    tolerance = Parameter("Room for rounding.", NOT_NEGATIVE)

    def __init__(self, location: Numeric, tolerance: Numeric = 0.0) -> None:
        self._set(location, tolerance)

    @property
    def support(self) -> tuple[float, float]:
        """Lowest and highest value that counts as the certain one, over all elements."""
        location, tolerance = self._as_arrays()
        if not math.prod(self.shape):
            return 0.0, 0.0
        return float((location - tolerance).min()), float((location + tolerance).max())

    def sample(self, rng: np.random.Generator) -> Value:
        """Return the value; no random number is used."""
        if self._scalars:
            return self._scalars[0]
        return np.array(np.broadcast_to(self._arrays[0], self._shape))

    def log_prob(self, value: Numeric) -> float:
        """Zero for the value, minus infinity for another."""
        if not self._scalars:
            return self._log_prob_of_vector(value)
        location, tolerance = self._scalars
        return 0.0 if abs(read_scalar(value) - location) <= tolerance else -math.inf

    def _log_prob_of_array(self, x: NDArray[np.floating]) -> float:
        location, tolerance = self._arrays
        return 0.0 if (np.abs(x - location) <= tolerance).all() else -math.inf

    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        location, _ = self._as_arrays()
        return location, np.zeros(())
