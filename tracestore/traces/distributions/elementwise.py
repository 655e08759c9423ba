"""Families whose parameters broadcast: scalar ones on plain floats, vector-valued ones on arrays. Knows no family."""

import math
import sys
from abc import abstractmethod
from typing import ClassVar, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.traces.distributions.base import (
    Distribution,
    Numeric,
    as_numbers,
    carries_gradient,
    read_array,
)

__all__ = [
    "CONCENTRATION",
    "COUNT",
    "FINITE",
    "HUGE",
    "MAX_COUNT",
    "NOT_NAN",
    "NOT_NEGATIVE",
    "POSITIVE",
    "PROBABILITY",
    "RATE",
    "TINY",
    "Constraint",
    "Elementwise",
    "Parameter",
]

HUGE = sys.float_info.max
TINY = sys.float_info.min
"""Smallest normal float: draws from densities on the open half line are at least this, never zero."""
MAX_COUNT = 2.0**53
"""Largest count: every whole number up to it is a float."""


class Constraint(NamedTuple):
    """A closed range of floats; NaN is in none."""

    low: float
    high: float
    description: str
    is_whole: bool = False


NOT_NAN = Constraint(-math.inf, math.inf, "a number, infinite or not")
FINITE = Constraint(-HUGE, HUGE, "a finite number")
CONCENTRATION = Constraint(math.ulp(0.0), 1e300, "a positive number up to 1e300")
"""The log of the gamma function of twice as much is still a float."""
POSITIVE = Constraint(math.ulp(0.0), HUGE, "a positive finite number")
NOT_NEGATIVE = Constraint(0.0, HUGE, "a finite number of at least zero")
PROBABILITY = Constraint(0.0, 1.0, "a probability from 0 to 1")
RATE = Constraint(0.0, MAX_COUNT, "a number from 0 to 2**53")
COUNT = Constraint(0.0, MAX_COUNT, "a whole number from 0 to 2**53", is_whole=True)


class Parameter:
    """A read-only parameter of an `Elementwise` family: a Python number when scalar, else an array.

    Parameters
    ----------
    description
        What the parameter is.
    constraint
        Which values it may have.
    """

    def __init__(self, description: str, constraint: Constraint) -> None:
        self.__doc__ = description
        self.constraint = constraint
        self.index = -1
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: "Elementwise | None", owner: type) -> float | NDArray[np.float64]:
        if instance is None:
            return self  # type: ignore[return-value]  # seen on the class, by documentation tools only
        if instance._arrays:
            return instance._arrays[self.index]
        number = instance._scalars[self.index]
        return int(number) if self.constraint.is_whole else number

    def __set__(self, instance: "Elementwise", value: object) -> NoReturn:
        message = f"{type(instance).__name__} does not change; make a new one instead of setting {self.name!r}"
        raise AttributeError(message)


