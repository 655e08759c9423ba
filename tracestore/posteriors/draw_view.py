"""What a posterior looks at: some rows of a table of draws, with weights. Views of views copy no traces.

Knows how rows and weights may be changed and what that does to the evidence; computes no posterior quantity.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.diagnostics.weights import Estimate, log_evidence
from tracestore.errors import DegenerateWeightsError, InvalidInputError
from tracestore.formats.document import JSON
from tracestore.posteriors.draw_table import DrawTable, Rows
from tracestore.posteriors.origin import common_engine, engine_fields, is_markov
from tracestore.store.trace_store import TraceStore
from tracestore.traces.trace import Trace

__all__ = ["Condition", "DrawView", "TraceFunction", "condition", "reweight", "thin", "view_of", "without_first"]

Column = NDArray[np.float64]
Criterion = float | Sequence[float | None] | NDArray[np.generic] | Callable[[NDArray[np.float64]], NDArray[np.generic]]
Condition = Callable[[Trace], object] | Mapping[str, Criterion]
"""What draws must meet: a function of a trace, or a value, a range or a function of values by name."""
TraceFunction = Callable[[Trace], ArrayLike]
"""Function of a trace that returns a number."""
Returned = TypeVar("Returned")


@dataclass(frozen=True, kw_only=True)
class DrawView:
    """Rows of a table with weights.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.toys import gum
    >>> store = ts.inference.importance(gum, {"obs0": 8.0, "obs1": 9.0}, "viewed", num_draws=100, seed=1).store
    >>> len(thin(view_of([store]), 10).log_weights)
    10
    """

    table: DrawTable
    engine: str
    """Engine that made the draws; several joined by ``+``."""
    own_log_weights: Column | None = None
    """Log weights that take the place of those in the stores, shape ``(rows,)``."""
    is_reweighted: bool = False
    """Whether states of Markov chains have weights."""
    num_proposed: float
    """Draws that the evidence is a mean over; those that a condition left out are among them."""
    reobserved: Mapping[str, NDArray[np.generic] | None] = field(default_factory=dict)
    """Observed values that took the place of others, by name; None where only the likelihood changed."""
    steps: tuple[Mapping[str, JSON], ...] = ()
    """What was done to the stores' draws, in order."""

    @property
    def has_chains(self) -> bool:
        """Whether the draws are states of Markov chains."""
        return is_markov(self.engine)

    @cached_property
    def log_weights(self) -> Column:
        """Unnormalized log weights, shape ``(rows,)``."""
        if self.own_log_weights is not None:
            return self.own_log_weights
        return self.table.column("log_weight").astype(np.float64, copy=False)

    @cached_property
    def evidence(self) -> Estimate:
        """Log of the mean weight over all draws that were proposed, with its standard error."""
        kept = log_evidence(self.log_weights)
        share = len(self.log_weights) / self.num_proposed
        # relative variance of the mean weight: sum(w^2)/sum(w)^2 - 1/n, with the n of the draws that were proposed
        variance = kept.standard_error**2 + 1.0 / len(self.log_weights) - 1.0 / self.num_proposed
        return Estimate(
            kept.value + math.log(share), math.sqrt(max(variance, 0.0)) if kept.value > -math.inf else math.nan
        )

    def select(self, rows: Rows, *, num_proposed: float, step: Mapping[str, JSON]) -> "DrawView":
        """View some rows.

        Parameters
        ----------
        rows
            A range, or increasing numbers of rows.
        num_proposed
            Draws that the evidence of the view is a mean over.
        step
            What is done, for the record.
        """
        own = None if self.own_log_weights is None else self.own_log_weights[rows]
        table = self.table.select(rows)
        return replace(
            self, table=table, own_log_weights=own, num_proposed=num_proposed, steps=(*self.steps, dict(step))
        )

    def map(self, function: TraceFunction, *, absent: float) -> Column:
        """Call a function with each trace that has weight, a part of the store at a time.

        Parameters
        ----------
        function
            Of a trace.
        absent
            What stands for traces without weight, which are not looked at.

        Returns
        -------
        ndarray of float64
            Shape ``(rows,)``.
        """
        found = np.full(len(self.table), absent)
        for rows, batch in self.table.batches():
            for place, row in enumerate(rows.tolist()):
                if self.log_weights[row] > -math.inf:
                    found[row] = np.asarray(call(function, batch[place]), np.float64)
        return found


