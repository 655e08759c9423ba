"""Whether two sets of rows come from one distribution: chi-square of their means, and a classifier between them.

Numbers in, numbers out. The classifier is a small network of numpy, trained on some folds and asked about the others
(cross-fitting), so that its area under the curve is an honest one: 0.5 when nothing tells the sets apart, 1 when
everything does.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tracestore.errors import InvalidInputError

__all__ = ["AreaEstimate", "ChiSquare", "area_under_curve", "chi_square", "classifier_area"]

FloatArray = npt.NDArray[np.float64]

_LEAST_SHARE = 1e-10
"""Directions with less variance, relative to the largest, are taken for constant."""
_EPOCHS, _BATCH, _STEP, _DECAY = 40, 128, 3e-3, 1e-4
_LEAST_SPREAD = 1e-12


class ChiSquare(NamedTuple):
    """Squared distance of two mean rows in units of its own covariance."""

    value: float
    degrees: int
    """Directions that vary."""

    @property
    def reduced(self) -> float:
        """Value per degree: about 1 when the sets have one distribution."""
        return self.value / self.degrees if self.degrees else math.nan

    @property
    def deviations(self) -> float:
        """The value as a standard Normal number, by the approximation of Wilson and Hilferty; large is bad."""
        if not self.degrees:
            return math.nan
        spread = 2.0 / (9.0 * self.degrees)
        return (math.cbrt(self.reduced) - 1.0 + spread) / math.sqrt(spread)


class AreaEstimate(NamedTuple):
    """Area under the curve of a classifier, with a bootstrap interval."""

    value: float
    lower: float
    upper: float


def chi_square(one: npt.ArrayLike, other: npt.ArrayLike) -> ChiSquare:
    """Compare the mean rows of two sets, with the covariance between the numbers of a row.

    Parameters
    ----------
    one, other
        Shapes ``(N, K)`` and ``(M, K)``, for instance profiles of showers; more rows than numbers in a row, or the
        covariance is not known well.

    Returns
    -------
    ChiSquare
        With the covariance of the difference of the means, ``C1 / N + C2 / M``. When a number varies in neither set,
        but differs between them, the value is infinite.

    Raises
    ------
    InvalidInputError
        When rows have different lengths, there are fewer than two of one kind, or values are not finite.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> same = chi_square(rng.normal(size=(400, 3)), rng.normal(size=(300, 3)))
    >>> other = chi_square(rng.normal(size=(400, 3)), rng.normal(size=(300, 3)) + 1.0)
    >>> same.degrees, same.deviations < 3.0, other.deviations > 10.0
    (3, True, True)
    """
    first, second = _two_sets(one, other, least=2)
    difference = first.mean(axis=0) - second.mean(axis=0)
    covariance = _covariance_of_mean(first) + _covariance_of_mean(second)
    # in units of the errors, so that numbers of any size count alike
    errors = np.sqrt(np.diag(covariance))
    varies = errors > 0.0
    scale = np.abs(first).max(axis=0) + np.abs(second).max(axis=0)
    if (np.abs(difference[~varies]) > _LEAST_SPREAD * scale[~varies]).any():
        return ChiSquare(math.inf, int(varies.sum()) or 1)
    distance = difference[varies] / errors[varies]
    correlation = covariance[np.ix_(varies, varies)] / np.outer(errors[varies], errors[varies])
    values, vectors = np.linalg.eigh(correlation)
    kept = values > _LEAST_SHARE * values.max(initial=0.0)
    along = vectors[:, kept].T @ distance
    return ChiSquare(float((along * along / values[kept]).sum()), int(kept.sum()))


def area_under_curve(scores: npt.ArrayLike, is_positive: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Return the probability that a positive row scores above a negative one, ties counting half.

    Parameters
    ----------
    scores
        Shape ``(N,)``.
    is_positive
        Which rows are positive, shape ``(N,)``, some of each kind.
    weights
        Weights of the rows, shape ``(N,)``; equal when not given.

    Raises
    ------
    InvalidInputError
        When shapes differ, a score is not finite, or there is no weight on one kind.

    Examples
    --------
    >>> area_under_curve([0.1, 0.4, 0.4, 0.9], [False, False, True, True])
    0.875
    """
    values, positive = np.asarray(scores, np.float64), np.asarray(is_positive, np.bool_)
    mass = np.ones(values.shape) if weights is None else np.asarray(weights, np.float64)
    if values.ndim != 1 or not (values.shape == positive.shape == mass.shape) or not np.isfinite(values).all():
        message = (
            "Scores, kinds and weights must be rows of one length, and scores finite; "
            f"got shapes {values.shape}, {positive.shape} and {mass.shape}."
        )
        raise InvalidInputError(message, argument="scores")
    up, down = mass[positive].sum(), mass[~positive].sum()
    if not (up > 0.0 and down > 0.0):
        message = "An area needs rows of both kinds, with positive weight."
        raise InvalidInputError(message, argument="is_positive")
    _, group = np.unique(values, return_inverse=True)
    return _area(group, positive, mass)


