"""Flat columns as Zarr shards that begin with their plain numbers, written in blocks of any size (format 4.6)."""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from tracestore.formats.document import JSON
from tracestore.formats.zarr_arrays import shard_codecs, shard_index
from tracestore.formats.zarr_metadata import array_metadata

__all__ = ["FlatWriter"]


class FlatWriter:
    """Writes a one-dimensional array block by block; blocks are units of checksum, chunks those of other readers.

    Parameters
    ----------
    directory
        The new array, in an existing directory.
    dtype
        Type of the numbers, little-endian.
    chunk_bytes
        Most bytes of a chunk.

    Examples
    --------
    >>> with FlatWriter(Path("column"), np.dtype("<f8"), 32) as writer:
    ...     writer.write(np.arange(3.0))
    ...     writer.write(np.arange(2.0))
    ...     record = writer.close()
    >>> record["rows"], record["data"], record["ends"][:2], np.fromfile("column/c/0", count=5).tolist()
    ([3, 2], [[0], [24]], [24, 40], [0.0, 1.0, 2.0, 0.0, 1.0])
    """

    def __init__(self, directory: Path, dtype: np.dtype[np.generic], chunk_bytes: int) -> None:
        self._directory = directory
        self._dtype = dtype
        self._chunk_rows = max(1, chunk_bytes // dtype.itemsize)
        (directory / "c").mkdir(parents=True)
        self._file = (directory / "c" / "0").open("wb")
        self._rows: list[int] = []
        self._checksums: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, block: NDArray[np.generic]) -> None:
        """Write one block, not empty."""
        data = np.ascontiguousarray(block, self._dtype).view(np.uint8)
        self._file.write(data.data)
        self._rows.append(len(block))
        self._checksums.append(xxhash.xxh3_64_hexdigest(data.data))

    def close(self) -> dict[str, JSON]:
        """Write the index and the metadata; what the seal records of the file."""
        total = sum(self._rows)
        chunk_rows = min(self._chunk_rows, total)
        num_chunks = -(-total // chunk_rows)
        chunk_bytes = chunk_rows * self._dtype.itemsize
        offsets = np.arange(num_chunks) * chunk_bytes
        padding = bytes(num_chunks * chunk_bytes - total * self._dtype.itemsize)
        tail = padding + shard_index(offsets, np.full(num_chunks, chunk_bytes))
        with self._file:
            self._file.write(tail)
        metadata = array_metadata(
            (total,),
            self._dtype,
            chunk_shape=(num_chunks * chunk_rows,),
            codecs=shard_codecs("raw", (chunk_rows,), self._dtype),
        )
        (self._directory / "zarr.json").write_bytes(metadata)
        ends = (np.cumsum(self._rows) * self._dtype.itemsize).tolist()
        return {
            "size": ends[-1] + len(tail),
            "rows": self._rows,
            "data": [[start] for start in [0, *ends[:-1]]],
            "ends": [*ends, ends[-1] + len(tail)],
            "checksums": [*self._checksums, xxhash.xxh3_64_hexdigest(tail)],
        }