def call(function: Callable[[Trace], Returned], trace: Trace) -> Returned:
    """Call a user's function with a trace; what it raises tells which trace it was.

    Parameters
    ----------
    function
        Of a trace.
    trace
        The trace.

    Examples
    --------
    >>> call(lambda trace: 3, None)  # any trace
    3
    """
    try:
        return function(trace)
    except Exception as error:
        error.add_note(f"in a function of a trace, for draw {trace.draw} of chain {trace.chain}")
        raise


def view_of(stores: Sequence[TraceStore]) -> DrawView:
    """View all draws of stores for one observation.

    Parameters
    ----------
    stores
        Outputs of engines.

    Raises
    ------
    InvalidInputError
        When a store is not an engine's output, or the stores do not belong together.
    """
    engine = common_engine(stores)
    table = DrawTable(stores, has_chains=is_markov(engine))
    fields = [engine_fields(store) for store in stores]
    saved = [float(found.get("num_proposed", len(store))) for found, store in zip(fields, stores, strict=True)]
    return DrawView(
        table=table,
        engine=engine,
        is_reweighted=any(found.get("reweighted") for found in fields),
        num_proposed=math.fsum(saved),
        steps=tuple(dict(step) for found in fields for step in found.get("steps", ())),
    )


def thin(view: DrawView, every: int) -> DrawView:
    """Keep every n-th draw of each chain, the first one included.

    Parameters
    ----------
    view
        The draws.
    every
        Keep one in so many.

    Raises
    ------
    InvalidInputError
        When `every` is not positive.
    """
    if every < 1:
        message = f"`every` must be at least 1; got {every}."
        raise InvalidInputError(message, argument="every")
    rows = np.flatnonzero(_place_in_chain(view.table.chain) % every == 0)
    share = len(rows) / max(len(view.table), 1)
    return view.select(rows, num_proposed=view.num_proposed * share, step={"thin": every})


def without_first(view: DrawView, num_draws: int) -> DrawView:
    """Leave out the first draws of each chain.

    Parameters
    ----------
    view
        Draws of Markov chains.
    num_draws
        Draws to leave out of each chain.

    Raises
    ------
    InvalidInputError
        When nothing would be left of a chain, or the number is negative.
    """
    chain = view.table.chain
    shortest = int(np.unique(chain, return_counts=True)[1].min())
    if not 0 <= num_draws < shortest:
        message = (
            f"`num_draws` must be from 0 to {shortest - 1}, so that something of each chain is left; got {num_draws}."
        )
        raise InvalidInputError(message, argument="num_draws")
    rows = np.flatnonzero(_place_in_chain(chain) >= num_draws)
    return view.select(rows, num_proposed=len(rows), step={"discard": num_draws})


def condition(view: DrawView, wanted: Condition) -> DrawView:
    """Keep the draws that meet a condition.

    Parameters
    ----------
    view
        The draws.
    wanted
        The condition.

    Raises
    ------
    DegenerateWeightsError
        When no draw with weight meets it.
    UnknownAddressError
        When no draw has a name.
    InvalidInputError
        When a range does not fit the variable.
    """
    if callable(wanted):
        keep = view.map(lambda trace: bool(wanted(trace)), absent=0.0) > 0.0
        step: Mapping[str, JSON] = {"condition": getattr(wanted, "__qualname__", "function")}
    else:
        keep = np.ones(len(view.table), np.bool_)
        for name, criterion in wanted.items():
            values, rows = view.table.present(name)
            met = np.zeros(len(keep), np.bool_)
            met[rows] = _meets(name, values, criterion)
            keep &= met
        step = {"condition": {name: _described(criterion) for name, criterion in wanted.items()}}
    rows = np.flatnonzero(keep)
    if not (view.log_weights[rows] > -math.inf).any():
        message = (
            f"None of the {len(view.table)} draws that have weight meets the condition; it is rare or impossible under"
            " this posterior: widen it, or infer with it as an observation."
        )
        raise DegenerateWeightsError(message, num_draws=len(view.table))
    return view.select(rows, num_proposed=view.num_proposed, step=step)


