"""The families by name, and distributions read back from stored parameters.

A *structure* is a family with what its flat parameters do not tell: ``Categorical(5)``, ``PiecewiseUniform(16)``, or
``Mixture(Normal,Mixture(Poisson,Poisson))``. All components of a mixture have its shape.
"""

import math
import re
from functools import lru_cache
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.traces.distributions.base import Distribution
from tracestore.traces.distributions.bounded import Beta, Uniform, VonMises
from tracestore.traces.distributions.composite import Mixture, MultivariateNormal
from tracestore.traces.distributions.continuous import Exponential, Gamma, LogNormal, Normal, Weibull
from tracestore.traces.distributions.counts import Bernoulli, Binomial, Poisson
from tracestore.traces.distributions.elementwise import Elementwise
from tracestore.traces.distributions.truncated import TruncatedNormal
from tracestore.traces.distributions.weighted import Categorical, PiecewiseUniform

__all__ = ["FAMILIES", "Structure", "count_parameters", "from_parameters", "parse_structure"]

FAMILIES: tuple[str, ...] = (
    "Normal",
    "Uniform",
    "Categorical",
    "Poisson",
    "Bernoulli",
    "Beta",
    "Exponential",
    "Gamma",
    "LogNormal",
    "Binomial",
    "Weibull",
    "TruncatedNormal",
    "VonMises",
    "MultivariateNormal",
    "Mixture",
    "PiecewiseUniform",
)
"""Names of all families. The position of a name never changes; new ones are appended."""

_ELEMENTWISE: dict[str, type[Elementwise]] = {
    "Normal": Normal,
    "Uniform": Uniform,
    "Poisson": Poisson,
    "Bernoulli": Bernoulli,
    "Beta": Beta,
    "Exponential": Exponential,
    "Gamma": Gamma,
    "LogNormal": LogNormal,
    "Binomial": Binomial,
    "Weibull": Weibull,
    "TruncatedNormal": TruncatedNormal,
    "VonMises": VonMises,
}


class Structure(NamedTuple):
    """A parsed structure: the family, and its size or its components."""

    family: str
    size: int | None = None
    components: tuple["Structure", ...] = ()


def from_parameters(family: str, parameters: ArrayLike, shape: tuple[int, ...] = ()) -> Distribution:
    """Make the distribution whose `Distribution.parameters` are given; the inverse of that method.

    Parameters
    ----------
    family
        The family, as `Distribution.family` or `Distribution.structure` gives it.
    parameters
        Flat parameters.
    shape
        Shape of one draw.

    Raises
    ------
    InvalidInputError
        When the family is unknown, or number or values of the parameters do not fit it.

    Examples
    --------
    >>> prior = Mixture([Normal(0.0, 1.0), Uniform(0.0, 1.0)], [0.5, 0.5])
    >>> from_parameters(prior.family, prior.parameters(), prior.shape) == prior
    True
    """
    numbers = np.asarray(parameters, np.float64)
    simple = _ELEMENTWISE.get(family)
    if simple is not None and not shape and numbers.shape == (len(simple._parameters),):
        return simple(*numbers.tolist())
    structure = parse_structure(family)
    if structure.size is None and not structure.components:
        structure = _sized(structure, numbers.size)
    expected = count_parameters(structure, shape)
    if numbers.shape != (expected,):
        message = f"{family} with draws of shape {shape} has {expected} parameters; got shape {numbers.shape}."
        raise InvalidInputError(message)
    return _build(structure, numbers, shape)


def _sized(structure: Structure, count: int) -> Structure:
    """Add the size that follows from the number of parameters when the family stands alone."""
    if structure.family == "Categorical":
        return structure._replace(size=max(count, 1))
    if structure.family == "PiecewiseUniform":
        return structure._replace(size=max((count - 1) // 2, 1))
    return structure


def count_parameters(structure: Structure, shape: tuple[int, ...]) -> int:
    """Return how many flat parameters a distribution has.

    Parameters
    ----------
    structure
        What `parse_structure` returned.
    shape
        Shape of one draw.

    Raises
    ------
    InvalidInputError
        When the structure has no draws of this shape, or lacks a size.
    """
    family, size, components = structure
    if components:
        return sum([count_parameters(component, shape) for component in components]) + len(components)
    if family in _ELEMENTWISE:
        return len(_ELEMENTWISE[family]._parameters) * math.prod(shape)
    if family == "MultivariateNormal":
        if len(shape) != 1:
            message = f"The shape of a MultivariateNormal draw must have one dimension; got {shape}."
            raise InvalidInputError(message)
        return shape[0] * (shape[0] + 1)
    if shape:
        message = f"{family} draws are scalar; got shape {shape}."
        raise InvalidInputError(message)
    if size is None:
        message = f"{family} as a component of a mixture needs its size, as in {family}(5)."
        raise InvalidInputError(message)
    return size if family == "Categorical" else 2 * size + 1


def _build(structure: Structure, numbers: NDArray[np.float64], shape: tuple[int, ...]) -> Distribution:
    family, size, components = structure
    if components:
        parts = []
        start = 0
        for component in components:
            stop = start + count_parameters(component, shape)
            parts.append(_build(component, numbers[start:stop], shape))
            start = stop
        return Mixture(parts, numbers[start:])
    if family in _ELEMENTWISE:
        cls = _ELEMENTWISE[family]
        return cls(*(numbers.reshape(len(cls._parameters), *shape) if shape else numbers.tolist()))
    if family == "MultivariateNormal":
        return MultivariateNormal(numbers[: shape[0]], numbers[shape[0] :].reshape(shape[0], shape[0]))
    if family == "Categorical":
        return Categorical(numbers)
    return PiecewiseUniform(numbers[: -(size or 0)], numbers[-(size or 0) :])


@lru_cache(maxsize=4096)
def parse_structure(text: str) -> Structure:
    """Take the name of a structure apart.

    Parameters
    ----------
    text
        As `Distribution.structure` gives it.

    Raises
    ------
    InvalidInputError
        When it names no family.

    Examples
    --------
    >>> parse_structure("Mixture(Normal,PiecewiseUniform(4))").components[1].size
    4
    """
    structure, end = _parse_from(text, 0, text)
    if end != len(text):
        _refuse(text)
    return structure


def _parse_from(text: str, start: int, whole: str) -> tuple[Structure, int]:
    match = re.compile(r"([A-Za-z]+)(?:\(([1-9][0-9]*)\))?").match(text, start)
    if match is None or match[1] not in FAMILIES:
        _refuse(whole)
    family, end = match[1], match.end()
    if match[2] is not None:
        if family not in ("Categorical", "PiecewiseUniform"):
            _refuse(whole)
        return Structure(family, int(match[2])), end
    if family != "Mixture":
        return Structure(family), end
    components: list[Structure] = []
    while end < len(text) and text[end] == ("," if components else "("):
        component, end = _parse_from(text, end + 1, whole)
        components.append(component)
    if not components or text[end : end + 1] != ")":
        _refuse(whole)
    return Structure(family, None, tuple(components)), end + 1


def _refuse(text: str) -> NoReturn:
    message = (
        f"{text!r} names no distribution family; allowed: {', '.join(FAMILIES)}, with Mixture(...) spelling out its "
        "components and a size after Categorical and PiecewiseUniform there, as in Mixture(Categorical(5),Poisson)."
    )
    raise InvalidInputError(message)
