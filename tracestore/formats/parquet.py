"""Traces as a Parquet file, one row a trace and its sites as a list of records; what table programs open.

Also what every kind of export starts from: `ExportSource`, and `SiteRows`, the sites of a batch as columns. Must not
know where the traces come from.
"""

import base64
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.formats.base import ObservationInfo
from tracestore.traces.batch import TRACE_COLUMNS, TraceBatch
from tracestore.traces.layout import Site, SiteKind

__all__ = [
    "KINDS",
    "Coded",
    "ExportSource",
    "SiteRows",
    "layout_ids",
    "trace_schema",
    "write_file",
]

VERSION = 1

KINDS = tuple(kind.name.lower() for kind in SiteKind)
"""Names of the kinds of site, in order of their numbers."""

Style = Literal["parquet", "awkward"]
"""For whom a file of Parquet is: observations as flat columns, or as regular arrays in a record."""

_CODED = pa.dictionary(pa.int32(), pa.string())
_REPEATED = (
    "failure",
    "trace_type",
    "layout",
    *(f"sites.list.element.{name}" for name in ("address", "name", "family", "kind")),
)
"""Columns with few distinct entries, which are stored once per row group."""


@dataclass(frozen=True, slots=True)
class ExportSource:
    """What an export needs to know of its traces before it sees the first one.

    Examples
    --------
    >>> source = ExportSource(observations=(ObservationInfo("seen", "<f4", (2, 3)),))
    >>> source.empty_batch().observations["seen"].shape
    (0, 2, 3)
    """

    addresses: Sequence[str] = ()
    """All addresses, in order of their numbers."""
    observations: tuple[ObservationInfo, ...] = ()
    """The observations to write; the batches hold them with these types and shapes."""
    everywhere: frozenset[str] = frozenset()
    """Names of the observations that every trace has."""
    snapshot: str = ""
    """Identity of the snapshot that is written."""
    release: str = ""
    """Release of tracestore that writes."""

    def attributes(self, kind: str) -> dict[str, str]:
        """Remarks that a file carries, `kind` being the name of its format."""
        return {
            "format": f"tracestore-{kind}",
            "version": str(VERSION),
            "tracestore_version": self.release,
            "snapshot": self.snapshot,
        }

    def empty_batch(self) -> TraceBatch:
        """Batch without traces, its columns typed like those of the others."""
        columns: dict[str, Any] = {name: np.empty(0, dtype) for name, dtype in TRACE_COLUMNS}
        observations = {info.name: np.empty((0, *info.shape), info.dtype) for info in self.observations}
        numbers = np.empty(0)
        return TraceBatch((), np.empty(0, np.int32), numbers, numbers, numbers, observations, **columns)


@dataclass(frozen=True, eq=False, slots=True)
class Coded:
    """Texts of which few are distinct."""

    codes: NDArray[np.int32]
    """Position in the table of each text, shape ``(num_sites,)``."""
    table: tuple[str, ...]
    """The distinct texts."""


@dataclass(frozen=True, eq=False, slots=True)
class SiteRows:
    """The sites of a batch as columns, trace by trace; made from the layouts without a loop over traces or sites.

    Examples
    --------
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> rng = np.random.default_rng(1)
    >>> batch = TraceBatch.from_traces([run_trace(toys.gum, PriorController(), rng) for _ in range(2)])
    >>> rows = SiteRows.from_batch(batch)
    >>> rows.name.table, rows.name.codes.tolist(), rows.value_offsets.tolist()
    (('mu', 'obs0', 'obs1', 'result'), [0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 1, 1, 2, 3, 3, 3, 4])
    """

    address: Coded
    name: Coded
    family: Coded
    kind: NDArray[np.uint8]
    """Positions in `KINDS`, shape ``(num_sites,)``."""
    controlled: NDArray[np.bool_]
    """Shape ``(num_sites,)``."""
    value_offsets: NDArray[np.int64]
    """Where the values of each site start in ``batch.values``, shape ``(num_sites + 1,)``."""
    parameter_offsets: NDArray[np.int64]
    """The same in ``batch.parameters``."""

    @staticmethod
    def from_batch(batch: TraceBatch) -> "SiteRows":
        """Look the sites of all traces up in their layouts.

        Parameters
        ----------
        batch
            The traces.
        """
        table: dict[Site, int] = {}
        used = np.unique(batch.layout_index)
        parts = [
            np.array([table.setdefault(site, len(table)) for site in batch.layouts[place].sites], np.int32)
            for place in used
        ]
        starts = np.zeros(len(batch.layouts), np.int64)
        starts[used] = np.cumsum([0, *map(len, parts)])[:-1]
        shifts = starts[batch.layout_index] - batch.site_offsets[:-1]
        joined = np.concatenate([np.empty(0, np.int32), *parts])
        rows = joined[np.repeat(shifts, batch.num_sites) + np.arange(batch.site_offsets[-1])]
        sites = list(table)
        return SiteRows(
            address=_coded([site.address for site in sites], rows),
            name=_coded([site.name for site in sites], rows),
            family=_coded([site.family for site in sites], rows),
            kind=np.array([site.kind for site in sites], np.uint8)[rows],
            controlled=np.array([site.is_controlled for site in sites], np.bool_)[rows],
            value_offsets=_offsets([site.num_values for site in sites], rows),
            parameter_offsets=_offsets([site.num_parameters for site in sites], rows),
        )


