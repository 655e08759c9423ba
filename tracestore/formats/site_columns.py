"""Values, log probs and parameters of arbitrary rows out of site-major tiles, without a loop over traces."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.formats.base import Rows, SegmentRuns
from tracestore.formats.columns import StoredNumbers
from tracestore.formats.ipc import BlockFile

__all__ = ["RowPlaces", "SiteColumn", "TilePart", "find_tile", "locate_rows", "normalize_rows"]


@dataclass(frozen=True)
class RowPlaces:
    """Where rows are: run, tile and place within the tile; all arrays have shape ``(num_rows,)``."""

    run: NDArray[np.int64]
    layout: NDArray[np.int32]
    before: NDArray[np.int64]
    """Traces of the run in earlier tiles."""
    within: NDArray[np.int64]
    """Place within the tile."""
    tile_traces: NDArray[np.int64]
    """Traces in this very tile."""

    @cached_property
    def single_layout(self) -> int | None:
        """The layout that all rows share."""
        first = int(self.layout[0])
        return first if (self.layout == first).all() else None


@dataclass(frozen=True, slots=True)
class TilePart:
    """Where consecutive rows of one tile are."""

    run: int
    layout: int
    before: int
    """Traces of the run in earlier tiles."""
    within: int
    """Place of the first row within the tile."""
    tile_traces: int
    """Traces in this very tile."""


def find_tile(runs: SegmentRuns, firsts: Sequence[int], start: int, stop: int) -> TilePart | None:
    """Find the tile that holds consecutive rows; None when several do.

    Parameters
    ----------
    runs
        The run directory.
    firsts
        First row of each run, as plain numbers.
    start, stop
        The rows; at least one.
    """
    run = bisect_right(firsts, start) - 1
    size = int(runs.tile_traces[run])
    before, within = divmod(start - firsts[run], size)
    before *= size
    tile_traces = min(size, int(runs.num_traces[run]) - before)
    if within + stop - start > tile_traces:
        return None
    return TilePart(run, int(runs.layout[run]), before, within, tile_traces)


def locate_rows(runs: SegmentRuns, rows: NDArray[np.int64]) -> RowPlaces:
    """Find run and tile of rows.

    Parameters
    ----------
    runs
        The run directory.
    rows
        At least one row, in any order.
    """
    run = np.searchsorted(runs.first, rows, "right") - 1
    place = rows - runs.first[run]
    size = runs.tile_traces[run].astype(np.int64)
    within = place % size
    before = place - within
    return RowPlaces(run, runs.layout[run], before, within, np.minimum(size, runs.num_traces[run] - before))


class SiteColumn:
    """Reads one column with several numbers per trace.

    Parameters
    ----------
    file
        The column file; None when no number is stored.
    starts
        First element of each run, shape ``(num_runs,)``.
    stored
        Which numbers of a layout are stored, which are constant.
    """

    def __init__(self, file: BlockFile | None, starts: NDArray[np.int64], stored: StoredNumbers) -> None:
        self.file = file
        self._starts = starts
        self._stored = stored
        self._start_of: list[int] = starts.tolist()
        self._sizes = np.diff(stored.first)

    def read(self, places: RowPlaces) -> NDArray[np.float64]:
        """Read all numbers of rows, trace by trace, flat."""
        layout = places.single_layout
        if layout is None:
            return self._read_mixed(places)
        num_slots, target, out = self._prepare(layout, len(places.run))
        if self.file is not None and num_slots:
            elements = self._slot_zero(self.file, places)[:, None] + np.arange(num_slots) * places.tile_traces[:, None]
            out[:, target] = self.file.map()[elements]
        return out.reshape(-1)

    def read_part(self, part: TilePart, num_rows: int) -> NDArray[np.float64]:
        """Read all numbers of consecutive rows of one tile, trace by trace, flat."""
        num_slots, target, out = self._prepare(part.layout, num_rows)
        if self.file is not None and num_slots:
            start = self._start_of[part.run] + part.before * num_slots
            block = self.file.block_at(start)
            tile = self.file.view(block, start, start + num_slots * part.tile_traces).reshape(num_slots, -1)
            out[:, target] = tile[:, part.within : part.within + num_rows].T
        return out.reshape(-1)

    def _prepare(self, layout: int, num_rows: int) -> tuple[int, slice | NDArray[np.bool_], NDArray[np.float64]]:
        """Count the slots of a layout, say where they go in a trace, and make rows with the constants filled in."""
        stored = self._stored
        numbers = slice(stored.first[layout], stored.first[layout + 1])
        num_slots = int(stored.num_slots[layout])
        out = np.empty((num_rows, numbers.stop - numbers.start))
        if num_slots == out.shape[1]:
            return num_slots, slice(None), out
        out[:] = stored.constant[numbers]
        return num_slots, stored.slot[numbers] >= 0, out

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
        start = self._stored.first[places.layout] + index
        table = (start[:, None] + np.arange(width)).reshape(-1)
        return self._gather(places, table, np.repeat(np.arange(len(start)), width)).reshape(-1, width)

    def _read_mixed(self, places: RowPlaces) -> NDArray[np.float64]:
        sizes = self._sizes[places.layout]
        ends = np.cumsum(sizes)
        table = np.arange(ends[-1]) + np.repeat(self._stored.first[places.layout] - (ends - sizes), sizes)
        return self._gather(places, table, np.repeat(np.arange(len(sizes)), sizes))

    def _gather(self, places: RowPlaces, table: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.float64]:
        """Read numbers given by their entry in the table of stored numbers and their row."""
        slots, out = self._stored.slot[table], self._stored.constant[table]
        is_stored = slots >= 0
        if self.file is None or not is_stored.any():
            return out
        if not is_stored.all():
            row, slots = row[is_stored], slots[is_stored]
        out[is_stored] = self.file.map()[self._slot_zero(self.file, places)[row] + slots * places.tile_traces[row]]
        return out

    def _slot_zero(self, file: BlockFile, places: RowPlaces) -> NDArray[np.int64]:
        """Where slot 0 of each row is in the mapped file, checksums compared; 0 for rows that store nothing."""
        num_slots = self._stored.num_slots[places.layout]
        tile = self._starts[places.run] + places.before * num_slots
        has_any = num_slots > 0
        if has_any.all():
            return tile + places.within + file.shifts(file.block_of(tile))
        first = np.zeros(len(tile), np.int64)
        first[has_any] = (tile + places.within)[has_any] + file.shifts(file.block_of(tile[has_any]))
        return first


def normalize_rows(rows: Rows, num_traces: int) -> Rows:
    """Normalize rows: a slice with bounds, or indices that are checked and not consecutive."""
    if isinstance(rows, slice):
        start, stop, step = rows.indices(num_traces)
        if step != 1:
            message = f"A slice of rows must have step 1; got {rows}."
            raise InvalidInputError(message)
        return slice(start, max(start, stop))
    if len(rows):
        low, high = int(rows.min()), int(rows.max())
        if low < 0 or high >= num_traces:
            message = f"Rows must be in [0, {num_traces}); got {low} to {high}."
            raise InvalidInputError(message)
        if high - low == len(rows) - 1 and rows[0] == low and (np.diff(rows) == 1).all():
            return slice(low, high + 1)
    return rows
