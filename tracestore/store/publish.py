"""Publication: files that appear whole or not at all, and never over another (format 2.5, 2.6)."""

import errno
import os
import secrets
from pathlib import Path

from tracestore.errors import InsufficientSpaceError, StoreError
from tracestore.formats.document import flush_file

__all__ = ["create_file", "raise_if_full", "rename_directory", "replace_file"]

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES}
_FULL = {errno.ENOSPC, errno.EDQUOT}


def create_file(path: Path, data: bytes) -> bool:
    """Publish a file unless its name is taken.

    Parameters
    ----------
    path
        The file, in an existing directory.
    data
        Its bytes.

    Returns
    -------
    bool
        Whether this call made the file; False when somebody else was first.

    Raises
    ------
    StoreError
        When the file system has no hard links.
    InsufficientSpaceError
        When it is full.

    Examples
    --------
    >>> create_file(Path("published"), b"first"), create_file(Path("published"), b"second")
    (True, False)
    """
    temporary = _write_temporary(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _NO_LINKS:
            message = (
                f"The file system of {path.parent} does not let tracestore make hard links ({error.strerror}), which "
                "it needs to publish files safely. Use a directory on a POSIX file system."
            )
            raise StoreError(message, path=str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    flush_file(path.parent)
    return True


def replace_file(path: Path, data: bytes) -> None:
    """Write a file over another, in one step."""
    _write_temporary(path, data).replace(path)


def rename_directory(source: Path, target: Path) -> bool:
    """Move a finished directory to its final name unless that is taken; whether it was moved."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            return False
        raise
    flush_file(target.parent)
    return True


def raise_if_full(error: OSError, path: Path) -> None:
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
