"""Configuration of the training of a surrogate, and good ones to begin with; knows nothing of stores or tensors."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

from tracestore.networks.config import Config, require_positive
from tracestore.surrogates.config import SurrogateConfig
from tracestore.training.optimizers import OptimizerConfig
from tracestore.training.schedules import Schedule

__all__ = ["RECIPES", "SurrogateTrainConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SurrogateTrainConfig(Schedule):
    """How a surrogate is trained, its schedule included. ``None`` means: chosen by the store.

    Examples
    --------
    >>> SurrogateTrainConfig(seconds=600.0).epochs is None
    True
    >>> SurrogateTrainConfig(seconds=600.0, epochs=3)
    Traceback (most recent call last):
    ...
    tracestore.errors.InvalidInputError: SurrogateTrainConfig is not valid: `seconds` and `epochs` exclude each other;
    give one.
    """

    nested: ClassVar[Mapping[str, type[Config]]] = {"surrogate": SurrogateConfig, "optimizer": OptimizerConfig}

    surrogate: SurrogateConfig = dataclasses.field(default_factory=SurrogateConfig)
    """The model to train."""
    labels: tuple[str, ...] = ()
    """Draws or tags that an image is conditioned on; none: ``energy`` and ``angle``, where the store has them."""
    observation: str | None = None
    """What is generated; by default the store's only observation, or ``shower``."""
    start_scaling: Literal["keep", "refit"] = "refit"
    """With a surrogate to start from: set its scalings anew from this store, or keep them. They hold laws of labels,
    such as the mean image at an energy, which mean nothing outside of the range that they were fitted to; what is
    between them and the images is much alike at all energies. Keep them when the labels stay in that range."""
    learning_rate: float = 1e-3
    """Highest learning rate, reached at the end of the warm-up."""
    final_learning_rate: float = 1e-5
    """Learning rate of ``polynomial`` and ``cosine`` at the last step and after it."""
    batch_size: int = 64
    """Traces of a step, all ranks together."""
    epochs: int | None = None
    """Passes over the store; by default about 400,000 traces' worth, between 2 and 30."""
    seconds: float | None = None
    """Instead of epochs: wall time of the steps on rank 0, data included; validation and files come on top. The
    learning rate then follows time, so two trainings with equal time differ in their numbers of steps, and a repeated
    one does not have the same bits."""
    num_validations: int = 8
    """Validations of a training by time, equally far apart; one by epochs has one after each."""
    warmup_epochs: float | None = None
    """Epochs over which the learning rate rises, instead of ``warmup_fraction`` (5 in the 3DGAN papers)."""
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    """The update rule of every phase."""
    max_gradient_norm: float = 10.0
    """The gradient of a phase is scaled down to this norm when it is longer."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of products and convolutions; weights and losses keep theirs."""
    average: float | None = 0.999
    """Decay per step of a moving average of the weights, which validation and the finished surrogate use; None for the
    weights themselves."""
    validation_fraction: float = 0.05
    """Share of the traces that is never trained on; a trace belongs to it or not by its stream number alone."""
    max_validation_traces: int = 2048
    """The validation part has about as many traces at most."""
    patience: int | None = None
    """Validations without improvement before training stops early; None never stops."""
    checkpoint_seconds: float = 60.0
    """Longest time between checkpoints; one is also written after every validation."""
    keep_checkpoints: int = 1
    """Checkpoints that are kept beside the best surrogate."""
    prefetch: int = 4
    """Minibatches that a thread, or each of the ``workers``, reads ahead."""
    workers: int = 0
    """Processes of a rank that read; one thread reads about 5,000 images of 25 x 25 x 25 cells a second."""
    seed: int = 0
    """Seed of the first weights, of the noise and of the order of the traces."""
    device: str = "cpu"
    """Torch device that trains; ``cuda`` gives each rank of a machine one of its own."""

    @property
    def step_size(self) -> int:
        """Traces of an update, all ranks together."""
        return self.batch_size

    def _problems(self) -> list[str]:
        whole = ("batch_size", "epochs", "patience", "max_validation_traces", "keep_checkpoints", "num_validations")
        problems = [require_positive(self, name) for name in whole if getattr(self, name) is not None]
        for name in ("max_gradient_norm", "checkpoint_seconds", "seconds", "warmup_epochs"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                problems.append(f"`{name}` must be positive; got {value!r}")
        if self.seconds is not None:
            problems += [
                f"`seconds` and `{name}` exclude each other; give one"
                for name in ("epochs", "warmup_epochs")
                if getattr(self, name) is not None
            ]
        if not all(self.labels):
            problems.append(f"`labels` must be names; got {self.labels!r}")
        elif len(set(self.labels)) < len(self.labels):
            problems.append(f"`labels` must have each name once; got {self.labels!r}")
        if not 0.0 < self.validation_fraction < 0.5:
            problems.append(f"`validation_fraction` must lie between 0 and 0.5; got {self.validation_fraction!r}")
        if self.average is not None and not 0.0 < self.average < 1.0:
            problems.append(f"`average` must lie between 0 and 1; got {self.average!r}")
        problems += [
            f"`{name}` must be a whole number from 0; got {getattr(self, name)!r}"
            for name in ("prefetch", "workers")
            if getattr(self, name) < 0
        ]
        if not 0 <= self.seed < 2**63:
            problems.append(f"`seed` must lie in [0, 2**63); got {self.seed!r}")
        return [*Schedule._problems(self), *(problem for problem in problems if problem)]


RECIPES: Mapping[str, SurrogateTrainConfig] = {
    "flow": SurrogateTrainConfig(surrogate=SurrogateConfig(model="flow")),
    "gan": SurrogateTrainConfig(
        surrogate=SurrogateConfig(model="gan"),
        learning_rate=5e-4,
        final_learning_rate=5e-5,
        optimizer=OptimizerConfig(beta1=0.5, beta2=0.99),
    ),
}
"""A training to begin with for each model. That of the 3DGAN papers has ``OptimizerConfig(kind="rmsprop", beta2=0.9)``,
the constant rate 0.001, eight traces per rank and 5 ``warmup_epochs``."""
