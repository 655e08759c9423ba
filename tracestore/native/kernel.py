"""Batched kernels: a function in C or C++ that evaluates a formula for many points and rows of parameters in one call.

A kernel has a fallback in numpy that gives the same numbers to rounding and runs where there is no compiler. Results
do not depend on the number of threads when the kernel keeps to that, as loops of ``tracestore_kernel.h`` do. Knows
nothing of torch: see `tracestore.native.torch_kernel`.
"""

import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError, KernelError, TracestoreWarning
from tracestore.native.build import find_compiler
from tracestore.native.kernel_library import KernelLibrary, KernelShape, Output, build_kernel, language_of

__all__ = ["Kernel", "ThreadTiming", "default_threads", "load_kernel", "thread_scaling"]

Array = NDArray[np.float64]
ValueFunction = Callable[[Array, Array], Array]
"""Parameters and points to what the kernel puts out."""
GradientFunction = Callable[[Array, Array, Array], tuple[Array, Array]]
"""Parameters, points and weights to what the kernel puts out and its gradient."""


class ThreadTiming(NamedTuple):
    """How long one call took."""

    num_threads: int
    seconds: float


class Kernel:
    """A formula for many points and rows of parameters; made by `load_kernel`.

    Parameters
    ----------
    name
        Its function's name.
    shape
        Sizes of what goes in and comes out.
    library
        The native functions; None where the fallback runs.
    fallback, fallback_gradient
        The same in numpy.

    Examples
    --------
    >>> def line(parameters, points):
    ...     return parameters[:, :1] + parameters[:, 1:] * points[:, 0]
    >>> kernel = Kernel("line", KernelShape(2, 1, "point"), None, line)
    >>> kernel.call([1.0, 2.0], np.array([[0.0], [1.0]]))
    array([1., 3.])
    """

    def __init__(
        self,
        name: str,
        shape: KernelShape,
        library: KernelLibrary | None,
        fallback: ValueFunction | None = None,
        fallback_gradient: GradientFunction | None = None,
    ) -> None:
        self.name, self.shape = name, shape
        self._library = library
        self._fallback, self._fallback_gradient = fallback, fallback_gradient

    def __repr__(self) -> str:
        return f"<Kernel {self.name!r}: {self.shape}; {'native' if self.is_native else 'numpy'}>"

    @property
    def is_native(self) -> bool:
        """Whether native code runs, not the fallback."""
        return self._library is not None

    @property
    def has_gradient(self) -> bool:
        """Whether `gradient` can be called."""
        return self._fallback_gradient is not None if self._library is None else self._library.has_gradient

    def as_fallback(self) -> "Kernel":
        """Return the kernel that runs in numpy.

        Raises
        ------
        KernelError
            When there is none.
        """
        if self._fallback is None:
            raise KernelError(f"The kernel {self.name!r} has no fallback.", name=self.name)
        return Kernel(self.name, self.shape, None, self._fallback, self._fallback_gradient)

    def call(self, parameters: ArrayLike, points: Array | None = None, *, num_threads: int | None = None) -> Array:
        """Evaluate the formula.

        Parameters
        ----------
        parameters
            Shape ``(num_rows, num_parameters)``, or ``(num_parameters,)`` for one row.
        points
            float64, C-contiguous, shape ``(num_points, num_columns)``; None for a kernel without points.
        num_threads
            Most threads of this call; those of `default_threads` when None.

        Returns
        -------
        ndarray of float64
            Shape ``(num_rows,)`` or ``(num_rows, num_points)``; without the first axis where the parameters have none.

        Raises
        ------
        InvalidInputError
            When an array has another shape, type or layout, or ``num_threads`` is not positive.
        KernelError
            When the kernel reports a failure, or the fallback returns another shape.
        """
        rows, places, is_single = self._read(parameters, points)
        threads = _read_threads(num_threads)
        if self._library is not None:
            out = self._library.value(rows, places, threads)
        else:
            assert self._fallback is not None
            out = self._checked(self._fallback(rows, _some(places)), self.shape.out(len(rows), _length(places)))
        return out[0] if is_single else out

    __call__ = call

    def gradient(
        self,
        parameters: ArrayLike,
        points: Array | None = None,
        weights: ArrayLike | None = None,
        *,
        num_threads: int | None = None,
    ) -> tuple[Array, Array]:
        """Evaluate the formula, and the gradient of a weighted sum of what each row puts out.

        Parameters
        ----------
        parameters, points, num_threads
            As in `call`.
        weights
            Of the shape of what `call` returns; ones when None.

        Returns
        -------
        tuple of two ndarrays of float64
            What `call` returns, and the gradient by the parameters, of their shape.

        Raises
        ------
        InvalidInputError
            As in `call`.
        KernelError
            As in `call`, and when the kernel has no gradient.
        """
        if not self.has_gradient:
            message = (
                f"The kernel {self.name!r} has no gradient; define {self.name}_gradient in its library, or give"
                " `fallback_gradient`."
            )
            raise KernelError(message, name=self.name)
        rows, places, is_single = self._read(parameters, points)
        shape = self.shape.out(len(rows), _length(places))
        given = self._read_weights(weights, shape, is_single=is_single)
        threads = _read_threads(num_threads)
        if self._library is not None:
            out, gradient = self._library.gradient(rows, places, given, threads)
        else:
            assert self._fallback_gradient is not None
            out, gradient = self._fallback_gradient(rows, _some(places), given)
            out, gradient = self._checked(out, shape), self._checked(gradient, rows.shape)
        return (out[0], gradient[0]) if is_single else (out, gradient)

    def _read(self, parameters: ArrayLike, points: Array | None) -> tuple[Array, Array | None, bool]:
        size, columns = self.shape.num_parameters, self.shape.num_columns
        if hasattr(parameters, "detach") or hasattr(points, "detach"):
            message = f"The kernel {self.name!r} takes numpy arrays; for tensors, wrap it in `TensorKernel`."
            raise InvalidInputError(message)
        rows = np.asarray(parameters, np.float64, order="C")
        if rows.ndim not in (1, 2) or rows.shape[-1] != size:
            message = (
                f"`parameters` of the kernel {self.name!r} must have shape (num_rows, {size}) or ({size},); got"
                f" {rows.shape}."
            )
            raise InvalidInputError(message, argument="parameters", found=rows.shape)
        is_single = rows.ndim == 1
        rows = rows[None] if is_single else rows
        if not columns:
            if points is not None:
                raise InvalidInputError(f"The kernel {self.name!r} takes no points.", argument="points")
            return rows, None, is_single
        if not isinstance(points, np.ndarray) or points.ndim != 2 or points.shape[1] != columns:
            found = f"shape {points.shape}" if isinstance(points, np.ndarray) else type(points).__name__
            message = (
                f"`points` of the kernel {self.name!r} must be an array of shape (num_points, {columns}); got {found}."
            )
            raise InvalidInputError(message, argument="points")
        if points.dtype != np.float64 or not points.flags.c_contiguous:
            layout = "contiguous" if points.flags.c_contiguous else "not contiguous"
            message = (
                f"`points` of the kernel {self.name!r} must be contiguous float64, because they are not copied in each"
                f" call; got {points.dtype}, {layout}. Convert them once: np.ascontiguousarray(points, np.float64)."
            )
            raise InvalidInputError(message, argument="points")
        return rows, points, is_single

    def _read_weights(self, weights: ArrayLike | None, shape: tuple[int, ...], *, is_single: bool) -> Array:
        if weights is None:
            return np.ones(shape)
        given = np.asarray(weights, np.float64, order="C")
        if given.shape != (shape[1:] if is_single else shape):
            message = (
                f"`weights` of the kernel {self.name!r} must have the shape of its output,"
                f" {shape[1:] if is_single else shape}; got {given.shape}."
            )
            raise InvalidInputError(message, argument="weights", found=given.shape)
        return given.reshape(shape)

    def _checked(self, found: Array, shape: tuple[int, ...]) -> Array:
        array = np.asarray(found, np.float64)
        if array.shape != shape:
            message = f"The fallback of the kernel {self.name!r} must return shape {shape}; got {array.shape}."
            raise KernelError(message, found=array.shape)
        return array if array.base is None else array.copy()  # never a view of what came in


