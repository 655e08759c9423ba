"""Cut runs of traces into atoms, differently in every epoch; knows neither steps nor ranks.

Each run is a ring that is turned by a keyed amount and cut into pieces of ``micro`` traces, the *pure atoms*. What is
left of every ring (less than one atom) is lined up by cost and cut into *mixed atoms*; the last of these may be
incomplete. Atoms are numbered: pure ones run by run, then mixed ones along the line.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tracestore.samplers.hashing import derive_key, keyed_hash

__all__ = ["AtomCut", "RunTable"]

_TURN, _TYPE, _LEFTOVER = range(3)
"""Purposes of hashes."""


@dataclass(frozen=True, slots=True, eq=False)
class RunTable:
    """Runs of selected traces; a trace is known by its place in whatever numbering ``first`` uses.

    Examples
    --------
    >>> table = RunTable(np.array([0, 5]), np.array([5, 2]), np.array([1.0, 4.0]), np.array([7, 8], np.uint64))
    >>> table.num_traces
    7
    """

    first: NDArray[np.int64]
    """First trace of each run."""
    num_traces_of: NDArray[np.int64]
    """Traces of each run, at least 1."""
    costs: NDArray[np.float64]
    """Cost of one trace of each run."""
    trace_types: NDArray[np.uint64]
    """Trace type of each run."""
    num_traces: int = field(init=False)
    """Traces of all runs."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_traces", int(self.num_traces_of.sum()))

    @property
    def total_cost(self) -> float:
        """Cost of all traces, of which there must be one at least."""
        # added one after the other: the order in which `sum` adds differs between machines
        return float(np.cumsum(self.num_traces_of * self.costs)[-1])


class AtomCut:
    """All atoms of one epoch.

    Parameters
    ----------
    table
        The runs.
    micro
        Traces of an atom.
    key
        Key of the epoch; None cuts the runs' traces one after another in the order of the table, across runs, so that
        every atom counts as mixed.

    Examples
    --------
    >>> table = RunTable(np.array([0, 5]), np.array([5, 2]), np.array([1.0, 4.0]), np.array([7, 8], np.uint64))
    >>> cut = AtomCut(table, 4, key=None)
    >>> cut.num_atoms, cut.members(np.array([1])), cut.costs(np.array([1]))
    (2, array([4, 5, 6]), array([9.]))
    """

    def __init__(self, table: RunTable, micro: int, key: int | None) -> None:
        self.table = table
        self.micro = micro
        self.num_atoms = -(-table.num_traces // micro)
        sizes = table.num_traces_of
        self._full = np.zeros_like(sizes) if key is None else sizes // micro
        self._first_atom = np.concatenate(([0], np.cumsum(self._full)))
        self.num_pure = int(self._first_atom[-1])
        left = sizes - self._full * micro
        pieces = np.flatnonzero(left)
        if key is None:
            self._turn = np.zeros_like(sizes)
            self._type_order = table.trace_types
        else:
            spin = keyed_hash(np.arange(len(sizes)), derive_key(key, _TURN))
            self._turn = (spin % sizes.astype(np.uint64)).astype(np.int64)
            self._type_order = keyed_hash(table.trace_types, derive_key(key, _TYPE))
            by_run = keyed_hash(pieces, derive_key(key, _LEFTOVER))
            pieces = pieces[np.lexsort((by_run, self._type_order[pieces], table.costs[pieces]))]
        self._piece_run = pieces
        self._piece_start = np.concatenate(([0], np.cumsum(left[pieces])))
        self._piece_cost = np.concatenate(([0.0], np.cumsum(left[pieces] * table.costs[pieces])))

    def sizes(self, atoms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Traces of each atom: ``micro``, but for an incomplete last one.

        Parameters
        ----------
        atoms
            Numbers of atoms, shape ``(A,)``.

        Returns
        -------
        ndarray of int64
            Shape ``(A,)``.
        """
        return np.minimum(self.micro, self.table.num_traces - atoms * self.micro)

    def costs(self, atoms: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cost of each atom.

        Parameters
        ----------
        atoms
            Numbers of atoms, shape ``(A,)``.

        Returns
        -------
        ndarray of float64
            Shape ``(A,)``.
        """
        costs = np.empty(len(atoms))
        is_pure = atoms < self.num_pure
        costs[is_pure] = self.table.costs[self._run_of(atoms[is_pure])] * self.micro
        start = (atoms[~is_pure] - self.num_pure) * self.micro
        if len(start):
            stop = np.minimum(start + self.micro, self._piece_start[-1])
            costs[~is_pure] = self._line_cost(stop) - self._line_cost(start)
        return costs

    def type_order(self, atoms: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Give pure atoms of one trace type one number, and mixed atoms the highest.

        Parameters
        ----------
        atoms
            Numbers of atoms, shape ``(A,)``.

        Returns
        -------
        ndarray of uint64
            Shape ``(A,)``; another numbering in every epoch.
        """
        order = np.full(len(atoms), np.uint64(2**64 - 1))
        is_pure = atoms < self.num_pure
        order[is_pure] = self._type_order[self._run_of(atoms[is_pure])]
        return order

    def members(self, atoms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Traces of some atoms.

        Parameters
        ----------
        atoms
            Numbers of atoms, shape ``(A,)``.

        Returns
        -------
        ndarray of int64
            Traces, first those of pure atoms; fewer than ``A * micro`` when an atom is incomplete.
        """
        micro, sizes = self.micro, self.table.num_traces_of
        pure = atoms[atoms < self.num_pure]
        pure_run = self._run_of(pure)
        ring = ((pure - self._first_atom[pure_run])[:, None] * micro + np.arange(micro)).reshape(-1)
        mixed = atoms[atoms >= self.num_pure] - self.num_pure
        line = (mixed[:, None] * micro + np.arange(micro)).reshape(-1)
        line = line[line < self._piece_start[-1]]
        piece = np.searchsorted(self._piece_start, line, "right") - 1
        piece_run = self._piece_run[piece]
        run = np.concatenate((np.repeat(pure_run, micro), piece_run))
        ring = np.concatenate((ring, self._full[piece_run] * micro + line - self._piece_start[piece]))
        return np.asarray(self.table.first[run] + (ring + self._turn[run]) % sizes[run])

    def _run_of(self, pure: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._first_atom, pure, "right") - 1

    def _line_cost(self, place: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cost of the line of leftovers before each place."""
        piece = np.minimum(np.searchsorted(self._piece_start, place, "right"), len(self._piece_run)) - 1
        inside = place - self._piece_start[piece]
        return np.asarray(self._piece_cost[piece] + inside * self.table.costs[self._piece_run[piece]])
