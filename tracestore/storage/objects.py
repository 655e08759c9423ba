"""Objects of an S3-compatible store, or of this process's memory, through obstore. Knows nothing of what is in them.

Nothing is renamed and nothing is linked here: a file is published by a put that the store refuses if the name is
taken, and a folder counts as there when its ``seal.json`` is. Only blocking calls are used; the threads that obstore
starts at its first request do not survive a fork.
"""

import os
import secrets
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tracestore._extras import extra
from tracestore.errors import StoreError
from tracestore.storage.object_clients import Clients, ObjectURL, open_clients, parse_url
from tracestore.storage.object_errors import cause_of, explained, is_definite, refused
from tracestore.storage.object_file import ObjectFile

with extra("objects"):
    from obstore.exceptions import AlreadyExistsError, BaseError

if TYPE_CHECKING:
    from obstore import ObjectMeta

__all__ = ["ObjectStorage", "open_objects"]

_SEAL = "seal.json"
_NUM_UPLOADS = 8
_PAUSES_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 0.0)
"""What follows each attempt to create an object."""


def open_objects(url: str, options: Mapping[str, object]) -> "ObjectStorage":
    """Open the objects below a prefix. Nothing is read or written yet.

    Parameters
    ----------
    url
        ``memory://NAME[/PREFIX]``: objects in the memory of this process, the same ones for the same name.
        ``s3://BUCKET[/PREFIX]``: objects of an S3-compatible store.
    options
        For S3, what obstore's ``S3Store`` takes, such as ``endpoint``, ``region``, ``access_key_id`` and
        ``secret_access_key``; what its HTTP client takes, such as ``allow_http`` and ``timeout``; and
        ``retry_config``. What is left out comes from the environment variables ``AWS_*``.

    Raises
    ------
    InvalidInputError
        When the URL is something else, or an option is unknown.
    StoreError
        When the objects are in the memory of another process.

    Examples
    --------
    >>> storage = open_objects("memory://example/notes", {})
    >>> storage.create("first", b"one"), storage.create("first", b"two"), storage.read("first")
    (True, False, b'one')
    >>> open_objects("memory://example", {}).folders("")
    ['notes']
    """
    parsed = parse_url(url)
    return ObjectStorage(parsed, options, open_clients(parsed, options))


