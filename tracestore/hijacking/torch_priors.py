"""Which prior each random operation of torch draws from, and what becomes of the value. Draws nothing itself.

Operations that fill a tensor, and those that make one from parameters, become one vector-valued draw. Arrays are
float64 numpy here; `torch_draws` turns them into tensors.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracestore._extras import extra

with extra("train"):
    import torch

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
)

__all__ = [
    "FILLING",
    "FROM_PARAMETERS",
    "MAX_CATEGORIES",
    "Draw",
    "Limits",
    "as_array",
    "bernoulli",
    "integers",
    "normal",
    "permutation",
    "uniform",
]

MAX_CATEGORIES = 256
"""Most equally likely values of which one is drawn as a `Categorical`."""

Array = NDArray[np.float64]
Shape = tuple[int, ...]


class Draw(NamedTuple):
    """One draw: from which prior, and what becomes of the value. Without a prior nothing is left to chance."""

    prior: Distribution | None
    finish: Callable[[Array], Array]


class Limits(NamedTuple):
    """Relative spacing and smallest positive number of the result's floating type."""

    eps: float
    tiny: float


def as_array(value: object) -> Array:
    """Read a number or a tensor as float64."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy() if value.dtype != torch.bfloat16 else value.detach().cpu().float().numpy()
    return np.asarray(value, np.float64)


def _spread(value: object, shape: Shape) -> Array:
    return np.broadcast_to(as_array(value), shape)


def _same(value: Array) -> Array:
    return value


def normal(shape: Shape, limits: Limits, mean: object = 0.0, std: object = 1.0) -> Draw:
    """Draw normal numbers; where the standard deviation is zero, the mean."""
    if not shape:  # one number, as most are
        mean, std = float(mean), float(std)  # type: ignore[arg-type]  # numbers or tensors of one
        if std > 0.0:
            return Draw(Normal(mean, std), _same)
    loc, scale = _spread(mean, shape), _spread(std, shape)
    if (scale >= 0.0).all() and not scale.all():
        return Draw(Normal(np.zeros(shape), 1.0), lambda value: loc + scale * value)
    return Draw(Normal(loc, scale), _same)


def uniform(shape: Shape, limits: Limits, low: float = 0.0, high: float = 1.0) -> Draw:
    """Uniform numbers, the upper bound excluded as far as the floating type can tell."""
    if low == high:
        return Draw(None, lambda _: np.full(shape, low))
    last = high - max(abs(low), abs(high), high - low) * limits.eps
    return Draw(Uniform(np.full(shape, low), high), lambda value: np.minimum(value, last))


def exponential(shape: Shape, limits: Limits, lambd: float = 1.0) -> Draw:
    """Exponential numbers, never zero."""
    return Draw(Exponential(np.full(shape, lambd)), lambda value: np.maximum(value, limits.tiny))


def log_normal(shape: Shape, limits: Limits, mean: float = 1.0, std: float = 2.0) -> Draw:
    """Exponentials of normal numbers."""
    if std == 0.0:
        return Draw(None, lambda _: np.full(shape, math.exp(mean)))
    return Draw(LogNormal(np.full(shape, mean), std), _same)


def cauchy(shape: Shape, limits: Limits, median: float = 0.0, sigma: float = 1.0) -> Draw:
    """Cauchy numbers: quantiles of uniform ones, as there is no prior of this family."""
    unit = Uniform(np.zeros(shape), 1.0)
    return Draw(unit, lambda value: median + sigma * np.tan(math.pi * (value - 0.5)))


def geometric(shape: Shape, limits: Limits, p: float) -> Draw:
    """Trials up to the first success: exponential numbers rounded up, which is exact."""
    if p == 1.0:
        return Draw(None, lambda _: np.ones(shape))
    rate = -math.log1p(-p)
    return Draw(Exponential(np.full(shape, rate)), np.ceil)


def bernoulli(shape: Shape, limits: Limits, p: object = 0.5) -> Draw:
    """Zeros and ones."""
    return Draw(Bernoulli(_spread(p, shape)), _same)


def integers(shape: Shape, low: int, high: int) -> Draw:
    """Whole numbers from ``low`` below ``high``: a category where it is one of few, else cut out of uniform numbers."""
    count = high - low
    if count <= 1:
        return Draw(None, lambda _: np.full(shape, float(low)))
    if math.prod(shape) == 1 and count <= MAX_CATEGORIES:
        return Draw(Categorical([1.0 / count] * count), lambda value: np.reshape(low + value, shape))
    last = math.floor(math.nextafter(float(count), 0.0))
    return Draw(Uniform(np.zeros(shape), 1.0), lambda value: low + np.minimum(np.floor(count * value), last))


def permutation(number: int) -> Draw:
    """Order of so many uniform numbers."""
    if number <= 1:
        return Draw(None, lambda _: np.zeros(number))
    unit = Uniform(np.zeros(number), 1.0)
    return Draw(unit, lambda value: np.argsort(value, kind="stable").astype(np.float64))


def _poisson(limits: Limits, rate: Array) -> Draw:
    return Draw(Poisson(rate), _same)


def _binomial(limits: Limits, count: Array, prob: Array) -> Draw:
    return Draw(Binomial(*np.broadcast_arrays(count, prob)), _same)


def _standard_gamma(limits: Limits, concentration: Array) -> Draw:
    return Draw(Gamma(concentration, 1.0), lambda value: np.maximum(value, limits.tiny))


def _dirichlet(limits: Limits, concentration: Array) -> Draw:
    """Shares of a whole: of two a `Beta`, of more gamma numbers divided by their sum."""
    if concentration.shape[-1] == 2:
        low, high = limits.tiny, 1.0 - limits.eps

        def complete(value: Array) -> Array:
            first = np.clip(value, low, high)
            return np.stack([first, 1.0 - first], -1)

        return Draw(Beta(concentration[..., 0], concentration[..., 1]), complete)
    return Draw(Gamma(concentration, 1.0), lambda value: np.maximum(value / value.sum(-1, keepdims=True), limits.tiny))


def _multinomial(limits: Limits, weights: Array, number: int, replacement: bool = False) -> Draw:  # noqa: FBT001, FBT002
    """Categories by weight: one of few as `Categorical`, else by uniform numbers, or as the first to arrive."""
    rows = weights.reshape(-1, weights.shape[-1])
    shape = (*weights.shape[:-1], number)
    if len(rows) * number == 1 and rows.shape[1] <= MAX_CATEGORIES:
        return Draw(Categorical(rows[0]), lambda value: np.reshape(value, shape))
    if replacement or number == 1:
        cumulative = np.cumsum(rows, -1)

        def find(value: Array) -> Array:
            marks = value.reshape(len(rows), number) * cumulative[:, -1:]
            found = [np.searchsorted(row, mark, "right") for row, mark in zip(cumulative, marks, strict=True)]
            # a mark at the very end belongs to the last category that has weight
            last = [np.flatnonzero(row)[-1] for row in rows]
            return np.minimum(np.array(found, np.float64), np.array(last, np.float64)[:, None]).reshape(shape)

        return Draw(Uniform(np.zeros(shape), 1.0), find)

    def arrive(value: Array) -> Array:
        with np.errstate(divide="ignore"):
            times = value.reshape(rows.shape) / rows
        return np.argsort(times, -1, kind="stable")[:, :number].astype(np.float64).reshape(shape)

    return Draw(Exponential(np.ones(weights.shape)), arrive)


FILLING: Mapping[str, Callable[..., Draw]] = {
    "normal": normal,
    "uniform": uniform,
    "exponential": exponential,
    "log_normal": log_normal,
    "cauchy": cauchy,
    "geometric": geometric,
    "bernoulli": bernoulli,
}
"""Operations that fill the tensor they are called on; called with its shape and their arguments."""

FROM_PARAMETERS: Mapping[str, Callable[..., Draw]] = {
    "poisson": _poisson,
    "binomial": _binomial,
    "_standard_gamma": _standard_gamma,
    "_sample_dirichlet": _dirichlet,
    "multinomial": _multinomial,
}
"""Operations whose result is made from tensors of parameters; called with these as arrays."""
