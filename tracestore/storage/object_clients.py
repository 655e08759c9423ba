"""Clients of object stores: which URL and options make them, which process may use them. Knows no names of files."""

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from tracestore._extras import extra
from tracestore.errors import InvalidInputError, StoreError

with extra("objects"):
    from obstore.exceptions import BaseError
    from obstore.store import MemoryStore, S3Store

__all__ = ["Clients", "ObjectURL", "open_clients", "parse_url"]

Client: TypeAlias = MemoryStore | S3Store

_OF_THE_URL = frozenset(("bucket", "bucket_name", "aws_bucket", "aws_bucket_name", "prefix", "config"))
_PART = re.compile(r"[^/?#%\x00-\x1f]+")

_runtime_owner: dict[str, int] = {}
"""The process in which obstore runs its threads, from the first request on."""
_memories: "dict[str, Clients]" = {}


@dataclass(frozen=True)
class ObjectURL:
    """Parts of the URL of a prefix.

    Examples
    --------
    >>> parse_url("s3://bucket/runs/first")
    ObjectURL(scheme='s3', bucket='bucket', prefix='runs/first')
    """

    scheme: str
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


class Clients:
    """One store, seen by a client that repeats failed requests and by one that does not.

    A request to create an object must not be repeated unseen: when the first one was carried out and its answer was
    lost, the second one finds the name taken, and the creator would believe that somebody else was first.

    Parameters
    ----------
    name
        The URL without the prefix.
    repeating
        For everything but creation.
    single
        For creation.
    is_memory
        Whether the objects are gone when the process ends.
    """

    def __init__(self, name: str, repeating: Client, single: Client, *, is_memory: bool) -> None:
        self.name = name
        self.is_memory = is_memory
        self.token = secrets.token_hex(8)
        self._repeating = repeating
        self._single = single
        self._process = os.getpid()

    @property
    def repeating(self) -> Client:
        """The client for everything but creation; raises StoreError in a process that must not use it."""
        self._check_process()
        return self._repeating

    @property
    def single(self) -> Client:
        """The client for creation; raises StoreError in a process that must not use it."""
        self._check_process()
        return self._single

    def _check_process(self) -> None:
        process = os.getpid()
        if self.is_memory and process != self._process:
            raise _foreign_memory(self.name)
        owner = _runtime_owner.setdefault("process", process)
        if owner != process:
            message = (
                f"Process {process} was forked from process {owner} after that had used an object store, whose threads "
                f"a fork does not copy, so {self.name} cannot be reached from here. "
                "Start processes with the spawn method, or fork before the first access."
            )
            raise StoreError(message, url=self.name)


def parse_url(url: str) -> ObjectURL:
    """Take the URL of a prefix apart.

    Parameters
    ----------
    url
        ``memory://NAME[/PREFIX]`` or ``s3://BUCKET[/PREFIX]``.

    Raises
    ------
    InvalidInputError
        When it is something else.

    Examples
    --------
    >>> str(parse_url("memory://traces/"))
    'memory://traces'
    """
    scheme, mark, rest = url.partition("://")
    bucket, *parts = rest.rstrip("/").split("/")
    is_good = all(_PART.fullmatch(part) and part not in (".", "..") for part in (bucket, *parts))
    if scheme not in ("memory", "s3") or not mark or not is_good:
        message = (
            f"An object store is memory://NAME[/PREFIX] or s3://BUCKET[/PREFIX], without empty parts, '.', '..', '%', "
            f"'?' and '#'; got {url!r}. Correct the URL; keys and endpoints are options, not parts of it."
        )
        raise InvalidInputError(message, location=url)
    return ObjectURL(scheme, bucket, "/".join(parts))


def open_clients(url: ObjectURL, options: Mapping[str, object], token: str | None = None) -> Clients:
    """Find or make the clients of a store.

    Parameters
    ----------
    url
        The store; its prefix does not matter.
    options
        For S3, options of obstore's ``S3Store`` and of its HTTP client in one mapping, and ``retry_config``.
    token
        The very store in memory that is meant, when it was made before.

    Raises
    ------
    InvalidInputError
        When an option is unknown or has a value that obstore does not take.
    StoreError
        When the store is in the memory of another process.
    """
    name = f"{url.scheme}://{url.bucket}"
    if url.scheme == "s3":
        return _open_s3(name, url.bucket, options)
    if options:
        message = f"A store in memory has no options; got {', '.join(sorted(options))} for {name}. Leave them out."
        raise InvalidInputError(message, argument="options")
    if token is not None and (name not in _memories or _memories[name].token != token):
        raise _foreign_memory(name)
    if name not in _memories:
        store = MemoryStore()
        # of two threads that come at once, both get the same
        _memories.setdefault(name, Clients(name, store, store, is_memory=True))
    return _memories[name]


def _open_s3(name: str, bucket: str, options: Mapping[str, object]) -> Clients:
    misplaced = sorted(_OF_THE_URL & options.keys())
    if misplaced:
        message = f"The URL {name} says where objects are; got the options {', '.join(misplaced)}, too. Leave them out."
        raise InvalidInputError(message, argument="options")
    # options of the HTTP client stay among the others: as `client_options` they would hide those of the environment
    chosen: dict[str, Any] = dict(options)
    retries: Any = dict(chosen.pop("retry_config", None) or {})
    try:
        repeating = S3Store(bucket, **chosen, retry_config=retries)
        single = S3Store(bucket, **chosen, retry_config=retries | {"max_retries": 0})
    except (BaseError, TypeError, ValueError) as error:
        cause = str(error).partition("\n")[0]
        message = (
            f"obstore does not accept the options {', '.join(sorted(options)) or 'in the environment'} of {name}: "
            f"{cause.rstrip('.')}. Correct them; they are those of obstore's S3Store."
        )
        raise InvalidInputError(message, argument="options") from error
    return Clients(name, repeating, single, is_memory=False)


def _foreign_memory(name: str) -> StoreError:
    message = (
        f"{name} belongs to the process that made it, and this is another one (number {os.getpid()}). "
        "Use a path or an s3:// URL to share a store between processes."
    )
    return StoreError(message, url=name)
