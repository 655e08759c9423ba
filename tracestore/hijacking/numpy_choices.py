"""Methods of numpy's generators that draw whole numbers, pick from sequences, or put them in random order."""

import math
from collections.abc import MutableSequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tracestore.hijacking.drawing import draw
from tracestore.hijacking.numpy_results import LARGEST, Argument, Like, refuse, result_of, shape_of, units
from tracestore.traces.distributions import Categorical, Uniform

__all__ = ["CHOICES", "LEGACY_CHOICES"]

MAX_CATEGORIES = 1024
"""Ranges and sequences up to this length make a scalar draw Categorical; longer ones make it Uniform, rounded down."""
NARROW = 2**32
"""A range up to this is drawn by one uniform number for each integer, a wider one by two."""
MAX_PERMUTED = 10_000_000
"""Longest sequence that is put in random order."""


@lru_cache(maxsize=MAX_CATEGORIES)
def _equal(count: int) -> Categorical:
    return Categorical([1.0 / count] * count)


def integers(
    like: Like,
    low: Argument,
    high: Argument = None,
    size: Argument = None,
    dtype: Argument = np.int64,
    endpoint: Argument = False,  # noqa: FBT002  # as numpy has it
) -> Argument:
    """Integers of a range."""
    if type(low) is int and size is None and dtype is np.int64 and (high is None or type(high) is int):
        first, last = (0, low) if high is None else (low, high)
        count = last - first + bool(endpoint)
        if 1 < count <= MAX_CATEGORIES and -(2**62) < first < 2**62:
            return np.int64(first + draw(_equal(count), "integers", 2))
    return _integers(like(low, high, size, dtype, endpoint), low, high, "integers", includes_high=bool(endpoint))


def randint(like: Like, low: Argument, high: Argument = None, size: Argument = None, dtype: Argument = int) -> Argument:
    """Integers of a range, of `RandomState`."""
    return _integers(like(low, high, size, dtype), low, high, "randint", includes_high=False)


def random_integers(like: Like, low: Argument, high: Argument = None, size: Argument = None) -> Argument:
    """Integers from 1 or ``low`` to ``high``, both included."""
    result = like(low, high, size)
    return _integers(
        result, 1 if high is None else low, low if high is None else high, "random_integers", includes_high=True
    )


def tomaxint(like: Like, size: Argument = None) -> Argument:
    """Integers from 0 to the largest of C."""
    return _integers(like(size), np.iinfo(np.long).max, None, "tomaxint", includes_high=True)


def bytes_(like: Like, length: int) -> bytes:
    """Bytes."""
    result: bytes = like(length)
    return np.floor(draw(Uniform(np.zeros(length), 256.0), "bytes")).clip(0, 255).astype(np.uint8).tobytes() or result


def _integers(result: Argument, low: Argument, high: Argument, method: str, *, includes_high: bool) -> Argument:
    shape = np.shape(result)
    if 0 in shape:
        return result
    first, last = (0, low) if high is None else (low, high)
    if np.ndim(first) == 0 and np.ndim(last) == 0:
        counts: Argument = int(last) - int(first) + includes_high
        first, widest = int(first), counts
    else:
        first = np.broadcast_to(np.asarray(first, object), shape)
        counts = np.broadcast_to(np.asarray(last, object), shape) - first + int(includes_high)
        widest = int(counts.max())
    if widest == 1:
        return result
    if not shape and np.ndim(counts) == 0 and counts <= MAX_CATEGORIES:
        return result_of(first + int(draw(_equal(counts), method)), result)
    value = first + _below(method, counts, shape, widest)
    if not shape:
        return result_of(int(value), result)
    result[...] = value
    return result


def _below(method: str, counts: Argument, shape: tuple[int, ...], widest: int) -> Argument:
    """Integers from 0 to below counts, one uniform draw each, or two that make 64 bits."""
    if widest <= NARROW:
        tops = np.asarray(counts, np.float64)
        drawn = draw(Uniform(0.0, float(tops)) if not shape else Uniform(np.zeros(shape), tops), method)
        return np.minimum(np.floor(drawn), tops - 1.0).astype(np.int64)
    parts = np.floor(np.asarray(units(method, (*shape, 2))) * NARROW).astype(np.int64).astype(object)
    return (parts[..., 0] * NARROW + parts[..., 1]) * counts // NARROW**2


