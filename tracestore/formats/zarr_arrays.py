"""Zarr v3 arrays and groups as files, written without zarr-python; knows nothing of traces.

zarr-python can write them too, but it needs a thread of its own, which writers in forked processes cannot have, holds a
whole shard in memory, and does not tell where it put the chunks. What is here is written in one go and never changed.

Reference: the Zarr v3 core specification, and its codec ``sharding_indexed``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from tracestore.errors import FormatError, InvalidInputError, StoreExistsError
from tracestore.formats.zarr_codecs import CRC_BYTES, append_crc, encode, inner_codecs, split_crc
from tracestore.formats.zarr_metadata import array_metadata, group_metadata, stored_dtype

__all__ = [
    "ShardRecord",
    "ShardWriter",
    "index_bytes",
    "read_shard_index",
    "shard_codecs",
    "shard_index",
    "write_array",
    "write_group",
]

_METADATA = "zarr.json"
_ENTRY = np.dtype("<u8")
_ENTRY_BYTES = 16
_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
_MOST_BYTES = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """Where the chunks of a shard are."""

    offsets: NDArray[np.int64]
    """First byte of each chunk in the file."""
    nbytes: NDArray[np.int64]
    """Stored bytes of each chunk."""
    checksums: NDArray[np.uint64]
    """XXH3-64 of the stored bytes of each chunk."""
    size: int
    """Bytes of the file; 0 when there is none, because there are no rows."""
    index_start: int
    """Where the index begins, which is where the last chunk ends."""


class ShardWriter:
    """Writes an array whose chunks are all in one file, a shard, chunk by chunk.

    Chunks split the first axis only, follow each other without gaps, and are all stored, also those of zeros. Memory
    holds one chunk. An array is there once `close` has written its metadata; leaving a ``with`` block without `close`
    abandons it.

    Parameters
    ----------
    directory
        The new array.
    shape
        Rows, and the shape of one row; the rows of a one-dimensional array are numbers.
    dtype
        Booleans, integers or floats of up to 8 bytes.
    rows_per_chunk
        Rows in each chunk; the last one is filled up with zeros.
    codec
        ``none``, ``lz4`` or ``zstd``, each followed by a CRC32C; or ``raw``, numbers alone, with which the file begins
        with the flat little-endian array.
    attributes
        Attributes of the array.
    dimension_names
        A name for each axis.

    Raises
    ------
    InvalidInputError
        When the array cannot be stored like this.
    StoreExistsError
        When the directory exists.

    Examples
    --------
    >>> with ShardWriter(Path("energy"), (3, 2), np.float32, rows_per_chunk=2, codec="none") as writer:
    ...     writer.write(np.ones((2, 2), np.float32))
    ...     writer.write(np.ones((1, 2), np.float32))
    ...     record = writer.close()
    >>> record.offsets.tolist(), record.nbytes.tolist(), record.index_start, record.size
    ([0, 20], [20, 20], 40, 76)
    """

    def __init__(
        self,
        directory: Path,
        shape: tuple[int, ...],
        dtype: np.typing.DTypeLike,
        rows_per_chunk: int,
        codec: str,
        attributes: Mapping[str, object] | None = None,
        dimension_names: Sequence[str] | None = None,
    ) -> None:
        self._dtype = stored_dtype(np.dtype(dtype))
        self._shape, self._rows_per_chunk, self._codec = shape, rows_per_chunk, codec
        if not shape or shape[0] < 0:
            message = f"`shape` must begin with the number of rows; got {shape}."
            raise InvalidInputError(message, argument="shape")
        if min(shape[1:], default=1) < 1:
            message = f"Rows of shape {shape[1:]} have no elements, which a shard cannot store; leave the array out."
            raise InvalidInputError(message, argument="shape")
        if rows_per_chunk < 1:
            message = f"`rows_per_chunk` must be positive; got {rows_per_chunk}."
            raise InvalidInputError(message, argument="rows_per_chunk")
        self._num_chunks = -(-shape[0] // rows_per_chunk)
        self._chunk_bytes = self._dtype.itemsize * rows_per_chunk * int(np.prod(shape[1:], dtype=np.int64))
        self._metadata = array_metadata(
            shape,
            self._dtype,
            chunk_shape=(max(self._num_chunks, 1) * rows_per_chunk, *shape[1:]),
            codecs=shard_codecs(codec, (rows_per_chunk, *shape[1:]), self._dtype),
            attributes=attributes,
            dimension_names=dimension_names,
        )
        self._nbytes: list[int] = []
        self._checksums: list[int] = []
        _create(directory)
        self._directory = directory
        self._file = None
        if self._num_chunks:
            path = _chunk_path(directory, (0,) * len(shape))
            path.parent.mkdir(parents=True)
            self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, rows: NDArray[np.generic]) -> None:
        """Write the rows of the next chunk.

        Parameters
        ----------
        rows
            As many rows as a chunk has; for the last chunk those that are left.

        Raises
        ------
        InvalidInputError
            When the number of rows, their shape or their type is another.
        """
        number = len(self._nbytes)
        expected = (min(self._rows_per_chunk, self._shape[0] - number * self._rows_per_chunk), *self._shape[1:])
        if self._file is None or number == self._num_chunks:
            message = f"{self._directory.name} has {self._num_chunks} chunks, which are all written."
            raise InvalidInputError(message, argument="rows")
        if rows.shape != expected or rows.dtype.newbyteorder("<") != self._dtype:
            message = (
                f"Chunk {number} must be an array of shape {expected} and type {self._dtype}; "
                f"got shape {rows.shape} and type {rows.dtype}."
            )
            raise InvalidInputError(message, argument="rows")
        chunk = np.ascontiguousarray(rows, self._dtype).reshape(-1).view(np.uint8)
        if len(chunk) < self._chunk_bytes:
            chunk = np.concatenate([chunk, np.zeros(self._chunk_bytes - len(chunk), np.uint8)])
        stored = encode(self._codec, chunk)
        self._file.write(stored)
        self._nbytes.append(len(stored))
        self._checksums.append(xxhash.xxh3_64_intdigest(stored))

    def close(self) -> ShardRecord:
        """Write the index and the metadata; tell where the chunks are.

        Raises
        ------
        InvalidInputError
            When chunks are missing.
        """
        if len(self._nbytes) != self._num_chunks:
            message = f"{self._directory.name} got {len(self._nbytes)} of {self._num_chunks} chunks; write them all."
            raise InvalidInputError(message)
        nbytes = np.array(self._nbytes, np.int64)
        ends = np.cumsum(nbytes)
        index_start = int(ends[-1]) if len(ends) else 0
        size = index_start
        if self._file is not None:
            with self._file:
                size += self._file.write(shard_index(ends - nbytes, nbytes))
        (self._directory / _METADATA).write_bytes(self._metadata)
        return ShardRecord(ends - nbytes, nbytes, np.array(self._checksums, np.uint64), size, index_start)


def shard_codecs(codec: str, chunk_shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> list[dict[str, Any]]:
    """Codecs of an array in one shard, as its metadata list them."""
    chunk_bytes = dtype.itemsize * int(np.prod(chunk_shape, dtype=np.int64))
    sharding = {
        "chunk_shape": list(chunk_shape),
        "codecs": inner_codecs(codec, dtype.itemsize, chunk_bytes),
        "index_codecs": _INDEX_CODECS,
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": sharding}]


def shard_index(offsets: NDArray[np.int64], nbytes: NDArray[np.int64]) -> bytes:
    """Index of a shard, from the first byte and the size of each chunk."""
    return append_crc(np.stack([offsets, nbytes], 1).astype(_ENTRY).tobytes())


def write_array(
    directory: Path,
    array: NDArray[np.generic],
    *,
    attributes: Mapping[str, object] | None = None,
    dimension_names: Sequence[str] | None = None,
    chunk_rows: int | None = None,
    codec: str = "raw",
) -> None:
    """Write a small array: a file for each chunk, which is one unless `chunk_rows` says otherwise.

    Parameters
    ----------
    directory
        The new array.
    array
        Booleans, integers or floats of up to 8 bytes, with one or two axes, possibly empty.
    attributes
        Attributes of the array.
    dimension_names
        A name for each axis.
    chunk_rows
        Rows in each chunk; the last one is filled up with zeros.
    codec
        ``raw``, or one of the codecs of `ShardWriter`.

    Raises
    ------
    InvalidInputError
        When the array cannot be stored like this.
    StoreExistsError
        When the directory exists.

    Examples
    --------
    >>> write_array(Path("weights"), np.array([0.5, 0.25]), dimension_names=["trace"])
    >>> np.fromfile("weights/c/0").tolist()
    [0.5, 0.25]
    """
    dtype = stored_dtype(array.dtype)
    if array.ndim not in (1, 2):
        message = f"`array` must have one or two axes; its shape is {array.shape}."
        raise InvalidInputError(message, argument="array")
    if chunk_rows is not None and chunk_rows < 1:
        message = f"`chunk_rows` must be positive; got {chunk_rows}."
        raise InvalidInputError(message, argument="chunk_rows")
    rows_per_chunk = chunk_rows or max(len(array), 1)
    # a chunk must have a size, also where there is nothing to put into it
    chunk_shape = (rows_per_chunk, *(max(length, 1) for length in array.shape[1:]))
    metadata = array_metadata(
        array.shape,
        dtype,
        chunk_shape=chunk_shape,
        codecs=inner_codecs(codec, dtype.itemsize, dtype.itemsize * int(np.prod(chunk_shape, dtype=np.int64))),
        attributes=attributes,
        dimension_names=dimension_names,
    )
    _create(directory)
    if array.size:
        for number, start in enumerate(range(0, len(array), rows_per_chunk)):
            chunk = np.zeros(chunk_shape, dtype)
            rows = array[start : start + rows_per_chunk]
            chunk[: len(rows)] = rows
            path = _chunk_path(directory, (number, *(0,) * (array.ndim - 1)))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(codec, chunk.reshape(-1).view(np.uint8)))
    (directory / _METADATA).write_bytes(metadata)


def index_bytes(num_chunks: int) -> int:
    """Bytes of the index of a shard, which are the last ones of the file.

    Examples
    --------
    >>> index_bytes(2)
    36
    """
    return _ENTRY_BYTES * num_chunks + CRC_BYTES


def read_shard_index(
    tail: bytes | memoryview | NDArray[np.uint8], num_chunks: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read the index of a shard.

    Parameters
    ----------
    tail
        The last bytes of the file, at least `index_bytes` of them.
    num_chunks
        Chunks of the shard.

    Returns
    -------
    tuple of offsets and nbytes
        First byte and number of bytes of each chunk.

    Raises
    ------
    FormatError
        When there are too few bytes, their checksum does not match, or a chunk is not stored.

    Examples
    --------
    >>> index = append_crc(np.array([0, 20, 20, 30], "<u8").tobytes())
    >>> [part.tolist() for part in read_shard_index(index, 2)]
    [[0, 20], [20, 30]]
    """
    data = np.frombuffer(tail, np.uint8)
    if len(data) < index_bytes(num_chunks):
        message = f"The index of {num_chunks} chunks has {index_bytes(num_chunks)} bytes; the file ends in {len(data)}."
        raise FormatError(message, expected=index_bytes(num_chunks), found=len(data))
    entries = split_crc(data[len(data) - index_bytes(num_chunks) :], "The index of chunks").view(_ENTRY).reshape(-1, 2)
    # absent chunks have the largest number; they would read as zeros, which nobody wrote
    bad = np.flatnonzero((entries > _MOST_BYTES).any(1))
    if len(bad):
        message = f"The index of chunks says that chunk {bad[0]} is not stored; restore the file from a copy."
        raise FormatError(message, chunk=int(bad[0]))
    offsets, nbytes = entries.astype(np.int64).T
    return offsets, nbytes


