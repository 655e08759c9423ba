"""What the loop around a training step and its checkpoints need of a trainer, whatever it trains.

Protocols alone; `tracestore.training.trainer` and `tracestore.training.surrogate_trainer` fulfill them.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from torch import Tensor

from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.training.communicator import Communicator
from tracestore.training.records import StepRecord

__all__ = ["Learner", "LoopSettings", "NetworkT", "TensorState"]

NetworkT = TypeVar("NetworkT")
"""What is trained."""
NetworkT_co = TypeVar("NetworkT_co", covariant=True)
"""The same where it is only handed out."""


class LoopSettings(Protocol):
    """Settings that the loop reads."""

    @property
    def patience(self) -> int | None:
        """Validations without improvement before training stops."""

    @property
    def checkpoint_seconds(self) -> float:
        """Longest time between checkpoints."""

    @property
    def keep_checkpoints(self) -> int:
        """Checkpoints that are kept."""


class TensorState(Protocol):
    """State of an optimizer or of averages, as named tensors."""

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the state."""

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state_tensors` returned."""


class Learner(Protocol[NetworkT_co]):
    """A trainer: it improves a network by one minibatch at a time, and judges it."""

    step: int
    """Steps done."""
    wants_stop: bool
    """Set on any rank, it makes the next record of every rank say so."""

    @property
    def network(self) -> NetworkT_co:
        """What is trained."""

    @property
    def config(self) -> LoopSettings:
        """Settings."""

    @property
    def communicator(self) -> Communicator:
        """The ranks."""

    @property
    def optimizer(self) -> TensorState:
        """What a checkpoint must keep beside the network."""

    @property
    def average(self) -> TensorState | None:
        """Averages of the weights, if they are kept."""

    def train_step(self, *batches: TensorBatch) -> StepRecord:
        """Improve the network by one minibatch, which may come in parts."""

    def validate(self, batches: Iterable[TensorBatch]) -> float:
        """Return the validation loss, the same on all ranks; lower is better."""

    def evaluated(self) -> AbstractContextManager[NetworkT_co]:
        """Lend the network as it would be used now."""
