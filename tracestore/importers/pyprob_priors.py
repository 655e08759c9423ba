"""Distributions of pyprob as families and flat parameters of this library. Pure; knows nothing of sites and files.

Parameters keep the values stored (float32 in float64), filled out to the shape of the draw. Draws of one element are
scalars, whatever their shape: pyprob makes no difference between a number and an array of one, and its remote models
store every number as the latter.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.importers.pyprob_records import ParameterValue, PyprobDistribution
from tracestore.traces.distributions.base import normalize_weights

__all__ = ["Prior", "draw_shape", "pyprob_suffix", "read_prior"]

_ELEMENTWISE: dict[str, tuple[str, ...]] = {
    "Normal": ("loc", "scale"),
    "Uniform": ("low", "high"),
    "Poisson": ("rate",),
    "Bernoulli": ("probs",),
    "Beta": ("concentration1", "concentration0", "low", "high"),
    "Exponential": ("rate",),
    "Gamma": ("concentration", "rate"),
    "LogNormal": ("loc", "scale"),
    "Binomial": ("total_count", "probs"),
    "Weibull": ("scale", "concentration"),
    "VonMises": ("loc", "concentration"),
    "TruncatedNormal": ("mean_non_truncated", "stddev_non_truncated", "low", "high"),
}
"""pyprob's parameters of each family, in the order of our constructors."""

_ABSENT = {"low": 0.0, "high": 1.0, "total_count": 1.0}
"""What a parameter is when pyprob stored none."""

_MOST_REMEMBERED = 4096

_normalized: dict[bytes, list[float]] = {}


class Prior(NamedTuple):
    """A prior or likelihood as sites hold it."""

    family: str
    """As `Distribution.family` gives it."""
    structure: str
    """The family with its size, as `Distribution.structure` gives it."""
    shape: tuple[int, ...]
    """Shape of a draw."""
    numbers: list[float]
    """Flat parameters, as `Distribution.parameters` gives them."""

    @property
    def suffix(self) -> str:
        """How a base address names this kind of draw."""
        return f"{self.structure}[{','.join(map(str, self.shape))}]" if self.shape else self.structure


def draw_shape(value: NDArray[np.generic]) -> tuple[int, ...]:
    """Shape of a value; that of one element is a number's.

    Examples
    --------
    >>> draw_shape(np.zeros((1,))), draw_shape(np.zeros((2, 1)))
    ((), (2, 1))
    """
    return () if value.size == 1 else value.shape


def pyprob_suffix(distribution: PyprobDistribution | None) -> str:
    """Return what pyprob appends to the base address of a draw from a distribution; ``None`` for tags.

    Examples
    --------
    >>> pyprob_suffix(PyprobDistribution("Categorical", {"probs": np.ones(3)})), pyprob_suffix(None)
    ('Categorical(len_probs:3)', 'None')
    """
    if distribution is None:
        return "None"
    if distribution.family == "Categorical":
        weights = distribution.parameters.get("probs")
        if weights is None:
            weights = distribution.parameters.get("logits")
        shape = weights.shape if isinstance(weights, np.ndarray) else ()
        return f"Categorical(len_probs:{shape[-1] if shape else 0})"
    if distribution.family == "Mixture":
        return f"Mixture({', '.join([pyprob_suffix(part) for part in distribution.components])})"
    return distribution.family


def read_prior(distribution: PyprobDistribution, shape: tuple[int, ...]) -> Prior:
    """Find the family and the parameters that mean the same.

    Parameters
    ----------
    distribution
        A distribution of pyprob.
    shape
        Shape of the value drawn, see `draw_shape`.

    Raises
    ------
    InvalidInputError
        When no family of this library draws such values; whether the parameters are allowed is not checked.

    Examples
    --------
    >>> read_prior(PyprobDistribution("Normal", {"loc": np.zeros(2), "scale": np.array([3.0])}), (2,)).numbers
    [0.0, 0.0, 3.0, 3.0]
    """
    names = _ELEMENTWISE.get(distribution.family)
    if names is not None:
        return _read_elementwise(distribution, names, shape)
    read = {"Categorical": _read_categorical, "Mixture": _read_mixture}.get(distribution.family)
    if read is None:
        message = f"The family {distribution.family!r} has no counterpart here."
        raise InvalidInputError(message, family=distribution.family)
    if shape:
        message = f"{distribution.family} with draws of shape {shape} has no counterpart here: its draws are scalar."
        raise InvalidInputError(message, family=distribution.family, shape=shape)
    return read(distribution)


