"""One named observation of a segment: rows copied out of blocks, or one row that stands for all."""

from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tracestore.formats.base import ObservationInfo
from tracestore.formats.ipc import BlockFile

__all__ = ["ObservationColumn"]


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
        for block in range(start // self._rows_per_block, (start + len(out) - 1) // self._rows_per_block + 1):
            rows = self._block(block)
            first = block * self._rows_per_block
            low, high = max(start, first), min(start + len(out), first + len(rows))
            out[low - start : high - start] = rows[low - first : high - first]

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
        blocks, within = np.divmod(rows, self._rows_per_block)
        order = None if (np.diff(blocks) >= 0).all() else np.argsort(blocks, kind="stable")
        if order is not None:
            blocks, within = blocks[order], within[order]
            places = order if places is None else places[order]
        bounds = [0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), len(blocks)]
        for low, high in pairwise(bounds):
            source = self._block(int(blocks[low]))
            if high - low == 1:  # large rows: one block holds few, and a plain copy is the quickest
                out[low if places is None else places[low]] = source[within[low]]
            else:
                out[slice(low, high) if places is None else places[low:high]] = source[within[low:high]]

    def _block(self, block: int) -> NDArray[np.generic]:
        file = self._file
        if file is None:
            message = "an observation without elements has no blocks"
            raise ValueError(message)
        rows = file.view(block, int(file.first[block]), int(file.first[block + 1]))
        rows = rows.view(np.bool_) if self._dtype.kind == "b" else rows
        return rows.reshape(-1, *self.info.shape)
