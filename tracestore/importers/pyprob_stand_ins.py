"""Inert stand-ins of what the pickles of pyprob 1.x name: the closed table of globals.

Knows names of classes and functions of pyprob, torch and numpy, and the form of their states and arguments; does not
unpickle. Classes have slots and one ``__setstate__``, which keeps a dictionary of plain names. Functions are instances
that put their arguments into a stand-in and copy nothing, so a short pickle cannot multiply a long string or list; for
the same reason a storage or array that is referred to many times is converted once.
"""

from collections.abc import Callable
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import FormatError
from tracestore.importers.pyprob_tensors import StoredStorage, StoredTensor, element_type

__all__ = ["LoadFromBytes", "StoredArray", "StoredObject", "admitted_globals", "stored_dtype"]


class StoredObject:
    """Stand-in of an object of pyprob or torch: keeps the state of the pickle, does nothing.

    ``kind`` is the dotted name of the class that it stands for.
    """

    __slots__ = ("state",)
    kind = ""

    def __setstate__(self, state: object) -> None:
        if type(state) is not dict:
            message = f"the state of {self.kind} is not a dictionary of attributes; it was not set."
            raise FormatError(message)
        for name in state:
            if type(name) is not str or name.startswith("__"):
                message = f"the state of {self.kind} has the attribute {str(name)[:80]!r}; it was not set."
                raise FormatError(message)
        self.state = state


class StoredArray:
    """A numpy array or scalar, as stored; read on demand."""

    __slots__ = ("_array", "_limit", "_parts")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._array: NDArray[Any] | None = None
        self._parts: tuple[object, object, object, object] | None = None

    def __setstate__(self, state: object) -> None:
        if type(state) is not tuple or len(state) != 5:
            message = "the state of a numpy array has an unknown form; it was not set."
            raise FormatError(message)
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: object, dtype: object, shape: object, order: object) -> "StoredArray":
        """Keep the parts of the array."""
        self._parts, self._array = (data, dtype, shape, order), None
        return self

    def array(self) -> NDArray[Any]:
        """Return the array, read-only."""
        if self._array is None:
            data, dtype, shape, order = self._parts or (None, None, None, None)
            plain = isinstance(data, (bytes, bytearray)) and type(dtype) is _NumpyType and type(shape) is tuple
            if not plain or not all(type(length) is int and length >= 0 for length in cast("tuple[Any, ...]", shape)):
                message = "a numpy array is stored in an unknown form, or holds objects; it was not read."
                raise FormatError(message)
            elements = np.frombuffer(cast("bytes", data), cast("_NumpyType", dtype).dtype())
            self._array = elements.reshape(cast("tuple[int, ...]", shape), order="F" if order == "F" else "C")
            self._array.flags.writeable = False
        return self._array


class _NumpyType:
    """Stand-in of a numpy dtype of plain numbers."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: str) -> None:
        self._code, self._order = code, "|"

    def __setstate__(self, state: object) -> None:
        # (version, byte order, subarray, names, fields, item size, alignment, flags)
        if type(state) is not tuple or len(state) < 5 or state[1] not in ("<", "|", "=") or any(state[2:5]):
            message = "a numpy dtype is not one of plain little-endian numbers; it was not read."
            raise FormatError(message)
        self._order = state[1]

    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self._order + self._code)


class _ElementType:
    """Stand-in of a torch dtype."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __setstate__(self, state: object) -> NoReturn:
        _refuse_state("a dtype")


def _refuse_state(what: str) -> NoReturn:
    message = f"the pickle sets a state on {what}, which has none; it was not set."
    raise FormatError(message)


def _refuse_arguments(what: str) -> NoReturn:
    message = f"the pickle calls {what} with arguments of an unknown form; the value is damaged."
    raise FormatError(message)


# ------------------------------------------------------------------------- callables: instances, so nothing can be set


class _Call:
    """A callable that a pickle may use; has no attribute that a pickle could reach."""

    __slots__ = ("_limit",)

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def __setstate__(self, state: object) -> NoReturn:
        _refuse_state("a function")


class LoadFromBytes(_Call):
    """Makes one storage of one string of bytes, however often a pickle asks for it; one instance for one pickle."""

    __slots__ = ("_storages",)

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._storages: dict[int, StoredStorage] = {}

    def __call__(self, data: bytes) -> StoredStorage:
        """Return the storage of these bytes."""
        storage = self._storages.get(id(data))
        if storage is None:
            storage = self._storages[id(data)] = StoredStorage(data)  # keeps the bytes, so their id stays theirs
        return storage


class _RebuildTensor(_Call):
    __slots__ = ()

    def __call__(self, storage: object, offset: object, size: object, strides: object, *_: object) -> StoredTensor:
        if type(storage) is not StoredStorage:
            _refuse_arguments("torch._utils._rebuild_tensor_v2")
        return StoredTensor(storage, offset, size, strides, None, self._limit)


