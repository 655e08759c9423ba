"""The ``arrow`` segment encodings: Arrow IPC files, memory-mapped, checksummed by block (format 3).

``arrow/1`` is read; ``arrow/2``, which adds states, loose layouts and codecs, is read and written.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tracestore.errors import FormatError
from tracestore.formats.backend import Backend
from tracestore.formats.base import ObservationInfo
from tracestore.formats.blocks import BlockFile
from tracestore.formats.chunks import ChunkIndex, ChunkRows
from tracestore.formats.codecs import rows_per_chunk
from tracestore.formats.coded_blocks import coded_record
from tracestore.formats.document import JSON
from tracestore.formats.ipc import BlockWriter, ChunkWriter, decode_chunk, read_table, write_table
from tracestore.formats.observation_column import BlockRows, StoredRows
from tracestore.formats.observations import ObservationRows
from tracestore.formats.segment_files import SegmentFiles
from tracestore.formats.segment_writer import BLOCK_BYTES, Files, table_codec

__all__ = ["FORMAT"]

_ENCODINGS = ("arrow/1", "arrow/2")

_RUNS = "runs.arrow"


class ArrowSink:
    """Writes the parts of a segment as Arrow IPC files.

    Parameters
    ----------
    directory
        An empty directory.
    """

    encoding = _ENCODINGS[-1]
    runs_file = _RUNS

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files: Files = {}

    def table(self, name: str, columns: Mapping[str, pa.Array]) -> None:
        """Write a table with at least one row."""
        file = f"{name}.arrow"
        self.files[file] = write_table(self.directory / file, columns, table_codec(name, columns))

    def column(
        self, name: str, dtype: np.dtype[np.generic], blocks: Iterable[NDArray[np.generic]], codec: str = "none"
    ) -> None:
        """Write a flat column with at least one number."""
        file = f"{name}.arrow"
        if codec == "none":
            self._write_blocks(file, dtype, blocks)
            return
        writer, rows = ChunkWriter(self.directory / file, dtype, codec), []
        for block in blocks:
            writer.write(block)
            rows.append(len(block))
        record, index = writer.close()
        places = index.offset.tolist(), index.nbytes.tolist(), index.checksum.tolist()
        self.files[file] = coded_record(record, codec, rows, *places)

    def trace_columns(self, columns: Mapping[str, NDArray[np.generic]]) -> None:
        """Write columns with one number per trace; at least one."""
        writer = BlockWriter(
            self.directory / "traces.arrow", [(name, column.dtype) for name, column in columns.items()]
        )
        num_rows = BLOCK_BYTES // sum(column.itemsize for column in columns.values())
        for low in range(0, len(next(iter(columns.values()))), num_rows):
            writer.write([column[low : low + num_rows] for column in columns.values()])
        self.files["traces.arrow"] = writer.close()

    def observation(
        self, number: int, rows: ObservationRows, order: NDArray[np.int64], codec: str
    ) -> tuple[dict[str, JSON], ChunkIndex | None]:
        """Write the rows of an observation, which have elements; its file and rows per block, and its chunks."""
        file = f"obs-{number}.arrow"
        is_flags = rows.dtype.kind == "b"
        stored_dtype = np.dtype(np.uint8) if is_flags else rows.dtype
        per_block = rows_per_chunk(rows.row_bytes) if codec != "none" else max(1, BLOCK_BYTES // rows.row_bytes)
        blocks = rows.blocks(order, per_block) if rows.constant is None else iter([rows.constant.reshape(-1)])
        if is_flags:
            blocks = (block.view(np.uint8) for block in blocks)
        index = None
        if codec == "none":
            self._write_blocks(file, stored_dtype, blocks)
        else:
            writer = ChunkWriter(self.directory / file, stored_dtype, codec)
            for block in blocks:
                writer.write(block)
            record, index = writer.close()
            self.files[file] = record
        return {"file": file, "rows_per_block": per_block}, index

    def finish(self, members: Mapping[str, JSON]) -> None:
        """Do nothing: the files are all that there is."""

    def _write_blocks(self, file: str, dtype: np.dtype[np.generic], blocks: Iterable[NDArray[np.generic]]) -> None:
        writer = BlockWriter(self.directory / file, [("value", dtype)])
        for block in blocks:
            writer.write([block])
        self.files[file] = writer.close()


class ArrowFiles(SegmentFiles):
    """Opens the Arrow IPC files of a segment."""

    def table(self, name: str) -> pa.Table | None:
        """Read a table; None when it has no rows."""
        file = f"{name}.arrow"
        if file not in self.records:
            return None
        return read_table(self.storage, file, self.path_name(file), self.records[file], self.verify)

    def read_runs_table(self) -> pa.Table:
        """Read the run directory, without the seal."""
        name = self.path_name(_RUNS)
        record = self.sole_record(_RUNS, self.entry.runs)
        return read_table(self.storage, _RUNS, name, record, self.verify)

    def column(self, name: str, dtype: str) -> BlockFile | None:
        """Open a flat column; None when it has no rows."""
        return self.block_file(f"{name}.arrow", [np.dtype(dtype)])

    def decode_block(self, codec: str, data: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Decode a block of a flat column."""
        decode_chunk(codec, data, out)

    def trace_columns(self, dtypes: Mapping[str, np.dtype[np.generic]]) -> Mapping[str, tuple[BlockFile, int]]:
        """Open columns with one number per trace: by name the file, and the place of the column in it."""
        file = self.block_file("traces.arrow", list(dtypes.values()))
        return {} if file is None else {name: (file, place) for place, name in enumerate(dtypes)}

    def observation_rows(self, info: ObservationInfo, record: Mapping[str, JSON]) -> StoredRows | None:
        """Open the rows of an observation; None when they have no elements."""
        file, dtype = cast("str", record["file"]), np.dtype(info.dtype)
        if not int(np.prod(info.shape, dtype=np.int64)):
            return None
        if file not in self.records:
            message = f"{self.path_name('seal.json')} lists no file {file!r} for the observation {info.name!r}."
            raise FormatError(message, file=self.path_name("seal.json"))
        codec, per_block = cast("str", record.get("codec", "none")), cast("int", record["rows_per_block"])
        if codec == "none":
            blocks = self.block_file(file, [np.dtype(np.uint8) if dtype.kind == "b" else dtype])
            return None if blocks is None else BlockRows(blocks, dtype, info.shape, per_block)
        return ChunkRows(
            self.storage,
            file,
            self.path_name(file),
            cast("int", self.records[file]["size"]),
            self.chunks_of(info.name),
            lambda data, out: decode_chunk(codec, data, out),
            dtype,
            info.shape,
            rows_per_chunk=per_block,
            num_rows=self.entry.num_traces,
            is_padded=False,
            verify=self.verify,
        )


FORMAT = Backend(_ENCODINGS, ArrowSink, ArrowFiles, _RUNS)
"""The backend."""
