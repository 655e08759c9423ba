"""Small tables as Zarr arrays: a row of 64-bit words for each column, and texts in an array of bytes (format 4.4, 4.5).

Integers are widened to 64 bits, floats are stored as float64, both as their bits; a text is stored as its number in the
segment's table of texts, and so is a list of integers, as their digits joined by commas.
"""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["TABLES", "TextTable", "decode_table", "encode_table", "texts_from"]

_TYPES: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "float64": pa.float64(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "list": pa.list_(pa.int32()),
    "text": pa.string(),
    "uint8": pa.uint8(),
    "uint64": pa.uint64(),
}

TABLES: Mapping[str, Mapping[str, str]] = {
    "bases": {"base": "text"},
    "sites": {
        "id": "uint64",
        "base": "int32",
        "instance": "int32",
        "kind": "uint8",
        "controlled": "bool",
        "name": "text",
        "family": "text",
        "shape": "list",
        "num_parameters": "int32",
    },
    "layouts": {"id": "uint64", "trace_type": "uint64", "num_sites": "int32"},
    "layout_sites": {"site": "int32"},
    "constants": {"layout": "int32", "column": "uint8", "index": "int32", "value": "float64"},
    "runs": {
        "layout": "int32",
        "layout_id": "uint64",
        "trace_type": "uint64",
        "num_traces": "int64",
        "num_states": "int64",
        "num_sites": "int32",
        "tile_traces": "int32",
        "values_start": "int64",
        "log_probs_start": "int64",
        "parameters_start": "int64",
        "seconds": "float64",
    },
    "failures": {"row": "int64", "reason": "text"},
    "chunks": {"observation": "int32", "offset": "int64", "nbytes": "int64", "checksum": "uint64"},
}
"""Columns of each table, in the order in which they are stored, and their types."""


class TextTable:
    """Gathers the texts of a segment, each once.

    Examples
    --------
    >>> texts = TextTable()
    >>> texts.number("mu"), texts.number("sigma"), texts.number("mu")
    (0, 1, 0)
    >>> data, ends = texts.arrays()
    >>> data.tobytes(), ends.tolist()
    (b'musigma', [2, 7])
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, text: str) -> int:
        """Give the number of a text."""
        return self._numbers.setdefault(text, len(self._numbers))

    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
        """UTF-8 bytes of all texts, one after the other, and where each ends."""
        encoded = [text.encode() for text in self._numbers]
        ends = np.cumsum([len(text) for text in encoded], dtype=np.uint64)
        return np.frombuffer(b"".join(encoded), np.uint8), ends


def texts_from(data: NDArray[np.uint8], ends: NDArray[np.uint64]) -> pa.Array:
    """Texts from their arrays."""
    offsets = np.concatenate([np.zeros(1, np.int32), ends.astype(np.int32)])
    return pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(data)))


def encode_table(name: str, columns: Mapping[str, pa.Array], texts: TextTable) -> NDArray[np.uint64]:
    """Write a table as words, shape ``(num_columns, num_rows)``.

    Parameters
    ----------
    name
        One of `TABLES`.
    columns
        Its columns.
    texts
        Added to.
    """
    words = []
    for column, kind in TABLES[name].items():
        array = columns[column]
        if kind in ("text", "list"):
            items = array.to_pylist()
            found = items if kind == "text" else [",".join(map(str, item)) for item in items]
            words.append(np.fromiter(map(texts.number, found), np.uint64, len(found)))
        elif kind == "float64":
            words.append(array.to_numpy(zero_copy_only=False).view(np.uint64))
        else:
            wide = np.uint64 if kind == "uint64" else np.int64
            words.append(array.to_numpy(zero_copy_only=False).astype(wide).view(np.uint64))
    return np.stack(words)


def decode_table(name: str, words: NDArray[np.uint64], texts: pa.Array | None) -> pa.Table:
    """Read a table back.

    Parameters
    ----------
    name
        One of `TABLES`.
    words
        Shape ``(num_columns, num_rows)``.
    texts
        The texts of the segment; None for a table without any.
    """
    columns: dict[str, pa.Array] = {}
    for row, (column, kind) in zip(words, TABLES[name].items(), strict=True):
        if kind in ("text", "list"):
            found = pc.take(cast("pa.Array", texts), pa.array(row))
            columns[column] = found if kind == "text" else _lists(found.to_pylist())
        elif kind == "float64":
            columns[column] = pa.array(row.view(np.float64))
        else:
            columns[column] = pa.array(_narrow(row, kind))
    return pa.table(columns)


def _narrow(words: NDArray[np.uint64], kind: str) -> NDArray[Any]:
    return words if kind == "uint64" else words.view(np.int64).astype(_TYPES[kind].to_pandas_dtype())


def _lists(items: list[str]) -> pa.Array:
    return pa.array([[int(one) for one in item.split(",")] if item else [] for item in items], _TYPES["list"])
