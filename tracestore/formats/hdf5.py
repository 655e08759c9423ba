"""Traces as an HDF5 file of flat columns with offsets; what h5py, MATLAB and Julia open. A leaf: needs h5py.

Groups: ``/traces`` (a row a trace), ``/sites`` (a row a site, those of trace i from ``/traces/site_offsets[i]``),
``/values`` and ``/parameters`` (flat, those of site j from ``/sites/value_offsets[j]`` and
``/sites/parameter_offsets[j]``), ``/addresses``, ``/names`` and ``/families`` (texts, to which sites refer by number),
``/observations/<name>`` (row i for trace i; zeros where ``/has_observation/<name>`` is false).
"""

import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from tracestore._extras import extra
from tracestore.formats.parquet import KINDS, Coded, ExportSource, SiteRows, layout_ids
from tracestore.traces.batch import TRACE_COLUMNS, TraceBatch

with extra("hdf5"):
    import h5py

__all__ = ["link_name", "write_file"]

_CHUNK_BYTES = 2**18
_GZIP_LEVEL = 1  # with shuffled bytes, higher levels take far longer and gain a few percent

_TEXT = h5py.string_dtype("utf-8")
_KIND = h5py.enum_dtype({name: number for number, name in enumerate(KINDS)}, basetype=np.uint8)
_SITE_COLUMNS: dict[str, DTypeLike] = {
    "address": np.int32,
    "name": np.int32,
    "kind": _KIND,
    "family": np.int32,
    "controlled": np.bool_,
    "log_prob": np.float64,
}
_OFFSETS = ("traces/site_offsets", "sites/value_offsets", "sites/parameter_offsets")


def write_file(path: Path, batches: Iterable[TraceBatch], source: ExportSource) -> None:
    """Write traces into an HDF5 file.

    Parameters
    ----------
    path
        The file; written over when it is there.
    batches
        The traces, in order; one batch at a time is in memory.
    source
        What the batches have in common.

    Raises
    ------
    OSError
        When the file system refuses, for example because it is full.

    Examples
    --------
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> rng = np.random.default_rng(1)
    >>> batch = TraceBatch.from_traces([run_trace(toys.branching, PriorController(), rng) for _ in range(3)])
    >>> write_file(Path("three.h5"), [batch], ExportSource())
    >>> with h5py.File("three.h5") as file:
    ...     file["traces/log_prior"][:].tolist() == batch.log_prior.tolist(), file["names"].asstr()[0]
    (True, 'r')
    """
    # Interruptions reach the main thread alone. HDF5 works in another one, since it crashes when it is cut short.
    with path.open("w+b", buffering=0) as file, ThreadPoolExecutor(1) as thread:
        sink = _Sink(file)
        columns = _Columns(sink, source)
        try:
            thread.submit(columns.open).result()
            for batch in batches:
                thread.submit(columns.append, batch).result()
                del batch
            thread.submit(columns.finish).result()
        finally:
            thread.submit(columns.close).result()
            sink.check()  # what HDF5 says about bytes that could not be written is beside the point


def link_name(name: str) -> str:
    """Name of an observation's dataset: that of the observation, with what HDF5 reserves replaced.

    Examples
    --------
    >>> link_name("deposits"), link_name("near/far")
    ('deposits', 'near%2Ffar')
    """
    escaped = name.replace("%", "%25").replace("/", "%2F")
    return escaped.replace(".", "%2E") if set(escaped) <= {"."} else escaped


@dataclass(slots=True)
class _Table:
    """Texts that sites refer to by number, in order of first use."""

    numbers: dict[str, int] = field(default_factory=dict)

    def look_up(self, texts: Coded) -> NDArray[np.int32]:
        places = [self.numbers.setdefault(text, len(self.numbers)) for text in texts.table]
        return np.array(places, np.int32)[texts.codes]


