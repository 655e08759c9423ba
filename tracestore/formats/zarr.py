"""The ``zarr/1`` segment encoding: a Zarr v3 group that any Zarr reader opens, read here without one (format 4).

Flat columns are uncompressed shards that begin with their plain numbers, so they are mapped like those of the other
backend. Observations are shards whose inner chunks are found, checked and decoded one by one.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from tracestore.errors import FormatError
from tracestore.formats.backend import Backend
from tracestore.formats.base import ObservationInfo
from tracestore.formats.blocks import BlockFile, check_range, checksums, open_file
from tracestore.formats.chunks import ChunkIndex, ChunkRows
from tracestore.formats.codecs import rows_per_chunk
from tracestore.formats.coded_blocks import coded_record
from tracestore.formats.document import JSON
from tracestore.formats.observation_column import StoredRows
from tracestore.formats.observations import ObservationRows
from tracestore.formats.segment_files import SegmentFiles
from tracestore.formats.segment_writer import BLOCK_BYTES, Files, table_codec
from tracestore.formats.zarr_arrays import ShardWriter, write_array, write_group
from tracestore.formats.zarr_codecs import decode_into, decoded_bytes
from tracestore.formats.zarr_columns import FlatWriter
from tracestore.formats.zarr_tables import TABLES, TextTable, decode_table, encode_table, texts_from

__all__ = ["FORMAT"]

_ENCODINGS = ("zarr/1",)

_RUNS = "runs/c/0/0"
_METADATA = "zarr.json"
_NUM_COLUMNS = {name: len(columns) for name, columns in TABLES.items()}


class ZarrSink:
    """Writes the parts of a segment as arrays of a Zarr v3 group.

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
        self._texts = TextTable()

    def table(self, name: str, columns: Mapping[str, pa.Array]) -> None:
        """Write a table with at least one row."""
        words = encode_table(name, columns, self._texts)
        attributes = {"columns": dict(TABLES[name])}
        codec = table_codec(name, columns)
        write_array(
            self.directory / name,
            words,
            codec=codec or "raw",
            attributes=attributes,
            dimension_names=["column", "row"],
        )
        if codec is not None:
            file = f"{name}/c/0/0"
            size = (self.directory / file).stat().st_size
            self.files[file] = {**self._whole(file, size), "codec": codec}

    def column(
        self, name: str, dtype: np.dtype[np.generic], blocks: Iterable[NDArray[np.generic]], codec: str = "none"
    ) -> None:
        """Write a flat column with at least one number."""
        if codec != "none":
            self._write_coded(name, dtype, list(blocks), codec)
            return
        with FlatWriter(self.directory / name, dtype, BLOCK_BYTES) as writer:
            for block in blocks:
                writer.write(block)
            self.files[f"{name}/c/0"] = writer.close()

    def _write_coded(
        self, name: str, dtype: np.dtype[np.generic], blocks: Sequence[NDArray[np.generic]], codec: str
    ) -> None:
        """Write blocks as compressed chunks of one size, filled up with zeros."""
        rows = [len(block) for block in blocks]
        size = max(rows)
        attributes = {"rows": rows, "rows_per_chunk": size}
        directory = self.directory / name
        with ShardWriter(directory, (len(rows) * size,), dtype, size, codec, attributes=attributes) as writer:
            for block in blocks:
                writer.write(np.concatenate([block, np.zeros(size - len(block), dtype)]))
            shard = writer.close()
        places = shard.offsets.tolist(), shard.nbytes.tolist(), shard.checksums.tolist()
        whole = self._whole(f"{name}/c/0", shard.size)
        self.files[f"{name}/c/0"] = coded_record({**whole, "rows_per_chunk": size}, codec, rows, *places)

    def _whole(self, file: str, size: int) -> dict[str, JSON]:
        """Record of a file as one range."""
        data = np.memmap(self.directory / file, np.uint8, "r")
        return {"size": size, "ends": [size], "checksums": checksums(data, [size])}

    def trace_columns(self, columns: Mapping[str, NDArray[np.generic]]) -> None:
        """Write columns with one number per trace; at least one."""
        (self.directory / "traces").mkdir()
        for name, column in columns.items():
            step = BLOCK_BYTES // column.itemsize
            self.column(
                f"traces/{name}", column.dtype, (column[low : low + step] for low in range(0, len(column), step))
            )
        write_group(self.directory / "traces", consolidate=False)

    def observation(
        self, number: int, rows: ObservationRows, order: NDArray[np.int64], codec: str
    ) -> tuple[dict[str, JSON], ChunkIndex | None]:
        """Write the rows of an observation, which have elements; its file and rows per chunk, and its chunks."""
        per_chunk = rows_per_chunk(rows.row_bytes)
        num_rows = len(order) if rows.constant is None else 1
        per_chunk = min(per_chunk, num_rows)
        blocks = rows.blocks(order, per_chunk) if rows.constant is None else iter([rows.constant.reshape(-1)])
        name = f"obs-{number}"
        shape = (num_rows, *rows.shape)
        with ShardWriter(
            self.directory / name, shape, rows.dtype, per_chunk, codec, attributes={"name": rows.name}
        ) as writer:
            for block in blocks:
                writer.write(block.reshape(-1, *rows.shape))
            shard = writer.close()
        file = "/".join([name, "c", *["0"] * len(shape)])
        self.files[file] = {**self._whole(file, shard.size), "chunked": True}
        return {"file": file, "rows_per_block": per_chunk}, ChunkIndex(shard.offsets, shard.nbytes, shard.checksums)

    def finish(self, members: Mapping[str, JSON]) -> None:
        """Write the texts and the group, and record the files that are not recorded yet."""
        if len(self._texts):
            data, ends = self._texts.arrays()
            write_array(self.directory / "text", data, dimension_names=["byte"])
            write_array(self.directory / "text_ends", ends, dimension_names=["text"])
        attributes = {key: members[key] for key in ("encoding", "id", "num_traces", "constants", "observations")}
        write_group(self.directory, {"tracestore": attributes}, consolidate=True)
        for path in sorted(self.directory.rglob("*")):
            name = path.relative_to(self.directory).as_posix()
            if path.is_file() and name not in self.files:
                found = xxhash.xxh3_64_hexdigest(path.read_bytes())
                size = path.stat().st_size
                self.files[name] = {"size": size, "ends": [size], "checksums": [found]}


