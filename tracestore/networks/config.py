"""Configuration of the proposal network, the named networks, and what every configuration can do.

Frozen records that check themselves; they know nothing of stores or tensors.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, get_args, get_origin

from tracestore.errors import InvalidInputError

__all__ = ["CONFIG_VERSION", "NETWORKS", "Config", "NetworkConfig", "require_positive", "require_two"]

CONFIG_VERSION = 2
"""Version of the dictionaries that `to_dict` writes."""


class Config:
    """Checks and conversions that all configurations share."""

    __slots__ = ()
    nested: ClassVar[Mapping[str, type["Config"]]] = {}
    """Fields that hold a configuration themselves."""

    @classmethod
    def fields(cls) -> tuple[dataclasses.Field[Any], ...]:
        """Describe the settings."""
        return dataclasses.fields(cls)  # type: ignore[arg-type]  # every subclass is a dataclass

    def __post_init__(self) -> None:
        problems = [*self._wrong_choices(), *self._problems()]
        if problems:
            message = f"{type(self).__name__} is not valid: {'; '.join(problems)}."
            raise InvalidInputError(message, problems=tuple(problems))

    def _problems(self) -> list[str]:
        return []

    def _wrong_choices(self) -> list[str]:
        problems = []
        for field in self.fields():
            if get_origin(field.type) is Literal:
                value, choices = getattr(self, field.name), get_args(field.type)
                if value not in choices:
                    problems.append(f"`{field.name}` must be one of {', '.join(map(repr, choices))}; got {value!r}")
        return problems

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values, with the version of this form under ``version``."""
        fields = {}
        for field in self.fields():
            value = getattr(self, field.name)
            fields[field.name] = _to_json(value)
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
        known = {field.name: field for field in cls.fields()}
        unknown = sorted(set(fields) - set(known) - {"version"})
        if unknown:
            message = f"{cls.__name__} has no field {', '.join(unknown)}; its fields are {', '.join(known)}."
            raise InvalidInputError(message, unknown=tuple(unknown))
        values = {name: value for name, value in fields.items() if name != "version"}
        for name, kind in cls.nested.items():
            if isinstance(values.get(name), Mapping):
                values[name] = kind.from_dict(values[name])
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**values)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig(Config):
    """Sizes and choices of a `ProposalNetwork`.

    Examples
    --------
    >>> NetworkConfig(core_size=32).core_size
    32
    >>> NetworkConfig.from_dict(NETWORKS["paper"].to_dict()) == NETWORKS["paper"]
    True
    """

    core: Literal["lstm", "gru", "transformer", "feedforward"] = "lstm"
    """What carries the history of a trace from site to site: a recurrent cell, causal attention over the prefix of the
    trace, or nothing at all (``feedforward``: a proposal sees the observation and where the trace is)."""
    core_size: int = 96
    """Width of the core's output, which the proposal heads read."""
    core_layers: int = 1
    """Layers of the core."""
    attention_heads: int = 4
    """Heads of each attention layer of a transformer; ``core_size`` is a multiple of it."""
    observation: Literal["auto", "light", "mlp", "cnn2d", "cnn3d"] = "auto"
    """How an array observation is embedded: ``light`` averages neighboring cells and applies flat convolutions with the
    depth as channels, ``cnn2d`` and ``cnn3d`` are the five convolutions of the paper in two and three dimensions,
    ``mlp`` flattens; ``auto`` is ``light``. Scalars, vectors and small arrays always go through a perceptron."""
    observation_of: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The same for single observations, by name, where they differ."""
    observation_size: int = 64
    """Width of the embedding of all observations together."""
    rows: Literal["base", "address"] = "base"
    """What has layers of its own: a base address, whose visits are told apart by an embedded instance number, or every
    address (the paper's choice; a loop then trains a layer per iteration)."""
    address_size: int = 32
    """Width of the embedding of an address."""
    instance_size: int = 8
    """Width of the embedding of the instance number; 0 for none."""
    family_size: int = 0
    """Width of the embedding of the prior's family; 0 for none."""
    sees_previous_address: bool = False
    """Whether the core sees the address and the family of the previous site beside its value."""
    sample_embedding: Literal["curve", "linear"] = "curve"
    """How the previous value is embedded: entries of a table along the prior's range, or a linear layer with ReLU of
    the raw value or the one-hot category (the paper's)."""
    sample_size: int = 16
    """Width of the embedding of the previous value."""
    sample_knots: int = 33
    """Knots of the piecewise linear curve that embeds a continuous value."""
    heads: Literal["own", "shared"] = "own"
    """Whether each row has a proposal head of its own, or all rows of a prior family share one that also sees the
    embeddings of address and instance."""
    head_size: int | None = 64
    """Hidden width of a proposal head; None takes the mean of its input and output widths, as the paper does."""
    address_dropout: float = 0.0
    """Share of the base addresses of a minibatch that are hidden from the network while it trains. Above 0, an address
    that was never trained gets the proposal learned for hidden ones; at 0 it uses the prior."""
    mixture_size: int = 5
    """Components of a mixture proposal, not counting the prior that is always mixed in."""
    num_bins: int = 32
    """Bins of a piecewise uniform proposal; a spline has half as many."""
    count_bins: int = 64
    """Bins of a proposal for counts: one per count where the prior has its mass below this number, otherwise bins of
    equal width over six standard deviations on both sides; a learned share of the prior covers the rest."""
    uniform_proposal: Literal["auto", "binned", "truncated_normal", "spline"] = "auto"
    """Proposal for uniform priors; ``auto`` takes bins for unnamed draws (the raw random numbers of a simulator, whose
    posteriors have steps) and truncated normals for named ones."""
    continuous_proposal: Literal["mixture", "spline"] = "mixture"
    """Proposal for other continuous priors: a mixture of the family's own kind, or a monotone spline of the prior's
    distribution function."""
    prior_fraction: float = 0.01
    """Weight of the prior in every proposal: log q - log p never falls below its logarithm."""
    max_instance: int = 16
    """Draws of one base address from this instance number on use the prior and are invisible to the network; with
    ``rows="address"`` there is no such limit."""
    seed: int = 0
    """Seed of the initial weights; each row has its own stream, so their order of arrival has no effect."""

    @property
    def place_size(self) -> int:
        """Width of what tells where in the program a site is."""
        return self.address_size + self.family_size + self.instance_size

    @property
    def num_head_inputs(self) -> int:
        """Width of what a proposal head reads."""
        return self.core_size + (self.place_size if self.heads == "shared" else 0)

    def _problems(self) -> list[str]:
        sizes = [
            "core_size",
            "core_layers",
            "attention_heads",
            "observation_size",
            "address_size",
            "sample_size",
            "mixture_size",
            "max_instance",
        ]
        problems = [require_positive(self, name) for name in sizes]
        problems += [require_two(self, name) for name in ("sample_knots", "num_bins", "count_bins")]
        for name in ("instance_size", "family_size"):
            size = getattr(self, name)
            if not (isinstance(size, int) and size >= 0):
                problems.append(f"`{name}` must be a whole number from 0; got {size!r}")
        if self.core == "transformer" and not problems and self.core_size % self.attention_heads:
            problems.append(
                f"`core_size` must be a multiple of `attention_heads`; got {self.core_size} and {self.attention_heads}"
            )
        kinds = get_args(type(self).__annotations__["observation"])
        for name, kind in self.observation_of.items():
            if kind not in kinds:
                problems.append(f"`observation_of` must map {name!r} to one of {', '.join(kinds)}; got {kind!r}")
        if not 0.0 <= self.address_dropout < 1.0:
            problems.append(f"`address_dropout` must lie in [0, 1); got {self.address_dropout!r}")
        if self.head_size is not None:
            problems.append(require_positive(self, "head_size"))
        if not 0.0 < self.prior_fraction < 1.0:
            problems.append(f"`prior_fraction` must lie between 0 and 1; got {self.prior_fraction!r}")
        if not 0 <= self.seed < 2**63:
            problems.append(f"`seed` must lie in [0, 2**63); got {self.seed!r}")
        return [problem for problem in problems if problem]


def _to_json(value: object) -> object:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def require_positive(config: object, name: str) -> str:
    """Return what is wrong with a field that must be a positive whole number, or nothing."""
    value = getattr(config, name)
    return "" if isinstance(value, int) and value >= 1 else f"`{name}` must be a positive whole number; got {value!r}"


def require_two(config: object, name: str) -> str:
    """Return what is wrong with a field that must be a whole number from 2, or nothing."""
    value = getattr(config, name)
    return "" if isinstance(value, int) and value >= 2 else f"`{name}` must be a whole number from 2; got {value!r}"


NETWORKS: Mapping[str, NetworkConfig] = {
    "light": NetworkConfig(),
    "paper": NetworkConfig(
        core_size=512,
        observation="cnn3d",
        observation_size=256,
        rows="address",
        address_size=64,
        instance_size=0,
        family_size=8,
        sees_previous_address=True,
        sample_embedding="linear",
        sample_size=4,
        head_size=None,
        mixture_size=10,
        uniform_proposal="truncated_normal",
    ),
}
"""Named networks: ``light`` for processors, ``paper`` with the layers of Baydin et al., SC'19, section 4.3."""