class Elementwise(Distribution):
    """Base of the families in which every parameter broadcasts against the others.

    A subclass lists its parameters in constructor order, as class attributes. One of ``_scalars`` and ``_arrays`` is
    empty: parameters of shape ``()`` throughout make a scalar distribution. Parameters that are tensors with a gradient
    are kept aside, too, for those who follow it; whatever else is asked of the distribution is answered from numbers.
    """

    __slots__ = ("_arrays", "_scalars", "_shape", "_tensors")

    _parameters: ClassVar[tuple[Parameter, ...]] = ()
    _arrays: tuple[NDArray[np.float64], ...]
    _scalars: tuple[float, ...]
    _shape: tuple[int, ...]
    _tensors: tuple[object, ...]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = [value for value in vars(cls).values() if isinstance(value, Parameter)]
        for index, parameter in enumerate(own):
            parameter.index = index
        cls._parameters = tuple(own)

    @abstractmethod
    def _log_prob_of_array(self, x: NDArray[np.floating]) -> float:
        """Sum the log probabilities of an array of the right shape; NaN stands for minus infinity."""

    @abstractmethod
    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and variance, broadcastable to the shape."""

    def _fit_together(self, *numbers: float) -> bool:
        """Tell whether scalar parameters, each allowed by itself, make a distribution."""
        return True

    def _check_together(self, *arrays: NDArray[np.float64]) -> None:
        """Refuse arrays of parameters, each allowed by itself, that do not make a distribution."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one draw; ``()`` for a number."""
        return self._shape

    @property
    def given_tensors(self) -> tuple[object, ...] | None:
        """The parameters as they were given, when one of them is a tensor with a gradient."""
        return getattr(self, "_tensors", None)

    @property
    def num_parameters(self) -> int:
        """Length of `parameters`."""
        return len(self._parameters) * math.prod(self._shape)

    @property
    def mean(self) -> float | NDArray[np.float64]:
        """Expected value, of the shape of a draw."""
        return self._moment(0)

    @property
    def variance(self) -> float | NDArray[np.float64]:
        """Variance of each element, of the shape of a draw."""
        return self._moment(1)

    def parameters(self) -> NDArray[np.float64]:
        """Return the parameters as flat float64, each filled out to the shape of a draw, in constructor order."""
        if self._scalars:
            return np.array(self._scalars, np.float64)
        return np.concatenate([np.broadcast_to(array, self._shape).ravel() for array in self._arrays])

    def arguments(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""
        return {parameter.name: getattr(self, parameter.name) for parameter in self._parameters}

    def _set(self, *values: Numeric) -> None:
        """Check and keep the parameters, in constructor order."""
        if not self._set_numbers(values):
            self._set_arrays(values)

    def _set_numbers(self, values: tuple[Numeric, ...]) -> bool:
        """Keep plain numbers without a detour through arrays; False when they are not, or not all is well."""
        try:
            numbers = tuple([float(value) for value in values if isinstance(value, float | int)])
        except OverflowError:
            return False
        if len(numbers) < len(values):
            return False
        for parameter, number in zip(self._parameters, numbers, strict=True):
            low, high, _, is_whole = parameter.constraint
            if not low <= number <= high or (is_whole and not number.is_integer()):
                return False
        if not self._fit_together(*numbers):
            return False
        self._scalars, self._arrays, self._shape = numbers, (), ()
        return True

    def _set_arrays(self, values: tuple[Numeric, ...]) -> None:
        family = type(self).__name__
        if any(carries_gradient(value) for value in values):
            self._tensors = values
        arrays = []
        for parameter, value in zip(self._parameters, values, strict=True):
            array = as_numbers(family, parameter.name, value)
            _check(family, parameter, array)
            array.setflags(write=False)
            arrays.append(array)
        try:
            self._shape = np.broadcast_shapes(*[array.shape for array in arrays])
        except ValueError as error:
            shapes = ", ".join(f"`{p.name}` {a.shape}" for p, a in zip(self._parameters, arrays, strict=True))
            message = f"The parameters of {family} must broadcast to one shape; got {shapes}."
            raise InvalidInputError(message) from error
        with np.errstate(all="ignore"):
            self._check_together(*arrays)
        if self._shape:
            self._arrays, self._scalars = tuple(arrays), ()
        else:
            self._arrays, self._scalars = (), tuple([float(array) for array in arrays])

    def _log_prob_of_vector(self, value: Numeric) -> float:
        x = read_array(value, self._shape)
        with np.errstate(all="ignore"):
            total = float(self._log_prob_of_array(x))
        return total if total == total else -math.inf

    def _summed(self, terms: NDArray[np.float64]) -> float:
        """Sum terms as if they were broadcast to the shape: a parameter of one number is evaluated once."""
        if not terms.size:
            return 0.0
        return float(terms.sum()) * (math.prod(self._shape) / terms.size)

    def _as_arrays(self) -> tuple[NDArray[np.float64], ...]:
        return self._arrays or tuple([np.array(number) for number in self._scalars])

    def _moment(self, index: int) -> float | NDArray[np.float64]:
        with np.errstate(all="ignore"):
            moment = self._moments()[index]
        return np.array(np.broadcast_to(moment, self._shape)) if self._shape else float(moment)


def _check(family: str, parameter: Parameter, array: NDArray[np.float64]) -> None:
    constraint = parameter.constraint
    # NaN propagates through min and max, and fails both comparisons
    is_inside = not array.size or (array.min() >= constraint.low and array.max() <= constraint.high)
    if is_inside and not (constraint.is_whole and (array != np.floor(array)).any()):
        return
    wrong = ~((array >= constraint.low) & (array <= constraint.high))
    if constraint.is_whole:
        wrong |= array != np.floor(array)
    index = tuple(int(axis[0]) for axis in np.nonzero(np.atleast_1d(wrong)))
    found = repr(float(np.atleast_1d(array)[index])) + (f" at index {index}" if array.ndim else "")
    message = f"`{parameter.name}` of {family} must be {constraint.description}; got {found}."
    raise InvalidInputError(message)
