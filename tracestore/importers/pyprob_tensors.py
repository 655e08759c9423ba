"""Tensors of torch as numpy arrays, from the bytes that plain pickle stores for them.

Knows torch's serialization and nothing of traces; does not import torch. A pickled tensor is a call of
``torch._utils._rebuild_tensor_v2`` with a storage, an offset, a size and strides. The storage is a call of
``torch.storage._load_from_bytes`` with the bytes of ``torch.save`` in its older format: five small pickles (magic
number, version, system facts, the storage as a persistent id, keys), then the element count in eight bytes and the
elements, little-endian.

Everything is read on demand and views the bytes at hand: a tensor may not reach outside of its storage, and an
expanded tensor (stride 0) takes no memory of its own.
"""

import io
import pickle
import re
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import FormatError
from tracestore.importers.pyprob_opcodes import check_opcodes

__all__ = ["StoredStorage", "StoredTensor", "element_type"]

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_MAX_HEAD_BYTES = 4096
_MAX_DIMENSIONS = 32

# name of the storage class, or of the dtype, -> element type on disk; bfloat16 is kept as its 16 bits until read
_ELEMENT_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
    "ComplexFloatStorage": "<c8",
    "ComplexDoubleStorage": "<c16",
    "UntypedStorage": "|u1",
    "float32": "<f4",
    "float64": "<f8",
    "float16": "<f2",
    "bfloat16": "bfloat16",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "|i1",
    "uint8": "|u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "bool": "|b1",
    "complex64": "<c8",
    "complex128": "<c16",
}