class _Sink(io.RawIOBase):
    """The file below HDF5, which crashes when it cannot write: the first error is kept, and raised by `check`.

    Parameters
    ----------
    file
        Unbuffered.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the error that a write met."""
        if self._error is not None:
            raise self._error

    def write(self, data: "memoryview") -> int:  # type: ignore[override]  # HDF5 gives nothing else
        """Write all bytes, or remember why not."""
        left = memoryview(data)  # HDF5 gives a view of another kind
        try:
            while self._error is None and len(left):
                left = left[self._file.write(left) :]
        except OSError as error:
            self._error = error
        return len(data)

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        """Read; what is not in the file is zero."""
        view = memoryview(buffer)
        num_read = self._file.readinto(view) or 0
        view[num_read:] = bytes(len(view) - num_read)
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Position."""
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        """Cut the file or make it longer, or remember why not."""
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return self.tell() if size is None else size

    def flush(self) -> None:
        """Do nothing: the file has no buffer."""


class _Columns:
    """The datasets of one file, which grow by batches."""

    _file: h5py.File
    """There once `open` was called."""

    def __init__(self, sink: _Sink, source: ExportSource) -> None:
        self._sink = sink
        self._source = source
        self._is_open = False
        self._tables = {
            "addresses": _Table({address: number for number, address in enumerate(source.addresses)}),
            "names": _Table(),
            "families": _Table(),
        }

    def open(self) -> None:
        """Make the datasets."""
        self._file = h5py.File(self._sink, "w")
        self._is_open = True
        self._file.attrs.update(self._source.attributes("hdf5"))
        for name, dtype in (*TRACE_COLUMNS, ("trace_type", "uint64"), ("layout", "uint64"), ("failure", _TEXT)):
            self._make(f"traces/{name}", dtype)
        for name, site_dtype in _SITE_COLUMNS.items():
            self._make(f"sites/{name}", site_dtype)
        for name in ("values", "parameters"):
            self._make(name, np.float64)
        for name in _OFFSETS:
            self._make(name, np.int64)
            self._extend(name, [0])
        self._file.create_group("observations")
        self._file.create_group("has_observation")
        for info in self._source.observations:
            link = link_name(info.name)
            self._make(f"observations/{link}", info.dtype, info.shape).attrs["name"] = info.name
            self._make(f"has_observation/{link}", np.bool_)

    def close(self) -> None:
        """Close the file if it is open."""
        if self._is_open:
            self._file.close()

    def append(self, batch: TraceBatch) -> None:
        """Add the traces of a batch."""
        rows = SiteRows.from_batch(batch)
        for name, _ in TRACE_COLUMNS:
            self._extend(f"traces/{name}", getattr(batch, name))
        self._extend("traces/trace_type", batch.trace_types)
        self._extend("traces/layout", layout_ids(batch))
        self._extend_failures(batch)
        columns: dict[str, NDArray[np.generic]] = {
            "address": self._tables["addresses"].look_up(rows.address),
            "name": self._tables["names"].look_up(rows.name),
            "kind": rows.kind,
            "family": self._tables["families"].look_up(rows.family),
            "controlled": rows.controlled,
            "log_prob": batch.log_probs,
        }
        bases = [len(self._file[name]) for name in ("sites/kind", "values", "parameters")]
        for name, column in columns.items():
            self._extend(f"sites/{name}", column)
        self._extend("values", batch.values)
        self._extend("parameters", batch.parameters)
        offsets = (batch.site_offsets, rows.value_offsets, rows.parameter_offsets)
        for name, base, more in zip(_OFFSETS, bases, offsets, strict=True):
            self._extend(name, more[1:] + base)
        for info in self._source.observations:
            link = link_name(info.name)
            self._extend(f"observations/{link}", batch.observations[info.name])
            self._extend(f"has_observation/{link}", batch.has_observation(info.name))
        self._sink.check()

    def finish(self) -> None:
        """Write the texts that sites refer to."""
        for name, table in self._tables.items():
            self._file.create_dataset(name, data=np.array(list(table.numbers), object), dtype=_TEXT)

    def _make(self, name: str, dtype: DTypeLike, shape: tuple[int, ...] = ()) -> h5py.Dataset:
        row_bytes = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
        # an axis of length 0 cannot be cut into chunks unless it could grow
        limits = tuple(size or None for size in shape)
        chunk = (max(1, _CHUNK_BYTES // max(row_bytes, 1)), *(max(size, 1) for size in shape))
        filters = (
            {}
            if dtype is _TEXT
            else {"compression": "gzip", "compression_opts": _GZIP_LEVEL, "shuffle": True, "fletcher32": True}
        )
        return self._file.create_dataset(
            name, (0, *shape), dtype=dtype, maxshape=(None, *limits), chunks=chunk, **filters
        )

    def _extend(self, name: str, rows: ArrayLike) -> None:
        dataset, more = self._file[name], np.asarray(rows)
        start = len(dataset)
        dataset.resize(start + len(more), axis=0)
        if more.size:
            dataset[start:] = more

    def _extend_failures(self, batch: TraceBatch) -> None:
        dataset = self._file["traces/failure"]
        start = len(dataset)
        dataset.resize(start + len(batch), axis=0)
        if batch.failures:  # elsewhere the text is empty, which is what HDF5 puts there
            dataset[start:] = np.array([batch.failures.get(row, "") for row in range(len(batch))], object)
