"""Chunks of Zarr v3 arrays, encoded and decoded without zarr-python; knows no file.

Every chunk begins with little-endian numbers (codec ``bytes``), optionally compressed, and ends in its CRC32C; only
chunks named ``raw`` are the numbers alone. All these are codecs of the Zarr v3 core set.

Nothing here uses threads, so chunks are the same bytes each time and may be decoded in forked processes.
"""

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracestore._extras import extra
from tracestore.errors import ChecksumError, FormatError, InvalidInputError
from tracestore.formats.codecs import CODECS

with extra("zarr"):
    import google_crc32c
    from numcodecs import blosc, zstd

__all__ = ["CRC_BYTES", "append_crc", "decode_into", "decoded_bytes", "encode", "inner_codecs", "split_crc"]

CRC_BYTES = 4
"""Bytes of a checksum behind a chunk or an index."""

_CODECS = ("raw", *CODECS)
_LZ4_LEVEL = 1
_ZSTD_LEVEL = 1
# up to this many bytes blosc accepts to make one block of a buffer, which it never gives to threads
_LARGEST_BLOCK_BYTES = 256 * 1024
_BLOSC_HEAD = struct.Struct("<4xIII")
_ZSTD_MAGIC = bytes.fromhex("28b52ffd")
_ZSTD_HEAD_BYTES = 18
_EMPTY = np.empty(0, np.uint8)


def inner_codecs(codec: str, itemsize: int, chunk_bytes: int) -> list[dict[str, Any]]:
    """Give the codecs of a chunk as Zarr's metadata list them.

    Parameters
    ----------
    codec
        ``raw``, ``none``, ``lz4`` or ``zstd``.
    itemsize
        Bytes of one number.
    chunk_bytes
        Bytes of all numbers of a chunk.

    Raises
    ------
    InvalidInputError
        When there is no such codec, or the chunk is too large for it.

    Examples
    --------
    >>> [part["name"] for part in inner_codecs("zstd", 4, 98_000)]
    ['bytes', 'zstd', 'crc32c']
    """
    # numbers of one byte have no order of bytes
    numbers = {"name": "bytes", "configuration": {"endian": "little"}} if itemsize > 1 else {"name": "bytes"}
    _require_codec(codec)
    if codec == "raw":
        return [numbers]
    if codec == "none":
        return [numbers, {"name": "crc32c"}]
    if codec == "zstd":
        return [
            numbers,
            {"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": False}},
            {"name": "crc32c"},
        ]
    if chunk_bytes > blosc.MAX_BUFFERSIZE:
        message = f"A chunk of {chunk_bytes} bytes is too large for 'lz4'; use 'zstd' or 'none'."
        raise InvalidInputError(message, argument="codec")
    # a type of one byte: blosc would store each byte of a number apart from the others even without shuffling
    configuration = {
        "typesize": 1,
        "cname": "lz4",
        "clevel": _LZ4_LEVEL,
        "shuffle": "noshuffle",
        "blocksize": chunk_bytes,
    }
    return [numbers, {"name": "blosc", "configuration": configuration}, {"name": "crc32c"}]


def encode(codec: str, chunk: NDArray[np.uint8]) -> bytes:
    """Encode a chunk.

    Parameters
    ----------
    codec
        ``raw``, ``none``, ``lz4`` or ``zstd``.
    chunk
        Bytes of its little-endian numbers, flat.

    Raises
    ------
    InvalidInputError
        When there is no such codec.

    Examples
    --------
    >>> len(encode("none", np.zeros(100, np.uint8))), len(encode("lz4", np.zeros(10_000, np.uint8))) < 100
    (104, True)
    """
    _require_codec(codec)
    if codec == "raw":
        return chunk.tobytes()
    if codec == "lz4":
        with _single_threaded(len(chunk)):
            return append_crc(blosc.compress(chunk, b"lz4", _LZ4_LEVEL, blosc.NOSHUFFLE, len(chunk)))
    if codec == "zstd":
        return append_crc(zstd.compress(chunk, _ZSTD_LEVEL))
    return append_crc(chunk)


def decode_into(
    codec: str, data: NDArray[np.uint8] | memoryview | bytes, out: NDArray[np.uint8], *, verify: bool = True
) -> None:
    """Decode a chunk to where its numbers are wanted.

    Parameters
    ----------
    codec
        ``raw``, ``none``, ``lz4`` or ``zstd``.
    data
        The stored bytes of the chunk.
    out
        Flat, writable, and exactly as long as the chunk's numbers.
    verify
        Compare the CRC32C, except for ``raw``, which has none. Without it, changed bytes decode to wrong numbers or
        to an error.

    Raises
    ------
    ChecksumError
        When the CRC32C does not match.
    FormatError
        When the bytes do not decode to a chunk of the size of `out`.
    InvalidInputError
        When there is no such codec.

    Examples
    --------
    >>> chunk, out = np.arange(200, dtype=np.uint8), np.empty(200, np.uint8)
    >>> decode_into("zstd", encode("zstd", chunk), out)
    >>> bool((out == chunk).all())
    True
    """
    _require_codec(codec)
    stored = np.frombuffer(data, np.uint8) if len(data) else _EMPTY
    body = stored if codec == "raw" else split_crc(stored, "The chunk", verify=verify)
    num_decoded = _num_decoded(codec, body)
    if num_decoded != len(out):
        message = f"The chunk holds {num_decoded} bytes, expected are {len(out)}; restore the file from a copy."
        raise FormatError(message, found=num_decoded, expected=len(out))
    try:
        if codec == "lz4":
            with _single_threaded(len(out)):
                blosc.decompress(body, out)
        elif codec == "zstd":
            zstd.decompress(body, out)
        else:
            out[:] = body
    except (RuntimeError, ValueError) as error:
        message = f"The chunk of {len(stored)} bytes does not decode with {codec!r}; {error}."
        raise FormatError(message, codec=codec) from error


