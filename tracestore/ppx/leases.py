"""Leases of endpoints: on one machine one run at a time talks to a program, whichever process the run is in.

A PPX program answers whoever asks, so two controllers would end up in one another's runs. A lease is a lock on a file
that is named after the endpoint; the system lets it go when its process ends.
"""

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

from tracestore.errors import SimulatorError

__all__ = ["Lease", "connectable"]


class Lease:
    """The right to talk to an endpoint; is not held at first.

    Parameters
    ----------
    endpoint
        Where the program listens.

    Raises
    ------
    SimulatorError
        When the file cannot be opened.

    Examples
    --------
    >>> one, other = Lease("ipc://@example"), Lease("ipc://@example")
    >>> one.take(), other.take()
    (True, False)
    >>> one.release()
    >>> other.take()
    True
    """

    def __init__(self, endpoint: str) -> None:
        digest = hashlib.blake2b(connectable(endpoint).encode(), digest_size=12).hexdigest()
        folder = Path(tempfile.gettempdir()) / f"tracestore-{os.getuid()}"
        path = folder / f"ppx-{digest}.lock"
        self.is_held = False
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            self._descriptor = _open(path)
        except OSError as error:
            message = f"The lock file {path} of the endpoint {endpoint!r} cannot be opened: {error}; remove it."
            raise SimulatorError(message, path=str(path)) from error

    def __del__(self) -> None:
        self.close()

    def take(self) -> bool:
        """Take the lease unless somebody has it; tells whether it is held now."""
        if not self.is_held:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self.is_held = True
        return True

    def release(self) -> None:
        """Let others take it."""
        if self.is_held:
            self.is_held = False
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give it up for ever."""
        descriptor, self._descriptor = getattr(self, "_descriptor", -1), -1
        if descriptor >= 0:
            self.is_held = False
            os.close(descriptor)


def connectable(endpoint: str) -> str:
    """Return an endpoint as it is connected to, where it is given as it is bound.

    Examples
    --------
    >>> connectable("tcp://*:5555")
    'tcp://127.0.0.1:5555'
    """
    for everywhere in ("tcp://*:", "tcp://0.0.0.0:", "tcp://localhost:"):
        if endpoint.startswith(everywhere):
            return "tcp://127.0.0.1:" + endpoint.removeprefix(everywhere)
    return endpoint


def _open(path: Path) -> int:
    # reading suffices for a lock; a file of another user must not be opened with O_CREAT in a folder for everybody
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