def write_group(directory: Path, attributes: Mapping[str, object] | None = None, *, consolidate: bool = True) -> None:
    """Make a directory a group of the arrays and groups in it.

    Parameters
    ----------
    directory
        The group; it is made if it does not exist.
    attributes
        Attributes of the group.
    consolidate
        Repeat the metadata of all that is in the directory now. Without it, zarr-python lists the directory, and warns
        of files that are not Zarr's.

    Raises
    ------
    InvalidInputError
        When an attribute is not JSON.

    Examples
    --------
    >>> write_array(Path("run/weights"), np.ones(3))
    >>> write_group(Path("run"), {"seed": 1})
    >>> sorted(json.loads(Path("run/zarr.json").read_bytes())["consolidated_metadata"]["metadata"])
    ['weights']
    """
    members: dict[str, dict[str, object]] | None = {} if consolidate else None
    if members is not None:
        for path in directory.rglob(_METADATA):
            if path.parent != directory:
                member = json.loads(path.read_bytes())
                member.pop("consolidated_metadata", None)  # the list is flat, a group below would repeat its part
                members[path.parent.relative_to(directory).as_posix()] = member
    metadata = group_metadata(attributes, members)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _METADATA).write_bytes(metadata)


def _create(directory: Path) -> None:
    try:
        directory.mkdir(parents=True)
    except FileExistsError as error:
        message = f"{directory.name} exists already; arrays are written once, into a new directory."
        raise StoreExistsError(message, path=str(directory)) from error


def _chunk_path(directory: Path, key: tuple[int, ...]) -> Path:
    return directory.joinpath("c", *map(str, key))
