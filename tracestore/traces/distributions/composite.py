"""Distributions made of others or of a matrix: Mixture, MultivariateNormal."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.traces.distributions.base import (
    HALF_LOG_TWO_PI,
    Distribution,
    Numeric,
    Value,
    as_numbers,
    normalize_weights,
    read_array,
)

__all__ = ["Mixture", "MultivariateNormal"]

SYMMETRIC_WITHIN = 1e-8
"""Difference between a covariance and its transpose, relative to its largest entry, that is taken for rounding."""


class Mixture(Distribution):
    """One of several distributions, chosen with given probabilities; a vector-valued draw comes from one of them.

    Parameters
    ----------
    components
        At least one distribution; all of one shape, and all discrete or all continuous.
    probs
        Weights, shape ``(num_components,)``, at least zero and not all zero; they are scaled to sum to one.

    Raises
    ------
    InvalidInputError
        When components do not fit together, or the weights are not allowed.

    Examples
    --------
    >>> from tracestore.traces.distributions import Normal, TruncatedNormal
    >>> proposal = Mixture([Normal(0.0, 1.0), TruncatedNormal(0.0, 1.0, 0.0, 5.0)], [0.75, 0.25])
    >>> proposal.family, proposal.num_parameters
    ('Mixture(Normal,TruncatedNormal)', 8)
    >>> round(proposal.log_prob(-1.0), 4)
    -1.7066
    """

    __slots__ = ("_components", "_cumulative", "_probs")

    def __init__(self, components: Sequence[Distribution], probs: ArrayLike) -> None:
        self._components = tuple(components)
        self._probs = normalize_weights("Mixture", "probs", probs)
        if len(self._components) != len(self._probs):
            message = (
                f"`probs` of Mixture must have one weight per component; "
                f"got {len(self._probs)} weights and {len(self._components)} components."
            )
            raise InvalidInputError(message)
        _check_components(self._components)
        self._cumulative = [*accumulate(self._probs)]

    @property
    def family(self) -> str:
        """``Mixture(...)`` with the structure of each component."""
        return f"Mixture({','.join([component.structure for component in self._components])})"

    @property
    def is_discrete(self) -> bool:
        """Whether the components are discrete."""
        return self._components[0].is_discrete

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one draw; ``()`` for a number."""
        return self._components[0].shape

    @property
    def components(self) -> tuple[Distribution, ...]:
        """The distributions that are mixed."""
        return self._components

    @property
    def probs(self) -> NDArray[np.float64]:
        """Probability of each component, shape ``(num_components,)``, summing to one."""
        return np.array(self._probs)

    @property
    def num_parameters(self) -> int:
        """Parameters of the components plus number of components."""
        return sum([component.num_parameters for component in self._components]) + len(self._probs)

    @property
    def support(self) -> tuple[float, float]:
        """Lowest and highest possible value of any component, those of weight zero included."""
        bounds = [component.support for component in self._components]
        return min([low for low, _ in bounds]), max([high for _, high in bounds])

    @property
    def mean(self) -> float | NDArray[np.float64]:
        """Expected value, of the shape of a draw."""
        terms = [prob * np.asarray(part.mean) for part, prob in self._weighted()]
        return self._plain(sum(terms[1:], start=terms[0]))

    @property
    def variance(self) -> float | NDArray[np.float64]:
        """Variance of each element, of the shape of a draw."""
        mean = np.asarray(self.mean)
        terms = [
            prob * (np.asarray(part.variance) + (np.asarray(part.mean) - mean) ** 2) for part, prob in self._weighted()
        ]
        return self._plain(sum(terms[1:], start=terms[0]))

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw one value: a component by one uniform number, then a value from it."""
        index = bisect_right(self._cumulative, rng.random() * self._cumulative[-1])
        return self._components[index].sample(rng)

    def log_prob(self, value: Numeric) -> float:
        """Log density, or log mass, of a value."""
        # a density may be infinitely small and a weight zero; neither adds anything
        terms = [part.log_prob(value) + math.log(prob) for part, prob in self._weighted()]
        highest = max(terms)
        if highest == -math.inf:
            return highest
        return highest + math.log(sum([math.exp(term - highest) for term in terms]))

    def parameters(self) -> NDArray[np.float64]:
        """Return the parameters of each component, then the probabilities."""
        return np.concatenate([*[component.parameters() for component in self._components], self._probs])

    def arguments(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""
        return {"components": [*self._components], "probs": [*self._probs]}

    def _weighted(self) -> list[tuple[Distribution, float]]:
        return [pair for pair in zip(self._components, self._probs, strict=True) if pair[1] > 0.0]

    def _plain(self, moment: NDArray[np.float64]) -> float | NDArray[np.float64]:
        return moment if self.shape else float(moment)


class MultivariateNormal(Distribution):
    """Normal distribution of a vector with correlated elements.

    Parameters
    ----------
    loc
        Mean, shape ``(d,)``.
    covariance
        Symmetric and positive definite, shape ``(d, d)``.

    Raises
    ------
    InvalidInputError
        When a parameter is not allowed.

    Examples
    --------
    >>> prior = MultivariateNormal([0.0, 1.0], [[1.0, 0.5], [0.5, 2.0]])
    >>> prior.suffix, round(prior.log_prob([0.0, 1.0]), 4)
    ('MultivariateNormal[2]', -2.1177)
    """

    __slots__ = ("_covariance", "_factor", "_inverse_factor", "_loc", "_log_norm")

    family = "MultivariateNormal"
    is_discrete = False
    support = (-math.inf, math.inf)

    def __init__(self, loc: ArrayLike, covariance: ArrayLike) -> None:
        self._loc = as_numbers("MultivariateNormal", "loc", loc)
        matrix = as_numbers("MultivariateNormal", "covariance", covariance)
        size = self._loc.size
        if self._loc.ndim != 1 or not size or matrix.shape != (size, size):
            message = (
                "`loc` and `covariance` of MultivariateNormal must have shapes (d,) and (d, d) with d of at least one; "
                f"got {self._loc.shape} and {matrix.shape}."
            )
            raise InvalidInputError(message)
        for name, array in (("loc", self._loc), ("covariance", matrix)):
            if not np.isfinite(array).all():
                message = f"`{name}` of MultivariateNormal must be finite; got {array.tolist()!r}."
                raise InvalidInputError(message)
        if np.abs(matrix - matrix.T).max() > SYMMETRIC_WITHIN * np.abs(matrix).max():
            message = f"`covariance` of MultivariateNormal must be symmetric; got {matrix.tolist()!r}."
            raise InvalidInputError(message)
        self._covariance = 0.5 * matrix + 0.5 * matrix.T
        try:
            self._factor = np.linalg.cholesky(self._covariance)
        except np.linalg.LinAlgError as error:
            message = f"`covariance` of MultivariateNormal must be positive definite; got {matrix.tolist()!r}."
            raise InvalidInputError(message) from error
        for array in (self._loc, self._covariance):
            array.setflags(write=False)
        self._inverse_factor = np.linalg.inv(self._factor)
        self._log_norm = float(np.log(np.diagonal(self._factor)).sum()) + size * HALF_LOG_TWO_PI

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one draw, ``(d,)``."""
        return self._loc.shape

    @property
    def loc(self) -> NDArray[np.float64]:
        """Mean, shape ``(d,)``."""
        return self._loc

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Covariance, shape ``(d, d)``."""
        return self._covariance

    @property
    def num_parameters(self) -> int:
        """Numbers in mean and covariance."""
        return self._loc.size + self._covariance.size

    @property
    def mean(self) -> NDArray[np.float64]:
        """Expected value, shape ``(d,)``."""
        return self._loc

    @property
    def variance(self) -> NDArray[np.float64]:
        """Variance of each element, shape ``(d,)``."""
        return np.array(np.diagonal(self._covariance))

    def sample(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw one vector."""
        return self._loc + self._factor @ rng.standard_normal(self._loc.size)

    def log_prob(self, value: Numeric) -> float:
        """Log density of a vector."""
        x = read_array(value, self._loc.shape)
        with np.errstate(all="ignore"):
            z = self._inverse_factor @ (x - self._loc)
            log_prob = -0.5 * float((z * z).sum()) - self._log_norm
        return log_prob if log_prob == log_prob else -math.inf

    def parameters(self) -> NDArray[np.float64]:
        """Return the mean, then the covariance row by row."""
        return np.concatenate([self._loc, self._covariance.ravel()])

    def arguments(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""
        return {"loc": self._loc, "covariance": self._covariance}


def _check_components(components: Sequence[object]) -> None:
    parts = [component for component in components if isinstance(component, Distribution)]
    if len(parts) < len(components):
        wrong = next(component for component in components if not isinstance(component, Distribution))
        message = f"`components` of Mixture must be distributions; got {wrong!r}."
        raise InvalidInputError(message)
    first = parts[0]
    shape, is_discrete = first.shape, first.is_discrete
    for part in parts:
        if part.shape != shape or part.is_discrete != is_discrete:
            message = (
                "`components` of Mixture must have one shape, and be all discrete or all continuous; "
                f"got {first.suffix} and {part.suffix}."
            )
            raise InvalidInputError(message)
