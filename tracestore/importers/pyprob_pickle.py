"""Unpickle the values of pyprob's shelves into inert stand-ins; no class, function or module of the pickle is used.

Knows how a value is packed, and nothing of files or trace records. ``find_class`` looks into the closed table of
`pyprob_stand_ins`; everything else is refused with the name of the global. Nothing is imported. The pickle is checked
by `check_opcodes` first, so that memory is bounded by the length of the record, and the extension registry and
persistent ids are out of reach.
"""

import io
import pickle
import struct
import zlib

from tracestore.errors import FormatError
from tracestore.importers.pyprob_opcodes import check_opcodes
from tracestore.importers.pyprob_stand_ins import LoadFromBytes, admitted_globals, stored_dtype

__all__ = ["PLAIN_ERRORS", "load_pickle", "load_value"]

PLAIN_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zlib.error,
)
"""What damaged or hostile bytes make the standard library raise."""

_STRUCTURE_SHARE = 8
"""Bytes of string contents that go with one byte of opcodes; a trace has more strings and tensors than opcodes."""


class _RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that knows the table of globals and nothing else."""

    def __init__(self, file: io.BytesIO, table: dict[tuple[str, str], object]) -> None:
        super().__init__(file)
        self._table = table
        self._load_from_bytes = LoadFromBytes(0)

    def find_class(self, module: str, name: str) -> object:
        """Return the stand-in of a global; refuse one that no record of pyprob needs."""
        found = self._table.get((module, name))
        if found is not None:
            return found
        if module == "torch.storage" and name == "_load_from_bytes":
            return self._load_from_bytes
        dtype = stored_dtype(name) if module == "torch" else None
        if dtype is not None:
            return dtype
        message = f"the pickle asks for {module}.{name}, which no trace of pyprob needs; it was not imported or run."
        raise FormatError(message, forbidden=f"{module}.{name}")


# ----------------------------------------------------------------------------------------------------------- loading


def load_pickle(data: bytes, *, limit_bytes: int) -> object:
    """Unpickle bytes into plain containers, numbers, strings and stand-ins.

    Parameters
    ----------
    data
        One pickle of protocol 2 or later, without anything after it.
    limit_bytes
        Most bytes of one record. Opcodes may take an eighth of it, one tensor may have an eighth of it as elements.

    Raises
    ------
    FormatError
        The bytes are damaged, too large, or ask for something that is not in the table; field ``forbidden`` then names
        the global. Nothing was run.

    Examples
    --------
    >>> import pickle
    >>> load_pickle(pickle.dumps({"a": [1, 2.5]}), limit_bytes=1 << 20)
    {'a': [1, 2.5]}
    """
    if len(data) > limit_bytes:
        message = f"the value has {len(data)} bytes, more than the limit of {limit_bytes} for one record."
        raise FormatError(message, limit_bytes=limit_bytes)
    end = check_opcodes(data, max_structure_bytes=max(limit_bytes // _STRUCTURE_SHARE, 1024))
    if end != len(data):
        message = f"{len(data) - end} bytes follow the end of the pickle; the value is damaged."
        raise FormatError(message)
    try:
        value: object = _RestrictedUnpickler(io.BytesIO(data), _table(limit_bytes)).load()
    except FormatError:
        raise
    except PLAIN_ERRORS as error:
        message = f"the pickle cannot be read ({type(error).__name__}: {error}); the value is damaged."
        raise FormatError(message) from error
    return value


_TABLES: dict[int, dict[tuple[str, str], object]] = {}


def _table(limit_bytes: int) -> dict[tuple[str, str], object]:
    table = _TABLES.get(limit_bytes)
    if table is None:
        _TABLES.clear()
        table = _TABLES[limit_bytes] = admitted_globals(limit_bytes // _STRUCTURE_SHARE)
    return table


def load_value(data: bytes, *, limit_bytes: int) -> object:
    """Read one value of a shelf: zlib or not, one pickle or a pickle of a pickle.

    pyprob 1.4 and later compress a pickle of the bytes of a pickle; before, a value was one pickle. Which is which is
    read off the bytes: a zlib stream begins with 0x78 and a pickle with 0x80.

    Parameters
    ----------
    data
        The bytes of the value as stored.
    limit_bytes
        Most bytes of one record, uncompressed.

    Raises
    ------
    FormatError
        As `load_pickle`, or the compressed bytes are damaged or longer than the limit.

    Examples
    --------
    >>> import pickle, zlib
    >>> load_value(zlib.compress(pickle.dumps(pickle.dumps(5))), limit_bytes=1 << 20)
    5
    """
    if data[:1] == b"\x78":
        data = _decompress(data, limit_bytes)
    value = load_pickle(data, limit_bytes=limit_bytes)
    return load_pickle(value, limit_bytes=limit_bytes) if type(value) is bytes else value


def _decompress(data: bytes, limit_bytes: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(data, limit_bytes + 1)
    except zlib.error as error:
        message = f"the compressed bytes of the value are damaged ({error})."
        raise FormatError(message) from error
    if len(plain) > limit_bytes:
        message = (
            f"the value is longer than {limit_bytes} bytes when it is decompressed; raise the limit for one record if "
            "you trust the file."
        )
        raise FormatError(message, limit_bytes=limit_bytes)
    if not stream.eof or stream.unused_data:
        message = "the compressed bytes of the value are cut short or followed by others; the value is damaged."
        raise FormatError(message)
    return plain
