"""Where minibatches come from: steps of one or more parts, and a position that is saved and restored."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.samplers.torch_loader import TraceLoader

__all__ = ["BatchSource", "StoreSource"]


class BatchSource(Protocol):
    """The steps of a training, for one rank."""

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""

    @property
    def num_traces(self) -> int:
        """Traces of the whole training, all ranks together, repetitions included."""

    def __iter__(self) -> Iterator[tuple[TensorBatch, ...]]:
        """Yield this rank's share of each step, in parts, up to the next validation."""

    @property
    def is_at_validation(self) -> bool:
        """Whether the step handed out last is followed by a validation."""

    def state_dict(self) -> Mapping[str, str | int]:
        """Describe the position after the step handed out last."""

    def load_state_dict(self, state: Mapping[str, str | int]) -> None:
        """Go to a position saved by `state_dict`."""


class StoreSource:
    """Steps from the traces of a store, for some epochs.

    Parameters
    ----------
    loader
        Minibatches.
    num_epochs
        Passes over the store.
    accumulate
        Minibatches of one step; the last step of an epoch may have fewer.
    """

    def __init__(self, loader: TraceLoader, num_epochs: int, accumulate: int) -> None:
        self.loader = loader
        self._num_epochs = num_epochs
        self._accumulate = accumulate

    @property
    def num_steps(self) -> int:
        """Steps of all epochs."""
        return self._num_epochs * -(-self.loader.plan.num_steps // self._accumulate)

    @property
    def num_traces(self) -> int:
        """Traces of all epochs."""
        return self._num_epochs * self.loader.plan.num_traces

    def __iter__(self) -> Iterator[tuple[TensorBatch, ...]]:
        """Yield the steps that are left of an epoch."""
        parts: list[TensorBatch] = []
        for batch in self.loader:
            parts.append(batch)
            if len(parts) == self._accumulate or self.loader.step == 0:
                yield tuple(parts)
                parts = []

    @property
    def is_at_validation(self) -> bool:
        """Whether an epoch has just ended."""
        return self.loader.step == 0

    def state_dict(self) -> Mapping[str, str | int]:
        """Describe the position of the loader, between two steps."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, str | int]) -> None:
        """Go to a position saved by `state_dict`."""
        self.loader.load_state_dict(state)
