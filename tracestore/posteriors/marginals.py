"""What is asked of one variable of a posterior; the base of `Posterior`, which knows where the draws come from."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.posteriors.summary import Summary
from tracestore.posteriors.variable import MAX_ELEMENTS, Draws, Number, Variable

__all__ = ["Marginals"]

Column = NDArray[np.float64]


class Marginals(ABC):
    """Distributions of single variables: numbers for scalar variables, arrays of the variable's shape for others."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of draws, then of tags, as they come in the traces; ``result`` is the simulator's return value."""

    @abstractmethod
    def _variable(self, name: str) -> Variable:
        """Read a variable, once."""

    def values(self, name: str) -> Draws:
        """Return the draws of one variable, where it is present.

        Parameters
        ----------
        name
            Name, full address, or name of a tag.

        Raises
        ------
        UnknownAddressError
            When no draw has it.
        DegenerateWeightsError
            When no draw has weight.
        """
        return self._variable(name).draws

    def presence(self, name: str) -> float:
        """Return the posterior probability that a trace has the variable at all."""
        return self._variable(name).presence

    def mean(self, name: str) -> Number:
        """Return the posterior mean of a variable."""
        return self._variable(name).mean()

    def var(self, name: str) -> Number:
        """Return the posterior variance of a variable."""
        return self._variable(name).var()

    def std(self, name: str) -> Number:
        """Return the posterior standard deviation of a variable."""
        return self._variable(name).std()

    def median(self, name: str) -> Number:
        """Return the posterior median of a variable, of each element by itself."""
        return self._variable(name).quantile(0.5)

    def mode(self, name: str) -> Number:
        """Return the posterior mode of a variable, of each element by itself.

        Of whole numbers the most probable one, the smallest of several that tie. Of others the peak of a Gaussian
        kernel density estimate with the bandwidth of Silverman (1986), reflected at the ends of the draws.
        """
        return self._variable(name).mode()

    def skewness(self, name: str) -> Number:
        """Return the posterior skewness of a variable; NaN when it never varies."""
        return self._variable(name).skewness()

    def kurtosis(self, name: str) -> Number:
        """Return the posterior excess kurtosis of a variable, 0 for a normal one; NaN when it never varies."""
        return self._variable(name).kurtosis()

    def quantile(self, name: str, probabilities: ArrayLike) -> Number:
        """Return posterior quantiles: the smallest draw at which the distribution function reaches a probability.

        Parameters
        ----------
        name
            Name or address.
        probabilities
            Numbers between 0 and 1, any shape.

        Returns
        -------
        float or numpy.ndarray
            Of the shape of `probabilities`, followed by that of the variable.

        Raises
        ------
        InvalidInputError
            When a probability is outside 0 and 1.
        """
        return self._variable(name).quantile(probabilities)

    def probabilities(self, name: str) -> dict[float, float]:
        """Return the posterior probability of each value of a discrete scalar, in the order of the values.

        Raises
        ------
        InvalidInputError
            When the variable is a vector or takes other than whole numbers.
        """
        return self._variable(name).probabilities()

    def histogram(self, name: str, bins: int | Sequence[float] = 50) -> tuple[Column, Column]:
        """Return the posterior density of a scalar variable in bins, and the edges of the bins.

        Parameters
        ----------
        name
            Name or address.
        bins
            Number of bins over the range of the draws with weight, or their edges.

        Raises
        ------
        InvalidInputError
            When the variable is a vector.
        """
        return self._variable(name).histogram(bins)

    def ess_of(self, name: str) -> Number:
        """Return the effective sample size behind one variable.

        For weighted draws Kish's size over the draws where it is present. For chains the bulk size; for reweighted
        chains the number of independent draws that would give the same error of the mean. NaN when the variable of
        chains never varies.
        """
        return self._variable(name).ess()

    def mcse(self, name: str) -> Number:
        """Return the Monte-Carlo standard error of the mean of a variable.

        By the delta method for weighted draws, from the effective sample size for chains, from both for reweighted
        chains.
        """
        return self._variable(name).mcse()

    def is_constant(self, name: str) -> bool:
        """Tell whether a variable never varies, so that it has no R-hat and no effective sample size."""
        return self._variable(name).is_constant()

    def summary(
        self, names: Sequence[str] | None = None, *, probabilities: Sequence[float] = (0.05, 0.5, 0.95)
    ) -> Summary:
        """Describe variables: moments, quantiles, errors and diagnostics, one row each; prints as a table.

        Parameters
        ----------
        names
            Names or addresses; all names when None, long vectors left out.
        probabilities
            Probabilities of the quantiles.
        """
        variables = [self._variable(name) for name in names or self.names]
        short = [variable for variable in variables if names or math.prod(variable.shape) <= MAX_ELEMENTS]
        return Summary([row for variable in short for row in variable.summary_rows(probabilities)], probabilities)
