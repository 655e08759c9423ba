"""The address dictionary of a store: dense numbers that never change, in immutable pieces (format 2.17)."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import cast, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tracestore.errors import ChecksumError, FormatError
from tracestore.formats.document import digest
from tracestore.store.manifest import AddressPiece
from tracestore.store.publish import create_file
from tracestore.traces.address import format_address

__all__ = ["AddressBook"]

DICTIONARY = "dict"

Addresses = tuple[NDArray[np.uint64], list[str], NDArray[np.int32]]
"""Ids, base addresses and instances."""


class AddressBook(Sequence[str]):
    """Addresses in order of their dense numbers; pieces are read when first needed.

    Parameters
    ----------
    root
        The store.
    pieces
        Pieces that the snapshot lists.
    """

    def __init__(self, root: Path, pieces: Sequence[AddressPiece]) -> None:
        self._root = root
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

    @property
    def ids(self) -> NDArray[np.uint64]:
        """Address ids by dense number, shape ``(num_addresses,)``."""
        return self._columns[0]

    def extend(self, segments: Iterable[Addresses]) -> AddressPiece | None:
        """Give numbers to the addresses that are new, and publish them as a piece.

        Parameters
        ----------
        segments
            Addresses of further segments, in the order of the manifest.

        Returns
        -------
        AddressPiece or None
            None when nothing is new.

        Raises
        ------
        FormatError
            When two addresses have one id; shows both.
        """
        known = {identity: place for place, identity in enumerate(self.ids.tolist())}
        ids: list[int] = []
        bases: list[str] = []
        instances: list[int] = []
        for more_ids, more_bases, more_instances in segments:
            for identity, base, instance in zip(more_ids.tolist(), more_bases, more_instances.tolist(), strict=True):
                place = known.setdefault(identity, len(known))
                if place == len(self) + len(ids):
                    ids.append(identity)
                    bases.append(base)
                    instances.append(instance)
                    continue
                earlier = self._address(place) if place < len(self) else _at(bases, instances, place - len(self))
                if earlier != format_address(base, instance):
                    message = (
                        f"The addresses {earlier!r} and {format_address(base, instance)!r} have the same id "
                        f"{identity:016x}; rename one of the two in the simulator."
                    )
                    raise FormatError(message, first=earlier, second=format_address(base, instance))
        if not ids:
            return None
        data = _encode(ids, bases, instances)
        piece = AddressPiece(digest(data), len(ids))
        (self._root / DICTIONARY).mkdir(exist_ok=True)
        create_file(self._path(piece), data)
        return piece

    @cached_property
    def _columns(self) -> Addresses:
        tables = [self._read(piece) for piece in self.pieces]
        if not tables:
            return np.empty(0, np.uint64), [], np.empty(0, np.int32)
        ids = np.concatenate([table["id"].to_numpy() for table in tables])
        instances = np.concatenate([table["instance"].to_numpy() for table in tables])
        return ids, [base for table in tables for base in table["base"].to_pylist()], instances

    def _address(self, place: int) -> str:
        _, bases, instances = self._columns
        return _at(bases, cast("Sequence[int]", instances), place)

    def _path(self, piece: AddressPiece) -> Path:
        return self._root / DICTIONARY / f"{piece.hash}.arrow"

    def _read(self, piece: AddressPiece) -> pa.Table:
        name = f"{DICTIONARY}/{piece.hash}.arrow"
        try:
            data = self._path(piece).read_bytes()
        except FileNotFoundError as error:
            message = f"{name} is missing; restore the file from a copy."
            raise FormatError(message, file=name) from error
        found = digest(data)
        if found != piece.hash:
            message = f"{name} was altered: its checksum is {found}; restore the file from a copy."
            raise ChecksumError(message, file=name, block=0, expected=piece.hash, found=found)
        table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
        if len(table) != piece.num:
            message = f"{name} has {len(table)} addresses, the manifest says {piece.num}."
            raise FormatError(message, file=name)
        return table


def _at(bases: Sequence[str], instances: Sequence[int], place: int) -> str:
    return format_address(bases[place], int(instances[place]))


def _encode(ids: list[int], bases: list[str], instances: list[int]) -> bytes:
    arrays = {
        "id": pa.array(ids, pa.uint64()),
        "base": pa.array(bases, pa.string()),
        "instance": pa.array(instances, pa.int32()),
    }
    schema = pa.schema([pa.field(name, array.type, nullable=False) for name, array in arrays.items()])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(list(arrays.values()), schema=schema))
    return cast("bytes", sink.getvalue().to_pybytes())
