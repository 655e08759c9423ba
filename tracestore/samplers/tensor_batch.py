"""A batch of traces as torch tensors: what a loader hands to a network."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore._extras import extra
from tracestore.errors import InvalidInputError
from tracestore.traces import Layout, TraceBatch
from tracestore.traces.fixed_sites import require_names, value_places

with extra("train"):
    import torch

__all__ = ["TensorBatch"]


@dataclass(frozen=True, eq=False)
class TensorBatch:
    """The columns of a `TraceBatch` that training reads, as tensors; trace by trace and, inside, site by site.

    Examples
    --------
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> rng = np.random.default_rng(1)
    >>> traces = [run_trace(toys.gum, PriorController(), rng) for _ in range(3)]
    >>> batch = TensorBatch.from_batch(TraceBatch.from_traces(traces), [4, 5, 6])
    >>> len(batch), batch.observations["obs0"].dtype, batch.trace_index.tolist()
    (3, torch.float32, [4, 5, 6])
    """

    layouts: tuple[Layout, ...]
    """The distinct layouts of the batch."""
    layout_index: torch.Tensor
    """Position of each trace's layout in ``layouts``, int64, shape ``(N,)``."""
    values: torch.Tensor
    """Stored values, float64, flat."""
    parameters: torch.Tensor
    """Parameters of priors and likelihoods, float64, flat."""
    log_probs: torch.Tensor
    """Log probabilities, one per site, float64, flat."""
    observations: Mapping[str, torch.Tensor]
    """Named observations, float32 unless asked for otherwise, shape ``(N, *shape)``; zeros where a trace has none."""
    trace_index: torch.Tensor
    """Global index of each trace in the store, int64, shape ``(N,)``."""
    step_size: int
    """Traces of the global step that this batch is the share of one rank of.

    Ranks that divide the sum of their losses by it, and then add up their gradients, have the gradient of the mean
    loss, however the last step's traces are spread over them; a rank without traces adds zero.
    """

    @staticmethod
    def from_batch(
        batch: TraceBatch, trace_index: ArrayLike, *, observation_dtype: torch.dtype = torch.float32
    ) -> "TensorBatch":
        """Share or convert the columns of a batch.

        Parameters
        ----------
        batch
            N traces.
        trace_index
            Their global indices, shape ``(N,)``.
        observation_dtype
            Type of all observations.

        Raises
        ------
        InvalidInputError
            When an observation is beyond the range of float16.
        """
        return TensorBatch(
            layouts=batch.layouts,
            layout_index=_tensor(batch.layout_index, np.int64),
            values=_tensor(batch.values, np.float64),
            parameters=_tensor(batch.parameters, np.float64),
            log_probs=_tensor(batch.log_probs, np.float64),
            observations={
                name: _observation(name, column, observation_dtype) for name, column in batch.observations.items()
            },
            trace_index=_tensor(np.asarray(trace_index), np.int64),
            step_size=len(batch),
        )

    def __len__(self) -> int:
        """Traces."""
        return len(self.layout_index)

    @property
    def num_sites(self) -> torch.Tensor:
        """Sites of each trace, int64, shape ``(N,)``."""
        sizes = torch.tensor([layout.num_sites for layout in self.layouts], dtype=torch.int64)
        return sizes.to(self.layout_index.device)[self.layout_index]

    def as_arrays(
        self, names: Collection[str], observations: Collection[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather sites that every trace has once, and observations, as two dense tensors: ``theta, x``.

        The same as `TraceStore.as_arrays` gives for these traces, on the device of the batch.

        Parameters
        ----------
        names
            Names or full addresses of draws and tags. A scalar is one column, a value of shape ``(3,)`` three.
        observations
            Names of the observations; all of the batch by default.

        Returns
        -------
        theta : torch.Tensor
            Float32, shape ``(N, num_columns)``; for a batch without traces one column per name.
        x : torch.Tensor
            Float32, shape ``(N, *shape)`` for one observation, ``(N, 1)`` when it is a scalar; ``(N, F)`` for several,
            flat and side by side.

        Raises
        ------
        InvalidInputError
            When there is no name or no such observation, or a trace lacks an observation.
        UnknownAddressError
            When no trace has a site.
        TraceTypeMismatchError
            When a trace lacks a site or has several of one name, or values differ in shape; names the trace.
        """
        if not self.observations:
            message = "The batch has no observations; `values` has the sites alone."
            raise InvalidInputError(message, argument="observations")
        asked = tuple(self.observations) if observations is None else require_names(observations, "observations")
        unknown = [name for name in asked if name not in self.observations]
        if unknown:
            message = f"There is no observation {unknown[0]!r}; observations: {', '.join(self.observations)}."
            raise InvalidInputError(message, argument="observations", name=unknown[0])
        places, _ = value_places(
            self.layouts,
            self.layout_index.cpu().numpy(),
            names,
            observations=asked,
            traces=self.trace_index.cpu().numpy(),
        )
        theta = self.values[torch.from_numpy(places).to(self.values.device)].float()
        parts = [self.observations[name].float() for name in asked]
        if len(parts) == 1 and parts[0].ndim > 1:
            return theta, parts[0]
        return theta, torch.cat([part.reshape(len(part), math.prod(part.shape[1:])) for part in parts], dim=1)

    def pin_memory(self) -> "TensorBatch":
        """Copy to page-locked memory, from which copies to a GPU are asynchronous."""
        return self._map(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "TensorBatch":
        """Copy to a device.

        Parameters
        ----------
        device
            Where the tensors shall be.
        non_blocking
            Do not wait for copies from pinned memory.
        """
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "TensorBatch":
        return replace(
            self,
            layout_index=change(self.layout_index),
            values=change(self.values),
            parameters=change(self.parameters),
            log_probs=change(self.log_probs),
            observations={name: change(column) for name, column in self.observations.items()},
            trace_index=change(self.trace_index),
        )


def _tensor(column: NDArray[np.generic], dtype: type[np.number]) -> torch.Tensor:
    owned = np.ascontiguousarray(column, dtype)
    # torch has no read-only tensors: columns that are views of a mapped file are copied, once
    return torch.from_numpy(owned if owned.flags.writeable else owned.copy())


def _observation(name: str, column: NDArray[np.generic], dtype: torch.dtype) -> torch.Tensor:
    is_constant = len(column) > 0 and column.strides[0] == 0
    given = _tensor(column[0] if is_constant else column, np.float32)
    tensor = given.to(dtype)
    if dtype is torch.float16 and bool((tensor.isinf() & ~given.isinf()).any()):
        message = (
            f"Observation {name!r} has values up to {float(given.abs().max()):g}, float16 holds 65504; use bfloat16."
        )
        raise InvalidInputError(message, name=name)
    return tensor.expand(column.shape) if is_constant else tensor
