"""What makes a directory a store: `TRACESTORE.json`, written once (format 2.1 to 2.3)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from tracestore.errors import InvalidInputError, StoreExistsError, StoreNotFoundError, UnsupportedVersionError
from tracestore.formats.base import FORMATS
from tracestore.formats.document import JSON, encode_document, read_document, require_format
from tracestore.store.fold import SEGMENTS
from tracestore.store.job import Job
from tracestore.store.manifest import MANIFESTS
from tracestore.store.publish import create_file
from tracestore.store.receipt import RECEIPTS

__all__ = ["FORMAT_VERSION", "IDENTITY", "StoreIdentity", "create_identity", "read_identity"]

IDENTITY = "TRACESTORE.json"
FORMAT_VERSION = 1
"""Version of docs/format_spec.md that this release writes, and the newest that it reads."""

_FEATURES: frozenset[str] = frozenset()


@dataclass(frozen=True)
class StoreIdentity:
    """Content of `TRACESTORE.json`."""

    backend: str
    uuid: str
    job: Job | None = None
    attributes: Mapping[str, JSON] = field(default_factory=dict)


def create_identity(root: Path, identity: StoreIdentity) -> bool:
    """Make a directory a store; False when it is one already.

    Raises
    ------
    StoreExistsError
        When it holds something else.
    InvalidInputError
        When the backend is unknown or the attributes are not JSON.
    """
    if identity.backend not in FORMATS:
        message = f"There is no store backend {identity.backend!r}; backends: {', '.join(FORMATS)}."
        raise InvalidInputError(message, argument="backend")
    data = encode_document(
        {
            "format": "tracestore",
            "version": FORMAT_VERSION,
            "min_reader": FORMAT_VERSION,
            "features": sorted(_FEATURES),
            "backend": identity.backend,
            "uuid": identity.uuid,
            "job": None if identity.job is None else identity.job.to_json(),
            "attributes": dict(identity.attributes),
        }
    )
    if (root / IDENTITY).exists():
        return False
    known = {MANIFESTS, RECEIPTS, SEGMENTS}
    if root.exists() and (
        not root.is_dir() or any(path.name not in known and not path.name.startswith(".") for path in root.iterdir())
    ):
        message = f"{root} exists, is not empty and is not a store; use another path."
        raise StoreExistsError(message, path=str(root))
    for name in sorted(known):
        (root / name).mkdir(parents=True, exist_ok=True)
    return create_file(root / IDENTITY, data)


def read_identity(root: Path) -> StoreIdentity:
    """Read what a store is.

    Raises
    ------
    StoreNotFoundError
        When the directory is not a store.
    UnsupportedVersionError
        When a newer release wrote it.
    ChecksumError
        When the file changed.
    """
    if not (root / IDENTITY).is_file():
        what = "does not exist" if not root.exists() else f"has no {IDENTITY}"
        message = f"{root} is not a trace store: it {what}. Give the directory that `simulate` or `create` wrote."
        raise StoreNotFoundError(message, path=str(root))
    document = read_document(root / IDENTITY)
    require_format(document, "tracestore", IDENTITY)
    features = set(cast("list[str]", document["features"])) - _FEATURES
    if cast("int", document["min_reader"]) > FORMAT_VERSION or features or document["backend"] not in FORMATS:
        needs = (
            ", ".join(sorted(features)) or f"format version {document['min_reader']}, backend {document['backend']!r}"
        )
        message = (
            f"{root} needs {needs}; this release reads format version {FORMAT_VERSION} with the backends "
            f"{', '.join(FORMATS)}. Update tracestore."
        )
        raise UnsupportedVersionError(message, path=str(root))
    job = cast("dict[str, JSON] | None", document["job"])
    return StoreIdentity(
        backend=cast("str", document["backend"]),
        uuid=cast("str", document["uuid"]),
        job=None if job is None else Job.from_json(job),
        attributes=cast("dict[str, JSON]", document["attributes"]),
    )
