"""Step sizes of many chains at once, adapted in warm-up from where all of them have been, and fixed afterwards."""

import math

import numpy as np
from numpy.typing import NDArray

from tracestore.inference.batched_moves import SiteTable

__all__ = ["BatchedSteps"]

_TARGET_WALK = 0.3
_TARGET_SINGLE = 0.44
_WINDOWS = (0.1, 0.2, 0.35, 0.5, 0.7)
"""Shares of the warm-up at which the spread of the chains is measured; after the last one factors adapt alone."""
_ROWS_PER_COORDINATE = 20
"""States a coordinate below which no covariances are measured."""
_MAX_CORRELATED = 500
"""Coordinates above which the walk has independent steps."""
_SHRINK = 0.05
"""Share by which covariances are drawn towards zero."""
_SMALLEST = 1e-3
"""Smallest spread, as a share of the one measured before."""
_LOG_FACTOR_RANGE = 9.0


class BatchedSteps:
    """Standard deviations of local steps and the factor of the joint walk.

    Parameters
    ----------
    sites
        What can walk.
    walk_factor
        Factor of the joint walk before adaptation.
    single_factor
        The same of the steps of single draws.
    """

    def __init__(self, sites: SiteTable, walk_factor: float, single_factor: float) -> None:
        self.sites = sites
        num_columns = len(sites.columns)
        self.spread = np.ones(num_columns)
        """Standard deviation of each coordinate over chains."""
        self.root = np.eye(int(sites.in_joint.sum()))
        """What turns independent standard normals into steps of the joint walk."""
        self._log_walk = math.log(walk_factor)
        self._log_single = np.full(len(sites.sites), math.log(single_factor))
        self._num_walks = 0
        self._num_singles = np.zeros(len(sites.sites))
        self._count = 0
        self._origin = self._sums = self._diagonal = np.zeros(num_columns)
        self._squares = np.zeros((0, 0))
        self._forget()

    @property
    def single(self) -> NDArray[np.float64]:
        """Standard deviation of the local step in each coordinate; shared out among those of one draw."""
        owner = self.sites.site_of_column
        return np.asarray(self.spread * np.exp(self._log_single[owner]) / np.sqrt(self.sites.sizes[owner]))

    def walk(self, num_chains: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw a joint step for each chain."""
        return math.exp(self._log_walk) * rng.standard_normal((num_chains, len(self.root))) @ self.root.T

    def begin(self, coordinates: NDArray[np.float64]) -> None:
        """Take the spread of prior draws, one a row."""
        self._take(coordinates)
        self._measure(is_first=True)

    def adapt_walk(self, probabilities: NDArray[np.float64]) -> None:
        """Move the factor by the acceptance probabilities of a joint walk, one a chain."""
        self._num_walks += 1
        self._log_walk += 2.0 * self._num_walks**-0.6 * (float(probabilities.mean()) - _TARGET_WALK)
        self._log_walk = min(max(self._log_walk, -_LOG_FACTOR_RANGE), _LOG_FACTOR_RANGE)

    def adapt_single(self, numbers: NDArray[np.int64], probabilities: NDArray[np.float64]) -> None:
        """Move the factors by the acceptance probabilities of local steps of some draws, one of each a chain."""
        num_sites = len(self._log_single)
        counts = np.bincount(numbers, minlength=num_sites)
        sums = np.bincount(numbers, probabilities, num_sites)
        met = counts > 0
        self._num_singles[met] += 1
        gain = 2.0 * self._num_singles[met] ** -0.6
        self._log_single[met] += gain * (sums[met] / counts[met] - _TARGET_SINGLE)
        np.clip(self._log_single, -_LOG_FACTOR_RANGE, _LOG_FACTOR_RANGE, out=self._log_single)

    def collect(self, coordinates: NDArray[np.float64], before: float, after: float) -> None:
        """Take in where the chains stand.

        Parameters
        ----------
        coordinates
            One row a chain.
        before, after
            Shares of the warm-up that were done before and after this step.
        """
        self._take(coordinates)
        if any(before < window <= after for window in _WINDOWS):
            self._measure(is_first=False)

    def _take(self, coordinates: NDArray[np.float64]) -> None:
        rows = coordinates[np.isfinite(coordinates).all(axis=1)]
        if not self._count:
            self._origin = rows.mean(axis=0) if len(rows) else self._origin
        centered = rows - self._origin  # keeps the digits of squares
        self._count += len(rows)
        self._sums += centered.sum(axis=0)
        if coordinates.shape[1] <= _MAX_CORRELATED:
            self._squares += centered.T @ centered
        else:
            self._diagonal += (centered * centered).sum(axis=0)

    def _measure(self, *, is_first: bool) -> None:
        if self._count < 2:
            return
        mean = self._sums / self._count
        is_full = len(mean) <= _MAX_CORRELATED
        variance = (np.diagonal(self._squares) if is_full else self._diagonal) / self._count - mean * mean
        spread = np.sqrt(np.maximum(variance, 0.0))
        if is_first:
            self.spread = np.where(spread > 0.0, spread, 1.0)
        else:  # chains that stand still say nothing about the posterior
            self.spread = np.maximum(spread, _SMALLEST * self.spread)
        joint = self.sites.in_joint
        self.root = np.diag(self.spread[joint])
        if is_full and not is_first and self._count >= _ROWS_PER_COORDINATE * len(mean):
            covariance = (self._squares / self._count - np.outer(mean, mean))[np.ix_(joint, joint)]
            self.root = _root(covariance, self.spread[joint])
        if not is_first and joint.any():
            self._log_walk = math.log(2.4 / math.sqrt(joint.sum()))
            self._num_walks = 0
        self._forget()

    def _forget(self) -> None:
        num_columns = len(self.sites.columns)
        self._count = 0
        self._origin = np.zeros(num_columns)
        self._sums = np.zeros(num_columns)
        size = num_columns if num_columns <= _MAX_CORRELATED else 0
        self._squares = np.zeros((size, size))
        self._diagonal = np.zeros(num_columns)


def _root(covariance: NDArray[np.float64], spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """Triangular root of a covariance whose correlations are shrunk a little; independent steps when it has none."""
    shrunk = (1.0 - _SHRINK) * covariance
    np.fill_diagonal(shrunk, spread * spread)
    try:
        return np.asarray(np.linalg.cholesky(shrunk), np.float64)
    except np.linalg.LinAlgError:
        return np.diag(spread)
