"""Data set files of pyprob 1.x: which ones are in a directory, and the traces in each.

Knows file names and keys; the bytes of a record belong to `pyprob_pickle` and `pyprob_traces`, the kinds of files to
`pyprob_sqlite` and `pyprob_dbm`. Reads only: a file is never created, locked, repaired or changed, and nothing that it
contains is run. A file of traces has the keys "0", "1", ... and ``__length``; the file of an empirical distribution
(``posterior(..., file_name=...)``) has the same keys and ``log_weights`` instead of a length.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import FormatError, InvalidInputError, StoreNotFoundError
from tracestore.importers.pyprob_dbm import DumbTable, GdbmTable, NdbmTable, is_gdbm
from tracestore.importers.pyprob_pickle import load_value
from tracestore.importers.pyprob_records import PyprobRecordProblem, PyprobTrace
from tracestore.importers.pyprob_sqlite import SqliteTable, is_sqlite
from tracestore.importers.pyprob_tensors import StoredTensor
from tracestore.importers.pyprob_trace_records import trace_record

__all__ = ["PyprobFiles", "PyprobShelf", "find_pyprob_files", "read_address_dictionary"]

RECORD_LIMIT_BYTES = 256 << 20
"""Most bytes of one record, uncompressed, unless a caller says otherwise."""

_SUFFIXES = (".dat", ".dir", ".bak", ".pag", ".db")
_LEFTOVERS = ("-journal", "-wal", "-shm", ".lock", ".tmp")
_SORTED = re.compile(r"pyprob_traces_sorted_(\d+)_(\d+)")
_POSITION = re.compile(r"0|[1-9][0-9]{0,17}")
_ID_KEY = "__id__"


class _Table(Protocol):
    def keys(self) -> list[str]: ...
    def get(self, key: str) -> bytes | None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PyprobFiles:
    """The data set files of one directory.

    Parameters
    ----------
    paths
        Files in the order in which pyprob concatenates them; of a shelf in several files the path without suffix.
    kind
        Whether they are the files that ``save_sorted`` wrote.
    num_passed_over
        Files of the other kind in the same directory, which are not in ``paths``.

    Examples
    --------
    >>> PyprobFiles((Path("pyprob_traces_sorted_100_0"),), "sorted", 2).num_passed_over
    2
    """

    paths: tuple[Path, ...]
    kind: Literal["sorted", "unsorted"]
    num_passed_over: int = 0


def find_pyprob_files(
    directory: str | os.PathLike[str], which: Literal["auto", "sorted", "unsorted"] = "auto"
) -> PyprobFiles:
    """Find the data set files of a directory.

    Parameters
    ----------
    directory
        Where ``save_dataset`` or ``save_sorted`` wrote.
    which
        "auto" takes the sorted files when there are any, as pyprob does.

    Raises
    ------
    StoreNotFoundError
        The directory has no such files.
    InvalidInputError
        ``which`` is none of the three.

    Examples
    --------
    >>> Path("data").mkdir()
    >>> for number in (10, 9):
    ...     _ = Path(f"data/pyprob_traces_sorted_100_{number}").write_bytes(b"")
    >>> [path.name for path in find_pyprob_files("data").paths]
    ['pyprob_traces_sorted_100_9', 'pyprob_traces_sorted_100_10']
    """
    if which not in ("auto", "sorted", "unsorted"):
        message = f'`which` must be "auto", "sorted" or "unsorted"; got {which!r}.'
        raise InvalidInputError(message, argument="which")
    root = Path(directory)
    if not root.is_dir():
        message = f"{root} is not a directory; give the one that pyprob's save_dataset or save_sorted wrote to."
        raise StoreNotFoundError(message, path=str(root))
    found = [path for path in root.glob("pyprob_traces_*") if path.is_file()]
    names = {_base_name(path) for path in found if not path.name.endswith(_LEFTOVERS)}
    numbered = [(match, name) for name in names if (match := _SORTED.fullmatch(name))]
    numbered.sort(key=lambda pair: (int(pair[0].group(2)), pair[1]))
    in_order = tuple(root / name for _, name in numbered)
    others = tuple(root / name for name in sorted(names - {name for _, name in numbered}))
    kind: Literal["sorted", "unsorted"] = (
        "sorted" if which == "sorted" or (which == "auto" and in_order) else "unsorted"
    )
    chosen, passed_over = (in_order, others) if kind == "sorted" else (others, in_order)
    if not chosen:
        message = (
            f"{root} has no {'' if which == 'auto' else which + ' '}data set files of pyprob (pyprob_traces_*)"
            f"{f', but {len(passed_over)} of the other kind' if passed_over else ''}; check the directory."
        )
        raise StoreNotFoundError(message, path=str(root))
    return PyprobFiles(chosen, kind, len(passed_over))


def _base_name(path: Path) -> str:
    return path.name.removesuffix(path.suffix) if path.suffix in _SUFFIXES else path.name


class PyprobShelf:
    """The traces of one file, read by position; a context manager.

    Parameters
    ----------
    path
        The file; for kinds that keep a shelf in several files, the path without suffix, as in `PyprobFiles`.
    limit_bytes
        Most bytes of one record, uncompressed. What is made of a record takes at most about 16 times as much memory.

    Raises
    ------
    StoreNotFoundError
        There is no such file.
    FormatError
        The file is of no kind that pyprob writes.

    Examples
    --------
    >>> import pickle, sqlite3, zlib
    >>> with sqlite3.connect("shelf") as connection:
    ...     _ = connection.execute('CREATE TABLE "unnamed" (key TEXT PRIMARY KEY, value BLOB)')
    ...     value = zlib.compress(pickle.dumps(pickle.dumps(1)))
    ...     _ = connection.executemany("INSERT INTO unnamed VALUES (?, ?)", [(b"__length", value), (b"0", value)])
    >>> connection.close()
    >>> with PyprobShelf("shelf") as shelf:
    ...     print(shelf.declared_length, [record.reason for record in shelf.read(0, 1)])
    1 ['Record 0 of shelf: the value is not a trace of pyprob; found int.']
    """

    def __init__(self, path: str | os.PathLike[str], *, limit_bytes: int = RECORD_LIMIT_BYTES) -> None:
        self.path = Path(path)
        self._limit = limit_bytes
        self._table = _open_table(self.path, limit_bytes)
        self._keys: tuple[str, ...] | None = None
        self._log_weights: NDArray[np.float64] | None = None
        self._log_weights_known = False
        try:
            self.declared_length = self._declared_length()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._table.close()

    def _declared_length(self) -> int | None:
        try:
            value = self._value("__length")
        except FormatError:
            return None
        if value is None:
            weights = self.log_weights
            return None if weights is None else len(weights)
        # a record takes at least one byte, so a larger number is not the number of records
        return value if type(value) is int and 0 <= value <= max(_num_bytes(self.path), 1) else None

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the records that are in the file, in order of position."""
        if self._keys is None:
            found = {key for key in self._table.keys() if _POSITION.fullmatch(key)}  # noqa: SIM118  (not a mapping)
            self._keys = tuple(sorted(found, key=int))
        return self._keys

    @property
    def num_records(self) -> int:
        """Number of positions to read: the declared length, or, when it is unreadable, what the keys say."""
        if self.declared_length is not None:
            return self.declared_length
        last = int(self.keys[-1]) + 1 if self.keys else 0
        return last if last <= _num_bytes(self.path) else len(self.keys)

    @property
    def log_weights(self) -> NDArray[np.float64] | None:
        """Log weights of an empirical distribution, shape (num_records,); None for a data set."""
        if not self._log_weights_known:
            self._log_weights_known = True
            try:
                value = self._value("log_weights")
            except FormatError:
                value = None
            self._log_weights = _weights(value)
        return self._log_weights

    def read(self, first: int, count: int) -> Iterator[PyprobTrace | PyprobRecordProblem]:
        """Yield the records at positions ``first`` to ``first + count - 1``, one at a time.

        Parameters
        ----------
        first
            First position, from 0.
        count
            Number of positions; those behind the last record are left out.

        Raises
        ------
        InvalidInputError
            A number is negative.
        """
        if first < 0 or count < 0:
            message = f"`first` and `count` must not be negative; got {first} and {count}."
            raise InvalidInputError(message, argument="first")
        for position in range(first, min(first + count, self.num_records)):
            yield self.read_one(position)

    def read_one(self, position: int) -> PyprobTrace | PyprobRecordProblem:
        """Return the record at one position.

        Parameters
        ----------
        position
            Position, from 0.
        """
        key = str(position)
        try:
            value = self._value(key)
            if value is None:
                return PyprobRecordProblem(key, f"Record {key} of {self.path} is missing from the file.")
            return trace_record(value)
        except FormatError as error:
            forbidden = error.fields.get("forbidden")
            reason = f"Record {key} of {self.path}: {error}"
            return PyprobRecordProblem(key, reason, None if forbidden is None else str(forbidden))

    def _value(self, key: str) -> object:
        data = self._table.get(key)
        return None if data is None else load_value(data, limit_bytes=self._limit)