def classifier_area(
    one: npt.ArrayLike,
    other: npt.ArrayLike,
    *,
    seed: int,
    num_folds: int = 5,
    num_hidden: int = 32,
    level: float = 0.95,
    num_resamples: int = 200,
) -> AreaEstimate:
    """Train a classifier to tell two sets of rows apart and return its area under the curve on rows it has not seen.

    Parameters
    ----------
    one, other
        Shapes ``(N, F)`` and ``(M, F)``, rows of features; twice as many of each as folds, or more.
    seed
        Of folds, weights, minibatches and resampling.
    num_folds
        Parts; each is scored by a classifier that learned from the others. The area is their mean.
    num_hidden
        Units of the only hidden layer; 0 makes it a logistic regression.
    level
        Probability of the interval.
    num_resamples
        Resampled sets of scores behind the interval. It covers the choice of rows that are scored, not of
        those learned from, and so is too narrow where little can be learned.

    Returns
    -------
    AreaEstimate
        About 0.5 when features do not tell the sets apart.

    Raises
    ------
    InvalidInputError
        When rows have different lengths, there are too few, or values are not finite.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> area = classifier_area(rng.normal(size=(300, 2)), rng.normal(size=(300, 2)) + [2.0, 0.0], seed=1)
    >>> 0.87 < area.lower < area.value < area.upper < 0.97
    True
    """
    if num_folds < 2 or num_hidden < 0 or not 0.0 < level < 1.0 or num_resamples < 2:
        message = (
            "A classifier needs 2 folds or more, 0 hidden units or more, a level between 0 and 1, and 2 resamples or "
            f"more; got {num_folds}, {num_hidden}, {level}, {num_resamples}."
        )
        raise InvalidInputError(message, argument="num_folds")
    first, second = _two_sets(one, other, least=2 * num_folds)
    rng = np.random.default_rng(seed)
    rows = np.concatenate([first, second])
    positive = np.arange(len(rows)) >= len(first)
    # both kinds are dealt out evenly, and weigh the same together
    fold = np.concatenate([rng.permutation(len(part)) % num_folds for part in (first, second)])
    weights = np.where(positive, 1.0 / len(second), 1.0 / len(first))
    areas, resampled = [], np.zeros(num_resamples)
    for number in range(num_folds):
        learns = fold != number
        classifier = _Classifier(rows[learns], positive[learns], weights[learns], num_hidden, rng)
        scores, kinds = classifier.score(rows[~learns]), positive[~learns]
        _, group = np.unique(scores, return_inverse=True)
        areas.append(_area(group, kinds, np.ones(len(kinds))))
        for index in range(num_resamples):
            resampled[index] += _area(group, kinds, _resampled_counts(kinds, rng)) / num_folds
    tail = 0.5 * (1.0 - level)
    lower, upper = np.quantile(resampled, [tail, 1.0 - tail])
    return AreaEstimate(float(np.mean(areas)), float(lower), float(upper))


