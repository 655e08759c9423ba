"""Arrow IPC files cut into checksummed ranges: tables read whole, columns read by block (format 3.1 to 3.8).

Columns are not read through Arrow: the file is mapped once, and the recorded offset of each block's data makes the
map a flat numpy array. So reading needs no threads, no locks and no parsing, and survives a fork.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from tracestore.errors import ChecksumError, FormatError
from tracestore.formats.base import Verify
from tracestore.formats.document import JSON

__all__ = ["BLOCK_BYTES", "BlockFile", "BlockWriter", "map_file", "read_table", "write_table"]

BLOCK_BYTES = 2**20
"""Target size of a block."""

_NO_THREADS = pa.ipc.IpcReadOptions(use_threads=False)


def map_file(path: Path, name: str, size: int) -> NDArray[np.uint8]:
    """Map a file read-only, without keeping it open.

    Raises
    ------
    FormatError
        When it is missing or has another size.
    """
    try:
        with pa.memory_map(str(path)) as source:
            data = np.frombuffer(source.read_buffer(), np.uint8)
    except FileNotFoundError as error:
        message = f"{name} is missing; restore the file from a copy, or remove the segment."
        raise FormatError(message, file=name) from error
    if len(data) != size:
        message = f"{name} has {len(data)} bytes, {size} were sealed; restore the file from a copy."
        raise FormatError(message, file=name, expected=size, found=len(data))
    return data


class BlockWriter:
    """Writes a column file block by block.

    Parameters
    ----------
    path
        The new file.
    columns
        Name and type of each column.
    """

    def __init__(self, path: Path, columns: Sequence[tuple[str, np.dtype[np.generic]]]) -> None:
        self._path = path
        fields = [pa.field(name, pa.from_numpy_dtype(dtype), nullable=False) for name, dtype in columns]
        self._schema = pa.schema(fields)
        self._rows: list[int] = []
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)

    def write(self, arrays: Sequence[NDArray[np.generic]]) -> None:
        """Write one block; all arrays have the same length, above 0."""
        batch = pa.record_batch([pa.array(array) for array in arrays], schema=self._schema)
        self._rows.append(batch.num_rows)
        self._writer.write_batch(batch)

    def close(self) -> dict[str, JSON]:
        """Finish the file; return what the seal records of it."""
        self._writer.close()
        self._sink.close()
        with pa.memory_map(str(self._path)) as source:
            whole = source.read_buffer()
        reader = pa.ipc.open_file(whole)
        # where Arrow put the data is asked, not computed: padding is its own affair
        data, ends = [], []
        for index in range(reader.num_record_batches):
            buffers = [column.buffers()[1] for column in reader.get_batch(index).columns]
            data.append([buffer.address - whole.address for buffer in buffers])
            ends.append(max(buffer.address - whole.address + buffer.size for buffer in buffers))
        ends.append(whole.size)
        return {
            "size": whole.size,
            "rows": self._rows,
            "data": data,
            "ends": ends,
            "checksums": _checksums(np.frombuffer(whole, np.uint8), ends),
        }


class BlockFile:
    """Reads a column file by element, mapped, checking each block when it is touched.

    Parameters
    ----------
    path
        The file.
    name
        Name for messages.
    record
        What the seal says of the file.
    dtypes
        Type of each column.
    verify
        When to compare checksums.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        record: Mapping[str, JSON],
        dtypes: Sequence[np.dtype[np.generic]],
        verify: Verify,
    ) -> None:
        self.name = name
        self._path = path
        self._dtypes = dtypes
        self._verify = verify
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
    def _data(self) -> NDArray[np.uint8]:
        return map_file(self._path, self.name, self._size)

    @cached_property
    def _maps(self) -> list[NDArray[np.generic]]:
        return [np.frombuffer(self._data, dtype, self._size // dtype.itemsize) for dtype in self._dtypes]

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

    def map(self, column: int = 0) -> NDArray[np.generic]:
        """Return the file as one flat array of the column's type; use only elements of checked blocks."""
        return self._maps[column]

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
        if self._verify == "first" and self._is_checked[blocks].all():
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
        if self._verify == "off" or (self._verify == "first" and self._is_checked[block]):
            return
        footer = self.num_blocks
        if not self._is_checked[footer]:
            self._check(footer)
        self._check(block)

    def check_all(self) -> None:
        """Check every range of the file, whatever `verify` says."""
        for index in range(len(self._ends)):
            self._check(index)

    def _check(self, index: int) -> None:
        start = self._ends[index - 1] if index else 0
        check_range(self._data[start : self._ends[index]], self._checksums[index], self.name, index)
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
            "restore the file from a copy, or remove the segment."
        )
        raise ChecksumError(message, file=name, block=index, expected=expected, found=found)


def write_table(path: Path, columns: Mapping[str, pa.Array]) -> dict[str, JSON]:
    """Write a small table; return what the seal records of it."""
    fields = [pa.field(name, array.type, nullable=False) for name, array in columns.items()]
    schema = pa.schema(fields)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    data = np.frombuffer(path.read_bytes(), np.uint8)
    return {"size": len(data), "ends": [len(data)], "checksums": _checksums(data, [len(data)])}


def read_table(path: Path, name: str, record: Mapping[str, JSON], verify: Verify) -> pa.Table:
    """Read a small table, checked.

    Raises
    ------
    FormatError
        When it is missing, has another size, or is not Arrow.
    ChecksumError
        When its bytes changed.
    """
    data = map_file(path, name, cast("int", record["size"]))
    if verify != "off":
        check_range(data, cast("list[str]", record["checksums"])[0], name, 0)
    try:
        return pa.ipc.open_file(pa.py_buffer(data), options=_NO_THREADS).read_all()
    except pa.ArrowInvalid as error:
        message = f"{name} is not an Arrow file: {error}."
        raise FormatError(message, file=name) from error


def _checksums(data: NDArray[np.uint8], ends: Sequence[int]) -> list[str]:
    starts = [0, *ends[:-1]]
    return [xxhash.xxh3_64_hexdigest(data[start:end].data) for start, end in zip(starts, ends, strict=True)]
