"""The writer of a segment, for every backend: cut the traces, write tables and columns, seal. Knows no encoding."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.formats.base import CodecChoice, SegmentEntry
from tracestore.formats.chunks import ChunkIndex
from tracestore.formats.codecs import CODECS, SAMPLE_ROWS, choose_codec, choose_site_codec
from tracestore.formats.columns import SITE_COLUMNS, SegmentColumns, cut_segment
from tracestore.formats.dictionary import dictionary_tables
from tracestore.formats.document import JSON, encode_document
from tracestore.formats.observations import ObservationRows, gather_observations
from tracestore.formats.segment_files import SEAL, read_any_seal
from tracestore.formats.slot_checks import LEAST_CHECKED_STATES, checks_of_tile
from tracestore.storage import LocalStorage, flush_file
from tracestore.traces.batch import TRACE_COLUMNS, TraceBatch

__all__ = ["BLOCK_BYTES", "Files", "SegmentSink", "require_codecs", "table_codec", "write_traces"]

BLOCK_BYTES = 2**20
"""Target size of a block."""

Files = dict[str, dict[str, JSON]]
"""What the seal records of each file, by name."""

_LEAST_COMPRESSED_BYTES = 2**16
"""Smaller observations are not worth the index of their chunks."""

_SEGMENT_ID = re.compile(r"[0-9a-z_-]{1,64}")


class SegmentSink(Protocol):
    """Writes the parts of a segment in one encoding."""

    encoding: str
    directory: Path
    files: Files
    runs_file: str
    """File of the run directory, whose checksum is part of the entry."""

    def table(self, name: str, columns: Mapping[str, pa.Array]) -> None:
        """Write a table with at least one row."""

    def column(
        self, name: str, dtype: np.dtype[np.generic], blocks: Iterable[NDArray[np.generic]], codec: str = "none"
    ) -> None:
        """Write a flat column with at least one number."""

    def trace_columns(self, columns: Mapping[str, NDArray[np.generic]]) -> None:
        """Write columns with one number per trace; at least one."""

    def observation(
        self, number: int, rows: ObservationRows, order: NDArray[np.int64], codec: str
    ) -> tuple[dict[str, JSON], ChunkIndex | None]:
        """Write the rows of an observation, which have elements; its file and rows per block, and its chunks."""

    def finish(self, members: Mapping[str, JSON]) -> None:
        """Write what the encoding needs besides, given the members of the seal."""


def table_codec(name: str, columns: Mapping[str, pa.Array]) -> str | None:
    """Codec of a table; those that readers of many segments read, and small ones, are not compressed."""
    nbytes = sum(column.nbytes for column in columns.values())
    return None if name in ("runs", "chunks") or nbytes < _LEAST_COMPRESSED_BYTES else "zstd"


def write_traces(
    sink: SegmentSink,
    batches: Sequence[TraceBatch],
    *,
    segment_id: str,
    keep_order: bool,
    codec: CodecChoice,
    is_remote: bool,
    origin: Mapping[str, object] | None,
    flush: bool,
) -> SegmentEntry:
    """Write traces by way of a sink, and seal them; the parameters are those of `SegmentFormat.write_segment`.

    Raises
    ------
    InvalidInputError
        When there is no trace, a trace cannot be stored, or a codec is unknown.
    """
    if not _SEGMENT_ID.fullmatch(segment_id):
        message = f"A segment id has 1 to 64 characters of 0-9 a-z - _; got {segment_id!r}."
        raise InvalidInputError(message, segment_id=segment_id)
    require_codecs(codec)
    batches = [batch for batch in batches if len(batch)]
    if not batches:
        message = "A segment needs at least one trace; got none."
        raise InvalidInputError(message)
    observations = gather_observations(batches)
    columns = cut_segment(batches, keep_order=keep_order)
    _write_tables(sink, columns, codec)
    constants = _write_trace_columns(sink, columns.batch)
    _write_site_columns(sink, columns, codec)
    records = _write_observations(sink, observations, columns.order, codec, is_remote=is_remote)
    members: dict[str, Any] = {
        "format": "tracestore-segment",
        "encoding": sink.encoding,
        "id": segment_id,
        "num_traces": len(columns.batch),
        "num_failed": int(np.count_nonzero(columns.batch.status)),
        "num_states": len(columns.states),
        "num_runs": len(columns.runs.layout),
        "num_layouts": len(columns.layouts),
        "num_loose": len(columns.loose),
        "num_sites": int(columns.batch.num_sites.sum()),
        "constants": constants,
        "observations": records,
    }
    sink.finish(members)
    members["nbytes"] = sum(cast("int", record["size"]) for record in sink.files.values())
    members["files"] = sink.files
    if origin is not None:
        members["origin"] = origin
    (sink.directory / SEAL).write_bytes(encode_document(members))
    if flush:
        _flush(sink.directory)
    return read_any_seal(LocalStorage(sink.directory), segment_id, (sink.encoding,), sink.runs_file)[0]


def _flush(directory: Path) -> None:
    """Force a directory and all that is in it to disk."""
    for path in sorted(directory.rglob("*")):
        flush_file(path)
    flush_file(directory)


def _write_tables(sink: SegmentSink, columns: SegmentColumns, codec: CodecChoice) -> None:
    runs = columns.runs
    dictionary, loose_sites = dictionary_tables(columns.layouts, columns.loose)
    tables: dict[str, dict[str, Any]] = {
        **dictionary,
        "constants": {
            "layout": np.concatenate([part.layout for part in columns.constants]),
            "column": np.repeat(np.arange(3, dtype=np.uint8), [len(part.layout) for part in columns.constants]),
            "index": np.concatenate([part.index for part in columns.constants]),
            "value": np.concatenate([part.value for part in columns.constants]),
        },
        "runs": {
            "layout": runs.layout,
            "layout_id": runs.layout_id,
            "trace_type": runs.trace_type,
            "num_traces": runs.num_traces,
            "num_states": runs.num_states,
            "num_sites": runs.num_sites,
            "tile_traces": runs.tile_states,
            **{f"{name}_start": runs.starts[index] for index, name in enumerate(SITE_COLUMNS)},
            "seconds": runs.seconds,
        },
        "failures": _failures(columns.batch),
    }
    for name, table in tables.items():
        arrays = {key: pa.array(column) for key, column in table.items()}
        if len(next(iter(arrays.values()))):
            sink.table(name, arrays)
    if len(loose_sites):
        sink.column("loose", np.dtype("<i4"), _in_blocks(loose_sites), choose_site_codec(loose_sites, codec))
    if columns.state is not None:
        states = columns.state.astype("<i8")
        sink.column("states", np.dtype("<i8"), _in_blocks(states), choose_site_codec(states, codec))


def _failures(batch: TraceBatch) -> dict[str, Any]:
    rows = np.flatnonzero(batch.status)
    return {"row": rows, "reason": pa.array([batch.failures.get(row, "") for row in rows.tolist()], pa.string())}


def _write_trace_columns(sink: SegmentSink, batch: TraceBatch) -> dict[str, str]:
    """Write the columns with one number per trace that vary; return the digits of the others."""
    constants: dict[str, str] = {}
    varying: dict[str, NDArray[np.generic]] = {}
    for name, dtype in TRACE_COLUMNS:
        column = np.ascontiguousarray(getattr(batch, name), np.dtype(dtype).newbyteorder("<"))
        column = column.view(np.uint8) if dtype == "bool" else column
        as_bytes = column.view(np.uint8).reshape(len(column), -1)
        if (as_bytes == as_bytes[0]).all():
            constants[name] = column[:1].tobytes().hex()
        else:
            varying[name] = column
    if varying:
        sink.trace_columns(varying)
    return constants


def _write_site_columns(sink: SegmentSink, columns: SegmentColumns, codec: CodecChoice) -> None:
    checks: list[int] = []
    for index, name in enumerate(SITE_COLUMNS):
        tiles: Iterable[NDArray[np.float64]] = (tile for _, tile in columns.tiles(index))
        if name == "values":
            tiles = _with_checks(columns, checks)
        blocks = _join_tiles(tiles)
        first = next(blocks, None)
        if first is None:
            continue
        chosen = choose_site_codec(first, codec)
        sink.column(name, np.dtype("<f8"), itertools.chain([first], blocks), chosen)
        if name == "values" and chosen != "none":
            checks.clear()  # compressed blocks are read whole
    if checks:
        sink.column("checks", np.dtype("<u8"), _in_blocks(np.array(checks, np.uint64)))


def _with_checks(columns: SegmentColumns, checks: list[int]) -> Iterator[NDArray[np.float64]]:
    """Yield the tiles of the values, and note the checksums of their slots where runs are long."""
    runs, num_slots = columns.runs, columns.stored[0].num_slots
    for run, tile in columns.tiles(0):
        layout = int(runs.layout[run])
        if layout < len(num_slots) and runs.num_states[run] >= LEAST_CHECKED_STATES:
            checks.extend(checks_of_tile(tile, int(num_slots[layout])))
        yield tile


def _join_tiles(tiles: Iterable[NDArray[np.float64]]) -> Iterator[NDArray[np.float64]]:
    """Join tiles to blocks, as many to a block as fit."""
    pending: list[NDArray[np.float64]] = []
    num_pending = 0
    for tile in tiles:
        if num_pending and (num_pending + len(tile)) * tile.itemsize > BLOCK_BYTES:
            yield np.concatenate(pending)
            pending, num_pending = [], 0
        pending.append(tile)
        num_pending += len(tile)
    if num_pending:
        yield np.concatenate(pending)


def _write_observations(
    sink: SegmentSink,
    observations: Sequence[ObservationRows],
    order: NDArray[np.int64],
    codec: CodecChoice,
    *,
    is_remote: bool,
) -> list[dict[str, JSON]]:
    """Write all observations and where their chunks are; what the seal says of each."""
    records, chunks = [], []
    for number, rows in enumerate(observations):
        chosen, ratio = _choose(rows, order, codec, is_remote=is_remote)
        record: dict[str, JSON] = {**rows.info.to_json(), "file": "", "rows_per_block": 1}
        if rows.row_bytes:
            place, index = sink.observation(number, rows, order, chosen)
            record.update(place)
            if index is not None:
                chunks.append((number, index))
        record.update(absent_zero=rows.absent_zero, codec=chosen, ratio=ratio)
        records.append(record)
    if chunks:
        sizes = [len(index.offset) for _, index in chunks]
        table = {
            "observation": np.repeat(np.array([number for number, _ in chunks], np.int32), sizes),
            "offset": np.concatenate([index.offset for _, index in chunks]),
            "nbytes": np.concatenate([index.nbytes for _, index in chunks]),
            "checksum": np.concatenate([index.checksum for _, index in chunks]),
        }
        sink.table("chunks", {key: pa.array(column) for key, column in table.items()})
    return records


def _choose(
    rows: ObservationRows, order: NDArray[np.int64], codec: CodecChoice, *, is_remote: bool
) -> tuple[str, float | None]:
    """Choose the codec of an observation: the one asked for, or by a sample; and the ratio of the sample."""
    asked = codec if isinstance(codec, str) else codec.get(rows.name, "auto")
    if rows.constant is not None or not rows.row_bytes:
        return "none", None
    if asked != "auto":
        return asked, None
    if rows.row_bytes * len(order) < _LEAST_COMPRESSED_BYTES:
        return "none", None
    sample = next(rows.blocks(order[:SAMPLE_ROWS], SAMPLE_ROWS))
    chosen, ratio = choose_codec(sample.tobytes(), rows.row_bytes, remote=is_remote)
    return chosen, round(ratio, 3)


def require_codecs(codec: CodecChoice) -> None:
    """Refuse codecs that do not exist.

    Raises
    ------
    InvalidInputError
        When one is unknown.
    """
    for name in [codec] if isinstance(codec, str) else codec.values():
        if name != "auto" and name not in CODECS:
            message = (
                f"There is no codec {name!r}; `codec` is 'auto' or one of {', '.join(CODECS)}, or a dict of these."
            )
            raise InvalidInputError(message, argument="codec", found=name)


def _in_blocks(column: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    step = BLOCK_BYTES // column.itemsize
    return [column[low : low + step] for low in range(0, len(column), step)]
