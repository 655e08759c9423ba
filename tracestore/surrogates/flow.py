"""Flow matching: showers as the end of a flow that starts from Normal noise.

A network learns the velocity of a path from noise to an image (Y. Lipman and others, "Flow matching for generative
modeling", ICLR 2023), in two stages: the energies of the layers given the labels, and the cells given labels and
layers, as in CaloDREAM (L. Favaro and others, 2024, arXiv:2405.09629). The path is the quarter of a circle,
``cos(s) noise + sin(s) image`` (M. Albergo and E. Vanden-Eijnden, "Building normalizing flows with stochastic
interpolants", ICLR 2023). Images are mapped to numbers that are nearly independent and Normal first (`flow_laws`);
along a circle these need no velocity at all. So a flow that has learned nothing gives every cell its law, what it
learns is what cells have in common, and few steps integrate it.
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from tracestore.errors import InvalidInputError
from tracestore.surrogates.config import FlowConfig
from tracestore.surrogates.flow_laws import CellLaw, LabelKnots, LayerLaw
from tracestore.surrogates.flow_network import LayerNetwork, PatchTransformer
from tracestore.surrogates.model import GenerativeModel, draw_normals

__all__ = ["FlowMatching", "Solver", "integrate", "on_path"]

Solver = Literal["euler", "midpoint", "adams"]
END = 0.5 * math.pi
FREQUENCIES = (2.0, 4.0, 8.0, 16.0)
"""Of the sines and cosines that tell the network where on the path it is."""
REPEATS = 8
"""Places on the path of the layers that a trace is trained at in one step: they cost little, and steady the loss."""
FARTHEST = 5.0
"""Numbers of the layers are read by the cells' network up to this."""


