"""The address dictionary of a store: dense numbers that never change, in immutable pieces (format 2.17)."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tracestore.errors import FormatError
from tracestore.storage import Storage
from tracestore.store.dictionary_file import publish_piece, read_pieces
from tracestore.store.manifest import DictionaryPiece
from tracestore.traces.address import format_address

__all__ = ["AddressBook", "Addresses", "IdTable"]

Addresses = tuple[NDArray[np.uint64], pa.Array, NDArray[np.int32]]
"""Ids, base addresses and instances."""

_COMPARED = 2**14
"""Addresses compared at once: bounds the memory when addresses are long."""


class IdTable:
    """Numbers of 64-bit ids.

    Parameters
    ----------
    ids
        Distinct ids; number ``i`` belongs to ``ids[i]``.

    Examples
    --------
    >>> IdTable(np.array([7, 3], np.uint64)).numbers(np.array([3, 5], np.uint64)).tolist()
    [1, -1]
    """

    def __init__(self, ids: NDArray[np.uint64]) -> None:
        self.ids = ids
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]

    def numbers(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Find the number of each id; -1 for those that are not known."""
        if not len(self.ids):
            return np.full(len(ids), -1)
        place = np.minimum(np.searchsorted(self._sorted, ids), len(self.ids) - 1)
        return np.where(self._sorted[place] == ids, self._order[place], -1)


class AddressBook(Sequence[str]):
    """Addresses in order of their dense numbers; pieces are read when first needed.

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

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self._address(place) for place in places]
        return self._address(places)

    def __iter__(self) -> Iterator[str]:
        return map(self._address, range(len(self)))

    def __repr__(self) -> str:
        return f"AddressBook({len(self)} addresses)"

    @cached_property
    def ids(self) -> NDArray[np.uint64]:
        """Address ids by dense number, shape ``(num_addresses,)``."""
        return np.concatenate([np.empty(0, np.uint64), *(table["id"].to_numpy() for table in self._tables)])

    def numbers(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Find the dense number of each address id; -1 for those that the store does not have."""
        return self._table.numbers(ids)

    def extend(self, segments: Iterable[Addresses]) -> "AddressBook":
        """Give numbers to the addresses that are new, and publish them as a piece.

        Parameters
        ----------
        segments
            Addresses of further segments, in the order of the manifest.

        Returns
        -------
        AddressBook
            This one when nothing is new.

        Raises
        ------
        FormatError
            When two addresses have one id; shows both.
        """
        known = self._table
        bases, instances = [self._bases], [self._instances]
        for ids, more_bases, more_instances in segments:
            distinct, first = np.unique(ids, return_index=True)
            first = np.sort(first[known.numbers(distinct) < 0])
            if len(first):
                known = IdTable(np.concatenate([known.ids, ids[first]]))
                bases.append(pc.take(more_bases, pa.array(first)))
                instances.append(more_instances[first])
            canonical = pa.chunked_array([chunk for part in bases for chunk in _chunks(part)], pa.string())
            _require_same(known.numbers(ids), canonical, np.concatenate(instances), ids, more_bases, more_instances)
        if len(known.ids) == len(self):
            return self
        columns = {
            "id": pa.array(known.ids[len(self) :]),
            "base": pa.concat_arrays([chunk for part in bases[1:] for chunk in _chunks(part)]),
            "instance": pa.array(np.concatenate(instances[1:])),
        }
        return AddressBook(self._storage, (*self.pieces, publish_piece(self._storage, columns)))

    @cached_property
    def _table(self) -> IdTable:
        return IdTable(self.ids)

    @cached_property
    def _tables(self) -> list[pa.Table]:
        return read_pieces(self._storage, self.pieces)

    @cached_property
    def _bases(self) -> pa.ChunkedArray:
        chunks = [chunk for table in self._tables for chunk in table["base"].chunks]
        return pa.chunked_array(chunks, pa.string())

    @cached_property
    def _instances(self) -> NDArray[np.int32]:
        return np.concatenate([np.empty(0, np.int32), *(table["instance"].to_numpy() for table in self._tables)])

    def _address(self, place: int) -> str:
        return format_address(self._bases[place].as_py(), int(self._instances[place]))


def _chunks(array: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return array.chunks if isinstance(array, pa.ChunkedArray) else [array]


def _require_same(
    numbers: NDArray[np.int64],
    known_bases: pa.ChunkedArray,
    known_instances: NDArray[np.int32],
    ids: NDArray[np.uint64],
    bases: pa.Array,
    instances: NDArray[np.int32],
) -> None:
    """Compare addresses with those that have their numbers: one id must not stand for two."""
    for low in range(0, len(ids), _COMPARED):
        part = slice(low, low + _COMPARED)
        expected = known_bases.take(pa.array(numbers[part]))
        same = pc.equal(expected, bases.slice(low, _COMPARED)).to_numpy() & (
            known_instances[numbers[part]] == instances[part]
        )
        if not same.all():
            place = int(np.flatnonzero(~same)[0])
            first = format_address(expected[place].as_py(), int(known_instances[numbers[low + place]]))
            second = format_address(bases[low + place].as_py(), int(instances[low + place]))
            message = (
                f"The addresses {first!r} and {second!r} have the same id {int(ids[low + place]):016x}; "
                "rename one of the two in the simulator."
            )
            raise FormatError(message, first=first, second=second)
