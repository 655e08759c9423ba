"""Exports: all traces of a snapshot in one file of another format, for programs that do not know stores.

Knows of the formats only their names; they are loaded when one is asked for.
"""

import importlib
import logging
import math
import os
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError, StoreExistsError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.formats.base import ObservationInfo, SegmentEntry
from tracestore.storage import flush_file, raise_if_full
from tracestore.traces.batch import TraceBatch

if TYPE_CHECKING:
    from tracestore.formats.parquet import ExportSource
    from tracestore.store.trace_store import TraceStore

__all__ = ["EXPORTERS", "ExportKind", "Exporter", "export"]

logger = logging.getLogger(__name__)

ExportKind = Literal["parquet", "awkward", "hdf5"]

EXPORTERS: Mapping[str, str] = {
    "parquet": "tracestore.formats.parquet",
    "awkward": "tracestore.formats.awkward",
    "hdf5": "tracestore.formats.hdf5",
}
"""Kinds of export: name to module."""

_PARQUET_SUFFIXES = (".parquet", ".parq")

DEFAULT_BATCH_BYTES = 64 * 2**20
_MOST_TRACES = 16_384
"""Traces in a batch, however small they are."""

_TRACE_BYTES = 128
_SITE_BYTES = 64
"""Raw size of a trace's own columns, and of a site: what it is, a value, a log probability and two parameters."""


class Exporter(Protocol):
    """A kind of export: a module with this function."""

    def write_file(self, path: Path, batches: Iterable[TraceBatch], source: "ExportSource") -> None:
        """Write traces into a file, one batch after the other."""


def export(
    store: "TraceStore",
    path: str | os.PathLike[str],
    *,
    to: ExportKind,
    observations: Collection[str] | None = None,
    batch_bytes: int = DEFAULT_BATCH_BYTES,
    observer: Observer | None = None,
) -> Path:
    """Write all traces of a store into one file of another format.

    The file appears when it is complete; an export that is interrupted or fails leaves nothing.

    Parameters
    ----------
    store
        The store, at the snapshot that it has pinned.
    path
        The file to make.
    to
        ``parquet``: a row a trace; ``awkward``: Parquet for ``ak.from_parquet``; ``hdf5``: flat columns.
    observations
        Names of the observations to include; all by default.
    batch_bytes
        Raw size of the traces that are read at a time, and of a row group of Parquet. Writing needs a few times as
        much memory.
    observer
        Told of progress, in traces.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InvalidInputError
        When the kind of export or an observation is unknown, ``batch_bytes`` is not positive, the folder of the file
        does not exist, or `ak.from_parquet` would not open a file of this name.
    StoreExistsError
        When there is a file already.
    InsufficientSpaceError
        When the disk is full.
    MissingExtraError
        When the package that writes this format is not installed; names the extra.
    ChecksumError
        When a byte of the store changed; names file and block.

    Examples
    --------
    >>> import tempfile, tracestore as ts
    >>> import pyarrow.parquet as pq
    >>> from tracestore.simulators.toys import geometric
    >>> folder = Path(tempfile.mkdtemp())
    >>> store = ts.simulate(geometric, folder / "traces", num_traces=100, seed=1)
    >>> table = pq.read_table(export(store, folder / "traces.parquet", to="parquet"))
    >>> table.num_rows, table["log_prior"].to_numpy().tolist() == store.column("log_prior").tolist()
    (100, True)
    """
    start = time.perf_counter()
    exporter = _exporter(to)
    target = Path(path)
    _require_suffix(target, to)
    _require_free(target)
    source = _source(store, observations)
    edges = _edges(store, source, batch_bytes)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    if observer is not None:
        observer(PhaseStarted("export", len(store)))
    try:
        exporter.write_file(temporary, _read(store, edges, observations, observer), source)
        flush_file(temporary)
        _require_free(target)
        temporary.rename(target)
        flush_file(target.parent)
    except OSError as error:
        raise_if_full(error, target.parent)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    seconds = time.perf_counter() - start
    logger.info("exported %d traces to %s in %.1f s", len(store), target, seconds)
    if observer is not None:
        observer(PhaseFinished("export", seconds))
    return target


