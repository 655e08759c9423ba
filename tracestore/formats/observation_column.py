"""One named observation of a segment: rows copied out of its file, or one row that stands for all."""

from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tracestore.formats.base import ObservationInfo
from tracestore.formats.blocks import BlockFile

__all__ = ["BlockRows", "ObservationColumn", "StoredRows"]

_WIDE = 32
"""Elements from which a row is copied on its own."""


class StoredRows(Protocol):
    """Rows of an observation in a file."""

    def copy_range(self, start: int, out: NDArray[np.generic]) -> None:
        """Copy consecutive rows into `out`, shape ``(num_rows, *shape)``."""

    def copy_rows(self, rows: NDArray[np.int64], out: NDArray[np.generic], places: NDArray[np.int64] | None) -> None:
        """Copy rows, in any order, into ``out[places]``; None for the first ones, in order."""


class ObservationColumn:
    """Reads an observation by rows.

    Parameters
    ----------
    info
        Name, type, shape, constancy.
    rows
        Where the rows are; None for rows without elements.
    absent_zero
        A constant row stands only for traces that have the observe.
    """

    def __init__(self, info: ObservationInfo, rows: StoredRows | None, *, absent_zero: bool) -> None:
        self.info = info
        self.absent_zero = absent_zero
        self.rows = rows

    @cached_property
    def constant(self) -> NDArray[np.generic] | None:
        """The row that all traces share, or those that have the observe."""
        if not self.info.constant:
            return None
        row: NDArray[np.generic] = np.empty((1, *self.info.shape), self.info.dtype)
        self.copy_range(0, row)
        row.flags.writeable = False
        return row.reshape(self.info.shape)

    def copy_range(self, start: int, out: NDArray[np.generic]) -> None:
        """Copy consecutive rows into `out`, shape ``(num_rows, *shape)``."""
        if self.rows is not None and len(out):
            self.rows.copy_range(start, out)

    def copy_rows(self, rows: NDArray[np.int64], out: NDArray[np.generic], places: NDArray[np.int64] | None) -> None:
        """Copy rows, in any order, into ``out[places]``; None for the first ones, in order."""
        if self.rows is not None and len(rows):
            self.rows.copy_rows(rows, out, places)


class BlockRows:
    """Rows that stand uncompressed in blocks.

    Parameters
    ----------
    file
        The column file.
    dtype, shape
        Of one row.
    rows_per_block
        Rows in each block but the last.
    """

    def __init__(
        self, file: BlockFile, dtype: np.dtype[np.generic], shape: tuple[int, ...], rows_per_block: int
    ) -> None:
        self._file = file
        self._dtype = dtype
        self._shape = shape
        self._width = int(np.prod(shape, dtype=np.int64))
        self._rows_per_block = rows_per_block

    def copy_range(self, start: int, out: NDArray[np.generic]) -> None:
        """Copy consecutive rows into `out`, shape ``(num_rows, *shape)``."""
        if out.dtype == self._dtype and out.flags.c_contiguous:
            flat = out.reshape(-1)
            self._file.copy_to(flat.view(np.uint8) if self._dtype.kind == "b" else flat, start * self._width)
            return
        self.copy_rows(np.arange(start, start + len(out)), out, None)

    def copy_rows(self, rows: NDArray[np.int64], out: NDArray[np.generic], places: NDArray[np.int64] | None) -> None:
        """Copy rows, in any order, into ``out[places]``.

        Parameters
        ----------
        rows
            Rows of the segment.
        out
            Shape ``(at least num_rows, *shape)``.
        places
            Where each row goes; None for the first ones, in order.
        """
        starts = rows * self._width + self._file.shifts(rows // self._rows_per_block)
        flat = self._file.map()
        flat = flat.view(np.bool_) if self._dtype.kind == "b" else flat
        if self._width < _WIDE:
            found = flat[starts[:, None] + np.arange(self._width)].reshape(len(rows), *self._shape)
            out[slice(len(rows)) if places is None else places] = found
            return
        # wide rows: a plain copy each is quicker than any index array, and needs no memory
        width, shape = self._width, self._shape
        for place, start in zip(range(len(rows)) if places is None else places.tolist(), starts.tolist(), strict=True):
            out[place] = flat[start : start + width].reshape(shape)