def layout_ids(batch: TraceBatch) -> NDArray[np.uint64]:
    """Layout id of each trace of a batch, shape ``(N,)``."""
    return np.array([layout.id for layout in batch.layouts], np.uint64)[batch.layout_index]


def write_file(path: Path, batches: Iterable[TraceBatch], source: ExportSource, *, style: Style = "parquet") -> None:
    """Write traces into a Parquet file, a row group for each batch.

    Parameters
    ----------
    path
        The file; written over when it is there.
    batches
        The traces, in order; one batch at a time is in memory.
    source
        What the batches have in common.
    style
        Where observations are, see `trace_schema`.

    Examples
    --------
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> rng = np.random.default_rng(1)
    >>> batch = TraceBatch.from_traces([run_trace(toys.branching, PriorController(), rng) for _ in range(3)])
    >>> write_file(Path("three.parquet"), [batch], ExportSource())
    >>> table = pq.read_table("three.parquet")
    >>> table.num_rows, table["log_prior"].to_numpy().tolist() == batch.log_prior.tolist()
    (3, True)
    """
    # floating-point columns are left out of the dictionaries: they would be built only to be given up
    with pq.ParquetWriter(
        path,
        _schema(source, style, _CODED),
        compression="zstd",
        use_dictionary=list(_REPEATED),
        write_page_checksum=True,
        store_schema=False,
    ) as writer:
        writer.add_key_value_metadata(_remarks(trace_schema(source, style)))
        done = 0
        for batch in batches:
            writer.write_batch(_record_batch(batch, source, style, first=done))
            done += len(batch)
            del batch
        if not done:  # Awkward opens no file without a row group
            writer.write_batch(_record_batch(source.empty_batch(), source, style))


def trace_schema(source: ExportSource, style: Style = "parquet") -> pa.Schema:
    """Arrow schema of a row: a trace.

    Parameters
    ----------
    source
        Which observations there are.
    style
        ``parquet``: each observation is a column ``observation.<name>``, flattened in row-major order; ``awkward``: all
        are in the record ``observations``, as lists within each other. The lists have fixed sizes, but for the
        outermost one of an observation that some trace lacks. The shape is in the metadata of the field.

    Examples
    --------
    >>> source = ExportSource((), (ObservationInfo("seen", "<f4", (2, 3)),), frozenset({"seen"}))
    >>> trace_schema(source).field("observation.seen").type
    FixedSizeListType(fixed_size_list<element: float not null>[6])
    """
    return _schema(source, style, pa.string())


