"""Events that follow the cross-section: independent pairs of ``x`` and ``Q2`` within the region of the measurement.

Draws are exact: candidates come from a step function over cells that lies above the density everywhere.
"""

import importlib
import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.simulators import cross_section_formulas as formulas
from tracestore.simulators.cross_section_kernels import cross_section_kernels
from tracestore.traces.distributions import Distribution
from tracestore.traces.distributions.base import plain_array
from tracestore.traces.distributions.rowwise import RowwiseDistribution

__all__ = ["CollisionEventRows", "CollisionEvents", "total_cross_section"]

Array = NDArray[np.float64]

_NUM_PARAMETERS = len(formulas.PARAMETERS)
_CELLS = (96, 24)
_TENSORS = "tracestore.simulators.cross_section_tensors"


class CollisionEvents(Distribution):
    """A number of events of one cross-section, shape ``(num_events, 2)``: columns ``x`` and ``Q2`` in GeV^2.

    Parameters
    ----------
    parameters
        Positive, in the order of `cross_section_formulas.PARAMETERS`, shape ``(6,)``.
    num_events
        Events of a draw.

    Raises
    ------
    InvalidInputError
        When the parameters are not six positive finite numbers, or ``num_events`` is not positive.

    Examples
    --------
    >>> events = CollisionEvents([0.7, 3.5, 4.5, 0.4, 0.15, 0.6], 1000)
    >>> drawn = events.sample(np.random.default_rng(1))
    >>> drawn.shape, bool(events.log_prob(drawn) > events.log_prob(drawn[:, :1] * 0.0 + [[0.7, 900.0]]))
    ((1000, 2), True)
    """

    __slots__ = ("_num_events", "_numbers")

    family = "CollisionEvents"
    is_discrete = False
    support = (formulas.X_RANGE[0], formulas.Q2_RANGE[1])

    def __init__(self, parameters: ArrayLike, num_events: int) -> None:
        self._numbers = _read_parameters(parameters, 1)
        self._num_events = _read_number(num_events)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one draw."""
        return (self._num_events, 2)

    @property
    def num_parameters(self) -> int:
        """Length of `parameters`."""
        return _NUM_PARAMETERS

    @property
    def mean(self) -> Array:
        """Expected ``x`` and ``Q2``, the same for each event."""
        return np.array(np.broadcast_to(self._moments()[0], self.shape))

    @property
    def variance(self) -> Array:
        """Variances of ``x`` and ``Q2``, the same for each event."""
        first, second = self._moments()
        return np.array(np.broadcast_to(second - first**2, self.shape))

    def sample(self, rng: np.random.Generator) -> Array:
        """Draw all events."""
        return _draw_events(self._numbers, self._num_events, rng)

    def log_prob(self, value: float | ArrayLike) -> float:
        """Sum of the log densities of the events."""
        return float(_log_probs(self._numbers[None], _read_events(value, self.shape)[None])[0])

    def parameters(self) -> Array:
        """Return the parameters of the cross-section."""
        return self._numbers

    def arguments(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""
        return {"parameters": self._numbers, "num_events": self._num_events}

    def _moments(self) -> tuple[Array, Array]:
        points, weights = formulas.quadrature()
        shares = formulas.cross_section(self._numbers[None], points)[0] * weights
        shares /= shares.sum()
        return shares @ points, shares @ points**2


class CollisionEventRows(RowwiseDistribution):
    """Events of many cross-sections, one a trace of a batch, shape ``(num_rows, num_events, 2)``.

    Parameters
    ----------
    parameters
        Shape ``(num_rows, 6)``; a tensor keeps its gradient for `tensor_log_prob`.
    num_events
        Events of a draw.

    Raises
    ------
    InvalidInputError
        As in `CollisionEvents`.

    Examples
    --------
    >>> rows = CollisionEventRows([[0.7, 3.5, 4.5, 0.4, 0.15, 0.6]] * 3, 100)
    >>> rows.sample_rows(3, np.random.default_rng(1)).shape, rows.first_row().suffix
    ((3, 100, 2), 'CollisionEvents[100,2]')
    """

    __slots__ = ("_given", "_num_events", "_numbers")

    family = "CollisionEvents"
    is_discrete = False
    support = CollisionEvents.support

    def __init__(self, parameters: Any, num_events: int) -> None:  # noqa: ANN401
        self._given = parameters
        self._numbers = _read_parameters(parameters, 2)
        self._num_events = _read_number(num_events)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the draws of all rows."""
        return (len(self._numbers), self._num_events, 2)

    @property
    def mean(self) -> Array:
        """Expected values of each row's events."""
        return np.stack([row.mean for row in self._rows()])

    @property
    def variance(self) -> Array:
        """Variances of each row's events."""
        return np.stack([row.variance for row in self._rows()])

    def sample(self, rng: np.random.Generator) -> Array:
        """Draw the events of all rows."""
        return self.sample_rows(len(self._numbers), rng)

    def log_prob(self, value: float | ArrayLike) -> float:
        """Sum over rows of the log probabilities."""
        return float(self.log_prob_rows(_read_events(value, self.shape)).sum())

    def parameters(self) -> Array:
        """Return the parameters of all rows, flat."""
        return self._numbers.ravel()

    def arguments(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""
        return {"parameters": self._numbers, "num_events": self._num_events}

    def first_row(self) -> CollisionEvents:
        """Return the distribution of the first row."""
        return CollisionEvents(self._numbers[0], self._num_events)

    def parameter_rows(self) -> Array:
        """Return the parameters, one row a trace."""
        return self._numbers

    def sample_rows(self, num_rows: int, rng: np.random.Generator) -> Array:
        """Draw the events of each row, in order."""
        rows = self._numbers if len(self._numbers) == num_rows else np.repeat(self._numbers, num_rows, 0)
        return np.stack([_draw_events(row, self._num_events, rng) for row in rows])

    def log_prob_rows(self, values: NDArray[np.generic]) -> Array:
        """Score the events of each row; events that rows share are read once for all of them."""
        events = np.asarray(values, np.float64)
        numbers = self._numbers
        return _log_probs(numbers if len(numbers) == len(events) else np.repeat(numbers, len(events), 0), events)

    def tensor_log_prob(self, values: Any) -> Any:  # noqa: ANN401
        """Return what `log_prob_rows` does as a tensor, with gradients by the parameters.

        Parameters
        ----------
        values
            Tensor of shape ``(num_rows, num_events, 2)``.
        """
        tensors = importlib.import_module(_TENSORS)
        given = self._given if hasattr(self._given, "detach") else values.new_tensor(self._numbers)
        return tensors.tensor_events_log_prob(given.expand(len(values), _NUM_PARAMETERS), values)

    def _rows(self) -> list[CollisionEvents]:
        return [CollisionEvents(row, self._num_events) for row in self._numbers]


def total_cross_section(parameters: Any) -> Any:  # noqa: ANN401
    """Return the integral of the cross-section over the region of the measurement.

    Parameters
    ----------
    parameters
        Array or tensor of shape ``(num_rows, 6)``.

    Returns
    -------
    ndarray or Tensor of float64
        In pb, shape ``(num_rows,)``; a tensor for a tensor, with gradients.

    Examples
    --------
    >>> total_cross_section(np.array([[0.7, 3.5, 4.5, 0.4, 0.15, 0.6]])).round(1)
    array([152975.9])
    """
    if hasattr(parameters, "detach"):
        return importlib.import_module(_TENSORS).tensor_total(parameters)
    return cross_section_kernels().total(parameters)


def _log_probs(parameters: Array, events: Array) -> Array:
    """Score each row's events, shape ``(num_rows, num_events, 2)``; rows share them where the first stride is zero."""
    kernels = cross_section_kernels()
    if events.strides[0] == 0 or len(events) == 1:
        sums = kernels.sum_of_logs(parameters, np.ascontiguousarray(events[0]))
    else:
        pairs = zip(parameters, events, strict=True)
        sums = np.array([kernels.sum_of_logs(row, np.ascontiguousarray(each)) for row, each in pairs])
    return np.asarray(sums - events.shape[1] * np.log(kernels.total(parameters)), np.float64)


def _read_events(value: float | ArrayLike, shape: tuple[int, ...]) -> Array:
    events = np.asarray(value)
    if events.shape != shape or events.dtype.kind not in "biuf":
        message = f"The value must be an array of numbers of shape {shape}; got {events.dtype} {events.shape}."
        raise InvalidInputError(message)
    return np.asarray(events, np.float64)


def _read_parameters(parameters: object, ndim: int) -> Array:
    numbers = np.array(plain_array(parameters), np.float64)
    if numbers.ndim != ndim or numbers.shape[-1] != _NUM_PARAMETERS or not len(numbers):
        rows = "(num_rows, 6)" if ndim == 2 else "(6,)"
        message = f"`parameters` of a cross-section must have shape {rows}; got {numbers.shape}."
        raise InvalidInputError(message, argument="parameters", found=numbers.shape)
    wrong = np.argwhere(~((numbers > 0.0) & (numbers < math.inf)).reshape(-1, _NUM_PARAMETERS))
    if len(wrong):
        row, column = wrong[0].tolist()
        found = numbers.reshape(-1, _NUM_PARAMETERS)[row, column]
        name = formulas.PARAMETERS[column]
        message = f"The parameters of a cross-section must be positive and finite; {name!r} is {found}."
        raise InvalidInputError(message, argument=name, found=float(found))
    numbers.setflags(write=False)
    return numbers


def _read_number(num_events: int) -> int:
    if num_events < 1:
        message = f"`num_events` must be at least 1; got {num_events}."
        raise InvalidInputError(message, argument="num_events", found=num_events)
    return int(num_events)


def _draw_events(parameters: Array, num_events: int, rng: np.random.Generator) -> Array:
    """Draw events by rejection from a step function that lies above the density in log x and log Q2."""
    low, width = _cells()
    bounds = _upper_bounds(parameters, low, width)
    cumulative = np.cumsum(bounds)
    events = np.empty((num_events, 2))
    count = 0
    while count < num_events:
        number = int(1.1 * (num_events - count)) + 16
        cell = np.searchsorted(cumulative, rng.random(number) * cumulative[-1], side="right")
        points = np.exp(low[cell] + width * rng.random((number, 2)))
        np.clip(points[:, 0], *formulas.X_RANGE, out=points[:, 0])  # exp(log(x)) may miss x by its last bit
        np.clip(points[:, 1], *formulas.Q2_RANGE, out=points[:, 1])
        density = formulas.cross_section(parameters[None], points)[0] * points[:, 0] * points[:, 1]
        kept = points[rng.random(number) * bounds[cell] < density][: num_events - count]
        events[count : count + len(kept)] = kept
        count += len(kept)
    return events


@lru_cache(maxsize=1)
def _cells() -> tuple[Array, Array]:
    """Lower corners of the cells in log x and log Q2, and the size of each cell."""
    edges = [
        np.linspace(math.log(low), math.log(high), number + 1)
        for number, (low, high) in zip(_CELLS, (formulas.X_RANGE, formulas.Q2_RANGE), strict=True)
    ]
    corners = np.stack(np.meshgrid(edges[0][:-1], edges[1][:-1], indexing="ij"), -1).reshape(-1, 2)
    return corners, np.array([edge[1] - edge[0] for edge in edges])


def _upper_bounds(parameters: Array, low: Array, width: Array) -> Array:
    """Bound the density in log x and log Q2 in each cell, factor by factor, each at the corner where it is highest."""
    x, q2 = np.exp(low).T
    highest_x, highest_q2 = np.exp(low + width).T
    structure = formulas.highest_structure(parameters, x, highest_x, q2, highest_q2)
    rest = 1.0 - q2 / (formulas.SQUARED_ENERGY * highest_x)
    return np.asarray((1.0 + 1e-9) * formulas.COUPLING * (1.0 + rest * rest) / q2 * structure, np.float64)
