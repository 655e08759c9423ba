"""Embeddings: what was observed, where the trace is, and what it drew last.

Shapes: N traces, P sites, E embedding, F flat inputs, D H W cells of an array.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tracestore.errors import InvalidInputError
from tracestore.training.config import NetworkConfig
from tracestore.training.tables import Growth, append_rows

__all__ = ["LightArrayEmbedding", "ObservationEmbedding", "PaperArrayEmbedding", "ValueEmbedding"]

MAX_FLAT_SIZE = 64
"""Arrays of up to this many cells are treated like vectors."""


class ObservationEmbedding(nn.Module):
    """One vector for all named observations of a trace.

    Scalars, vectors and small arrays are joined and go through a perceptron; every larger array has an embedding of its
    own; a last perceptron joins them. Inputs are standardized by what `fit` saw.

    Parameters
    ----------
    shapes
        Shape of each named observation.
    config
        Sizes and the kind of array embedding.

    Raises
    ------
    InvalidInputError
        When there is no observation, or an array is too small for the embedding asked for.

    Examples
    --------
    >>> embedding = ObservationEmbedding({"obs0": (), "image": (10, 10)}, NetworkConfig(observation_size=8))
    >>> embedding({"obs0": torch.zeros(3), "image": torch.zeros(3, 10, 10)}).shape
    torch.Size([3, 8])
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], config: NetworkConfig) -> None:
        super().__init__()
        if not shapes:
            message = "A network needs at least one named observation to learn from; the traces have none."
            raise InvalidInputError(message)
        self.shapes = {name: tuple(shape) for name, shape in sorted(shapes.items())}
        self._flat_names = [name for name, shape in self.shapes.items() if _is_flat(shape)]
        self._array_names = [name for name in self.shapes if name not in self._flat_names]
        size = config.observation_size
        num_flat = sum(math.prod(self.shapes[name]) for name in self._flat_names)
        self.register_buffer("flat_mean", torch.zeros(num_flat))
        self.register_buffer("flat_scale", torch.ones(num_flat))
        self.register_buffer("array_mean", torch.zeros(len(self._array_names)))
        self.register_buffer("array_scale", torch.ones(len(self._array_names)))
        if num_flat:
            self.flat = nn.Sequential(nn.Linear(num_flat, 2 * size), nn.ReLU(), nn.Linear(2 * size, size), nn.ReLU())
        kind: type[_ArrayEmbedding] = PaperArrayEmbedding if config.observation == "cnn3d" else LightArrayEmbedding
        self.arrays = nn.ModuleList(kind(name, self.shapes[name], size) for name in self._array_names)
        num_parts = bool(num_flat) + len(self.arrays)
        self.joint = nn.Sequential(nn.Linear(num_parts * size, size), nn.ReLU(), nn.Linear(size, size))

    flat_mean: Tensor
    flat_scale: Tensor
    array_mean: Tensor
    array_scale: Tensor

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Embed observations of shape ``(N, *shape)`` each; returns ``(N, E)``."""
        parts = []
        if self._flat_names:
            x_NF = self._flatten(observations)
            parts.append(self.flat((x_NF - self.flat_mean) / self.flat_scale))
        for position, (name, embedding) in enumerate(self._array_embeddings()):
            x = embedding.reduce(observations[name])
            parts.append(embedding((x - self.array_mean[position]) / self.array_scale[position]))
        joined: Tensor = self.joint(torch.cat(parts, dim=1))
        return joined

    @torch.no_grad()
    def fit(self, observations: Mapping[str, Tensor]) -> None:
        """Set the standardization: per number for vectors, one for all cells of an array.

        Parameters
        ----------
        observations
            Typical observations, shape ``(N, *shape)`` each.
        """
        if self._flat_names:
            x_NF = self._flatten(observations).double()
            self.flat_mean.copy_(x_NF.mean(0))
            self.flat_scale.copy_(_safe_scale(x_NF.std(0, correction=0)))
        for position, (name, embedding) in enumerate(self._array_embeddings()):
            x = embedding.reduce(observations[name]).double()
            self.array_mean[position] = x.mean()
            self.array_scale[position] = _safe_scale(x.std(correction=0))

    def _flatten(self, observations: Mapping[str, Tensor]) -> Tensor:
        return torch.cat(
            [
                observations[name].flatten(1) if observations[name].dim() > 1 else observations[name][:, None]
                for name in self._flat_names
            ],
            dim=1,
        )

    def _array_embeddings(self) -> list[tuple[str, "_ArrayEmbedding"]]:
        return [
            (name, cast("_ArrayEmbedding", embedding))
            for name, embedding in zip(self._array_names, self.arrays, strict=True)
        ]


class _ArrayEmbedding(nn.Module):
    """Embedding of one array observation, taken as a volume: axes before the last two are its depth."""

    def __init__(self, name: str, shape: Sequence[int], size: int) -> None:
        super().__init__()
        self.volume = (math.prod(shape[:-2]), shape[-2], shape[-1])

    def reduce(self, x: Tensor) -> Tensor:
        """Shape arrays as volumes with one channel, ``(N, 1, D, H, W)``, before they are standardized."""
        return x.reshape(len(x), 1, *self.volume)

    @abstractmethod
    def forward(self, x_N1DHW: Tensor) -> Tensor:
        """Embed standardized volumes; returns ``(N, E)``."""


class LightArrayEmbedding(_ArrayEmbedding):
    """Average neighboring cells, take the depth as channels, convolve in the plane: made for processors.

    Coarse in depth and fine in the plane, because positions in the plane are what a network has to find.

    Parameters
    ----------
    name
        Name of the observation.
    shape
        Its shape: two axes or more; those before the last two are taken as depth.
    size
        Width of the embedding.
    """

    LARGEST_DEPTH = 4
    LARGEST_AXIS = 18
    CHANNELS = (16, 32, 32)

    def __init__(self, name: str, shape: Sequence[int], size: int) -> None:
        super().__init__(name, shape, size)
        limits = (self.LARGEST_DEPTH, self.LARGEST_AXIS, self.LARGEST_AXIS)
        self.kernel = tuple(math.ceil(axis / limit) for axis, limit in zip(self.volume, limits, strict=True))
        depth, height, width = (math.ceil(axis / step) for axis, step in zip(self.volume, self.kernel, strict=True))
        first, second, third = self.CHANNELS
        self.layers = nn.Sequential(
            nn.Conv2d(depth, first, 5, padding=2), nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(second, third, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(),
        )  # fmt: skip
        self.last = nn.Linear(third * math.ceil(height / 4) * math.ceil(width / 4), size)

    def reduce(self, x: Tensor) -> Tensor:
        """Average neighboring cells; returns shape ``(N, 1, D, H, W)``."""
        return functional.avg_pool3d(super().reduce(x), self.kernel, ceil_mode=True)

    def forward(self, x_N1DHW: Tensor) -> Tensor:
        """Embed reduced arrays; returns ``(N, E)``."""
        return functional.relu(self.last(self.layers(x_N1DHW.squeeze(1))))


class PaperArrayEmbedding(_ArrayEmbedding):
    """The 3D convolutional network of the paper: convolutions 64, 64, pool, 128, 128, 128, pool, then a linear layer.

    Parameters
    ----------
    name
        Name of the observation.
    shape
        Its shape: two axes or more; those before the last two are taken as depth.
    size
        Width of the embedding.

    Raises
    ------
    InvalidInputError
        When an axis is too short for five unpadded convolutions.
    """

    SHORTEST_AXIS = 18

    def __init__(self, name: str, shape: Sequence[int], size: int) -> None:
        super().__init__(name, shape, size)
        if min(self.volume) < self.SHORTEST_AXIS:
            message = (
                f"Observation {name!r} of shape {tuple(shape)} is too small for the embedding 'cnn3d', which needs "
                f"three axes of at least {self.SHORTEST_AXIS}; set `observation='light'`."
            )
            raise InvalidInputError(message, name=name, shape=tuple(shape))
        self.layers = nn.Sequential(
            nn.Conv3d(1, 64, 3), nn.ReLU(),
            nn.Conv3d(64, 64, 3), nn.ReLU(),
            nn.MaxPool3d(2),
            nn.Conv3d(64, 128, 3), nn.ReLU(),
            nn.Conv3d(128, 128, 3), nn.ReLU(),
            nn.Conv3d(128, 128, 3), nn.ReLU(),
            nn.MaxPool3d(2),
            nn.Flatten(),
        )  # fmt: skip
        cells = math.prod(((axis - 4) // 2 - 6) // 2 for axis in self.volume)
        self.last = nn.Linear(128 * cells, size)

    def forward(self, x_N1DHW: Tensor) -> Tensor:
        """Embed arrays; returns ``(N, E)``."""
        return functional.relu(self.last(self.layers(x_N1DHW)))


class ValueEmbedding(nn.Module):
    """Embed drawn values: a row per category, or a piecewise linear curve over the prior's range.

    All base addresses share one stacked table; each owns consecutive entries of it.

    Parameters
    ----------
    size
        Width of the embedding.

    Examples
    --------
    >>> embedding = ValueEmbedding(2)
    >>> _ = embedding.grow(torch.tensor([[0.0, 0.0], [1.0, 2.0]]))
    >>> first, count = torch.tensor([0]), torch.tensor([2])
    >>> embedding(first, count, torch.tensor([0.25])).tolist()
    [[0.25, 0.5]]
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0, size))

    def grow(self, rows: Tensor) -> Growth:
        """Append entries, shape ``(new, size)``."""
        return append_rows(self, "weight", rows)

    def forward(self, first_P: Tensor, count_P: Tensor, place_P: Tensor) -> Tensor:
        """Embed values; returns ``(P, E)``.

        Parameters
        ----------
        first_P, count_P
            First entry and number of entries of each site's base address.
        place_P
            Place of the value among the entries, in ``[0, count - 1]``; between two entries it is interpolated.
        """
        below_P = torch.minimum(place_P.floor().long(), count_P - 1)
        above_P = torch.minimum(below_P + 1, count_P - 1)
        share_P1 = (place_P - below_P).unsqueeze(1).to(self.weight.dtype)
        below_PE = self.weight.index_select(0, first_P + below_P)
        above_PE = self.weight.index_select(0, first_P + above_P)
        return torch.lerp(below_PE, above_PE, share_P1)


def _is_flat(shape: Sequence[int]) -> bool:
    return len(shape) < 2 or math.prod(shape) <= MAX_FLAT_SIZE


def _safe_scale(scale: Tensor) -> Tensor:
    return torch.where(scale > 1e-12, scale, torch.ones_like(scale))
