"""The ``arrow/1`` segment encoding: uncompressed Arrow IPC files, memory-mapped, checksummed by block (format 3)."""

import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tracestore.errors import FormatError, InvalidInputError
from tracestore.formats.arrow_reader import ArrowSegmentReader
from tracestore.formats.base import SegmentEntry, SegmentRuns, Verify
from tracestore.formats.columns import SITE_COLUMNS, SegmentColumns, cut_segment
from tracestore.formats.dictionary import dictionary_tables
from tracestore.formats.document import JSON, encode_document, flush_file, read_document, require_format
from tracestore.formats.ipc import BLOCK_BYTES, BlockWriter, write_table
from tracestore.formats.observations import ObservationRows, gather_observations
from tracestore.formats.segment_files import ENCODING, RUNS, SegmentFiles
from tracestore.traces.batch import TRACE_COLUMNS, TraceBatch
from tracestore.traces.layout import Layout

__all__ = ["ENCODINGS", "open_segment", "read_runs", "read_seal", "write_segment"]

ENCODINGS = (ENCODING,)
"""Encodings that this backend reads."""

_FLOAT64 = np.dtype("<f8")
_SEGMENT_ID = re.compile(r"[0-9a-z_-]{1,64}")

Files = dict[str, dict[str, JSON]]


def write_segment(
    directory: Path,
    batches: Sequence[TraceBatch],
    *,
    segment_id: str,
    keep_order: bool = False,
    origin: Mapping[str, object] | None = None,
    flush: bool = True,
) -> SegmentEntry:
    """Write traces into an empty directory and seal it.

    Parameters
    ----------
    directory
        An existing, empty directory.
    batches
        The traces; at least one.
    segment_id
        Name of the segment: 1 to 64 characters of ``0-9 a-z - _``.
    keep_order
        Keep the rows as given; otherwise order them by number of sites, trace type, layout and stream.
    origin
        What a recovery needs to publish the segment; part of the seal.
    flush
        Force every file to disk.

    Returns
    -------
    SegmentEntry
        What a manifest says of the segment.

    Raises
    ------
    InvalidInputError
        When there is no trace, or a trace cannot be stored.

    Examples
    --------
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> rng = np.random.default_rng(1)
    >>> batch = TraceBatch.from_traces([run_trace(toys.gum, PriorController(), rng) for _ in range(3)])
    >>> folder = Path("segment"); folder.mkdir()
    >>> entry = write_segment(folder, [batch], segment_id="first")
    >>> len(open_segment(folder, entry).read(slice(0, 2)))
    2
    """
    if not _SEGMENT_ID.fullmatch(segment_id):
        message = f"A segment id has 1 to 64 characters of 0-9 a-z - _; got {segment_id!r}."
        raise InvalidInputError(message, segment_id=segment_id)
    batches = [batch for batch in batches if len(batch)]
    if not batches:
        message = "A segment needs at least one trace; got none."
        raise InvalidInputError(message)
    observations = gather_observations(batches)
    columns = cut_segment(batches, keep_order=keep_order)
    files: Files = {}
    _write_tables(directory, columns, files)
    constants = _write_trace_columns(directory, columns.batch, files)
    for index, name in enumerate(SITE_COLUMNS):
        _write_site_column(directory / f"{name}.arrow", columns, index, files)
    records = [
        _write_observation(directory / f"obs-{index}.arrow", rows, columns.order, files)
        for index, rows in enumerate(observations)
    ]
    nbytes = sum(cast("int", record["size"]) for record in files.values())
    num_failed = int(np.count_nonzero(columns.batch.status))
    members: dict[str, object] = {
        "format": "tracestore-segment",
        "encoding": ENCODING,
        "id": segment_id,
        "num_traces": len(columns.batch),
        "num_failed": num_failed,
        "num_runs": len(columns.runs.layout),
        "num_layouts": len(columns.layouts),
        "num_sites": int(columns.batch.num_sites.sum()),
        "nbytes": nbytes,
        "constants": constants,
        "observations": records,
        "files": files,
    }
    if origin is not None:
        members["origin"] = origin
    (directory / "seal.json").write_bytes(encode_document(members))
    if flush:
        for path in sorted(directory.iterdir()):
            flush_file(path)
        flush_file(directory)
    return read_seal(directory)[0]


def open_segment(
    directory: Path,
    entry: SegmentEntry,
    *,
    verify: Verify = "first",
    layouts: MutableMapping[int, Layout] | None = None,
) -> ArrowSegmentReader:
    """Open a sealed segment; files are opened when they are needed.

    Parameters
    ----------
    directory
        The segment.
    entry
        What the manifest says of it.
    verify
        When checksums of blocks are compared.
    layouts
        Known layouts by id, shared between segments; read and added to.
    """
    return ArrowSegmentReader(directory, entry, verify=verify, layouts={} if layouts is None else layouts)