class FlowMatching(GenerativeModel):
    """Conditional flow matching in two stages, layers and cells.

    Parameters
    ----------
    shape
        Of an image, three sides; the last one counts layers.
    num_labels
        Numbers that an image is conditioned on.
    config
        Sizes and steps.

    Raises
    ------
    InvalidInputError
        When the knots of the config are not one number for each label.

    Examples
    --------
    >>> model = FlowMatching((8, 8, 10), 1, FlowConfig(width=16, num_heads=2))
    >>> noise = model.draw_noise(2, [torch.Generator().manual_seed(number) for number in (1, 2)])
    >>> model.generate(torch.tensor([[100.0], [200.0]]), noise).shape
    torch.Size([2, 8, 8, 10])
    """

    phases: ClassVar[tuple[str, ...]] = ("velocity",)

    def __init__(self, shape: Sequence[int], num_labels: int, config: FlowConfig) -> None:
        super().__init__(shape, num_labels)
        self.config = config
        self.labels = LabelKnots(_knots(config, num_labels))
        num_layers, num_terms = self.shape[2], self.labels.num_terms
        self.layer_law = LayerLaw(num_layers, num_terms, config.threshold)
        self.cell_law = CellLaw(self.shape, math.prod(self.labels.knots), config.threshold)
        self.num_cells = math.prod(self.shape)
        num_conditions = num_terms + 2 * len(FREQUENCIES)
        size = self.layer_law.size
        self.layers = LayerNetwork(size, num_conditions, config.layers_width, config.layers_blocks)
        self.cells = PatchTransformer(
            self.shape,
            config.patch or (self.shape[0], self.shape[1], 1),
            num_conditions + size,
            config.width,
            config.num_blocks,
            config.num_heads,
            config.num_context,
            config.num_hidden,
        )

    def fit(self, images_NX: Tensor, labels_NL: Tensor) -> None:
        """Set the laws; see `GenerativeModel.fit`."""
        super().fit(images_NX, labels_NL)
        if not len(images_NX):
            return
        with torch.no_grad(), self._full_precision():
            cells_NX, labels_NL = self._above_threshold(images_NX), labels_NL.float()
            self.labels.fit(labels_NL)
            self.layer_law.fit(cells_NX.sum((1, 2)), self.labels.terms(labels_NL))
            self.cell_law.fit(cells_NX, self.labels.weights(labels_NL))

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """Return the parameters of both networks."""
        return [*self.layers.parameters(), *self.cells.parameters()]

    def draw_noise(self, num: int, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw a Normal number for each cell and each number of the layers; see `GenerativeModel.draw_noise`."""
        return draw_normals(num, self.num_cells + self.layer_law.size, generators, self.device)

    def losses(
        self, phase: str, images_NX: Tensor, labels_NL: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """Return the squared errors of both velocities at a random place of the path; see `GenerativeModel.losses`."""
        num, size = len(images_NX), self.layer_law.size
        with torch.no_grad(), self._full_precision():
            sizes = [self.num_cells, self.num_cells, size - 1, REPEATS * size, 1 + REPEATS]
            drawn = torch.split(draw_normals(num, sum(sizes), generators, self.device), sizes, dim=1)
            cell_noise, cell_fill, layer_fill, layer_noise, times = drawn
            times = END * torch.special.ndtr(times)
            cells_NX, labels_NL = self._above_threshold(images_NX), labels_NL.float()
            energies_ND, terms_NB = cells_NX.sum((1, 2)), self.labels.terms(labels_NL)
            layers_NK = self.layer_law.encode(energies_ND, terms_NB, layer_fill)
            at_layers, along_layers = on_path(
                times[:, 1:].reshape(-1, 1), layer_noise.reshape(-1, size), layers_NK.repeat_interleave(REPEATS, 0)
            )
            layer_condition = torch.cat(
                [terms_NB.repeat_interleave(REPEATS, 0), _time_features(times[:, 1:].flatten())], dim=1
            )
            places_NX = self.cell_law.places(energies_ND, self.labels.weights(labels_NL))
            uniform_NX = torch.special.ndtr(cell_fill).view(cells_NX.shape)
            encoded_NX = self.cell_law.encode(cells_NX, places_NX, uniform_NX)
            at_cells, along_cells = on_path(times[:, :1], cell_noise, encoded_NX.flatten(1))
            cell_condition = self._cell_condition(times[:, 0], terms_NB, layers_NK)
            fixed_NX = self.cell_law.scale_places(places_NX)
        layer_error = (self.layers(at_layers, layer_condition) - along_layers).square().view(num, -1)
        cell_velocity = self.cells(at_cells.view(cells_NX.shape), fixed_NX, cell_condition).flatten(1)
        return {
            "cells": (cell_velocity - along_cells).square().mean(1),
            "layers": layer_error.mean(1),
        }

    def generate(self, labels_NL: Tensor, noise_NZ: Tensor) -> Tensor:
        """Return images; see `GenerativeModel.generate`."""
        config = self.config
        cell_noise, layer_noise = torch.split(noise_NZ.float(), [self.num_cells, self.layer_law.size], dim=1)
        with self._full_precision():
            terms_NB, weights_NP = self.labels.terms(labels_NL), self.labels.weights(labels_NL)

        def layer_velocity(at_NK: Tensor, time_N: Tensor) -> Tensor:
            velocity: Tensor = self.layers(at_NK, torch.cat([terms_NB, _time_features(time_N)], dim=1))
            return velocity

        layers_NK = integrate(layer_velocity, layer_noise, config.num_layer_steps, config.solver)
        with self._full_precision():
            energies_ND = self.layer_law.decode(layers_NK, terms_NB)
            places_NX = self.cell_law.places(energies_ND, weights_NP)
        fixed_NX = self.cell_law.scale_places(places_NX)

        def cell_velocity(at_NX: Tensor, time_N: Tensor) -> Tensor:
            velocity: Tensor = self.cells(at_NX, fixed_NX, self._cell_condition(time_N, terms_NB, layers_NK))
            return velocity

        encoded_NX = integrate(cell_velocity, cell_noise.reshape(-1, *self.shape), config.num_steps, config.solver)
        with self._full_precision():
            return self.cell_law.decode(encoded_NX, places_NX, energies_ND)

    def _cell_condition(self, times_N: Tensor, terms_NB: Tensor, layers_NK: Tensor) -> Tensor:
        return torch.cat([terms_NB, _time_features(times_N), layers_NK.clamp(-FARTHEST, FARTHEST)], dim=1)

    def _above_threshold(self, images_NX: Tensor) -> Tensor:
        images_NX = images_NX.float()
        return torch.where(images_NX >= self.config.threshold, images_NX, 0.0)

    def _full_precision(self) -> torch.autocast:
        """Energies span more than bfloat16 can tell apart."""
        return torch.autocast(self.device.type, enabled=False)


def integrate(velocity: Callable[[Tensor, Tensor], Tensor], start: Tensor, num_steps: int, solver: Solver) -> Tensor:
    """Follow a flow along its path, in equal steps from 0 to a quarter of a circle.

    Parameters
    ----------
    velocity
        Of places, shape ``(N, ...)``, and times, shape ``(N,)``.
    start
        Noise.
    num_steps
        Steps; ``midpoint`` asks for the velocity twice a step, the others once.
    solver
        ``euler``, ``midpoint``, or ``adams``, the method of Adams and Bashforth of second order.

    Returns
    -------
    torch.Tensor
        Where the flow ends.

    Examples
    --------
    >>> integrate(lambda place, time: -place, torch.ones(1), 20, "midpoint").log().round(decimals=2)
    tensor([-1.5700])
    """
    step, place, before = END / num_steps, start, None
    for index in range(num_steps):
        time = start.new_full((len(start),), index * step)
        slope = velocity(place, time)
        if solver == "midpoint":
            place = place + step * velocity(place + 0.5 * step * slope, time + 0.5 * step)
        elif solver == "adams" and before is not None:
            place = place + step * (1.5 * slope - 0.5 * before)
        else:
            place = place + step * slope
        before = slope
    return place


def on_path(times_N1: Tensor, noise_NK: Tensor, end_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Return place and velocity on the quarter circle from noise to an end, at times of shape ``(N, 1)``.

    Examples
    --------
    >>> on_path(torch.zeros(1, 1), torch.ones(1, 1), torch.full((1, 1), 2.0))
    (tensor([[1.]]), tensor([[2.]]))
    """
    sine, cosine = times_N1.sin(), times_N1.cos()
    return cosine * noise_NK + sine * end_NK, cosine * end_NK - sine * noise_NK


def _time_features(times_N: Tensor) -> Tensor:
    phases_NF = torch.stack([frequency * times_N for frequency in FREQUENCIES], dim=1)
    return torch.cat([phases_NF.sin(), phases_NF.cos()], dim=1)


def _knots(config: FlowConfig, num_labels: int) -> tuple[int, ...]:
    """Return the knots of each label; more where a label moves the shower across cells, as an angle does."""
    if config.knots is None:
        return (8,) if num_labels == 1 else (4, 13, *(3,) * (num_labels - 2))[:num_labels]
    if len(config.knots) != num_labels:
        message = f"`knots` must be a number for each of {num_labels} labels; got {config.knots!r}."
        raise InvalidInputError(message, argument="knots")
    return config.knots
