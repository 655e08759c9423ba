"""Means in bins, and bands around means, ratios and correlations from resampling whole rows; arrays in, numbers out."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tracestore.errors import InvalidInputError

__all__ = [
    "Band",
    "BinnedValues",
    "bin_values",
    "bootstrap_band",
    "correlation_matrix",
    "finite_numbers",
    "ratio_band",
    "require_level",
]

FloatArray = npt.NDArray[np.float64]


class Band(NamedTuple):
    """A statistic with a band from resampling."""

    mean: FloatArray
    """The statistic of all rows."""
    lower: FloatArray
    upper: FloatArray


class BinnedValues(NamedTuple):
    """Values by bin of another number; NaN where a bin has too few."""

    counts: npt.NDArray[np.int64]
    """Shape ``(bins,)``."""
    mean: FloatArray
    """Shape ``(bins,)``."""
    sd: FloatArray
    """Standard deviation of the values, shape ``(bins,)``."""
    error: FloatArray
    """Standard error of the mean, shape ``(bins,)``."""


def bootstrap_band(
    values: npt.ArrayLike,
    *,
    seed: int,
    statistic: Callable[[FloatArray], FloatArray] | None = None,
    level: float = 0.95,
    num_resamples: int = 400,
) -> Band:
    """Return the mean of rows, or another statistic, with a band for each of its numbers from resampling whole rows.

    Parameters
    ----------
    values
        Shape ``(N, ...)``, one row an item: a profile, or features.
    seed
        Of the resampling; the same seed gives the same band.
    statistic
        Computes numbers from rows of the shape of ``values``, such as `correlation_matrix`; their mean when not given.
    level
        Probability of the band, for each number by itself.
    num_resamples
        Resampled sets.

    Returns
    -------
    Band
        Three arrays of the shape of the statistic.

    Raises
    ------
    InvalidInputError
        When there is no row, a value is not finite, or level or resamples are out of range.

    Examples
    --------
    >>> band = bootstrap_band(np.arange(100.0)[:, None], seed=1)
    >>> band.mean, bool(43.0 < band.lower[0] < 49.5 < band.upper[0] < 56.0)
    (array([49.5]), True)
    """
    rows = finite_numbers(values, "values")
    require_level(level, num_resamples)
    rng = np.random.default_rng(seed)
    if statistic is None:
        return _band(rows.mean(axis=0), [_resampled_mean(rows, rng) for _ in range(num_resamples)], level)
    resampled = [statistic(rows[rng.integers(len(rows), size=len(rows))]) for _ in range(num_resamples)]
    return _band(statistic(rows), resampled, level)


def ratio_band(
    one: npt.ArrayLike, other: npt.ArrayLike, *, seed: int, level: float = 0.95, num_resamples: int = 400
) -> Band:
    """Return the ratio of the mean rows of two sets, with a band from resampling both.

    Parameters
    ----------
    one, other
        Numerator and denominator, shapes ``(N, ...)`` and ``(M, ...)`` with the same row.
    seed, level, num_resamples
        As in `bootstrap_band`.

    Returns
    -------
    Band
        Of the shape of one row; NaN or infinite where the denominator is zero.

    Raises
    ------
    InvalidInputError
        When rows differ in shape, there is none, or a value is not finite.

    Examples
    --------
    >>> ratio_band([[2.0, 4.0], [2.0, 4.0]], [[1.0, 4.0]], seed=1).mean
    array([2., 1.])
    """
    first, second = finite_numbers(one, "one"), finite_numbers(other, "other")
    if first.shape[1:] != second.shape[1:]:
        message = f"Both sets must have rows of one shape; got {first.shape[1:]} and {second.shape[1:]}."
        raise InvalidInputError(message, argument="other")
    require_level(level, num_resamples)
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        resampled = [_resampled_mean(first, rng) / _resampled_mean(second, rng) for _ in range(num_resamples)]
        return _band(first.mean(axis=0) / second.mean(axis=0), resampled, level)


def bin_values(values: npt.ArrayLike, by: npt.ArrayLike, edges: npt.ArrayLike) -> BinnedValues:
    """Return mean and spread of a number of each shower, in bins of another one.

    Parameters
    ----------
    values
        For instance the response, total over energy; shape ``(N,)``.
    by
        For instance the energy or the angle, shape ``(N,)``.
    edges
        Ascending, shape ``(bins + 1,)``. A bin includes its lower edge, the last one its upper edge, too; what is
        outside of all bins is in none.

    Returns
    -------
    BinnedValues
        The mean is NaN in an empty bin, spread and error where there are fewer than two values.

    Raises
    ------
    InvalidInputError
        When lengths differ, values are not finite, or edges do not ascend.

    Examples
    --------
    >>> bin_values([1.0, 3.0, 7.0], [0.5, 0.6, 2.0], [0.0, 1.0, 2.0]).mean
    array([2., 7.])
    """
    numbers, keys, limits = finite_numbers(values, "values"), finite_numbers(by, "by"), finite_numbers(edges, "edges")
    if numbers.ndim != 1 or numbers.shape != keys.shape or limits.ndim != 1 or len(limits) < 2:
        message = (
            f"`values` and `by` must be rows of one length, `edges` two or more; got {numbers.shape}, {keys.shape}."
        )
        raise InvalidInputError(message, argument="values")
    if not (np.diff(limits) > 0.0).all():
        message = f"`edges` must ascend; got {limits.tolist()}."
        raise InvalidInputError(message, argument="edges")
    number = len(limits) - 1
    bins = np.searchsorted(limits, keys, "right") - 1
    bins[keys == limits[-1]] = number - 1
    is_inside = (bins >= 0) & (bins < number)
    bins, numbers = bins[is_inside], numbers[is_inside]
    counts = np.bincount(bins, minlength=number)
    with np.errstate(all="ignore"):
        mean = np.bincount(bins, numbers, number) / counts
        squares = np.bincount(bins, (numbers - mean[bins]) ** 2, number)
        sd = np.sqrt(np.where(counts > 1, squares / (counts - 1), np.nan))
        return BinnedValues(counts, mean, sd, sd / np.sqrt(counts))


def correlation_matrix(values: npt.ArrayLike) -> FloatArray:
    """Return the correlations of features, shape ``(F, F)``; NaN where a feature does not vary.

    Parameters
    ----------
    values
        Shape ``(N, F)``, two rows or more.

    Raises
    ------
    InvalidInputError
        When the shape is another, or a value is not finite.

    Examples
    --------
    >>> correlation_matrix([[0.0, 1.0], [1.0, 0.0], [2.0, -1.0]]).round(6).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    rows = finite_numbers(values, "values")
    if rows.ndim != 2 or len(rows) < 2:
        message = f"Correlations need two rows of features or more; got shape {rows.shape}."
        raise InvalidInputError(message, argument="values")
    centered = rows - rows.mean(axis=0)
    with np.errstate(all="ignore"):
        scaled = centered / np.sqrt((centered * centered).sum(axis=0))
    correlations: FloatArray = np.clip(scaled.T @ scaled, -1.0, 1.0)
    return correlations


