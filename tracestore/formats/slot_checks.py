"""Checksums of single slots of tiles: one address is read and checked without touching the others (format 3.16.4)."""

from collections.abc import Iterator

import numpy as np
import xxhash
from numpy.typing import NDArray

from tracestore.errors import ChecksumError
from tracestore.formats.base import Verify
from tracestore.formats.blocks import BlockFile
from tracestore.formats.tile_places import RowPlaces, StateRuns

__all__ = ["LEAST_CHECKED_STATES", "SlotChecks", "checks_of_tile"]

LEAST_CHECKED_STATES = 64
"""States from which a run has checksums of its slots; they would outweigh shorter ones."""


def checks_of_tile(tile: NDArray[np.float64], num_slots: int) -> Iterator[int]:
    """Yield the XXH3-64 of each slot of a tile, flat and site-major."""
    for slot in tile.reshape(num_slots, -1):
        yield xxhash.xxh3_64_intdigest(slot.data)


class SlotChecks:
    """Checks slots of a mapped column.

    Parameters
    ----------
    column
        The column.
    checks
        Their checksums: for each run that has any, tile after tile, slot after slot.
    starts
        First element of each run in the column.
    runs
        The run directory.
    run_slots
        Slots of a state of each run.
    num_regular
        Layouts that are not loose.
    verify
        When to compare checksums.
    """

    def __init__(
        self,
        column: BlockFile,
        checks: BlockFile,
        starts: NDArray[np.int64],
        runs: StateRuns,
        run_slots: NDArray[np.int64],
        num_regular: int,
        verify: Verify,
    ) -> None:
        self.column = column
        self._checks = checks
        self._starts = starts
        self._runs = runs
        self._run_slots = run_slots
        self._verify = verify
        self.has_any = (runs.num_states >= LEAST_CHECKED_STATES) & (runs.layout < num_regular)
        """Whether each run has checksums of its slots, shape ``(num_runs,)``."""
        num_tiles = -(-runs.num_states // runs.tile_states)
        counts = np.where(self.has_any, num_tiles * run_slots, 0)
        self._first = np.cumsum(counts) - counts
        self._is_checked = np.zeros(int(counts.sum()), np.bool_)

    def touch(self, places: RowPlaces, row: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
        """Check slots of the tiles of rows, each once.

        Parameters
        ----------
        places
            The rows; all of runs that have checksums of slots.
        row
            Position in `places` of each number.
        slots
            Slot of each number.

        Raises
        ------
        ChecksumError
            When the bytes of a slot changed.
        """
        run = places.run[row]
        tile = places.before[row] // self._runs.tile_states[run]
        numbers = self._first[run] + tile * self._run_slots[run] + slots
        # rows come in order, so most repeats follow each other
        first = np.flatnonzero(np.diff(numbers, prepend=-1))
        if self._verify == "first":
            first = first[~self._is_checked[numbers[first]]]
        for place in first[np.unique(numbers[first], return_index=True)[1]].tolist():
            self._check(int(numbers[place]), int(run[place]), int(slots[place]), places, int(row[place]))

    def _check(self, number: int, run: int, slot: int, places: RowPlaces, row: int) -> None:
        size = int(places.tile_states[row])
        start = int(self._starts[run]) + int(places.before[row]) * int(self._run_slots[run]) + slot * size
        found = xxhash.xxh3_64_intdigest(self.column.peek(start, start + size).data)
        expected = np.empty(1, np.uint64)
        self._checks.copy_to(expected, number)
        if found != expected[0]:
            block = self.column.block_at(start)
            message = (
                f"{self.column.name}, block {block}, was altered: elements {start} to {start + size} have the checksum "
                f"{found:016x}, sealed as {int(expected[0]):016x}; restore the file from a copy, or quarantine the "
                "segment."
            )
            raise ChecksumError(message, file=self.column.name, block=block, expected=int(expected[0]), found=found)
        self._is_checked[number] = True
