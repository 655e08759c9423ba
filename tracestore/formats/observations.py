"""Observations of a segment on the way to disk: common type and shape, what is constant, rows in blocks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.formats.base import ObservationInfo
from tracestore.formats.document import digest
from tracestore.traces.batch import TraceBatch, is_constant

__all__ = ["ObservationRows", "gather_observations"]

_COMPARED_ROWS = 64


@dataclass(frozen=True, slots=True)
class ObservationRows:
    """One named observation over the batches of a segment."""

    name: str
    dtype: np.dtype[np.generic]
    """Little-endian."""
    shape: tuple[int, ...]
    parts: tuple[NDArray[np.generic], ...]
    """Rows of each batch; a batch without the observation has zeros."""
    constant: NDArray[np.generic] | None
    """The one row that all traces share."""
    absent_zero: bool
    """The row is shared by the traces that have the observe; the others are zero."""

    @property
    def info(self) -> ObservationInfo:
        """Record of the observation."""
        constant = "" if self.constant is None else digest(self.constant.tobytes())
        return ObservationInfo(self.name, self.dtype.str, self.shape, constant)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))

    def blocks(self, order: NDArray[np.int64], rows_per_block: int) -> Iterator[NDArray[np.generic]]:
        """Yield blocks of rows, flat.

        Parameters
        ----------
        order
            Row of the segment to trace, counted over all batches.
        rows_per_block
            Rows in each block but the last.
        """
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(part) for part in self.parts])])
        for low in range(0, len(order), rows_per_block):
            rows = order[low : low + rows_per_block]
            part_of = np.searchsorted(starts, rows, "right") - 1
            yield self._gather(rows - starts[part_of], part_of).reshape(-1)

    def _gather(self, rows: NDArray[np.int64], part_of: NDArray[np.int64]) -> NDArray[np.generic]:
        first = part_of[0]
        if (part_of == first).all():
            part = self.parts[first]
            is_slice = bool((np.diff(rows) == 1).all())
            chosen = part[rows[0] : rows[0] + len(rows)] if is_slice else part[rows]
            return np.ascontiguousarray(chosen, self.dtype)
        block = np.empty((len(rows), *self.shape), self.dtype)
        for index in np.unique(part_of):
            chosen = part_of == index
            block[chosen] = self.parts[index][rows[chosen]]
        return block


def gather_observations(batches: Sequence[TraceBatch]) -> list[ObservationRows]:
    """Collect the named observations of batches, in order of first appearance.

    Parameters
    ----------
    batches
        At least one batch.

    Raises
    ------
    InvalidInputError
        When an observation is not numeric, or its shape differs between batches.
    """
    names = dict.fromkeys(name for batch in batches for name in batch.observations)
    return [_gather_one(name, batches) for name in names]


def _gather_one(name: str, batches: Sequence[TraceBatch]) -> ObservationRows:
    given = [batch.observations[name] for batch in batches if name in batch.observations]
    shape = given[0].shape[1:]
    for part in given:
        if part.dtype.kind not in "biuf" or part.dtype.itemsize > 8:
            message = f"Observation {name!r} must have numbers of up to 8 bytes; its type is {part.dtype}."
            raise InvalidInputError(message, name=name)
        if part.shape[1:] != shape:
            message = (
                f"Observation {name!r} has shape {part.shape[1:]} in one batch and {shape} in another; "
                "give observations of different shapes different names."
            )
            raise InvalidInputError(message, name=name)
    # the types of one observation may differ between batches (an integer here, a float there)
    dtype = np.result_type(*given).newbyteorder("<")
    zero = np.zeros((), dtype)
    parts = tuple(
        batch.observations[name] if name in batch.observations else np.broadcast_to(zero, (len(batch), *shape))
        for batch in batches
    )
    for part, batch in zip(parts, batches, strict=True):
        if len(part) != len(batch):
            message = f"Observation {name!r} has {len(part)} rows in a batch of {len(batch)} traces."
            raise InvalidInputError(message, name=name)
    present = [batch.has_observation(name) for batch in batches]
    return ObservationRows(name, dtype, shape, parts, *_find_constant(parts, present, dtype, shape))


def _find_constant(
    parts: Sequence[NDArray[np.generic]],
    present: Sequence[NDArray[np.bool_]],
    dtype: np.dtype[np.generic],
    shape: tuple[int, ...],
) -> tuple[NDArray[np.generic] | None, bool]:
    """Find the row that all traces share, or all that have the observe while the others are zero."""
    rows = [np.flatnonzero(mask) for mask in present]
    where = next((index for index, found in enumerate(rows) if len(found)), None)
    row = parts[0][0] if where is None else parts[where][rows[where][0]]
    row = np.array(row, dtype)  # a copy of its own, contiguous
    if all(_all_equal(part, slice(None), row) for part in parts):
        return row, False
    zero = np.zeros(shape, dtype)
    for part, mask in zip(parts, present, strict=True):
        if not _all_equal(part, mask, row) or not _all_equal(part, ~mask, zero):
            return None, False
    return row, True


def _all_equal(part: NDArray[np.generic], chosen: slice | NDArray[np.bool_], row: NDArray[np.generic]) -> bool:
    """Whether the chosen rows equal a row bit by bit; ends at the first difference."""
    if is_constant(part):
        part = part[:1] if isinstance(chosen, slice) or chosen.any() else part[:0]
        chosen = slice(None)
    rows = np.arange(len(part)) if isinstance(chosen, slice) else np.flatnonzero(chosen)
    expected = row.tobytes()
    # single rows first, the very first being the row itself: observations that vary are found out by the second
    bounds = [0, 1, 2, *range(2 + _COMPARED_ROWS, len(rows) + _COMPARED_ROWS, _COMPARED_ROWS)]
    for low, high in pairwise(bounds):
        found = np.ascontiguousarray(part[rows[low:high]], row.dtype)
        if found.tobytes() != expected * len(found):
            return False
    return True
