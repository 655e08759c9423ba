"""A prior whose distribution function a monotone spline has bent: what a spline proposal draws from.

The spline is the rational-quadratic one of Durkan et al., "Neural spline flows" (2019), section 3.1. The store holds no
draws whose prior it is.
"""

import math
from bisect import bisect_right
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.traces.distributions.base import Distribution, Numeric, as_numbers, normalize_weights, read_scalar
from tracestore.traces.distributions.cumulative import cdf, has_cdf, quantile
from tracestore.traces.distributions.special import gauss_legendre

__all__ = ["Splined"]

NODES = 32
"""Nodes of the quadrature for moments in each bin."""


class Splined(Distribution):
    """Density ``g'(F(x)) p(x)``, where *p* and *F* are a prior's density and distribution function, *g* a spline.

    Always a scalar draw. The spline goes from (0, 0) to (1, 1).

    Parameters
    ----------
    prior
        A scalar continuous distribution that `cumulative.has_cdf`.
    widths, heights
        Of the spline's bins, shape ``(n,)`` each, positive; they are scaled to sum to one.
    slopes
        Slopes at the knots, shape ``(n + 1,)``, positive and finite.

    Raises
    ------
    InvalidInputError
        When a parameter is not allowed.

    Examples
    --------
    >>> from tracestore.traces.distributions import Uniform
    >>> proposal = Splined(Uniform(0.0, 2.0), [0.5, 0.5], [0.75, 0.25], [1.5, 1.0, 0.5])
    >>> round(proposal.log_prob(1.0), 4), proposal.log_prob(3.0)
    (-0.6931, -inf)
    """

    __slots__ = ("_heights", "_prior", "_slopes", "_u", "_v", "_widths")

    is_discrete = False
    shape = ()

    def __init__(self, prior: Distribution, widths: ArrayLike, heights: ArrayLike, slopes: ArrayLike) -> None:
        if not has_cdf(prior):
            message = f"`prior` of Splined must have an exact distribution function; got {prior.suffix}."
            raise InvalidInputError(message)
        self._prior = prior
        self._widths = normalize_weights("Splined", "widths", widths)
        self._heights = normalize_weights("Splined", "heights", heights)
        array = as_numbers("Splined", "slopes", slopes)
        if len(self._widths) != len(self._heights) or array.shape != (len(self._widths) + 1,):
            message = (
                "`widths` and `heights` of Splined must be equally many and `slopes` one more; "
                f"got {len(self._widths)}, {len(self._heights)} and shape {array.shape}."
            )
            raise InvalidInputError(message)
        if not (
            min(self._widths) > 0.0 and min(self._heights) > 0.0 and (array > 0.0).all() and np.isfinite(array).all()
        ):
            message = "`widths`, `heights` and `slopes` of Splined must be positive and finite; one is not."
            raise InvalidInputError(message)
        self._slopes: list[float] = array.tolist()
        self._u = [0.0, *accumulate(self._widths)]
        self._v = [0.0, *accumulate(self._heights)]

    @property
    def family(self) -> str:
        """``Splined(...)`` with the structure of the prior."""
        return f"Splined({self._prior.structure})"

    @property
    def support(self) -> tuple[float, float]:
        """That of the prior."""
        return self._prior.support

    @property
    def mean(self) -> float:
        """Expected value, by quadrature."""
        return self._moments()[0]

    @property
    def variance(self) -> float:
        """Variance, by quadrature."""
        return self._moments()[1]

    def sample(self, rng: np.random.Generator) -> float:
        """Draw one value: the quantile of a uniform number bent back by the spline."""
        v = rng.random()
        index = min(bisect_right(self._v, v), len(self._heights)) - 1
        height, width = self._heights[index], self._widths[index]
        first, second = self._slopes[index : index + 2]
        slope = height / width
        rise = min(max(v - self._v[index], 0.0), height)
        bend = rise * (first + second - 2.0 * slope)
        a, b, c = height * (slope - first) + bend, height * first - bend, -slope * rise
        share = 2.0 * c / (-b - math.sqrt(max(b * b - 4.0 * a * c, 0.0))) if rise > 0.0 else 0.0
        return quantile(self._prior, self._u[index] + width * min(share, 1.0))

    def log_prob(self, value: Numeric) -> float:
        """Log density of a value."""
        x = value if type(value) is float else read_scalar(value)
        log_prior = self._prior.log_prob(x)
        return log_prior if log_prior == -math.inf else log_prior + math.log(self._slope_at(cdf(self._prior, x)))

    def parameters(self) -> NDArray[np.float64]:
        """Return the parameters of the prior, then widths, heights and slopes."""
        return np.concatenate([self._prior.parameters(), self._widths, self._heights, self._slopes])

    def arguments(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""
        return {
            "prior": self._prior,
            "widths": [*self._widths],
            "heights": [*self._heights],
            "slopes": [*self._slopes],
        }

    def _slope_at(self, u: float) -> float:
        """Slope of the spline."""
        index = min(bisect_right(self._u, u), len(self._widths)) - 1
        width = self._widths[index]
        first, second = self._slopes[index : index + 2]
        slope = self._heights[index] / width
        share = min(max((u - self._u[index]) / width, 0.0), 1.0)
        rest = 1.0 - share
        mixed = share * rest
        total = slope + (first + second - 2.0 * slope) * mixed
        return slope * slope * (second * share * share + 2.0 * slope * mixed + first * rest * rest) / (total * total)

    def _moments(self) -> tuple[float, float]:
        nodes, weights = gauss_legendre(NODES)
        u = np.concatenate([low + (high - low) * nodes for low, high in pairwise(self._u)])
        mass = np.concatenate([width * weights for width in self._widths])
        mass = mass * [self._slope_at(place) for place in u.tolist()]
        mass /= mass.sum()
        values = np.array([quantile(self._prior, place) for place in u.tolist()])
        mean = float((mass * values).sum())
        return mean, float((mass * (values - mean) ** 2).sum())
