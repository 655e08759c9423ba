"""The contract of a segment backend: what a reader offers, what a writer makes; knows no encoding.

A segment is an immutable directory of traces. `open_format` finds the backend that writes and reads one kind; its
conformance suite is ``tests/suites/segment_suite.py``.
"""

import importlib
import math
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tracestore.errors import FormatError, InvalidInputError
from tracestore.formats.document import JSON
from tracestore.storage import Storage
from tracestore.traces.batch import TraceBatch
from tracestore.traces.layout import Layout, Site

__all__ = [
    "FORMATS",
    "CodecChoice",
    "ObservationInfo",
    "Rows",
    "SegmentEntry",
    "SegmentFormat",
    "SegmentReader",
    "SegmentRuns",
    "Verify",
    "open_format",
]

Rows = slice | NDArray[np.int64]
"""Rows of a segment: a slice with step 1, or indices in any order."""

Verify = Literal["first", "always", "off"]
"""When the checksum of a block is compared: when it is first touched, each time, or never."""

CodecChoice = str | Mapping[str, str]
"""How observations are compressed: ``auto``, ``none``, ``lz4`` or ``zstd``, or one of these by name of observation."""

FORMATS: Mapping[str, str] = {"arrow": "tracestore.formats.arrow", "zarr": "tracestore.formats.zarr"}
"""Backends: name to module, whose ``FORMAT`` it is."""


@dataclass(frozen=True, slots=True)
class ObservationInfo:
    """A named observation of a segment."""

    name: str
    dtype: str
    """Numpy type string, such as ``<f4``."""
    shape: tuple[int, ...]
    """Shape of one trace's observation."""
    constant: str = ""
    """Digest of the one row that all traces share; empty when rows differ."""

    def to_json(self) -> dict[str, JSON]:
        """Members of the record."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), "constant": self.constant}

    @staticmethod
    def from_json(document: Mapping[str, JSON]) -> "ObservationInfo":
        """Record from its members."""
        members = cast("Mapping[str, str]", document)
        shape = tuple(cast("list[int]", document["shape"]))
        return ObservationInfo(members["name"], members["dtype"], shape, members["constant"])


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """What a store knows of a segment without opening it.

    Examples
    --------
    >>> entry = SegmentEntry("0a1b", "arrow/1", num_traces=10, num_failed=0, nbytes=800, seal="00", runs="11")
    >>> SegmentEntry.from_json(entry.to_json()) == entry
    True
    """

    id: str
    encoding: str
    """Backend and version, such as ``arrow/1``."""
    num_traces: int
    num_failed: int
    nbytes: int
    """Bytes of all files but the seal."""
    seal: str
    """Checksum of the seal, which holds the checksums of everything else."""
    runs: str
    """Checksum of the run directory."""
    observations: tuple[ObservationInfo, ...] = ()

    @property
    def observation_bytes(self) -> int:
        """Bytes of the observations of one trace, uncompressed, without those that all traces share."""
        varying = (info for info in self.observations if not info.constant)
        return sum(np.dtype(info.dtype).itemsize * math.prod(info.shape) for info in varying)

    @property
    def raw_bytes(self) -> int:
        """Bytes of the segment when nothing is compressed, at most."""
        return max(self.nbytes, self.num_traces * self.observation_bytes)

    def to_json(self) -> dict[str, JSON]:
        """Members of the record."""
        return {
            "id": self.id,
            "encoding": self.encoding,
            "num_traces": self.num_traces,
            "num_failed": self.num_failed,
            "nbytes": self.nbytes,
            "seal": self.seal,
            "runs": self.runs,
            "observations": [info.to_json() for info in self.observations],
        }

    @staticmethod
    def from_json(document: Mapping[str, JSON]) -> "SegmentEntry":
        """Record from its members; unknown ones are ignored."""
        text = cast("Mapping[str, str]", document)
        numbers = cast("Mapping[str, int]", document)
        observations = cast("list[dict[str, JSON]]", document["observations"])
        return SegmentEntry(
            id=text["id"],
            encoding=text["encoding"],
            num_traces=numbers["num_traces"],
            num_failed=numbers["num_failed"],
            nbytes=numbers["nbytes"],
            seal=text["seal"],
            runs=text["runs"],
            observations=tuple(map(ObservationInfo.from_json, observations)),
        )


@dataclass(frozen=True, slots=True)
class SegmentRuns:
    """Run directory of a segment; all arrays have shape ``(num_runs,)``."""

    layout: NDArray[np.int32]
    """Position in the segment's layouts."""
    layout_id: NDArray[np.uint64]
    trace_type: NDArray[np.uint64]
    first: NDArray[np.int64]
    """First row."""
    num_traces: NDArray[np.int64]
    num_sites: NDArray[np.int32]
    """Sites of each trace."""
    seconds: NDArray[np.float64]
    """Wall time of the run's traces, summed."""
    num_states: NDArray[np.int64]
    """Traces whose sites are stored; a rejected Markov move shares those of its ancestor."""
    tile_states: NDArray[np.int32] = field(repr=False)
    """States in a tile."""
    starts: NDArray[np.int64] = field(repr=False)
    """First element in values, log probs and parameters, shape ``(3, num_runs)``."""


