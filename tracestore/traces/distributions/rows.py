"""Log probabilities of many draws of one family, each under its own row of parameters. Knows no formula.

Every log probability comes from the distribution's own `Distribution.log_prob`, so it equals what a recorder stored
to the last bit on the same machine. The work is shared instead: one distribution for each distinct row of parameters.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.traces.distributions.base import Distribution, Value
from tracestore.traces.distributions.elementwise import Elementwise
from tracestore.traces.distributions.families import FAMILIES, from_parameters

__all__ = ["is_known_family", "log_prob_rows"]

ROWS_AT_ONCE = 16_384
"""Rows that are turned into Python numbers together; bounds the memory, and how many distributions are kept."""


@lru_cache(maxsize=4096)
def is_known_family(family: str) -> bool:
    """Tell whether every family that a name spells out is one of `FAMILIES`.

    Parameters
    ----------
    family
        As `Distribution.family` gives it.

    Examples
    --------
    >>> is_known_family("Mixture(Normal,Categorical(5))"), is_known_family("Mixture(Normal,Cauchy)")
    (True, False)
    """
    words = [word for word in re.split(r"[(),]", family) if word and not word.isdecimal()]
    return bool(words) and all(word in FAMILIES for word in words)


def log_prob_rows(
    family: str, shape: tuple[int, ...], parameters: NDArray[np.float64], values: NDArray[np.generic]
) -> NDArray[np.float64]:
    """Score one draw a row.

    Parameters
    ----------
    family
        As `Distribution.family` gives it.
    shape
        Shape of one draw.
    parameters
        Flat parameters of each row's distribution, shape ``(num_rows, num_parameters)``.
    values
        Shape ``(num_rows, *shape)``. Vector-valued draws are scored in their own dtype, as a recorder does.

    Returns
    -------
    ndarray of float64
        Log probability of each row, summed over the elements of a draw, shape ``(num_rows,)``; NaN where the
        parameters make no distribution of this family.

    Raises
    ------
    InvalidInputError
        When values and parameters do not fit together.

    Examples
    --------
    >>> log_prob_rows("Uniform", (), np.array([[0.0, 2.0], [0.0, 2.0], [5.0, 1.0]]), np.array([1.0, 3.0, 2.0]))
    array([-0.69314718,        -inf,         nan])
    """
    if parameters.ndim != 2 or values.shape != (len(parameters), *shape):
        message = (
            f"Rows of {family} need parameters of shape (num_rows, num_parameters) and values of shape "
            f"(num_rows, {', '.join(map(str, shape))}); got {parameters.shape} and {values.shape}."
        )
        raise InvalidInputError(message)
    result = np.empty(len(parameters))
    for start in range(0, len(parameters), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        # scalar draws as Python numbers; the rows of an array are views of it
        draws: Sequence[Value] = values[part].tolist() if not shape else values[part]  # type: ignore[assignment]
        result[part] = _score(family, shape, parameters[part], draws)
    return result


def _score(family: str, shape: tuple[int, ...], parameters: NDArray[np.float64], draws: Sequence[Value]) -> list[float]:
    make = _maker(family, shape, parameters)
    if (parameters == parameters[0]).all():
        only = make(parameters[0].tolist())
        return [math.nan] * len(draws) if only is None else [only.log_prob(draw) for draw in draws]
    made: dict[tuple[float, ...], Distribution | None] = {}
    log_probs = []
    for numbers, draw in zip(parameters.tolist(), draws, strict=True):
        row = tuple(numbers)
        if row in made:
            distribution = made[row]
        else:
            distribution = made[row] = make(numbers)
        log_probs.append(math.nan if distribution is None else distribution.log_prob(draw))
    return log_probs


def _maker(
    family: str, shape: tuple[int, ...], parameters: NDArray[np.float64]
) -> Callable[[list[float]], Distribution | None]:
    """Return what makes a distribution of one row, or None of a row that is not allowed."""

    def make(numbers: list[float]) -> Distribution | None:
        try:
            return from_parameters(family, numbers, shape)
        except (ArithmeticError, ValueError):  # damaged parameters; `InvalidInputError` is a ValueError
            return None

    first = next((made for made in (make(row.tolist()) for row in parameters) if made is not None), None)
    if shape or not isinstance(first, Elementwise):
        return make
    cls = type(first)

    def make_scalar(numbers: list[float]) -> Distribution | None:
        try:
            return cls(*numbers)
        except (ArithmeticError, ValueError):
            return None

    return make_scalar
