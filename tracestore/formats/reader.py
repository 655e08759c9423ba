"""The reader of a segment, for every backend: mapped files, whole-array numpy, no loop over traces (format 3)."""

from collections.abc import Collection, Mapping, MutableMapping
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tracestore.errors import FormatError, InvalidInputError, TraceTypeMismatchError
from tracestore.formats.base import ObservationInfo, Rows, SegmentRuns
from tracestore.formats.blocks import BlockFile
from tracestore.formats.chunks import ChunkRows
from tracestore.formats.columns import SITE_COLUMNS, StoredNumbers
from tracestore.formats.dictionary import Dictionary, LayoutSequence, LooseLayouts
from tracestore.formats.observation_column import ObservationColumn
from tracestore.formats.segment_files import SegmentFiles
from tracestore.formats.site_columns import SiteColumn
from tracestore.formats.tile_places import StateRuns, count_up, find_tiles, locate_states, normalize_rows
from tracestore.traces.batch import TRACE_COLUMNS, TraceBatch
from tracestore.traces.layout import Layout, Site

__all__ = ["ColumnarReader"]

_TABLES = ("bases", "sites", "layouts", "layout_sites")
_ALL_ROWS = slice(None)
_COLUMN_DTYPES = dict(TRACE_COLUMNS)
_STORED_DTYPES: dict[str, np.dtype[np.generic]] = {
    name: np.dtype("u1" if dtype == "bool" else dtype).newbyteorder("<") for name, dtype in TRACE_COLUMNS
}


