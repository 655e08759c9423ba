"""Receipts: what a writer claims to have sealed, and the units of work that it completed (format 2.9)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from tracestore.formats.base import SegmentEntry
from tracestore.formats.document import JSON, encode_document, read_document, require_format
from tracestore.storage import Storage
from tracestore.store.job import Job

__all__ = ["RECEIPTS", "Receipt", "WorkCommit", "expand_ranges", "list_receipts", "read_receipt", "to_ranges"]

RECEIPTS = "receipts"

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class WorkCommit:
    """Units of work completed together, with what their maker wants to remember."""

    work: Ranges
    state: JSON = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """One publication of one writer."""

    writer: str
    sequence: int
    job: Job | None
    segment: SegmentEntry | None
    commits: tuple[WorkCommit, ...]

    @property
    def name(self) -> str:
        """File name without suffix."""
        return f"{self.writer}-{self.sequence:08d}"

    @property
    def work(self) -> frozenset[int]:
        """All units of work that the receipt completes."""
        return frozenset(unit for commit in self.commits for unit in expand_ranges(commit.work))

    def origin(self) -> dict[str, JSON]:
        """Everything but the segment: what a seal holds, so that a lost receipt can be made again."""
        return {
            "writer": self.writer,
            "sequence": self.sequence,
            "job": None if self.job is None else self.job.to_json(),
            "commits": [{"work": _ranges_to_json(commit.work), "state": commit.state} for commit in self.commits],
        }

    def encode(self) -> bytes:
        """Bytes of the document."""
        segment = None if self.segment is None else self.segment.to_json()
        return encode_document({"format": "tracestore-receipt", **self.origin(), "segment": segment})

    @staticmethod
    def from_origin(origin: Mapping[str, JSON], segment: SegmentEntry | None) -> "Receipt":
        """Receipt from the members of `origin` and its segment."""
        job = cast("dict[str, JSON] | None", origin["job"])
        commits = cast("list[dict[str, JSON]]", origin["commits"])
        return Receipt(
            writer=cast("str", origin["writer"]),
            sequence=cast("int", origin["sequence"]),
            job=None if job is None else Job.from_json(job),
            segment=segment,
            commits=tuple(WorkCommit(ranges_from_json(commit["work"]), commit["state"]) for commit in commits),
        )


def list_receipts(storage: Storage) -> list[str]:
    """Names of all receipts, in order."""
    return [name.removesuffix(".json") for name in storage.files(RECEIPTS) if name.endswith(".json")]


def read_receipt(storage: Storage, name: str, *, expected: str | None = None) -> tuple[Receipt, str]:
    """Read a receipt and its checksum.

    Raises
    ------
    FormatError
        When it is missing or not a receipt.
    ChecksumError
        When it changed since it was published.
    """
    file = f"{RECEIPTS}/{name}.json"
    document = read_document(storage, file, expected=expected)
    require_format(document, "tracestore-receipt", file)
    segment = cast("dict[str, JSON] | None", document["segment"])
    receipt = Receipt.from_origin(document, None if segment is None else SegmentEntry.from_json(segment))
    return receipt, cast("str", document["checksum"])


def to_ranges(units: Iterable[int]) -> Ranges:
    """Write units of work as inclusive ranges.

    Examples
    --------
    >>> to_ranges([3, 1, 2, 7])
    ((1, 3), (7, 7))
    """
    ranges: list[tuple[int, int]] = []
    for unit in sorted(set(units)):
        if ranges and ranges[-1][1] == unit - 1:
            ranges[-1] = (ranges[-1][0], unit)
        else:
            ranges.append((unit, unit))
    return tuple(ranges)


def expand_ranges(ranges: Sequence[tuple[int, int]]) -> list[int]:
    """Units of inclusive ranges.

    Examples
    --------
    >>> expand_ranges(((1, 3), (7, 7)))
    [1, 2, 3, 7]
    """
    return [unit for first, last in ranges for unit in range(first, last + 1)]


def ranges_from_json(value: JSON) -> Ranges:
    """Ranges from a list of pairs."""
    return tuple((first, last) for first, last in cast("list[tuple[int, int]]", value))


def _ranges_to_json(ranges: Ranges) -> JSON:
    return [[first, last] for first, last in ranges]