def choice(
    like: Like,
    a: Argument,
    size: Argument = None,
    replace: Argument = True,  # noqa: FBT002  # as numpy has it
    p: Argument = None,
    axis: Argument = 0,
    shuffle: Argument = True,  # noqa: FBT002  # as numpy has it
) -> Argument:
    """One or several of a sequence or a range."""
    if size is None and p is None:
        if type(a) is int and 1 < a <= MAX_CATEGORIES:
            return draw(_equal(a), "choice", 2)
        if type(a) is list and 1 < len(a) <= MAX_CATEGORIES and type(a[0]) in (int, float, str) and axis == 0:
            return np.asarray(a)[int(draw(_equal(len(a)), "choice", 2))]
    return _choice(like(a, size, replace, p, axis, shuffle), a, size, p, axis, replace=bool(replace))


def legacy_choice(
    like: Like,
    a: Argument,
    size: Argument = None,
    replace: Argument = True,  # noqa: FBT002  # as numpy has it
    p: Argument = None,
) -> Argument:
    """As `choice`, of `RandomState`."""
    if size is None and p is None and type(a) is int and 1 < a <= MAX_CATEGORIES:
        return draw(_equal(a), "choice", 2)
    return _choice(like(a, size, replace, p), a, size, p, 0, replace=bool(replace))


def _choice(result: Argument, a: Argument, size: Argument, p: Argument, axis: int, *, replace: bool) -> Argument:
    array = np.asarray(a)
    count = int(array) if array.ndim == 0 else array.shape[axis]
    shape = shape_of(size)
    number = math.prod(shape)
    if not number:
        return result
    if number == 1 and (p is not None or count <= MAX_CATEGORIES):
        prior = _equal(count) if p is None else Categorical(np.asarray(p, np.float64))
        found = np.full(shape, draw(prior, "choice"))
    elif not replace:
        found = (_some(count, number) if p is None else _some_weighted(p, number)).reshape(shape)
    elif p is not None:
        found = _at_quantiles(np.asarray(p, np.float64), units("choice", shape))
    else:
        found = np.asarray(_below("choice", count, shape, count))
    if array.ndim == 0:
        return result_of(int(found), result) if size is None else found.astype(result.dtype)
    if size is None:
        return array[int(found)] if array.ndim == 1 else array.take(int(found), axis=axis)
    return np.asarray(array.take(found, axis=axis))


def _at_quantiles(weights: NDArray[np.float64], u: Argument) -> NDArray[np.intp]:
    cumulative = np.cumsum(weights)
    found = np.asarray(np.searchsorted(cumulative, np.asarray(u) * cumulative[-1], side="right"))
    inside: NDArray[np.intp] = np.minimum(found, np.flatnonzero(weights)[-1])
    return inside


def _some(count: int, number: int) -> NDArray[np.int64]:
    """Different numbers below a count, in random order: the beginning of a shuffle."""
    u = units("choice", (number,)).tolist()
    moved: dict[int, int] = {}  # what has been swapped to where
    found = []
    for index, share in enumerate(u):
        other = index + min(int(share * (count - index)), count - index - 1)
        found.append(moved.get(other, other))
        moved[other] = moved.get(index, index)
    return np.array(found, np.int64)


def _some_weighted(p: Argument, number: int) -> NDArray[np.intp]:
    """Different indices, one after the other by weight."""
    weights = np.array(p, np.float64)
    found = []
    for u in units("choice", (number,)).tolist():
        index = int(_at_quantiles(weights, u))
        found.append(index)
        weights[index] = 0.0
    return np.array(found, np.intp)


