"""What a distribution of your own offers to be used by many traces at once, each with a row of parameters."""

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from tracestore.traces.distributions.base import Distribution

__all__ = ["RowwiseDistribution"]

Array = NDArray[np.float64]


class RowwiseDistribution(Distribution):
    """Distributions of one family side by side, whose first axis counts the traces of a batch.

    An object stands for a row a trace, or, with one row, for the same distribution in each trace. For engines that
    follow gradients a subclass has ``tensor_log_prob(values)``, too, which returns a tensor of shape ``(num_rows,)``.
    """

    __slots__ = ()

    @abstractmethod
    def first_row(self) -> Distribution:
        """Return the distribution of the first row, of the family that a program for one trace uses."""

    @abstractmethod
    def parameter_rows(self) -> Array:
        """Return what `parameters` of each row's distribution is, shape ``(num_rows, num_parameters)``."""

    @abstractmethod
    def sample_rows(self, num_rows: int, rng: np.random.Generator) -> NDArray[np.generic]:
        """Draw one value a row, shape ``(num_rows, *shape[1:])``."""

    @abstractmethod
    def log_prob_rows(self, values: NDArray[np.generic]) -> Array:
        """Score one value a row, shape ``(num_rows,)``.

        Parameters
        ----------
        values
            Shape ``(num_rows, *shape[1:])``. Its first stride is zero where all rows share one value, as observations
            do.
        """
