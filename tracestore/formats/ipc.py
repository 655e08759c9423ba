"""Arrow IPC files: tables, column files in checksummed blocks, compressed rows in chunks (format 3.1 to 3.8)."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tracestore.errors import FormatError
from tracestore.formats.base import Verify
from tracestore.formats.blocks import check_range, checksums, open_file
from tracestore.formats.chunks import ChunkIndex
from tracestore.formats.document import JSON
from tracestore.storage import Storage

__all__ = ["BlockWriter", "ChunkWriter", "decode_chunk", "read_table", "write_table"]

_NO_THREADS = pa.ipc.IpcReadOptions(use_threads=False)


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
            "checksums": checksums(np.frombuffer(whole, np.uint8), ends),
        }


class ChunkWriter:
    """Writes compressed rows of an observation: a record batch for each chunk, by Arrow's own compression.

    Parameters
    ----------
    path
        The new file.
    dtype
        Type of the numbers.
    codec
        ``lz4`` or ``zstd``.
    """

    def __init__(self, path: Path, dtype: np.dtype[np.generic], codec: str) -> None:
        self._path = path
        self._schema = pa.schema([pa.field("value", pa.from_numpy_dtype(dtype), nullable=False)])
        self._sink = pa.OSFile(str(path), "wb")
        options = pa.ipc.IpcWriteOptions(compression=codec, use_threads=False)
        self._writer = pa.ipc.new_file(self._sink, self._schema, options=options)
        self._num_chunks = 0

    def write(self, rows: NDArray[np.generic]) -> None:
        """Write the numbers of one chunk, flat."""
        self._num_chunks += 1
        self._writer.write_batch(pa.record_batch([pa.array(rows)], schema=self._schema))

    def close(self) -> tuple[dict[str, JSON], ChunkIndex]:
        """Finish the file; what the seal records of it, and where the chunks are."""
        self._writer.close()
        self._sink.close()
        with pa.memory_map(str(self._path)) as source:
            whole = source.read_buffer()
        data = np.frombuffer(whole, np.uint8)
        # between the magic bytes at its ends the file is a stream of messages: the schema, then the batches
        messages = pa.ipc.MessageReader.open_stream(whole.slice(_MAGIC_BYTES))
        messages.read_next_message()
        offsets, sizes = [], []
        for _ in range(self._num_chunks):
            address, nbytes = _compressed_bytes(messages.read_next_message())
            offsets.append(address - whole.address + _LENGTH.size)
            sizes.append(nbytes - _LENGTH.size)
        index = ChunkIndex.of(data, offsets, sizes)
        return {
            "size": whole.size,
            "ends": [whole.size],
            "checksums": checksums(data, [whole.size]),
            "chunked": True,
        }, index


_MAGIC_BYTES = 8
_LENGTH = struct.Struct("<q")
"""Before the compressed bytes of a buffer Arrow puts how many they decompress to."""


def _compressed_bytes(message: pa.Message) -> tuple[int, int]:
    """Address and exact size of the data buffer of a record batch with one column and no nulls.

    Arrow pads buffers but a codec wants the exact size, which is in the message's metadata (Message.fbs, Schema.fbs of
    the Arrow format): field 2 of the message is the record batch, whose field 2 lists pairs of offset and length, one
    for the validity and one for the data.
    """
    metadata = memoryview(message.metadata)
    batch = _field(metadata, _unsigned(metadata, 0), 2)
    buffers = _field(metadata, batch, 2)
    offset, nbytes = struct.unpack_from("<qq", metadata, buffers + 4 + 16)
    return message.body.address + offset, nbytes


def _field(metadata: memoryview, table: int, number: int) -> int:
    """Where a field of a FlatBuffers table that refers to something points to."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    place = table + struct.unpack_from("<H", metadata, vtable + 4 + 2 * number)[0]
    return int(place + _unsigned(metadata, place))


def _unsigned(metadata: memoryview, place: int) -> int:
    number: int = struct.unpack_from("<I", metadata, place)[0]
    return number


def decode_chunk(codec: str, data: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Decompress a chunk into a flat array of its size."""
    out[:] = np.frombuffer(pa.Codec(codec).decompress(pa.py_buffer(data), len(out)), np.uint8)


def write_table(path: Path, columns: Mapping[str, pa.Array], codec: str | None = None) -> dict[str, JSON]:
    """Write a table, compressed by Arrow if a codec is given; return what the seal records of it."""
    fields = [pa.field(name, array.type, nullable=False) for name, array in columns.items()]
    schema = pa.schema(fields)
    options = pa.ipc.IpcWriteOptions(compression=codec, use_threads=False)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
        writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    data = np.frombuffer(path.read_bytes(), np.uint8)
    return {"size": len(data), "ends": [len(data)], "checksums": checksums(data, [len(data)])}


def read_table(storage: Storage, file: str, name: str, record: Mapping[str, JSON], verify: Verify) -> pa.Table:
    """Read a small table, checked.

    Raises
    ------
    FormatError
        When it is missing, has another size, or is not Arrow.
    ChecksumError
        When its bytes changed.
    """
    opened = open_file(storage, file, name, cast("int", record["size"]))
    opened.load(0, opened.size)
    data = opened.data
    if verify != "off":
        check_range(data, cast("list[str]", record["checksums"])[0], name, 0)
    try:
        return pa.ipc.open_file(pa.py_buffer(data), options=_NO_THREADS).read_all()
    except pa.ArrowInvalid as error:
        message = f"{name} is not an Arrow file: {error}."
        raise FormatError(message, file=name) from error
