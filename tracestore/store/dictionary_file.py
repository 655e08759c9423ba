"""Pieces of the dictionaries of a store: immutable Arrow files named by their content (format 2.17)."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from tracestore.errors import ChecksumError, FormatError
from tracestore.formats.document import digest
from tracestore.storage import Storage
from tracestore.store.manifest import DictionaryPiece

__all__ = ["DICTIONARY", "piece_file", "publish_piece", "read_pieces"]

DICTIONARY = "dict"


def publish_piece(storage: Storage, columns: Mapping[str, pa.Array]) -> DictionaryPiece:
    """Write columns as a piece, unless one of this content is there."""
    schema = pa.schema([pa.field(name, array.type, nullable=False) for name, array in columns.items()])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    data = sink.getvalue().to_pybytes()
    piece = DictionaryPiece(digest(data), len(next(iter(columns.values()))))
    storage.create(piece_file(piece), data)
    return piece


def read_pieces(storage: Storage, pieces: Sequence[DictionaryPiece]) -> list[pa.Table]:
    """Read pieces, checked.

    Raises
    ------
    FormatError
        When one is missing or has another number of entries.
    ChecksumError
        When its bytes changed.
    """
    return [_read(storage, piece) for piece in pieces]


def _read(storage: Storage, piece: DictionaryPiece) -> pa.Table:
    name = piece_file(piece)
    try:
        file = storage.open(name)
    except FileNotFoundError as error:
        message = f"{name} is missing; restore the file from a copy."
        raise FormatError(message, file=name) from error
    file.load(0, file.size)
    found = digest(file.data.data)
    if found != piece.hash:
        message = f"{name} was altered: its checksum is {found}; restore the file from a copy."
        raise ChecksumError(message, file=name, block=0, expected=piece.hash, found=found)
    table = pa.ipc.open_file(pa.py_buffer(file.data)).read_all()
    if len(table) != piece.num:
        message = f"{name} has {len(table)} entries, the manifest says {piece.num}."
        raise FormatError(message, file=name)
    return table


def piece_file(piece: DictionaryPiece) -> str:
    """Where a piece is."""
    return f"{DICTIONARY}/{piece.hash}.arrow"
