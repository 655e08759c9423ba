"""Checksums of single slots of tiles: one address is read and checked without touching the others (format 3.16.4)."""

from collections.abc import Iterator

import numpy as np
import xxhash
from numpy.typing import NDArray

from tracestore.errors import ChecksumError
from tracestore.formats.base import Verify
from tracestore.formats.blocks import BlockFile
from tracestore.formats.tile_places import SlotPlaces

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
    has_any
        Whether each run has checksums of its slots, shape ``(num_runs,)``.
    num_tiles
        Tiles of each run.
    run_slots
        Slots of a state of each run.
    verify
        When to compare checksums.
    """

    def __init__(
        self,
        column: BlockFile,
        checks: BlockFile,
        has_any: NDArray[np.bool_],
        num_tiles: NDArray[np.int64],
        run_slots: NDArray[np.int64],
        verify: Verify,
    ) -> None:
        self.column = column
        self._checks = checks
        self._run_slots = run_slots
        self._verify = verify
        counts = np.where(has_any, num_tiles * run_slots, 0)
        self._first = np.cumsum(counts) - counts
        self._is_checked = np.zeros(int(counts.sum()), np.bool_)

    def touch(self, places: SlotPlaces) -> None:
        """Check slots as `verify` asks, and have the disk fetch those that are new, all at once and nothing else.

        Parameters
        ----------
        places
            The slots, each once, in order; all of runs that have checksums of slots.

        Raises
        ------
        ChecksumError
            When the bytes of a slot changed.
        """
        numbers = self._first[places.run] + places.tile * self._run_slots[places.run] + places.slot
        wanted = ~self._is_checked[numbers] | (self._verify == "always")
        numbers, starts, sizes = numbers[wanted], places.start[wanted], places.size[wanted]
        if not len(numbers):
            return
        first = starts + self.column.shifts_unchecked(self.column.block_of(starts))
        self.column.expect(first, first + sizes)
        if self._verify != "off":
            checksums = self._checks.map()[numbers + self._checks.shifts(self._checks.block_of(numbers))]
            for start, size, expected in zip(starts.tolist(), sizes.tolist(), checksums.tolist(), strict=True):
                self._check(start, start + size, expected)
        self._is_checked[numbers] = True

    def _check(self, start: int, stop: int, expected: int) -> None:
        found = xxhash.xxh3_64_intdigest(self.column.peek(start, stop).data)
        if found != expected:
            block = self.column.block_at(start)
            message = (
                f"{self.column.name}, block {block}, was altered: elements {start} to {stop} have the checksum "
                f"{found:016x}, sealed as {expected:016x}; restore the file from a copy, or quarantine the segment."
            )
            raise ChecksumError(message, file=self.column.name, block=block, expected=expected, found=found)
