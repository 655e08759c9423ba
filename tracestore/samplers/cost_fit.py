"""Fit a cost model to measured step times, so that batches are balanced by what this machine really spends."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.samplers.policy import CostModel

__all__ = ["CostFit", "CostRecorder", "fit_costs"]

Floats = NDArray[np.float64]

_FEWEST_STEPS = 8
_ROUNDS = 30
"""Reweightings towards least absolute differences; far fewer settle it."""
_OUTLIER = 4.0
"""Distance, in robust standard deviations, beyond which a step does not count."""
_ROUNDING = 1e-9
"""Share of the longest step below which a cost is nothing but rounding."""
_SEPARABLE = 1e-3
"""Share of a column that earlier columns must leave unexplained for it to have a coefficient."""
_NAMES = ("per_step", "per_trace", "per_site", "per_observation_byte")
_COLUMNS = ("num_traces", "num_sites", "observation_bytes")


@dataclass(frozen=True, slots=True)
class CostFit:
    """What the steps cost, and how well the model explains it."""

    cost: CostModel
    """Seconds per trace, site and byte of observations."""
    per_step: float
    """Seconds that every step takes, however small."""
    r_squared: float
    """Share of the variance of step times that the model explains, outliers left out; 1 is a perfect fit."""
    residual: float
    """Root mean square difference between model and time in seconds, outliers left out."""
    num_steps: int
    """Steps measured."""
    num_outliers: int
    """Steps too far from the model to count."""
    inseparable: tuple[str, ...]
    """Coefficients that these steps cannot tell from the ones before; they are 0 here, and their cost is with those."""


def fit_costs(num_traces: ArrayLike, num_sites: ArrayLike, observation_bytes: ArrayLike, seconds: ArrayLike) -> CostFit:
    """Fit non-negative costs of a step, a trace, a site and a byte of observations to measured steps.

    The model is linear. Steps that were disturbed by something else are found by a fit of least absolute differences
    and left out of the final least squares. Non-negative least squares as by Lawson and Hanson, "Solving Least Squares
    Problems" (1974); with four coefficients all sets of positive ones are tried. A quantity that is a multiple of
    earlier ones in all steps, as bytes are of traces when all observations have one shape, has no coefficient of its
    own: its cost goes to the earlier one. Batches of one size cannot tell traces from steps; measure several sizes.

    Parameters
    ----------
    num_traces
        Traces of each step on this rank, shape ``(N,)``.
    num_sites
        Sites of all of a step's traces together, shape ``(N,)``.
    observation_bytes
        Bytes of all of a step's observations together, shape ``(N,)``.
    seconds
        Duration of each step, shape ``(N,)``.

    Raises
    ------
    InvalidInputError
        When shapes differ, a number is negative or not finite, steps are too few or all alike, or their times do not
        grow with what is in them.

    Examples
    --------
    >>> num_traces, num_sites = np.array([8, 8, 16, 16, 32, 32, 64, 64]), np.array([40, 80] * 4) * 4
    >>> fit = fit_costs(num_traces, num_sites, num_traces * 100, 0.5 + 0.25 * num_traces + 0.125 * num_sites)
    >>> round(fit.per_step, 6), round(fit.cost.per_trace, 6), round(fit.cost.per_site, 6), fit.inseparable
    (0.5, 0.25, 0.125, ('per_observation_byte',))
    """
    counts, times = _read_steps((num_traces, num_sites, observation_bytes), seconds)
    design = np.column_stack((np.ones(len(times)), *counts))
    # columns of about 1, so that what counts as dependent does not depend on units
    scale = np.maximum(design.max(axis=0), 1e-300)
    design = design / scale
    columns = _independent_columns(design)
    if columns == [0]:
        message = "All steps are alike, so costs cannot be told apart; measure batches of several sizes and lengths."
        raise InvalidInputError(message, num_steps=len(times))
    is_kept = _find_undisturbed(design, columns, times)
    scaled = _non_negative(design[is_kept], times[is_kept], columns)
    scaled[scaled < _ROUNDING * times.max()] = 0.0
    coefficients = scaled / scale
    if not coefficients[1:].any():
        message = "Step times do not grow with traces, sites or bytes; measure more steps, or larger batches."
        raise InvalidInputError(message, num_steps=len(times))
    differences = times[is_kept] - design[is_kept] @ scaled
    variance = float(np.var(times[is_kept]))
    return CostFit(
        cost=CostModel(**dict(zip(_NAMES[1:], coefficients[1:].tolist(), strict=True))),
        per_step=float(coefficients[0]),
        r_squared=1.0 - float(np.mean(differences**2)) / variance if variance > 0 else 0.0,
        residual=float(np.sqrt(np.mean(differences**2))),
        num_steps=len(times),
        num_outliers=int((~is_kept).sum()),
        inseparable=tuple(name for place, name in enumerate(_NAMES) if place not in columns),
    )


class _Layout(Protocol):
    @property
    def num_sites(self) -> int: ...


class _Numbers(Protocol):
    """An array or a tensor."""

    @property
    def nbytes(self) -> int: ...

    def tolist(self) -> list[int]: ...


class _Batch(Protocol):
    """What is read of a `TensorBatch` or `TraceBatch`."""

    @property
    def layouts(self) -> Sequence[_Layout]: ...

    @property
    def layout_index(self) -> _Numbers: ...

    @property
    def observations(self) -> Mapping[str, _Numbers]: ...

    def __len__(self) -> int: ...


class CostRecorder:
    """Collect what was in each step and how long it took.

    Leave out the first steps of a run, which are slow for reasons of their own. On a GPU, wait for it before reading
    the clock.

    Examples
    --------
    >>> from tracestore.simulators import PriorController, run_trace, toys
    >>> from tracestore.traces import TraceBatch
    >>> rng, recorder = np.random.default_rng(1), CostRecorder()
    >>> for num_traces in range(1, 11):
    ...     traces = [run_trace(toys.gum, PriorController(), rng) for _ in range(num_traces)]
    ...     recorder.record(TraceBatch.from_traces(traces), 0.5 + 0.25 * num_traces)
    >>> round(recorder.fit().cost.per_trace, 6)
    0.25
    """

    def __init__(self) -> None:
        self._steps: list[tuple[int, int, int, float]] = []

    def __len__(self) -> int:
        """Count the steps recorded."""
        return len(self._steps)

    def record(self, batch: _Batch, seconds: float) -> None:
        """Note one step.

        Parameters
        ----------
        batch
            What the step was computed from.
        seconds
            How long it took.
        """
        sites = np.array([layout.num_sites for layout in batch.layouts], np.int64)
        num_sites = int(sites[np.asarray(batch.layout_index.tolist(), np.int64)].sum())
        observed = sum(int(column.nbytes) for column in batch.observations.values())
        self._steps.append((len(batch), num_sites, observed, float(seconds)))

    def fit(self) -> CostFit:
        """Fit the costs to the steps so far; see `fit_costs`.

        Raises
        ------
        InvalidInputError
            As `fit_costs`.
        """
        num_traces, num_sites, observed, seconds = np.array(self._steps, np.float64).reshape(-1, 4).T
        return fit_costs(num_traces, num_sites, observed, seconds)


def _read_steps(columns: Sequence[ArrayLike], seconds: ArrayLike) -> tuple[list[Floats], Floats]:
    """Convert all columns and refuse those that no measurement gives."""
    named = dict(
        zip((*_COLUMNS, "seconds"), (np.asarray(each, np.float64) for each in (*columns, seconds)), strict=True)
    )
    times = named["seconds"]
    if times.ndim != 1 or len(times) < _FEWEST_STEPS:
        message = f"`seconds` must have one entry for each of at least {_FEWEST_STEPS} steps; got shape {times.shape}."
        raise InvalidInputError(message, argument="seconds", found=times.shape)
    for name, column in named.items():
        if column.shape != times.shape:
            message = f"`{name}` must have shape {times.shape}, as `seconds` has; got {column.shape}."
            raise InvalidInputError(message, argument=name, found=column.shape)
        bad = np.flatnonzero(~(np.isfinite(column) & (column >= 0)))
        if len(bad):
            message = f"`{name}` must be finite and not negative; entry {bad[0]} is {column[bad[0]]}."
            raise InvalidInputError(message, argument=name, entry=int(bad[0]))
    *counts, times = named.values()
    return counts, times


def _independent_columns(design: Floats) -> list[int]:
    """Take each column that is not a combination of those taken before."""
    taken: list[int] = []
    for place in range(design.shape[1]):
        column = design[:, place]
        rest = column
        if taken:
            rest = column - design[:, taken] @ np.linalg.lstsq(design[:, taken], column)[0]
        if np.linalg.norm(rest) > _SEPARABLE * np.linalg.norm(column):
            taken.append(place)
    return taken


def _find_undisturbed(design: Floats, columns: Collection[int], times: Floats) -> NDArray[np.bool_]:
    """Mark the steps that lie near a fit of least absolute differences."""
    smallest = 1e-6 * float(times.max()) + 1e-300
    weights = np.ones(len(times))
    distance = times
    for _ in range(_ROUNDS):
        root = np.sqrt(weights)
        fitted = _non_negative(design * root[:, None], times * root, columns)
        distance = np.abs(times - design @ fitted)
        weights = smallest / np.maximum(distance, smallest)
    # the median absolute difference of a Normal is 0.6745 standard deviations
    limit = max(_OUTLIER * float(np.median(distance)) / 0.6745, 10 * smallest)
    is_near: NDArray[np.bool_] = distance <= limit
    return is_near


def _non_negative(design: Floats, times: Floats, columns: Collection[int]) -> Floats:
    """Solve least squares with coefficients of at least 0: the best of the solutions over all sets of columns."""
    best, least = np.zeros(design.shape[1]), float(times @ times)
    for number in range(1, len(columns) + 1):
        for chosen in map(list, combinations(columns, number)):
            solution = np.linalg.lstsq(design[:, chosen], times)[0]
            if (solution < 0).any():
                continue
            difference = times - design[:, chosen] @ solution
            if difference @ difference < least:
                least = float(difference @ difference)
                best = np.zeros(design.shape[1])
                best[chosen] = solution
    return best