def decoded_bytes(codec: str, data: NDArray[np.uint8]) -> int:
    """Bytes that a chunk decodes to, as its head says.

    Parameters
    ----------
    codec
        ``raw``, ``none``, ``lz4`` or ``zstd``.
    data
        The stored bytes of the chunk.

    Examples
    --------
    >>> decoded_bytes("zstd", np.frombuffer(encode("zstd", np.zeros(200, np.uint8)), np.uint8))
    200
    """
    _require_codec(codec)
    return _num_decoded(codec, data if codec == "raw" else split_crc(data, "The chunk", verify=False))


def append_crc(data: bytes | NDArray[np.uint8]) -> bytes:
    """Put the CRC32C behind bytes, little-endian.

    Examples
    --------
    >>> append_crc(b"123456789").hex()
    '313233343536373839839206e3'
    """
    return b"".join(
        (data if isinstance(data, bytes) else data.data, google_crc32c.value(data).to_bytes(CRC_BYTES, "little"))
    )


def split_crc(stored: NDArray[np.uint8], what: str, *, verify: bool = True) -> NDArray[np.uint8]:
    """Take the CRC32C from behind bytes.

    Parameters
    ----------
    stored
        Bytes with their checksum, flat.
    what
        What they are, for the message.
    verify
        Compare it.

    Raises
    ------
    ChecksumError
        When it does not match.
    FormatError
        When there are too few bytes.

    Examples
    --------
    >>> split_crc(np.frombuffer(append_crc(b"abc"), np.uint8), "The word").tobytes()
    b'abc'
    """
    if len(stored) < CRC_BYTES:
        message = f"{what} has {len(stored)} bytes, fewer than its checksum; restore the file from a copy."
        raise FormatError(message)
    body = stored[:-CRC_BYTES]
    if verify:
        expected, found = int.from_bytes(stored[-CRC_BYTES:].tobytes(), "little"), google_crc32c.value(body)
        if found != expected:
            message = (
                f"{what} has changed: its CRC32C is {found:08x}, stored is {expected:08x}; restore it from a copy."
            )
            raise ChecksumError(message, expected=expected, found=found)
    return body


def _require_codec(codec: str) -> None:
    if codec not in _CODECS:
        message = f"`codec` must be one of {', '.join(map(repr, _CODECS))}; got {codec!r}."
        raise InvalidInputError(message, argument="codec")


# The libraries believe what the head of a chunk says of its sizes: blosc reads beyond a buffer that is shorter, zstd is
# content with numbers for a part of the space. So both heads are compared with what is there.


def _num_decoded(codec: str, body: NDArray[np.uint8]) -> int:
    return {"lz4": _num_decoded_lz4, "zstd": _num_decoded_zstd}.get(codec, len)(body)


def _num_decoded_lz4(body: NDArray[np.uint8]) -> int:
    if len(body) < _BLOSC_HEAD.size:
        message = f"The chunk has {len(body)} bytes, fewer than a header of blosc; restore the file from a copy."
        raise FormatError(message, found=len(body))
    num_decoded, _, num_stored = _BLOSC_HEAD.unpack_from(body.data)
    if num_stored != len(body):
        message = f"The chunk has {len(body)} bytes, its header says {num_stored}; restore the file from a copy."
        raise FormatError(message, expected=num_stored, found=len(body))
    return int(num_decoded)


def _num_decoded_zstd(body: NDArray[np.uint8]) -> int:
    """Content size of a frame (RFC 8878, section 3.1.1.1)."""
    head = body[:_ZSTD_HEAD_BYTES].tobytes()
    descriptor = head[4] if len(head) > 4 else 0
    is_single_segment, flag = bool(descriptor & 0x20), descriptor >> 6
    num_digits = 1 << flag if flag or is_single_segment else 0
    start = 5 + (not is_single_segment)
    digits = head[start : start + num_digits]
    if not digits or len(digits) < num_digits or descriptor & 0x03 or not head.startswith(_ZSTD_MAGIC):
        message = f"The chunk of {len(body)} bytes is no zstd frame with a content size; restore the file from a copy."
        raise FormatError(message)
    return int.from_bytes(digits, "little") + (256 if flag == 1 else 0)


@contextmanager
def _single_threaded(chunk_bytes: int) -> Iterator[None]:
    """Keep blosc from starting threads, whose order of finishing would show in the bytes.

    By default numcodecs lets blosc use threads in the main thread only, and then only for buffers of several blocks.
    So no other thread writes the switch here, and a user's setting is back when the block ends.
    """
    if chunk_bytes <= _LARGEST_BLOCK_BYTES or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = blosc.use_threads
    blosc.use_threads = False
    try:
        yield
    finally:
        blosc.use_threads = before
