"""Configuration of a surrogate: which generative model, and its sizes.

Frozen records that check themselves; they know nothing of stores, training or tensors.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

from tracestore.networks.config import Config, require_positive

__all__ = ["FlowConfig", "GanConfig", "SurrogateConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GanConfig(Config):
    """Sizes and weights of an `AdversarialGenerator`.

    Examples
    --------
    >>> GanConfig(latent_size=64).latent_size
    64
    """

    latent_size: int = 256
    """Random numbers that a whole image shares (the paper's); each cell has one of its own beside them."""
    generator_channels: tuple[int, ...] = (8, 8, 8)
    """Channels of the generator, from a quarter of the image's resolution to half of it."""
    discriminator_channels: tuple[int, ...] = (16, 32, 64)
    """Channels of the discriminator after each halving of the resolution."""
    discriminator_size: int = 192
    """Width of the layer of the discriminator that its heads read."""
    adversarial_weight: float = 1.0
    """Weight of the discriminator's verdict in the loss of the generator."""
    label_weight: float = 0.5
    """Weight of what the discriminator's heads say of the labels (energy, angle)."""
    total_weight: float = 0.5
    """Weight of the total visible energy in the loss of the generator."""
    profile_weight: float = 1.0
    """Weight of sums of layers and counts of hit cells in the loss of the generator."""
    penalty: float = 1.0
    """Weight of the squared gradient of the discriminator with respect to images, real and generated."""
    cell_law: Literal["normal", "spots"] = "normal"
    """How the random number of a cell becomes its energy: the positive part of a Normal number, or the sum of a Poisson
    number of exponential spots (`draw_spots`), as in sampling calorimeters. After the same short trainings on `shower`
    a classifier tells spots apart less well (area 0.91, not 0.98), while sums of layers were learned more slowly."""

    def _problems(self) -> list[str]:
        problems = [require_positive(self, name) for name in ("latent_size", "discriminator_size")]
        for name in ("generator_channels", "discriminator_channels"):
            channels = getattr(self, name)
            if len(channels) != 3 or not all(isinstance(number, int) and number >= 1 for number in channels):
                problems.append(f"`{name}` must be three positive whole numbers; got {channels!r}")
        for name in ("adversarial_weight", "label_weight", "total_weight", "profile_weight", "penalty"):
            weight = getattr(self, name)
            if not 0.0 <= weight < math.inf:
                problems.append(f"`{name}` must be a finite number from 0; got {weight!r}")
        return [problem for problem in problems if problem]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FlowConfig(Config):
    """Sizes of a `FlowMatching` model, and the steps of its flow.

    Examples
    --------
    >>> FlowConfig(num_steps=8).num_steps
    8
    """

    width: int = 128
    """Of the transformer over patches."""
    num_blocks: int = 4
    """Of the transformer."""
    num_heads: int = 4
    """Of the transformer; divides the width."""
    patch: tuple[int, int, int] | None = None
    """Cells of a patch along each side; None is a whole layer, which takes half the time of cubes of 5."""
    num_context: int = 8
    """Numbers that a cell gets from its patch."""
    num_hidden: int = 16
    """Of the perceptron that all cells share."""
    layers_width: int = 128
    """Of the perceptron for the energies of the layers."""
    layers_blocks: int = 3
    """Of the perceptron for the energies of the layers."""
    knots: tuple[int, ...] | None = None
    """Values of each label between which the mean image is interpolated; None is 8, or 4 and 13 for two labels."""
    threshold: float = 1e-5
    """Energy below which a cell is zero."""
    num_steps: int = 2
    """Steps of the flow of the cells; more cost in proportion and change little."""
    num_layer_steps: int = 8
    """Steps of the flow of the layers."""
    solver: Literal["euler", "midpoint", "adams"] = "midpoint"
    """How a step is made; ``midpoint`` asks the network twice a step."""

    def _problems(self) -> list[str]:
        names = ("width", "num_blocks", "num_heads", "num_context", "num_hidden", "layers_width", "layers_blocks")
        problems = [require_positive(self, name) for name in (*names, "num_steps", "num_layer_steps")]
        if not any(problems) and self.width % self.num_heads:
            problems.append(f"`width` must be a multiple of `num_heads`; got {self.width!r} and {self.num_heads!r}")
        for name, least, length in (("patch", 1, 3), ("knots", 2, None)):
            sizes = getattr(self, name)
            if sizes is not None and not (
                length in {None, len(sizes)} and all(isinstance(size, int) and size >= least for size in sizes)
            ):
                problems.append(f"`{name}` must be whole numbers from {least}; got {sizes!r}")
        if not 0.0 < self.threshold < math.inf:
            problems.append(f"`threshold` must be a positive number; got {self.threshold!r}")
        return [problem for problem in problems if problem]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SurrogateConfig(Config):
    """Which generative model a surrogate is, and the settings of each kind.

    Examples
    --------
    >>> config = SurrogateConfig(model="gan", gan=GanConfig(latent_size=64))
    >>> SurrogateConfig.from_dict(config.to_dict()) == config
    True
    """

    nested: ClassVar[Mapping[str, type[Config]]] = {"gan": GanConfig, "flow": FlowConfig}

    model: Literal["gan", "flow"] = "gan"
    """``gan`` is a generator trained against a discriminator, ``flow`` a velocity field from noise to images."""
    gan: GanConfig = dataclasses.field(default_factory=GanConfig)
    """Settings of the first."""
    flow: FlowConfig = dataclasses.field(default_factory=FlowConfig)
    """Settings of the second."""