class ObjectStorage:
    """The objects below one prefix; made by `open_objects`.

    May be shared between threads, and pickled, keys included. A forked process may use it if the parent has not used
    any object store before.

    Parameters
    ----------
    url
        The prefix.
    options
        What `clients` were made with.
    clients
        The store.
    """

    def __init__(self, url: ObjectURL, options: Mapping[str, object], clients: Clients) -> None:
        self._url = url
        self._options = dict(options)
        self._clients = clients

    def __reduce__(self) -> tuple[object, ...]:
        token = self._clients.token if self._clients.is_memory else None
        return _reopen, (self._url, self._options, token)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @property
    def url(self) -> str:
        """The root, for people."""
        return str(self._url)

    @property
    def is_local(self) -> bool:
        """Always False."""
        return False

    def below(self, folder: str) -> "ObjectStorage":
        """Storage whose root is a folder of this one."""
        return ObjectStorage(
            ObjectURL(self._url.scheme, self._url.bucket, self._key(folder)), self._options, self._clients
        )

    def read(self, name: str) -> bytes:
        """Read an object; raises FileNotFoundError when there is none."""
        with explained(self._url_of(name)):
            return bytes(self._clients.repeating.get(self._key(name)).bytes())

    def open(self, name: str) -> ObjectFile:
        """Open an object; raises FileNotFoundError when there is none."""
        return ObjectFile(self._clients, self._key(name))

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""
        try:
            with explained(self._url_of(name)):
                self._clients.repeating.head(self._key(name))
        except FileNotFoundError:
            return False
        return True

    def files(self, folder: str) -> list[str]:
        """Names of the objects directly below a folder, sorted; temporary ones are left out."""
        with explained(self._url_of(folder)):
            found = self._clients.repeating.list_with_delimiter(self._key(folder) or None)["objects"]
        names = (_last_part(one["path"]) for one in found)
        return sorted(name for name in names if not name.startswith("."))

    def folders(self, folder: str) -> list[str]:
        """Names of the prefixes directly below a folder, sorted."""
        with explained(self._url_of(folder)):
            found = self._clients.repeating.list_with_delimiter(self._key(folder) or None)["common_prefixes"]
        return sorted(map(_last_part, found))

    def seconds_since_change(self, name: str) -> float:
        """Time since an object was written, or the newest one in a folder, by the clock of the store."""
        with explained(self._url_of(name)):
            try:
                newest = self._clients.repeating.head(self._key(name))["last_modified"]
            except FileNotFoundError:
                newest = max(one["last_modified"] for one in self._objects(name))
        return time.time() - newest.timestamp()

    def create(self, name: str, data: bytes) -> bool:
        """Publish an object unless its name is taken; whether this call made it.

        When the answer to a request is lost, the object is read back: with these bytes it was made by this call.

        Raises
        ------
        StoreError
            When the store has no conditional creation, refuses the request, or cannot be reached.
        """
        url = self._url_of(name)
        is_answer_lost = False
        failure: Exception | None = None
        for pause in _PAUSES_SECONDS:
            try:
                with explained(url, but=(BaseError,)):
                    self._clients.single.put(self._key(name), data, mode="create", use_multipart=False)
                return True
            except AlreadyExistsError as error:
                failure = error
            except BaseError as error:
                if is_definite(error):
                    raise refused(url, error) from error
                is_answer_lost, failure = True, error
            found = self._read_back(name, failure)
            if found is not None:
                return is_answer_lost and found == data
            time.sleep(pause)
        message = (
            f"{url} could not be created in {len(_PAUSES_SECONDS)} attempts ({cause_of(failure)}). "
            "Repeat the call to continue."
        )
        raise StoreError(message, url=url) from failure

    def replace(self, name: str, data: bytes) -> None:
        """Write an object, over another one if there is one, in one step."""
        with explained(self._url_of(name)):
            self._clients.repeating.put(self._key(name), data, use_multipart=False)

    def remove(self, folder: str) -> int:
        """Remove all that is below a folder, its ``seal.json`` first; the bytes it had."""
        seal = self._key(f"{folder}/{_SEAL}")
        with explained(self._url_of(folder)):
            found = self._objects(folder)
            if any(one["path"] == seal for one in found):
                self._clients.repeating.delete(seal)
            others = [one["path"] for one in found if one["path"] != seal]
            if others:
                self._clients.repeating.delete(others)
        return sum(one["size"] for one in found)

    def staging(self, name: str) -> Path:
        """Directory among the temporary ones of this machine, of this process alone."""
        token = _staging_token(os.getpid(), self.url)
        return Path(tempfile.gettempdir()) / f"tracestore-{token}-{name.replace('/', '-')}"

    def place(self, directory: Path, folder: str) -> bool:
        """Upload a finished directory, its ``seal.json`` last; False when that is there already.

        The directory stays. Two calls at once for one folder must upload the same files.
        """
        seal = f"{folder}/{_SEAL}"
        if self.exists(seal):
            return False
        data = (directory / _SEAL).read_bytes()
        paths = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / _SEAL)

        def upload(path: Path) -> None:
            name = f"{folder}/{path.relative_to(directory).as_posix()}"
            with explained(self._url_of(name)):
                self._clients.repeating.put(self._key(name), path)

        with ThreadPoolExecutor(_NUM_UPLOADS) as pool:
            for _ in pool.map(upload, paths):
                pass
        return self.create(seal, data)

    def free_bytes(self) -> int | None:
        """Return None: there is no telling."""
        return None

    def require_publication(self) -> None:
        """Try whether the store refuses to create an object twice.

        Raises
        ------
        StoreError
            When it does not.
        """
        probe = f".probe-{secrets.token_hex(8)}"
        self.create(probe, b"first")
        try:
            is_refused = not self.create(probe, b"second")
        finally:
            with explained(self._url_of(probe)):
                self._clients.repeating.delete(self._key(probe))
        if not is_refused:
            message = (
                f"The object store of {self.url} ignores conditional creation (If-None-Match), so two writers could "
                "overwrite each other. Use a store that honors it, or a path."
            )
            raise StoreError(message, url=self.url)

    def _read_back(self, name: str, failure: Exception) -> bytes | None:
        try:
            return self.read(name)
        except FileNotFoundError:
            return None
        except StoreError:
            url = self._url_of(name)
            message = (
                f"Whether {url} was created is not known: the answer was lost ({cause_of(failure)}), and it cannot be "
                "read back. Repeat the call when the object store can be reached."
            )
            raise StoreError(message, url=url) from failure

    def _objects(self, folder: str) -> "list[ObjectMeta]":
        """Everything below a folder; raises FileNotFoundError when that is nothing."""
        found = [one for page in self._clients.repeating.list(self._key(folder)) for one in page]
        if not found:
            raise FileNotFoundError
        return found

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self._url.prefix, name) if part)

    def _url_of(self, name: str) -> str:
        return f"{self._clients.name}/{self._key(name)}"


def _last_part(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


@cache
def _staging_token(process: int, url: str) -> str:
    """Random, and kept; the arguments make forked processes and other roots differ."""
    return secrets.token_hex(8)


def _reopen(url: ObjectURL, options: dict[str, object], token: str | None) -> ObjectStorage:
    return ObjectStorage(url, options, open_clients(url, options, token))
