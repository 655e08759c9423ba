"""Histogram of whole numbers: what a proposal for counts draws from. The store holds no draws whose prior it is."""

import math
from bisect import bisect_right
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.traces.distributions.base import Distribution, Numeric, as_numbers, normalize_weights, read_scalar
from tracestore.traces.distributions.elementwise import MAX_COUNT

__all__ = ["CountHistogram"]


class CountHistogram(Distribution):
    """Whole numbers with the same probability inside each of several adjacent intervals; always a scalar draw.

    Parameters
    ----------
    edges
        Whole numbers, shape ``(n + 1,)``, increasing; interval *i* holds the numbers from edge *i* to before edge
        *i + 1*.
    probs
        Weights of the intervals, shape ``(n,)``, at least zero and not all zero; they are scaled to sum to one.

    Raises
    ------
    InvalidInputError
        When edges or weights are not allowed.

    Examples
    --------
    >>> proposal = CountHistogram([10, 11, 15], [0.5, 0.5])
    >>> round(proposal.log_prob(10), 4), round(proposal.log_prob(14), 4), proposal.log_prob(15)
    (-0.6931, -2.0794, -inf)
    """

    __slots__ = ("_cumulative", "_edges", "_probs")

    family = "CountHistogram"
    is_discrete = True
    shape = ()

    def __init__(self, edges: ArrayLike, probs: ArrayLike) -> None:
        self._probs = normalize_weights("CountHistogram", "probs", probs)
        array = as_numbers("CountHistogram", "edges", edges)
        if array.shape != (len(self._probs) + 1,):
            message = (
                "`edges` of CountHistogram must be one more than its weights; "
                f"got shape {array.shape} and {len(self._probs)} weights."
            )
            raise InvalidInputError(message)
        is_whole = bool((np.abs(array) <= MAX_COUNT).all()) and bool((array == np.floor(array)).all())
        if not is_whole or not (np.diff(array) > 0.0).all():
            message = f"`edges` of CountHistogram must be increasing whole numbers up to 2**53; got {array.tolist()!r}."
            raise InvalidInputError(message)
        self._edges: list[float] = array.tolist()
        self._cumulative = [*accumulate(self._probs)]

    @property
    def edges(self) -> NDArray[np.float64]:
        """Edges of the intervals, shape ``(n + 1,)``."""
        return np.array(self._edges)

    @property
    def probs(self) -> NDArray[np.float64]:
        """Probability of each interval, shape ``(n,)``, summing to one."""
        return np.array(self._probs)

    @property
    def structure(self) -> str:
        """The family with its number of intervals."""
        return f"CountHistogram({len(self._probs)})"

    @property
    def support(self) -> tuple[float, float]:
        """First and last number, those of weight zero included."""
        return self._edges[0], self._edges[-1] - 1.0

    @property
    def mean(self) -> float:
        """Expected value."""
        return math.fsum([prob * center for prob, center, _ in self._intervals()])

    @property
    def variance(self) -> float:
        """Variance."""
        mean = self.mean
        return math.fsum(
            [prob * ((center - mean) ** 2 + (size * size - 1.0) / 12.0) for prob, center, size in self._intervals()]
        )

    def sample(self, rng: np.random.Generator) -> int:
        """Draw one value: an interval, then a number of it."""
        # below the last sum by at least its last bit, so an interval of weight zero is never chosen
        index = bisect_right(self._cumulative, rng.random() * self._cumulative[-1])
        low, high = self._edges[index : index + 2]
        return int(low) if high - low == 1.0 else int(rng.integers(int(low), int(high)))

    def log_prob(self, value: Numeric) -> float:
        """Log mass of a value."""
        x = value if type(value) is float else read_scalar(value)
        edges = self._edges
        if not edges[0] <= x < edges[-1] or not x.is_integer():
            return -math.inf
        index = bisect_right(edges, x) - 1
        prob = self._probs[index]
        return math.log(prob) - math.log(edges[index + 1] - edges[index]) if prob > 0.0 else -math.inf

    def parameters(self) -> NDArray[np.float64]:
        """Return edges and probabilities, shape ``(2 n + 1,)``."""
        return np.array([*self._edges, *self._probs])

    def arguments(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""
        return {"edges": [*self._edges], "probs": [*self._probs]}

    def _intervals(self) -> list[tuple[float, float, float]]:
        """Probability, center and size of each interval."""
        pairs = zip(self._probs, pairwise(self._edges), strict=True)
        return [(prob, 0.5 * (low + high - 1.0), high - low) for prob, (low, high) in pairs]
