"""Cut runs of traces into atoms, differently in every epoch; knows neither steps nor ranks.

Each run is a ring that is turned by a keyed amount and cut into pieces of ``micro`` traces, the *pure atoms*. What is
left of every ring (less than one atom) is lined up by cost and cut into *mixed atoms*; the last of these may be
incomplete. Atoms are numbered: pure ones run by run, then mixed ones along the line.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tracestore.samplers.hashing import derive_key, keyed_hash, keyed_order, narrowest

__all__ = ["TYPE_BITS", "AtomCut", "CostBands", "RunTable"]

_BLOCK = 2**16
"""Pieces that are looked at at once."""

_TURN, _TYPE, _LEFTOVER = range(3)
"""Purposes of hashes."""

TYPE_BITS = 12
"""Bits of the number that stands for a trace type. Types of one number and alike cost are mixed, which does no harm."""


@dataclass(frozen=True, slots=True, eq=False)
class RunTable:
    """Runs of selected traces; a trace is known by its place in whatever numbering ``first`` uses.

    Examples
    --------
    >>> table = RunTable(np.array([0, 5]), np.array([5, 2]), np.array([1.0, 4.0]), np.array([7, 8], np.uint64))
    >>> table.num_traces
    7
    """

    first: NDArray[np.integer]
    """First trace of each run."""
    num_traces_of: NDArray[np.integer]
    """Traces of each run; those without any are as if they were not there."""
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
        costs = self.num_traces_of * self.costs
        # added one after the other: the order in which `sum` adds differs between machines
        return float(np.cumsum(costs, out=costs)[-1])


class CostBands:
    """Number costs by narrow bands, the costliest first. Bands are as wide as their costs are high.

    Parameters
    ----------
    costs
        Costs between which the bands lie, not negative; at least one.

    Examples
    --------
    >>> bands = CostBands(np.array([1.0, 2.0, 4.0]))
    >>> bands.of(np.array([1.0, 1.00001, 1.001, 2.0])).tolist()
    [32768, 32767, 32751, 16384]
    """

    BITS = 16
    """Bits of the number of a band."""

    def __init__(self, costs: NDArray[np.float64]) -> None:
        # numbers that are not negative have the order of their bits: exponent first, then the leading digits
        lowest, self._highest = (int(np.float64(cost).view(np.uint64)) for cost in (costs.min(), costs.max()))
        self._shift = max(0, (self._highest - lowest).bit_length() - self.BITS)

    def of(self, costs: NDArray[np.float64]) -> NDArray[np.uint64]:
        """Find the band of each cost, elementwise."""
        return (np.uint64(self._highest) - costs.view(np.uint64)) >> np.uint64(self._shift)


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
        self._key = key
        counter = narrowest(table.num_traces)
        full = self._full_atoms(table.num_traces_of)
        # only runs that have pure atoms, and only those that have leftovers
        self._pure_run = np.flatnonzero(full).astype(counter)
        self._first_atom = _starts(full[self._pure_run], counter)
        self.num_pure = int(self._first_atom[-1])
        full *= micro
        self._piece_run = np.flatnonzero(full != table.num_traces_of).astype(counter)
        del full
        if key is not None:
            self._line_up(key)
        self._piece_start = np.zeros(len(self._piece_run) + 1, counter)
        self._mixed_costs = self._measure_line()

    def sizes(self, atoms: NDArray[np.integer]) -> NDArray[np.int64]:
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
        return np.minimum(self.micro, self.table.num_traces - atoms.astype(np.int64) * self.micro)

    def costs(self, atoms: NDArray[np.integer]) -> NDArray[np.float64]:
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
        costs[~is_pure] = self._mixed_costs[atoms[~is_pure] - self.num_pure]
        return costs

    def all_costs(self) -> NDArray[np.float64]:
        """Cost of every atom; shape ``(num_atoms,)``."""
        pure = np.repeat(self.table.costs[self._pure_run] * self.micro, np.diff(self._first_atom))
        return np.concatenate((pure, self._mixed_costs))

    def type_numbers(self, atoms: NDArray[np.integer]) -> NDArray[np.uint64]:
        """Give pure atoms of one trace type one number of `TYPE_BITS` bits, and mixed atoms the highest.

        Parameters
        ----------
        atoms
            Numbers of atoms, shape ``(A,)``.

        Returns
        -------
        ndarray of uint64
            Shape ``(A,)``; another numbering in every epoch.
        """
        numbers = np.full(len(atoms), np.uint64((1 << TYPE_BITS) - 1))
        is_pure = atoms < self.num_pure
        numbers[is_pure] = self._type_numbers(self._run_of(atoms[is_pure]))
        return numbers

    def members(self, atoms: NDArray[np.integer]) -> NDArray[np.int64]:
        """Traces of some atoms; ascending atoms are found fastest.

        Parameters
        ----------
        atoms
            Numbers of atoms, shape ``(A,)``.

        Returns
        -------
        ndarray of int64
            Traces, first those of pure atoms; fewer than ``A * micro`` when an atom is incomplete.
        """
        atoms = atoms.astype(np.int64)
        micro, inside = self.micro, np.arange(self.micro)
        pure = atoms[atoms < self.num_pure]
        place = self._place_of(pure)
        pure_ring = ((pure - self._first_atom[place]) * micro)[:, None] + inside
        mixed = atoms[atoms >= self.num_pure] - self.num_pure
        line = (mixed[:, None] * micro + inside).reshape(-1)
        line = line[line < self._piece_start[-1]]
        piece = np.searchsorted(self._piece_start, line.astype(self._piece_start.dtype), "right") - 1
        piece_run = self._piece_run[piece]
        mixed_ring = self._full_atoms(self.table.num_traces_of[piece_run]) * micro + line - self._piece_start[piece]
        pure_traces = self._turned(self._pure_run[place][:, None], pure_ring).reshape(-1)
        return np.concatenate((pure_traces, self._turned(piece_run, mixed_ring)))

    def _full_atoms(self, sizes: NDArray[np.integer]) -> NDArray[np.integer]:
        """Pure atoms in runs of some sizes."""
        return np.zeros_like(sizes) if self._key is None else np.asarray(sizes // self.micro)

    def _left(self, runs: NDArray[np.integer]) -> NDArray[np.integer]:
        """Leftover traces of some runs."""
        sizes = self.table.num_traces_of[runs]
        return np.asarray(sizes if self._key is None else sizes % self.micro)

    def _line_up(self, key: int) -> None:
        """Order what is left of the runs by cost, then by trace type, then by chance."""
        costs, runs = self.table.costs, self._piece_run
        bands = CostBands(costs)

        def rank(block: slice) -> NDArray[np.uint64]:
            band = bands.of(costs[runs[block]]) << np.uint64(TYPE_BITS)
            return np.asarray(band | self._type_numbers(runs[block]))

        self._piece_run = keyed_order(runs, derive_key(key, _LEFTOVER), rank, CostBands.BITS + TYPE_BITS)

    def _measure_line(self) -> NDArray[np.float64]:
        """Find where each piece of the line begins; return the cost of each mixed atom.

        It is the difference of what the line costs before the atom's end and before its beginning.
        """
        micro, starts, total = self.micro, self._piece_start, 0.0
        line_costs = np.empty(self.num_atoms - self.num_pure + 1)
        # block by block, as memory that was never used before takes longer than the sums
        for first in range(0, len(self._piece_run), _BLOCK):
            runs = self._piece_run[first : first + _BLOCK]
            costs, left = self.table.costs[runs], self._left(runs)
            begin = np.concatenate(([0], np.cumsum(left))) + int(starts[first])
            starts[first + 1 : first + 1 + len(runs)] = begin[1:]
            before = np.cumsum(np.concatenate(([total], costs * left)))
            atoms = np.arange(-(-begin[0] // micro), -(-begin[-1] // micro))
            piece = np.searchsorted(begin, atoms * micro, "right") - 1
            line_costs[atoms] = before[piece] + (atoms * micro - begin[piece]) * costs[piece]
            total = float(before[-1])
        line_costs[-1] = total
        return np.diff(line_costs)

    def _type_numbers(self, runs: NDArray[np.integer]) -> NDArray[np.uint64]:
        assert self._key is not None
        return keyed_hash(self.table.trace_types[runs], derive_key(self._key, _TYPE)) >> np.uint64(64 - TYPE_BITS)

    def _place_of(self, pure: NDArray[np.integer]) -> NDArray[np.int64]:
        """Where the runs of pure atoms stand among those that have some."""
        return np.searchsorted(self._first_atom, pure.astype(self._first_atom.dtype), "right") - 1

    def _run_of(self, pure: NDArray[np.integer]) -> NDArray[np.integer]:
        return self._pure_run[self._place_of(pure)]

    def _turned(self, runs: NDArray[np.integer], ring: NDArray[np.int64]) -> NDArray[np.int64]:
        """Traces at some places of the turned rings of runs."""
        sizes = self.table.num_traces_of[runs].astype(np.int64)
        if self._key is not None:
            spin = keyed_hash(runs, derive_key(self._key, _TURN))
            ring = (ring + (spin % sizes.astype(np.uint64)).astype(np.int64)) % sizes
        return np.asarray(self.table.first[runs] + ring)


def _starts(sizes: NDArray[np.integer], counter: type[np.integer]) -> NDArray[np.integer]:
    """Where each of some consecutive things begins, and where the last ends."""
    starts = np.zeros(len(sizes) + 1, counter)
    np.cumsum(sizes, out=starts[1:], dtype=counter)
    return starts
