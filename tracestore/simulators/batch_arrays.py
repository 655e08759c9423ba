"""What arrays a batched program computes with: numpy's, or tensors of torch."""

import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError

__all__ = ["BatchArrays", "NumpyArrays", "batch_arrays", "is_shared"]

_KINDS = {
    "numpy": "tracestore.simulators.batch_arrays:NumpyArrays",
    "torch": "tracestore.simulators.tensor_arrays:TensorArrays",
}

SHARED_FROM = 1_000_000
"""Numbers of a batch from which one copy serves all traces that share it."""


class BatchArrays(Protocol):
    """Hands values to a program in the kind of array that it computes with."""

    def give(self, values: NDArray[np.generic]) -> Any:  # noqa: ANN401  # programs compute with it as with any number
        """Return a copy of values, because programs compute in place; of large ones that traces share, one for all."""

    def running(self) -> AbstractContextManager[object]:
        """Enter what a program needs to run in."""


class NumpyArrays:
    """Arrays of numpy.

    Examples
    --------
    >>> NumpyArrays().give(np.zeros(2))
    array([0., 0.])
    """

    def give(self, values: NDArray[np.generic]) -> Any:  # noqa: ANN401
        """Return a copy; read-only where it serves all traces."""
        return np.broadcast_to(values[0].copy(), values.shape) if is_shared(values) else values.copy()

    def running(self) -> AbstractContextManager[object]:
        """Enter nothing."""
        return nullcontext()


def is_shared(values: NDArray[np.generic]) -> bool:
    """Tell whether values are the same large array for all traces, such as a data set that is observed.

    Examples
    --------
    >>> is_shared(np.broadcast_to(np.zeros(1_000_000), (64, 1_000_000))), is_shared(np.zeros((64, 1_000_000)))
    (True, False)
    """
    return values.ndim > 1 and len(values) > 1 and values.strides[0] == 0 and values.size > SHARED_FROM


def batch_arrays(name: str) -> BatchArrays:
    """Find a kind of arrays by its name.

    Parameters
    ----------
    name
        ``numpy`` or ``torch``.

    Raises
    ------
    InvalidInputError
        When there is no such kind.
    MissingExtraError
        When torch is not installed.

    Examples
    --------
    >>> type(batch_arrays("numpy")).__name__
    'NumpyArrays'
    """
    if name not in _KINDS:
        message = f"`arrays` must be one of {', '.join(map(repr, _KINDS))}; got {name!r}."
        raise InvalidInputError(message, argument="arrays", found=name)
    module, _, kind = _KINDS[name].partition(":")
    found: BatchArrays = getattr(importlib.import_module(module), kind)()
    return found