def load_kernel(
    source: str | os.PathLike[str],
    name: str,
    *,
    num_parameters: int,
    num_columns: int = 0,
    output: Output = "row",
    fallback: ValueFunction | None = None,
    fallback_gradient: GradientFunction | None = None,
    times_slower: float | None = None,
    headers: Sequence[str | os.PathLike[str]] = (),
    flags: Sequence[str] = (),
) -> Kernel:
    """Turn a C or C++ file into a batched function of numpy arrays.

    The file is built once into the user's cache, with optimization; ``tracestore_kernel.h``, which it includes,
    describes the functions it must have. Where there is no compiler, the fallback runs and a warning says so, once; a
    compiler that reports an error is an error.

    Parameters
    ----------
    source
        A file ending in ``.c``, ``.cpp``, ``.cc`` or ``.cxx``, or a shared library with the same functions, ``.so``.
    name
        The kernel's function. One file may hold several.
    num_parameters, num_columns, output
        As in `KernelShape`; compared with what the library declares.
    fallback
        Gets parameters ``(num_rows, num_parameters)`` and points ``(num_points, num_columns)``; returns ``(num_rows,)``
        or ``(num_rows, num_points)``.
    fallback_gradient
        Gets weights of that shape, too; returns that, and the gradient ``(num_rows, num_parameters)``.
    times_slower
        How many times slower the fallback is, as measured; for the warning.
    headers
        Further files that the source includes.
    flags
        Further arguments of the compiler.

    Returns
    -------
    Kernel
        The function.

    Raises
    ------
    InvalidInputError
        When a file cannot be read, or the sizes make no kernel.
    CompilerError
        When the compiler reports an error, or there is none and no fallback either.
    KernelVersionError
        When the library was built for another version of the interface.
    KernelError
        When the library cannot be loaded, lacks a function, or declares other sizes.

    Examples
    --------
    >>> load_kernel("kernel.f90", "mean", num_parameters=2)
    Traceback (most recent call last):
    tracestore.errors.InvalidInputError: A kernel is a file that ends in .c, .cpp, .cc, .cxx, or .so; got 'kernel.f90'.
    """
    path = Path(source)
    shape = KernelShape(num_parameters, num_columns, output)
    language = language_of(path)
    if language is not None and fallback is not None and find_compiler(language) is None:
        slower = "slower" if times_slower is None else f"about {times_slower:g} times slower"
        _warn_once(
            f"No {language.upper()} compiler was found, so the numpy version of the kernels of {path.name!r} runs:"
            f" the same numbers, {slower}. Install a compiler (on Debian: apt-get install g++)."
        )
        return Kernel(name, shape, None, fallback, fallback_gradient)
    built = build_kernel(path, [Path(header) for header in headers], flags)
    library = KernelLibrary(built.absolute(), name, shape)
    return Kernel(name, shape, library, fallback, fallback_gradient)


