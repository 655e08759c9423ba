"""The contract of a storage: files read whole or in part, published if absent, listed by those who maintain them.

Names are relative to the root, with ``/`` between parts. Its conformance suite is ``tests/suites/storage_suite.py``.
"""

import importlib
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.storage.local import LocalStorage

__all__ = ["OBJECT_SCHEMES", "File", "Location", "Storage", "open_storage"]

Location: TypeAlias = str | PathLike[str]
"""A path, or a URL with one of `OBJECT_SCHEMES`."""

OBJECT_SCHEMES = ("memory", "s3")
"""URL schemes of object stores that create an object only if it is absent."""

_OBJECTS = "tracestore.storage.objects"


class File(Protocol):
    """One file, read in parts."""

    @property
    def size(self) -> int:
        """Bytes in the file."""

    @property
    def data(self) -> NDArray[np.uint8]:
        """The whole file as one flat array; of a remote file only what was loaded is there."""

    def load(self, start: int, stop: int) -> None:
        """Make bytes ``start`` to ``stop`` of `data` those of the file."""

    def expect(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        """Say which ranges of `data`, ascending, will be read next, so that a disk gets to know of all at once."""

    def ranges(self, starts: Sequence[int], stops: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Read several ranges, in the order asked for, without keeping them."""


class Storage(Protocol):
    """A tree of files. Everything but `read`, `open` and `exists` is for writers and maintainers."""

    @property
    def url(self) -> str:
        """The root, for people."""

    @property
    def is_local(self) -> bool:
        """Whether the files are on a file system."""

    def below(self, folder: str) -> "Storage":
        """Storage whose root is a folder of this one."""

    def read(self, name: str) -> bytes:
        """Read a file; raises FileNotFoundError when there is none."""

    def open(self, name: str) -> File:
        """Open a file; raises FileNotFoundError when there is none."""

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""

    def files(self, folder: str) -> list[str]:
        """Names, within a folder, of the files directly in it, sorted; temporary ones are left out."""

    def folders(self, folder: str) -> list[str]:
        """Names, within a folder, of the folders directly in it, sorted."""

    def seconds_since_change(self, name: str) -> float:
        """Time since a file was last written, or the newest file in a folder."""

    def create(self, name: str, data: bytes) -> bool:
        """Publish a file unless its name is taken; whether this call made it."""

    def replace(self, name: str, data: bytes) -> None:
        """Write a file, over another one if there is one, in one step."""

    def remove(self, folder: str) -> int:
        """Remove a folder and all that is in it, so that no reader ever sees half of a segment; the bytes it had."""

    def staging(self, name: str) -> Path:
        """Local directory, which need not exist, in which a folder of that name is built before it is placed."""

    def place(self, directory: Path, folder: str) -> bool:
        """Move a finished local directory to its final name, ``seal.json`` last; False when that is taken."""

    def free_bytes(self) -> int | None:
        """Room that is left; None when there is no telling."""

    def require_publication(self) -> None:
        """Try whether files can be published, before a store is made; raises StoreError where they cannot."""


def open_storage(location: Location, options: Mapping[str, object] | None = None) -> Storage:
    """Find the storage of a path or URL.

    Parameters
    ----------
    location
        A path, ``memory://NAME`` or ``s3://BUCKET/PREFIX``.
    options
        For object stores: what obstore's store of that kind takes, such as ``endpoint`` or ``region``.

    Raises
    ------
    InvalidInputError
        When the scheme of the URL is none of them, or options are given for a path.
    MissingExtraError
        When obstore is not installed.

    Examples
    --------
    >>> open_storage("traces").is_local
    True
    >>> open_storage("ftp://host/traces")
    Traceback (most recent call last):
        ...
    tracestore.errors.InvalidInputError: Stores live on file systems and on memory:// and s3:// object stores; \
'ftp://host/traces' is none of them. Give a path, or copy the store to one of these.
    """
    text = fspath(location)
    scheme, mark, rest = text.partition("://")
    if mark and scheme in OBJECT_SCHEMES:
        storage: Storage = importlib.import_module(_OBJECTS).open_objects(text, dict(options or {}))
        return storage
    if mark and scheme == "file":
        text, mark = rest, ""
    if mark:
        schemes = " and ".join(f"{known}://" for known in OBJECT_SCHEMES)
        message = (
            f"Stores live on file systems and on {schemes} object stores; {text!r} is none of them. "
            "Give a path, or copy the store to one of these."
        )
        raise InvalidInputError(message, location=text)
    if options:
        message = f"`storage_options` are for object stores; {text!r} is a path and takes none."
        raise InvalidInputError(message, argument="storage_options")
    return LocalStorage(Path(text))
