"""The functions of one batched kernel in a shared library, called with numpy arrays.

The interface is that of ``src/tracestore_kernel.h``. Knows nothing of gradients in torch, of fallbacks, or of what is
computed.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError, KernelError, KernelVersionError
from tracestore.native.build import Language, build_library

__all__ = ["ABI", "KernelLibrary", "KernelShape", "build_kernel", "language_of"]

Array = NDArray[np.float64]
Output = Literal["row", "point"]

ABI = 1
"""Version of the interface that this release calls."""
HEADER = "tracestore_kernel.h"
_LANGUAGES: dict[str, Language] = {".c": "c", ".cpp": "c++", ".cc": "c++", ".cxx": "c++"}
_OUTPUTS: tuple[Output, Output] = ("row", "point")
_OPTIMIZED = ("-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math")


@dataclass(frozen=True, slots=True)
class KernelShape:
    """Sizes of what a kernel takes and gives.

    Parameters
    ----------
    num_parameters
        Numbers in a row of parameters.
    num_columns
        Numbers of a point; 0 for a kernel without points.
    output
        ``row`` for one number a row of parameters, ``point`` for one for each row and point.

    Raises
    ------
    InvalidInputError
        When they make no kernel.

    Examples
    --------
    >>> KernelShape(6, 2, "point").out(3, 1000)
    (3, 1000)
    """

    num_parameters: int
    num_columns: int = 0
    output: Output = "row"

    def __post_init__(self) -> None:
        if self.num_parameters < 1 or self.num_columns < 0:
            message = (
                "A kernel has one parameter or more, and no negative number of columns; got"
                f" num_parameters={self.num_parameters}, num_columns={self.num_columns}."
            )
            raise InvalidInputError(message)
        if self.output not in _OUTPUTS or (self.output == "point" and not self.num_columns):
            message = (
                "`output` must be 'row', or 'point' for a kernel that has points; got"
                f" {self.output!r} with num_columns={self.num_columns}."
            )
            raise InvalidInputError(message, argument="output", found=self.output)

    def out(self, num_rows: int, num_points: int) -> tuple[int, ...]:
        """Return the shape of what comes out."""
        return (num_rows, num_points) if self.output == "point" else (num_rows,)

    def __str__(self) -> str:
        return f"{self.num_parameters} parameters, {self.num_columns} columns, one number a {self.output}"


class KernelLibrary:
    """One kernel of a shared library, loaded and checked.

    Parameters
    ----------
    path
        The library.
    name
        The kernel's function.
    shape
        The sizes that are expected.

    Raises
    ------
    KernelVersionError
        When the library was built for another version of the interface.
    KernelError
        When it cannot be loaded, lacks a function, or has other sizes.
    """

    def __init__(self, path: Path, name: str, shape: KernelShape) -> None:
        self.path, self.name, self.shape = path, name, shape
        library = _open(str(path))
        _check_version(library, path)
        _check_shape(library, path, name, shape)
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        self._forward = _function(library, path, name)
        self._forward.argtypes = (count, count, pointer, pointer, pointer, ctypes.c_int32)
        self._gradient = getattr(library, f"{name}_gradient", None)
        if self._gradient is not None:
            self._gradient.argtypes = (count, count, *[pointer] * 5, ctypes.c_int32)
            self._gradient.restype = ctypes.c_int32

    @property
    def has_gradient(self) -> bool:
        """Whether the library has the kernel's gradient."""
        return self._gradient is not None

    def value(self, parameters: Array, points: Array | None, num_threads: int) -> Array:
        """Call the kernel.

        Parameters
        ----------
        parameters
            Contiguous, shape ``(num_rows, num_parameters)``.
        points
            Contiguous, shape ``(num_points, num_columns)``.
        num_threads
            Most threads.

        Raises
        ------
        KernelError
            When the kernel reports a failure.
        """
        num_rows, num_points = len(parameters), 0 if points is None else len(points)
        out = np.empty(self.shape.out(num_rows, num_points))
        self._check(
            self._forward(num_rows, num_points, _data(parameters), _data(points), _data(out), num_threads), self.name
        )
        return out

    def gradient(
        self, parameters: Array, points: Array | None, weights: Array, num_threads: int
    ) -> tuple[Array, Array]:
        """Call the kernel for its values and the gradient of their weighted sums.

        Parameters
        ----------
        parameters, points, num_threads
            As in `value`.
        weights
            Contiguous, of the shape of the values.

        Raises
        ------
        KernelError
            When the kernel reports a failure.
        """
        assert self._gradient is not None
        num_rows, num_points = len(parameters), 0 if points is None else len(points)
        out, gradient = np.empty(weights.shape), np.empty(parameters.shape)
        arrays = [_data(array) for array in (parameters, points, weights, out, gradient)]
        self._check(self._gradient(num_rows, num_points, *arrays, num_threads), f"{self.name}_gradient")
        return out, gradient

    @staticmethod
    def _check(status: int, function: str) -> None:
        if status:
            message = f"The kernel {function!r} reported a failure, status {status} (12 is want of memory)."
            raise KernelError(message, status=status)