class SegmentReader(Protocol):
    """Reads one segment. Opening reads as little as possible; readers may be shared with forked processes."""

    @property
    def num_traces(self) -> int:
        """Number of rows."""

    @property
    def kept_bytes(self) -> int:
        """Bytes that were fetched or decoded and stay in memory; a new reader begins with none."""

    @property
    def layouts(self) -> Sequence[Layout]:
        """Distinct layouts, built when touched."""

    @property
    def runs(self) -> SegmentRuns:
        """Consecutive traces of one layout."""

    @property
    def observations(self) -> Mapping[str, ObservationInfo]:
        """Named observations."""

    def read(self, rows: Rows, *, observations: Collection[str] | None = None) -> TraceBatch:
        """Read rows, in the order asked for; `observations` names those to include, all by default."""

    def column(self, name: str) -> NDArray[np.generic]:
        """Read one number per trace: a column of `TRACE_COLUMNS`."""

    def shapes_of(self, name: str) -> set[tuple[int, ...]]:
        """Shapes of the values of a name or address, without reading any; empty when there is no such site."""

    def values(self, name: str) -> tuple[NDArray[np.generic], NDArray[np.int64]] | None:
        """Read the values of a name or address and the rows that have it; None when no row has it."""

    def has_observation(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the layouts of the rows have the named observe."""

    def fill_observation(self, name: str, rows: Rows, out: NDArray[np.generic], places: Rows = slice(None)) -> None:
        """Copy an observation into ``out[places]``."""

    def constant_observation(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.generic] | None:
        """Return the row of the observation that all the given rows share; None when the segment keeps each."""

    def failures(self) -> Mapping[int, str]:
        """Reasons of the traces that failed, by row."""

    def codecs(self) -> Mapping[str, str]:
        """Codec of each observation whose rows differ."""

    def file_sizes(self) -> Mapping[str, int]:
        """Bytes of each file but the seal."""

    def addresses(self) -> tuple[NDArray[np.uint64], pa.Array, NDArray[np.int32]]:
        """Ids, base addresses and instances of the distinct sites, in order of first appearance."""

    def sites(self) -> list[Site]:
        """Return the distinct sites, in order of first appearance."""

    def trace_types(self) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint64]]:
        """Trace types of layouts with several states: ids, where the addresses of each begin, address ids, flat."""

    def file_problems(self) -> list[tuple[str, str]]:
        """Check that all files are there, whole and of the sizes that were sealed; pairs of file and problem."""

    def problems(self, *, deep: bool = False) -> list[tuple[str, str]]:
        """Check files and references, with `deep` every byte; pairs of file and problem."""


class SegmentFormat(Protocol):
    """A backend."""

    @property
    def encodings(self) -> tuple[str, ...]:
        """Encodings that are read; the last one is written."""

    def write_segment(
        self,
        directory: Path,
        batches: Sequence[TraceBatch],
        *,
        segment_id: str,
        keep_order: bool = False,
        codec: CodecChoice = "auto",
        is_remote: bool = False,
        origin: Mapping[str, object] | None = None,
        flush: bool = True,
    ) -> SegmentEntry:
        """Write traces into an empty local directory and seal it."""

    def open_segment(
        self,
        storage: Storage,
        entry: SegmentEntry,
        *,
        verify: Verify = "first",
        layouts: MutableMapping[int, Layout] | None = None,
    ) -> SegmentReader:
        """Open a sealed segment; `layouts` is a table of known layouts by id, read and added to."""

    def read_runs(self, storage: Storage, entry: SegmentEntry) -> SegmentRuns:
        """Read the run directory alone."""

    def read_seal(self, storage: Storage, name: str) -> tuple[SegmentEntry, Mapping[str, JSON]]:
        """Read the seal of a segment that no manifest names: its entry and its origin (empty without)."""


def open_format(name: str) -> SegmentFormat:
    """Find a backend by name or encoding.

    Parameters
    ----------
    name
        Key of `FORMATS`, or an encoding such as ``arrow/1``.

    Raises
    ------
    InvalidInputError
        When there is no such backend.
    FormatError
        When the backend does not know this version of its encoding.

    Examples
    --------
    >>> open_format("arrow").encodings
    ('arrow/1', 'arrow/2')
    """
    backend, _, version = name.partition("/")
    if backend not in FORMATS:
        message = f"There is no segment format {name!r}; known formats: {', '.join(FORMATS)}."
        raise InvalidInputError(message, name=name)
    found: SegmentFormat = importlib.import_module(FORMATS[backend]).FORMAT
    if version and name not in found.encodings:
        known = ", ".join(found.encodings)
        message = f"This release reads the encodings {known}; the segment has {name!r}. Update tracestore."
        raise FormatError(message, found=name)
    return found
