"""Tensors and distributions as PPX sends them, both ways. Must not know messages."""

import math
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError, SimulatorProtocolError
from tracestore.ppx.flatbuffer import Field, Table
from tracestore.traces.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Distribution,
    Exponential,
    Gamma,
    LogNormal,
    Normal,
    Poisson,
    Uniform,
    Weibull,
)

__all__ = [
    "EXAMPLES",
    "PPX_FAMILIES",
    "distribution_fields",
    "distribution_parameters",
    "distribution_type",
    "read_distribution",
    "read_tensor",
    "tensor_fields",
]

MAX_DIMENSIONS = 32
"""Dimensions of a tensor that are accepted."""


class WireFamily(NamedTuple):
    """A family of PPX: how we make it, and what either side calls the parameters."""

    make: type[Distribution]
    own_names: tuple[str, ...]
    wire_names: tuple[str, ...]


_FAMILIES = (
    WireFamily(Normal, ("loc", "scale"), ("mean", "stddev")),
    WireFamily(Uniform, ("low", "high"), ("low", "high")),
    WireFamily(Categorical, ("probs",), ("probs",)),
    WireFamily(Poisson, ("rate",), ("rate",)),
    WireFamily(Bernoulli, ("probs",), ("probs",)),
    WireFamily(Beta, ("concentration1", "concentration0"), ("concentration1", "concentration0")),
    WireFamily(Exponential, ("rate",), ("rate",)),
    WireFamily(Gamma, ("concentration", "rate"), ("concentration", "rate")),
    WireFamily(LogNormal, ("loc", "scale"), ("loc", "scale")),
    WireFamily(Binomial, ("total_count", "probs"), ("total_count", "probs")),
    WireFamily(Weibull, ("scale", "concentration"), ("scale", "concentration")),
)
"""The types 1, 2, ... of the union `Distribution`; 0 is none."""

PPX_FAMILIES = tuple(family.make.__name__ for family in _FAMILIES)
"""Names of the families that PPX has."""

_NUMBERS = {name: number for number, name in enumerate(PPX_FAMILIES, start=1)}

EXAMPLES: dict[int, Distribution] = {
    number: family.make(*([0.25, 0.5][: len(family.own_names)] if family.make is not Binomial else [1.0, 0.5]))
    for number, family in enumerate(_FAMILIES, start=1)
    if family.make is not Categorical
}
"""One distribution of each family whose parameters are numbers, by its number in the union."""

_NOTHING: NDArray[np.float64] = np.empty(0)


def read_tensor(table: Table | None) -> float | NDArray[np.float64] | None:
    """Read a tensor: a float for shapes ``[]`` and ``[1]``, None when absent or without numbers.

    Parameters
    ----------
    table
        The tensor.

    Returns
    -------
    float, ndarray or None
        Arrays are read-only. Several numbers without a shape are one row.

    Raises
    ------
    SimulatorProtocolError
        When the shape does not fit the numbers.
    """
    if table is None:
        return None
    numbers = table.numbers(0)
    shape = table.integers(1, MAX_DIMENSIONS)
    if numbers is None:
        if shape and 0 not in shape:
            message = f"A tensor of shape {list(shape)} has no numbers."
            raise SimulatorProtocolError(message)
        return None
    if not shape or (shape == (1,) and isinstance(numbers, float)):
        return numbers
    array = np.atleast_1d(np.asarray(numbers))
    if min(shape) < 0 or math.prod(shape) != array.size:
        message = f"A tensor of shape {list(shape)} has {array.size} numbers."
        raise SimulatorProtocolError(message)
    array = array.reshape(shape)
    array.setflags(write=False)
    return array


def tensor_fields(value: ArrayLike | None) -> list[Field]:
    """Return the fields of the tensor of a value; None is a tensor without numbers."""
    if value is None:
        return [_NOTHING, (0,)]
    array = np.asarray(value, np.float64)
    return [array.ravel(), array.shape]


