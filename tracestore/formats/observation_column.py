"""One named observation of a segment: rows copied out of blocks, or one row that stands for all."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tracestore.formats.base import ObservationInfo
from tracestore.formats.ipc import BlockFile

__all__ = ["ObservationColumn"]

_WIDE = 32
"""Elements from which a row is copied on its own."""


class ObservationColumn:
    """Reads an observation by rows.

    Parameters
    ----------
    info
        Name, type, shape, constancy.
    file
        The column file; None for rows without elements.
    rows_per_block
        Rows in each block but the last.
    absent_zero
        A constant row stands only for traces that have the observe.
    """

    def __init__(
        self, info: ObservationInfo, file: BlockFile | None, rows_per_block: int, *, absent_zero: bool
    ) -> None:
        self.info = info
        self.absent_zero = absent_zero
        self._file = file
        self._dtype = np.dtype(info.dtype)
        self._width = int(np.prod(info.shape, dtype=np.int64))
        self._rows_per_block = rows_per_block

    @cached_property
    def constant(self) -> NDArray[np.generic] | None:
        """The row that all traces share, or those that have the observe."""
        if not self.info.constant:
            return None
        row = np.empty(self._width, self._dtype)
        if self._file is not None:
            self._file.copy_to(row.view(np.uint8) if self._dtype.kind == "b" else row, 0)
        row.flags.writeable = False
        return row.reshape(self.info.shape)

    def copy_range(self, start: int, out: NDArray[np.generic]) -> None:
        """Copy consecutive rows into `out`, shape ``(num_rows, *shape)``."""
        if self._file is None or not len(out):
            return
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
        if self._file is None or not len(rows):
            return
        starts = rows * self._width + self._file.shifts(rows // self._rows_per_block)
        flat = self._file.map()
        flat = flat.view(np.bool_) if self._dtype.kind == "b" else flat
        if self._width < _WIDE:
            found = flat[starts[:, None] + np.arange(self._width)].reshape(len(rows), *self.info.shape)
            out[slice(len(rows)) if places is None else places] = found
            return
        # wide rows: a plain copy each is quicker than any index array, and needs no memory
        width, shape = self._width, self.info.shape
        for place, start in zip(range(len(rows)) if places is None else places.tolist(), starts.tolist(), strict=True):
            out[place] = flat[start : start + width].reshape(shape)
