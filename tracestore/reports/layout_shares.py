"""How often traces took each path: one layout stands for all its traces. Reads stores by their run directories only."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.posteriors.posterior import Posterior
from tracestore.store.trace_store import TraceStore
from tracestore.traces.layout import Layout

__all__ = ["LayoutShares", "layout_shares"]

MAX_LAYOUTS = 4096
"""Layouts that are looked at, those of the largest share first."""
MAX_SITES = 400_000
"""Sites that are looked at, over all layouts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutShares:
    """The layouts of a store or posterior with the share of the traces, or of their weight, that have each.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.toys import branching
    >>> shares = layout_shares(ts.simulate(branching, "traces", num_traces=100, seed=1))
    >>> len(shares.layouts), shares.num_layouts, round(shares.covered, 6)
    (2, 2, 1.0)
    """

    layouts: tuple[Layout, ...]
    """Those of the largest share first; at most `MAX_LAYOUTS`."""
    shares: NDArray[np.float64]
    """(L,) share of all weight that each of them has."""
    num_layouts: int
    """Layouts in all."""
    trace_types: NDArray[np.uint64]
    """(T,) all trace types."""
    type_shares: NDArray[np.float64]
    """(T,) share of all weight of each."""
    type_counts: NDArray[np.int64]
    """(T,) traces of each, weight or not."""
    num_traces: int

    @property
    def covered(self) -> float:
        """Share of the weight that `layouts` stand for; 1 when none is left out."""
        return float(self.shares.sum())


def layout_shares(source: Posterior | TraceStore, *, weighted: bool = True) -> LayoutShares:
    """Add up the weight of the traces of each layout.

    Parameters
    ----------
    source
        A posterior, or a store, in which all traces that did not fail count alike.
    weighted
        Whether the weights of a posterior count. Without them, draws of importance sampling from the prior show the
        prior.

    Raises
    ------
    InvalidInputError
        When there is no trace.
    DegenerateWeightsError
        When no draw has weight.
    """
    if isinstance(source, Posterior):
        layout, trace_type, weights, traces = _of_posterior(source, weighted=weighted)
    else:
        layout, trace_type, weights, traces = _of_store(source)
    total = float(weights.sum())
    if not total > 0:
        message = f"There is no trace that ended well in {source!r}; nothing can be told about its paths."
        raise InvalidInputError(message)
    ids, first, inverse = np.unique(layout, return_index=True, return_inverse=True)
    shares = np.bincount(inverse, weights=weights, minlength=len(ids)) / total
    types, place = np.unique(trace_type, return_inverse=True)
    type_shares = np.bincount(place, weights=weights, minlength=len(types)) / total
    order = np.lexsort((first, -shares))
    stores = source.stores if isinstance(source, Posterior) else (source,)
    layouts: list[Layout] = []
    num_sites = 0
    for row in order[:MAX_LAYOUTS]:
        if layouts and (shares[row] == 0.0 or num_sites > MAX_SITES):
            break
        home = next(store.layouts for store in stores if int(ids[row]) in store.layouts)
        layouts.append(home[int(ids[row])])
        num_sites += layouts[-1].num_sites
    return LayoutShares(
        layouts=tuple(layouts), shares=shares[order[: len(layouts)]], num_layouts=len(ids), trace_types=types,
        type_shares=type_shares, type_counts=np.bincount(place, weights=traces, minlength=len(types)).astype(np.int64),
        num_traces=int(traces.sum()),
    )  # fmt: skip


Columns = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.float64], NDArray[np.int64]]


def _of_store(store: TraceStore) -> Columns:
    """Layout, trace type, weight and number of traces of each run of a store."""
    runs = store.runs
    if not len(runs):
        return runs.layout, runs.trace_type, np.zeros(0), runs.num_traces
    has_ended = (store.column("status") == 0).astype(np.float64)
    return runs.layout, runs.trace_type, np.add.reduceat(has_ended, runs.first), runs.num_traces


def _of_posterior(posterior: Posterior, *, weighted: bool) -> Columns:
    """Layout, trace type, weight and number of traces (one) of each draw."""
    table = posterior.table
    layout = table.per_run("layout").astype(np.uint64, copy=False)
    trace_type = table.per_run("trace_type").astype(np.uint64, copy=False)
    weights = posterior.weights if weighted else (table.column("status") == 0).astype(np.float64)
    return layout, trace_type, weights, np.ones(len(layout), np.int64)
