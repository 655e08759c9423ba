"""Distribution functions of scalar continuous draws, and their inverses, for families that have exact ones."""

import math
import struct
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from statistics import NormalDist
from typing import Any

from tracestore.errors import InvalidInputError
from tracestore.traces.distributions.base import Distribution
from tracestore.traces.distributions.bounded import Uniform
from tracestore.traces.distributions.composite import Mixture
from tracestore.traces.distributions.continuous import Exponential, LogNormal, Normal, Weibull
from tracestore.traces.distributions.elementwise import HUGE, TINY
from tracestore.traces.distributions.special import SQRT_HALF
from tracestore.traces.distributions.truncated import TruncatedNormal
from tracestore.traces.distributions.weighted import PiecewiseUniform

__all__ = ["cdf", "has_cdf", "quantile"]

LOWEST = 2.0**-60
HIGHEST = 1.0 - 2.0**-53
"""Probabilities are taken to lie between these."""
LARGEST_LOG = math.log(HUGE)
_REFUSAL = "There is no exact distribution function of {}; use `has_cdf` to ask."

_inverse_normal = NormalDist().inv_cdf


def has_cdf(distribution: Distribution) -> bool:
    """Tell whether `cdf` and `quantile` serve a distribution.

    Examples
    --------
    >>> from tracestore.traces.distributions import Gamma
    >>> has_cdf(Normal(0.0, 1.0)), has_cdf(Normal([0.0, 1.0], 1.0)), has_cdf(Gamma(2.0, 1.0))
    (True, False, False)
    """
    if distribution.shape:
        return False
    if isinstance(distribution, Mixture):
        return all(has_cdf(part) for part in distribution.components)
    return type(distribution) in _CDFS


def cdf(distribution: Distribution, value: float) -> float:
    """Return the probability that a draw is at most a value.

    Parameters
    ----------
    distribution
        Scalar, of a family that `has_cdf`.
    value
        Any number.

    Raises
    ------
    InvalidInputError
        When the family is not served.

    Examples
    --------
    >>> cdf(Uniform(0.0, 4.0), 1.0), cdf(Normal(0.0, 1.0), 0.0), cdf(Uniform(0.0, 4.0), 5.0)
    (0.25, 0.5, 1.0)
    """
    function = _CDFS.get(type(distribution))
    if function is None or distribution.shape:
        raise InvalidInputError(_REFUSAL.format(distribution.suffix))
    return min(max(function(distribution, value), 0.0), 1.0)


def quantile(distribution: Distribution, probability: float) -> float:
    """Return the value that a draw is at most with a given probability; the inverse of `cdf`.

    Parameters
    ----------
    distribution
        Scalar, of a family that `has_cdf`.
    probability
        From 0 to 1; the closest float inside that range stands for the ends.

    Returns
    -------
    float
        A value that the distribution can draw.

    Raises
    ------
    InvalidInputError
        When the family is not served.

    Examples
    --------
    >>> quantile(Uniform(0.0, 4.0), 0.25), quantile(Normal(1.0, 1.0), 0.5)
    (1.0, 1.0)
    """
    function = _QUANTILES.get(type(distribution))
    if function is None or distribution.shape:
        raise InvalidInputError(_REFUSAL.format(distribution.suffix))
    return function(distribution, min(max(probability, LOWEST), HIGHEST))


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z * SQRT_HALF)


def _log_of(value: float) -> float:
    return math.log(value) if value > 0.0 else -math.inf


def _exp_of(log: float) -> float:
    return max(math.exp(min(log, LARGEST_LOG)), TINY)


def _power(ratio: float, exponent: float) -> float:
    """Power of a number of at least zero, at most the largest float."""
    return math.exp(min(exponent * math.log(ratio), LARGEST_LOG)) if ratio > 0.0 else 0.0


def _piecewise_cdf(prior: PiecewiseUniform, value: float) -> float:
    edges: list[float] = prior.edges.tolist()
    probs: list[float] = prior.probs.tolist()
    index = min(max(bisect_right(edges, value) - 1, 0), len(probs) - 1)
    share = (value - edges[index]) / (edges[index + 1] - edges[index])
    return math.fsum(probs[:index]) + probs[index] * min(max(share, 0.0), 1.0)


