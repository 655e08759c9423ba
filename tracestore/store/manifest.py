"""Manifests: immutable, numbered snapshots of a store (format 2.11 to 2.18)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

from tracestore.errors import FormatError, StoreNotFoundError
from tracestore.formats.base import SegmentEntry
from tracestore.formats.document import JSON, decode_document, encode_document, read_document, require_format
from tracestore.store.job import Job
from tracestore.store.publish import create_file, replace_file
from tracestore.store.receipt import Ranges, ranges_from_json

__all__ = ["MANIFESTS", "AddressPiece", "Commit", "Manifest", "latest_version", "publish_manifest", "read_manifest"]

MANIFESTS = "manifests"


@dataclass(frozen=True, slots=True)
class Commit:
    """A receipt that a snapshot includes."""

    receipt: str
    checksum: str
    job: str | None
    """Hash of the job."""
    work: Ranges
    has_state: bool
    set_aside: bool = False
    """Its work was committed before by another receipt; its segment is not part of the store."""


@dataclass(frozen=True, slots=True)
class AddressPiece:
    """An immutable piece of the address dictionary."""

    hash: str
    num: int


@dataclass(frozen=True)
class Manifest:
    """A snapshot: which segments make the store, in order."""

    version: int = 0
    segments: tuple[SegmentEntry, ...] = ()
    commits: tuple[Commit, ...] = ()
    jobs: Mapping[str, Job] = field(default_factory=dict)
    """Jobs of the commits, by hash."""
    pieces: tuple[AddressPiece, ...] = ()
    checksum: str = ""
    """Of the file it was read from; empty for version 0."""

    @cached_property
    def num_traces(self) -> int:
        """Traces in all segments."""
        return sum(entry.num_traces for entry in self.segments)

    def encode(self) -> bytes:
        """Bytes of the document."""
        commits = [
            {
                "receipt": commit.receipt,
                "checksum": commit.checksum,
                "job": commit.job,
                "work": commit.work,
                "has_state": commit.has_state,
                "set_aside": commit.set_aside,
            }
            for commit in self.commits
        ]
        return encode_document(
            {
                "format": "tracestore-manifest",
                "version": self.version,
                "num_traces": self.num_traces,
                "segments": [entry.to_json() for entry in self.segments],
                "commits": commits,
                "jobs": {key: {"verb": job.verb, "fields": job.fields} for key, job in self.jobs.items()},
                "addresses": {
                    "num": sum(piece.num for piece in self.pieces),
                    "pieces": [{"hash": piece.hash, "num": piece.num} for piece in self.pieces],
                },
            }
        )

    @staticmethod
    def decode(document: Mapping[str, JSON]) -> "Manifest":
        """Manifest from its members; unknown ones are ignored."""
        commits = cast("list[dict[str, JSON]]", document["commits"])
        addresses = cast("dict[str, JSON]", document["addresses"])
        return Manifest(
            version=cast("int", document["version"]),
            segments=tuple(map(SegmentEntry.from_json, cast("list[dict[str, JSON]]", document["segments"]))),
            commits=tuple(
                Commit(
                    receipt=cast("str", commit["receipt"]),
                    checksum=cast("str", commit["checksum"]),
                    job=cast("str | None", commit["job"]),
                    work=ranges_from_json(commit["work"]),
                    has_state=bool(commit["has_state"]),
                    set_aside=bool(commit["set_aside"]),
                )
                for commit in commits
            ),
            jobs={key: Job.from_json(job) for key, job in cast("dict[str, dict[str, JSON]]", document["jobs"]).items()},
            pieces=tuple(
                AddressPiece(cast("str", piece["hash"]), cast("int", piece["num"]))
                for piece in cast("list[dict[str, JSON]]", addresses["pieces"])
            ),
            checksum=cast("str", document["checksum"]),
        )


def read_manifest(root: Path, version: int) -> Manifest:
    """Read a snapshot.

    Raises
    ------
    StoreNotFoundError
        When there is no snapshot of that number.
    ChecksumError
        When the file changed since it was published.
    """
    if version == 0:
        return Manifest()
    path = manifest_path(root, version)
    if not path.exists():
        message = f"{root} has no version {version}; the newest is {latest_version(root)}."
        raise StoreNotFoundError(message, path=str(root), version=version)
    name = f"{MANIFESTS}/{path.name}"
    document = read_document(path, name=name)
    require_format(document, "tracestore-manifest", name)
    manifest = Manifest.decode(document)
    if manifest.version != version or manifest.num_traces != document["num_traces"]:
        message = f"{name} is about version {manifest.version} with {document['num_traces']} traces, not what it lists."
        raise FormatError(message, file=name)
    return manifest


def publish_manifest(root: Path, manifest: Manifest) -> Manifest | None:
    """Publish the next snapshot; None when another process published that number with other content."""
    data = manifest.encode()
    path = manifest_path(root, manifest.version)
    # losing to a process that published the very same bytes is as good as winning
    if not create_file(path, data) and path.read_bytes() != data:
        return None
    replace_file(root / MANIFESTS / "LATEST", f"{manifest.version}\n".encode())
    return Manifest.decode(decode_document(data, path.name))


def latest_version(root: Path) -> int:
    """Find the newest snapshot: from the hint on, in steps that double, then between.

    Raises
    ------
    FormatError
        When the hint names a snapshot that is not there.
    """
    low = _hint(root)
    if low and not manifest_path(root, low).exists():
        name = f"{MANIFESTS}/{manifest_path(root, low).name}"
        message = (
            f"{name} is missing, though {MANIFESTS}/LATEST names it; restore it from a copy, or remove LATEST if that "
            "file is the damaged one."
        )
        raise FormatError(message, file=name)
    step = 1
    while manifest_path(root, low + step).exists():
        low += step
        step *= 2
    while step > 1:
        step //= 2
        if manifest_path(root, low + step).exists():
            low += step
    return low


def manifest_path(root: Path, version: int) -> Path:
    """Where a snapshot is."""
    return root / MANIFESTS / f"v{version:020d}.json"


def _hint(root: Path) -> int:
    try:
        text = (root / MANIFESTS / "LATEST").read_bytes().strip()
    except FileNotFoundError:
        return 0
    return int(text) if text.isdigit() and len(text) <= 20 else 0