def read_runs(directory: Path, entry: SegmentEntry) -> SegmentRuns:
    """Read the run directory of a segment and nothing else.

    Raises
    ------
    FormatError
        When the file is missing.
    ChecksumError
        When it changed since it was sealed.
    """
    return SegmentFiles(directory, entry, "first").runs()


def read_seal(directory: Path) -> tuple[SegmentEntry, Mapping[str, JSON]]:
    """Read the seal of a segment: the entry that a manifest should have, and its origin (empty without one).

    Raises
    ------
    FormatError
        When the seal is missing or is not one.
    ChecksumError
        When it changed since it was written.
    """
    name = f"{directory.name}/seal.json"
    seal = read_document(directory / "seal.json", name=name)
    require_format(seal, "tracestore-segment", name)
    if seal["encoding"] not in ENCODINGS:
        message = f"{name} has the encoding {seal['encoding']!r}; this release knows {', '.join(ENCODINGS)}."
        raise FormatError(message, file=name)
    files = cast("Files", seal["files"])
    entry = SegmentEntry.from_json(
        {**seal, "seal": seal["checksum"], "runs": cast("list[str]", files[RUNS]["checksums"])[0]}
    )
    return entry, cast("dict[str, JSON]", seal.get("origin", {}))


def _write_tables(directory: Path, columns: SegmentColumns, files: Files) -> None:
    runs = columns.runs
    tables: dict[str, dict[str, object]] = {
        **cast("dict[str, dict[str, object]]", dictionary_tables(columns.layouts)),
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
            "num_sites": runs.num_sites,
            "tile_traces": runs.tile_traces,
            **{f"{name}_start": runs.starts[index] for index, name in enumerate(SITE_COLUMNS)},
            "seconds": runs.seconds,
        },
        "failures": _failures(columns.batch),
    }
    for name, table in tables.items():
        arrays = {key: pa.array(column) for key, column in table.items()}
        if len(next(iter(arrays.values()))):
            files[f"{name}.arrow"] = write_table(directory / f"{name}.arrow", arrays)


def _failures(batch: TraceBatch) -> dict[str, object]:
    rows = np.flatnonzero(batch.status)
    return {"row": rows, "reason": pa.array([batch.failures.get(row, "") for row in rows.tolist()], pa.string())}


def _write_trace_columns(directory: Path, batch: TraceBatch, files: Files) -> dict[str, str]:
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
        path = directory / "traces.arrow"
        writer = BlockWriter(path, [(name, column.dtype) for name, column in varying.items()])
        num_rows = BLOCK_BYTES // sum(column.itemsize for column in varying.values())
        for low in range(0, len(batch), num_rows):
            writer.write([column[low : low + num_rows] for column in varying.values()])
        files[path.name] = writer.close()
    return constants


def _write_site_column(path: Path, columns: SegmentColumns, index: int, files: Files) -> None:
    """Write the tiles of a column, as many to a block as fit."""
    if not columns.stored[index].num_slots.any():
        return
    writer = BlockWriter(path, [("value", _FLOAT64)])
    pending: list[NDArray[np.float64]] = []
    num_pending = 0
    for tile in columns.tiles(index):
        if num_pending and (num_pending + len(tile)) * _FLOAT64.itemsize > BLOCK_BYTES:
            writer.write([np.concatenate(pending)])
            pending, num_pending = [], 0
        pending.append(tile)
        num_pending += len(tile)
    if num_pending:
        writer.write([np.concatenate(pending)])
    files[path.name] = writer.close()


def _write_observation(path: Path, rows: ObservationRows, order: NDArray[np.int64], files: Files) -> dict[str, JSON]:
    as_stored: Callable[[NDArray[np.generic]], NDArray[np.generic]] = (
        (lambda block: block.view(np.uint8)) if rows.dtype.kind == "b" else (lambda block: block)
    )
    rows_per_block = max(1, BLOCK_BYTES // max(rows.row_bytes, 1))
    if rows.row_bytes:
        stored_dtype = np.dtype(np.uint8) if rows.dtype.kind == "b" else rows.dtype
        writer = BlockWriter(path, [("value", stored_dtype)])
        blocks = rows.blocks(order, rows_per_block) if rows.constant is None else [rows.constant.reshape(-1)]
        for block in blocks:
            writer.write([as_stored(block)])
        files[path.name] = writer.close()
    return {
        **rows.info.to_json(),
        "file": path.name,
        "rows_per_block": rows_per_block,
        "absent_zero": rows.absent_zero,
    }
