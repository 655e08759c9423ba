"""Columns of the draws in one or more stores, in the order of chains and draws."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError, UnknownAddressError
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch
from tracestore.traces.layout import Layout, SiteKind

__all__ = ["CHAIN_ENGINES", "DrawTable", "Present", "common_engine"]

CHAIN_ENGINES = ("rmh", "lmh")
"""Engines whose draws are states of Markov chains, without weights."""

_MAX_LAYOUTS = 4096
"""Layouts, the most frequent first, in which names are looked for."""


class Present(NamedTuple):
    """One variable in the draws that have it."""

    values: NDArray[np.float64]
    """Shape ``(M, *shape)``."""
    rows: NDArray[np.int64]
    """Shape ``(M,)``, increasing: rows of the table."""


class DrawTable:
    """Draws of several stores as one table; row i is the same draw in every column.

    Parameters
    ----------
    stores
        Outputs of engines for the same simulator and observation.
    has_chains
        Whether the draws are those of Markov chains. Chains of further stores are numbered on; independent draws count
        as one chain per store.
    """

    def __init__(self, stores: Sequence[TraceStore], *, has_chains: bool) -> None:
        self.stores = tuple(stores)
        self.sizes = [len(store) for store in self.stores]
        self.starts = np.cumsum([0, *self.sizes])
        self.first_chain = [0]
        chains = []
        for place, store in enumerate(self.stores):
            own = store.column("chain").astype(np.int64) if has_chains else np.zeros(len(store), np.int64)
            chains.append(own + self.first_chain[place])
            self.first_chain.append(self.first_chain[place] + int(own.max(initial=-1)) + 1)
        chain = np.concatenate(chains)
        draw = np.concatenate([store.column("draw") for store in self.stores])
        self.order: NDArray[np.int64] = np.lexsort((draw, chain))
        self.chain: NDArray[np.int64] = chain[self.order]
        self.draw: NDArray[np.int64] = draw[self.order].astype(np.int64)

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of draws, then of tags, as they come in the traces."""
        draws: dict[str, None] = {}
        tags: dict[str, None] = {}
        for store in self.stores:
            for site in (site for layout in _frequent_layouts(store) for site in layout.sites):
                if site.name and site.kind is not SiteKind.OBSERVE:
                    (draws if site.kind is SiteKind.SAMPLE else tags).setdefault(site.name)
        return tuple(draws | tags)

    def column(self, name: str) -> NDArray[np.generic]:
        """Return a column with one number per draw, shape ``(rows,)``."""
        joined: NDArray[np.generic] = np.concatenate([store.column(name) for store in self.stores])
        return joined[self.order]

    def present(self, name: str) -> Present:
        """Read one variable.

        Raises
        ------
        UnknownAddressError
            When no draw has it.
        InvalidInputError
            When it has different shapes in different stores.
        """
        values, indices = [], []
        for start, store in zip(self.starts, self.stores, strict=False):
            try:
                found, where = store.values(name)
            except UnknownAddressError:
                continue
            values.append(found.astype(np.float64, copy=False))
            indices.append(where + start)
        if not values:
            message = f"No draw has {name!r}; the names are: {', '.join(self.names) or 'none'}. Addresses work, too."
            raise UnknownAddressError(message, name=name)
        if len({part.shape[1:] for part in values}) > 1:
            message = f"{name!r} has different shapes in different stores: {[part.shape[1:] for part in values]}."
            raise InvalidInputError(message, name=name)
        rows = self._rows[np.concatenate(indices)]
        by_row = np.argsort(rows, kind="stable")
        return Present(np.concatenate(values)[by_row], rows[by_row])

    def take(self, rows: NDArray[np.int64]) -> TraceBatch:
        """Read whole traces, in the order asked for."""
        wanted = self.order[rows]
        home = np.searchsorted(self.starts, wanted, side="right") - 1
        parts = [
            store.take(wanted[home == place] - self.starts[place])
            for place, store in enumerate(self.stores)
            if (home == place).any()
        ]
        by_home = np.argsort(home, kind="stable")
        back = np.empty(len(rows), np.int64)
        back[by_home] = np.arange(len(rows))
        return TraceBatch.concatenate(parts).take(back)

    @cached_property
    def _rows(self) -> NDArray[np.int64]:
        """Row of each draw, by its index over all stores."""
        rows = np.empty(len(self.order), np.int64)
        rows[self.order] = np.arange(len(self.order))
        return rows


def common_engine(stores: Sequence[TraceStore]) -> str:
    """Return the engine that wrote the stores; several names joined by ``+``.

    Parameters
    ----------
    stores
        Outputs of engines.

    Raises
    ------
    InvalidInputError
        When a store is not an engine's output, or the stores do not belong together.
    """
    fields = []
    for store in stores:
        if store.job is None or "engine" not in store.job.fields:
            verb = store.job.verb if store.job else "no job"
            message = (
                f"The store {store.storage.url} is not the output of an inference engine; it was written by {verb!r}."
            )
            raise InvalidInputError(message, path=store.storage.url)
        fields.append(store.job.fields)
    for name in ("simulator", "fingerprint", "observation"):
        found = [field.get(name) for field in fields]
        if len(set(found)) > 1:
            message = f"These posteriors do not belong together: their jobs differ in {name!r}: {found}."
            raise InvalidInputError(message, field=name, found=tuple(found))
    engines = [str(field["engine"]) for field in fields]
    if len({engine in CHAIN_ENGINES for engine in engines}) > 1 or ("prior" in engines and set(engines) != {"prior"}):
        message = f"Draws of the engines {engines} cannot be joined: their weights mean different things. Compare them."
        raise InvalidInputError(message, engines=tuple(engines))
    return "+".join(dict.fromkeys(engines))


def _frequent_layouts(store: TraceStore) -> list[Layout]:
    runs = store.runs
    ids, first, inverse = np.unique(runs.layout, return_index=True, return_inverse=True)
    counts = np.bincount(inverse, weights=runs.num_traces, minlength=len(ids))
    chosen = np.argsort(-counts, kind="stable")[:_MAX_LAYOUTS]
    return [store.layouts[int(runs.layout[place])] for place in np.sort(first[chosen])]
