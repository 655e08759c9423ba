"""Rows of an observation in chunks that are compressed one by one: found, checked, decoded into place."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xxhash
from numpy.typing import NDArray

from tracestore.errors import ChecksumError, FormatError
from tracestore.formats.base import Verify
from tracestore.formats.blocks import open_file
from tracestore.storage import File, Storage

__all__ = ["ChunkIndex", "ChunkRows", "Decode"]

Decode = Callable[[NDArray[np.uint8], NDArray[np.uint8]], None]
"""Decodes the stored bytes of a chunk into a flat array of its size."""

_FETCHED_CHUNKS = 256
_CHECKED_ROWS = 4
_NARROW_BYTES = 256
"""Rows below this size are gathered by an index array."""


@dataclass(frozen=True, slots=True, eq=False)
class ChunkIndex:
    """Where the chunks of a file are; all arrays have shape ``(num_chunks,)``."""

    offset: NDArray[np.int64]
    nbytes: NDArray[np.int64]
    checksum: NDArray[np.uint64]
    """XXH3-64 of the stored bytes."""

    @staticmethod
    def of(data: NDArray[np.uint8], offsets: Sequence[int], sizes: Sequence[int]) -> "ChunkIndex":
        """Index of chunks in the bytes of a file."""
        found = [
            xxhash.xxh3_64_intdigest(data[start : start + size].data)
            for start, size in zip(offsets, sizes, strict=True)
        ]
        return ChunkIndex(np.array(offsets, np.int64), np.array(sizes, np.int64), np.array(found, np.uint64))


class ChunkRows:
    """Reads the rows of an observation.

    Parameters
    ----------
    storage
        Where the file is.
    file
        The file.
    name
        Name for messages.
    size
        Its bytes.
    index
        Where the chunks are.
    decode
        Decodes a chunk; None when the rows stand in it as they are, from its first byte on.
    dtype, shape
        Of one row.
    rows_per_chunk
        Rows in each chunk but the last.
    num_rows
        Rows in all.
    is_padded
        The last chunk decodes to as many rows as the others.
    verify
        When to compare checksums.
    """

    def __init__(
        self,
        storage: Storage,
        file: str,
        name: str,
        size: int,
        index: ChunkIndex,
        decode: Decode | None,
        dtype: np.dtype[np.generic],
        shape: tuple[int, ...],
        *,
        rows_per_chunk: int,
        num_rows: int,
        is_padded: bool,
        verify: Verify,
    ) -> None:
        self.name = name
        self._storage, self._path, self._size = storage, file, size
        self._index = index
        self._decode = decode
        self._dtype, self._shape = dtype, shape
        self._row_bytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        self._rows_per_chunk = rows_per_chunk
        self._num_rows = num_rows
        self._is_padded = is_padded
        self._verify = verify
        self._is_checked = np.zeros(len(index.offset), np.bool_)
        if len(index.offset) != -(-num_rows // rows_per_chunk):
            message = f"{name} has {len(index.offset)} chunks for {num_rows} rows, {rows_per_chunk} in each."
            raise FormatError(message, file=name)

    def copy_range(self, start: int, out: NDArray[np.generic]) -> None:
        """Copy consecutive rows into `out`, shape ``(num_rows, *shape)``."""
        if out.dtype != self._dtype or not out.flags.c_contiguous:
            self.copy_rows(np.arange(start, start + len(out)), out, None)
            return
        stop, per_chunk = start + len(out), self._rows_per_chunk
        target = _as_bytes(out)
        if self._plain is not None:
            plain = self._plain[:, : self._row_bytes]
            if self._must_check_any(slice(start, stop)):
                # what was just hashed is copied while it is still in the cache
                for low in range(start, stop, _CHECKED_ROWS):
                    high = min(low + _CHECKED_ROWS, stop)
                    self._touch(range(low, high))
                    np.copyto(target[low - start : high - start], plain[low:high])
            else:
                np.copyto(target, plain[start:stop])
            return
        numbers = np.arange(start // per_chunk, -(-stop // per_chunk))
        for number, data in self._fetch(numbers):
            first = number * per_chunk
            low, high = max(start, first), min(stop, first + self._num_rows_of(number))
            if low == first and high == first + self._rows_in(number):
                self._decode_chunk(number, data, target[low - start : high - start].reshape(-1))
            else:
                target[low - start : high - start] = self._scratch(number, data)[low - first : high - first]

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
        if not len(rows):
            return
        places = np.arange(len(rows)) if places is None else places
        if out.dtype != self._dtype or not out.flags.c_contiguous:
            for low in range(0, len(rows), _FETCHED_CHUNKS):
                part = rows[low : low + _FETCHED_CHUNKS]
                same = np.empty((len(part), *self._shape), self._dtype)
                self.copy_rows(part, same, None)
                out[places[low : low + _FETCHED_CHUNKS]] = same
            return
        target = _as_bytes(out)
        if self._plain is not None:
            if self._must_check_any(rows):
                self._touch(dict.fromkeys(rows.tolist()))
            # a plain copy each is quicker than an index array, and needs no memory
            plain, width = self._plain, self._row_bytes
            for place, row in zip(places.tolist(), rows.tolist(), strict=True):
                target[place] = plain[row, :width]
        elif self._decode is None and self._storage.is_local:
            self._gather(rows, target, places)
        elif self._rows_per_chunk == 1:
            for place, (number, data) in zip(places.tolist(), self._fetch(rows), strict=True):
                self._decode_chunk(number, data, target[place])
        else:
            self._copy_shared(rows, target, places)

    def _gather(self, rows: NDArray[np.int64], target: NDArray[np.uint8], places: NDArray[np.int64]) -> None:
        """Copy mapped rows that share chunks, as they are."""
        home = rows // self._rows_per_chunk
        if self._must_check_any(home):
            self._touch(dict.fromkeys(home.tolist()))
        starts = self._index.offset[home] + (rows - home * self._rows_per_chunk) * self._row_bytes
        width, data = self._row_bytes, self._file.data
        if width < _NARROW_BYTES:
            target[places] = data[starts[:, None] + np.arange(width)]
            return
        for place, start in zip(places.tolist(), starts.tolist(), strict=True):
            target[place] = data[start : start + width]

    def _copy_shared(self, rows: NDArray[np.int64], target: NDArray[np.uint8], places: NDArray[np.int64]) -> None:
        """Copy rows out of chunks that hold several, decoding each chunk once."""
        home = rows // self._rows_per_chunk
        order = np.argsort(home, kind="stable")
        numbers, starts = np.unique(home[order], return_index=True)
        groups = np.split(order, starts[1:])
        for group, (number, data) in zip(groups, self._fetch(numbers), strict=True):
            chunk = self._scratch(number, data)
            target[places[group]] = chunk[rows[group] - number * self._rows_per_chunk]

    def problems(self) -> list[str]:
        """Check every chunk, whatever `verify` says."""
        found = []
        data = self._file.data
        self._file.load(0, self._size)
        for number in range(len(self._is_checked)):
            start = int(self._index.offset[number])
            try:
                self._check(number, data[start : start + int(self._index.nbytes[number])])
            except ChecksumError as error:
                found.append(str(error))
        return found

    @cached_property
    def _file(self) -> File:
        return open_file(self._storage, self._path, self.name, self._size)

    @cached_property
    def _plain(self) -> NDArray[np.uint8] | None:
        """Local rows that stand at equal distances as they are, one a chunk: shape ``(num_rows, distance)``."""
        offset, nbytes = self._index.offset, self._index.nbytes
        is_even = len(offset) > 0 and bool((nbytes == nbytes[0]).all()) and bool((np.diff(offset) == nbytes[0]).all())
        if self._decode is not None or self._rows_per_chunk != 1 or not is_even or not self._storage.is_local:
            return None
        stop = int(offset[0] + nbytes[0] * len(offset))
        return self._file.data[offset[0] : stop].reshape(len(offset), nbytes[0])

    def _fetch(self, numbers: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield chunks with their checked bytes, in the order asked for."""
        for low in range(0, len(numbers), _FETCHED_CHUNKS):
            part = numbers[low : low + _FETCHED_CHUNKS]
            starts = self._index.offset[part]
            found = self._file.ranges(starts.tolist(), (starts + self._index.nbytes[part]).tolist())
            for number, data in zip(part.tolist(), found, strict=True):
                if self._must_check(number):
                    self._check(number, data)
                yield number, data

    @cached_property
    def _plain_index(self) -> tuple[memoryview, list[int], list[int], list[int]]:
        """The bytes of the file, and the index as plain numbers: single chunks are found without numpy's overhead."""
        index = self._index
        return self._file.data.data, index.offset.tolist(), index.nbytes.tolist(), index.checksum.tolist()

    def _touch(self, numbers: Iterable[int]) -> None:
        """Check chunks of a mapped file."""
        data, offset, nbytes, checksum = self._plain_index
        for number in numbers:
            if self._must_check(number):
                start = offset[number]
                chunk = data[start : start + nbytes[number]]
                if xxhash.xxh3_64_intdigest(chunk) != checksum[number]:
                    self._check(number, np.frombuffer(chunk, np.uint8))
                self._is_checked[number] = True

    def _must_check_any(self, numbers: slice | NDArray[np.int64]) -> bool:
        return self._verify == "always" or (self._verify == "first" and not self._is_checked[numbers].all())

    def _must_check(self, number: int) -> bool:
        return self._verify == "always" or (self._verify == "first" and not self._is_checked[number])

    def _check(self, number: int, data: NDArray[np.uint8]) -> None:
        found, expected = xxhash.xxh3_64_intdigest(data.data), int(self._index.checksum[number])
        if found != expected:
            message = (
                f"{self.name}, block {number}, was altered: its checksum is {found:016x}, sealed as {expected:016x}; "
                "restore the file from a copy, or quarantine the segment."
            )
            raise ChecksumError(message, file=self.name, block=number, expected=expected, found=found)
        self._is_checked[number] = True

    def _rows_in(self, number: int) -> int:
        """Rows that a chunk decodes to."""
        return self._rows_per_chunk if self._is_padded else self._num_rows_of(number)

    def _num_rows_of(self, number: int) -> int:
        """Rows of the observation in a chunk."""
        return min(self._rows_per_chunk, self._num_rows - number * self._rows_per_chunk)

    def _scratch(self, number: int, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Rows of a chunk, as bytes."""
        chunk = np.empty((self._rows_in(number), self._row_bytes), np.uint8)
        self._decode_chunk(number, data, chunk.reshape(-1))
        return chunk

    def _decode_chunk(self, number: int, data: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        if self._decode is None:
            out[:] = data[: len(out)]
            return
        try:
            self._decode(data, out)
        except (OSError, RuntimeError, ValueError) as error:
            message = f"{self.name}, block {number}, cannot be decompressed: {error}; restore the file from a copy."
            raise FormatError(message, file=self.name, block=number) from error


def _as_bytes(rows: NDArray[np.generic]) -> NDArray[np.uint8]:
    """View contiguous rows as bytes, shape ``(num_rows, row_bytes)``."""
    return rows.reshape(len(rows), -1).view(np.uint8)