def read_address_dictionary(
    path: str | os.PathLike[str], *, limit_bytes: int = RECORD_LIMIT_BYTES
) -> Mapping[str, str]:
    """Read an address dictionary: identifier such as "__A12" to base address.

    Parameters
    ----------
    path
        The file that was given to pyprob as ``address_dict_file_name``.
    limit_bytes
        Most bytes of one entry.

    Raises
    ------
    StoreNotFoundError
        There is no such file.
    FormatError
        The file is of no kind that pyprob writes, or has a damaged entry.

    Examples
    --------
    >>> read_address_dictionary("nothing")
    Traceback (most recent call last):
        ...
    tracestore.errors.StoreNotFoundError: nothing does not exist.
    """
    path = Path(path)
    table = _open_table(path, limit_bytes)
    found = {}
    try:
        for key in table.keys():  # noqa: SIM118  (not a mapping)
            if not key.startswith(_ID_KEY):
                continue
            try:
                data = table.get(key)
                address = None if data is None else load_value(data, limit_bytes=limit_bytes)
            except FormatError as error:
                message = f"The entry {key!r} of the address dictionary {path} cannot be read: {error}"
                raise FormatError(message, path=str(path), **error.fields) from error
            if type(address) is not str:
                message = f"The entry {key!r} of the address dictionary {path} is not a string; the file is damaged."
                raise FormatError(message, path=str(path))
            found[key.removeprefix(_ID_KEY)] = address
    finally:
        table.close()
    return found