# The usual bytes before the elements, as every torch from 1.0 writes them for one storage in main memory.
_USUAL_HEAD = re.compile(
    re.escape(
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00(X\x10\x00\x00\x00"
        b"protocol_versionq\x01M\xe9\x03X\r\x00\x00\x00little_endianq\x02\x88X\n\x00\x00\x00type_sizesq\x03}q\x04(X\x05\x00\x00\x00shortq\x05"
        b"K\x02X\x03\x00\x00\x00intq\x06K\x04X\x04\x00\x00\x00longq\x07K\x04uu.\x80\x02(X\x07\x00\x00\x00storageq\x00"
    )
    + rb"ctorch\n([A-Za-z0-9]+Storage)\nq\x01X(.\0\0\0)([0-9]+)q\x02X\x03\0\0\0cpuq\x03(?:K(.)|M(..)|J(....))Ntq\x04Q\."
    + rb"\x80\x02\]q\x00X\2\3q\x01a\.",
    re.DOTALL,
)


class StoredStorage:
    """The bytes of one torch storage; read when they are first needed.

    Parameters
    ----------
    data
        What ``torch.save`` wrote for the storage in its older format.
    """

    __slots__ = ("_arrays", "_data", "_element_type", "_start", "count")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._arrays: dict[str, NDArray[Any]] = {}
        self._start = -1
        self.count = 0

    def __setstate__(self, state: object) -> NoReturn:
        _refuse_state("a torch storage")

    def elements(self, element: str | None = None) -> NDArray[Any]:
        """Return all elements, shape (count,), read-only: half precision as float32, everything else as stored.

        ``element`` overrides the storage's own type, as tensors of newer dtypes do.
        """
        if self._start < 0:
            self._open()
        chosen = element or self._element_type
        array = self._arrays.get(chosen)
        if array is None:
            array = self._arrays[chosen] = self._view(chosen, untyped=element is not None)
        return array

    def doubles(self, element: str | None = None) -> NDArray[np.float64]:
        """Return all elements in float64, shape (count,), read-only; converted once."""
        key = f"{element} as float64"
        array = self._arrays.get(key)
        if array is None:
            elements = self.elements(element)
            if elements.dtype.kind == "c":
                message = "a tensor of complex numbers stands where real numbers are needed."
                raise FormatError(message)
            array = elements.astype(np.float64)
            array.flags.writeable = False
            self._arrays[key] = array
        return array

    def _view(self, element: str, *, untyped: bool) -> NDArray[Any]:
        stored = "<u2" if element == "bfloat16" else element
        size = np.dtype(stored).itemsize
        own = np.dtype("<u2" if self._element_type == "bfloat16" else self._element_type).itemsize
        num_bytes = self.count * own
        if self._start + num_bytes != len(self._data) or (untyped and num_bytes % size):
            message = (
                f"a torch storage announces {num_bytes} bytes of elements and has {len(self._data) - self._start}; "
                "the value is damaged."
            )
            raise FormatError(message)
        array: NDArray[Any] = np.frombuffer(self._data, dtype=stored, count=num_bytes // size, offset=self._start)
        if stored != element:
            return _frozen((array.astype(np.uint32) << np.uint32(16)).view(np.float32))
        if element == "<f2":
            return _frozen(array.astype(np.float32))
        if element == "|b1":
            return _frozen(array.view(np.uint8) != 0)
        return array

    def _open(self) -> None:
        data = self._data
        if type(data) is not bytes:
            message = f"a torch storage is stored as bytes; found {type(data).__name__}."
            raise FormatError(message)
        match = _USUAL_HEAD.match(data)
        if match is not None and match.group(2)[0] == len(match.group(3)):
            name = match.group(1).decode("ascii")
            count = int.from_bytes(match.group(4) or match.group(5) or match.group(6), "little")
            begin = match.end()
        else:
            name, count, begin = _read_head(data)
        if name not in _ELEMENT_TYPES:
            message = f"a tensor has elements of type {name}, which cannot be read."
            raise FormatError(message, element_type=name)
        if int.from_bytes(data[begin : begin + 8], "little") != count or begin + 8 > len(data):
            message = "the element counts of a torch storage disagree; the value is damaged."
            raise FormatError(message)
        self._element_type, self.count, self._start = _ELEMENT_TYPES[name], count, begin + 8


class StoredTensor:
    """One dense tensor in main memory, as stored; nothing is checked or computed until it is read.

    Parameters
    ----------
    storage, offset, size, strides
        Where the elements are, in elements.
    element
        Element type, when it is not the storage's own.
    limit
        Most elements that a tensor may have.
    """

    __slots__ = ("_array", "_doubles", "_element", "_limit", "_offset", "_size", "_storage", "_strides")

    def __init__(
        self, storage: StoredStorage, offset: object, size: object, strides: object, element: str | None, limit: int
    ) -> None:
        self._storage, self._offset, self._size, self._strides = storage, offset, size, strides
        self._element, self._limit = element, limit
        self._array: NDArray[Any] | None = None
        self._doubles: NDArray[np.float64] | None = None

    def __setstate__(self, state: object) -> NoReturn:
        _refuse_state("a tensor")

    def array(self) -> NDArray[Any]:
        """Return the tensor as a read-only array in its own shape and dtype (half precision as float32)."""
        if self._array is None:
            self._array = self._shaped(self._storage.elements(self._element))
        return self._array

    def doubles(self) -> NDArray[np.float64]:
        """Return the tensor as a read-only float64 array in its own shape."""
        if self._doubles is None:
            self._doubles = self._shaped(self._storage.doubles(self._element))
        return self._doubles

    def _shaped(self, elements: NDArray[Any]) -> NDArray[Any]:
        size, strides, offset = self._size, self._strides, self._offset
        if size == () == strides and type(size) is tuple and type(offset) is int and 0 <= offset < len(elements):
            return elements[offset : offset + 1].reshape(())
        _check_geometry(size, strides, offset)
        assert isinstance(size, tuple)
        assert isinstance(strides, tuple)
        assert isinstance(offset, int)
        number, last = 1, offset
        for length, stride in zip(size, strides, strict=True):
            number *= length
            last += (length - 1) * stride
        if number == 0:
            return _frozen(np.zeros(size, elements.dtype)) if max(size) < 1 << 40 else _refuse_size(size, self._limit)
        if number > self._limit:
            _refuse_size(size, self._limit)
        if last >= len(elements):
            message = (
                f"a tensor of size {size} and strides {strides} at offset {offset} reaches outside of its storage of "
                f"{len(elements)} elements; the value is damaged."
            )
            raise FormatError(message)
        item = elements.itemsize
        steps = tuple(item * stride for stride in strides)
        shaped: NDArray[Any] = np.ndarray(size, elements.dtype, elements, item * offset, steps)
        shaped.flags.writeable = False
        return shaped


def element_type(name: str) -> str | None:
    """Return the element type on disk for the name of a torch dtype or storage class; None when it is not readable."""
    return _ELEMENT_TYPES.get(name)


def _check_geometry(size: object, strides: object, offset: object) -> None:
    good = (
        type(size) is tuple
        and type(strides) is tuple
        and len(size) == len(strides) <= _MAX_DIMENSIONS
        and type(offset) is int
        and offset >= 0
        and all(type(number) is int and 0 <= number < 1 << 62 for number in (*size, *strides))
    )
    if not good:
        message = "the size, strides or offset of a tensor are not those of a dense tensor; the value is damaged."
        raise FormatError(message)


def _refuse_size(size: tuple[int, ...], limit: int) -> NoReturn:
    message = (
        f"a tensor has size {size}, more than the {limit} elements that one record may hold; raise the limit for one "
        "record if you trust the file."
    )
    raise FormatError(message)


def _refuse_state(what: str) -> NoReturn:
    message = f"the pickle sets a state on {what}, which has none; it was not set."
    raise FormatError(message)


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


# ------------------------------------------------------------------------------ the general form of a storage's head


class _StorageName:
    """Stand-in of a storage class."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __setstate__(self, state: object) -> NoReturn:
        _refuse_state("a storage class")


class _HeadUnpickler(pickle.Unpickler):
    """Reads the small pickles of a storage: numbers, strings and one persistent id."""

    def find_class(self, module: str, name: str) -> object:
        """Return a stand-in of a torch storage class and refuse everything else."""
        if module in ("torch", "torch.storage") and name in _ELEMENT_TYPES and name.endswith("Storage"):
            return _StorageName(name)
        message = f"the pickle of a torch storage asks for {module}.{name}, which no tensor needs; it was not run."
        raise FormatError(message, forbidden=f"{module}.{name}")

    def persistent_load(self, pid: object) -> object:
        """Return the description of a storage as it is."""
        if type(pid) is tuple and 5 <= len(pid) <= 6 and pid[0] == "storage" and type(pid[1]) is _StorageName:
            return _HeadEntry(pid)
        message = "the persistent id of a torch storage has an unknown form; the value is damaged."
        raise FormatError(message)


class _HeadEntry:
    """Description of one storage: class, key, location, count and view."""

    __slots__ = ("pid",)

    def __init__(self, pid: tuple[Any, ...]) -> None:
        self.pid = pid

    def __setstate__(self, state: object) -> NoReturn:
        _refuse_state("a storage")


def _read_head(data: bytes) -> tuple[str, int, int]:
    """Name of the storage class, count of elements, and where the eight bytes before the elements begin."""
    position, parts = 0, []
    head = data[: 5 * _MAX_HEAD_BYTES]
    for index in range(5):
        end = check_opcodes(head, start=position, max_structure_bytes=_MAX_HEAD_BYTES, persistent=index == 3)
        parts.append(_HeadUnpickler(io.BytesIO(head[position:end])).load())
        position = end
    magic, version, _, entry, keys = parts
    if magic != _MAGIC_NUMBER or version != _PROTOCOL_VERSION or type(entry) is not _HeadEntry:
        message = "a tensor is stored in an unknown form of torch's serialization; convert the file with torch."
        raise FormatError(message)
    _, storage_class, key, location, count, *view = entry.pid
    if keys != [key] or type(count) is not int or count < 0 or view not in ([], [None]):
        message = "a torch storage is a view of another or has keys that do not fit; the value is damaged."
        raise FormatError(message)
    if type(location) is not str or not (location == "cpu" or location.startswith("cuda")):
        message = f"a tensor lives on the device {location!r}, whose elements cannot be read."
        raise FormatError(message)
    return storage_class.name, count, position
