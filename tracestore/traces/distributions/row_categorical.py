"""Categorical draws with a row of weights for each trace of a batch."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.traces.distributions.base import (
    NORMALIZED_WITHIN,
    Distribution,
    Numeric,
    as_numbers,
    carries_gradient,
    read_array,
)

__all__ = ["CategoricalRows"]


class CategoricalRows(Distribution):
    """Whole numbers from zero, one a row, each row with probabilities of its own; for batched simulators.

    In a batch it is recorded as what each trace alone has: a `Categorical` of its row.

    Parameters
    ----------
    probs
        Weights, shape ``(num_rows, num_categories)``, at least zero, and not all zero in any row; each row is scaled to
        sum to one.

    Raises
    ------
    InvalidInputError
        When the weights are not allowed.

    Examples
    --------
    >>> prior = CategoricalRows([[0.0, 1.0], [1.0, 0.0]])
    >>> prior.sample(np.random.default_rng(1)), prior.shape
    (array([1., 0.]), (2,))
    """

    __slots__ = ("_probs", "_tensors")

    family = "CategoricalRows"
    is_discrete = True

    def __init__(self, probs: ArrayLike) -> None:
        if carries_gradient(probs):
            self._tensors: tuple[object, ...] = (probs,)
        weights = as_numbers("CategoricalRows", "probs", probs)
        if weights.ndim != 2 or not weights.size:
            message = f"`probs` of CategoricalRows must have one row of weights a trace; got shape {weights.shape}."
            raise InvalidInputError(message)
        totals = weights.sum(axis=1, keepdims=True)
        # NaN propagates through min and sum, and fails the comparisons
        if not (weights.min() >= 0.0 and totals.min() > 0.0 and totals.max() < math.inf):
            wrong = ~((weights >= 0.0).all(axis=1) & (totals[:, 0] > 0.0) & (totals[:, 0] < math.inf))
            row = int(np.flatnonzero(wrong)[0])
            message = (
                "`probs` of CategoricalRows must be finite weights of at least zero with a positive sum in each row; "
                f"got {weights[row].tolist()!r} in row {row}."
            )
            raise InvalidInputError(message)
        self._probs = np.where(np.abs(totals - 1.0) <= NORMALIZED_WITHIN, weights, weights / totals)
        self._probs.setflags(write=False)

    @property
    def probs(self) -> NDArray[np.float64]:
        """Probabilities, shape ``(num_rows, num_categories)``."""
        return self._probs

    @property
    def given_tensors(self) -> tuple[object, ...] | None:
        """The weights as they were given, when they are a tensor with a gradient."""
        return getattr(self, "_tensors", None)

    @property
    def structure(self) -> str:
        """The family with its number of categories."""
        return f"CategoricalRows({self._probs.shape[1]})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the draw of all rows, ``(num_rows,)``."""
        return self._probs.shape[:1]

    @property
    def support(self) -> tuple[float, float]:
        """Zero and the number of the last category."""
        return 0.0, self._probs.shape[1] - 1.0

    @property
    def mean(self) -> NDArray[np.float64]:
        """Expected value of each row."""
        return np.asarray(self._probs @ np.arange(self._probs.shape[1]))

    @property
    def variance(self) -> NDArray[np.float64]:
        """Variance of each row."""
        deviations = np.arange(self._probs.shape[1]) - self.mean[:, None]
        return np.asarray((self._probs * deviations**2).sum(axis=1))

    def sample(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw one value a row."""
        return self.sample_rows(len(self._probs), rng)

    def sample_rows(self, num_rows: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw one value a row, for more rows than there are weights when these have a single row."""
        cumulative = np.cumsum(self._probs, axis=1)
        # below the last sum by at least its last bit, so a category of weight zero is never chosen
        thresholds = rng.random(num_rows) * cumulative[:, -1]
        return np.asarray((cumulative <= thresholds[:, None]).sum(axis=1), np.float64)

    def log_prob(self, value: Numeric) -> float:
        """Log mass of a value for each row, summed over rows."""
        return float(self.log_prob_rows(read_array(value, self.shape)).sum())

    def log_prob_rows(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Log mass of one value a row, shape ``(num_rows,)``."""
        num_categories = self._probs.shape[1]
        is_inside = (values >= 0.0) & (values < num_categories) & (values == np.floor(values))
        index = np.where(is_inside, values, 0.0).astype(np.int64)
        with np.errstate(divide="ignore"):
            found = np.log(self._probs[np.arange(len(values)) if len(self._probs) > 1 else 0, index])
        return np.where(is_inside, found, -math.inf)

    def parameters(self) -> NDArray[np.float64]:
        """Return the probabilities, row by row."""
        return self._probs.ravel()

    def arguments(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""
        return {"probs": self._probs}
