"""Files of one segment: the seal, tables, columns; found, sized and checked. Backends say where each is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tracestore.errors import ChecksumError, FormatError
from tracestore.formats.base import ObservationInfo, SegmentEntry, SegmentRuns, Verify
from tracestore.formats.blocks import BlockFile, Kept, check_range, open_file
from tracestore.formats.chunks import ChunkIndex
from tracestore.formats.coded_blocks import CodedBlockFile
from tracestore.formats.columns import SITE_COLUMNS, Constants
from tracestore.formats.document import JSON, read_document, require_format
from tracestore.formats.observation_column import StoredRows
from tracestore.storage import Storage

__all__ = ["SEAL", "SegmentFiles", "read_any_seal"]

SEAL = "seal.json"


class SegmentFiles(ABC):
    """Opens the files of a segment.

    Parameters
    ----------
    storage
        The segment.
    entry
        What the manifest says of it.
    verify
        When checksums of blocks are compared.
    """

    def __init__(self, storage: Storage, entry: SegmentEntry, verify: Verify) -> None:
        self.storage = storage
        self.entry = entry
        self.verify: Verify = verify
        self.kept = Kept()

    @abstractmethod
    def table(self, name: str) -> pa.Table | None:
        """Read a table; None when it has no rows."""

    @abstractmethod
    def column(self, name: str, dtype: str) -> BlockFile | None:
        """Open a flat column; None when it has no rows."""

    @abstractmethod
    def trace_columns(self, dtypes: Mapping[str, np.dtype[np.generic]]) -> Mapping[str, tuple[BlockFile, int]]:
        """Open columns with one number per trace: by name the file, and the place of the column in it."""

    @abstractmethod
    def observation_rows(self, info: ObservationInfo, record: Mapping[str, JSON]) -> StoredRows | None:
        """Open the rows of an observation; None when they have no elements."""

    @abstractmethod
    def read_runs_table(self) -> pa.Table:
        """Read the run directory, without the seal."""

    @cached_property
    def seal(self) -> Mapping[str, JSON]:
        """The seal."""
        name = self.path_name(SEAL)
        expected = None if self.verify == "off" else self.entry.seal
        seal = read_document(self.storage, SEAL, name=name, expected=expected)
        require_format(seal, "tracestore-segment", name)
        if seal["num_traces"] != self.entry.num_traces or seal["encoding"] != self.entry.encoding:
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

    def block_file(self, file: str, dtypes: Sequence[np.dtype[np.generic]]) -> BlockFile | None:
        """Open a column file; None when it has no rows."""
        record = self.records.get(file)
        if record is None:
            return None
        name = self.path_name(file)
        if "codec" in record:
            return CodedBlockFile(
                self.storage, file, name, record, dtypes[0], self.verify, self.kept, self.decode_block
            )
        return BlockFile(self.storage, file, name, record, dtypes, self.verify, self.kept)

    @abstractmethod
    def decode_block(self, codec: str, data: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Decode the stored bytes of a block of a flat column into a flat array of the size of its numbers."""

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
        table = self.read_runs_table()
        columns: dict[str, NDArray[Any]] = {key: table[key].to_numpy() for key in table.column_names}
        num_traces: NDArray[np.int64] = columns["num_traces"]
        ends = np.cumsum(num_traces)
        if not len(ends) or ends[-1] != self.entry.num_traces:
            name = self.path_name("runs")
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
            num_states=columns.get("num_states", num_traces),
            tile_states=columns["tile_traces"],
            starts=np.stack([columns[f"{name}_start"] for name in SITE_COLUMNS]),
        )

    @cached_property
    def chunks(self) -> Sequence[ChunkIndex]:
        """Where the chunks of each observation are, in the order of the seal; empty for those without."""
        table = self.table("chunks")
        number = np.empty(0, np.int32) if table is None else table["observation"].to_numpy()
        bounds = np.searchsorted(number, np.arange(len(self.seal["observations"]) + 1))
        nothing = ChunkIndex(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64))
        if table is None:
            return [nothing] * (len(bounds) - 1)
        offset, nbytes, checksum = (table[name].to_numpy() for name in ("offset", "nbytes", "checksum"))
        return [ChunkIndex(offset[low:high], nbytes[low:high], checksum[low:high]) for low, high in pairwise(bounds)]

    def chunks_of(self, observation: str) -> ChunkIndex:
        """Where the chunks of an observation are."""
        names = [record["name"] for record in self.seal["observations"]]
        return self.chunks[names.index(observation)]

    def sole_record(self, file: str, checksum: str) -> dict[str, JSON]:
        """Record of a file of one range, made without the seal.

        Raises
        ------
        FormatError
            When the file is missing.
        """
        name = self.path_name(file)
        try:
            size = self.storage.open(file).size
        except FileNotFoundError as error:
            message = f"{name} is missing; restore the file from a copy, or quarantine the segment."
            raise FormatError(message, file=name) from error
        return {"size": size, "ends": [size], "checksums": [checksum]}

    def problems(self, *, deep: bool) -> list[tuple[str, str]]:
        """Compare files with the seal: sizes and tables, with `deep` every byte; pairs of file and problem."""
        found: list[tuple[str, str]] = []
        try:
            records = self.records
        except FormatError as error:
            return [(self.path_name(SEAL), str(error))]
        for file, record in records.items():
            name = self.path_name(file)
            try:
                opened = open_file(self.storage, file, name, cast("int", record["size"]))
            except FormatError as error:
                found.append((name, str(error)))
                continue
            ends, checksums = cast("list[int]", record["ends"]), cast("list[str]", record["checksums"])
            if not deep and ("rows" in record or "chunked" in record):
                continue
            start = 0
            for index, (end, checksum) in enumerate(zip(ends, checksums, strict=True)):
                opened.load(start, end)
                try:
                    check_range(opened.data[start:end], checksum, name, index)
                except ChecksumError as error:
                    found.append((name, str(error)))
                start = end
        return found


def read_any_seal(
    storage: Storage, name: str, encodings: Sequence[str], runs_file: str
) -> tuple[SegmentEntry, Mapping[str, JSON]]:
    """Read a seal: the entry that a manifest should have, and the origin (empty without one).

    Parameters
    ----------
    storage
        The segment.
    name
        Its name, for messages.
    encodings
        Encodings that the backend knows.
    runs_file
        File of the run directory.

    Raises
    ------
    FormatError
        When the seal is missing, is not one, or has another encoding.
    ChecksumError
        When it changed since it was written.
    """
    name = f"{name}/{SEAL}"
    seal = read_document(storage, SEAL, name=name)
    require_format(seal, "tracestore-segment", name)
    if seal["encoding"] not in encodings:
        message = f"{name} has the encoding {seal['encoding']!r}; this backend knows {', '.join(encodings)}."
        raise FormatError(message, file=name)
    runs = cast("list[str]", seal["files"][runs_file]["checksums"])[0]
    entry = SegmentEntry.from_json({**seal, "seal": seal["checksum"], "runs": runs})
    return entry, cast("dict[str, JSON]", seal.get("origin", {}))