def read_distribution(number: int, table: Table | None, address: str) -> Distribution:
    """Read a distribution.

    Parameters
    ----------
    number
        Its type in the union.
    table
        Its parameters.
    address
        Of the draw, for messages.

    Raises
    ------
    SimulatorProtocolError
        When there is none, or it is not one of those that PPX has, or its parameters are not valid.
    """
    if number == 0 or table is None:
        message = f"The site at address {address!r} comes without a distribution; PPX has {', '.join(PPX_FAMILIES)}."
        raise SimulatorProtocolError(message, address=address)
    if number > len(_FAMILIES):
        message = (
            f"The site at address {address!r} has a distribution of the unknown type {number}; PPX 1.0.0 has the types "
            f"1 to {len(_FAMILIES)}: {', '.join(PPX_FAMILIES)}."
        )
        raise SimulatorProtocolError(message, address=address)
    family = _FAMILIES[number - 1]
    values = [read_tensor(table.table(slot)) for slot in range(len(family.wire_names))]
    for name, value in zip(family.wire_names, values, strict=True):
        if value is None:
            _refuse_parameters(family, address, f"`{name}` is missing")
    if family.make is Categorical:
        # one row of weights, perhaps in a batch of one
        row = np.atleast_1d(np.asarray(values[0]))
        if row.ndim > 1 and math.prod(row.shape[:-1]) == 1:
            row = row.ravel()
        if row.ndim > 1:
            found = (
                f"`probs` must be one row of weights, because a categorical draw is one number; got shape {row.shape}"
            )
            _refuse_parameters(family, address, found)
        values = [row.tolist()]
    elif len({value.shape for value in values if isinstance(value, np.ndarray)}) > 1:
        shapes = ", ".join(
            f"`{name}` {np.shape(value)}"  # type: ignore[arg-type]  # none is None
            for name, value in zip(family.wire_names, values, strict=True)
        )
        _refuse_parameters(family, address, f"the parameters must be numbers or arrays of one shape; got {shapes}")
    try:
        return family.make(*values)
    except InvalidInputError as error:
        _refuse_parameters(family, address, str(error).rstrip("."), error)


def distribution_type(distribution: Distribution, address: str) -> int:
    """Return the number of a distribution in the union of PPX.

    Parameters
    ----------
    distribution
        A prior or a likelihood.
    address
        Of the draw, for the message.

    Raises
    ------
    SimulatorProtocolError
        When PPX does not have it.
    """
    # by name: a family may be sampled in a way of its own, and has the same density
    number = _NUMBERS.get(distribution.family)
    if number is None:
        found = f"of the family {distribution.family}"
    elif isinstance(distribution, Beta) and not (np.all(distribution.low == 0.0) and np.all(distribution.high == 1.0)):
        found = f"of the family Beta between {distribution.low} and {distribution.high}"
    elif 0 in distribution.shape:
        found = f"without elements, of shape {distribution.shape}"
    else:
        return number
    message = (
        f"The distribution at address {address!r} cannot be sent over PPX: it is {found}, but PPX has "
        f"{', '.join(PPX_FAMILIES)}, with Beta between 0 and 1 only; write the draw with one of these."
    )
    raise SimulatorProtocolError(message, address=address, family=distribution.family)


def distribution_parameters(distribution: Distribution, number: int) -> list[float | NDArray[np.float64]]:
    """Return the parameters of a distribution in the order in which PPX has them."""
    values = [getattr(distribution, name) for name in _FAMILIES[number - 1].own_names]
    shape = distribution.shape
    return [np.broadcast_to(value, shape) for value in values] if shape else values


def distribution_fields(distribution: Distribution, number: int) -> list[Field]:
    """Return the fields of the table of a distribution."""
    return [tensor_fields(value) for value in distribution_parameters(distribution, number)]


def _refuse_parameters(family: WireFamily, address: str, found: str, cause: Exception | None = None) -> NoReturn:
    name = family.make.__name__
    message = (
        f"The {name} distribution at address {address!r} is not valid: {found}"
        f" (PPX names its parameters {' and '.join(family.wire_names)})."
    )
    raise SimulatorProtocolError(message, address=address, family=name) from cause
