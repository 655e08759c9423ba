"""Vector-valued draws as proposals make them: independent elements of any kind, and normals given by a factor.

The store holds no draws whose prior one of these is.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.traces.distributions.base import HALF_LOG_TWO_PI, Distribution, Numeric, as_numbers, read_array

__all__ = ["FactorNormal", "Independent"]


FEW = 8
"""Elements up to which plain Python solves triangular equations."""


class Independent(Distribution):
    """Independent elements, each with a scalar distribution of its own.

    Parameters
    ----------
    elements
        Scalar distributions, in row order; all discrete or all continuous.
    shape
        Shape of one draw; by default one row.

    Raises
    ------
    InvalidInputError
        When the elements do not fit together or do not fill the shape.

    Examples
    --------
    >>> from tracestore.traces.distributions import Normal, Uniform
    >>> proposal = Independent([Normal(0.0, 1.0), Uniform(0.0, 2.0)])
    >>> proposal.shape, round(proposal.log_prob([0.0, 1.0]), 4)
    ((2,), -1.6121)
    """

    __slots__ = ("_elements", "_shape")

    family = "Independent"

    def __init__(self, elements: Sequence[Distribution], shape: tuple[int, ...] | None = None) -> None:
        self._elements = tuple(elements)
        self._shape = (len(self._elements),) if shape is None else tuple(shape)
        if not self._elements or math.prod(self._shape) != len(self._elements):
            message = (
                "`elements` of Independent must be at least one and fill the shape; "
                f"got {len(self._elements)} elements and shape {self._shape}."
            )
            raise InvalidInputError(message)
        first = self._elements[0]
        for element in self._elements:
            if element.shape or element.is_discrete != first.is_discrete:
                message = (
                    "`elements` of Independent must be scalar, and be all discrete or all continuous; "
                    f"got {first.suffix} and {element.suffix}."
                )
                raise InvalidInputError(message)

    @property
    def is_discrete(self) -> bool:
        """Whether the elements are discrete."""
        return self._elements[0].is_discrete

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one draw."""
        return self._shape

    @property
    def structure(self) -> str:
        """The family with the structure of each element."""
        return f"Independent({','.join([element.structure for element in self._elements])})"

    @property
    def support(self) -> tuple[float, float]:
        """Lowest and highest possible value, over all elements."""
        bounds = [element.support for element in self._elements]
        return min([low for low, _ in bounds]), max([high for _, high in bounds])

    @property
    def mean(self) -> NDArray[np.float64]:
        """Expected value, of the shape of a draw."""
        return np.array([element.mean for element in self._elements], np.float64).reshape(self._shape)

    @property
    def variance(self) -> NDArray[np.float64]:
        """Variance of each element, of the shape of a draw."""
        return np.array([element.variance for element in self._elements], np.float64).reshape(self._shape)

    def sample(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw one value, element by element."""
        return np.array([element.sample(rng) for element in self._elements], np.float64).reshape(self._shape)

    def log_prob(self, value: Numeric) -> float:
        """Log density, or log mass, of a value, summed over elements."""
        numbers = read_array(value, self._shape).ravel().tolist()
        terms = [element.log_prob(number) for element, number in zip(self._elements, numbers, strict=True)]
        return -math.inf if -math.inf in terms else math.fsum(terms)

    def parameters(self) -> NDArray[np.float64]:
        """Return the parameters of each element, one after the other."""
        return np.concatenate([element.parameters() for element in self._elements])

    def arguments(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""
        return {"elements": [*self._elements], "shape": self._shape}


class FactorNormal(Distribution):
    """Normal distribution of a vector, given by the lower triangular factor of its covariance.

    A covariance, as `MultivariateNormal` has it, loses the digits of a narrow direction beside a wide one.

    Parameters
    ----------
    loc
        Mean, any shape of ``d`` elements; draws have this shape.
    factor
        Lower triangular with a positive diagonal, shape ``(d, d)``; the covariance is the factor times its transpose.

    Raises
    ------
    InvalidInputError
        When a parameter is not allowed.

    Examples
    --------
    >>> proposal = FactorNormal([0.0, 1.0], [[1.0, 0.0], [0.5, 2.0]])
    >>> round(proposal.log_prob([0.0, 1.0]), 4), proposal.variance.tolist()
    (-2.531, [1.0, 4.25])
    """

    __slots__ = ("_factor", "_loc", "_log_norm")

    family = "FactorNormal"
    is_discrete = False
    support = (-math.inf, math.inf)

    def __init__(self, loc: ArrayLike, factor: ArrayLike) -> None:
        self._loc = as_numbers("FactorNormal", "loc", loc)
        self._factor = as_numbers("FactorNormal", "factor", factor)
        size = self._loc.size
        if not size or self._factor.shape != (size, size):
            message = (
                "`loc` and `factor` of FactorNormal must have d elements and shape (d, d) with d of at least one; "
                f"got {self._loc.shape} and {self._factor.shape}."
            )
            raise InvalidInputError(message)
        diagonal = np.diagonal(self._factor)
        is_finite = np.isfinite(self._loc).all() and np.isfinite(self._factor).all()
        if not (is_finite and (diagonal > 0.0).all() and not np.triu(self._factor, 1).any()):
            message = (
                "`loc` and `factor` of FactorNormal must be finite, and `factor` lower triangular with a positive "
                f"diagonal; got {self._loc.tolist()!r} and {self._factor.tolist()!r}."
            )
            raise InvalidInputError(message)
        for array in (self._loc, self._factor):
            array.setflags(write=False)
        self._log_norm = float(np.log(diagonal).sum()) + size * HALF_LOG_TWO_PI

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one draw."""
        return self._loc.shape

    @property
    def mean(self) -> NDArray[np.float64]:
        """Expected value, of the shape of a draw."""
        return self._loc

    @property
    def variance(self) -> NDArray[np.float64]:
        """Variance of each element, of the shape of a draw."""
        variance: NDArray[np.float64] = (self._factor**2).sum(axis=1).reshape(self._loc.shape)
        return variance

    def sample(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw one value."""
        return self._loc + (self._factor @ rng.standard_normal(self._loc.size)).reshape(self._loc.shape)

    def log_prob(self, value: Numeric) -> float:
        """Log density of a value."""
        offsets = (read_array(value, self._loc.shape) - self._loc).ravel()
        with np.errstate(all="ignore"):
            z = _solve(self._factor, offsets) if offsets.size > FEW else _solve_few(self._factor, offsets)
            log_prob = -0.5 * float((z * z).sum()) - self._log_norm
        return log_prob if log_prob == log_prob else -math.inf

    def parameters(self) -> NDArray[np.float64]:
        """Return the mean, then the factor row by row."""
        return np.concatenate([self._loc.ravel(), self._factor.ravel()])

    def arguments(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""
        return {"loc": self._loc, "factor": self._factor}


def _solve(factor: NDArray[np.float64], offsets: NDArray[np.float64]) -> NDArray[np.float64]:
    if not np.isfinite(offsets).all():
        return np.full(len(offsets), np.nan)
    return np.linalg.solve(factor, offsets).astype(np.float64, copy=False)


def _solve_few(factor: NDArray[np.float64], offsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Substitute forward: for a handful of elements faster than a call of the linear algebra library."""
    solution: list[float] = []
    for row, offset in zip(factor.tolist(), offsets.tolist(), strict=True):
        rest = offset
        for weight, known in zip(row, solution, strict=False):
            rest -= weight * known
        solution.append(rest / row[len(solution)])
    return np.array(solution)
