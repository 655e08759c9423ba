"""Whether posteriors are calibrated: ranks of the truth, their uniformity, coverage.

Simulation-based calibration (Talts et al. 2018): parameters from the prior, data from them, and the rank of the true
value among draws from the posterior is uniform. Ranks come as probability integral transforms (PIT), numbers between 0
and 1. Their uniformity is judged by the empirical distribution function with simultaneous bands (Saeilynoja, Buerkner
and Vehtari 2022), whose coverage is computed exactly. Pure numpy; knows nothing of traces or engines.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tracestore.diagnostics.weights import normalized_weights
from tracestore.errors import InvalidInputError

__all__ = ["EcdfBand", "Shape", "central_coverage", "ecdf_band", "randomized_pit", "shape_of", "uniformity_pvalue"]

FloatArray = npt.NDArray[np.float64]

MAX_POINTS = 100
"""Points at which an empirical distribution function is compared with the uniform one."""
_BISECTIONS = 40


class EcdfBand(NamedTuple):
    """Where the empirical distribution function of uniform values lies, at all points together."""

    points: FloatArray
    """Shape ``(K,)``."""
    lower: FloatArray
    """Shape ``(K,)``."""
    upper: FloatArray
    """Shape ``(K,)``."""


class Shape(NamedTuple):
    """How values deviate from uniform ones, in standard errors."""

    bias: float
    """Positive when they are too large on average: the truth lies above the draws, which are biased low."""
    spread: float
    """Positive when too many lie near 0 and 1: the posteriors are too narrow (overconfident). Negative when too many
    lie in the middle: they are too wide."""


def randomized_pit(
    draws: npt.ArrayLike,
    truth: float,
    rng: np.random.Generator,
    *,
    log_weights: npt.ArrayLike | None = None,
    size: float | None = None,
) -> float:
    """Return where the truth stands among draws, between 0 and 1, ties broken at random.

    For equally weighted independent draws it is the usual rank, made continuous: exactly uniform when truth and draws
    are exchangeable. For weighted or correlated draws the effective sample size takes the place of the number of draws,
    and uniformity holds approximately, the better the larger it is.

    Parameters
    ----------
    draws
        Shape ``(draws,)``.
    truth
        The true value.
    rng
        Random numbers.
    log_weights
        Unnormalized log weights, shape ``(draws,)``; equal when None.
    size
        Effective sample size of the draws; by default Kish's size of the weights.

    Raises
    ------
    InvalidInputError
        When there is no draw of weight.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> 0.6 <= randomized_pit([1.0, 2.0, 3.0, 5.0], 4.0, rng) <= 0.8
    True
    """
    numbers = np.asarray(draws, dtype=np.float64)
    weights = normalized_weights(np.zeros(len(numbers)) if log_weights is None else log_weights)
    if not weights.any():
        message = "The rank of the truth needs at least one draw with weight; found none."
        raise InvalidInputError(message, argument="draws")
    count = 1.0 / float(weights @ weights) if size is None else size
    below, equal = float(weights[numbers < truth].sum()), float(weights[numbers == truth].sum())
    return min((count * below + rng.random() * (count * equal + 1.0)) / (count + 1.0), 1.0)


def uniformity_pvalue(pit: npt.ArrayLike) -> float:
    """Return the probability that uniform values deviate as much somewhere as these do.

    The empirical distribution function is compared with the uniform one at up to a hundred points; the worst of the
    pointwise tail probabilities is the statistic, whose distribution is computed exactly.

    Parameters
    ----------
    pit
        Numbers between 0 and 1, shape ``(N,)``, at least one.

    Raises
    ------
    InvalidInputError
        When a number lies outside 0 and 1, or there is none.

    Examples
    --------
    >>> even = (np.arange(200) + 0.5) / 200
    >>> uniformity_pvalue(even) > 0.99, uniformity_pvalue(even**2) < 1e-6
    (True, True)
    """
    values = _checked(pit)
    grid = _grid(len(values), _num_points(len(values)))
    counts = np.searchsorted(np.sort(values), grid.points, side="right")
    worst = float(grid.tails[np.arange(len(grid.points)), counts].min())
    return min(max(1.0 - _probability_within(grid, worst), 0.0), 1.0)


@lru_cache(maxsize=64)
def ecdf_band(num_values: int, *, num_points: int | None = None, coverage: float = 0.95) -> EcdfBand:
    """Return the simultaneous band of the empirical distribution function of uniform values.

    Parameters
    ----------
    num_values
        How many values there are.
    num_points
        At how many points; by default as many as values, at most a hundred.
    coverage
        Probability that the function lies within the band at all points.

    Examples
    --------
    >>> band = ecdf_band(100, num_points=4)
    >>> band.points.tolist(), band.lower.tolist(), band.upper.tolist()
    ([0.25, 0.5, 0.75], [0.15, 0.39, 0.65], [0.35, 0.61, 0.85])
    """
    grid = _grid(num_values, num_points or _num_points(num_values))
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if _probability_within(grid, middle) >= coverage:
            low = middle
        else:
            high = middle
    inside = grid.tails > low
    lower = np.argmax(inside, axis=1) / num_values
    upper = (num_values - np.argmax(inside[:, ::-1], axis=1)) / num_values
    return EcdfBand(grid.points, lower, upper)


def central_coverage(pit: npt.ArrayLike, levels: Sequence[float] = (0.5, 0.8, 0.95)) -> FloatArray:
    """Return how often the central interval of each level held the truth.

    Parameters
    ----------
    pit
        Numbers between 0 and 1, shape ``(N,)``, at least one.
    levels
        Levels between 0 and 1.

    Raises
    ------
    InvalidInputError
        When a number lies outside 0 and 1, or there is none.

    Examples
    --------
    >>> central_coverage([0.1, 0.4, 0.6, 0.9], [0.5, 0.9]).tolist()
    [0.5, 1.0]
    """
    distance = np.abs(2.0 * _checked(pit) - 1.0)
    return np.array([float((distance <= level).mean()) for level in levels])


def shape_of(pit: npt.ArrayLike) -> Shape:
    """Say how values deviate from uniform ones: shifted, or spread too much or too little.

    Parameters
    ----------
    pit
        Numbers between 0 and 1, shape ``(N,)``, at least one.

    Raises
    ------
    InvalidInputError
        When a number lies outside 0 and 1, or there is none.

    Examples
    --------
    >>> narrow = np.array([0.01, 0.99] * 50)
    >>> [round(number, 1) for number in shape_of(narrow)]
    [0.0, 21.0]
    """
    values = _checked(pit)
    root = math.sqrt(len(values))
    centered = values - 0.5
    # of a uniform value: variance 1/12; variance of the squared distance from the middle 1/180
    bias = float(centered.mean()) * root * math.sqrt(12.0)
    spread = (float((centered**2).mean()) - 1.0 / 12.0) * root * math.sqrt(180.0)
    return Shape(bias, spread)


class _Grid(NamedTuple):
    """Counts of uniform values below points: their pointwise two-sided tail probabilities."""

    num_values: int
    points: FloatArray
    """Shape ``(K,)``, increasing, between 0 and 1."""
    tails: FloatArray
    """Twice the smaller of P(count <= c) and P(count >= c), shape ``(K, N + 1)``."""


def _checked(pit: npt.ArrayLike) -> FloatArray:
    values = np.asarray(pit, dtype=np.float64).ravel()
    if not len(values) or not ((values >= 0.0) & (values <= 1.0)).all():
        message = f"Ranks of the truth must be numbers between 0 and 1, at least one; got {len(values)} numbers."
        raise InvalidInputError(message, argument="pit")
    return values


def _num_points(num_values: int) -> int:
    return min(max(num_values, 2), MAX_POINTS)


@lru_cache(maxsize=64)
def _grid(num_values: int, num_points: int) -> _Grid:
    points = np.arange(1, num_points) / num_points
    pmf = np.exp(_log_binomial(np.full(1, num_values), np.arange(num_values + 1), points[:, None]))
    at_most = np.cumsum(pmf, axis=1)
    at_least = np.cumsum(pmf[:, ::-1], axis=1)[:, ::-1]
    return _Grid(num_values, points, 2.0 * np.minimum(at_most, at_least))


def _probability_within(grid: _Grid, level: float) -> float:
    """Probability that the counts at all points have pointwise tail probabilities above a level.

    The counts are a Markov chain over the points: of the values above one point, each lies below the next with the same
    probability.
    """
    probability = np.ones(1)
    first, before = 0, 0.0
    for point, tails in zip(grid.points.tolist(), grid.tails, strict=True):
        inside = np.flatnonzero(tails > level)
        if not len(inside):
            return 0.0
        low, high = int(inside[0]), int(inside[-1])
        counts = np.arange(first, first + len(probability))
        steps = np.arange(low, high + 1) - counts[:, None]
        chance = np.exp(_log_binomial(grid.num_values - counts[:, None], steps, (point - before) / (1.0 - before)))
        probability = probability @ chance
        first, before = low, point
    return float(probability.sum())


def _log_binomial(
    trials: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], chance: FloatArray | float
) -> FloatArray:
    """Log probability of counts, -inf where they are impossible."""
    factorial = _log_factorials(int(trials.max()))
    possible = (counts >= 0) & (counts <= trials)
    inner = np.where(possible, counts, 0)
    logs = (
        factorial[trials]
        - factorial[inner]
        - factorial[trials - inner]
        + inner * np.log(chance)
        + (trials - inner) * np.log1p(-np.asarray(chance))
    )
    return np.where(possible, logs, -np.inf)


@lru_cache(maxsize=8)
def _log_factorials(largest: int) -> FloatArray:
    factorials: FloatArray = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, largest + 1)))])
    return factorials
