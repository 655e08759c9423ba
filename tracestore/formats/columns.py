"""Cut the traces of one segment into runs, tiles and constants. Pure: numpy in, numpy out, no files.

The order of rows, the runs, what is constant and the site-major tiles are decided here for every backend; backends
only write and read the resulting flat columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.formats.base import SegmentRuns
from tracestore.traces.batch import TRACE_COLUMNS, TraceBatch
from tracestore.traces.layout import Layout

__all__ = [
    "MAX_TILE_STATES",
    "SITE_COLUMNS",
    "Constants",
    "SegmentColumns",
    "StoredNumbers",
    "cut_segment",
    "find_repeats",
]

SITE_COLUMNS = ("values", "log_probs", "parameters")
"""Columns with several numbers per trace."""

MAX_TILE_STATES = 1024
MAX_TILE_NUMBERS = 2**17
_COMPARED_ROWS = 4096

_MAX_INTEGER = 2.0**53
_INTEGER_FAMILIES = frozenset({"Bernoulli", "Binomial", "Categorical", "Poisson"})


@dataclass(frozen=True, slots=True)
class Constants:
    """Numbers that all traces of a layout share in one site column, ordered by layout and index."""

    layout: NDArray[np.int32]
    index: NDArray[np.int32]
    """Position within the trace."""
    value: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StoredNumbers:
    """Where the numbers of each layout are in one site column: stored in a slot of its tiles, or constant."""

    first: NDArray[np.int64]
    """Where each layout starts in `slot` and `constant`, shape ``(num_layouts + 1,)``."""
    slot: NDArray[np.int32]
    """Slot of each number of each layout, -1 when constant, flat."""
    constant: NDArray[np.float64]
    """Value of each constant number, flat."""
    num_slots: NDArray[np.int64]
    """Stored numbers of each layout, shape ``(num_layouts,)``."""

    @staticmethod
    def build(sizes: NDArray[np.int64], constants: Constants) -> "StoredNumbers":
        """Lay out the numbers of layouts.

        Parameters
        ----------
        sizes
            Numbers of each layout, shape ``(num_layouts,)``.
        constants
            Those that are constant.
        """
        first = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        is_stored = np.ones(first[-1], np.bool_)
        value = np.zeros(first[-1])
        places = first[constants.layout] + constants.index
        is_stored[places] = False
        value[places] = constants.value
        stored_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(is_stored)])
        slot = stored_before[:-1] - np.repeat(stored_before[first[:-1]], sizes)
        slot[~is_stored] = -1
        return StoredNumbers(first, slot.astype(np.int32), value, np.diff(stored_before[first]))


@dataclass(frozen=True, slots=True)
class SegmentColumns:
    """The content of a segment, cut and ordered; observations excepted, which follow `order`."""

    order: NDArray[np.int64]
    """Row of the segment to trace of the input, shape ``(num_traces,)``."""
    batch: TraceBatch
    """The traces in that order, without observations; sites are those of `states`."""
    states: TraceBatch
    """Those of them whose sites are stored: all but rejected Markov moves."""
    state: NDArray[np.int64] | None
    """State of each row; None when every row has its own."""
    layouts: tuple[Layout, ...]
    """Layouts of several states, in order of first appearance."""
    loose: tuple[Layout, ...]
    """Layouts of a single state, in order of first appearance; they are numbered after `layouts`."""
    runs: SegmentRuns
    constants: tuple[Constants, Constants, Constants]
    stored: tuple[StoredNumbers, StoredNumbers, StoredNumbers]

    def tiles(self, column: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Yield the tiles of a site column, with the number of their run, as flat, site-major arrays, in order.

        Parameters
        ----------
        column
            Position in `SITE_COLUMNS`.
        """
        runs, stored = self.runs, self.stored[column]
        flat = getattr(self.states, SITE_COLUMNS[column])
        starts = _offsets_of(self.states, column)[np.cumsum(runs.num_states) - runs.num_states].tolist()
        sizes = np.diff(stored.first).tolist()
        for run, (layout, num_states, start) in enumerate(
            zip(runs.layout.tolist(), runs.num_states.tolist(), starts, strict=True)
        ):
            if layout >= len(sizes):
                stop = starts[run + 1] if run + 1 < len(starts) else len(flat)
                if stop > start:
                    yield run, flat[start:stop]
            elif stored.num_slots[layout]:
                kept = stored.slot[stored.first[layout] : stored.first[layout + 1]] >= 0
                rows = flat[start : start + sizes[layout] * num_states].reshape(num_states, sizes[layout])
                size = int(runs.tile_states[run])
                for low in range(0, num_states, size):
                    yield run, rows[low : low + size, kept].T.ravel()


