"""Embeddings of one observation: a perceptron, light convolutions in the plane, the paper's in two and in three axes.

Knows shapes only: which observation gets which kind, and how inputs are standardized, is decided in `observations`.

Shapes: N traces, E embedding, F numbers of an observation, C D H W channels and cells of an array.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tracestore.errors import InvalidInputError

__all__ = [
    "ARRAY_EMBEDDINGS",
    "ArrayEmbedding",
    "ChannelsLast",
    "Cnn2dEmbedding",
    "Cnn3dEmbedding",
    "LightEmbedding",
    "PerceptronEmbedding",
    "make_array_embedding",
]

SHORTEST_AXIS = 20
"""What five unpadded convolutions of width 3 and two poolings leave something of."""


class ArrayEmbedding(nn.Module):
    """Embedding of one observation.

    Parameters
    ----------
    shape
        Shape of the observation.
    size
        Width of the embedding.
    """

    num_axes = 2
    """Fewest axes that it can do with."""
    shortest_axes: tuple[int, ...] = (1, 1, 1)
    """Fewest cells of depth, height and width."""

    def __init__(self, shape: Sequence[int], size: int) -> None:
        super().__init__()
        self.volume = volume_of(shape)

    def reduce(self, x: Tensor) -> Tensor:
        """Reshape observations ``(N, *shape)`` as `forward` takes them, before they are standardized."""
        return x.reshape(len(x), 1, *self.volume)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Embed standardized observations; returns ``(N, E)``."""


class PerceptronEmbedding(ArrayEmbedding):
    """Flatten, then two layers with ReLU.

    Parameters
    ----------
    shape
        Shape of the observation; any.
    size
        Width of the embedding; the hidden layer is twice as wide.
    """

    num_axes = 0

    def __init__(self, shape: Sequence[int], size: int) -> None:
        super().__init__(shape, size)
        self.num_numbers = math.prod(shape)
        self.layers = nn.Sequential(
            nn.Linear(self.num_numbers, 2 * size), nn.ReLU(), nn.Linear(2 * size, size), nn.ReLU()
        )

    def reduce(self, x: Tensor) -> Tensor:
        """Flatten; returns ``(N, F)``."""
        return x.reshape(len(x), self.num_numbers)

    def forward(self, x_NF: Tensor) -> Tensor:
        """Embed flat observations; returns ``(N, E)``."""
        embedding: Tensor = self.layers(x_NF)
        return embedding


class LightEmbedding(ArrayEmbedding):
    """Average neighboring cells, take the depth as channels, convolve in the plane: made for processors.

    Coarse in depth and fine in the plane, because positions in the plane are what a network has to find.

    Parameters
    ----------
    shape
        Shape of the observation: two axes or more; those before the last two are taken as depth.
    size
        Width of the embedding.
    """

    LARGEST_DEPTH = 4
    LARGEST_AXIS = 18
    CHANNELS = (16, 32, 32)

    def __init__(self, shape: Sequence[int], size: int) -> None:
        super().__init__(shape, size)
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