class ColumnarReader:
    """Reads a segment; files are opened and checked when they are first needed.

    Parameters
    ----------
    files
        Opens the files of the segment.
    layouts
        Known layouts by id, shared between segments; read and added to.
    """

    def __init__(self, files: SegmentFiles, layouts: MutableMapping[int, Layout]) -> None:
        self.entry = files.entry
        self._files = files
        self._known_layouts = layouts

    @property
    def num_traces(self) -> int:
        """Number of rows."""
        return self.entry.num_traces

    @property
    def kept_bytes(self) -> int:
        """Bytes that were fetched or decoded and stay in memory."""
        return self._files.kept.nbytes

    @property
    def layouts(self) -> LayoutSequence:
        """Distinct layouts, built when touched."""
        return self._dictionary.layouts

    @cached_property
    def observations(self) -> Mapping[str, ObservationInfo]:
        """Named observations."""
        return {info.name: info for info in self.entry.observations}

    @cached_property
    def runs(self) -> SegmentRuns:
        """Consecutive traces of one layout."""
        return self._files.runs()

    def read(self, rows: Rows, *, observations: Collection[str] | None = None) -> TraceBatch:
        """Read rows, in the order asked for.

        Parameters
        ----------
        rows
            A slice with step 1, or indices in any order.
        observations
            Names to include; all by default.
        """
        rows = normalize_rows(rows, self.num_traces)
        index = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        names = [name for name in self.observations if observations is None or name in observations]
        if not len(index):
            return self._empty(names)
        states = rows if self._states is None else self._states_of(index)
        parts = find_tiles(self._state_runs, states.start, states.stop) if isinstance(states, slice) else None
        if parts is not None:
            used = list(dict.fromkeys(part.layout for part in parts))
            numbers = np.array([used.index(part.layout) for part in parts], np.int32)
            layout_index = np.repeat(numbers, [part.num_rows for part in parts])
            flat = [column.read_parts(parts) for column in self._site_columns]
        else:
            places = locate_states(self._state_runs, index if isinstance(states, slice) else states)
            layouts, inverse = np.unique(places.layout, return_inverse=True)
            used, layout_index = layouts.tolist(), inverse.astype(np.int32)
            flat = [column.read(places) for column in self._site_columns]
        columns: dict[str, Any] = {name: self._column(name, rows) for name, _ in TRACE_COLUMNS}
        return TraceBatch(
            layouts=tuple(map(self._dictionary.layout, used)),
            layout_index=layout_index,
            values=flat[0],
            log_probs=flat[1],
            parameters=flat[2],
            observations={name: self._observation(name, rows) for name in names},
            failures=self._failures_of(index),
            **columns,
        )

    def column(self, name: str) -> NDArray[np.generic]:
        """Read one number per trace.

        Parameters
        ----------
        name
            A name of `TRACE_COLUMNS`.

        Raises
        ------
        InvalidInputError
            When there is no such column.
        """
        if name not in _COLUMN_DTYPES:
            message = f"There is no column {name!r}; columns: {', '.join(_COLUMN_DTYPES)}."
            raise InvalidInputError(message, name=name)
        return self._column(name, slice(0, self.num_traces))

    def values(self, name: str) -> tuple[NDArray[np.generic], NDArray[np.int64]] | None:
        """Read the values of a name or address, and the rows that have it.

        Parameters
        ----------
        name
            Name or full address; the last site of a trace wins when it repeats.

        Returns
        -------
        values : ndarray
            Shape ``(M, *shape)``, in order of rows.
        rows : ndarray of int64
            Shape ``(M,)``.

        Raises
        ------
        TraceTypeMismatchError
            When values differ in shape between layouts.
        """
        if name in self.observations:
            runs = np.flatnonzero(self._dictionary.observes(name)[self.runs.layout])
            rows = count_up(self.runs.first[runs], self.runs.num_traces[runs])
            return (self.observation(name, rows), rows) if len(rows) else None
        found = self._dictionary.find(name)
        if not found:
            return None
        shapes = {sites.shape for sites in found}
        if len(shapes) > 1:
            message = f"Values of {name!r} differ in shape between layouts: {sorted(shapes)}; ask for full addresses."
            raise TraceTypeMismatchError(message, name=name)
        parts, all_rows = [], []
        for sites in found:
            runs = np.flatnonzero(np.isin(self.runs.layout, sites.layout))
            rows = count_up(self.runs.first[runs], self.runs.num_traces[runs])
            all_rows.append(rows)
            if sites.observation:
                parts.append(self.observation(sites.observation, rows))
                continue
            index = sites.value_index[np.searchsorted(sites.layout, self.runs.layout[runs])]
            width = int(np.prod(sites.shape, dtype=np.int64))
            values = self._site_columns[0].read_runs(runs, index, width)
            if self._states is not None:
                states = self._states_of(rows)
                values = values[np.cumsum(np.diff(states, prepend=states[:1]) != 0)]
            parts.append(values.reshape(len(rows), *sites.shape))
        if len(parts) == 1:
            return parts[0], all_rows[0]
        order = np.argsort(np.concatenate(all_rows), kind="stable")
        return np.concatenate(parts)[order], np.concatenate(all_rows)[order]

    def shapes_of(self, name: str) -> set[tuple[int, ...]]:
        """Shapes of the values of a name or address, without reading any; empty when there is no such site."""
        return {sites.shape for sites in self._dictionary.find(name)}

    def observation(self, name: str, rows: Rows) -> NDArray[np.generic]:
        """Read an observation, shape ``(num_rows, *shape)``; a broadcast view when it is constant."""
        return self._observation(name, normalize_rows(rows, self.num_traces))

    def has_observation(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the layouts of the rows have the named observe, shape ``(num_rows,)``."""
        return self._dictionary.observes(name)[self.runs.layout[np.searchsorted(self.runs.first, rows, "right") - 1]]

    def constant_observation(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.generic] | None:
        """Return the row of the observation that all the given rows share; None when the segment keeps each."""
        column = self._observation_columns[name]
        if column.constant is None or not column.absent_zero:
            return column.constant
        return column.constant if self.has_observation(name, rows).all() else None

    def fill_observation(self, name: str, rows: Rows, out: NDArray[np.generic], places: Rows = _ALL_ROWS) -> None:
        """Copy an observation into ``out[places]``.

        Parameters
        ----------
        name
            The observation; rows of a segment without it are zero.
        rows
            Rows of this segment.
        out
            Shape ``(num_traces, *shape)``, of a type that holds the observation's.
        places
            Where each row goes.
        """
        rows = normalize_rows(rows, self.num_traces)
        column = self._observation_columns.get(name)
        if column is None:
            out[places] = 0
        elif column.constant is not None:
            out[places] = self._observation(name, rows)
        elif isinstance(places, slice):
            target = out[places]
            column.copy_range(rows.start, target) if isinstance(rows, slice) else column.copy_rows(rows, target, None)
        else:
            column.copy_rows(np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows, out, places)

    def failures(self) -> Mapping[int, str]:
        """Reasons of the traces that failed, by row."""
        rows, reasons = self._failures
        return dict(zip(rows.tolist(), reasons, strict=True))

    def codecs(self) -> dict[str, str]:
        """Codec of each observation whose rows differ."""
        records = self._files.seal["observations"]
        return {record["name"]: record.get("codec", "none") for record in records if not record["constant"]}

    def file_sizes(self) -> dict[str, int]:
        """Bytes of each file but the seal."""
        return {file: cast("int", record["size"]) for file, record in self._files.records.items()}

    def addresses(self) -> tuple[NDArray[np.uint64], pa.Array, NDArray[np.int32]]:
        """Ids, base addresses and instances of the distinct sites, in order of first appearance."""
        return self._dictionary.ids, self._dictionary.bases, self._dictionary.instances

    def sites(self) -> list[Site]:
        """Return the distinct sites, in order of first appearance."""
        return self._dictionary.sites()

    def trace_types(self) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint64]]:
        """Trace types of layouts with several states: ids, where the addresses of each begin, address ids, flat."""
        return self._dictionary.trace_types()

    def file_problems(self) -> list[tuple[str, str]]:
        """Check that all files are there, whole and of the sizes that were sealed; pairs of file and problem."""
        return self._files.problems(deep=False)

    def problems(self, *, deep: bool = False) -> list[tuple[str, str]]:
        """Check files and references, with `deep` every byte; pairs of file and problem."""
        if found := self._files.problems(deep=deep):
            return found
        try:
            for index, layout in enumerate(self.layouts):
                if Layout(layout.sites).id != self._dictionary.layout_id(index):
                    found.append((self._files.path_name("layouts"), f"layout {index} has another content than id"))
            if deep:
                self.read(_ALL_ROWS, observations=())
                for column in self._observation_columns.values():
                    if isinstance(column.rows, ChunkRows):
                        found += [(column.rows.name, message) for message in column.rows.problems()]
        except FormatError as error:
            found.append((self._files.path_name("seal.json"), str(error)))
        return found

    @cached_property
    def _dictionary(self) -> Dictionary:
        tables = {name: table for name in _TABLES if (table := self._files.table(name)) is not None}
        num_regular = len(tables["layouts"]) if "layouts" in tables else 0
        is_loose = self.runs.layout >= num_regular
        sizes = self.runs.num_sites[is_loose].astype(np.int64)
        loose = LooseLayouts(
            self.runs.layout_id[is_loose],
            np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
            self._files.column("loose", "<i4"),
        )
        return Dictionary(tables, loose, self._known_layouts)

    @cached_property
    def _state_runs(self) -> StateRuns:
        return StateRuns.of(self.runs)

    @cached_property
    def _states(self) -> BlockFile | None:
        """State of each row; None when every row has its own."""
        return self._files.column("states", "<i8")

    def _states_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        file = self._states
        if file is None:
            return rows
        return cast("NDArray[np.int64]", file.map()[rows + file.shifts(file.block_of(rows))])

    @cached_property
    def _site_columns(self) -> tuple[SiteColumn, SiteColumn, SiteColumn]:
        constants = self._files.constants()
        values, log_probs, parameters = (
            SiteColumn(
                self._files.column(name, "<f8"),
                self.runs.starts[index],
                self._state_runs,
                StoredNumbers.build(self._dictionary.layout_sizes[index], constants[index]),
            )
            for index, name in enumerate(SITE_COLUMNS)
        )
        if self._files.storage.is_local:
            values = values.with_checks(self._files.column("checks", "<u8"), self._files.verify)
        return values, log_probs, parameters

    @cached_property
    def _constant_columns(self) -> dict[str, NDArray[np.generic]]:
        digits = cast("Mapping[str, str]", self._files.seal["constants"])
        return {name: np.frombuffer(bytes.fromhex(text), _STORED_DTYPES[name]) for name, text in digits.items()}

    @cached_property
    def _varying_columns(self) -> Mapping[str, tuple[BlockFile, int]]:
        return self._files.trace_columns(
            {name: dtype for name, dtype in _STORED_DTYPES.items() if name not in self._constant_columns}
        )

    def _column(self, name: str, rows: Rows) -> NDArray[np.generic]:
        num_rows = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        constant = self._constant_columns.get(name)
        if constant is not None:
            out: NDArray[np.generic] = np.empty(num_rows, constant.dtype)
            out[:] = constant
        else:
            if name not in self._varying_columns:
                file_name = self._files.path_name("seal.json")
                message = f"{file_name} lists no file for the column {name!r}, and it is not constant."
                raise FormatError(message, file=file_name)
            file, place = self._varying_columns[name]
            if isinstance(rows, slice):
                out = np.empty(num_rows, _STORED_DTYPES[name])
                file.copy_to(out, rows.start, place)
            else:
                out = file.map(place)[rows + file.shifts(file.block_of(rows), place)]
        return out.view(np.bool_) if _COLUMN_DTYPES[name] == "bool" else out

    @cached_property
    def _observation_columns(self) -> dict[str, ObservationColumn]:
        columns = {}
        for record in cast("list[Mapping[str, str]]", self._files.seal["observations"]):
            info = self.observations[record["name"]]
            rows = self._files.observation_rows(info, record)
            columns[info.name] = ObservationColumn(info, rows, absent_zero=bool(record["absent_zero"]))
        return columns

    def _observation(self, name: str, rows: Rows) -> NDArray[np.generic]:
        column = self._observation_columns[name]
        num_rows = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        shape = (num_rows, *column.info.shape)
        if column.constant is not None:
            if not column.absent_zero:
                return np.broadcast_to(column.constant, shape)
            present = self.has_observation(name, np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows)
            if present.all():
                return np.broadcast_to(column.constant, shape)
            filled = np.zeros(shape, column.info.dtype)
            filled[present] = column.constant
            return filled
        out = np.empty(shape, column.info.dtype)
        if isinstance(rows, slice):
            column.copy_range(rows.start, out)
        else:
            column.copy_rows(rows, out, None)
        return out

    @cached_property
    def _failures(self) -> tuple[NDArray[np.int64], list[str]]:
        table = self._files.table("failures")
        if table is None:
            return np.empty(0, np.int64), []
        return table["row"].to_numpy(), table["reason"].to_pylist()

    def _failures_of(self, rows: NDArray[np.int64]) -> dict[int, str]:
        """Find the reasons of failed rows, by position in the result."""
        failed, reasons = self._failures
        if not len(failed):
            return {}
        found = np.minimum(np.searchsorted(failed, rows), len(failed) - 1)
        return {int(place): reasons[found[place]] for place in np.flatnonzero(failed[found] == rows)}

    def _empty(self, names: Collection[str]) -> TraceBatch:
        numbers, infos = np.empty(0), {name: self.observations[name] for name in names}
        columns: dict[str, Any] = {name: np.empty(0, dtype) for name, dtype in TRACE_COLUMNS}
        observations = {name: np.empty((0, *info.shape), info.dtype) for name, info in infos.items()}
        return TraceBatch((), np.empty(0, np.int32), numbers, numbers, numbers, observations, **columns)
