"""The trace-type dictionary of a store: dense numbers that never change, in immutable pieces (format 2.19).

Types that a segment has in a single trace only are left to the segment: their number grows with the traces.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tracestore.errors import FormatError
from tracestore.storage import Storage
from tracestore.store.addresses import AddressBook, IdTable
from tracestore.store.dictionary_file import publish_piece, read_pieces
from tracestore.store.manifest import DictionaryPiece

__all__ = ["TraceTypeBook"]

TypeAddresses = tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint64]]
"""Ids of trace types, where the addresses of each begin (and their number), and the ids of the addresses, flat."""

_SHOWN = 5


class TraceTypeBook:
    """Trace types in order of their dense numbers; pieces are read when first needed.

    Parameters
    ----------
    storage
        The store.
    pieces
        Pieces that the snapshot lists.
    """

    def __init__(self, storage: Storage, pieces: Sequence[DictionaryPiece]) -> None:
        self._storage = storage
        self.pieces = tuple(pieces)

    def __len__(self) -> int:
        return sum(piece.num for piece in self.pieces)

    def __repr__(self) -> str:
        return f"TraceTypeBook({len(self)} trace types)"

    @cached_property
    def ids(self) -> NDArray[np.uint64]:
        """Ids of trace types by dense number, shape ``(num_types,)``."""
        return np.concatenate([np.empty(0, np.uint64), *(table["id"].to_numpy() for table in self._tables)])

    def numbers(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Find the dense number of each trace type; -1 for those that are not in the dictionary."""
        return IdTable(self.ids).numbers(ids)

    def addresses(self, number: int) -> NDArray[np.int32]:
        """Dense numbers of the controlled addresses of a trace type, in order, shape ``(num_controlled,)``."""
        first, flat = self._sequences
        return flat[first[number] : first[number + 1]]

    def extend(self, segments: Iterable[TypeAddresses], addresses: AddressBook) -> "TraceTypeBook":
        """Give numbers to the trace types that are new, and publish them as a piece.

        Parameters
        ----------
        segments
            Trace types of further segments, in the order of the manifest.
        addresses
            The address dictionary, which has all their addresses.

        Returns
        -------
        TraceTypeBook
            This one when nothing is new.

        Raises
        ------
        FormatError
            When two trace types have one id; shows both.
        """
        known = IdTable(self.ids)
        first, flat = self._sequences
        for ids, starts, address_ids in segments:
            numbers = addresses.numbers(address_ids).astype(np.int32)
            distinct, place = np.unique(ids, return_index=True)
            new = np.sort(place[known.numbers(distinct) < 0])
            sizes = np.diff(starts)[new]
            within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            flat = np.concatenate([flat, numbers[np.repeat(starts[new], sizes) + within]])
            first = np.concatenate([first, first[-1] + np.cumsum(sizes)])
            known = IdTable(np.concatenate([known.ids, ids[new]]))
            _require_same(known.numbers(ids), first, flat, ids, starts, numbers, addresses)
        if len(known.ids) == len(self):
            return self
        start = first[len(self)]
        columns = {
            "id": pa.array(known.ids[len(self) :]),
            "addresses": pa.ListArray.from_arrays(
                pa.array((first[len(self) :] - start).astype(np.int32)), pa.array(flat[start:])
            ),
        }
        return TraceTypeBook(self._storage, (*self.pieces, publish_piece(self._storage, columns)))

    @cached_property
    def _tables(self) -> list[pa.Table]:
        return read_pieces(self._storage, self.pieces)

    @cached_property
    def _sequences(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Where the addresses of each type begin, and their numbers, flat."""
        columns = [table["addresses"].combine_chunks() for table in self._tables]
        sizes = [np.diff(column.offsets.to_numpy()) for column in columns]
        first = np.cumsum(np.concatenate([np.zeros(1, np.int64), *sizes]))
        return first, np.concatenate([np.empty(0, np.int32), *(column.flatten().to_numpy() for column in columns)])


def _require_same(
    numbers: NDArray[np.int64],
    first: NDArray[np.int64],
    flat: NDArray[np.int32],
    ids: NDArray[np.uint64],
    starts: NDArray[np.int64],
    addresses: NDArray[np.int32],
    book: AddressBook,
) -> None:
    """Compare trace types with those that have their numbers: one id must not stand for two."""
    sizes = np.diff(starts)
    differs = np.diff(first)[numbers] != sizes
    alike = np.flatnonzero(~differs)
    within = np.arange(sizes[alike].sum()) - np.repeat(np.cumsum(sizes[alike]) - sizes[alike], sizes[alike])
    expected = flat[np.repeat(first[numbers[alike]], sizes[alike]) + within]
    found = addresses[np.repeat(starts[:-1][alike], sizes[alike]) + within]
    differs[np.repeat(alike, sizes[alike])[expected != found]] = True
    if differs.any():
        place = int(np.flatnonzero(differs)[0])
        number = int(numbers[place])
        one = _shown(flat[first[number] : first[number + 1]], book)
        other = _shown(addresses[starts[place] : starts[place + 1]], book)
        message = (
            f"Two trace types have the same id {int(ids[place]):016x}: {one}, and {other}; "
            "rename an address of one of the two in the simulator."
        )
        raise FormatError(message, first=one, second=other)


def _shown(numbers: NDArray[np.int32], book: AddressBook) -> str:
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return ", ".join(book[int(number)] for number in numbers[:_SHOWN]) + more