def cut_segment(batches: Sequence[TraceBatch], *, keep_order: bool = False) -> SegmentColumns:
    """Decide rows, runs, states, constants and tiles of a segment.

    Parameters
    ----------
    batches
        The traces, in one or more batches; at least one trace.
    keep_order
        Keep the rows as given; otherwise order them by number of sites, trace type, layout and stream.

    Raises
    ------
    InvalidInputError
        When a column has the wrong length, or an integer is beyond 2**53.
    """
    batch = TraceBatch.concatenate([replace(batch, observations={}) for batch in batches])
    _require_consistent(batch)
    order = np.arange(len(batch)) if keep_order else _order(batch)
    if not keep_order:
        batch = batch.take(order)
    is_new = ~find_repeats(batch)
    states, state = batch, None
    if not is_new.all():
        states, state = batch.take(np.flatnonzero(is_new)), np.cumsum(is_new) - 1
        # from here on the sites of the states are all that counts
        nothing = np.empty(0)
        batch = replace(batch, values=nothing, log_probs=nothing, parameters=nothing)
    layouts, num_regular, places = _number_layouts(states)
    states = replace(states, layouts=layouts, layout_index=places)
    rows = places if state is None else places[state]
    batch = replace(batch, layouts=layouts, layout_index=rows)

    bounds = np.flatnonzero(np.diff(rows, prepend=-1))
    run_layout = rows[bounds]
    num_states = np.add.reduceat(is_new, bounds, dtype=np.int64)
    sizes = [np.array([getattr(layout, f"num_{name}") for layout in layouts], np.int64) for name in _SIZES]
    constants, stored, starts = [], [], []
    for name, size in zip(SITE_COLUMNS, sizes, strict=True):
        found = _constants(getattr(states, name), run_layout, num_states, size, num_regular)
        table = StoredNumbers.build(size[:num_regular], found)
        constants.append(found)
        stored.append(table)
        num_stored = np.concatenate([table.num_slots, size[num_regular:]])
        starts.append(_starts(num_stored[run_layout] * num_states))
    widest = np.maximum(np.max(sizes, axis=0), 1)[run_layout]
    runs = SegmentRuns(
        layout=run_layout,
        layout_id=np.array([layout.id for layout in layouts], np.uint64)[run_layout],
        trace_type=np.array([layout.trace_type for layout in layouts], np.uint64)[run_layout],
        first=bounds,
        num_traces=np.diff(bounds, append=len(rows)),
        num_sites=sizes[1][run_layout].astype(np.int32),
        seconds=np.add.reduceat(batch.seconds.astype(np.float64), bounds),
        num_states=num_states,
        tile_states=np.clip(MAX_TILE_NUMBERS // widest, 1, MAX_TILE_STATES).astype(np.int32),
        starts=np.stack(starts),
    )
    return SegmentColumns(
        order,
        batch,
        states,
        state,
        layouts[:num_regular],
        layouts[num_regular:],
        runs,
        (*constants,),  # type: ignore[arg-type]  # three each
        (*stored,),  # type: ignore[arg-type]
    )


def find_repeats(batch: TraceBatch) -> NDArray[np.bool_]:
    """Find the rejected Markov moves that follow the very state they kept, shape ``(num_traces,)``.

    A row is one when its move was not accepted and the row before it is of the same chain, has the same layout, and
    equals it in every number of every site, bit by bit.
    """
    is_repeat = np.zeros(len(batch), np.bool_)
    same = ~batch.accepted[1:] & (batch.chain[1:] == batch.chain[:-1])
    same &= batch.layout_index[1:] == batch.layout_index[:-1]
    rows = np.flatnonzero(same) + 1
    for column, name in enumerate(SITE_COLUMNS):
        if not len(rows):
            return is_repeat
        offsets = _offsets_of(batch, column)
        bits = getattr(batch, name).view(np.uint64)
        rows = np.concatenate(
            [np.empty(0, np.int64)]
            + [
                _equal_to_last(bits, offsets, rows[low : low + _COMPARED_ROWS])
                for low in range(0, len(rows), _COMPARED_ROWS)
            ]
        )
    is_repeat[rows] = True
    return is_repeat


_SIZES = ("values", "sites", "parameters")


def _order(batch: TraceBatch) -> NDArray[np.int64]:
    index = batch.layout_index
    keys = [
        np.array([layout.id for layout in batch.layouts], np.uint64)[index],
        batch.trace_types,
        batch.num_sites,
    ]
    return np.lexsort((batch.stream, *keys)).astype(np.int64)


def _equal_to_last(bits: NDArray[np.uint64], offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose the rows whose numbers equal those of the row before, which has as many."""
    # most rows of training sets differ in their first number, and no more of these need be looked at
    first, has_none = offsets[rows], offsets[rows + 1] == offsets[rows]
    last = np.maximum(first - (offsets[rows + 1] - first), 0)
    is_alike = bits[np.minimum(first, len(bits) - 1)] == bits[last] if len(bits) else has_none
    rows = rows[is_alike | has_none]
    sizes = offsets[rows + 1] - offsets[rows]
    places = np.repeat(offsets[rows] - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
    differs = bits[places] != bits[places - np.repeat(sizes, sizes)]
    num_different = np.bincount(np.repeat(np.arange(len(rows)), sizes), differs, len(rows))
    equal: NDArray[np.int64] = rows[num_different == 0]
    return equal


def _number_layouts(states: TraceBatch) -> tuple[tuple[Layout, ...], int, NDArray[np.int32]]:
    """Give numbers to layouts, those of several states first, each kind in order of appearance.

    Returns the layouts, how many have several states, and the new index.
    """
    used, first, inverse, counts = np.unique(
        states.layout_index, return_index=True, return_inverse=True, return_counts=True
    )
    ordered = np.lexsort((first, counts == 1))
    rank = np.empty(len(used), np.int32)
    rank[ordered] = np.arange(len(used), dtype=np.int32)
    layouts = tuple(states.layouts[index] for index in used[ordered].tolist())
    return layouts, int(np.count_nonzero(counts > 1)), rank[inverse]


def _offsets_of(batch: TraceBatch, column: int) -> NDArray[np.int64]:
    """Where each trace starts in a site column."""
    return (batch.value_offsets, batch.site_offsets, batch.parameter_offsets)[column]


def _constants(
    flat: NDArray[np.float64],
    run_layout: NDArray[np.int32],
    num_states: NDArray[np.int64],
    sizes: NDArray[np.int64],
    num_regular: int,
) -> Constants:
    """Find the numbers with equal bits in all states of a layout; layouts of a single state keep theirs."""
    bits = flat.view(np.uint64)
    starts = _starts(num_states * sizes[run_layout])
    seen: dict[int, tuple[NDArray[np.uint64], NDArray[np.bool_]]] = {}
    for run in np.flatnonzero((run_layout < num_regular) & (sizes[run_layout] > 0)):
        layout = int(run_layout[run])
        shape = (int(num_states[run]), int(sizes[layout]))
        rows = bits[starts[run] : starts[run] + shape[0] * shape[1]].reshape(shape)
        first, equal = seen.get(layout, (rows[0], np.ones(shape[1], np.bool_)))
        seen[layout] = first, equal & (rows == first).all(axis=0)
    layouts, indices, values = [np.empty(0, np.int32)], [np.empty(0, np.int32)], [np.empty(0, np.uint64)]
    for layout in sorted(seen):
        first, equal = seen[layout]
        index = np.flatnonzero(equal).astype(np.int32)
        layouts.append(np.full(len(index), layout, np.int32))
        indices.append(index)
        values.append(first[index])
    return Constants(np.concatenate(layouts), np.concatenate(indices), np.concatenate(values).view(np.float64))


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.cumsum(sizes) - sizes


def _require_consistent(batch: TraceBatch) -> None:
    sizes = {
        "values": batch.value_offsets[-1],
        "log_probs": batch.site_offsets[-1],
        "parameters": batch.parameter_offsets[-1],
        **dict.fromkeys((name for name, _ in TRACE_COLUMNS), len(batch)),
    }
    for name, size in sizes.items():
        if len(getattr(batch, name)) != size:
            message = f"`{name}` must have {size} numbers for these layouts; it has {len(getattr(batch, name))}."
            raise InvalidInputError(message, column=name)
    large = np.flatnonzero((batch.values > _MAX_INTEGER) | (batch.values < -_MAX_INTEGER))
    if len(large):
        _require_no_large_integers(batch, large)


def _require_no_large_integers(batch: TraceBatch, large: NDArray[np.int64]) -> None:
    rows = np.searchsorted(batch.value_offsets, large, "right") - 1
    for row, place in zip(rows, large, strict=True):
        layout = batch.layouts[batch.layout_index[row]]
        site = layout.sites[int(np.searchsorted(layout.value_offsets, place - batch.value_offsets[row], "right")) - 1]
        if site.family in _INTEGER_FAMILIES:
            message = (
                f"Integer values are stored exactly up to 2**53; {site.address!r} has {batch.values[place]:.0f}. "
                "Rescale the draw, or tag its logarithm."
            )
            raise InvalidInputError(message, address=site.address)
