"""Flat columns in files that are cut into checksummed blocks, whatever container holds them (format 3.4, 3.5).

The file is mapped once, and the recorded offset of each block's data makes the map a flat numpy array. So reading
needs no threads, no locks and no parsing, and survives a fork. Of a remote file the blocks are fetched when touched.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import xxhash
from numpy.typing import NDArray

from tracestore.errors import ChecksumError, FormatError
from tracestore.formats.base import Verify
from tracestore.formats.document import JSON
from tracestore.storage import File, Storage

__all__ = ["BlockFile", "Kept", "check_range", "checksums", "open_file"]


def open_file(storage: Storage, file: str, name: str, size: int) -> File:
    """Open a file for reading in parts.

    Parameters
    ----------
    storage
        Where it is.
    file
        The file.
    name
        Name for messages.
    size
        Bytes that it must have.

    Raises
    ------
    FormatError
        When it is missing or has another size.
    """
    try:
        opened = storage.open(file)
    except FileNotFoundError as error:
        message = f"{name} is missing; restore the file from a copy, or quarantine the segment."
        raise FormatError(message, file=name) from error
    if opened.size != size:
        message = f"{name} has {opened.size} bytes, {size} were sealed; restore the file from a copy."
        raise FormatError(message, file=name, expected=size, found=opened.size)
    return opened


@dataclass
class Kept:
    """Bytes that the files of a segment keep in memory."""

    nbytes: int = 0


class BlockFile:
    """Reads a column file by element, mapped, checking each block when it is touched.

    Parameters
    ----------
    storage
        Where the file is.
    file
        The file.
    name
        Name for messages.
    record
        What the seal says of the file.
    dtypes
        Type of each column.
    verify
        When to compare checksums.
    kept
        Counts the bytes that stay in memory: those fetched of a remote file.
    """

    def __init__(
        self,
        storage: Storage,
        file: str,
        name: str,
        record: Mapping[str, JSON],
        dtypes: Sequence[np.dtype[np.generic]],
        verify: Verify,
        kept: Kept,
    ) -> None:
        self.name = name
        self._storage, self._path = storage, file
        self._dtypes = dtypes
        self._verify = verify
        self._kept = kept
        self._size = cast("int", record["size"])
        rows = np.array(record["rows"], np.int64)
        self.first = np.concatenate([[0], np.cumsum(rows)])
        """First element of each block, and the number of elements, shape ``(num_blocks + 1,)``."""
        data = np.array(record["data"], np.int64).reshape(len(rows), -1)
        itemsizes = np.array([dtype.itemsize for dtype in dtypes])
        if data.shape[1] != len(dtypes) or (data % itemsizes).any():
            message = f"{name} has blocks that do not follow the format; the seal was not written by tracestore."
            raise FormatError(message, file=name)
        self._shifts = data // itemsizes - self.first[:-1, None]
        self._ends = np.array(record["ends"], np.int64)
        self._checksums = cast("list[str]", record["checksums"])
        # plain numbers beside the arrays: single blocks are looked up without numpy's overhead
        self._first_of: list[int] = self.first.tolist()
        self._shift_of: list[list[int]] = self._shifts.tolist()
        self._is_checked = np.zeros(len(self._ends), np.bool_)

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return len(self.first) - 1

    @cached_property
    def _file(self) -> File:
        return open_file(self._storage, self._path, self.name, self._size)

    @cached_property
    def _maps(self) -> list[NDArray[np.generic]]:
        return [np.frombuffer(self._file.data, dtype, self._size // dtype.itemsize) for dtype in self._dtypes]

    def block_of(self, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        """Block of each element."""
        return np.searchsorted(self.first, elements, "right") - 1

    def block_at(self, element: int) -> int:
        """Block of one element."""
        return bisect_right(self._first_of, element) - 1

    def shifts(self, blocks: NDArray[np.int64], column: int = 0) -> NDArray[np.int64]:
        """Check blocks, and tell what to add to their elements to find them in the flat map of the file."""
        self.touch_all(blocks)
        shifts: NDArray[np.int64] = self._shifts[blocks, column]
        return shifts

    def shifts_unchecked(self, blocks: NDArray[np.int64], column: int = 0) -> NDArray[np.int64]:
        """Tell the same of blocks whose bytes are checked otherwise; for local files."""
        shifts: NDArray[np.int64] = self._shifts[blocks, column]
        return shifts

    def peek(self, start: int, stop: int) -> NDArray[np.generic]:
        """View elements of one block of a local file, unchecked."""
        shift = self._shift_of[self.block_at(start)][0]
        return self._maps[0][start + shift : stop + shift]

    def map(self, column: int = 0) -> NDArray[np.generic]:
        """Return the file as one flat array of the column's type; use only elements of checked blocks."""
        return self._maps[column]

    def expect(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        """Say which elements of the flat map of a local file, ascending, will be read next."""
        self._file.expect(starts * self._dtypes[0].itemsize, stops * self._dtypes[0].itemsize)

    def view(self, block: int, start: int, stop: int, column: int = 0) -> NDArray[np.generic]:
        """View elements of one block, zero copy; `start` and `stop` count from the beginning of the file."""
        self.touch(block)
        shift = self._shift_of[block][column]
        return self._maps[column][start + shift : stop + shift]

    def copy_to(self, out: NDArray[np.generic], start: int, column: int = 0) -> None:
        """Copy consecutive elements into a flat array, block by block."""
        stop = start + len(out)
        if start == stop:
            return
        first = self.block_at(start)
        if stop <= self._first_of[first + 1]:
            out[:] = self.view(first, start, stop, column)
            return
        for block in range(first, self.block_at(stop - 1) + 1):
            low, high = max(start, self._first_of[block]), min(stop, self._first_of[block + 1])
            out[low - start : high - start] = self.view(block, low, high, column)

    def touch_all(self, blocks: NDArray[np.int64]) -> None:
        """Check the checksums of blocks, each once."""
        if self._verify != "always" and self._is_checked[blocks].all():
            return
        for block in np.unique(blocks):
            self.touch(int(block))

    def touch(self, block: int) -> None:
        """Check the checksum of a block as `verify` asks.

        Raises
        ------
        ChecksumError
            When its bytes changed.
        """
        if self._is_checked[block] and self._verify != "always":
            return
        footer = self.num_blocks
        if not self._is_checked[footer] and self._verify != "off":
            self._check(footer)
        self._check(block)

    def _check(self, index: int) -> None:
        start, stop = int(self._ends[index - 1]) if index else 0, int(self._ends[index])
        self._file.load(start, stop)
        if not self._storage.is_local and not self._is_checked[index]:
            self._kept.nbytes += stop - start
        if self._verify != "off":
            check_range(self._file.data[start:stop], self._checksums[index], self.name, index)
        self._is_checked[index] = True


def check_range(data: NDArray[np.uint8], expected: str, name: str, index: int) -> None:
    """Compare the checksum of a range of a file.

    Raises
    ------
    ChecksumError
        When it differs.
    """
    found = xxhash.xxh3_64_hexdigest(data.data)
    if found != expected:
        message = (
            f"{name}, block {index}, was altered: its checksum is {found}, sealed as {expected}; "
            "restore the file from a copy, or quarantine the segment."
        )
        raise ChecksumError(message, file=name, block=index, expected=expected, found=found)


def checksums(data: NDArray[np.uint8], ends: Sequence[int]) -> list[str]:
    """Checksums of ranges that tile a file, given where each ends."""
    starts = [0, *ends[:-1]]
    return [xxhash.xxh3_64_hexdigest(data[start:end].data) for start, end in zip(starts, ends, strict=True)]