def reweight(view: DrawView, log_factor: ArrayLike | TraceFunction) -> DrawView:
    """Multiply the weight of each draw.

    Parameters
    ----------
    view
        The draws.
    log_factor
        Logarithms of the factors, shape ``(draws,)``, or a function that returns that of a trace.

    Raises
    ------
    InvalidInputError
        When a factor is NaN or infinitely large, or their number is wrong.
    """
    is_function = callable(log_factor)
    factors = view.map(log_factor, absent=0.0) if callable(log_factor) else np.asarray(log_factor, np.float64)
    if factors.shape != (len(view.table),):
        message = (
            f"`log_factor` must have one number for each of the {len(view.table)} draws; got shape {factors.shape}."
        )
        raise InvalidInputError(message, argument="log_factor")
    bad = np.isnan(factors) | (factors == math.inf)
    if bad.any():
        message = (
            f"`log_factor` must be finite or -inf; {int(bad.sum())} of its numbers are NaN or +inf, the first for draw"
            f" {int(np.argmax(bad))}."
        )
        raise InvalidInputError(message, argument="log_factor")
    step = {"reweight": getattr(log_factor, "__qualname__", "function") if is_function else "array"}
    return weighted(view, view.log_weights + factors, step)


def weighted(view: DrawView, log_weights: Column, step: Mapping[str, JSON]) -> DrawView:
    """Give draws other weights.

    Parameters
    ----------
    view
        The draws.
    log_weights
        Shape ``(draws,)``.
    step
        What is done, for the record.
    """
    return replace(view, own_log_weights=log_weights, is_reweighted=view.has_chains, steps=(*view.steps, dict(step)))


def _place_in_chain(chain: NDArray[np.int64]) -> NDArray[np.int64]:
    starts = np.flatnonzero(np.diff(chain, prepend=-1))
    sizes = np.diff(starts, append=len(chain))
    return np.arange(len(chain)) - np.repeat(starts, sizes)


def _meets(name: str, values: Column, criterion: Criterion) -> NDArray[np.bool_]:
    if callable(criterion):
        met = np.asarray(criterion(values))
        if met.shape != (len(values),) or met.dtype != np.bool_:
            message = (
                f"The function for {name!r} must return one True or False for each of {len(values)} draws; got"
                f" {met.dtype} of shape {met.shape}."
            )
            raise InvalidInputError(message, name=name)
        return met.astype(np.bool_)
    shape = values.shape[1:]
    if isinstance(criterion, tuple):
        if len(criterion) != 2 or shape:
            message = (
                f"A tuple stands for a range (low, high) of a scalar; got {criterion!r} for {name!r} of shape {shape}."
                " Give values of arrays as lists or arrays."
            )
            raise InvalidInputError(message, name=name)
        low, high = (
            end if end is not None else bound for end, bound in zip(criterion, (-math.inf, math.inf), strict=True)
        )
        within: NDArray[np.bool_] = (values >= low) & (values <= high)
        return within
    target = np.asarray(criterion, np.float64)
    if target.shape != shape:
        message = f"{name!r} has shape {shape}; the value to condition on has shape {target.shape}."
        raise InvalidInputError(message, name=name)
    same: NDArray[np.bool_] = (values == target).reshape(len(values), -1).all(axis=1)
    return same


def _described(criterion: Criterion) -> JSON:
    """Criterion as the record of a job keeps it."""
    return getattr(criterion, "__qualname__", "function") if callable(criterion) else repr(criterion)