class _RebuildTypedTensor(_Call):
    __slots__ = ()

    def __call__(
        self,
        storage: object,
        offset: object,
        size: object,
        strides: object,
        grad: object,
        hooks: object,
        dtype: object,
        *_: object,
    ) -> StoredTensor:
        if type(storage) is not StoredStorage or type(dtype) is not _ElementType:
            _refuse_arguments("torch._utils._rebuild_tensor_v3")
        return StoredTensor(storage, offset, size, strides, dtype.name, self._limit)


class _RebuildParameter(_Call):
    __slots__ = ()

    def __call__(self, tensor: object, *_: object) -> StoredTensor:
        if type(tensor) is not StoredTensor:
            _refuse_arguments("torch._utils._rebuild_parameter")
        return tensor


class _Size(_Call):
    __slots__ = ()

    def __call__(self, size: tuple[int, ...] = ()) -> tuple[int, ...]:
        if type(size) is not tuple:
            _refuse_arguments("torch.Size")
        return size


class _Device(_Call):
    __slots__ = ()

    def __call__(self, *_: object) -> None:
        return None


class _EmptyDictionary(_Call):
    __slots__ = ()

    def __call__(self) -> dict[object, object]:
        return {}


class _NumpyDtype(_Call):
    __slots__ = ()

    def __call__(self, code: object, *_: object) -> _NumpyType:
        if type(code) is not str or code not in _NUMPY_CODES:
            _refuse_arguments("numpy.dtype")
        return _NumpyType(code)


class _NumpyReconstruct(_Call):
    __slots__ = ()

    def __call__(self, *_: object) -> StoredArray:
        return StoredArray(self._limit)


class _NumpyScalar(_Call):
    __slots__ = ()

    def __call__(self, dtype: object, data: object) -> StoredArray:
        return StoredArray(self._limit).fill(data, dtype, (), "C")


class _NumpyFromBuffer(_Call):
    __slots__ = ()

    def __call__(self, data: object, dtype: object, shape: object, order: object) -> "StoredArray":
        return StoredArray(self._limit).fill(data, dtype, shape, order)


_NUMPY_CODES = frozenset(f"{kind}{size}" for kind in "biufc" for size in (1, 2, 4, 8, 16))

# ---------------------------------------------------------------------------------------------- the table of globals

_FAMILIES = {
    "bernoulli": "Bernoulli",
    "beta": "Beta",
    "binomial": "Binomial",
    "categorical": "Categorical",
    "distribution": "Distribution",
    "exponential": "Exponential",
    "factor": "Factor",
    "gamma": "Gamma",
    "log_normal": "LogNormal",
    "mixture": "Mixture",
    "normal": "Normal",
    "poisson": "Poisson",
    "truncated_normal": "TruncatedNormal",
    "uniform": "Uniform",
    "von_mises": "VonMises",
    "weibull": "Weibull",
}
# torch keeps the classes of these in modules of the same name; log_normal and weibull are transformed distributions
_TORCH_FAMILIES = {
    **{module: name for module, name in _FAMILIES.items() if module not in ("factor", "mixture", "truncated_normal")},
    "dirichlet": "Dirichlet",
    "independent": "Independent",
    "transformed_distribution": "TransformedDistribution",
}
_TORCH_TRANSFORMS = ("AffineTransform", "ComposeTransform", "ExpTransform", "PowerTransform")


def _stand_in(module: str, name: str) -> type[StoredObject]:
    return type(name, (StoredObject,), {"__slots__": (), "kind": f"{module}.{name}", "__module__": __name__})


def _class_table() -> dict[tuple[str, str], type[StoredObject]]:
    keys = [("pyprob.trace", "Trace"), ("pyprob.trace", "Variable")]
    keys += [(f"pyprob.distributions.{module}", name) for module, name in _FAMILIES.items()]
    keys += [(f"torch.distributions.{module}", name) for module, name in _TORCH_FAMILIES.items()]
    keys += [("torch.distributions.transforms", name) for name in _TORCH_TRANSFORMS]
    return {key: _stand_in(*key) for key in keys}


_CLASSES = _class_table()
_CALLS: dict[tuple[str, str], Callable[[int], object]] = {
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor,
    ("torch._utils", "_rebuild_tensor_v3"): _RebuildTypedTensor,
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter,
    ("torch", "Size"): _Size,
    ("torch", "device"): _Device,
    ("collections", "OrderedDict"): _EmptyDictionary,
    ("numpy", "dtype"): _NumpyDtype,
    ("numpy", "ndarray"): _Call,
    **{
        (f"numpy.{core}.{module}", name): call
        for core in ("core", "_core")
        for module, name, call in (
            ("multiarray", "_reconstruct", _NumpyReconstruct),
            ("multiarray", "scalar", _NumpyScalar),
            ("numeric", "_frombuffer", _NumpyFromBuffer),
        )
    },
}


def admitted_globals(limit_elements: int) -> dict[tuple[str, str], object]:
    """Return the stand-in of every admitted (module, name), for records of at most so many elements a tensor."""
    return {**_CLASSES, **{key: call(limit_elements) for key, call in _CALLS.items()}}


def stored_dtype(name: str) -> object | None:
    """Return the stand-in of ``torch.NAME`` when that is a dtype whose elements can be read, else None."""
    element = None if name.endswith("Storage") else element_type(name)
    return None if element is None else _ElementType(element)
