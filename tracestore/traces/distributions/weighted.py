"""Families given by a row of weights: Categorical, PiecewiseUniform."""

import math
from bisect import bisect_right
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.traces.distributions.base import Distribution, Numeric, as_numbers, normalize_weights, read_scalar

__all__ = ["Categorical", "PiecewiseUniform"]


class Categorical(Distribution):
    """One of the whole numbers from zero, each with its own probability; always a scalar draw.

    Parameters
    ----------
    probs
        Weights, shape ``(n,)``, at least zero and not all zero; they are scaled to sum to one.
    logits
        Instead of ``probs``: logarithms of the weights up to a common constant; minus infinity for a weight of zero.

    Raises
    ------
    InvalidInputError
        When the weights are not allowed, or not exactly one of both arguments is given.

    Examples
    --------
    >>> prior = Categorical([0.2, 0.3, 0.5])
    >>> prior.suffix, round(prior.log_prob(2), 4), prior.log_prob(3)
    ('Categorical(3)', -0.6931, -inf)
    """

    __slots__ = ("_cumulative", "_probs")

    family = "Categorical"
    is_discrete = True
    shape = ()

    def __init__(self, probs: ArrayLike | None = None, *, logits: ArrayLike | None = None) -> None:
        if (probs is None) == (logits is None):
            found = "neither" if probs is None else "both"
            message = f"Categorical needs one of `probs` and `logits`; got {found}."
            raise InvalidInputError(message)
        if probs is None:
            probs = _weights_of_logits(logits)  # type: ignore[arg-type]  # exactly one is None
        self._probs = normalize_weights("Categorical", "probs", probs)
        self._cumulative: list[float] | None = None

    @property
    def probs(self) -> NDArray[np.float64]:
        """Probability of each number, shape ``(n,)``, summing to one."""
        return np.array(self._probs)

    @property
    def structure(self) -> str:
        """The family with its number of categories."""
        return f"Categorical({len(self._probs)})"

    @property
    def num_parameters(self) -> int:
        """Number of categories."""
        return len(self._probs)

    @property
    def support(self) -> tuple[float, float]:
        """Zero and the number of the last category."""
        return 0.0, len(self._probs) - 1.0

    @property
    def mean(self) -> float:
        """Expected value."""
        return math.fsum([number * prob for number, prob in enumerate(self._probs)])

    @property
    def variance(self) -> float:
        """Variance."""
        mean = self.mean
        return math.fsum([(number - mean) ** 2 * prob for number, prob in enumerate(self._probs)])

    def sample(self, rng: np.random.Generator) -> int:
        """Draw one value."""
        cumulative = self._cumulative
        if cumulative is None:
            cumulative = self._cumulative = [*accumulate(self._probs)]
        # below the last sum by at least its last bit, so a category of weight zero is never chosen
        return bisect_right(cumulative, rng.random() * cumulative[-1])

    def log_prob(self, value: Numeric) -> float:
        """Log mass of a value."""
        x = value if type(value) is float else read_scalar(value)
        probs = self._probs
        if not 0.0 <= x < len(probs) or not x.is_integer():
            return -math.inf
        prob = probs[int(x)]
        return math.log(prob) if prob > 0.0 else -math.inf

    def parameters(self) -> NDArray[np.float64]:
        """Return the probabilities, shape ``(n,)``."""
        return np.array(self._probs)

    def arguments(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""
        return {"probs": [*self._probs]}


class PiecewiseUniform(Distribution):
    """Histogram density: uniform inside each of several adjacent intervals; always a scalar draw.

    Parameters
    ----------
    edges
        Edges of the intervals, shape ``(n + 1,)``, finite and increasing.
    probs
        Weights of the intervals, shape ``(n,)``, at least zero and not all zero; they are scaled to sum to one. At an
        edge between two intervals the density is that of the upper one.

    Raises
    ------
    InvalidInputError
        When edges or weights are not allowed.

    Examples
    --------
    >>> proposal = PiecewiseUniform([0.0, 1.0, 3.0], [0.5, 0.5])
    >>> proposal.suffix, round(proposal.log_prob(2.0), 4)
    ('PiecewiseUniform(2)', -1.3863)
    """

    __slots__ = ("_cumulative", "_edges", "_probs")

    family = "PiecewiseUniform"
    is_discrete = False
    shape = ()

    def __init__(self, edges: ArrayLike, probs: Numeric) -> None:
        self._probs = normalize_weights("PiecewiseUniform", "probs", probs)
        array = as_numbers("PiecewiseUniform", "edges", edges)
        if array.shape != (len(self._probs) + 1,):
            message = (
                f"`edges` of PiecewiseUniform must have one number more than the {len(self._probs)} `probs`; "
                f"got shape {array.shape}."
            )
            raise InvalidInputError(message)
        self._edges: list[float] = array.tolist()
        if not (math.isfinite(self._edges[-1] - self._edges[0]) and all(a < b for a, b in pairwise(self._edges))):
            message = f"`edges` of PiecewiseUniform must be finite and increasing; got {self._edges!r}."
            raise InvalidInputError(message)
        self._cumulative: list[float] | None = None

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
        return f"PiecewiseUniform({len(self._probs)})"

    @property
    def num_parameters(self) -> int:
        """Number of edges plus number of intervals."""
        return 2 * len(self._probs) + 1

    @property
    def support(self) -> tuple[float, float]:
        """First and last edge, intervals of weight zero included."""
        return self._edges[0], self._edges[-1]

    @property
    def mean(self) -> float:
        """Expected value."""
        edges = self.edges
        return float((self.probs * (0.5 * edges[:-1] + 0.5 * edges[1:])).sum())

    @property
    def variance(self) -> float:
        """Variance."""
        edges = self.edges
        spread = (0.5 * edges[:-1] + 0.5 * edges[1:] - self.mean) ** 2 + np.diff(edges) ** 2 / 12.0
        return float((self.probs * spread).sum())

    def sample(self, rng: np.random.Generator) -> float:
        """Draw one value."""
        cumulative = self._cumulative
        if cumulative is None:
            cumulative = self._cumulative = [*accumulate(self._probs)]
        index = bisect_right(cumulative, rng.random() * cumulative[-1])
        low, high = self._edges[index : index + 2]
        x = low + (high - low) * rng.random()
        # an edge belongs to the next interval, whose weight may be zero
        return min(x, high if index + 1 == len(self._probs) else math.nextafter(high, low))

    def log_prob(self, value: Numeric) -> float:
        """Log density of a value."""
        x = value if type(value) is float else read_scalar(value)
        edges, probs = self._edges, self._probs
        if not edges[0] <= x <= edges[-1]:
            return -math.inf
        index = min(bisect_right(edges, x), len(probs)) - 1
        prob = probs[index]
        return math.log(prob) - math.log(edges[index + 1] - edges[index]) if prob > 0.0 else -math.inf

    def parameters(self) -> NDArray[np.float64]:
        """Return edges and probabilities, shape ``(2 n + 1,)``."""
        return np.array([*self._edges, *self._probs])

    def arguments(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""
        return {"edges": [*self._edges], "probs": [*self._probs]}


def _weights_of_logits(logits: ArrayLike) -> NDArray[np.float64]:
    array = as_numbers("Categorical", "logits", logits)
    if array.ndim != 1 or not array.size:
        message = f"`logits` of Categorical must be one row of at least one number; got shape {array.shape}."
        raise InvalidInputError(message)
    highest = float(array.max())
    if not math.isfinite(highest):
        message = f"`logits` of Categorical must have a finite maximum and no NaN; got a maximum of {highest!r}."
        raise InvalidInputError(message)
    weights: NDArray[np.float64] = np.exp(array - highest)
    return weights
