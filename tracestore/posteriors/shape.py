"""Shape of the distribution of weighted draws: its peak, skewness and kurtosis. Numbers only; knows no posterior.

The mode of discrete draws is the value of the largest weight. That of continuous draws is the peak of a Gaussian kernel
density estimate: Silverman (1986), bandwidth of his equation 3.31, with Kish's size of the weights for the number of
draws, reflected at the smallest and largest draw so that a peak at the edge of a support is found there.
"""

import numpy as np
import numpy.typing as npt

from tracestore.diagnostics.chains import FloatArray, is_constant
from tracestore.diagnostics.weights import weighted_mean, weighted_quantile, weighted_variance

__all__ = ["central_moment_ratio", "mode_of"]

_CELLS = 2048
"""Cells of the grid over the range of the draws, and around the peak while they are wider than a tenth of the
bandwidth."""
_NORMAL_QUARTILES = 1.349
_REACH = 4.0


def mode_of(values: npt.ArrayLike, weights: FloatArray) -> float:
    """Return the most probable value of whole numbers, or the peak of the density of others.

    Parameters
    ----------
    values
        Scalar draws, shape ``(draws,)``.
    weights
        Non-negative weights that sum to one, shape ``(draws,)``.

    Returns
    -------
    float
        The smallest one of several that tie.

    Examples
    --------
    >>> mode_of([3.0, 1.0, 3.0], np.array([0.3, 0.4, 0.3]))
    3.0
    >>> draws = np.random.default_rng(1).normal(5.0, 1.0, 10_000)
    >>> bool(abs(mode_of(draws, np.full(10_000, 1e-4)) - 5.0) < 0.2)
    True
    """
    used = weights > 0.0
    numbers, weights = np.asarray(values, dtype=np.float64)[used], weights[used]
    if not np.isfinite(numbers).all() or (numbers == np.round(numbers)).all() or is_constant(numbers):
        distinct, inverse = np.unique(numbers, return_inverse=True)
        return float(distinct[int(np.argmax(np.bincount(inverse, weights=weights)))])
    width = _bandwidth(numbers, weights)
    ends = low, high = float(numbers.min()), float(numbers.max())
    peak = _grid_peak(numbers, weights, width, (low, high), ends)
    while (high - low) / _CELLS > 0.1 * width:  # a few far draws stretch the range: look again, near the peak
        reach = 2.0 * (high - low) / _CELLS + _REACH * width
        low, high = max(low, peak - reach), min(high, peak + reach)
        peak = _grid_peak(numbers, weights, width, (low, high), ends)
    return peak


def _bandwidth(numbers: FloatArray, weights: FloatArray) -> float:
    deviation = float(np.sqrt(weighted_variance(numbers, weights)))
    low, high = weighted_quantile(numbers, weights, [0.25, 0.75])
    quartiles = float(high - low) / _NORMAL_QUARTILES
    spread = min(deviation, quartiles) if quartiles > 0.0 else deviation
    size = 1.0 / float(weights @ weights)
    return float(0.9 * spread * size**-0.2)


def _grid_peak(
    numbers: FloatArray, weights: FloatArray, width: float, span: tuple[float, float], ends: tuple[float, float]
) -> float:
    """Peak of the smoothed histogram between the ends of a span, between two points of its grid."""
    low, high = span
    step = (high - low) / _CELLS
    margin = int(np.ceil(_REACH * width / step))
    edges = low + step * np.arange(-margin, _CELLS + margin + 1)
    counts = np.histogram(numbers, edges, weights=weights)[0]
    for end, mirror in ((ends[0], low), (ends[1], high)):
        if end == mirror:
            counts = counts + np.histogram(2.0 * end - numbers, edges, weights=weights)[0]
    kernel = np.exp(-0.5 * (step / width * np.arange(-margin, margin + 1)) ** 2)
    padded = 1 << int(len(counts) + len(kernel)).bit_length()
    smooth = np.fft.irfft(np.fft.rfft(counts, padded) * np.fft.rfft(kernel, padded), padded)
    density = smooth[2 * margin : 2 * margin + _CELLS]
    top = int(np.argmax(density))
    if 0 < top < _CELLS - 1:
        before, here, after = density[top - 1 : top + 2]
        bend = before - 2.0 * here + after
        shift = 0.5 * float((before - after) / bend) if bend < 0.0 else 0.0
        return low + step * (top + 0.5 + shift)
    return low if top == 0 else high


def central_moment_ratio(values: FloatArray, weights: FloatArray, order: int) -> FloatArray:
    """Return the central moment of an order, divided by that power of the standard deviation.

    Parameters
    ----------
    values
        Shape ``(draws, *shape)``.
    weights
        Non-negative weights that sum to one, shape ``(draws,)``.
    order
        3 for the skewness, 4 for the kurtosis, which is 3 for a normal distribution.

    Returns
    -------
    numpy.ndarray
        Shape ``shape``; NaN where the draws never vary.

    Examples
    --------
    >>> float(central_moment_ratio(np.array([-1.0, 1.0]), np.array([0.5, 0.5]), 4))
    1.0
    """
    deviations = values - weighted_mean(values, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = weighted_mean(deviations**order, weights) / weighted_variance(values, weights) ** (order / 2)
    used = values[weights > 0.0]
    constant = [is_constant(column) for column in used.reshape(len(used), -1).T]
    return np.where(np.reshape(constant, values.shape[1:]), np.nan, ratio)