def shuffle(like: Like, x: Argument, axis: Argument = 0) -> None:
    """Put a sequence in random order, in place."""
    if isinstance(x, np.ndarray):
        like(x.copy() if x.flags.writeable else x, axis)
        if x.size and x.shape[axis] > 1:
            x[...] = x.take(_order("shuffle", x.shape[axis]), axis=axis)
        return
    _shuffle_items(like, x, axis)


def legacy_shuffle(like: Like, x: Argument) -> None:
    """As `shuffle`, of `RandomState`."""
    if isinstance(x, np.ndarray):
        like(x.copy() if x.flags.writeable else x)
        if len(x) > 1:
            x[...] = x[_order("shuffle", len(x))]
        return
    _shuffle_items(like, x)


def _shuffle_items(like: Like, x: Argument, *axis: Argument) -> None:
    if not isinstance(x, MutableSequence):
        if hasattr(x, "__setitem__") and hasattr(x, "__len__") and len(x) > 1:
            raise refuse("shuffle", f"for {type(x).__name__}, which is neither an array nor a mutable sequence")
        like(x, *axis)
        return
    like([*x], *axis)
    if len(x) > 1:
        order = _order("shuffle", len(x))
        x[:] = [x[index] for index in order]


def permutation(like: Like, x: Argument, axis: Argument = 0) -> Argument:
    """Return a sequence, or the numbers of a range, in random order."""
    return _permutation(like(x, axis), x, axis)


def legacy_permutation(like: Like, x: Argument) -> Argument:
    """As `permutation`, of `RandomState`."""
    return _permutation(like(x), x, 0)


def _permutation(result: Argument, x: Argument, axis: int) -> Argument:
    count = result.shape[axis]
    if count < 2 or not result.size:
        return result
    array = np.asarray(x)
    order = _order("permutation", count)
    if not array.ndim:
        return order.astype(result.dtype)
    return array.take(order, axis=axis).astype(result.dtype, copy=False)


def permuted(like: Like, x: Argument, *, axis: Argument = None, out: Argument = None) -> Argument:
    """Return an array with the elements along an axis in random order, independently of each other."""
    array = np.asarray(x)
    result = like(array, axis=axis, out=None if out is None else np.empty_like(out))
    count = array.size if axis is None else array.shape[axis]
    if count > 1 and array.size:
        rows = array.reshape(1, -1) if axis is None else np.moveaxis(array, axis, -1)
        order = _orders("permuted", rows.shape)
        mixed = np.take_along_axis(rows, order, axis=-1)
        result = (mixed.reshape(array.shape) if axis is None else np.moveaxis(mixed, -1, axis)).astype(result.dtype)
    if out is None:
        return np.ascontiguousarray(result)
    out[...] = result
    return out


def _order(method: str, count: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = _orders(method, (count,))
    return found


def _orders(method: str, shape: tuple[int, ...]) -> Argument:
    """Put indices along the last axis in random order, by a uniform draw for each but one (Fisher and Yates)."""
    *rows, count = shape
    if math.prod(shape) > MAX_PERMUTED:
        raise refuse(method, f"for more than {MAX_PERMUTED} elements")
    u = np.minimum(units(method, (*rows, count - 1)), LARGEST).reshape(-1, count - 1)
    others = np.floor(u * np.arange(count, 1, -1)).astype(np.int64).tolist()
    orders = []
    for row in others:
        order = list(range(count))
        for last, other in zip(range(count - 1, 0, -1), row, strict=True):
            order[last], order[other] = order[other], order[last]
        orders.append(order)
    return np.array(orders, np.int64).reshape(shape)


CHOICES = {
    "integers": integers,
    "bytes": bytes_,
    "choice": choice,
    "shuffle": shuffle,
    "permutation": permutation,
    "permuted": permuted,
}
"""Of `Generator`."""
LEGACY_CHOICES = {
    "randint": randint,
    "random_integers": random_integers,
    "tomaxint": tomaxint,
    "bytes": bytes_,
    "choice": legacy_choice,
    "shuffle": legacy_shuffle,
    "permutation": legacy_permutation,
}
"""Of `RandomState`."""
