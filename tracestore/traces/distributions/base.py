"""The interface of every distribution, and how values and plain numbers are read. Knows no family."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError

__all__ = [
    "HALF_LOG_TWO_PI",
    "Distribution",
    "Numeric",
    "Value",
    "as_numbers",
    "carries_gradient",
    "normalize_weights",
    "plain_array",
    "read_array",
    "read_scalar",
]

Value = float | int | NDArray[np.float64]
"""What is drawn."""

Numeric = float | ArrayLike
"""What is read as numbers. Type checkers take the `complex` in `ArrayLike` for a class that no float belongs to."""

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)

NORMALIZED_WITHIN = 1e-12
"""Weights whose sum is this close to one are kept to the last bit, so that normalized weights survive a round trip."""


class Distribution(ABC):
    """A probability distribution of one draw, a number or an array.

    Distributions do not change after construction, compare equal by family and parameters, and can be pickled. A
    scalar distribution draws Python numbers; with array parameters it is *one* vector-valued draw of independent
    elements, and its log probability is their sum. Vector-valued draws are float64, those of discrete families too:
    it is the form in which traces keep them.

    Examples
    --------
    >>> from tracestore.traces.distributions import Normal
    >>> prior = Normal(0.0, [1.0, 2.0, 3.0])
    >>> prior.shape, prior.suffix, prior.num_parameters
    ((3,), 'Normal[3]', 6)
    >>> round(prior.log_prob([0.0, 0.0, 0.0]), 4)
    -4.5486
    """

    __slots__ = ()

    @property
    @abstractmethod
    def family(self) -> str:
        """Name of the family; that of a mixture spells out its components."""

    @property
    @abstractmethod
    def is_discrete(self) -> bool:
        """Whether draws are whole numbers and `log_prob` is a log mass."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one draw; ``()`` for a number."""

    @property
    @abstractmethod
    def support(self) -> tuple[float, float]:
        """Lowest and highest possible value, over all elements; infinite where there is no bound."""

    @property
    @abstractmethod
    def mean(self) -> float | NDArray[np.float64]:
        """Expected value, of the shape of a draw."""

    @property
    @abstractmethod
    def variance(self) -> float | NDArray[np.float64]:
        """Variance of each element, of the shape of a draw."""

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Value:
        """Draw one value.

        Parameters
        ----------
        rng
            Source of random numbers; the same state gives the same value.

        Returns
        -------
        float, int or ndarray
            A Python number when scalar, else a float64 array of the distribution's shape.
        """

    @abstractmethod
    def log_prob(self, value: Numeric) -> float:
        """Log density, or log mass, of a value, summed over elements.

        Parameters
        ----------
        value
            A number, or an array of the distribution's shape.

        Returns
        -------
        float
            Minus infinity outside the support and for NaN.

        Raises
        ------
        InvalidInputError
            When the value has another shape, or is not numeric.
        """

    @abstractmethod
    def parameters(self) -> NDArray[np.float64]:
        """Return the parameters as flat float64, each filled out to the shape of a draw, in constructor order."""

    @abstractmethod
    def arguments(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""

    @property
    def structure(self) -> str:
        """The family, with the size where a family has one; enough to read flat parameters back."""
        return self.family

    @property
    def suffix(self) -> str:
        """How a base address names this kind of draw: structure and shape, such as ``Normal[3]``."""
        shape = self.shape
        return f"{self.structure}[{','.join(map(str, shape))}]" if shape else self.structure

    @property
    def num_parameters(self) -> int:
        """Length of `parameters`."""
        return len(self.parameters())

    @property
    def stddev(self) -> float | NDArray[np.float64]:
        """Standard deviation of each element, of the shape of a draw."""
        variance = self.variance
        return np.sqrt(variance) if isinstance(variance, np.ndarray) else math.sqrt(variance)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Distribution):
            return NotImplemented
        return (
            self.structure == other.structure
            and self.shape == other.shape
            and np.array_equal(self.parameters(), other.parameters())
        )

    def __hash__(self) -> int:
        # adding zero turns -0.0, which equals 0.0, into 0.0
        return hash((self.structure, self.shape, (self.parameters() + 0.0).tobytes()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={_shown(arg)}' for name, arg in self.arguments().items())})"

    def __reduce__(self) -> tuple[type["Distribution"], tuple[object, ...]]:
        return type(self), tuple(self.arguments().values())


def read_scalar(value: Numeric) -> float:
    """Read the value of a scalar draw.

    Raises
    ------
    InvalidInputError
        When it is not one number.
    """
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.ndim:
        found = f"shape {array.shape}" if array.dtype.kind in "biuf" else repr(value)
        message = f"The value of a scalar distribution must be one number; got {found}."
        raise InvalidInputError(message)
    return float(array)


def read_array(value: Numeric, shape: tuple[int, ...]) -> NDArray[np.floating]:
    """Read the value of a vector-valued draw, without copying a floating array.

    Raises
    ------
    InvalidInputError
        When it has another shape, or is not numeric.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        message = f"The value must be an array of numbers of shape {shape}; got dtype {array.dtype}."
        raise InvalidInputError(message)
    if array.shape != shape:
        message = f"The value must have the shape of the distribution, {shape}; got shape {array.shape}."
        raise InvalidInputError(message)
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def plain_array(value: object) -> NDArray[np.generic]:
    """Read a value as a numpy array; a tensor, wherever it is, without its gradient.

    Examples
    --------
    >>> plain_array([1.0, 2.0])
    array([1., 2.])
    """
    detach = getattr(value, "detach", None)
    return np.asarray(value if detach is None else detach().cpu())


def carries_gradient(value: object) -> bool:
    """Tell whether a value is a tensor through which a gradient flows.

    Examples
    --------
    >>> carries_gradient(1.0)
    False
    """
    return getattr(value, "requires_grad", False) is True


def as_numbers(family: str, name: str, value: Numeric) -> NDArray[np.float64]:
    """Copy a parameter into a float64 array.

    Parameters
    ----------
    family, name
        The distribution and the parameter, for the message.
    value
        A number or an array of any shape.

    Raises
    ------
    InvalidInputError
        When it is not numeric.
    """
    try:
        array = plain_array(value)
    except ValueError as error:  # rows of several lengths
        message = f"`{name}` of {family} must be a number or an array of numbers; got {value!r}."
        raise InvalidInputError(message) from error
    if array.dtype.kind not in "biuf":
        message = f"`{name}` of {family} must be a number or an array of numbers; got {value!r}."
        raise InvalidInputError(message)
    return np.array(array, np.float64)


def normalize_weights(family: str, name: str, weights: ArrayLike) -> tuple[float, ...]:
    """Scale weights so that they sum to one.

    Parameters
    ----------
    family, name
        The distribution and the parameter, for the messages.
    weights
        Shape ``(n,)``, not negative and not all zero.

    Raises
    ------
    InvalidInputError
        When they are not such weights.
    """
    numbers = _plain_list(family, name, weights)
    if not numbers:
        message = f"`{name}` of {family} must hold at least one weight; got none."
        raise InvalidInputError(message)
    try:
        total = math.fsum(numbers)
    except (OverflowError, ValueError):
        total = math.inf
    # a NaN anywhere makes the sum NaN, which fails the second comparison
    if not (min(numbers) >= 0.0 and 0.0 < total < math.inf):
        found = next((number for number in numbers if not 0.0 <= number < math.inf), total)
        message = (
            f"`{name}` of {family} must be finite weights of at least zero with a positive finite sum; "
            f"got {found!r} among {len(numbers)} weights."
        )
        raise InvalidInputError(message)
    if abs(total - 1.0) <= NORMALIZED_WITHIN:
        return tuple(numbers)
    return tuple([number / total for number in numbers])


def _plain_list(family: str, name: str, weights: ArrayLike) -> list[float]:
    if isinstance(weights, list | tuple) and all(type(weight) is float for weight in weights):
        return [*weights]  # the common case, five times as fast as through an array
    array = as_numbers(family, name, weights)
    if array.ndim != 1:
        message = f"`{name}` of {family} must be one row of weights; got shape {array.shape}."
        raise InvalidInputError(message)
    numbers: list[float] = array.tolist()
    return numbers


def _shown(argument: object) -> str:
    if isinstance(argument, np.ndarray):
        return np.array2string(argument, separator=", ", threshold=16, edgeitems=3)
    if isinstance(argument, Sequence) and len(argument) > 16:
        return f"[{', '.join(map(repr, argument[:3]))}, ..., {', '.join(map(repr, argument[-3:]))}]"
    return repr(argument)
