"""One variable of a posterior: its draws and everything that is computed from them alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.diagnostics import chains
from tracestore.diagnostics.weights import (
    kish_ess,
    weighted_mcse,
    weighted_mean,
    weighted_quantile,
    weighted_variance,
)
from tracestore.errors import DegenerateWeightsError, InvalidInputError, TracestoreError
from tracestore.posteriors.shape import central_moment_ratio, mode_of
from tracestore.posteriors.summary import SummaryRow

__all__ = ["MAX_ELEMENTS", "Draws", "Number", "Variable", "by_chain"]

MAX_ELEMENTS = 16
"""Vectors with more elements are left out of summaries and of the overall effective sample size."""

Column = NDArray[np.float64]
Number = float | Column


class Draws(NamedTuple):
    """Draws of one variable, where it is present."""

    values: Column
    """Shape ``(M, *shape)``, chain by chain in the order of the draws."""
    weights: Column
    """Shape ``(M,)``; the weights of *all* draws of the posterior sum to one, so these sum to the presence."""
    chain: NDArray[np.int64]
    """Shape ``(M,)``."""
    draw: NDArray[np.int64]
    """Shape ``(M,)``: position in the chain, or in the job."""


@dataclass(frozen=True)
class Variable:
    """Statistics of one variable, over the draws where it is present.

    A number for a scalar variable, an array of its shape for others.
    """

    name: str
    draws: Draws
    has_chains: bool
    """Whether the draws are those of Markov chains, and not independent ones."""
    is_reweighted: bool = False
    """Whether draws of Markov chains have weights."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one draw."""
        return self.draws.values.shape[1:]

    @property
    def presence(self) -> float:
        """Posterior probability that a trace has the variable."""
        return min(float(self.draws.weights.sum()), 1.0)

    @property
    def values(self) -> Column:
        """Draws, shape ``(M, *shape)``."""
        return self.draws.values

    @cached_property
    def weights(self) -> Column:
        """Weights that sum to one over these draws, shape ``(M,)``."""
        total = float(self.draws.weights.sum())
        if not total > 0.0:
            message = f"{self.name!r} is present only in draws of weight zero; it has no posterior moments."
            raise DegenerateWeightsError(message, name=self.name)
        return self.draws.weights / total

    def mean(self) -> Number:
        """Return the mean."""
        return _number(weighted_mean(self.values, self.weights))

    def var(self) -> Number:
        """Return the variance."""
        return _number(weighted_variance(self.values, self.weights))

    def std(self) -> Number:
        """Return the standard deviation."""
        return _number(np.sqrt(weighted_variance(self.values, self.weights)))

    def quantile(self, probabilities: ArrayLike) -> Number:
        """Return quantiles, of the shape of the probabilities followed by that of the variable."""
        wanted = np.asarray(probabilities, dtype=np.float64)
        if not ((wanted >= 0.0) & (wanted <= 1.0)).all():
            message = f"`probabilities` must lie between 0 and 1; got {probabilities!r}."
            raise InvalidInputError(message, argument="probabilities")
        columns = [weighted_quantile(column, self.weights, wanted) for column in self._columns]
        return _number(np.reshape(np.stack(columns, axis=-1), wanted.shape + self.shape))

    def mode(self) -> Number:
        """Return the most probable value, or the peak of the density; of each element by itself."""
        return _number(np.reshape([mode_of(column, self.weights) for column in self._columns], self.shape))

    def skewness(self) -> Number:
        """Return the skewness."""
        return _number(central_moment_ratio(self.values, self.weights, 3))

    def kurtosis(self) -> Number:
        """Return the excess kurtosis."""
        return _number(central_moment_ratio(self.values, self.weights, 4) - 3.0)

    def probabilities(self) -> dict[float, float]:
        """Return the probability of each value of a discrete scalar."""
        if self.shape or (self.values != np.round(self.values)).any():
            message = f"{self.name!r} is no scalar of whole numbers; use `histogram` or `quantile`."
            raise InvalidInputError(message, name=self.name)
        distinct, inverse = np.unique(self.values, return_inverse=True)
        return dict(zip(distinct.tolist(), np.bincount(inverse, weights=self.weights).tolist(), strict=True))

    def histogram(self, bins: int | Sequence[float]) -> tuple[Column, Column]:
        """Return the density in bins and the edges of the bins."""
        if self.shape:
            message = f"`histogram` needs a scalar variable; {self.name!r} has shape {self.shape}."
            raise InvalidInputError(message, name=self.name)
        used = self.weights > 0.0
        density, edges = np.histogram(self.values[used], bins=bins, weights=self.weights[used], density=True)
        return density, edges

    def is_constant(self) -> bool:
        """Tell whether the draws with weight never vary."""
        return chains.is_constant(self.values[self.weights > 0.0])

    def ess(self) -> Number:
        """Return Kish's size of the weights, the bulk size over the chains, or that of the mean for reweighted ones."""
        if self.is_reweighted:
            with np.errstate(invalid="ignore", divide="ignore"):
                return _number(np.asarray(self.var()) / np.asarray(self.mcse()) ** 2)
        return (
            self._over_chains(lambda column: chains.ess(self._by_chain(column)))
            if self.has_chains
            else kish_ess(_log(self.weights))
        )

    def mcse(self) -> Number:
        """Return the Monte-Carlo standard error of the mean."""
        if self.has_chains:
            return self._over_chains(self._chain_error)
        errors = [weighted_mcse(column, _log(self.weights)) for column in self._columns]
        return _number(np.reshape(errors, self.shape))

    def rhat(self) -> Number:
        """Return the rank-normalized split R-hat over the chains."""
        return self._over_chains(lambda column: chains.rhat(self._by_chain(column)))

    def finite_sizes(self) -> list[float]:
        """Return the bulk sizes of the elements that vary and have enough draws to judge."""
        if self.is_reweighted:
            return [size for size in np.ravel(self.ess()).tolist() if not math.isnan(size)]
        matrices = [self._by_chain(column) for column in self._columns]
        sizes = [chains.ess(matrix) for matrix in matrices if matrix.shape[1] >= chains.MIN_DRAWS]
        return [size for size in sizes if not math.isnan(size)]

    def summary_rows(self, probabilities: Sequence[float]) -> list[SummaryRow]:
        """Return one row an element."""
        mean, sd = np.ravel(self.mean()), np.ravel(self.std())
        quantiles = np.reshape(self.quantile(probabilities), (len(probabilities), -1))
        presence = f"present in {100 * self.presence:.3g} % of the posterior" if self.presence < 1.0 - 1e-9 else ""
        rows = []
        for element, index in enumerate(np.ndindex(*self.shape)):
            ess, mcse, rhat, note = self._judge(self._columns[element])
            rows.append(
                SummaryRow(
                    name=self.name + (f"[{', '.join(map(str, index))}]" if index else ""),
                    mean=float(mean[element]),
                    sd=float(sd[element]),
                    quantiles=tuple(quantiles[:, element].tolist()),
                    ess=ess,
                    mcse=mcse,
                    rhat=rhat,
                    presence=self.presence,
                    note="; ".join(filter(None, (presence, note))),
                )
            )
        return rows

    def _judge(self, column: Column) -> tuple[float | None, float | None, float | None, str]:
        """Size, error and R-hat of one element, None where they do not apply, with the reason."""
        if chains.is_constant(column[self.weights > 0.0]):
            return None, None, None, "constant"
        if not self.has_chains:
            log_weights = _log(self.weights)
            return kish_ess(log_weights), weighted_mcse(column, log_weights), None, ""
        matrix = self._by_chain(column)
        try:
            if self.is_reweighted:
                mcse = self._chain_error(column)
                variance = float(weighted_variance(column, self.weights))
                return variance / mcse**2 if mcse > 0.0 else None, mcse, None, ""
            ess, mcse = chains.ess(matrix), chains.mcse(matrix)
        except TracestoreError as error:
            return None, None, None, str(error)
        return ess, mcse, chains.rhat(matrix) if len(matrix) > 1 else None, ""

    @cached_property
    def _columns(self) -> Column:
        return self.values.reshape(len(self.values), -1).T

    def _by_chain(self, column: Column) -> Column:
        return by_chain(column, self.draws.chain)

    def _chain_error(self, column: Column) -> float:
        """Error of the mean over chains; for a weighted mean, that of its linear part in each draw."""
        if self.is_reweighted:
            used = self.weights > 0.0
            deviations = np.zeros(len(column))
            deviations[used] = len(column) * self.weights[used] * (column[used] - self.weights[used] @ column[used])
            column = deviations
        return chains.mcse(self._by_chain(column))

    def _over_chains(self, function: Callable[[Column], float]) -> Number:
        try:
            found = [function(column) for column in self._columns]
        except TracestoreError as error:
            error.add_note(f"for the variable {self.name!r}")
            raise
        return _number(np.reshape(found, self.shape))


def by_chain(column: NDArray[np.generic], chain: NDArray[np.int64]) -> Column:
    """Reshape to ``(chains, draws)``, every chain cut to the length of the shortest.

    Parameters
    ----------
    column
        Draws, chain by chain, shape ``(M,)``.
    chain
        Chain of each draw, increasing, shape ``(M,)``.

    Examples
    --------
    >>> by_chain(np.array([1, 2, 3, 4, 5]), np.array([0, 0, 1, 1, 1]))
    array([[1., 2.],
           [3., 4.]])
    """
    starts = np.flatnonzero(np.diff(chain, prepend=-1))
    length = int(np.diff(starts, append=len(chain)).min())
    matrix: Column = column[starts[:, None] + np.arange(length)].astype(np.float64)
    return matrix


def _log(weights: Column) -> Column:
    with np.errstate(divide="ignore"):
        logs: Column = np.log(weights)
    return logs


def _number(array: ArrayLike) -> Number:
    found = np.asarray(array, dtype=np.float64)
    return float(found) if found.ndim == 0 else found