def _piecewise_quantile(prior: PiecewiseUniform, probability: float) -> float:
    edges: list[float] = prior.edges.tolist()
    probs: list[float] = prior.probs.tolist()
    cumulative = [0.0, *accumulate(probs)]
    last = max(index for index, prob in enumerate(probs) if prob > 0.0)
    index = min(bisect_right(cumulative, probability) - 1, last)
    while probs[index] == 0.0:  # rounding put the probability into an empty interval before a filled one
        index += 1
    low, high = edges[index], edges[index + 1]
    share = min(max((probability - cumulative[index]) / probs[index], 0.0), 1.0)
    # an edge belongs to the next interval, whose weight may be zero
    return min(low + (high - low) * share, high if index + 1 == len(probs) else math.nextafter(high, low))


def _mixture_cdf(prior: Mixture, value: float) -> float:
    pairs = zip(prior.components, prior.probs.tolist(), strict=True)
    return math.fsum([prob * cdf(part, value) for part, prob in pairs if prob > 0.0])


def _mixture_quantile(prior: Mixture, probability: float) -> float:
    """Search between the quantiles of the components, by Newton's method inside a bracket of floats."""
    ends = [
        quantile(part, probability)
        for part, prob in zip(prior.components, prior.probs.tolist(), strict=True)
        if prob > 0.0
    ]
    low, high = min(ends), max(ends)
    x = 0.5 * low + 0.5 * high
    for _ in range(200):
        excess = _mixture_cdf(prior, x) - probability
        if excess < 0.0:
            low = x
        else:
            high = x
        density = math.exp(min(prior.log_prob(x), LARGEST_LOG))
        proposed = x - excess / density if density > 0.0 else math.inf
        if abs(proposed - x) <= 4.0 * math.ulp(x):
            break
        x = proposed if low < proposed < high else _float_at((_place_of(low) + _place_of(high)) // 2)
        if not low < x < high:
            break
    # between components there may be a gap without density
    candidates = [end for end in (x, high, low, *ends) if prior.log_prob(end) > -math.inf]
    return candidates[0] if candidates else x


def _place_of(x: float) -> int:
    """Place of a float in the order of all floats."""
    place: int = struct.unpack("<q", struct.pack("<d", abs(x)))[0]
    return -place if x < 0.0 else place


def _float_at(place: int) -> float:
    x: float = struct.unpack("<d", struct.pack("<q", abs(place)))[0]
    return -x if place < 0 else x


_CDFS: dict[type[Distribution], Callable[[Any, float], float]] = {
    Uniform: lambda prior, x: (x - prior.low) / (prior.high - prior.low),
    Normal: lambda prior, x: _normal_cdf((x - prior.loc) / prior.scale),
    LogNormal: lambda prior, x: _normal_cdf((_log_of(x) - prior.loc) / prior.scale),
    Exponential: lambda prior, x: -math.expm1(-prior.rate * max(x, 0.0)),
    Weibull: lambda prior, x: -math.expm1(-_power(x / prior.scale, prior.concentration)),
    TruncatedNormal: lambda prior, x: prior.cdf(x),
    PiecewiseUniform: _piecewise_cdf,
    Mixture: _mixture_cdf,
}
_QUANTILES: dict[type[Distribution], Callable[[Any, float], float]] = {
    Uniform: lambda prior, p: min(prior.low + (prior.high - prior.low) * p, prior.high),
    Normal: lambda prior, p: prior.loc + prior.scale * _inverse_normal(p),
    LogNormal: lambda prior, p: _exp_of(prior.loc + prior.scale * _inverse_normal(p)),
    Exponential: lambda prior, p: min(-math.log1p(-p) / prior.rate, HUGE),
    Weibull: lambda prior, p: _exp_of(math.log(prior.scale) + math.log(-math.log1p(-p)) / prior.concentration),
    TruncatedNormal: lambda prior, p: prior.quantile(p),
    PiecewiseUniform: _piecewise_quantile,
    Mixture: _mixture_quantile,
}
