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

__all__ = ["MAX_TILE_TRACES", "SITE_COLUMNS", "Constants", "SegmentColumns", "StoredNumbers", "cut_segment"]

SITE_COLUMNS = ("values", "log_probs", "parameters")
"""Columns with several numbers per trace."""

MAX_TILE_TRACES = 1024
MAX_TILE_NUMBERS = 2**17

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
    """The traces in that order, without observations."""
    layouts: tuple[Layout, ...]
    """Layouts in order of first appearance."""
    runs: SegmentRuns
    constants: tuple[Constants, Constants, Constants]
    stored: tuple[StoredNumbers, StoredNumbers, StoredNumbers]

    def tiles(self, column: int) -> Iterator[NDArray[np.float64]]:
        """Yield the tiles of a site column as flat, site-major arrays, in order.

        Parameters
        ----------
        column
            Position in `SITE_COLUMNS`.
        """
        runs, stored = self.runs, self.stored[column]
        flat = getattr(self.batch, SITE_COLUMNS[column])
        sizes = np.diff(stored.first)
        start = 0
        for run in range(len(runs.layout)):
            layout, num_traces = runs.layout[run], int(runs.num_traces[run])
            size, tile_traces = int(sizes[layout]), int(runs.tile_traces[run])
            stop = start + size * num_traces
            if num_traces == 1 and stored.num_slots[layout] == size:
                yield flat[start:stop]
            elif stored.num_slots[layout]:
                kept = stored.slot[stored.first[layout] : stored.first[layout + 1]] >= 0
                rows = flat[start:stop].reshape(num_traces, size)
                for low in range(0, num_traces, tile_traces):
                    yield rows[low : low + tile_traces, kept].T.ravel()
            start = stop


def cut_segment(batches: Sequence[TraceBatch], *, keep_order: bool = False) -> SegmentColumns:
    """Decide rows, runs, constants and tiles of a segment.

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
    joined = TraceBatch.concatenate([replace(batch, observations={}) for batch in batches])
    _require_consistent(joined)
    order = np.arange(len(joined)) if keep_order else _order(joined)
    batch = joined.take(order) if not keep_order else joined
    used, places = _renumber(batch.layout_index)
    layouts = tuple(batch.layouts[index] for index in used)
    batch = replace(batch, layouts=layouts, layout_index=places)

    bounds = np.flatnonzero(np.diff(places, prepend=-1))
    num_traces = np.diff(bounds, append=len(places))
    run_layout = places[bounds]
    sizes = [np.array([getattr(layout, f"num_{name}") for layout in layouts], np.int64) for name in _SIZES]
    counts = np.bincount(places, minlength=len(layouts))
    constants, stored, starts = [], [], []
    for name, size in zip(SITE_COLUMNS, sizes, strict=True):
        found = _constants(getattr(batch, name), run_layout, num_traces, size, counts)
        table = StoredNumbers.build(size, found)
        constants.append(found)
        stored.append(table)
        starts.append(_starts(table.num_slots[run_layout] * num_traces))
    widest = np.maximum(np.max(sizes, axis=0), 1)[run_layout]
    runs = SegmentRuns(
        layout=run_layout,
        layout_id=np.array([layout.id for layout in layouts], np.uint64)[run_layout],
        trace_type=np.array([layout.trace_type for layout in layouts], np.uint64)[run_layout],
        first=bounds,
        num_traces=num_traces,
        num_sites=sizes[1][run_layout].astype(np.int32),
        seconds=np.add.reduceat(batch.seconds.astype(np.float64), bounds),
        tile_traces=np.clip(MAX_TILE_NUMBERS // widest, 1, MAX_TILE_TRACES).astype(np.int32),
        starts=np.stack(starts),
    )
    return SegmentColumns(order, batch, layouts, runs, (*constants,), (*stored,))  # type: ignore[arg-type]  # three each


_SIZES = ("values", "sites", "parameters")


def _order(batch: TraceBatch) -> NDArray[np.int64]:
    index = batch.layout_index
    keys = [
        np.array([layout.id for layout in batch.layouts], np.uint64)[index],
        batch.trace_types,
        batch.num_sites,
    ]
    return np.lexsort((batch.stream, *keys)).astype(np.int64)


def _renumber(index: NDArray[np.int32]) -> tuple[list[int], NDArray[np.int32]]:
    """Renumber layouts in order of first appearance; old numbers by new, and the new index."""
    used, first, inverse = np.unique(index, return_index=True, return_inverse=True)
    by_appearance = np.argsort(first, kind="stable")
    rank = np.empty(len(used), np.int32)
    rank[by_appearance] = np.arange(len(used), dtype=np.int32)
    return used[by_appearance].tolist(), rank[inverse]


def _constants(
    flat: NDArray[np.float64],
    run_layout: NDArray[np.int32],
    num_traces: NDArray[np.int64],
    sizes: NDArray[np.int64],
    counts: NDArray[np.integer],
) -> Constants:
    """Find the numbers with equal bits in all traces of a layout; layouts with a single trace keep theirs."""
    bits = flat.view(np.uint64)
    starts = _starts(num_traces * sizes[run_layout])
    seen: dict[int, tuple[NDArray[np.uint64], NDArray[np.bool_]]] = {}
    for run in np.flatnonzero((counts[run_layout] > 1) & (sizes[run_layout] > 0)):
        layout = int(run_layout[run])
        shape = (int(num_traces[run]), int(sizes[layout]))
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
    large = np.flatnonzero(np.abs(batch.values) > _MAX_INTEGER)
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
