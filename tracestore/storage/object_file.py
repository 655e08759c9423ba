"""One object as a flat array that is filled in parts. Knows nothing of other objects, and never writes."""

import mmap
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import StoreError
from tracestore.storage.object_clients import Clients
from tracestore.storage.object_errors import explained

__all__ = ["ObjectFile"]

_NUM_PARTS = 8
_PART_BYTES = 8 << 20
"""Large files are loaded in parts: each request must end within the time limit of the client."""
_MAP_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)


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
        for first in range(start, stop, _NUM_PARTS * _PART_BYTES):
            last = min(stop, first + _NUM_PARTS * _PART_BYTES)
            starts = range(first, last, _PART_BYTES)
            stops = [min(last, begin + _PART_BYTES) for begin in starts]
            for begin, part in zip(starts, self._fetch(starts, stops, coalesce=0), strict=True):
                self._room[begin : begin + len(part)] = part

    def ranges(self, starts: Sequence[int], stops: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Fetch several ranges, in the order asked for, near ones with one request.

        Raises
        ------
        StoreError
            When the store does not give all bytes of a range.
        """
        return self._fetch(starts, stops, coalesce=1 << 20)

    def _fetch(self, starts: Sequence[int], stops: Sequence[int], *, coalesce: int) -> list[NDArray[np.uint8]]:
        pairs = list(zip(starts, stops, strict=True))
        asked = [(int(start), int(stop)) for start, stop in pairs if stop > start]
        for start, stop in asked:
            if start < 0 or stop > self._size:
                message = (
                    f"{self._url} has {self._size} bytes, and bytes {start} to {stop} were asked for. "
                    "The object, or what describes it, is damaged; run `tracestore verify`."
                )
                raise StoreError(message, url=self._url)
        answers: Iterator[NDArray[np.uint8]] = iter(())
        if asked:
            begins, ends = zip(*asked, strict=True)
            with explained(self._url):
                got = self._clients.repeating.get_ranges(self._key, starts=begins, ends=ends, coalesce=coalesce)
            for (start, stop), answer in zip(asked, got, strict=True):
                if len(answer) != stop - start:
                    message = (
                        f"The object store gave {len(answer)} of the {stop - start} bytes from {start} of {self._url}. "
                        "Repeat the call; if it stays so, run `tracestore verify`."
                    )
                    raise StoreError(message, url=self._url)
            answers = (np.frombuffer(memoryview(answer), np.uint8) for answer in got)
        return [next(answers) if stop > start else np.empty(0, np.uint8) for start, stop in pairs]

    @property
    def _url(self) -> str:
        return f"{self._clients.name}/{self._key}"
