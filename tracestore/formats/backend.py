"""A segment backend: containers for the one writer and the one reader of segments."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracestore.formats.base import CodecChoice, SegmentEntry, SegmentRuns, Verify
from tracestore.formats.document import JSON
from tracestore.formats.reader import ColumnarReader
from tracestore.formats.segment_files import SegmentFiles, read_any_seal
from tracestore.formats.segment_writer import SegmentSink, write_traces
from tracestore.storage import Storage
from tracestore.traces.batch import TraceBatch
from tracestore.traces.layout import Layout

__all__ = ["Backend"]


@dataclass(frozen=True, slots=True)
class Backend:
    """Writes and reads segments of one kind; satisfies `SegmentFormat`.

    Examples
    --------
    >>> import numpy as np
    >>> from tracestore.formats import open_format
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> from tracestore.storage import LocalStorage
    >>> rng = np.random.default_rng(1)
    >>> batch = TraceBatch.from_traces([run_trace(toys.gum, PriorController(), rng) for _ in range(3)])
    >>> folder = Path("segment"); folder.mkdir()
    >>> arrow = open_format("arrow")
    >>> entry = arrow.write_segment(folder, [batch], segment_id="first")
    >>> len(arrow.open_segment(LocalStorage(folder), entry).read(slice(0, 2)))
    2
    """

    encodings: tuple[str, ...]
    """Encodings that are read; the last one is written."""
    sink: Callable[[Path], SegmentSink]
    """Makes what writes the parts of a segment into an empty directory."""
    files: type[SegmentFiles]
    """Opens the files of a segment."""
    runs_file: str
    """File of the run directory."""

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
        codec
            How observations are compressed: ``auto`` tries a sample of each.
        is_remote
            The segment will be read over a network.
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
            When there is no trace, a trace cannot be stored, or a codec is unknown.
        """
        return write_traces(
            self.sink(directory),
            batches,
            segment_id=segment_id,
            keep_order=keep_order,
            codec=codec,
            is_remote=is_remote,
            origin=origin,
            flush=flush,
        )

    def open_segment(
        self,
        storage: Storage,
        entry: SegmentEntry,
        *,
        verify: Verify = "first",
        layouts: MutableMapping[int, Layout] | None = None,
    ) -> ColumnarReader:
        """Open a sealed segment; files are opened when they are needed.

        Parameters
        ----------
        storage
            The segment.
        entry
            What the manifest says of it.
        verify
            When checksums of blocks are compared.
        layouts
            Known layouts by id, shared between segments; read and added to.
        """
        return ColumnarReader(self.files(storage, entry, verify), {} if layouts is None else layouts)

    def read_runs(self, storage: Storage, entry: SegmentEntry) -> SegmentRuns:
        """Read the run directory of a segment and nothing else.

        Raises
        ------
        FormatError
            When the file is missing.
        ChecksumError
            When it changed since it was sealed.
        """
        return self.files(storage, entry, "first").runs()

    def read_seal(self, storage: Storage, name: str) -> tuple[SegmentEntry, Mapping[str, JSON]]:
        """Read the seal of a segment: the entry that a manifest should have, and its origin (empty without one).

        Parameters
        ----------
        storage
            The segment.
        name
            Its name, for messages.

        Raises
        ------
        FormatError
            When the seal is missing or is not one.
        ChecksumError
            When it changed since it was written.
        """
        return read_any_seal(storage, name, self.encodings, self.runs_file)
