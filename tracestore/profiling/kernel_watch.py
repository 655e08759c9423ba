"""Native kernels that a program calls, and how they scale with threads."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from tracestore.native.kernel import Kernel

__all__ = ["KernelScaling", "KernelWatch", "ThreadSpeed"]

MIN_SECONDS = 0.05
"""For which one number of threads is tried at least, unless that takes very many calls."""
MAX_CALLS = 200
ROUNDS = 3
"""Tries of each number of threads; the fastest counts."""


@dataclass(frozen=True, slots=True)
class ThreadSpeed:
    """One number of threads."""

    num_threads: int
    seconds: float
    """Of one call."""
    speedup: float
    """Against the first number of threads."""
    efficiency: float
    """Speed-up by thread, against the first number of threads."""


@dataclass(frozen=True, slots=True)
class KernelScaling:
    """How one kernel, as the program calls it, scales with threads."""

    name: str
    is_native: bool
    is_gradient: bool
    num_calls: int
    """Calls in the traces that were watched."""
    num_rows: int
    """Rows of parameters of the largest call."""
    num_points: int
    """Points of that call; 0 for a kernel without points."""
    speeds: tuple[ThreadSpeed, ...]


class KernelWatch:
    """Notes the calls of kernels while the block lasts: of each kernel, the call with the most work.

    Examples
    --------
    >>> with KernelWatch() as watch:
    ...     pass
    >>> watch.scaling([1, 2])
    ()
    """

    def __init__(self) -> None:
        self._largest: dict[tuple[int, bool], tuple[int, Kernel, tuple[Any, ...]]] = {}
        self._counts: dict[tuple[int, bool], int] = {}

    def __enter__(self) -> Self:
        self._methods = {name: getattr(Kernel, name) for name in ("call", "__call__", "gradient")}
        for name, method in self._methods.items():
            setattr(Kernel, name, self._watched(method, is_gradient=name == "gradient"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name, method in self._methods.items():
            setattr(Kernel, name, method)

    def scaling(self, threads: Sequence[int]) -> tuple[KernelScaling, ...]:
        """Time the noted calls again.

        Parameters
        ----------
        threads
            Numbers of threads, from 1; the first is the reference of the others.

        Returns
        -------
        tuple of KernelScaling
            One for each kernel that was called, those with the most work first.
        """
        found = []
        for key, (_, kernel, arguments) in sorted(self._largest.items(), key=lambda item: -item[1][0]):
            rows, points = arguments[0], arguments[1] if len(arguments) > 1 else None
            times = [_time(kernel, arguments, number, is_gradient=key[1]) for number in threads]
            speeds = [
                ThreadSpeed(number, seconds, times[0] / seconds, times[0] * threads[0] / (seconds * number))
                for number, seconds in zip(threads, times, strict=True)
            ]
            num_rows = len(rows) if rows.ndim > 1 else 1
            num_points = 0 if points is None else len(points)
            found.append(
                KernelScaling(
                    kernel.name, kernel.is_native, key[1], self._counts[key], num_rows, num_points, tuple(speeds)
                )
            )
        return tuple(found)

    def _watched(self, method: Callable[..., Any], *, is_gradient: bool) -> Callable[..., Any]:
        def call(kernel: Kernel, parameters: Any, *others: Any, **options: Any) -> Any:  # noqa: ANN401
            key = (id(kernel), is_gradient)
            found = method(kernel, parameters, *others, **options)
            rows = np.array(parameters, np.float64)  # a copy: programs may write into theirs
            places = others or ((options["points"],) if options.get("points") is not None else ())
            work = rows.size * (places[0].size if places and places[0] is not None else 1)
            self._counts[key] = self._counts.get(key, 0) + 1
            if work > self._largest.get(key, (-1,))[0]:
                self._largest[key] = (work, kernel, (rows, *places))
            return found

        return call


def _time(kernel: Kernel, arguments: tuple[Any, ...], num_threads: int, *, is_gradient: bool) -> float:
    method = kernel.gradient if is_gradient else kernel.call
    fastest = float("inf")
    num_calls = 1
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        for _ in range(num_calls):
            method(*arguments, num_threads=num_threads)
        seconds = (time.perf_counter() - begun) / num_calls
        fastest = min(fastest, seconds)
        num_calls = min(max(int(MIN_SECONDS / max(seconds, 1e-9)), 1), MAX_CALLS)
    return fastest
