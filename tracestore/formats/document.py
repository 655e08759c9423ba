"""Documents: JSON with a checksum of its own bytes, for everything that people may want to read (format 1.5, 1.6)."""

import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import xxhash

from tracestore.errors import ChecksumError, FormatError, InvalidInputError
from tracestore.storage import Storage

__all__ = ["JSON", "decode_document", "digest", "encode_document", "read_document", "require_format"]

JSON: TypeAlias = Any
"""What a JSON document can hold; not spelled out, because readers of a document know its members."""

_HEAD = re.compile(rb'\{"checksum": "([0-9a-f]{32})",\n')
_HEAD_BYTES = 49


def digest(data: "bytes | memoryview") -> str:
    """Hash bytes to 32 hexadecimal digits (XXH3-128)."""
    return xxhash.xxh3_128_hexdigest(data)


def encode_document(members: Mapping[str, object]) -> bytes:
    """Write members as a document, one member a line.

    Parameters
    ----------
    members
        At least one member; values must be JSON, without NaN and infinities.

    Raises
    ------
    InvalidInputError
        When a value is not JSON.

    Examples
    --------
    >>> data = encode_document({"format": "example", "version": 1})
    >>> decode_document(data, "example.json")["version"]
    1
    """
    lines = []
    for key, value in members.items():
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            message = f"`{key}` must be JSON without NaN and infinities; {error}."
            raise InvalidInputError(message, member=key) from error
        lines.append(f"{json.dumps(key)}: {text}")
    rest = (",\n".join(lines) + "}\n").encode()
    return b'{"checksum": "' + digest(rest).encode() + b'",\n' + rest


def decode_document(data: bytes, name: str, *, expected: str | None = None) -> dict[str, JSON]:
    """Check and parse a document.

    Parameters
    ----------
    data
        Bytes of the file.
    name
        Name of the file, for messages.
    expected
        Checksum that another document recorded for this one.

    Raises
    ------
    FormatError
        When the bytes are not a document.
    ChecksumError
        When they changed since they were written.
    """
    head = _HEAD.match(data)
    if head is None:
        message = (
            f"{name} is not a tracestore document: its first line holds no checksum; restore the file from a copy."
        )
        raise FormatError(message, file=name)
    stated, found = head[1].decode(), digest(memoryview(data)[_HEAD_BYTES:])
    if stated != found:
        message = f"{name} was altered: its checksum is {found}, written as {stated}; restore the file from a copy."
        raise ChecksumError(message, file=name, expected=stated, found=found)
    if expected is not None and stated != expected:
        message = f"{name} is not the file that was published: its checksum is {stated}, published as {expected}."
        raise ChecksumError(message, file=name, expected=expected, found=stated)
    document: dict[str, JSON] = json.loads(data)
    return document


def read_document(
    storage: Storage, file: str, *, name: str | None = None, expected: str | None = None
) -> dict[str, JSON]:
    """Read, check and parse a document file.

    Parameters
    ----------
    storage
        Where it is.
    file
        The file.
    name
        Name for messages; the file's own by default.
    expected
        Checksum that another document recorded for this one.

    Raises
    ------
    FormatError
        When the file is missing or is not a document.
    ChecksumError
        When it changed since it was written.
    """
    name = name or file
    try:
        data = storage.read(file)
    except FileNotFoundError as error:
        message = f"{name} is missing; restore the file from a copy."
        raise FormatError(message, file=name) from error
    return decode_document(data, name, expected=expected)


def require_format(document: Mapping[str, JSON], expected: str, name: str) -> None:
    """Refuse a document of another kind.

    Raises
    ------
    FormatError
        When its ``format`` is another one.
    """
    found = document.get("format")
    if found != expected:
        message = f"{name} should be a {expected!r} document; its format is {found!r}."
        raise FormatError(message, file=name, expected=expected, found=found)
