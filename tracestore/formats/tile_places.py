"""Where the states of rows are in a segment: runs, tiles, places within. Pure arithmetic on the run directory."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.formats.base import Rows, SegmentRuns

__all__ = [
    "RowPlaces",
    "SlotPlaces",
    "StateRuns",
    "TilePart",
    "count_up",
    "find_tiles",
    "locate_states",
    "locate_tiles",
    "normalize_rows",
]

_FEW_TILES = 12
"""Up to so many tiles are copied one by one; beyond, all rows are gathered at once."""


@dataclass(frozen=True)
class StateRuns:
    """Runs in terms of states, the traces whose sites are stored; all arrays have shape ``(num_runs,)``."""

    layout: NDArray[np.int32]
    first: NDArray[np.int64]
    """First state of each run."""
    num_states: NDArray[np.int64]
    tile_states: NDArray[np.int32]

    @staticmethod
    def of(runs: SegmentRuns) -> "StateRuns":
        """States of a run directory."""
        first = np.cumsum(runs.num_states) - runs.num_states
        return StateRuns(runs.layout, first, runs.num_states, runs.tile_states)

    @cached_property
    def firsts(self) -> list[int]:
        """First state of each run, as plain numbers."""
        return cast("list[int]", self.first.tolist())

    @cached_property
    def num_tiles(self) -> NDArray[np.int64]:
        """Tiles of each run."""
        return -(-self.num_states // self.tile_states)


@dataclass(frozen=True)
class RowPlaces:
    """Where states are: run, tile and place within the tile; all arrays have one entry per row that was asked for."""

    run: NDArray[np.int64]
    layout: NDArray[np.int32]
    before: NDArray[np.int64]
    """States of the run in earlier tiles."""
    within: NDArray[np.int64]
    """Place within the tile."""
    tile_states: NDArray[np.int64]
    """States in this very tile."""

    @cached_property
    def single_layout(self) -> int | None:
        """The layout that all rows share."""
        first = int(self.layout[0])
        return first if (self.layout == first).all() else None


@dataclass(frozen=True, slots=True)
class SlotPlaces:
    """Where slots of tiles are in a column: each is consecutive elements; one entry per slot."""

    run: NDArray[np.int64]
    tile: NDArray[np.int64]
    """Tile within the run."""
    slot: NDArray[np.int64]
    start: NDArray[np.int64]
    """First element."""
    size: NDArray[np.int64]
    """Elements, one for each state of the tile."""


@dataclass(frozen=True, slots=True)
class TilePart:
    """Where consecutive states of one tile are."""

    run: int
    layout: int
    before: int
    """States of the run in earlier tiles."""
    within: int
    """Place of the first one within the tile."""
    tile_states: int
    """States in this very tile."""
    num_rows: int
    """How many of them."""


def find_tiles(runs: StateRuns, start: int, stop: int) -> list[TilePart] | None:
    """Find the few tiles that hold consecutive states; None when they are many.

    Parameters
    ----------
    runs
        The run directory.
    start, stop
        The states; at least one.
    """
    run = bisect_right(runs.firsts, start) - 1
    parts: list[TilePart] = []
    while start < stop:
        size, num_states = int(runs.tile_states[run]), int(runs.num_states[run])
        place = start - runs.firsts[run]
        if place == num_states:
            run += 1
            continue
        before, within = place - place % size, place % size
        tile_states = min(size, num_states - before)
        num_rows = min(stop - start, tile_states - within)
        parts.append(TilePart(run, int(runs.layout[run]), before, within, tile_states, num_rows))
        if len(parts) > _FEW_TILES:
            return None
        start += num_rows
    return parts


def locate_states(runs: StateRuns, states: NDArray[np.int64]) -> RowPlaces:
    """Find run and tile of states.

    Parameters
    ----------
    runs
        The run directory.
    states
        At least one state, in any order.
    """
    run = np.searchsorted(runs.first, states, "right") - 1
    place = states - runs.first[run]
    size = runs.tile_states[run].astype(np.int64)
    within = place % size
    before = place - within
    return RowPlaces(run, runs.layout[run], before, within, np.minimum(size, runs.num_states[run] - before))


def locate_tiles(runs: StateRuns, chosen: NDArray[np.int64]) -> RowPlaces:
    """Find the first state of each tile of some runs, run by run.

    Parameters
    ----------
    runs
        The run directory.
    chosen
        The runs.
    """
    counts = runs.num_tiles[chosen]
    run = np.repeat(chosen, counts)
    size = runs.tile_states[run].astype(np.int64)
    before = count_up(np.zeros_like(counts), counts) * size
    return RowPlaces(
        run, runs.layout[run], before, np.zeros_like(before), np.minimum(size, runs.num_states[run] - before)
    )


def count_up(first: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count up from each of some numbers, so often, one after the other."""
    ends = np.cumsum(counts)
    numbers: NDArray[np.int64] = np.repeat(first - (ends - counts), counts)
    numbers += np.arange(len(numbers))
    return numbers


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