def _open_table(path: Path, limit_bytes: int) -> _Table:
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(16)
        if is_sqlite(head):
            return SqliteTable(path, limit_bytes=limit_bytes)
        if is_gdbm(head):
            return GdbmTable(path, limit_bytes=limit_bytes)
        message = f"{path} is neither an SQLite nor a GNU dbm file, so it is no shelf of pyprob; found {head[:8]!r}."
        raise FormatError(message, path=str(path))
    if Path(f"{path}.dat").is_file() and Path(f"{path}.dir").is_file():
        return DumbTable(path, limit_bytes=limit_bytes)
    if Path(f"{path}.db").is_file() or Path(f"{path}.pag").is_file():
        return NdbmTable(path, limit_bytes=limit_bytes)
    message = f"{path} does not exist."
    raise StoreNotFoundError(message, path=str(path))


def _num_bytes(path: Path) -> int:
    files = (path, *(Path(f"{path}{suffix}") for suffix in _SUFFIXES))
    return sum(file.stat().st_size for file in files if file.is_file())


def _weights(value: object) -> NDArray[np.float64] | None:
    if type(value) is StoredTensor:
        return value.doubles().reshape(-1)
    if type(value) is list and all(type(weight) is StoredTensor for weight in value):
        return np.array([weight.doubles().sum() for weight in value], dtype=np.float64)
    return None
