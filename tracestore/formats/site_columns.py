"""Values, log probs and parameters of arbitrary rows out of site-major tiles, without a loop over traces."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tracestore.formats.base import Verify
from tracestore.formats.blocks import BlockFile
from tracestore.formats.columns import StoredNumbers
from tracestore.formats.slot_checks import LEAST_CHECKED_STATES, SlotChecks
from tracestore.formats.tile_places import (
    RowPlaces,
    SlotPlaces,
    StateRuns,
    TilePart,
    count_up,
    locate_states,
    locate_tiles,
)

__all__ = ["SiteColumn"]


class SiteColumn:
    """Reads one column with several numbers per trace.

    Parameters
    ----------
    file
        The column file; None when no number is stored.
    starts
        First element of each run, shape ``(num_runs,)``.
    runs
        The run directory.
    stored
        Which numbers of a layout are stored, which are constant. Layouts numbered beyond it are loose: of one
        state, all of whose numbers are stored.
    """

    def __init__(
        self, file: BlockFile | None, starts: NDArray[np.int64], runs: StateRuns, stored: StoredNumbers
    ) -> None:
        self.file = file
        self._checks: SlotChecks | None = None
        self._runs = runs
        self._starts = starts
        self._stored = stored
        self._num_regular = len(stored.num_slots)
        total = 0 if file is None else int(file.first[-1])
        stored_of_run = np.diff(starts, append=total)
        is_loose = runs.layout >= self._num_regular
        regular = np.where(is_loose, 0, runs.layout)
        sizes = np.diff(stored.first) if self._num_regular else np.zeros(1, np.int64)
        slots = stored.num_slots if self._num_regular else np.zeros(1, np.int64)
        self._run_sizes = np.where(is_loose, stored_of_run, sizes[regular])
        """Numbers of a state of each run."""
        self._run_slots = np.where(is_loose, stored_of_run, slots[regular])
        """Those of them that are stored."""
        self._is_long = (runs.num_states >= LEAST_CHECKED_STATES) & ~is_loose
        """Whether slots of the tiles of each run are worth being taken one by one."""

    def read(self, places: RowPlaces) -> NDArray[np.float64]:
        """Read all numbers of rows, trace by trace, flat."""
        layout = places.single_layout
        if layout is None or layout >= self._num_regular:
            return self._read_mixed(places)
        num_slots = int(self._stored.num_slots[layout])
        out = np.empty((len(places.run), int(self._run_sizes[places.run[0]])))
        target = self._prepare(layout, out)
        if self.file is not None and num_slots:
            elements = self._slot_zero(self.file, places)[:, None] + np.arange(num_slots) * places.tile_states[:, None]
            out[:, target] = self.file.map()[elements]
        return out.reshape(-1)

    def read_parts(self, parts: Sequence[TilePart]) -> NDArray[np.float64]:
        """Read all numbers of consecutive states, given by the tiles that hold them, trace by trace, flat."""
        sizes = [int(self._run_sizes[part.run]) for part in parts]
        out = np.empty(sum(part.num_rows * size for part, size in zip(parts, sizes, strict=True)))
        start = 0
        for part, size in zip(parts, sizes, strict=True):
            stop = start + part.num_rows * size
            self._read_part(part, out[start:stop].reshape(part.num_rows, size))
            start = stop
        return out

    def _read_part(self, part: TilePart, out: NDArray[np.float64]) -> None:
        num_slots, target = int(self._run_slots[part.run]), self._prepare(part.layout, out)
        if self.file is not None and num_slots:
            start = int(self._starts[part.run]) + part.before * num_slots
            block = self.file.block_at(start)
            tile = self.file.view(block, start, start + num_slots * part.tile_states).reshape(num_slots, -1)
            out[:, target] = tile[:, part.within : part.within + part.num_rows].T

    def _prepare(self, layout: int, out: NDArray[np.float64]) -> slice | NDArray[np.bool_]:
        """Fill in the constants of rows of a layout, shape ``(num_rows, size)``; where the stored numbers go."""
        stored = self._stored
        if layout >= self._num_regular or stored.num_slots[layout] == out.shape[1]:
            return slice(None)
        numbers = slice(stored.first[layout], stored.first[layout + 1])
        out[:] = stored.constant[numbers]
        return stored.slot[numbers] >= 0

    def read_runs(self, runs: NDArray[np.int64], index: NDArray[np.int64], width: int) -> NDArray[np.float64]:
        """Read some neighboring numbers of all states of runs: ``(num_states, width)``.

        Parameters
        ----------
        runs
            The runs.
        index
            First of the numbers within a trace, per run.
        width
            How many.
        """
        sizes = self._runs.num_states[runs]
        begins = np.cumsum(sizes) - sizes
        out = np.empty((int(sizes.sum()), width))
        is_long = self._is_long[runs]
        if is_long.any():
            long, counts = runs[is_long], self._runs.num_tiles[runs[is_long]]
            tiles = locate_tiles(self._runs, long)
            rows = np.repeat(begins[is_long], counts) + tiles.before
            self._copy_tiles(tiles, np.repeat(index[is_long], counts), rows, out)
        if not is_long.all():
            short, counts = runs[~is_long], sizes[~is_long]
            places = locate_states(self._runs, count_up(self._runs.first[short], counts))
            numbers = np.repeat(index[~is_long], counts)[:, None] + np.arange(width)
            row = np.repeat(np.arange(len(numbers)), width)
            found = self._gather(places, row, numbers.reshape(-1))
            out[count_up(begins[~is_long], counts)] = found.reshape(-1, width)
        return out

    def _copy_tiles(
        self, tiles: RowPlaces, index: NDArray[np.int64], rows: NDArray[np.int64], out: NDArray[np.float64]
    ) -> None:
        """Copy neighboring numbers of whole tiles, slot by slot, to `out`, where each tile begins at one of `rows`."""
        width = out.shape[1]
        tile, column = np.repeat(np.arange(len(rows)), width), np.tile(np.arange(width), len(rows))
        slots, constants = self._slots_of(tiles.layout[tile], index[tile] + column)
        is_stored = slots >= 0
        places = self._locate_slots(tiles, tile[is_stored], slots[is_stored])
        first = np.full(len(tile), -1)
        flat, first[is_stored] = self._touch(places)
        lists = (part.tolist() for part in (rows[tile], tiles.tile_states[tile], column, first, constants))
        for row, size, number, place, constant in zip(*lists, strict=True):
            out[row : row + size, number] = constant if place < 0 else flat[place : place + size]

    def _locate_slots(self, tiles: RowPlaces, tile: NDArray[np.int64], slots: NDArray[np.int64]) -> SlotPlaces:
        """Find slots in the column; `tile` is the position in `tiles` of each."""
        run, before, size = tiles.run[tile], tiles.before[tile], tiles.tile_states[tile]
        start = self._starts[run] + before * self._run_slots[run] + slots * size
        return SlotPlaces(run, before // self._runs.tile_states[run], slots, start, size)

    def _touch(self, places: SlotPlaces) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        """Check slots, or their blocks where there are no checksums of slots; the mapped file, and where they begin."""
        if self.file is None or not len(places.start):
            return np.empty(0), places.start
        blocks = self.file.block_of(places.start)
        if self._checks is None:
            return self.file.map(), places.start + self.file.shifts(blocks)
        self._checks.touch(places)
        return self.file.map(), places.start + self.file.shifts_unchecked(blocks)

    def with_checks(self, checks: BlockFile | None, verify: Verify) -> "SiteColumn":
        """Use checksums of single slots where there are some; they spare the others."""
        if checks is not None and self.file is not None:
            self._checks = SlotChecks(self.file, checks, self._is_long, self._runs.num_tiles, self._run_slots, verify)
        return self

    def _read_mixed(self, places: RowPlaces) -> NDArray[np.float64]:
        sizes = self._run_sizes[places.run]
        ends = np.cumsum(sizes)
        numbers = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
        return self._gather(places, np.repeat(np.arange(len(sizes)), sizes), numbers)

    def _gather(self, places: RowPlaces, row: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Read numbers given by their row and their position within its trace."""
        slots, out = self._slots_of(places.layout[row], numbers)
        is_stored = slots >= 0
        if self.file is None or not is_stored.any():
            return out
        if not is_stored.all():
            row, slots = row[is_stored], slots[is_stored]
        out[is_stored] = self.file.map()[self._slot_zero(self.file, places)[row] + slots * places.tile_states[row]]
        return out

    def _slots_of(
        self, layout: NDArray[np.int32], numbers: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Find the slot of each number, -1 for constants, and the values of these."""
        stored = self._stored
        is_regular = layout < self._num_regular
        if is_regular.all():
            table = stored.first[layout] + numbers
            return stored.slot[table].astype(np.int64), stored.constant[table]
        slots, out = numbers.copy(), np.zeros(len(numbers))
        table = stored.first[layout[is_regular]] + numbers[is_regular]
        slots[is_regular], out[is_regular] = stored.slot[table], stored.constant[table]
        return slots, out

    def _slot_zero(self, file: BlockFile, places: RowPlaces) -> NDArray[np.int64]:
        """Where slot 0 of each row is in the mapped file, checksums compared; 0 for rows that store nothing."""
        num_slots = self._run_slots[places.run]
        tile = self._starts[places.run] + places.before * num_slots
        has_any = num_slots > 0
        if has_any.all():
            return tile + places.within + file.shifts(file.block_of(tile))
        first = np.zeros(len(tile), np.int64)
        first[has_any] = (tile + places.within)[has_any] + file.shifts(file.block_of(tile[has_any]))
        return first
