"""Parts of a pyprob data set, and the task that makes a segment of one; runs on any worker, as often as asked.

A part is a range of records of one file, so large that its traces fill a segment. It commits its segment once, together
with a report of what could not be converted. Of a file that turns out to be hostile or unreadable, the part that meets
it commits nothing. Other parts of the same file may be in the store: nothing in a data set is ever executed, so their
traces are numbers like all others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import cast

from tracestore.errors import FormatError
from tracestore.formats.document import JSON
from tracestore.importers.pyprob_conversion import PyprobConverter
from tracestore.importers.pyprob_records import PyprobRecordProblem, PyprobTrace
from tracestore.importers.pyprob_shelf import PyprobShelf, read_address_dictionary
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch

__all__ = ["FilePart", "ImportPart", "PartReport", "first_stream", "known_dictionary"]

MOST_PROBLEMS = 50
"""Problems of a part that are kept one by one; all are counted."""
LONGEST_REASON = 600
PARTS_PER_FILE = 2**20
_RECORD_BITS = 32


@dataclass(frozen=True, slots=True)
class FilePart:
    """A range of records of one file."""

    path: str
    name: str
    """Name of the file, without its directory."""
    number: int
    """Number of the file in the data set."""
    part: int
    """Number of the part in the file."""
    first: int
    """First record."""
    count: int
    """Records."""
    length: int
    """Records of the whole file."""

    @property
    def unit(self) -> int:
        """Unit of work."""
        return self.number * PARTS_PER_FILE + self.part


@dataclass(slots=True)
class PartReport:
    """What became of the records of a part."""

    name: str
    length: int
    num_converted: int = 0
    num_reported: int = 0
    problems: list[tuple[int, str]] = field(default_factory=list)
    """Record and reason, of the first few."""
    num_differences: int = 0
    difference: str = ""
    """The first log prob that differs from the one that pyprob stored."""
    num_shortened: int = 0
    num_dropped: int = 0
    has_unresolved: bool = False

    def add_problem(self, record: int, reason: str) -> None:
        """Count a record that could not be converted."""
        self.num_reported += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append((record, reason[:LONGEST_REASON]))

    def to_json(self) -> JSON:
        """Members of the report."""
        return cast("JSON", {name: getattr(self, name) for name in self.__slots__})

    @staticmethod
    def from_json(document: JSON) -> "PartReport":
        """Report from its members."""
        members = dict(cast("dict[str, JSON]", document))
        problems = [(int(record), reason) for record, reason in cast("list[tuple[int, str]]", members.pop("problems"))]
        return PartReport(problems=problems, **members)


@dataclass(frozen=True, slots=True)
class ImportPart:
    """Converts a part into a segment; the same one in every process."""

    store: TraceStore
    prefix: str
    """Common part of the ids of all segments."""
    tags: tuple[str, ...]
    observations: tuple[str, ...]
    dictionary: str | None
    """Path of the address dictionary."""
    shapes: Mapping[str, tuple[int, ...]]
    num_together: int
    """Traces that are converted at a time."""

    def __call__(self, part: FilePart) -> tuple[FilePart, int, str]:
        """Make the segment of a part unless it is there; the part, the bytes made, and why its file is refused."""
        identity = self.segment_id(part)
        if self.store.committed(identity) is not None:
            return part, 0, ""
        report = PartReport(part.name, part.length)
        try:
            batches = list(self._read(part, report))
        except (FormatError, OSError) as error:
            reason = str(error).replace(part.path, part.name)[:LONGEST_REASON]
            return part, 0, reason or type(error).__name__
        committed = self.store.commit_segment(identity, batches, work=[part.unit], state=report.to_json())
        return part, committed.nbytes, ""

    def segment_id(self, part: FilePart) -> str:
        """Name of the segment of a part."""
        return f"{self.prefix}-{part.unit:014d}"

    def _read(self, part: FilePart, report: PartReport) -> Iterator[TraceBatch]:
        dictionary = known_dictionary(self.dictionary) if self.dictionary is not None else {}
        converter = PyprobConverter(
            tags=self.tags, observations=self.observations, dictionary=dictionary, shapes=self.shapes
        )
        with PyprobShelf(part.path) as shelf:
            yield from self._convert(part, report, converter, shelf.read(part.first, part.count))

    def _convert(
        self,
        part: FilePart,
        report: PartReport,
        converter: PyprobConverter,
        found: Iterator[PyprobTrace | PyprobRecordProblem],
    ) -> Iterator[TraceBatch]:
        record = part.first
        while together := list(islice(found, self.num_together)):
            good: list[tuple[int, PyprobTrace]] = []
            for one in together:
                if isinstance(one, PyprobRecordProblem):
                    _require_harmless(one)
                    # a report does not depend on where the data set is
                    report.add_problem(record, one.reason.replace(part.path, part.name))
                else:
                    good.append((first_stream(part.number) + record, one))
                record += 1
            converted = converter.convert(good)
            for stream, reason in converted.refused:
                report.add_problem(stream - first_stream(part.number), reason)
            report.num_differences += len(converted.differences)
            report.difference = report.difference or next(iter(converted.differences), "")[:LONGEST_REASON]
            report.num_shortened += converted.num_shortened
            report.num_dropped += converted.num_dropped
            report.has_unresolved = converter.has_unresolved
            if converted.batch is not None:
                report.num_converted += len(converted.batch)
                yield converted.batch
        missing = part.first + part.count - record
        if missing:
            report.add_problem(record, f"{missing} records that {part.name} claims to have from here on are not there.")
            report.num_reported += missing - 1


def first_stream(number: int) -> int:
    """Stream of the first record of a file: streams order traces by file, then record, whatever can be read of others.

    Examples
    --------
    >>> first_stream(0), first_stream(1)
    (0, 4294967296)
    """
    return number << _RECORD_BITS


def known_dictionary(path: str) -> Mapping[str, str]:
    """Read an address dictionary, once in each process unless it changes."""
    file = Path(path)
    return _read_dictionary(path, file.stat().st_mtime_ns if file.exists() else 0)


@lru_cache(maxsize=2)
def _read_dictionary(path: str, changed: int) -> Mapping[str, str]:
    return read_address_dictionary(path)


def _require_harmless(problem: PyprobRecordProblem) -> None:
    """Refuse the whole file when a record asks for something that no trace needs: who wrote it wanted it executed."""
    if problem.forbidden is not None:
        message = f"{problem.reason} Nothing of this file is converted; do not trust where it comes from."
        raise FormatError(message, forbidden=problem.forbidden)