class Cnn2dEmbedding(ArrayEmbedding):
    """Five convolutions of the plane, 64, 64, pool, 128, 128, 128, pool, then two linear layers.

    Parameters
    ----------
    shape
        Shape of the observation: two axes or more; those before the last two are taken as channels.
    size
        Width of the embedding.
    """

    shortest_axes = (1, SHORTEST_AXIS, SHORTEST_AXIS)

    def __init__(self, shape: Sequence[int], size: int) -> None:
        super().__init__(shape, size)
        channels, *plane = self.volume
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 64, 3), nn.ReLU(), ChannelsLast(),
            nn.Conv2d(64, 64, 3), nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3), nn.ReLU(),
            nn.Conv2d(128, 128, 3), nn.ReLU(),
            nn.Conv2d(128, 128, 3), nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )  # fmt: skip
        self.last = nn.Sequential(nn.Linear(128 * _num_cells(plane), size), nn.ReLU(), nn.Linear(size, size), nn.ReLU())

    def reduce(self, x: Tensor) -> Tensor:
        """Take the axes before the last two as channels; returns ``(N, C, H, W)``."""
        return x.reshape(len(x), *self.volume)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Embed arrays; returns ``(N, E)``."""
        embedding: Tensor = self.last(self.layers(x_NCHW))
        return embedding


class Cnn3dEmbedding(ArrayEmbedding):
    """The 3D convolutional network of the paper: convolutions 64, 64, pool, 128, 128, 128, pool, then a linear layer.

    Parameters
    ----------
    shape
        Shape of the observation: three axes or more; those before the last two are taken as depth.
    size
        Width of the embedding.
    """

    num_axes = 3
    shortest_axes = (SHORTEST_AXIS, SHORTEST_AXIS, SHORTEST_AXIS)

    def __init__(self, shape: Sequence[int], size: int) -> None:
        super().__init__(shape, size)
        self.layers = nn.Sequential(
            nn.Conv3d(1, 64, 3), nn.ReLU(), ChannelsLast(),
            nn.Conv3d(64, 64, 3), nn.ReLU(),
            nn.MaxPool3d(2),
            nn.Conv3d(64, 128, 3), nn.ReLU(),
            nn.Conv3d(128, 128, 3), nn.ReLU(),
            nn.Conv3d(128, 128, 3), nn.ReLU(),
            nn.MaxPool3d(2),
            nn.Flatten(),
        )  # fmt: skip
        self.last = nn.Linear(128 * _num_cells(self.volume), size)

    def forward(self, x_N1DHW: Tensor) -> Tensor:
        """Embed arrays; returns ``(N, E)``."""
        return functional.relu(self.last(self.layers(x_N1DHW)))


class ChannelsLast(nn.Module):
    """Make channels the innermost axis in memory, which the following convolutions keep; values stay as they are.

    Weights keep their order in memory, so that nothing else has to know.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return arrays ``(N, C, H, W)`` or ``(N, C, D, H, W)`` in the other order."""
        return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)


ARRAY_EMBEDDINGS: Mapping[str, type[ArrayEmbedding]] = {
    "light": LightEmbedding,
    "mlp": PerceptronEmbedding,
    "cnn2d": Cnn2dEmbedding,
    "cnn3d": Cnn3dEmbedding,
}
"""The kinds, as `NetworkConfig.observation` names them."""


def make_array_embedding(kind: str, name: str, shape: Sequence[int], size: int) -> ArrayEmbedding:
    """Make the embedding of one observation.

    Parameters
    ----------
    kind
        A key of `ARRAY_EMBEDDINGS`.
    name
        Name of the observation.
    shape
        Its shape.
    size
        Width of the embedding.

    Raises
    ------
    InvalidInputError
        When observations of this shape have too few axes, or too short ones, for the kind.

    Examples
    --------
    >>> make_array_embedding("cnn2d", "image", (3, 28, 28), 8).last[0]
    Linear(in_features=1152, out_features=8, bias=True)
    """
    embedding = ARRAY_EMBEDDINGS[kind]
    if _fits(embedding, shape):
        return embedding(shape, size)
    fitting = [other for other, candidate in ARRAY_EMBEDDINGS.items() if _fits(candidate, shape)]
    if not fitting:
        message = f"Observation {name!r} of shape {tuple(shape)} holds no number; leave it out of `observation_of`."
        raise InvalidInputError(message, name=name, shape=tuple(shape))
    needed = f"{embedding.num_axes} axes or more"
    if max(embedding.shortest_axes) > 1:
        needed += f", the last {sum(axis > 1 for axis in embedding.shortest_axes)} of at least {SHORTEST_AXIS} cells"
    message = (
        f"Observation {name!r} of shape {tuple(shape)} is too small for the embedding {kind!r}, which needs {needed}; "
        f"kinds that fit are {', '.join(fitting)}: set `observation` or `observation_of` to one of them."
    )
    raise InvalidInputError(message, name=name, shape=tuple(shape), needed_axes=embedding.num_axes)


def volume_of(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return depth, height and width of an array; missing axes have one cell, those before the last two are depth."""
    height, width = (1, 1, *shape)[-2:]
    return math.prod(shape[:-2]), height, width


def _fits(embedding: type[ArrayEmbedding], shape: Sequence[int]) -> bool:
    cells = zip(volume_of(shape), embedding.shortest_axes, strict=True)
    return len(shape) >= embedding.num_axes and all(axis >= shortest for axis, shortest in cells)


def _num_cells(axes: Sequence[int]) -> int:
    """Return how many cells two and three unpadded convolutions leave, with a pooling after each group."""
    return math.prod(((axis - 4) // 2 - 6) // 2 for axis in axes)
