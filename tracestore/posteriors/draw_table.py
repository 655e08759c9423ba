"""Columns of the draws in one or more stores, in the order of chains and draws; selections share what was read."""

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError, UnknownAddressError
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch
from tracestore.traces.layout import Layout, SiteKind

__all__ = ["DrawTable", "Present", "Rows"]

Rows = slice | NDArray[np.int64]
"""Rows of a table: a range, or increasing numbers."""

_MAX_LAYOUTS = 4096
"""Layouts of a store, the most frequent first, in which names are looked for."""
_READ_BYTES = 2**26
_MOST_READ = 4096
"""Traces that are read together, however small they are."""


class Present(NamedTuple):
    """One variable in the draws that have it."""

    values: NDArray[np.float64]
    """Shape ``(M, *shape)``."""
    rows: NDArray[np.int64]
    """Shape ``(M,)``, increasing: rows of the table."""


class DrawTable:
    """Draws of several stores as one table; row i is the same draw in every column.

    A table that `select` returns reads nothing twice: what one of them has read, all others have.

    Parameters
    ----------
    stores
        Outputs of engines for the same simulator.
    has_chains
        Whether the draws are told apart by their ``chain``. Chains of further stores are numbered on; otherwise the
        draws of a store count as one chain.
    """

    def __init__(self, stores: Sequence[TraceStore], *, has_chains: bool) -> None:
        self.stores = tuple(stores)
        self.starts = np.cumsum([0, *map(len, self.stores)])
        self.first_chain = [0]
        chains = []
        for place, store in enumerate(self.stores):
            own = store.column("chain").astype(np.int64) if has_chains else np.zeros(len(store), np.int64)
            chains.append(own + self.first_chain[place])
            self.first_chain.append(self.first_chain[place] + int(own.max(initial=-1)) + 1)
        chain = np.concatenate(chains)
        draw = np.concatenate([store.column("draw") for store in self.stores]).astype(np.int64)
        self._order: NDArray[np.int64] = np.lexsort((draw, chain))
        # of the whole table; selections refer to the same dictionaries
        self._columns: dict[str, NDArray[np.generic]] = {"chain": chain[self._order], "draw": draw[self._order]}
        self._variables: dict[str, Present] = {}
        self._selected: Rows = slice(0, len(self._order))

    def __len__(self) -> int:
        return _length(self._selected)

    def select(self, rows: Rows) -> "DrawTable":
        """View some rows.

        Parameters
        ----------
        rows
            A range of rows, or increasing numbers of rows.
        """
        view = copy.copy(self)
        for name in ("names", "runs"):
            view.__dict__.pop(name, None)
        view._selected = _compose(self._selected, rows)
        return view

    @property
    def chain(self) -> NDArray[np.int64]:
        """Chain of each draw, increasing, shape ``(rows,)``."""
        return self.column("chain").astype(np.int64, copy=False)

    @property
    def draw(self) -> NDArray[np.int64]:
        """Position of each draw in its chain, or in its job, shape ``(rows,)``."""
        return self.column("draw").astype(np.int64, copy=False)

    @property
    def store_rows(self) -> NDArray[np.int64]:
        """Index of each draw over all stores, one after the other, shape ``(rows,)``."""
        return self._order[self._selected]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of draws, then of tags, as they come in the traces."""
        draws: dict[str, None] = {}
        tags: dict[str, None] = {}
        for site in (site for layout in self.layouts() for site in layout.sites):
            if site.name and site.kind is not SiteKind.OBSERVE:
                (draws if site.kind is SiteKind.SAMPLE else tags).setdefault(site.name)
        return tuple(draws | tags)

    @cached_property
    def runs(self) -> NDArray[np.int64]:
        """Run of each draw, counted over all stores, shape ``(rows,)``: draws of one run have one layout."""
        if "run" not in self._columns:
            sizes = np.concatenate([store.runs.num_traces for store in self.stores])
            self._columns["run"] = np.repeat(np.arange(len(sizes)), sizes)[self._order]
        return self._columns["run"][self._selected].astype(np.int64, copy=False)

    def per_run(self, column: str) -> NDArray[np.generic]:
        """Return a fact about the layout of each draw, shape ``(rows,)``.

        Parameters
        ----------
        column
            ``layout``, ``trace_type`` or ``num_sites``.
        """
        joined: NDArray[np.generic] = np.concatenate([getattr(store.runs, column) for store in self.stores])
        return joined[self.runs]

    def layouts(self) -> Iterator[Layout]:
        """Yield the most frequent layouts of each store, in the order in which they come."""
        first = 0
        used, counts = np.unique(self.runs, return_counts=True)
        for store in self.stores:
            last = first + len(store.runs)
            here = slice(*np.searchsorted(used, [first, last]))
            ids, places, inverse = np.unique(
                store.runs.layout[used[here] - first], return_index=True, return_inverse=True
            )
            totals = np.bincount(inverse, weights=counts[here], minlength=len(ids))
            chosen = np.argsort(-totals, kind="stable")[:_MAX_LAYOUTS]
            for place in np.sort(places[chosen]):
                yield store.layouts[int(store.runs.layout[used[here][place] - first])]
            first = last

    def column(self, name: str) -> NDArray[np.generic]:
        """Return a column with one number per draw, shape ``(rows,)``.

        Parameters
        ----------
        name
            As in `TraceStore.column`; ``chain`` is numbered over all stores.
        """
        if name not in self._columns:
            joined: NDArray[np.generic] = np.concatenate([store.column(name) for store in self.stores])
            self._columns[name] = joined[self._order]
        return self._columns[name][self._selected]

    def present(self, name: str) -> Present:
        """Read one variable.

        Raises
        ------
        UnknownAddressError
            When no draw has it.
        InvalidInputError
            When it has different shapes in different stores.
        """
        values, rows = self._whole(name)
        if isinstance(self._selected, slice):
            low, high = np.searchsorted(rows, [self._selected.start, self._selected.stop])
            found = Present(values[low:high], rows[low:high] - self._selected.start)
        else:
            places = np.searchsorted(rows, self._selected)
            has = np.flatnonzero(rows[np.minimum(places, len(rows) - 1)] == self._selected)
            found = Present(values[places[has]], has)
        if not len(found.rows):
            raise self._unknown(name)
        return found

    def take(self, rows: NDArray[np.int64]) -> TraceBatch:
        """Read whole traces, in the order asked for."""
        return self._read(self.store_rows[rows])

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Traces that `batches` reads together, of each store."""
        return tuple(_traces_at_once(store) for store in self.stores)

    def batches(self) -> Iterator[tuple[NDArray[np.int64], TraceBatch]]:
        """Read all whole traces in the order of the stores, some at a time, each with the rows that they have here."""
        by_place = np.argsort(self.store_rows, kind="stable")
        bounds = np.searchsorted(self.store_rows[by_place], self.starts)
        for size, low, high in zip(self.batch_sizes, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            for first in range(low, high, size):
                rows = by_place[first : min(first + size, high)]
                yield rows, self._read(self.store_rows[rows])

    def _read(self, wanted: NDArray[np.int64]) -> TraceBatch:
        home = np.searchsorted(self.starts, wanted, side="right") - 1
        parts = [
            store.take(wanted[home == place] - self.starts[place])
            for place, store in enumerate(self.stores)
            if (home == place).any()
        ]
        if len(parts) == 1:
            return parts[0]
        by_home = np.argsort(home, kind="stable")
        back = np.empty(len(wanted), np.int64)
        back[by_home] = np.arange(len(wanted))
        return TraceBatch.concatenate(parts).take(back)

    def _whole(self, name: str) -> Present:
        """Read a variable in all draws of the stores, once."""
        if name not in self._variables:
            values, indices = [], []
            for start, store in zip(self.starts, self.stores, strict=False):
                try:
                    found, where = store.values(name)
                except UnknownAddressError:
                    continue
                values.append(found.astype(np.float64, copy=False))
                indices.append(where + start)
            if not values:
                raise self._unknown(name)
            if len({part.shape[1:] for part in values}) > 1:
                message = f"{name!r} has different shapes in different stores: {[part.shape[1:] for part in values]}."
                raise InvalidInputError(message, name=name)
            place_of = np.empty(len(self._order), np.int64)
            place_of[self._order] = np.arange(len(self._order))
            rows = place_of[np.concatenate(indices)]
            by_row = np.argsort(rows, kind="stable")
            self._variables[name] = Present(np.concatenate(values)[by_row], rows[by_row])
        return self._variables[name]

    def _unknown(self, name: str) -> UnknownAddressError:
        message = f"No draw has {name!r}; the names are: {', '.join(self.names) or 'none'}. Addresses work, too."
        return UnknownAddressError(message, name=name)


def _length(rows: Rows) -> int:
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def _compose(outer: Rows, inner: Rows) -> Rows:
    """Select rows of a selection; ranges stay ranges, so that what they select is a view."""
    if isinstance(inner, slice):
        low, high, _ = inner.indices(_length(outer))
        return slice(outer.start + low, outer.start + max(high, low)) if isinstance(outer, slice) else outer[low:high]
    return inner + outer.start if isinstance(outer, slice) else outer[inner]


def _traces_at_once(store: TraceStore) -> int:
    """Say how many traces are read together: few when they are large."""
    stored = sum(entry.nbytes for entry in store.segments) / max(len(store), 1)
    observed = 8 * sum(int(np.prod(shape)) for shape in store.observation_shapes.values())
    return max(1, min(_MOST_READ, int(_READ_BYTES / (4 * stored + observed + 1))))
