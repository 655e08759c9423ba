"""Which codec observations get, and how many rows share a chunk; knows no file format and needs no extra.

The choice depends on ratios alone, never on timings, so that the same traces give the same bytes on every machine.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError

__all__ = ["CODECS", "SAMPLE_ROWS", "choose_codec", "choose_site_codec", "rows_per_chunk"]

CODECS = ("none", "lz4", "zstd")
"""Names of the codecs of observations."""

SAMPLE_ROWS = 64
"""Rows that a writer needs to look at."""

_LARGE_ROW_BYTES = 64 * 1024
_CHUNK_BYTES = 128 * 1024
# a local disk is about as fast as a copy, so a codec must save much; over a network every saved byte is saved time
_LEAST_RATIO_LOCAL = 1.3
_LEAST_RATIO_REMOTE = 1.1
_LEAST_RATIO_SITES = 2.0
_LEAST_SITE_BYTES = 2**16
_SAMPLE_NUMBERS = 2**17


def choose_codec(
    sample_rows: bytes | bytearray | memoryview, row_bytes: int, *, remote: bool = False
) -> tuple[str, float]:
    """Choose the codec of an observation by compressing a sample of its rows, in chunks as they will be stored.

    Parameters
    ----------
    sample_rows
        The first rows, one after the other; about 64 of them are enough.
    row_bytes
        Bytes of one row.
    remote
        The segment will be read over a network.

    Returns
    -------
    tuple of codec and ratio
        One of `CODECS`, and how many times smaller the sample became with the codec that was tried, ``lz4`` or, with
        `remote`, ``zstd``; the ratio is given also when it was too small and the choice is ``none``.

    Raises
    ------
    InvalidInputError
        When a row has no bytes, or the sample is not a whole number of rows.

    Examples
    --------
    >>> codec, ratio = choose_codec(bytes(64_000), 1_000)
    >>> codec, ratio > 100
    ('lz4', True)
    """
    data = memoryview(sample_rows).cast("B")
    chunk_bytes = rows_per_chunk(row_bytes) * row_bytes
    if len(data) % row_bytes:
        message = f"`sample_rows` must hold whole rows of {row_bytes} bytes; it has {len(data)} bytes."
        raise InvalidInputError(message, argument="sample_rows")
    name, least = ("zstd", _LEAST_RATIO_REMOTE) if remote else ("lz4", _LEAST_RATIO_LOCAL)
    codec = pa.Codec("zstd", compression_level=1) if remote else pa.Codec("lz4_raw")
    starts = range(0, len(data), chunk_bytes)
    num_stored = sum(codec.compress(pa.py_buffer(data[start : start + chunk_bytes])).size for start in starts)
    ratio = len(data) / num_stored if num_stored else 1.0
    return (name if ratio >= least else "none"), ratio


def rows_per_chunk(row_bytes: int) -> int:
    """Rows that share a chunk: one large row, or as many small ones as make about 128 KiB.

    Parameters
    ----------
    row_bytes
        Bytes of one row.

    Raises
    ------
    InvalidInputError
        When a row has no bytes.

    Examples
    --------
    >>> rows_per_chunk(20 * 35 * 35 * 4), rows_per_chunk(8)
    (1, 16384)
    """
    if row_bytes < 1:
        message = f"`row_bytes` must be positive, rows without elements are not stored; got {row_bytes}."
        raise InvalidInputError(message, argument="row_bytes")
    return 1 if row_bytes >= _LARGE_ROW_BYTES else _CHUNK_BYTES // row_bytes


def choose_site_codec(block: NDArray[np.generic], asked: str | Mapping[str, str]) -> str:
    """Choose the codec of a flat column by its first numbers.

    Sites are about 2 % of the bytes of a training set, and are read in place; but the moves of a Markov chain change
    few of the numbers of a state, and compress well.

    Parameters
    ----------
    block
        The first numbers, or all, as they will be stored.
    asked
        What is asked for observations: ``none`` leaves sites alone, ``zstd`` compresses them where it helps at all.

    Returns
    -------
    str
        ``none`` or ``zstd``.

    Examples
    --------
    >>> choose_site_codec(np.random.default_rng(1).random(10_000), "auto"), choose_site_codec(np.ones(10_000), "auto")
    ('none', 'zstd')
    """
    if asked == "none" or block.nbytes < _LEAST_SITE_BYTES:
        return "none"
    data = block[:_SAMPLE_NUMBERS].tobytes()
    ratio = len(data) / len(pa.compress(data, "zstd", asbytes=True))
    return "zstd" if ratio >= (_LEAST_RATIO_REMOTE if asked == "zstd" else _LEAST_RATIO_SITES) else "none"
