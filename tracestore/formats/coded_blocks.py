"""Flat columns whose blocks are compressed: decoded into memory when they are touched (format 3.16.5)."""

import mmap
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any, cast

import numpy as np
import xxhash
from numpy.typing import NDArray

from tracestore.errors import ChecksumError, FormatError
from tracestore.formats.base import Verify
from tracestore.formats.blocks import BlockFile, Kept
from tracestore.formats.document import JSON
from tracestore.storage import Storage

__all__ = ["CodedBlockFile", "Decoder", "coded_record"]

Decoder = Callable[[str, NDArray[np.uint8], NDArray[np.uint8]], None]
"""Decodes, with a codec, the stored bytes of a block into a flat array of the size of its numbers."""


def coded_record(
    file: Mapping[str, JSON], codec: str, rows: list[int], offsets: list[int], nbytes: list[int], checksums: list[int]
) -> dict[str, JSON]:
    """Make the record of a column file with compressed blocks.

    Parameters
    ----------
    file
        Its size, and the checksum of the whole.
    codec
        ``lz4`` or ``zstd``.
    rows, offsets, nbytes, checksums
        Of each block: numbers, place and size of the compressed bytes, their XXH3-64.
    """
    digits = [f"{checksum:016x}" for checksum in checksums]
    blocks = {"rows": rows, "offsets": offsets, "nbytes": nbytes, "blocks": digits}
    return {**file, "chunked": True, "codec": codec, **blocks}


class CodedBlockFile(BlockFile):
    """Reads a column file with compressed blocks by element; what was touched stays decoded.

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
    dtype
        Type of the numbers.
    verify
        When to compare checksums.
    kept
        Counts the bytes that stay in memory.
    decode
        Decodes a block.
    """

    def __init__(
        self,
        storage: Storage,
        file: str,
        name: str,
        record: Mapping[str, JSON],
        dtype: np.dtype[np.generic],
        verify: Verify,
        kept: Kept,
        decode: Decoder,
    ) -> None:
        rows = cast("list[int]", record["rows"])
        # the decoded numbers follow each other, so that there is nothing to shift
        starts = np.concatenate([[0], np.cumsum(rows)]) * dtype.itemsize
        plain: dict[str, Any] = {"size": record["size"], "rows": rows, "data": starts[:-1].tolist()}
        super().__init__(storage, file, name, {**plain, "ends": starts[1:], "checksums": []}, [dtype], verify, kept)
        self._codec = cast("str", record["codec"])
        self._offsets, self._nbytes = cast("list[int]", record["offsets"]), cast("list[int]", record["nbytes"])
        self._expected = cast("list[str]", record["blocks"])
        self._decode = decode
        self._starts: list[int] = starts.tolist()

    @cached_property
    def _image(self) -> NDArray[np.uint8]:
        """The decoded numbers; memory that was not touched costs nothing."""
        return np.frombuffer(mmap.mmap(-1, max(self._starts[-1], 1)), np.uint8)

    @cached_property
    def _maps(self) -> list[NDArray[np.generic]]:
        dtype = self._dtypes[0]
        return [np.frombuffer(self._image, dtype, self._starts[-1] // dtype.itemsize)]

    def random_access(self) -> AbstractContextManager[None]:
        """Do nothing: blocks are read whole."""
        return nullcontext()

    def touch(self, block: int) -> None:
        """Decode a block unless it is there, after comparing its checksum as `verify` asks.

        Raises
        ------
        ChecksumError
            When its bytes changed.
        FormatError
            When it cannot be decoded.
        """
        if self._is_checked[block] and self._verify != "always":
            return
        start = self._offsets[block]
        (data,) = self._file.ranges([start], [start + self._nbytes[block]])
        found = xxhash.xxh3_64_hexdigest(data.data)
        if self._verify != "off" and found != self._expected[block]:
            message = (
                f"{self.name}, block {block}, was altered: its checksum is {found}, sealed as "
                f"{self._expected[block]}; restore the file from a copy, or quarantine the segment."
            )
            raise ChecksumError(message, file=self.name, block=block, expected=self._expected[block], found=found)
        if not self._is_checked[block]:
            low, high = self._starts[block], self._starts[block + 1]
            try:
                self._decode(self._codec, data, self._image[low:high])
            except (OSError, RuntimeError, ValueError) as error:
                message = f"{self.name}, block {block}, cannot be decompressed: {error}; restore the file from a copy."
                raise FormatError(message, file=self.name, block=block) from error
            self._kept.nbytes += high - low
            self._is_checked[block] = True