def finite_numbers(values: npt.ArrayLike, name: str) -> FloatArray:
    """Read finite numbers, one or more, as an array that is not scalar.

    Raises
    ------
    InvalidInputError
        When they are not; names the argument.
    """
    numbers = np.asarray(values, np.float64)
    if not numbers.ndim or not numbers.size or not np.isfinite(numbers).all():
        message = f"`{name}` must be finite numbers, one or more; got shape {numbers.shape}."
        raise InvalidInputError(message, argument=name)
    return numbers


def require_level(level: float, num_resamples: int) -> None:
    """Refuse a level that is no probability, and too few resamples for a band.

    Raises
    ------
    InvalidInputError
        When they are.
    """
    if not (0.0 < level < 1.0 and num_resamples >= 2):
        message = f"A band needs a level between 0 and 1, and 2 resamples or more; got {level!r}, {num_resamples!r}."
        raise InvalidInputError(message, argument="level")


def _resampled_mean(rows: FloatArray, rng: np.random.Generator) -> FloatArray:
    counts = np.bincount(rng.integers(len(rows), size=len(rows)), minlength=len(rows))
    mean: FloatArray = np.tensordot(counts, rows, axes=1) / len(rows)
    return mean


def _band(statistic: FloatArray, resampled: Sequence[FloatArray], level: float) -> Band:
    tail = 0.5 * (1.0 - level)
    lower, upper = np.quantile(np.stack(resampled), [tail, 1.0 - tail], axis=0)
    return Band(statistic, lower, upper)
