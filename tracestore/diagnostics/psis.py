"""Pareto smoothed importance sampling: how heavy the tail of the weights is, and the weights with it smoothed.

Vehtari, Simpson, Gelman, Yao and Gabry (2024), with the generalized Pareto fit of Zhang and Stephens (2009). Input
are *log weights as they are*; packages that start from log likelihoods negate first.
"""

import math

import numpy as np
import numpy.typing as npt

from tracestore.diagnostics.chains import FloatArray
from tracestore.errors import InvalidInputError

__all__ = ["khat_threshold", "pareto_khat", "smooth_log_weights", "tail_length"]

_MIN_TAIL = 5
# weights of the weak prior on the shape that steadies small tails: ten observations at 0.5
_PRIOR_COUNT = 10.0
_PRIOR_SHAPE = 0.5


def pareto_khat(log_weights: npt.ArrayLike) -> float:
    """Return the estimated shape of the tail of importance weights.

    Parameters
    ----------
    log_weights
        Unnormalized log weights, -inf allowed, shape ``(draws,)``.

    Returns
    -------
    float
        Below about 0.7 the weighted mean can be trusted (see `khat_threshold`), from 1 on it does not exist. When
        the largest weights tie, the weights are bounded and there is no tail to fit: 0. With fewer than five
        weights to fit, or fewer than five above those that tie: infinity.

    Raises
    ------
    InvalidInputError
        When a log weight is NaN or +inf.

    Examples
    --------
    >>> uniform = (np.arange(4000) + 0.5) / 4000
    >>> round(pareto_khat(-0.5 * np.log(uniform)), 1)  # the tail of u**-0.5 has shape 0.5
    0.5
    """
    return smooth_log_weights(log_weights)[1]


def khat_threshold(num_draws: int) -> float:
    """Return the largest k-hat at which estimates from this many draws can be trusted.

    Parameters
    ----------
    num_draws
        Number of weights.

    Examples
    --------
    >>> round(khat_threshold(100), 2), khat_threshold(10_000)
    (0.5, 0.7)
    """
    return min(1.0 - 1.0 / math.log10(max(num_draws, 11)), 0.7)


def smooth_log_weights(log_weights: npt.ArrayLike) -> tuple[FloatArray, float]:
    """Replace the largest weights by quantiles of a fitted Pareto tail.

    Parameters
    ----------
    log_weights
        Unnormalized log weights, -inf allowed, shape ``(draws,)``.

    Returns
    -------
    tuple
        Normalized smoothed log weights of the same shape, and k-hat. Without a tail to fit (see `pareto_khat`) the
        weights come back normalized and otherwise unchanged.

    Raises
    ------
    InvalidInputError
        When a log weight is NaN or +inf, or all are -inf.

    Examples
    --------
    >>> smoothed, khat = smooth_log_weights(np.zeros(100))
    >>> khat, round(float(np.exp(smoothed).sum()), 12)
    (0.0, 1.0)
    """
    raw = np.asarray(log_weights, dtype=np.float64).ravel()
    largest = float(raw.max(initial=-math.inf))
    if not math.isfinite(largest) or np.isnan(raw).any():
        message = f"log weights must be finite or -inf and not all -inf; the largest found is {largest!r}."
        raise InvalidInputError(message, argument="log_weights")
    shifted = raw - largest
    num_tail = tail_length(len(raw))
    order = np.argsort(shifted, kind="stable")
    tail = order[len(order) - num_tail :]
    khat = math.inf
    if num_tail >= _MIN_TAIL and np.count_nonzero(np.isfinite(shifted)) > num_tail:
        cutoff = math.exp(float(shifted[order[len(order) - num_tail - 1]]))
        excess = np.exp(shifted[tail]) - cutoff
        if float(excess[-1] - excess[0]) <= 4 * float(np.finfo(np.float64).eps):
            khat = 0.0
        else:
            khat, scale = _fit_pareto(excess)
            if math.isfinite(khat):
                shifted[tail] = _tail_quantiles(khat, scale, cutoff, num_tail)
    normalized: FloatArray = shifted - math.log(float(np.exp(shifted).sum()))
    return normalized, khat


def tail_length(num_draws: int) -> int:
    """Return how many of the largest weights the tail is fitted to.

    Parameters
    ----------
    num_draws
        Number of weights.
    """
    return int(3.0 * math.sqrt(num_draws)) if num_draws > 225 else num_draws // 5


def _tail_quantiles(khat: float, scale: float, cutoff: float, count: int) -> FloatArray:
    probability = (np.arange(count) + 0.5) / count
    survival = -np.log1p(-probability)
    growth = survival if khat == 0.0 else np.expm1(khat * survival) / khat
    # no weight may exceed the largest raw one, which is 1 here
    quantiles: FloatArray = np.minimum(np.log(cutoff + scale * growth), 0.0)
    return quantiles


def _fit_pareto(excess: FloatArray) -> tuple[float, float]:
    """Fit shape and scale to sorted excesses over a threshold, averaging over a grid of profile likelihoods."""
    # ties with the threshold carry no information about the shape and break the reciprocal below
    values = excess[excess > 0.0]
    count = len(values)
    if count < _MIN_TAIL:
        return math.inf, 0.0
    grid = 30 + int(math.sqrt(count))
    quartile = values[int(count / 4 + 0.5) - 1]
    theta = 1.0 / values[-1] + (1.0 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))) / (3.0 * quartile)
    theta[theta == 0.0] = 1e-9 / values[-1]  # next to the exponential tail, which is 0/0 below
    shapes = np.log1p(-theta[:, None] * values).mean(axis=1)
    likelihood = count * (np.log(-theta / shapes) - shapes - 1.0)
    weights = np.exp(likelihood - likelihood.max())
    weights /= weights.sum()
    best = float(theta @ weights)
    shape = float(np.log1p(-best * values).mean())
    scale = -shape / best
    return (count * shape + _PRIOR_COUNT * _PRIOR_SHAPE) / (count + _PRIOR_COUNT), scale
