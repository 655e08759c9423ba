"""One object as a flat array that is filled in parts. Knows nothing of other objects, and never writes."""

import mmap
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import StoreError
from tracestore.storage.object_clients import Clients
from tracestore.storage.object_errors import explained

if TYPE_CHECKING:
    from obstore import Bytes

__all__ = ["ObjectFile"]

_NUM_REQUESTS = 8
_PART_BYTES = 8 << 20
"""Large files are loaded in parts: each request must end within the time limit of the client."""
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
_MAP_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
"""A file may be larger than the memory, of which only what is loaded is taken."""


class ObjectFile:
    """One object, read in parts.

    Parameters
    ----------
    clients
        The store.
    key
        The name of the object within it.
    """

    def __init__(self, clients: Clients, key: str) -> None:
        self._clients = clients
        self._key = key
        with explained(self._url):
            self._size = clients.repeating.head(key)["size"]
        # pages that nobody touches take no memory; there is no empty map
        self._room = np.frombuffer(mmap.mmap(-1, max(1, self._size), flags=_MAP_FLAGS), np.uint8)[: self._size]
        self._data = self._room.view()
        self._data.flags.writeable = False

    @property
    def size(self) -> int:
        """Bytes in the object."""
        return self._size

    @property
    def data(self) -> NDArray[np.uint8]:
        """Array of shape (size,), for reading; what was not loaded is not the object's."""
        return self._data

    def load(self, start: int, stop: int) -> None:
        """Fetch bytes ``start`` to ``stop`` into `data`.

        Raises
        ------
        StoreError
            When the store does not give all of them.
        """
        starts = range(start, stop, _PART_BYTES)
        if len(starts) <= 1:
            self._load_part(start, stop)
            return
        with ThreadPoolExecutor(min(_NUM_REQUESTS, len(starts))) as pool:
            for _ in pool.map(lambda begin: self._load_part(begin, min(stop, begin + _PART_BYTES)), starts):
                pass

    def expect(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        """Do nothing: only what is loaded is fetched."""

    def ranges(self, starts: Sequence[int], stops: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Fetch several ranges, in the order asked for, near ones with one request.

        Raises
        ------
        StoreError
            When the store does not give all bytes of a range.
        """
        pairs = list(zip(starts, stops, strict=True))
        asked = [(int(start), int(stop)) for start, stop in pairs if stop > start]
        answers: Iterator[NDArray[np.uint8]] = iter(())
        if asked:
            begins, ends = zip(*asked, strict=True)
            self._check_bounds(min(begins), max(ends))
            with self._explained():
                got = self._clients.repeating.get_ranges(self._key, starts=begins, ends=ends)
            answers = (self._checked(answer, *pair) for answer, pair in zip(got, asked, strict=True))
        return [next(answers) if stop > start else np.empty(0, np.uint8) for start, stop in pairs]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with explained(self._url):
                yield
        except FileNotFoundError as error:
            message = (
                f"{self._url} was removed while a reader had it open, by `gc` perhaps. "
                "Open the store again, at its newest version."
            )
            raise StoreError(message, url=self._url) from error

    def _load_part(self, start: int, stop: int) -> None:
        if stop <= start:
            return
        self._check_bounds(start, stop)
        with self._explained():
            answer = self._clients.repeating.get_range(self._key, start=start, end=stop)
        self._room[start:stop] = self._checked(answer, start, stop)

    def _check_bounds(self, start: int, stop: int) -> None:
        if start < 0 or stop > self._size:
            message = (
                f"{self._url} has {self._size} bytes, and bytes {start} to {stop} were asked for. "
                "The object, or what describes it, is damaged; run `tracestore verify`."
            )
            raise StoreError(message, url=self._url)

    def _checked(self, answer: "Bytes", start: int, stop: int) -> NDArray[np.uint8]:
        if len(answer) != stop - start:
            message = (
                f"The object store gave {len(answer)} of the {stop - start} bytes from {start} of {self._url}. "
                "Repeat the call; if it stays so, run `tracestore verify`."
            )
            raise StoreError(message, url=self._url)
        return np.frombuffer(memoryview(answer), np.uint8)

    @property
    def _url(self) -> str:
        return f"{self._clients.name}/{self._key}"
