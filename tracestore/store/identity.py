"""What makes a directory a store: `TRACESTORE.json`, written once (format 2.1 to 2.3)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from tracestore.errors import InvalidInputError, StoreExistsError, StoreNotFoundError, UnsupportedVersionError
from tracestore.formats.base import FORMATS, CodecChoice, open_format
from tracestore.formats.document import JSON, encode_document, read_document, require_format
from tracestore.storage import LocalStorage, Storage
from tracestore.store.fold import SEGMENTS
from tracestore.store.job import Job
from tracestore.store.manifest import MANIFESTS
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
    codec: CodecChoice = "auto"
    """How observations are compressed, unless a writer says otherwise."""
    copy_of: Mapping[str, JSON] | None = None
    """Of a converted store: ``uuid`` and ``version`` of what it is a copy of."""


def create_identity(storage: Storage, identity: StoreIdentity) -> bool:
    """Make a directory, or a prefix of an object store, a store; False when it is one already.

    Raises
    ------
    StoreExistsError
        When it holds something else.
    InvalidInputError
        When the backend is unknown or the attributes are not JSON.
    MissingExtraError
        When the backend needs a package that is not installed.
    """
    if identity.backend not in FORMATS:
        message = f"There is no store backend {identity.backend!r}; backends: {', '.join(FORMATS)}."
        raise InvalidInputError(message, argument="backend")
    open_format(identity.backend)  # whose extra may be missing: before anything is written
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
            "codec": identity.codec if isinstance(identity.codec, str) else dict(identity.codec),
            **({} if identity.copy_of is None else {"copy_of": dict(identity.copy_of)}),
        }
    )
    if storage.exists(IDENTITY):
        return False
    is_file = isinstance(storage, LocalStorage) and storage.root.exists() and not storage.root.is_dir()
    if is_file or storage.files("") or set(storage.folders("")) - {MANIFESTS, RECEIPTS, SEGMENTS}:
        message = f"{storage.url} exists, is not empty and is not a store; use another path."
        raise StoreExistsError(message, path=storage.url)
    storage.require_publication()
    return storage.create(IDENTITY, data)


def read_identity(storage: Storage) -> StoreIdentity:
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
    if not storage.exists(IDENTITY):
        is_missing = isinstance(storage, LocalStorage) and not storage.root.exists()
        what = "does not exist" if is_missing else f"has no {IDENTITY}"
        message = f"{storage.url} is not a trace store: it {what}. Give what `simulate` or `create` wrote."
        raise StoreNotFoundError(message, path=storage.url)
    document = read_document(storage, IDENTITY)
    require_format(document, "tracestore", IDENTITY)
    features = set(cast("list[str]", document["features"])) - _FEATURES
    if cast("int", document["min_reader"]) > FORMAT_VERSION or features or document["backend"] not in FORMATS:
        needs = (
            ", ".join(sorted(features)) or f"format version {document['min_reader']}, backend {document['backend']!r}"
        )
        message = (
            f"{storage.url} needs {needs}; this release reads format version {FORMAT_VERSION} with the backends "
            f"{', '.join(FORMATS)}. Update tracestore."
        )
        raise UnsupportedVersionError(message, path=storage.url)
    job = cast("dict[str, JSON] | None", document["job"])
    return StoreIdentity(
        backend=cast("str", document["backend"]),
        uuid=cast("str", document["uuid"]),
        job=None if job is None else Job.from_json(job),
        attributes=cast("dict[str, JSON]", document["attributes"]),
        codec=cast("CodecChoice", document.get("codec", "auto")),
        copy_of=cast("dict[str, JSON] | None", document.get("copy_of")),
    )
