"""Values, log probs and parameters of arbitrary rows out of site-major tiles, without a loop over traces."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tracestore.formats.base import Verify
from tracestore.formats.blocks import BlockFile
from tracestore.formats.columns import StoredNumbers
from tracestore.formats.slot_checks import SlotChecks
from tracestore.formats.tile_places import RowPlaces, StateRuns, TilePart

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

    def read_slots(self, places: RowPlaces, index: NDArray[np.int64], width: int) -> NDArray[np.float64]:
        """Read some neighboring numbers of rows: ``(num_rows, width)``.

        Parameters
        ----------
        places
            The rows.
        index
            First of the numbers within a trace, per row.
        width
            How many.
        """
        has_checks = np.zeros(len(index), np.bool_) if self._checks is None else self._checks.has_any[places.run]
        if not has_checks.any():
            return self._read_slots(places, index, width)
        out = np.empty((len(index), width))
        for chosen, checks in ((has_checks, self._checks), (~has_checks, None)):
            if chosen.any():
                out[chosen] = self._read_slots(places.take(chosen), index[chosen], width, checks)
        return out

    def _read_slots(
        self, places: RowPlaces, index: NDArray[np.int64], width: int, checks: SlotChecks | None = None
    ) -> NDArray[np.float64]:
        """Read neighboring numbers of rows, checked slot by slot, or by block without `checks`."""
        numbers = (index[:, None] + np.arange(width)).reshape(-1)
        row = np.repeat(np.arange(len(index)), width)
        if checks is None:
            return self._gather(places, row, numbers).reshape(-1, width)
        slots, out = self._slots_of(places.layout[row], numbers)
        is_stored = slots >= 0
        if is_stored.any():
            file, row, slots = checks.column, row[is_stored], slots[is_stored]
            checks.touch(places, row, slots)
            tile = self._starts[places.run] + places.before * self._run_slots[places.run]
            first = tile + places.within + file.shifts_unchecked(file.block_of(tile))
            out[is_stored] = file.map()[first[row] + slots * places.tile_states[row]]
        return out.reshape(-1, width)

    def with_checks(self, checks: BlockFile | None, verify: Verify) -> "SiteColumn":
        """Use checksums of single slots where there are some; they spare the others."""
        if checks is not None and self.file is not None:
            self._checks = SlotChecks(
                self.file, checks, self._starts, self._runs, self._run_slots, self._num_regular, verify
            )
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
