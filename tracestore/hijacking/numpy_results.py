"""How recorded draws take the place of numpy's numbers, with numpy's own shapes, types and errors.

Each recorded method first lets numpy itself answer the call, from a generator that nothing depends on. That raises
numpy's errors for bad arguments, and gives an answer of the right shape and type; the numbers in it are then replaced.
Plain scalar calls take a short cut.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tracestore.errors import SimulatorProtocolError
from tracestore.hijacking.drawing import draw, native
from tracestore.simulators import runtime
from tracestore.traces.distributions import Uniform

__all__ = ["LARGEST", "Argument", "Like", "computed", "refuse", "result_of", "shape_of", "units"]

LARGEST = 1.0 - 2.0**-53
"""Largest float below one: numpy's uniform draws never are one, those of a prior or proposal may be."""
UNIT = Uniform(0.0, 1.0)

Argument = Any
"""What numpy's methods accept and answer: numbers, sequences, arrays, of whatever kind."""


class Like:
    """Answers a call as numpy does, from a generator of its own.

    Parameters
    ----------
    method
        The native method, unbound.
    scratch
        Generator that the answers are drawn from.
    """

    __slots__ = ("method", "scratch")

    def __init__(self, method: Callable[..., Argument], scratch: object) -> None:
        self.method = method
        self.scratch = scratch

    def __call__(self, *args: object, **options: object) -> Argument:
        """Answer a call."""
        with native():
            return self.method(self.scratch, *args, **options)


def computed(
    result: Argument,
    parameters: tuple[Argument, ...],
    compute: Callable[..., Argument],
    is_fixed: Callable[..., Argument] | None = None,
) -> Argument:
    """Replace the numbers of a result by computed ones.

    Parameters
    ----------
    result
        What numpy answered: a number, or an array that is changed in place.
    parameters
        Parameters that broadcast to the shape of the result.
    compute
        Makes draws, given the parameters: as many numbers, or arrays of one shape.
    is_fixed
        For which parameters there is nothing random about the result; there numpy's answer stays.
    """
    shape = np.shape(result)
    if not shape:
        numbers = [float(np.asarray(parameter).item()) for parameter in parameters]
        if is_fixed is not None and is_fixed(*numbers):
            return result
        return result_of(compute(*numbers), result)
    if 0 in shape:
        return result
    arrays = [np.broadcast_to(np.asarray(parameter, np.float64), shape) for parameter in parameters]
    if is_fixed is not None:
        free = ~np.broadcast_to(is_fixed(*arrays), shape)
        if not free.all():
            if free.any():
                result[free] = compute(*[array[free] for array in arrays])
            return result
    result[...] = compute(*arrays)
    return result


def result_of(value: object, result: Argument) -> Argument:
    """Give a single value the type of numpy's answer."""
    if isinstance(result, np.ndarray):
        result[...] = value
        return result
    return type(result)(value)


def shape_of(size: Argument) -> tuple[int, ...]:
    """Shape that a ``size`` argument stands for."""
    if size is None:
        return ()
    return tuple(map(int, size)) if np.ndim(size) else (int(size),)


def units(method: str, shape: tuple[int, ...]) -> Argument:
    """Draw from [0, 1): a number when the shape is ``()``, else one vector site."""
    if not shape:
        value = draw(UNIT, method)
        return value if value < 1.0 else LARGEST
    return np.minimum(draw(Uniform(np.zeros(shape), 1.0), method), LARGEST)


def refuse(method: str, why: str) -> SimulatorProtocolError:
    """Make the error about a call that cannot be recorded; it ends the run even if the program swallows it."""
    message = f"Draws of numpy's `{method}` cannot be recorded {why}; draw by another method or by `tracestore.sample`."
    error = SimulatorProtocolError(message, method=method)
    if runtime._current is not None:
        runtime._current.fatal = error
    return error
