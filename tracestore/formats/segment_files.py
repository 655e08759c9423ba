"""Files of one ``arrow/1`` segment: the seal, its tables and column files, found, sized and checked."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from tracestore.errors import ChecksumError, FormatError
from tracestore.formats.base import SegmentEntry, SegmentRuns, Verify
from tracestore.formats.columns import SITE_COLUMNS, Constants
from tracestore.formats.document import JSON, read_document, require_format
from tracestore.formats.ipc import BlockFile, check_range, map_file, read_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ENCODING", "RUNS", "SegmentFiles"]

ENCODING = "arrow/1"
RUNS = "runs.arrow"


class SegmentFiles:
    """Opens the files of a segment.

    Parameters
    ----------
    directory
        The segment.
    entry
        What the manifest says of it.
    verify
        When checksums of blocks are compared.
    """

    def __init__(self, directory: Path, entry: SegmentEntry, verify: Verify) -> None:
        self.directory = directory
        self.entry = entry
        self.verify = verify

    @cached_property
    def seal(self) -> Mapping[str, JSON]:
        """The seal."""
        name = self.path_name("seal.json")
        expected = None if self.verify == "off" else self.entry.seal
        seal = read_document(self.directory / "seal.json", name=name, expected=expected)
        require_format(seal, "tracestore-segment", name)
        if seal["num_traces"] != self.entry.num_traces or seal["encoding"] != ENCODING:
            message = (
                f"{name} is about {seal['num_traces']} traces in encoding {seal['encoding']!r}; the manifest says "
                f"{self.entry.num_traces} in {self.entry.encoding!r}."
            )
            raise FormatError(message, file=name)
        return seal

    @property
    def records(self) -> Mapping[str, Mapping[str, JSON]]:
        """What the seal says of each file."""
        return cast("Mapping[str, Mapping[str, JSON]]", self.seal["files"])

    def path_name(self, file: str) -> str:
        """Name of a file in messages: relative to the store."""
        return f"segments/{self.entry.id}/{file}"

    def table(self, name: str) -> pa.Table | None:
        """Read a table; None when it has no rows."""
        file = f"{name}.arrow"
        if file not in self.records:
            return None
        return read_table(self.directory / file, self.path_name(file), self.records[file], self.verify)

    def column_file(self, file: str, dtypes: Sequence[np.dtype[np.generic]]) -> BlockFile | None:
        """Open a column file; None when it has no rows."""
        record = self.records.get(file)
        if record is None:
            return None
        return BlockFile(self.directory / file, self.path_name(file), record, dtypes, self.verify)

    def constants(self) -> list[Constants]:
        """Constants of each site column."""
        table = self.table("constants")
        if table is None:
            nothing = np.empty(0, np.int32)
            return [Constants(nothing, nothing, np.empty(0))] * len(SITE_COLUMNS)
        column = table["column"].to_numpy()
        parts = []
        for index in range(len(SITE_COLUMNS)):
            chosen = slice(*np.searchsorted(column, [index, index + 1]))
            parts.append(Constants(*(table[name].to_numpy()[chosen] for name in ("layout", "index", "value"))))
        return parts

    def runs(self) -> SegmentRuns:
        """Read the run directory, without the seal."""
        name, path = self.path_name(RUNS), self.directory / RUNS
        try:
            size = path.stat().st_size
        except FileNotFoundError as error:
            message = f"{name} is missing; restore the file from a copy, or remove the segment."
            raise FormatError(message, file=name) from error
        record: Mapping[str, JSON] = {"size": size, "ends": [size], "checksums": [self.entry.runs]}
        table = read_table(path, name, record, self.verify)
        columns: dict[str, NDArray[Any]] = {key: table[key].to_numpy() for key in table.column_names}
        num_traces: NDArray[np.int64] = columns["num_traces"]
        ends = np.cumsum(num_traces)
        if not len(ends) or ends[-1] != self.entry.num_traces:
            message = f"{name} counts {ends[-1] if len(ends) else 0} traces, the segment has {self.entry.num_traces}."
            raise FormatError(message, file=name)
        return SegmentRuns(
            layout=columns["layout"],
            layout_id=columns["layout_id"],
            trace_type=columns["trace_type"],
            first=ends - num_traces,
            num_traces=num_traces,
            num_sites=columns["num_sites"],
            seconds=columns["seconds"],
            tile_traces=columns["tile_traces"],
            starts=np.stack([columns[f"{name}_start"] for name in SITE_COLUMNS]),
        )

    def problems(self, *, deep: bool) -> list[tuple[str, str]]:
        """Compare files with the seal: sizes and tables, with `deep` every byte; pairs of file and problem."""
        found: list[tuple[str, str]] = []
        try:
            records = self.records
        except FormatError as error:
            return [(self.path_name("seal.json"), str(error))]
        for file, record in records.items():
            name = self.path_name(file)
            try:
                data = map_file(self.directory / file, name, cast("int", record["size"]))
            except FormatError as error:
                found.append((name, str(error)))
                continue
            if not deep and "rows" in record:
                continue
            start = 0
            ends, checksums = cast("list[int]", record["ends"]), cast("list[str]", record["checksums"])
            for index, (end, checksum) in enumerate(zip(ends, checksums, strict=True)):
                try:
                    check_range(data[start:end], checksum, name, index)
                except ChecksumError as error:
                    found.append((name, str(error)))
                start = end
        return found
