"""Manifests: immutable, numbered snapshots of a store (format 2.11 to 2.18)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

from tracestore.errors import FormatError, StoreNotFoundError
from tracestore.formats.base import SegmentEntry
from tracestore.formats.document import JSON, decode_document, encode_document, read_document, require_format
from tracestore.storage import Storage
from tracestore.store.job import Job
from tracestore.store.receipt import Ranges, ranges_from_json

__all__ = [
    "MANIFESTS",
    "Commit",
    "DictionaryPiece",
    "Manifest",
    "Quarantine",
    "damaged_hints",
    "expire_versions",
    "latest_version",
    "manifest_file",
    "oldest_version",
    "publish_manifest",
    "read_manifest",
    "require_whole",
]

MANIFESTS = "manifests"
_LATEST = f"{MANIFESTS}/LATEST"
_OLDEST = f"{MANIFESTS}/OLDEST"


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
    segments: tuple[str, ...] | None = None
    """Ids of the segments that its traces are in by now, empty when a sort has spread them.

    None in manifests of earlier releases: see the receipt.
    """


@dataclass(frozen=True, slots=True)
class DictionaryPiece:
    """An immutable piece of a dictionary."""

    hash: str
    num: int


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A segment that is no longer part of the store."""

    id: str
    num_traces: int
    reason: str


@dataclass(frozen=True)
class Manifest:
    """A snapshot: which segments make the store, in order."""

    version: int = 0
    segments: tuple[SegmentEntry, ...] = ()
    commits: tuple[Commit, ...] = ()
    jobs: Mapping[str, Job] = field(default_factory=dict)
    """Jobs of the commits, by hash."""
    pieces: tuple[DictionaryPiece, ...] = ()
    """The address dictionary."""
    type_pieces: tuple[DictionaryPiece, ...] = ()
    """The trace-type dictionary."""
    quarantined: tuple[Quarantine, ...] = ()
    """Segments that were taken out because they are damaged."""
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
                **({} if commit.segments is None else {"segments": commit.segments}),
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
                "addresses": _pieces_to_json(self.pieces),
                "trace_types": _pieces_to_json(self.type_pieces),
                "quarantined": [
                    {"id": one.id, "num_traces": one.num_traces, "reason": one.reason} for one in self.quarantined
                ],
            }
        )

    @staticmethod
    def decode(document: Mapping[str, JSON]) -> "Manifest":
        """Manifest from its members; unknown ones are ignored."""
        commits = cast("list[dict[str, JSON]]", document["commits"])
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
                    segments=tuple(cast("list[str]", commit["segments"])) if "segments" in commit else None,
                )
                for commit in commits
            ),
            jobs={key: Job.from_json(job) for key, job in cast("dict[str, dict[str, JSON]]", document["jobs"]).items()},
            pieces=_pieces_from_json(document["addresses"]),
            type_pieces=_pieces_from_json(document.get("trace_types", {"pieces": []})),
            quarantined=tuple(
                Quarantine(one["id"], one["num_traces"], one["reason"]) for one in document.get("quarantined", [])
            ),
            checksum=cast("str", document["checksum"]),
        )


def _pieces_to_json(pieces: tuple[DictionaryPiece, ...]) -> JSON:
    listed = [{"hash": piece.hash, "num": piece.num} for piece in pieces]
    return {"num": sum(piece.num for piece in pieces), "pieces": listed}


def _pieces_from_json(document: JSON) -> tuple[DictionaryPiece, ...]:
    return tuple(DictionaryPiece(piece["hash"], piece["num"]) for piece in document["pieces"])


def read_manifest(storage: Storage, version: int) -> Manifest:
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
    name = manifest_file(version)
    if not storage.exists(name):
        message = f"{storage.url} has no version {version}; the newest is {latest_version(storage)}."
        raise StoreNotFoundError(message, path=storage.url, version=version)
    document = read_document(storage, name)
    require_format(document, "tracestore-manifest", name)
    manifest = Manifest.decode(document)
    if manifest.version != version or manifest.num_traces != document["num_traces"]:
        message = f"{name} is about version {manifest.version} with {document['num_traces']} traces, not what it lists."
        raise FormatError(message, file=name)
    return manifest


def publish_manifest(storage: Storage, manifest: Manifest) -> Manifest | None:
    """Publish the next snapshot; None when another process published that number with other content."""
    data = manifest.encode()
    name = manifest_file(manifest.version)
    # losing to a process that published the very same bytes is as good as winning
    if not storage.create(name, data) and storage.read(name) != data:
        return None
    storage.replace(_LATEST, f"{manifest.version}\n".encode())
    return Manifest.decode(decode_document(data, name))


def expire_versions(storage: Storage, oldest: int) -> None:
    """Record that versions below `oldest` may not be whole any more; the number never falls."""
    if oldest > oldest_version(storage):
        storage.replace(_OLDEST, f"{oldest}\n".encode())


def oldest_version(storage: Storage) -> int:
    """Find the oldest version that is known to be whole."""
    return _read_number(storage, _OLDEST)


def require_whole(storage: Storage, version: int) -> None:
    """Refuse a version whose segments were collected.

    Raises
    ------
    StoreNotFoundError
        When it is older than the oldest that is whole.
    """
    oldest = oldest_version(storage)
    if 0 < version < oldest:
        message = (
            f"Version {version} of {storage.url} was given up: segments that only it and its like name were removed by "
            f"`gc`; the oldest that is whole is {oldest}."
        )
        raise StoreNotFoundError(message, path=storage.url, version=version)


def latest_version(storage: Storage) -> int:
    """Find the newest snapshot: from the hint on, in steps that double, then between.

    Raises
    ------
    FormatError
        When the hint names a snapshot that is not there.
    """
    low = _read_number(storage, _LATEST)
    if low and not storage.exists(manifest_file(low)):
        name = manifest_file(low)
        message = (
            f"{name} is missing, though {_LATEST} names it; restore it from a copy, or remove LATEST if that "
            "file is the damaged one."
        )
        raise FormatError(message, file=name)
    step = 1
    while storage.exists(manifest_file(low + step)):
        low += step
        step *= 2
    while step > 1:
        step //= 2
        if storage.exists(manifest_file(low + step)):
            low += step
    return low


def damaged_hints(storage: Storage, newest: int) -> list[str]:
    """Names of the files `LATEST` and `OLDEST` that are there, but hold no number of a snapshot."""
    known = {str(version) for version in range(1, newest + 1)}
    return [name for name in (_LATEST, _OLDEST) if storage.exists(name) and _text(storage.read(name)) not in known]


def manifest_file(version: int) -> str:
    """Where a snapshot is."""
    return f"{MANIFESTS}/v{version:020d}.json"


def _read_number(storage: Storage, name: str) -> int:
    try:
        text = _text(storage.read(name))
    except FileNotFoundError:
        return 0
    return int(text) if text.isdigit() and len(text) <= 20 else 0


def _text(data: bytes) -> str:
    return data.strip().decode("ascii", "replace")
