"""Configuration of a training; knows nothing of stores or tensors."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

from tracestore.networks.config import Config, NetworkConfig, require_positive
from tracestore.samplers.policy import BatchOrder
from tracestore.training.optimizers import OptimizerConfig
from tracestore.training.schedules import Schedule

__all__ = ["TrainConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Schedule):
    """How a network is trained, its schedule included. ``None`` means: chosen by the size of the store.

    Examples
    --------
    >>> TrainConfig(epochs=3).batch_size is None
    True
    >>> TrainConfig(learning_rate=-1.0)
    Traceback (most recent call last):
    ...
    tracestore.errors.InvalidInputError: TrainConfig is not valid: `learning_rate` must be positive; got -1.0.
    """

    nested: ClassVar[Mapping[str, type[Config]]] = {"network": NetworkConfig, "optimizer": OptimizerConfig}

    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    """The network to train."""
    batch_size: int | None = None
    """Traces of a minibatch, all ranks together; by default 64 for small stores up to 256 for large ones."""
    accumulate: int = 1
    """Minibatches whose gradients are added up before the network is updated: 512 of 256 traces make one of 128k."""
    batch_order: BatchOrder = "deck"
    """Order of the minibatches; see `tracestore.samplers.BatchPolicy`."""
    epochs: int | None = None
    """Passes over the store; by default about 160,000 traces' worth, between 2 and 30."""
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    """The update rule."""
    max_gradient_norm: float = 10.0
    """The gradient is scaled down to this norm when it is longer."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of products and convolutions; weights and densities keep theirs."""
    compile: bool = False
    """Compile the embedding of the observations, which needs a C++ compiler. On the processors measured it did not pay
    (`benchmarks/observation_embeddings.py`); measure it on an accelerator."""
    average: float | None = None
    """Decay per step of a moving average of the weights, which validation and the finished network use; None for the
    weights themselves."""
    bad_loss: Literal["stop", "skip"] = "stop"
    """What happens when a minibatch has no finite loss or gradient: the training stops, or goes on without it."""
    validation_fraction: float = 0.05
    """Share of the traces that is never trained on; a trace belongs to it or not by its stream number alone."""
    max_validation_traces: int = 4096
    """Validation stops after this many traces, in store order."""
    patience: int | None = 6
    """Validations (one per epoch) without improvement before training stops early; None never stops."""
    checkpoint_seconds: float = 60.0
    """Longest time between checkpoints; one is also written after every validation."""
    keep_checkpoints: int = 1
    """Checkpoints that are kept beside the best network."""
    prefetch: int = 0
    """Minibatches that a thread reads ahead."""
    seed: int = 0
    """Seed of the order of the traces and of the validation split."""
    device: str = "cpu"
    """Torch device that trains; ``cuda`` gives each rank of a machine one of its own."""

    @property
    def step_size(self) -> int | None:
        """Traces of an update of the network, all ranks together."""
        return None if self.batch_size is None else self.batch_size * self.accumulate

    def _problems(self) -> list[str]:
        names = ("batch_size", "accumulate", "epochs", "patience", "max_validation_traces", "keep_checkpoints")
        problems = [require_positive(self, name) for name in names if getattr(self, name) is not None]
        for name in ("max_gradient_norm", "checkpoint_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                problems.append(f"`{name}` must be positive; got {value!r}")
        if not 0.0 < self.validation_fraction < 0.5:
            problems.append(f"`validation_fraction` must lie between 0 and 0.5; got {self.validation_fraction!r}")
        if self.average is not None and not 0.0 < self.average < 1.0:
            problems.append(f"`average` must lie between 0 and 1; got {self.average!r}")
        if self.prefetch < 0:
            problems.append(f"`prefetch` must be a whole number from 0; got {self.prefetch!r}")
        if not 0 <= self.seed < 2**63:
            problems.append(f"`seed` must lie in [0, 2**63); got {self.seed!r}")
        return [*Schedule._problems(self), *(problem for problem in problems if problem)]
