"""Rows of a damaged SQLite file, found by looking at every page.

Knows the layout of SQLite's table leaf pages and nothing of SQL. Used only when SQLite itself cannot reach a row. Takes
rows of two columns, a key and a value; a value that runs over several pages is put together from its chain of pages.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from tracestore.errors import FormatError

__all__ = ["SqlitePages"]

_TABLE_LEAF = 0x0D
_MAX_KEY_BYTES = 65536


class SqlitePages:
    """The rows on the readable leaf pages of an SQLite file.

    Parameters
    ----------
    path
        The file.
    limit_bytes
        Most bytes of one value.

    Raises
    ------
    FormatError
        The header of the file does not name a page size.
    """

    def __init__(self, path: Path, *, limit_bytes: int) -> None:
        self._path = path
        self._limit = limit_bytes
        with path.open("rb") as file:
            head = file.read(100)
            self._size = file.seek(0, 2)
        page = int.from_bytes(head[16:18], "big")
        self._page_bytes = 65536 if page == 1 else page
        reserved = head[20] if len(head) > 20 else 0
        if len(head) < 100 or self._page_bytes < 512 or self._page_bytes & (self._page_bytes - 1) or reserved > 32:
            message = f"{path} has a damaged SQLite header; it cannot be read."
            raise FormatError(message, path=str(path))
        self._usable = self._page_bytes - reserved
        self._places: dict[str, tuple[int, int]] | None = None

    def keys(self) -> Iterable[str]:
        """Return the keys of all rows found."""
        return self._index().keys()

    def get(self, key: str) -> bytes | None:
        """Return the value of a key; None when no sound page holds it.

        Raises
        ------
        FormatError
            The row is there and its value is damaged.
        """
        place = self._index().get(key)
        if place is None:
            return None
        page_number, position = place
        with self._path.open("rb") as file:
            file.seek((page_number - 1) * self._page_bytes)
            page = file.read(self._page_bytes)
            cell = _Cell(page, position, self._usable)
            if cell.key != key or cell.payload_bytes > min(self._limit, self._size):
                message = "its database page is damaged."
                raise FormatError(message)
            payload = bytearray(cell.local)
            following, hops = cell.overflow, 0
            while len(payload) < cell.payload_bytes:
                hops += 1
                if not 1 < following <= self._size // self._page_bytes or hops > self._size // self._page_bytes:
                    message = "the chain of database pages of its value is broken."
                    raise FormatError(message)
                file.seek((following - 1) * self._page_bytes)
                page = file.read(self._page_bytes)
                following = int.from_bytes(page[:4], "big")
                payload += page[4 : self._usable][: cell.payload_bytes - len(payload)]
        return bytes(payload[cell.value_start : cell.value_start + cell.value_bytes])

    def _index(self) -> dict[str, tuple[int, int]]:
        if self._places is None:
            self._places = {}
            newest: dict[str, int] = {}
            for number, page in self._leaf_pages():
                for position in _cell_positions(page, 100 if number == 1 else 0, self._usable):
                    cell = _Cell(page, position, self._usable)
                    # a replaced row may still lie on a freed page; the newer one has the larger row number
                    if cell.key is not None and newest.get(cell.key, -1) < cell.row:
                        newest[cell.key] = cell.row
                        self._places[cell.key] = (number, position)
        return self._places

    def _leaf_pages(self) -> Iterator[tuple[int, bytes]]:
        with self._path.open("rb") as file:
            number = 0
            while page := file.read(self._page_bytes):
                number += 1
                if len(page) == self._page_bytes and page[100 if number == 1 else 0] == _TABLE_LEAF:
                    yield number, page


class _Cell:
    """One row on a leaf page; ``key`` is None when the bytes are not a row of a key and a value."""

    __slots__ = ("key", "local", "overflow", "payload_bytes", "row", "value_bytes", "value_start")

    def __init__(self, page: bytes, position: int, usable: int) -> None:
        self.key: str | None = None
        self.payload_bytes, position = _varint(page, position)
        self.row, position = _varint(page, position)
        header_bytes, after = _varint(page, position)
        key_type, after = _varint(page, after)
        value_type, after = _varint(page, after)
        key_bytes = (key_type - 12) // 2 if key_type >= 12 else -1
        self.value_bytes = (value_type - 12) // 2 if value_type >= 12 and value_type % 2 == 0 else -1
        self.value_start = header_bytes + key_bytes
        local = _local_bytes(self.payload_bytes, usable)
        self.local = page[position : position + local]
        self.overflow = int.from_bytes(page[position + local : position + local + 4], "big")
        fits = after == position + header_bytes and self.value_start + self.value_bytes == self.payload_bytes
        if (
            fits
            and 0 < key_bytes <= _MAX_KEY_BYTES
            and self.value_bytes >= 0
            and len(self.local) == local >= self.value_start
        ):
            self.key = bytes(self.local[header_bytes : self.value_start]).decode("utf-8", "replace")


def _local_bytes(payload: int, usable: int) -> int:
    """Bytes of a payload that are kept on its leaf page (SQLite file format, section 1.6)."""
    if payload <= usable - 35:
        return payload
    least = (usable - 12) * 32 // 255 - 23
    kept = least + (payload - least) % (usable - 4)
    return kept if kept <= usable - 35 else least


def _cell_positions(page: bytes, start: int, usable: int) -> list[int]:
    number = int.from_bytes(page[start + 3 : start + 5], "big")
    pointers = page[start + 8 : start + 8 + 2 * number]
    positions = [int.from_bytes(pointers[index : index + 2], "big") for index in range(0, len(pointers) - 1, 2)]
    return [position for position in positions if start + 8 < position < usable]


def _varint(page: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index in range(9):
        byte = page[position + index] if position + index < len(page) else 0
        if index == 8:
            return value << 8 | byte, position + 9
        value = value << 7 | (byte & 0x7F)
        if byte < 0x80:
            return value, position + index + 1
    return value, position  # not reached
