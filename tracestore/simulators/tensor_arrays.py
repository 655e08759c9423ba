"""Tensors for batched programs that compute with torch: in double precision, and without gradients in a plain run."""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracestore._extras import extra
from tracestore.simulators.batch_arrays import is_shared

with extra("train"):
    import torch

__all__ = ["TensorArrays"]


class TensorArrays:
    """Tensors on the CPU.

    Examples
    --------
    >>> TensorArrays().give(np.zeros(2))
    tensor([0., 0.], dtype=torch.float64)
    """

    def give(self, values: NDArray[np.generic]) -> Any:  # noqa: ANN401
        """Return a copy of values as a tensor; expanded where it serves all traces."""
        if is_shared(values):
            return torch.from_numpy(values[0].copy()).expand(values.shape)
        return torch.from_numpy(values.copy())

    def running(self) -> AbstractContextManager[object]:
        """Compute without a graph: nobody asks for gradients in a plain run."""
        return torch.no_grad()
