"""Configurations of the proposal network and of its training, and the named networks.

Frozen records that check themselves; they know nothing of stores or tensors.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args, get_origin

from tracestore.errors import InvalidInputError

__all__ = ["CONFIG_VERSION", "NETWORKS", "NetworkConfig", "TrainConfig"]

CONFIG_VERSION = 1
"""Version of the dictionaries that `to_dict` writes."""


class _Config:
    """Checks and conversions that both configurations share."""

    __slots__ = ()

    def __post_init__(self) -> None:
        problems = [*self._wrong_choices(), *self._problems()]
        if problems:
            message = f"{type(self).__name__} is not valid: {'; '.join(problems)}."
            raise InvalidInputError(message, problems=tuple(problems))

    def _problems(self) -> list[str]:
        return []

    def _wrong_choices(self) -> list[str]:
        problems = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            if get_origin(field.type) is Literal:
                value, choices = getattr(self, field.name), get_args(field.type)
                if value not in choices:
                    problems.append(f"`{field.name}` must be one of {', '.join(map(repr, choices))}; got {value!r}")
        return problems

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values, with the version of this form under ``version``."""
        fields = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            fields[field.name] = value.to_dict() if isinstance(value, _Config) else value
        return {"version": CONFIG_VERSION, **fields}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Build a configuration from what `to_dict` gave; absent fields take their defaults.

        Raises
        ------
        InvalidInputError
            When the version is not supported, a field is unknown, or a value is not valid.
        """
        version = fields.get("version", CONFIG_VERSION)
        if version != CONFIG_VERSION:
            message = (
                f"{cls.__name__} of version {version!r} cannot be read; this release reads version {CONFIG_VERSION}. "
                "Use the release that wrote it."
            )
            raise InvalidInputError(message, version=version)
        known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(fields) - set(known) - {"version"})
        if unknown:
            message = f"{cls.__name__} has no field {', '.join(unknown)}; its fields are {', '.join(known)}."
            raise InvalidInputError(message, unknown=tuple(unknown))
        values = {name: value for name, value in fields.items() if name != "version"}
        for name, value in values.items():
            if isinstance(value, Mapping):
                values[name] = NetworkConfig.from_dict(value)
        return cls(**values)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig(_Config):
    """Sizes and choices of a `ProposalNetwork`.

    Examples
    --------
    >>> NetworkConfig(recurrent_size=32).recurrent_size
    32
    >>> NetworkConfig.from_dict(NETWORKS["paper"].to_dict()) == NETWORKS["paper"]
    True
    """

    recurrent: Literal["lstm", "gru"] = "lstm"
    """Recurrent core that carries the history of a trace from site to site."""
    recurrent_size: int = 96
    """Numbers in the recurrent state."""
    observation: Literal["auto", "light", "cnn3d"] = "auto"
    """How an array observation is embedded: ``light`` averages neighboring cells and applies flat convolutions with the
    depth as channels, ``cnn3d`` is the five convolutions of the paper; ``auto`` is ``light``. Scalars, vectors and
    small arrays always go through a multilayer perceptron."""
    observation_size: int = 64
    """Width of the embedding of all observations together."""
    address_size: int = 32
    """Width of the embedding of a base address."""
    instance_size: int = 8
    """Width of the embedding of the instance number."""
    sample_size: int = 16
    """Width of the embedding of the previous value."""
    sample_knots: int = 33
    """Knots of the piecewise linear curve that embeds a continuous value."""
    head_size: int | None = 64
    """Hidden width of a proposal head; None takes the mean of its input and output widths, as the paper does."""
    mixture_size: int = 5
    """Components of a mixture proposal, not counting the prior that is always mixed in."""
    num_bins: int = 32
    """Bins of a piecewise uniform proposal."""
    count_bins: int = 64
    """A proposal for counts is free below this number and falls back to the prior from it on."""
    uniform_proposal: Literal["auto", "binned", "truncated_normal"] = "auto"
    """Proposal for uniform priors; ``auto`` takes bins for unnamed draws (the raw random numbers of a simulator, whose
    posteriors have steps) and truncated normals for named ones."""
    prior_fraction: float = 0.01
    """Weight of the prior in every proposal: log q - log p never falls below its logarithm."""
    max_instance: int = 16
    """Draws of one base address from this instance number on use the prior and are invisible to the network."""
    seed: int = 0
    """Seed of the initial weights; each base address has its own stream, so their order of arrival has no effect."""

    def _problems(self) -> list[str]:
        sizes = [
            "recurrent_size",
            "observation_size",
            "address_size",
            "instance_size",
            "sample_size",
            "mixture_size",
            "max_instance",
        ]
        problems = [_positive(self, name) for name in sizes]
        problems += [_at_least_two(self, name) for name in ("sample_knots", "num_bins", "count_bins")]
        if self.head_size is not None:
            problems.append(_positive(self, "head_size"))
        if not 0.0 < self.prior_fraction < 1.0:
            problems.append(f"`prior_fraction` must lie between 0 and 1; got {self.prior_fraction!r}")
        if not 0 <= self.seed < 2**63:
            problems.append(f"`seed` must lie in [0, 2**63); got {self.seed!r}")
        return [problem for problem in problems if problem]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(_Config):
    """How a network is trained. ``None`` means: chosen by the size of the store.

    Examples
    --------
    >>> TrainConfig(epochs=3).batch_size is None
    True
    >>> TrainConfig(learning_rate=-1.0)
    Traceback (most recent call last):
    ...
    tracestore.errors.InvalidInputError: TrainConfig is not valid: `learning_rate` must be positive; got -1.0.
    """

    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    """The network to train."""
    batch_size: int | None = None
    """Traces per step; by default 64 for small stores up to 256 for large ones."""
    epochs: int | None = None
    """Passes over the store; by default about 160,000 traces' worth, between 2 and 30."""
    learning_rate: float = 4e-3
    """Highest learning rate of Adam, reached at the end of the warm-up."""
    final_learning_rate: float = 4e-5
    """Learning rate at the last step."""
    schedule: Literal["constant", "polynomial", "cosine"] = "cosine"
    """Decay from the highest to the final learning rate; ``polynomial`` is of second order."""
    warmup_fraction: float = 0.05
    """Share of the steps over which the learning rate rises linearly."""
    max_gradient_norm: float = 10.0
    """The gradient is scaled down to this norm when it is longer."""
    validation_fraction: float = 0.05
    """Share of the traces that is never trained on; a trace belongs to it or not by its stream number alone."""
    max_validation_traces: int = 4096
    """Validation stops after this many traces, in store order."""
    patience: int | None = 6
    """Validations (one per epoch) without improvement before training stops early; None never stops."""
    checkpoint_seconds: float = 60.0
    """Longest time between checkpoints; one is also written after every validation."""
    seed: int = 0
    """Seed of the order of the traces and of the validation split."""
    device: str = "cpu"
    """Torch device that trains."""

    def _problems(self) -> list[str]:
        problems = [
            _positive(self, name)
            for name in ("batch_size", "epochs", "patience", "max_validation_traces")
            if getattr(self, name) is not None
        ]
        for name in ("learning_rate", "final_learning_rate", "max_gradient_norm", "checkpoint_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                problems.append(f"`{name}` must be positive; got {value!r}")
        if not 0.0 < self.validation_fraction < 0.5:
            problems.append(f"`validation_fraction` must lie between 0 and 0.5; got {self.validation_fraction!r}")
        if not 0.0 <= self.warmup_fraction < 1.0:
            problems.append(f"`warmup_fraction` must lie in [0, 1); got {self.warmup_fraction!r}")
        if not 0 <= self.seed < 2**63:
            problems.append(f"`seed` must lie in [0, 2**63); got {self.seed!r}")
        return [problem for problem in problems if problem]


def _positive(config: object, name: str) -> str:
    value = getattr(config, name)
    return "" if isinstance(value, int) and value >= 1 else f"`{name}` must be a positive whole number; got {value!r}"


def _at_least_two(config: object, name: str) -> str:
    value = getattr(config, name)
    return "" if isinstance(value, int) and value >= 2 else f"`{name}` must be a whole number from 2; got {value!r}"


NETWORKS: Mapping[str, NetworkConfig] = {
    "light": NetworkConfig(),
    "paper": NetworkConfig(
        recurrent_size=512,
        observation="cnn3d",
        observation_size=256,
        address_size=64,
        sample_size=4,
        head_size=None,
        mixture_size=10,
        uniform_proposal="truncated_normal",
    ),
}
"""Named networks: ``light`` for processors, ``paper`` with the sizes of Baydin et al., SC'19, section 4.3."""
