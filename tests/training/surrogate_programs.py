"""Small stores of images and a small model for the tests of surrogates; knows nothing of processes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import tracestore as ts
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.simulators import Simulator
from tracestore.surrogates import GanConfig, Surrogate, SurrogateConfig
from tracestore.surrogates.model import GenerativeModel
from tracestore.training import RECIPES, SurrogateTrainConfig

SHAPE = (8, 8, 8)
TINY = SurrogateConfig(
    model="gan",
    gan=GanConfig(latent_size=4, generator_channels=(2, 2, 2), discriminator_channels=(2, 2, 2), discriminator_size=4),
)
QUICK = replace(RECIPES["gan"], surrogate=TINY, epochs=2, batch_size=32, average=0.9, prefetch=0)


def blob(lowest: float = 10.0, highest: float = 100.0):
    """Return a program of an image whose sum grows with an energy."""

    def program():
        energy = ts.sample(ts.Uniform(lowest, highest), name="energy")
        spread = ts.sample(ts.Normal(np.zeros(SHAPE), np.ones(SHAPE)), name="spread")
        image = np.where(spread > 0.0, energy * 1e-3 * spread, 0.0).astype(np.float32)
        ts.observe(ts.Normal(image, np.full(SHAPE, 1e-3)), image, name="shower")
        if energy > highest - 0.02 * (highest - lowest):
            raise ValueError("out of range")

    return Simulator(program, name=f"blob {lowest} {highest}")


def make_store(folder: Path, num_traces: int = 240, lowest: float = 10.0, highest: float = 100.0) -> ts.TraceStore:
    """Simulate blobs; about a fiftieth fails."""
    return ts.simulate(blob(lowest, highest), folder, num_traces=num_traces, seed=1)


class ScaledNoise(GenerativeModel):
    """Images ``scale * energy * |noise|``, and a critic that only has a weight: two phases with closed gradients."""

    phases = ("critic", "scale")

    def __init__(self) -> None:
        super().__init__(SHAPE, 1)
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.weight = nn.Parameter(torch.tensor(0.0))

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        return [self.weight] if phase == "critic" else [self.scale]

    def draw_noise(self, num: int, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.stack([torch.randn(512, generator=generator) for generator in generators])

    def generate(self, labels_NL: Tensor, noise_NZ: Tensor) -> Tensor:
        return (self.scale * labels_NL * noise_NZ.abs()).view(-1, *SHAPE)

    def losses(
        self, phase: str, images_NX: Tensor, labels_NL: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        made_NX = self.generate(labels_NL, self.draw_noise(len(labels_NL), generators))
        gap_N = (made_NX - images_NX).flatten(1).mean(dim=1)
        if phase == "critic":
            return {"gap": self.weight * gap_N, "decay": self.weight**2 * torch.ones_like(gap_N)}
        return {"gap": gap_N**2 - self.weight * gap_N}


def scaled_noise() -> Surrogate:
    """Return a surrogate of this model."""
    return Surrogate(ScaledNoise(), TINY, ["energy"], "shower")


def batch_of(store: ts.TraceStore, indices: list[int]) -> TensorBatch:
    """Read traces as a minibatch of one rank."""
    return TensorBatch.from_batch(store.take(indices), indices)


def settings(**fields: Any) -> SurrogateTrainConfig:
    """Return quick settings with some others."""
    return replace(QUICK, **fields)
