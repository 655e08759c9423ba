"""The SQLite files of pyprob 1.4 and later: keys and values of the one table, read-only.

Knows SQLite and nothing of pickles. The file is opened read-only and immutable: no lock, no journal, no repair. The
schema must be the one that pyprob's dictionary creates, so a file cannot bring views or expressions of its own.

A damaged page costs the records on it. When a lookup through SQLite fails, all pages of the file are scanned once for
leaf pages that hold the table's rows, so sound pages are read even when the page that leads to them is damaged.
"""

import contextlib
import re
import sqlite3
from pathlib import Path
from urllib.parse import quote

from tracestore.errors import FormatError
from tracestore.importers.pyprob_pages import SqlitePages

__all__ = ["SqliteTable", "is_sqlite"]

_MAGIC = b"SQLite format 3\0"
_SCHEMA = re.compile(r'CREATE TABLE "?unnamed"? \(key TEXT PRIMARY KEY, value BLOB\)')
# SQLite quotes damaged names in its messages, which are then not text
_DAMAGE = (sqlite3.Error, UnicodeDecodeError)
_LOOKUP = "SELECT value FROM unnamed WHERE key = ?"


def is_sqlite(head: bytes) -> bool:
    """Say whether the first bytes of a file are those of an SQLite database."""
    return head.startswith(_MAGIC)


class SqliteTable:
    """Keys and values of one SQLite shelf.

    Parameters
    ----------
    path
        The file.
    limit_bytes
        Most bytes of one value.

    Raises
    ------
    FormatError
        The file is not a shelf of pyprob.
    """

    def __init__(self, path: Path, *, limit_bytes: int) -> None:
        self._path = path
        self._limit = limit_bytes
        self._pages: SqlitePages | None = None
        self._connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        try:
            self._configure()
        except BaseException as error:
            if not isinstance(error, _DAMAGE):
                self.close()
                raise
            self._use_pages()

    def _configure(self) -> None:
        self._connection.text_factory = bytes
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(self._limit, 1_000_000_000))
        for pragma in ("query_only=ON", "trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0"):
            self._connection.execute(f"PRAGMA {pragma}")
        rows = self._connection.execute("SELECT type, sql FROM sqlite_master WHERE name = 'unnamed'").fetchall()
        if len(rows) != 1 or rows[0][0] != b"table" or not _SCHEMA.fullmatch(_text(rows[0][1])):
            message = f"{self._path} is an SQLite file without the table that pyprob writes; it is of another program."
            raise FormatError(message, path=str(self._path))

    def _use_pages(self) -> SqlitePages:
        """Look at the pages themselves from now on, where SQLite finds nothing."""
        if self._pages is None:
            try:
                self._pages = SqlitePages(self._path, limit_bytes=self._limit)
            except FormatError:
                self.close()
                raise
        return self._pages

    def keys(self) -> list[str]:
        """Return the keys that can be read, in no particular order."""
        if self._pages is None:
            with contextlib.suppress(*_DAMAGE):
                return [_text(row[0]) for row in self._connection.execute("SELECT key FROM unnamed")]
        return list(self._use_pages().keys())

    def get(self, key: str) -> bytes | None:
        """Return the value of a key; None when the file has no such key.

        Raises
        ------
        FormatError
            The pages that hold the value are damaged.
        """
        reason = ""
        try:  # SQLite first, even in a damaged file: most keys are reached without the damaged page
            value = self._query(key)
        except _DAMAGE as error:
            value, reason = None, str(error)
            self._use_pages()
        if value is None and self._pages is not None:
            value = self._pages.get(key)
        if value is None and reason:
            message = f"its database page is damaged ({reason})."
            raise FormatError(message)
        return value

    def _query(self, key: str) -> bytes | None:
        for form in (key.encode(), key):  # pyprob writes keys as blobs
            row = self._connection.execute(_LOOKUP, (form,)).fetchone()
            if row is not None:
                if type(row[0]) is not bytes:
                    message = f"the value is {type(row[0]).__name__}; expected bytes."
                    raise FormatError(message)
                return row[0]
        return None

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _text(key: object) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)
