"""Files on a POSIX file system: memory-mapped, published by hard link, flushed to disk (format 2.5, 2.6, 2.8)."""

import ctypes
import errno
import mmap
import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tracestore.errors import InsufficientSpaceError, StoreError

__all__ = ["LocalFile", "LocalStorage", "flush_file", "raise_if_full"]

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_STAGING = "staging"
_ADVISED_BYTES = 128 << 10
"""What Linux is sure to fetch at one advice."""


def _find_madvise() -> Callable[[int, int, int], int] | None:
    """Find the function of the C library, for maps that are not Python's; None where there is none."""
    function = getattr(ctypes.CDLL(None), "madvise", None) if hasattr(mmap, "MADV_WILLNEED") else None
    if function is not None:
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


_madvise = _find_madvise()


class LocalFile:
    """A mapped file, without a handle that stays open.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as source:
            # Arrow asks for all that it returns to be read ahead
            first, size = source.read_buffer(1), source.size()
        whole = pa.foreign_buffer(first.address, size, first) if size else first
        self.data: NDArray[np.uint8] = np.frombuffer(whole, np.uint8)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return len(self.data)

    def load(self, start: int, stop: int) -> None:
        """Do nothing: the operating system loads what is touched."""

    def expect(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        """Have the operating system fetch ranges, in ascending order, without waiting for them.

        When they are read, they are found, and so the system does not guess what else is wanted. It is only told: a
        range that it does not fetch now is fetched, with its surroundings, when it is read.
        """
        if _madvise is None or not len(starts):
            return
        starts = starts // mmap.PAGESIZE * mmap.PAGESIZE
        # ranges that meet in a page are one
        first = np.flatnonzero(np.append(True, starts[1:] > stops[:-1]))
        last = np.append(first[1:], len(starts)) - 1
        address = self.data.ctypes.data
        for start, stop in zip(starts[first].tolist(), stops[last].tolist(), strict=True):
            for low in range(start, stop, _ADVISED_BYTES):
                _madvise(address + low, min(stop - low, _ADVISED_BYTES), mmap.MADV_WILLNEED)

    def ranges(self, starts: Sequence[int], stops: Sequence[int]) -> list[NDArray[np.uint8]]:
        """View several ranges, in the order asked for."""
        data = self.data
        return [data[start:stop] for start, stop in zip(starts, stops, strict=True)]


@dataclass(frozen=True)
class LocalStorage:
    """A directory.

    Examples
    --------
    >>> storage = LocalStorage(Path("somewhere"))
    >>> storage.create("notes/first", b"one"), storage.create("notes/first", b"two"), storage.read("notes/first")
    (True, False, b'one')
    """

    root: Path

    def __reduce__(self) -> tuple[type["LocalStorage"], tuple[Path]]:
        # whoever unpickles it may have another working directory
        return LocalStorage, (self.root.absolute(),)

    @property
    def url(self) -> str:
        """The root, for people."""
        return str(self.root)

    @property
    def is_local(self) -> bool:
        """Always True."""
        return True

    def below(self, folder: str) -> "LocalStorage":
        """Storage whose root is a folder of this one."""
        return LocalStorage(self.root / folder)

    def read(self, name: str) -> bytes:
        """Read a file; raises FileNotFoundError when there is none."""
        return (self.root / name).read_bytes()

    def open(self, name: str) -> LocalFile:
        """Map a file; raises FileNotFoundError when there is none."""
        return LocalFile(self.root / name)

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return (self.root / name).is_file()

    def files(self, folder: str) -> list[str]:
        """Names of the files directly in a folder, sorted; temporary ones are left out."""
        return [entry.name for entry in self._entries(folder) if entry.is_file() and not entry.name.startswith(".")]

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in a folder, sorted."""
        return [entry.name for entry in self._entries(folder) if entry.is_dir()]

    def seconds_since_change(self, name: str) -> float:
        """Time since a file was last written, or the newest file in a folder."""
        path = self.root / name
        newest = max((one.stat().st_mtime for one in path.rglob("*") if one.is_file()), default=path.stat().st_mtime)
        return time.time() - newest

    def create(self, name: str, data: bytes) -> bool:
        """Publish a file unless its name is taken; whether this call made it.

        Raises
        ------
        StoreError
            When the file system has no hard links.
        InsufficientSpaceError
            When it is full.
        """
        path = self.root / name
        _make_folder(path.parent)
        temporary = _write_temporary(path, data)
        try:
            is_made = _link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if is_made:
            flush_file(path.parent)
        return is_made

    def replace(self, name: str, data: bytes) -> None:
        """Write a file, over another one if there is one, in one step."""
        path = self.root / name
        _make_folder(path.parent)
        _write_temporary(path, data).replace(path)

    def remove(self, folder: str) -> int:
        """Remove a folder and all that is in it; the bytes it had."""
        path = self.root / folder
        nbytes = sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
        if folder.split("/")[0] != _STAGING:
            # out of sight in one step, so that nobody finds a half
            hidden = self.staging(f"removed-{secrets.token_hex(8)}")
            hidden.parent.mkdir(parents=True, exist_ok=True)
            path = path.rename(hidden)
        shutil.rmtree(path)
        return nbytes

    def staging(self, name: str) -> Path:
        """Directory in which a folder of that name is built before it is placed."""
        return self.root / _STAGING / name

    def place(self, directory: Path, folder: str) -> bool:
        """Move a finished directory to its final name in one step; False when that is taken."""
        target = self.root / folder
        _make_folder(target.parent)
        try:
            directory.rename(target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                return False
            raise
        flush_file(target.parent)
        return True

    def free_bytes(self) -> int | None:
        """Room that is left on the file system."""
        existing = next(path for path in (self.root.absolute(), *self.root.absolute().parents) if path.exists())
        return shutil.disk_usage(existing).free

    def require_publication(self) -> None:
        """Make the root, and try whether its file system has hard links.

        Raises
        ------
        StoreError
            When it has none.
        InsufficientSpaceError
            When it is full.
        """
        _make_folder(self.root)
        probe = self.root / f".probe-{secrets.token_hex(8)}"
        temporary = _write_temporary(probe, b"")
        try:
            _link(temporary, probe)
        finally:
            temporary.unlink(missing_ok=True)
            probe.unlink(missing_ok=True)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.root / folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            return []


def flush_file(path: Path) -> None:
    """Force a file or directory to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def raise_if_full(error: OSError, path: Path | str) -> None:
    """Turn an error about a full file system into one that says so.

    Raises
    ------
    InsufficientSpaceError
        When the file system or a quota is full.
    """
    if error.errno in _FULL:
        message = (
            f"No space is left on the file system of {path} ({error.strerror}); what was sealed before is safe. "
            "Make room and repeat the call to continue."
        )
        raise InsufficientSpaceError(message, path=str(path)) from error


def _make_folder(path: Path) -> None:
    """Make a folder and those above it; their names must be on disk before that of a file in them counts."""
    for folder in reversed([one for one in (path, *path.parents) if not one.is_dir()]):
        folder.mkdir(exist_ok=True)
        flush_file(folder.parent)


def _link(temporary: Path, path: Path) -> bool:
    """Give a file its final name unless that is taken; whether it was given."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise_if_full(error, path.parent)
        if error.errno in _NO_LINKS:
            message = (
                f"The file system of {path.parent} does not let tracestore make hard links ({error.strerror}), "
                "which it needs to publish files safely. Use a directory on a POSIX file system."
            )
            raise StoreError(message, path=str(path)) from error
        raise
    return True


def _write_temporary(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise_if_full(error, path.parent)
        raise
    return temporary