class ZarrFiles(SegmentFiles):
    """Opens the arrays of a segment, without a Zarr library."""

    def table(self, name: str) -> pa.Table | None:
        """Read a table; None when it has no rows."""
        file = f"{name}/c/0/0"
        if file not in self.records:
            return None
        has_texts = not {"text", "list"}.isdisjoint(TABLES[name].values())
        return self._decode(name, file, self.records[file], self._texts if has_texts else None)

    def read_runs_table(self) -> pa.Table:
        """Read the run directory, without the seal."""
        return self._decode("runs", _RUNS, self.sole_record(_RUNS, self.entry.runs), None)

    def column(self, name: str, dtype: str) -> BlockFile | None:
        """Open a flat column; None when it has no rows."""
        return self.block_file(f"{name}/c/0", [np.dtype(dtype)])

    def decode_block(self, codec: str, data: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Decode a block of a flat column: a chunk that is filled up with zeros."""
        chunk = np.empty(decoded_bytes(codec, data), np.uint8)
        decode_into(codec, data, chunk, verify=False)
        out[:] = chunk[: len(out)]

    def trace_columns(self, dtypes: Mapping[str, np.dtype[np.generic]]) -> Mapping[str, tuple[BlockFile, int]]:
        """Open columns with one number per trace: by name the file, and the place of the column in it."""
        files = {name: self.block_file(f"traces/{name}/c/0", [dtype]) for name, dtype in dtypes.items()}
        return {name: (file, 0) for name, file in files.items() if file is not None}

    def observation_rows(self, info: ObservationInfo, record: Mapping[str, JSON]) -> StoredRows | None:
        """Open the rows of an observation; None when they have no elements."""
        file = cast("str", record["file"])
        if not int(np.prod(info.shape, dtype=np.int64)):
            return None
        if file not in self.records:
            message = f"{self.path_name('seal.json')} lists no file {file!r} for the observation {info.name!r}."
            raise FormatError(message, file=self.path_name("seal.json"))
        codec = cast("str", record["codec"])
        return ChunkRows(
            self.storage,
            file,
            self.path_name(file),
            cast("int", self.records[file]["size"]),
            self.chunks_of(info.name),
            # with the codec "none" the rows stand in the chunk as they are, before their CRC32C
            None if codec == "none" else lambda data, out: decode_into(codec, data, out, verify=False),
            np.dtype(info.dtype),
            info.shape,
            rows_per_chunk=cast("int", record["rows_per_block"]),
            num_rows=1 if info.constant else self.entry.num_traces,
            is_padded=True,
            verify=self.verify,
        )

    @cached_property
    def _texts(self) -> pa.Array:
        # texts that are all empty have no bytes, so there is no file
        data = self._read("text/c/0", self.records["text/c/0"]) if "text/c/0" in self.records else np.empty(0, np.uint8)
        return texts_from(data, self._read("text_ends/c/0", self.records["text_ends/c/0"]).view(np.uint64))

    def _read(self, file: str, record: Mapping[str, JSON]) -> NDArray[np.uint8]:
        """Read a file of one range, checked."""
        name = self.path_name(file)
        opened = open_file(self.storage, file, name, cast("int", record["size"]))
        opened.load(0, opened.size)
        if self.verify != "off":
            check_range(opened.data, cast("list[str]", record["checksums"])[0], name, 0)
        return opened.data

    def _decode(self, name: str, file: str, record: Mapping[str, JSON], texts: pa.Array | None) -> pa.Table:
        data = self._read(file, record)
        if "codec" in record:
            codec, stored = cast("str", record["codec"]), data
            data = np.empty(decoded_bytes(codec, stored), np.uint8)
            decode_into(codec, stored, data, verify=False)
        if len(data) % (8 * _NUM_COLUMNS[name]):
            message = f"{self.path_name(file)} has {len(data)} bytes, not {_NUM_COLUMNS[name]} columns of words."
            raise FormatError(message, file=self.path_name(file))
        return decode_table(name, data.view(np.uint64).reshape(_NUM_COLUMNS[name], -1), texts)


FORMAT = Backend(_ENCODINGS, ZarrSink, ZarrFiles, _RUNS)
"""The backend."""