def default_threads() -> int:
    """Return how many threads a kernel uses at most: ``$OMP_NUM_THREADS``, else the processors of this process.

    Examples
    --------
    >>> default_threads() >= 1
    True
    """
    chosen = os.environ.get("OMP_NUM_THREADS", "").strip()
    if chosen.isdecimal() and int(chosen) > 0:
        return int(chosen)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_scaling(
    kernel: Kernel,
    parameters: ArrayLike,
    points: Array | None = None,
    *,
    threads: Sequence[int] | None = None,
    repeats: int = 5,
) -> list[ThreadTiming]:
    """Time one call on several numbers of threads.

    Parameters
    ----------
    kernel
        What is called.
    parameters, points
        As in `Kernel.call`.
    threads
        Numbers of threads; 1, 2, 4 and so on up to those of `default_threads` when None.
    repeats
        Calls on each; the fastest counts.

    Returns
    -------
    list of ThreadTiming
        One for each number of threads, in seconds.

    Raises
    ------
    InvalidInputError, KernelError
        As in `Kernel.call`; and when ``repeats`` is not positive.

    Examples
    --------
    >>> kernel = Kernel("square", KernelShape(1), None, lambda parameters, points: parameters[:, 0] ** 2)
    >>> [timing.num_threads for timing in thread_scaling(kernel, [2.0], threads=(1, 2))]
    [1, 2]
    """
    if repeats < 1:
        raise InvalidInputError(f"`repeats` must be at least 1; got {repeats}.", argument="repeats", found=repeats)
    found = []
    for number in threads or _doubled(default_threads()):
        seconds = []
        for _ in range(repeats):
            begun = time.perf_counter()
            kernel.call(parameters, points, num_threads=number)
            seconds.append(time.perf_counter() - begun)
        found.append(ThreadTiming(number, min(seconds)))
    return found


def _doubled(most: int) -> list[int]:
    numbers = [1]
    while numbers[-1] < most:
        numbers.append(min(2 * numbers[-1], most))
    return numbers


def _read_threads(num_threads: int | None) -> int:
    if num_threads is None:
        return default_threads()
    if num_threads < 1:
        message = f"`num_threads` must be at least 1; got {num_threads}."
        raise InvalidInputError(message, argument="num_threads", found=num_threads)
    return num_threads


def _some(points: Array | None) -> Array:
    return np.empty((0, 0)) if points is None else points


def _length(points: Array | None) -> int:
    return 0 if points is None else len(points)


@lru_cache(maxsize=256)
def _warn_once(message: str) -> None:
    warnings.warn(message, TracestoreWarning, stacklevel=3)