def _exporter(kind: str) -> Exporter:
    if kind not in EXPORTERS:
        message = f"There is no export to {kind!r}; known formats: {', '.join(EXPORTERS)}."
        raise InvalidInputError(message, argument="to")
    return cast("Exporter", importlib.import_module(EXPORTERS[kind]))


def _require_suffix(target: Path, kind: str) -> None:
    if kind == "awkward" and target.suffix not in _PARQUET_SUFFIXES:
        message = (
            f"`ak.from_parquet` opens only files whose names end in {' or '.join(_PARQUET_SUFFIXES)}; "
            f"got {target.name!r}. Choose such a name."
        )
        raise InvalidInputError(message, path=str(target))


def _require_free(target: Path) -> None:
    if not target.parent.is_dir():
        message = f"The folder {target.parent} of the export does not exist; make it, or choose another path."
        raise InvalidInputError(message, path=str(target))
    if os.path.lexists(target):
        message = f"{target} exists already, and exports do not write over files; remove it, or choose another path."
        raise StoreExistsError(message, path=str(target))


def _source(store: "TraceStore", names: Collection[str] | None) -> "ExportSource":
    from tracestore import __version__
    from tracestore.formats.parquet import ExportSource

    nothing = store.take([], observations=names)
    infos = [ObservationInfo(name, column.dtype.str, column.shape[1:]) for name, column in nothing.observations.items()]
    everywhere = set(nothing.observations)
    for layout in store.layouts.values():
        everywhere &= set(layout.observed_names)
        if not everywhere:
            break
    return ExportSource(
        addresses=tuple(store.addresses),
        observations=tuple(infos),
        everywhere=frozenset(everywhere),
        snapshot=store.snapshot_id,
        release=__version__,
    )


def _read(
    store: "TraceStore",
    edges: NDArray[np.int64],
    observations: Collection[str] | None,
    observer: Observer | None,
) -> Iterator[TraceBatch]:
    """Yield all traces in order, and tell of those that the taker is done with."""
    num_failed = 0
    for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        batch = store.take(np.arange(first, end), observations=observations)
        num_failed += len(batch.failures)
        yield batch
        del batch  # or two of them would be in memory while the next one is read
        if observer is not None:
            observer(PhaseAdvanced("export", end, len(store), num_failed))


def _edges(store: "TraceStore", source: "ExportSource", batch_bytes: int) -> NDArray[np.int64]:
    """Cut the store into batches of about equal raw size, by the run directory alone.

    Returns
    -------
    ndarray of int64
        First trace of each batch, and the number of traces.
    """
    if batch_bytes < 1:
        message = f"`batch_bytes` must be at least 1; got {batch_bytes}."
        raise InvalidInputError(message, argument="batch_bytes")
    runs = store.runs
    stored = np.array([_site_bytes(entry) for entry in store.segments])
    # vector-valued draws make traces larger than their number of sites says: never believe in less than is stored
    flat = np.maximum(_TRACE_BYTES + _SITE_BYTES * runs.num_sites.astype(np.float64), stored[runs.segment])
    each = np.maximum(flat + sum(map(_row_bytes, source.observations)), batch_bytes / _MOST_TRACES)
    total = np.concatenate([np.zeros(1), np.cumsum(each * runs.num_traces)])
    bounds = np.append(runs.first, len(store))
    cuts = np.interp(np.arange(0.0, total[-1], batch_bytes), total, bounds)
    return np.unique(np.append(np.floor(cuts).astype(np.int64), len(store)))


def _site_bytes(entry: SegmentEntry) -> float:
    """Bytes of a trace on disk without its observations, averaged over a segment."""
    observed = sum(_row_bytes(info) for info in entry.observations if not info.constant)
    return entry.nbytes / max(entry.num_traces, 1) - observed


def _row_bytes(info: ObservationInfo) -> int:
    return np.dtype(info.dtype).itemsize * math.prod(info.shape)