def build_kernel(source: Path, headers: Sequence[Path], flags: Sequence[str]) -> Path:
    """Return the shared library of a kernel's file, built when it is source text.

    Parameters
    ----------
    source
        A file of C or C++, or a shared library.
    headers
        Files that it includes, beside ``tracestore_kernel.h``.
    flags
        Further arguments of the compiler.

    Raises
    ------
    InvalidInputError
        When a file cannot be read.
    CompilerError
        When it cannot be built.
    """
    language = language_of(source)
    if language is None:
        return source
    header = (resources.files("tracestore.native") / "src" / HEADER).read_text("utf-8")
    texts = {HEADER: header, **{path.name: _text(path) for path in (*headers, source)}}
    dialect = ("-std=gnu++17", "-pthread") if language == "c++" else ()
    arguments = (*_OPTIMIZED, *dialect, *flags, "-lm")
    return build_library(source.stem, texts, language=language, flags=arguments)


def language_of(source: Path) -> Language | None:
    """Tell in which language a kernel's file is written; None for a shared library.

    Raises
    ------
    InvalidInputError
        When it is neither.
    """
    if source.suffix in (".so", ".dylib"):
        return None
    if source.suffix not in _LANGUAGES:
        message = f"A kernel is a file that ends in {', '.join(_LANGUAGES)}, or .so; got {source.name!r}."
        raise InvalidInputError(message, path=str(source))
    return _LANGUAGES[source.suffix]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"The kernel's file {str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}."
        raise InvalidInputError(message, path=str(path)) from error


@lru_cache(maxsize=64)
def _open(path: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(path, mode=ctypes.RTLD_LOCAL)
    except OSError as error:
        message = f"The kernel library {path!r} cannot be loaded: {error}."
        raise KernelError(message, path=path) from error


def _function(library: ctypes.CDLL, path: Path, name: str) -> "ctypes._NamedFuncPointer":
    try:
        function: ctypes._NamedFuncPointer = getattr(library, name)
    except AttributeError as error:
        message = (
            f"The kernel library {path.name!r} has no function {name!r}; define it with C linkage, as {HEADER} says."
        )
        raise KernelError(message, path=str(path), name=name) from error
    function.restype = ctypes.c_int32
    return function


def _check_version(library: ctypes.CDLL, path: Path) -> None:
    function = _function(library, path, "tracestore_kernel_abi")
    function.argtypes = ()
    found = int(function())
    if found != ABI:
        message = (
            f"The kernel library {path.name!r} was built for version {found} of the kernel interface, and this release"
            f" calls version {ABI}; build it again with the {HEADER} of this release."
        )
        raise KernelVersionError(message, path=str(path), found=found, expected=ABI)


def _check_shape(library: ctypes.CDLL, path: Path, name: str, shape: KernelShape) -> None:
    function = _function(library, path, f"{name}_shape")
    function.argtypes = (ctypes.c_int32,)
    function.restype = ctypes.c_int64
    num_parameters, num_columns, output = [int(function(which)) for which in range(3)]
    word = _OUTPUTS[output] if output in (0, 1) else str(output)
    if (num_parameters, num_columns, word) != (shape.num_parameters, shape.num_columns, shape.output):
        message = (
            f"The kernel {name!r} of {path.name!r} has {num_parameters} parameters, {num_columns} columns, one number a"
            f" {word}; it was declared with {shape}."
        )
        raise KernelError(message, path=str(path), name=name)


def _data(array: Array | None) -> int | None:
    return None if array is None else array.ctypes.data