def _read_elementwise(distribution: PyprobDistribution, names: tuple[str, ...], shape: tuple[int, ...]) -> Prior:
    family = distribution.family
    values = [_parameter(distribution, name) for name in names]
    if not shape and all(value.size == 1 for value in values):
        return Prior(family, family, (), [float(value.item()) for value in values])
    shapes = [draw_shape(value) for value in values]
    try:
        together = np.broadcast_shapes(shape, *shapes)
    except ValueError:
        together = None
    if together != shape:
        message = (
            f"Parameters of {family} of shapes {', '.join(map(str, shapes))} do not belong to a draw of shape {shape}."
        )
        raise InvalidInputError(message, family=family, shape=shape)
    flat = [
        np.broadcast_to(value.reshape(own), shape).astype(np.float64).ravel()
        for value, own in zip(values, shapes, strict=True)
    ]
    return Prior(family, family, shape, np.concatenate(flat).tolist())


def _read_categorical(distribution: PyprobDistribution) -> Prior:
    weights = _weights(distribution)
    return Prior("Categorical", f"Categorical({len(weights)})", (), weights)


def _read_mixture(distribution: PyprobDistribution) -> Prior:
    parts = [read_prior(part, ()) for part in distribution.components]
    weights = _weights(distribution)
    if not parts or len(parts) != len(weights):
        message = f"A Mixture of {len(parts)} components has {len(weights)} weights."
        raise InvalidInputError(message, family="Mixture")
    structure = f"Mixture({','.join([part.structure for part in parts])})"
    return Prior(structure, structure, (), [*[number for part in parts for number in part.numbers], *weights])


def _weights(distribution: PyprobDistribution) -> list[float]:
    """Probabilities that sum to one; batches of one are plain rows."""
    array = _probs(distribution, lambda logits: np.exp(logits - logits.max()))
    if not array.ndim or array.size != array.shape[-1]:
        message = f"{distribution.family} with probabilities of shape {array.shape} has no counterpart here."
        raise InvalidInputError(message, family=distribution.family, shape=array.shape)
    key = array.tobytes()
    weights = _normalized.get(key)
    if weights is None:
        if len(_normalized) >= _MOST_REMEMBERED:
            _normalized.clear()
        weights = _normalized[key] = list(normalize_weights(distribution.family, "probs", array.ravel()))
    return weights


def _parameter(distribution: PyprobDistribution, name: str) -> NDArray[np.float64]:
    if name == "probs":
        return _probs(distribution, lambda logits: 1.0 / (1.0 + np.exp(-logits)))
    value = distribution.parameters.get(name)
    if value is None:
        value = _ABSENT.get(name)
    return _array(distribution, name, value)


def _probs(
    distribution: PyprobDistribution, of_logits: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    probs = distribution.parameters.get("probs")
    if probs is not None:
        return _array(distribution, "probs", probs)
    logits = _array(distribution, "probs or logits", distribution.parameters.get("logits"))
    if not logits.size:
        return logits
    with np.errstate(all="ignore"):
        return of_logits(logits)


def _array(distribution: PyprobDistribution, name: str, value: ParameterValue) -> NDArray[np.float64]:
    if value is None or (isinstance(value, np.ndarray) and value.dtype.kind not in "biuf"):
        message = f"{distribution.family} was stored without its {name}."
        raise InvalidInputError(message, family=distribution.family, parameter=name)
    return np.asarray(value, np.float64)
