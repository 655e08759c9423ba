"""What every conditional generator of arrays can do: be trained, generate, and be judged.

A model works in physical units and knows no stores, no names and no optimizer. N traces, L labels, Z numbers of noise.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tracestore.samplers.hashing import derive_key, keyed_hash
from tracestore.surrogates.moments import Moments

__all__ = ["GenerativeModel", "draw_normals", "row_generators"]

LEAST_CELLS = 8
"""Fewest cells along a side of an image."""


class GenerativeModel(nn.Module, ABC):
    """Conditional generator of arrays with all that is needed to train it.

    Everything a subclass computes of a trace depends on this trace alone, so that losses of traces can be added up in
    any grouping: no batch normalization, and noise from one generator for each trace. Scalings are buffers that `fit`
    sets; images and labels go in and come out in physical units.

    Parameters
    ----------
    shape
        Of an image.
    num_labels
        Numbers that an image is conditioned on.

    Raises
    ------
    InvalidInputError
        When the shape does not suit the model.
    """

    phases: ClassVar[tuple[str, ...]]
    """Updates of one training step, in order."""
    precise_layers: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of layers that stay in float32 when others compute in eight bits."""

    def __init__(self, shape: Sequence[int], num_labels: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.num_labels = num_labels
        self.moments = Moments(self.shape, num_labels)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def fit(self, images_NX: Tensor, labels_NL: Tensor) -> None:
        """Set the scalings from a part of the training set, some thousand images say; subclasses add their own.

        Parameters
        ----------
        images_NX
            Not negative, shape ``(N, *shape)``.
        labels_NL
            Their labels.
        """
        self.moments.fit(images_NX, labels_NL)

    @abstractmethod
    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """Return what the updates of a phase change; its losses have no gradient for other parameters."""

    @abstractmethod
    def draw_noise(self, num: int, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw what one generation needs: independent standard Normal numbers, row i from generator i and nothing else.

        Parameters
        ----------
        num
            N.
        generators
            N generators of the CPU; they are advanced.

        Returns
        -------
        torch.Tensor
            Shape ``(N, Z)``, on the device of the model.
        """

    @abstractmethod
    def losses(
        self, phase: str, images_NX: Tensor, labels_NL: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """Return the terms of the loss by name, each of shape ``(N,)`` and weighted; a trace's loss is their sum.

        Parameters
        ----------
        phase
            One of `phases`.
        images_NX, labels_NL
            A minibatch, on the device of the model.
        generators
            One for each trace; they are advanced.
        """

    @abstractmethod
    def generate(self, labels_NL: Tensor, noise_NZ: Tensor) -> Tensor:
        """Return images, float32 of shape ``(N, *shape)``, not negative, from labels and noise."""

    def statistics(self, images_NX: Tensor, labels_NL: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return float64 sums over traces that `score` needs, shape ``(S,)``; sums of batches and ranks add up.

        Parameters
        ----------
        images_NX, labels_NL
            Of a validation set.
        generators
            One for each trace.
        """
        generated = self.generate(labels_NL, self.draw_noise(len(labels_NL), generators))
        return self.moments.sums(images_NX, generated, labels_NL)

    def score(self, statistics: Tensor) -> float:
        """Return the validation loss, a distance of moments of generated and real images; lower is better.

        Parameters
        ----------
        statistics
            What `statistics` gave, added up.
        """
        return self.moments.distance(statistics)


def draw_normals(num: int, size: int, generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """Draw independent standard Normal numbers, row i from generator i, of 65536 equally likely values each.

    Sixteen random bits a number are drawn on the CPU and become a Normal number on the device, so that little is drawn
    and little is copied: an image takes as many numbers as it has cells.

    Parameters
    ----------
    num
        N.
    size
        Numbers of a row.
    generators
        N generators of the CPU; they are advanced.
    device
        Of the result.

    Returns
    -------
    torch.Tensor
        Float32, shape ``(num, size)``.

    Examples
    --------
    >>> numbers = draw_normals(2, 5000, [torch.Generator().manual_seed(seed) for seed in (1, 2)], torch.device("cpu"))
    >>> bool(numbers.mean().abs() < 0.03), bool((numbers.std() - 1.0).abs() < 0.03)
    (True, True)
    """
    words_NW = torch.empty(num, -(-size // 4), dtype=torch.int64)
    for row_W, generator in zip(words_NW, generators, strict=True):
        row_W.random_(-(2**63), None, generator=generator)
    bits_NZ = words_NW.view(torch.int16)[:, :size].to(device, non_blocking=True)
    # the middle of each of 65536 intervals of the distribution function
    return bits_NZ.to(torch.float32).add_(0.5).mul_(2.0**-15).erfinv_().mul_(math.sqrt(2.0))


def row_generators(rows: NDArray[np.integer], *key: int) -> list[torch.Generator]:
    """Return a generator for each row whose stream is a function of the key and the row alone.

    Parameters
    ----------
    rows
        Indices, shape ``(N,)``.
    *key
        Integers: a seed, a step.

    Examples
    --------
    >>> first, second = row_generators(np.array([0, 7]), 1), row_generators(np.array([7]), 1)
    >>> bool(torch.rand(1, generator=first[1]) == torch.rand(1, generator=second[0]))
    True
    """
    seeds = keyed_hash(rows, derive_key(*key)) >> np.uint64(1)
    return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