class _Classifier:
    """A hidden layer of tanh units and a logistic output, or the output alone, fitted by Adam.

    Features are scaled by the training rows.
    """

    def __init__(
        self,
        rows: FloatArray,
        positive: npt.NDArray[np.bool_],
        weights: FloatArray,
        hidden: int,
        rng: np.random.Generator,
    ) -> None:
        self._mean = rows.mean(axis=0)
        spread = rows.std(axis=0)
        self._spread = np.where(spread > _LEAST_SPREAD * (1.0 + np.abs(self._mean)), spread, math.inf)
        width = rows.shape[1]
        self._parameters = [np.zeros((hidden or width, 1)), np.zeros(1)]
        if hidden:
            self._parameters[0] = rng.normal(size=(hidden, 1)) / math.sqrt(hidden)
            self._parameters += [rng.normal(size=(width, hidden)) / math.sqrt(width), np.zeros(hidden)]
        self._fit((rows - self._mean) / self._spread, positive.astype(np.float64), weights / weights.mean(), rng)

    def score(self, rows: FloatArray) -> FloatArray:
        """Return the log odds of being positive, shape ``(N,)``."""
        return self._log_odds((rows - self._mean) / self._spread)[0]

    def _log_odds(self, scaled: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the log odds, and what the output layer sees."""
        seen = np.tanh(scaled @ self._parameters[2] + self._parameters[3]) if len(self._parameters) > 2 else scaled
        return (seen @ self._parameters[0] + self._parameters[1])[:, 0], seen

    def _fit(self, scaled: FloatArray, target: FloatArray, weights: FloatArray, rng: np.random.Generator) -> None:
        first = [np.zeros_like(parameter) for parameter in self._parameters]
        second = [np.zeros_like(parameter) for parameter in self._parameters]
        num_steps = _EPOCHS * math.ceil(len(scaled) / _BATCH)
        step = 0
        for _ in range(_EPOCHS):
            order = rng.permutation(len(scaled))
            for low in range(0, len(order), _BATCH):
                chosen = order[low : low + _BATCH]
                step += 1
                rate = _STEP * 0.5 * (1.0 + math.cos(math.pi * step / num_steps))
                gradients = self._gradients(scaled[chosen], target[chosen], weights[chosen])
                for parameter, gradient, mean, square in zip(self._parameters, gradients, first, second, strict=True):
                    mean += 0.1 * (gradient + _DECAY * parameter - mean)
                    square += 0.01 * (gradient * gradient - square)
                    move = mean / (1.0 - 0.9**step) / (np.sqrt(square / (1.0 - 0.99**step)) + 1e-8)
                    parameter -= rate * move  # the parameter itself

    def _gradients(self, scaled: FloatArray, target: FloatArray, weights: FloatArray) -> list[FloatArray]:
        log_odds, seen = self._log_odds(scaled)
        slope = (weights * (0.5 * (1.0 + np.tanh(0.5 * log_odds)) - target) / len(target))[:, None]
        gradients = [seen.T @ slope, slope.sum(axis=0)]
        if len(self._parameters) > 2:
            before = slope @ self._parameters[0].T * (1.0 - seen * seen)
            gradients += [scaled.T @ before, before.sum(axis=0)]
        return gradients


def _covariance_of_mean(rows: FloatArray) -> FloatArray:
    centered = rows - rows.mean(axis=0)
    covariance: FloatArray = centered.T @ centered / ((len(rows) - 1) * len(rows))
    return covariance


def _resampled_counts(positive: npt.NDArray[np.bool_], rng: np.random.Generator) -> FloatArray:
    """Return how often each row is in a resampled set with as many rows of each kind."""
    counts = np.empty(len(positive))
    for kind in (positive, ~positive):
        number = int(kind.sum())
        counts[kind] = np.bincount(rng.integers(number, size=number), minlength=number)
    return counts


def _area(group: npt.NDArray[np.intp], positive: npt.NDArray[np.bool_], weights: FloatArray) -> float:
    """Return the area, given the rank of each score among the distinct ones."""
    number = int(group.max()) + 1
    up = np.bincount(group, np.where(positive, weights, 0.0), number)
    down = np.bincount(group, np.where(positive, 0.0, weights), number)
    below = np.cumsum(down) - 0.5 * down
    return float(up @ below / (up.sum() * down.sum()))


def _two_sets(one: npt.ArrayLike, other: npt.ArrayLike, least: int) -> tuple[FloatArray, FloatArray]:
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or not first.shape[1]:
        message = (
            f"Two sets must be rows of one length, shapes (N, K) and (M, K); got {first.shape} and {second.shape}."
        )
        raise InvalidInputError(message, argument="one")
    if min(len(first), len(second)) < least:
        message = f"Each set needs {least} rows or more; got {len(first)} and {len(second)}."
        raise InvalidInputError(message, argument="one")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        message = "All values must be finite; some are not."
        raise InvalidInputError(message, argument="one")
    return first, second
