"""A store as a torch data set whose items are whole batches: one read per column instead of one per trace."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore._extras import extra
from tracestore.errors import InvalidInputError
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.store.trace_store import TraceStore

with extra("train"):
    import torch
    from torch.utils.data import Dataset

__all__ = ["TraceDataset"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class TraceDataset(Dataset[TensorBatch]):
    """A store as a map-style dataset whose items are whole batches.

    Works with any sampler that yields arrays of trace indices and ``batch_size=None``, in forked and in spawned
    workers.

    Parameters
    ----------
    store
        An open store; workers read the same snapshot.
    observations
        Names of the observations to read; None for all, empty for none.
    observation_dtype
        Type of all observations: ``torch.float32``, ``torch.bfloat16`` or ``torch.float16``.

    Raises
    ------
    InvalidInputError
        When the store lacks an observation, or the type is another.

    Examples
    --------
    >>> import tracestore as ts, tempfile
    >>> from torch.utils.data import DataLoader
    >>> store = ts.simulate(ts.simulators.toys.gum, tempfile.mkdtemp() + "/traces", num_traces=100, seed=1)
    >>> loader = DataLoader(TraceDataset(store), sampler=[[5, 3], [70]], batch_size=None)
    >>> [batch.trace_index.tolist() for batch in loader]
    [[5, 3], [70]]
    """

    def __init__(
        self,
        store: TraceStore,
        *,
        observations: Collection[str] | None = None,
        observation_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.store = store
        self.observations = None if observations is None else _require_known(store, observations)
        if observation_dtype not in _DTYPES:
            allowed = ", ".join(map(str, _DTYPES))
            message = f"`observation_dtype` must be one of {allowed}; got {observation_dtype!r}."
            raise InvalidInputError(message, argument="observation_dtype")
        self.observation_dtype = observation_dtype

    def __len__(self) -> int:
        """Traces in the store."""
        return len(self.store)

    def __getitem__(self, indices: ArrayLike) -> TensorBatch:
        """Read some traces, in the order asked for.

        Raises
        ------
        InvalidInputError
            When it is asked for one trace: then a loader has another sampler than it should.
        """
        return self.read(indices)

    def read(
        self, indices: ArrayLike, make_out: Callable[[int], Mapping[str, torch.Tensor]] | None = None
    ) -> TensorBatch:
        """Read some traces, observations into tensors that are there already.

        Parameters
        ----------
        indices
            Indices of traces, shape ``(N,)``.
        make_out
            Given N, returns tensors for some of `direct_shapes`, by name; they are then part of the batch.

        Raises
        ------
        InvalidInputError
            When it is asked for one trace.
        """
        chosen: NDArray[np.int64] = np.asarray(indices, np.int64)
        if chosen.ndim != 1:
            message = (
                f"An item is a whole batch, for an array of trace indices; got {indices!r}. Use `trace_loader`, or "
                "`batch_size=None` and a `BucketedBatchSampler`, and let no other program put its sampler in place."
            )
            raise InvalidInputError(message, argument="indices", found=indices)
        out = {} if make_out is None else make_out(len(chosen))
        batch = self.store.take(
            chosen, observations=self.observations, out={name: tensor.numpy() for name, tensor in out.items()}
        )
        tensors = TensorBatch.from_batch(batch, chosen, observation_dtype=self.observation_dtype)
        return replace(tensors, observations={**tensors.observations, **out})

    @cached_property
    def direct_shapes(self) -> dict[str, tuple[int, ...]]:
        """Observations that need no conversion, and their shapes: float32 in all segments, and not one row for all."""
        if self.observation_dtype is not torch.float32:
            return {}
        infos = [info for segment in self.store.segments for info in segment.observations]
        others = {info.name for info in infos if info.constant or np.dtype(info.dtype) != np.float32}
        shapes = self.store.observation_shapes
        wanted = shapes if self.observations is None else self.observations
        return {name: shapes[name] for name in wanted if name not in others}


def _require_known(store: TraceStore, observations: Collection[str]) -> tuple[str, ...]:
    known = store.observation_shapes
    names = (observations,) if isinstance(observations, str) else tuple(observations)
    unknown = [name for name in names if name not in known]
    if unknown:
        exists = f"it has {', '.join(known)}" if known else "it has no observations; leave `observations` out"
        message = f"The store {store.storage.url} has no observation {unknown[0]!r}; {exists}."
        raise InvalidInputError(message, argument="observations", found=unknown[0])
    return names
