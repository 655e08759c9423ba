"""The dbm files of pyprob before 1.4: GNU dbm and the portable kind of Python, read-only.

Knows two file layouts and nothing of pickles. Neither needs a library: pyprob recommended GNU dbm, whose module is
often missing today, and fell back to the portable kind ("dumb"). Files of ndbm need the interpreter's ``dbm.ndbm``.
"""

import ast
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tracestore.errors import FormatError

__all__ = ["DumbTable", "GdbmTable", "NdbmTable", "is_gdbm"]

# magic number -> width of an offset; the magic number also tells the byte order
_MAGICS = {0x13579ACD: 4, 0x13579ACE: 4, 0x13579ACF: 8, 0x13579AD0: 4, 0x13579AD1: 8}
_AVAIL_IN_BUCKET = 6
_DUMB_LINE = re.compile(r"('(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"), \((\d{1,18}), (\d{1,18})\)")


def is_gdbm(head: bytes) -> bool:
    """Say whether the first bytes of a file are those of a GNU dbm file."""
    return int.from_bytes(head[:4], "little") in _MAGICS or int.from_bytes(head[:4], "big") in _MAGICS


class GdbmTable:
    """Keys and values of a GNU dbm file, in any byte order and offset width.

    Parameters
    ----------
    path
        The file.
    limit_bytes
        Most bytes of one value.

    Raises
    ------
    FormatError
        The header is damaged.
    """

    def __init__(self, path: Path, *, limit_bytes: int) -> None:
        self._path, self._limit = path, limit_bytes
        self._file = path.open("rb")
        self._size = self._file.seek(0, 2)
        self._places: dict[bytes, tuple[int, int]] = {}
        try:
            self._read_index()
        except (struct.error, FormatError) as error:
            self._file.close()
            message = f"{path} is a GNU dbm file with a damaged header or directory ({error})."
            raise FormatError(message, path=str(path)) from error

    def _at(self, offset: int, count: int) -> bytes:
        if offset < 0 or count < 0 or offset + count > self._size:
            message = "its bytes lie outside of the file, which was truncated or damaged."
            raise FormatError(message)
        self._file.seek(offset)
        return self._file.read(count)

    def _read_index(self) -> None:
        head = self._at(0, min(self._size, 64))
        order = "<" if int.from_bytes(head[:4], "little") in _MAGICS else ">"
        wide = _MAGICS[struct.unpack_from(f"{order}I", head)[0]] == 8
        if wide:
            directory, directory_bytes, _, bucket_bytes, elements = struct.unpack_from(f"{order}qiiii", head, 8)
        else:
            directory, directory_bytes, _, bucket_bytes, elements = struct.unpack_from(f"{order}iiiii", head, 8)
        width, code = (8, "q") if wide else (4, "i")
        if directory + directory_bytes > self._size or directory_bytes % width or bucket_bytes > self._size:
            message = "the directory lies outside of the file."
            raise FormatError(message)
        offsets = struct.unpack(f"{order}{directory_bytes // width}{code}", self._at(directory, directory_bytes))
        element = struct.Struct(f"{order}i4s{code}ii")
        start = 4 + (4 if wide else 0) + _AVAIL_IN_BUCKET * 2 * width + 8
        if not 0 <= elements <= (bucket_bytes - start) // element.size:
            message = "the buckets do not hold their elements."
            raise FormatError(message)
        for offset in sorted(set(offsets)):
            if 0 < offset <= self._size - bucket_bytes:
                self._read_bucket(self._at(offset, bucket_bytes), start, elements, element)

    def _read_bucket(self, bucket: bytes, start: int, elements: int, element: struct.Struct) -> None:
        for index in range(elements):
            value, key_start, data, key_bytes, data_bytes = element.unpack_from(bucket, start + index * element.size)
            if value == -1 or key_bytes <= 0 or data_bytes < 0 or data <= 0 or data + key_bytes > self._size:
                continue
            if key_bytes > 4 or key_start[:key_bytes] == self._at(data, key_bytes):
                self._places[self._at(data, key_bytes)] = (data + key_bytes, data_bytes)

    def keys(self) -> list[str]:
        """Return the keys, in no particular order."""
        return [key.decode("utf-8", "replace") for key in self._places]

    def get(self, key: str) -> bytes | None:
        """Return the value of a key; None when the file has no such key.

        Raises
        ------
        FormatError
            The value lies outside of the file, or is too large.
        """
        place = self._places.get(key.encode())
        return None if place is None else _bounded(self._at, place, self._limit)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class DumbTable:
    """Keys and values of a portable dbm file of Python (``.dir`` and ``.dat``).

    Parameters
    ----------
    path
        Path of the shelf, without the suffixes.
    limit_bytes
        Most bytes of one value.

    Raises
    ------
    FormatError
        The directory of keys is damaged.
    """

    def __init__(self, path: Path, *, limit_bytes: int) -> None:
        self._path, self._limit = path, limit_bytes
        self._places: dict[str, tuple[int, int]] = {}
        lines = Path(f"{path}.dir").read_text("latin-1").splitlines()
        for number, line in enumerate(lines, 1):
            match = _DUMB_LINE.fullmatch(line.rstrip())
            if match is None:
                message = f"line {number} of {path}.dir is not an entry of a portable dbm file."
                raise FormatError(message, path=f"{path}.dir")
            try:
                key = ast.literal_eval(match.group(1)).encode("latin-1").decode("utf-8", "replace")
            except (SyntaxError, ValueError) as error:
                message = f"line {number} of {path}.dir has a damaged key."
                raise FormatError(message, path=f"{path}.dir") from error
            self._places[key] = (int(match.group(2)), int(match.group(3)))
        self._file = Path(f"{path}.dat").open("rb")  # noqa: SIM115  (open as long as the table)
        self._size = self._file.seek(0, 2)

    def _at(self, offset: int, count: int) -> bytes:
        if offset + count > self._size:
            message = "its bytes lie outside of the file, which was truncated or damaged."
            raise FormatError(message)
        self._file.seek(offset)
        return self._file.read(count)

    def keys(self) -> list[str]:
        """Return the keys, in no particular order."""
        return list(self._places)

    def get(self, key: str) -> bytes | None:
        """Return the value of a key; None when the file has no such key.

        Raises
        ------
        FormatError
            The value lies outside of the file, or is too large.
        """
        place = self._places.get(key)
        return None if place is None else _bounded(self._at, place, self._limit)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class NdbmTable:
    """Keys and values of a dbm file that the interpreter's ``dbm.ndbm`` reads.

    Parameters
    ----------
    path
        Path of the shelf, without the suffix.
    limit_bytes
        Most bytes of one value.

    Raises
    ------
    FormatError
        The interpreter has no such module, or it cannot read the file.
    """

    def __init__(self, path: Path, *, limit_bytes: int) -> None:
        self._limit = limit_bytes
        try:
            import dbm.ndbm
        except ImportError as error:
            message = (
                f"{path} is an ndbm file and this interpreter has no dbm.ndbm module; use one that has it, or copy the "
                "shelf to a dbm.dumb file with it."
            )
            raise FormatError(message, path=str(path)) from error
        try:
            self._file: Any = dbm.ndbm.open(str(path), "r")  # noqa: SIM115  (open as long as the table)
        except OSError as error:
            message = f"{path} cannot be opened as an ndbm file ({error})."
            raise FormatError(message, path=str(path)) from error

    def keys(self) -> list[str]:
        """Return the keys, in no particular order."""
        return [key.decode("utf-8", "replace") for key in self._file.keys()]  # noqa: SIM118  (not iterable)

    def get(self, key: str) -> bytes | None:
        """Return the value of a key; None when the file has no such key."""
        value: bytes | None = self._file.get(key.encode())
        return value

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _bounded(read: Callable[[int, int], bytes], place: tuple[int, int], limit: int) -> bytes:
    if place[1] > limit:
        message = f"the value has {place[1]} bytes, more than the limit of {limit} for one record."
        raise FormatError(message, limit_bytes=limit)
    return read(*place)
