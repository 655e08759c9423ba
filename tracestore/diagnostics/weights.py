"""Importance weights: effective sample size, log evidence, and moments of weighted draws.

Pure numpy; knows nothing of traces or stores. Weights come as unnormalized log weights, one per draw, -inf for draws
that count for nothing. Sizes follow Kish (1965).
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tracestore.diagnostics.chains import FloatArray, is_constant
from tracestore.errors import InvalidInputError

__all__ = [
    "Estimate",
    "kish_ess",
    "log_evidence",
    "normalized_weights",
    "weighted_ess",
    "weighted_mcse",
    "weighted_mean",
    "weighted_quantile",
    "weighted_variance",
]


class Estimate(NamedTuple):
    """A number with its standard error."""

    value: float
    standard_error: float


def normalized_weights(log_weights: npt.ArrayLike) -> FloatArray:
    """Return weights that sum to one, all zero when every log weight is -inf.

    Parameters
    ----------
    log_weights
        Unnormalized log weights, shape ``(draws,)``.

    Raises
    ------
    InvalidInputError
        When a log weight is NaN or +inf.

    Examples
    --------
    >>> normalized_weights([0.0, 0.0, -np.inf]).tolist()
    [0.5, 0.5, 0.0]
    """
    values = _checked_log_weights(log_weights)
    largest = values.max(initial=-math.inf)
    if largest == -math.inf:
        return np.zeros(len(values))
    weights = np.exp(values - largest)
    normalized: FloatArray = weights / weights.sum()
    return normalized


def kish_ess(log_weights: npt.ArrayLike) -> float:
    """Return Kish's effective sample size of importance weights, ``(sum w)**2 / sum w**2``.

    Parameters
    ----------
    log_weights
        Unnormalized log weights, shape ``(draws,)``.

    Returns
    -------
    float
        Between 1 and the number of draws; 0 when every weight is zero.

    Raises
    ------
    InvalidInputError
        When a log weight is NaN or +inf.

    Examples
    --------
    >>> kish_ess([0.0, 0.0, 0.0, -np.inf])
    3.0
    """
    weights = normalized_weights(log_weights)
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / squares if squares > 0.0 else 0.0


def log_evidence(log_weights: npt.ArrayLike) -> Estimate:
    """Return the log of the mean weight, with its standard error by the delta method.

    Parameters
    ----------
    log_weights
        Log weights of all draws, failed ones included as -inf, shape ``(draws,)``.

    Returns
    -------
    Estimate
        ``(-inf, nan)`` when every weight is zero.

    Raises
    ------
    InvalidInputError
        When a log weight is NaN or +inf, or there is none.

    Examples
    --------
    >>> log_evidence([0.0, 0.0])
    Estimate(value=0.0, standard_error=0.0)
    """
    values = _checked_log_weights(log_weights)
    if len(values) == 0:
        message = "the log evidence needs at least one draw; found none."
        raise InvalidInputError(message, argument="log_weights")
    largest = float(values.max())
    if largest == -math.inf:
        return Estimate(-math.inf, math.nan)
    value = largest + math.log(float(np.exp(values - largest).mean()))
    # relative variance of the mean weight, sum(w^2)/sum(w)^2 - 1/n
    relative = 1.0 / kish_ess(values) - 1.0 / len(values)
    return Estimate(value, math.sqrt(max(relative, 0.0)))


def weighted_mcse(values: npt.ArrayLike, log_weights: npt.ArrayLike) -> float:
    """Return the standard error of a self-normalized weighted mean by the delta method.

    Parameters
    ----------
    values
        Shape ``(draws,)``.
    log_weights
        Unnormalized log weights, shape ``(draws,)``.

    Raises
    ------
    InvalidInputError
        When a log weight is NaN or +inf.

    Examples
    --------
    >>> weighted_mcse([1.0, 3.0], [0.0, 0.0])
    0.7071067811865476
    """
    weights = normalized_weights(log_weights)
    used = weights > 0.0
    numbers, weights = np.asarray(values, dtype=np.float64)[used], weights[used]
    deviations = weights * (numbers - weights @ numbers)
    return math.sqrt(float(deviations @ deviations))


def weighted_ess(
    values: npt.ArrayLike,
    log_weights: npt.ArrayLike,
    *,
    method: Literal["mean", "tail", "quantile"] = "mean",
    probability: float | None = None,
) -> float:
    """Return how many independent posterior draws would estimate one quantity as well as weighted draws do.

    The draws are independent, so nothing but the weights takes from their number; but how much depends on the quantity,
    which `kish_ess` ignores: draws that the weights favor may be those that matter.

    Parameters
    ----------
    values
        Shape ``(draws,)``.
    log_weights
        Unnormalized log weights, shape ``(draws,)``.
    method
        ``mean``: of the values. ``quantile``: at `probability`. ``tail``: the smaller of the 5 % and 95 % quantiles.
    probability
        Between 0 and 1, for the method ``quantile`` alone.

    Returns
    -------
    float
        NaN when the values with weight are constant, or all lie on one side of the quantile.

    Raises
    ------
    InvalidInputError
        When a log weight is NaN or +inf, or `probability` does not fit the method.

    Examples
    --------
    >>> weighted_ess([1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0])
    4.0
    """
    if (method == "quantile") != (probability is not None):
        message = f"`probability` belongs to the method 'quantile', which needs it; got {probability!r} for {method!r}."
        raise InvalidInputError(message, argument="probability")
    weights = normalized_weights(log_weights)
    numbers = np.asarray(values, dtype=np.float64)
    if method == "mean":
        return _size_for(numbers, weights)
    probabilities = (0.05, 0.95) if probability is None else (probability,)
    quantiles = weighted_quantile(numbers, weights, probabilities).tolist() if weights.any() else []
    sizes = [_size_for((numbers <= quantile).astype(np.float64), weights) for quantile in quantiles]
    return min((size for size in sizes if not math.isnan(size)), default=math.nan)


def weighted_mean(values: npt.ArrayLike, weights: FloatArray) -> FloatArray:
    """Return the weighted mean of draws.

    Parameters
    ----------
    values
        Shape ``(draws, *shape)``.
    weights
        Non-negative weights that sum to one, shape ``(draws,)``.

    Returns
    -------
    numpy.ndarray
        Shape ``shape``.

    Examples
    --------
    >>> float(weighted_mean([1.0, 5.0], np.array([0.75, 0.25])))
    2.0
    """
    numbers = np.asarray(values, dtype=np.float64)
    used = weights > 0.0
    # an infinite draw without weight must not turn the sum into NaN
    return np.asarray(np.tensordot(weights[used], numbers[used], axes=1))


def weighted_variance(values: npt.ArrayLike, weights: FloatArray) -> FloatArray:
    """Return the weighted variance of draws, without a small-sample correction.

    Parameters
    ----------
    values
        Shape ``(draws, *shape)``.
    weights
        Non-negative weights that sum to one, shape ``(draws,)``.

    Returns
    -------
    numpy.ndarray
        Shape ``shape``.

    Examples
    --------
    >>> float(weighted_variance([1.0, 5.0], np.array([0.75, 0.25])))
    3.0
    """
    numbers = np.asarray(values, dtype=np.float64)
    return weighted_mean((numbers - weighted_mean(numbers, weights)) ** 2, weights)


def weighted_quantile(values: npt.ArrayLike, weights: FloatArray, probabilities: npt.ArrayLike) -> FloatArray:
    """Return quantiles of weighted scalar draws: the smallest value at which the distribution function reaches them.

    Parameters
    ----------
    values
        Shape ``(draws,)``.
    weights
        Non-negative weights that sum to one, shape ``(draws,)``.
    probabilities
        Numbers between 0 and 1, any shape.

    Returns
    -------
    numpy.ndarray
        Of the shape of `probabilities`.

    Examples
    --------
    >>> weighted_quantile([3.0, 1.0, 2.0], np.array([0.2, 0.5, 0.3]), [0.0, 0.5, 0.51, 1.0]).tolist()
    [1.0, 1.0, 2.0, 3.0]
    """
    used = weights > 0.0
    numbers = np.asarray(values, dtype=np.float64)[used]
    order = np.argsort(numbers, kind="stable")
    reached = np.cumsum(weights[used][order])
    # rounding of the sums must move no quantile to the next draw, nor the last one past the end
    wanted = np.asarray(probabilities, dtype=np.float64) * reached[-1] * (1.0 - 1e-12)
    quantiles: FloatArray = numbers[order][np.minimum(np.searchsorted(reached, wanted), len(order) - 1)]
    return quantiles


def _size_for(numbers: FloatArray, weights: FloatArray) -> float:
    used = weights > 0.0
    if not used.any() or is_constant(numbers[used]):
        return math.nan
    kept = weights[used]
    deviations = numbers[used] - kept @ numbers[used]
    return float(kept @ deviations**2) / float(kept**2 @ deviations**2)


def _checked_log_weights(log_weights: npt.ArrayLike) -> FloatArray:
    values = np.asarray(log_weights, dtype=np.float64).ravel()
    bad = np.isnan(values) | (values == math.inf)
    if bad.any():
        message = (
            f"log weights must be finite or -inf; found {int(bad.sum())} that are NaN or +inf,"
            f" the first at index {int(np.argmax(bad))}."
        )
        raise InvalidInputError(message, argument="log_weights")
    return values