def _record_batch(batch: TraceBatch, source: ExportSource, style: Style, *, first: int = 0) -> pa.RecordBatch:
    schema = _schema(source, style, _CODED)
    reasons: list[str | None] = [None] * len(batch)
    for row, reason in batch.failures.items():
        reasons[row] = reason
    arrays = [
        pa.array(np.arange(first, first + len(batch))),
        *(pa.array(getattr(batch, name)) for name, _ in TRACE_COLUMNS),
        pa.array(batch.trace_types),
        pa.array(layout_ids(batch)),
        pa.array(reasons, pa.string()),
        *_observation_columns(batch, source, style),
        _site_lists(batch, schema.field("sites").type),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _schema(source: ExportSource, style: Style, text: pa.DataType) -> pa.Schema:
    numbers = pa.list_(_required("element", pa.float64()))
    site = pa.struct(
        [
            _required("address", text),
            _required("name", text),
            _required("kind", text),
            _required("family", text),
            _required("controlled", pa.bool_()),
            _required("value", numbers),
            _required("log_prob", pa.float64()),
            _required("parameters", numbers),
        ]
    )
    fields = [
        _required("trace", pa.int64()),
        *(_required(name, pa.from_numpy_dtype(np.dtype(dtype))) for name, dtype in TRACE_COLUMNS),
        _required("trace_type", pa.uint64()),
        _required("layout", pa.uint64()),
        pa.field("failure", pa.string()),
        *_observation_fields(source, style),
        _required("sites", pa.list_(_required("element", site))),
    ]
    attributes = {f"tracestore.{name}": value for name, value in source.attributes(style).items()}
    return pa.schema(fields, metadata=attributes)


def _remarks(schema: pa.Schema) -> dict[str, str]:
    """Metadata of a file: the schema that readers shall see, in Arrow's own encoding, and its remarks.

    Texts are written from dictionaries and read as plain strings: Arrow cannot read dictionaries inside lists.
    """
    encoded = base64.b64encode(schema.serialize().to_pybytes()).decode()
    return {"ARROW:schema": encoded, **{name.decode(): value.decode() for name, value in schema.metadata.items()}}


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _observation_fields(source: ExportSource, style: Style) -> list[pa.Field]:
    prefix = "observation." if style == "parquet" else ""
    fields = [
        pa.field(
            prefix + info.name,
            _observation_type(info, source, style),
            nullable=info.name not in source.everywhere,
            metadata={"name": info.name, "dtype": info.dtype, "shape": json.dumps(info.shape)},
        )
        for info in source.observations
    ]
    if style == "parquet" or not fields:  # Parquet has no records without fields
        return fields
    return [_required("observations", pa.struct(fields))]


def _observation_columns(batch: TraceBatch, source: ExportSource, style: Style) -> list[pa.Array]:
    columns = [_observation_array(batch, info, source, style) for info in source.observations]
    if style == "parquet" or not columns:
        return columns
    (field,) = _observation_fields(source, style)
    return [pa.StructArray.from_arrays(columns, fields=list(field.type))]


def _observation_type(info: ObservationInfo, source: ExportSource, style: Style) -> pa.DataType:
    kind, sizes = pa.from_numpy_dtype(np.dtype(info.dtype)), _list_sizes(info.shape, style)
    for size in sizes[:0:-1]:
        kind = pa.list_(_required("element", kind), size)
    # older releases of Arrow neither write nor read a list of fixed size that is null
    is_fixed = info.name in source.everywhere and 0 not in sizes
    return pa.list_(_required("element", kind), sizes[0] if is_fixed else -1) if sizes else kind


def _list_sizes(shape: tuple[int, ...], style: Style) -> tuple[int, ...]:
    """Sizes of the lists within each other, the outermost first."""
    return shape if style == "awkward" and 0 not in shape else (math.prod(shape),) * bool(shape)


def _observation_array(batch: TraceBatch, info: ObservationInfo, source: ExportSource, style: Style) -> pa.Array:
    """One observation, null where the trace does not have it."""
    present = batch.has_observation(info.name)
    if info.name in source.everywhere and not present.all():
        message = f"Observation {info.name!r} is said to be in every trace, but {(~present).sum()} are without it."
        raise InvalidInputError(message, name=info.name)
    column = np.ascontiguousarray(batch.observations[info.name], info.dtype)
    mask = None if present.all() else ~present
    kind, sizes = _observation_type(info, source, style), _list_sizes(info.shape, style)
    if not sizes:
        return pa.array(column, mask=mask, from_pandas=False)
    array = pa.array((column if mask is None else column[present]).reshape(-1))
    for size in sizes[:0:-1]:
        array = pa.FixedSizeListArray.from_arrays(array, type=pa.list_(_required("element", array.type), size))
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(array, type=kind)
    offsets = _arrow_offsets(np.append(0, np.cumsum(present * sizes[0])))
    return pa.ListArray.from_arrays(offsets, array, type=kind, mask=None if mask is None else pa.array(mask))


def _site_lists(batch: TraceBatch, kind: pa.ListType) -> pa.ListArray:
    rows = SiteRows.from_batch(batch)
    fields = list(kind.value_type)
    numbers = fields[-1].type
    columns = [
        _dictionary(rows.address),
        _dictionary(rows.name),
        _dictionary(Coded(rows.kind.astype(np.int32), KINDS)),
        _dictionary(rows.family),
        pa.array(rows.controlled),
        pa.ListArray.from_arrays(_arrow_offsets(rows.value_offsets), pa.array(batch.values), type=numbers),
        pa.array(batch.log_probs),
        pa.ListArray.from_arrays(_arrow_offsets(rows.parameter_offsets), pa.array(batch.parameters), type=numbers),
    ]
    sites = pa.StructArray.from_arrays(columns, fields=fields)
    return pa.ListArray.from_arrays(_arrow_offsets(batch.site_offsets), sites, type=kind)


def _arrow_offsets(offsets: NDArray[np.int64]) -> pa.Array:
    return pa.array(offsets).cast(pa.int32())  # refuses what does not fit


def _dictionary(texts: Coded) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(texts.codes), pa.array(texts.table, pa.string()))


def _coded(texts: list[str], rows: NDArray[np.int32]) -> Coded:
    numbers: dict[str, int] = {}
    codes = np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int32)
    return Coded(codes[rows], tuple(numbers))


def _offsets(sizes: list[int], rows: NDArray[np.int32]) -> NDArray[np.int64]:
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(np.array(sizes, np.int64)[rows], out=offsets[1:])
    return offsets
