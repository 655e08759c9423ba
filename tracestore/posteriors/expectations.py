"""Expectations of functions of whole traces, or of several variables, with their Monte-Carlo errors."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.posteriors.draw_view import DrawView, call
from tracestore.posteriors.joint_table import JointTable
from tracestore.posteriors.variable import Draws, Number, Variable
from tracestore.traces.trace import Trace

__all__ = ["Expectation", "expectation_of_columns", "expectation_over_traces"]

Column = NDArray[np.float64]

_MOST_KEPT = 2**27
"""Numbers that are kept of the traces of chains: a gigabyte."""


class Expectation(NamedTuple):
    """A posterior expectation with its Monte-Carlo standard error, of one shape."""

    value: Number
    mcse: Number


def expectation_over_traces(view: DrawView, weights: Column, function: Callable[[Trace], ArrayLike]) -> Expectation:
    """Average a function of a trace over all draws that have weight.

    Traces are read a part of the store at a time. Of independent draws only sums are kept; chains, whose draws depend
    on each other, need what the function returned for each draw.

    Parameters
    ----------
    view
        The draws.
    weights
        Normalized weights, shape ``(draws,)``.
    function
        Returns a number or an array, of the same shape for every trace.

    Raises
    ------
    InvalidInputError
        When the function returns other shapes, no numbers, or too many of them to keep.
    """
    if view.has_chains:
        return _over_chains(view, weights, function)
    sums = _Sums()
    for rows, batch in view.table.batches():
        for place, row in enumerate(rows.tolist()):
            if weights[row] > 0.0:
                sums.add(float(weights[row]), _called(function, batch[place]))
    return sums.finish()


def expectation_of_columns(view: DrawView, table: JointTable, function: Callable[..., ArrayLike]) -> Expectation:
    """Average a function of variables over the draws that have all of them.

    Parameters
    ----------
    view
        The draws.
    table
        The variables.
    function
        Gets one array a variable, shape ``(M, *shape)``, in the order of the names; returns shape ``(M, *any)``.

    Raises
    ------
    InvalidInputError
        When the function does not return one row a draw.
    """
    returned = np.asarray(function(*table.columns.values()), np.float64)
    if returned.ndim == 0 or len(returned) != len(table):
        message = (
            f"The function of {', '.join(map(repr, table.columns))} must return one row for each of {len(table)} draws;"
            f" got shape {returned.shape}."
        )
        raise InvalidInputError(message, argument="function")
    draws = Draws(returned, table.weights, table.chain, table.draw)
    return _of(Variable("the function", draws, has_chains=view.has_chains, is_reweighted=view.is_reweighted))


def _of(variable: Variable) -> Expectation:
    return Expectation(variable.mean(), variable.mcse())


def _over_chains(view: DrawView, weights: Column, function: Callable[[Trace], ArrayLike]) -> Expectation:
    kept: Column | None = None
    for rows, batch in view.table.batches():
        for place, row in enumerate(rows.tolist()):
            if weights[row] <= 0.0:
                continue
            found = _called(function, batch[place])
            if kept is None:
                kept = _room(len(view.table), found.shape)
            _require_shape(kept.shape[1:], found.shape)
            kept[row] = found
    assert kept is not None  # weights that sum to one are not all zero
    draws = Draws(kept, weights, view.table.chain, view.table.draw)
    return _of(Variable("the function", draws, has_chains=True, is_reweighted=view.is_reweighted))


def _room(num_draws: int, shape: tuple[int, ...]) -> Column:
    if num_draws * math.prod(shape) > _MOST_KEPT:
        message = (
            f"Errors of chains need all that the function returns: {num_draws} draws of shape {shape} are too many to"
            " keep. Return fewer numbers, or `thin` the chains first."
        )
        raise InvalidInputError(message, argument="function")
    return np.zeros((num_draws, *shape))


def _called(function: Callable[[Trace], ArrayLike], trace: Trace) -> Column:
    found: Column = np.asarray(call(function, trace), np.float64)
    return found


def _require_shape(expected: Sequence[int], found: Sequence[int]) -> None:
    if tuple(expected) != tuple(found):
        message = f"The function must return one shape for all traces; got {tuple(expected)} and {tuple(found)}."
        raise InvalidInputError(message, argument="function")


class _Sums:
    """Sums over independent draws, around the first value, so that they lose few digits."""

    def __init__(self) -> None:
        self.origin: Column | None = None

    def add(self, weight: float, found: Column) -> None:
        """Add one draw."""
        if self.origin is None:
            self.origin = found
            self.weight = self.square_weight = 0.0
            self.first, self.linear, self.square = (np.zeros(found.shape) for _ in range(3))
        _require_shape(self.origin.shape, found.shape)
        deviation = found - self.origin
        self.weight += weight
        self.square_weight += weight**2
        self.first = self.first + weight * deviation
        self.linear = self.linear + weight**2 * deviation
        self.square = self.square + weight**2 * deviation**2

    def finish(self) -> Expectation:
        """Return the mean and its error by the delta method."""
        assert self.origin is not None  # weights that sum to one are not all zero
        mean = self.first / self.weight
        variance = self.square - 2.0 * mean * self.linear + mean**2 * self.square_weight
        error = np.sqrt(np.maximum(variance, 0.0)) / self.weight
        value = self.origin + mean
        return Expectation(_plain(value), _plain(error))


def _plain(array: Column) -> Number:
    return float(array) if array.ndim == 0 else array
