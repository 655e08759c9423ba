"""A three-dimensional convolutional generator, trained against a discriminator that also tells the labels.

After the 3DGAN of CERN openlab (F. Carminati, G. Khattak, S. Vallecorsa and others, "Three dimensional Generative
Adversarial Networks for fast simulation", J. Phys.: Conf. Series 1085, 2018, and G. Khattak et al., "Fast simulation
of a high granularity calorimeter by generative adversarial networks", Eur. Phys. J. C 82, 2022): a latent vector of
256 numbers scaled by the condition, a generator of 3-D convolutions, and a discriminator with heads for real or
generated, energy, angle and the sum of all cells; about a million parameters each.

Our choices: cells are read by their logarithm (`scaling`); each cell has a random number of its own, since spots fall
into cells independently; the adversarial loss pairs a real and a generated image of the same labels, with gradient
penalties (Huang et al., "The GAN is dead; long live the GAN!", 2024), and no batch normalization; what heads, totals
and layers say is compared as *distributions*, by the energy score of two generated images and a real one (Gneiting and
Raftery, "Strictly proper scoring rules", 2007), because a distance to the label itself takes the fluctuations away.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tracestore.surrogates.cell_law import (
    MOST_LEVEL,
    draw_spots,
    fit_cell_law,
    fit_total_law,
    label_basis,
    read_level,
)
from tracestore.surrogates.config import GanConfig
from tracestore.surrogates.model import GenerativeModel, draw_normals
from tracestore.surrogates.scaling import CellScaling, FeatureScaling, LabelScaling

__all__ = ["AdversarialGenerator", "Discriminator", "Generator"]

SLOPE = 0.2
"""Of the leaky rectifiers below zero."""
FIRST_SHARE = 0.1
"""Of the usual first weights of the generator's last layer, so that it starts from the law of single cells."""
NEVER_HIT = -100.0
"""What is read as the level of a cell outside of the image."""
LEAST_TOTAL = 1e-3
"""Least sum of cells in units: that of an image without a hit is no divisor."""
MOST_FITTED = 1024
"""Images that scalings are fitted to; more of them take time and change little."""
PENALIZED = 0.25
"""Share of the traces of a step whose gradient is penalized, so much more; chance decides for each."""


class AdversarialGenerator(GenerativeModel):
    """Generator and discriminator of images.

    Parameters
    ----------
    shape
        Of an image, three sides.
    num_labels
        Numbers that an image is conditioned on.
    config
        Sizes and weights.

    Examples
    --------
    >>> model = AdversarialGenerator((25, 25, 25), 1, GanConfig())
    >>> noise = model.draw_noise(2, [torch.Generator().manual_seed(number) for number in (1, 2)])
    >>> model.generate(torch.tensor([[100.0], [200.0]]), noise).shape
    torch.Size([2, 25, 25, 25])
    """

    phases: ClassVar[tuple[str, ...]] = ("discriminator", "generator")
    precise_layers: ClassVar[tuple[str, ...]] = ("generator.condition", "generator.layers")

    def __init__(self, shape: Sequence[int], num_labels: int, config: GanConfig) -> None:
        super().__init__(shape, num_labels)
        self.config = config
        self.cells = CellScaling()
        self.label_scaling = LabelScaling(num_labels)
        self.features = FeatureScaling(self.shape, num_labels)
        self.generator = Generator(self.shape, num_labels, config)
        self.discriminator = Discriminator(self.shape, num_labels, self.features.num_features, config)

    def fit(self, images_NX: Tensor, labels_NL: Tensor) -> None:
        """Set the scalings; see `GenerativeModel.fit`."""
        super().fit(images_NX, labels_NL)
        images_NX, labels_NL = images_NX[:MOST_FITTED], labels_NL[:MOST_FITTED]
        self.cells.fit(images_NX)
        self.label_scaling.fit(labels_NL)
        scaled_NL = self.label_scaling(labels_NL)
        self.features.fit(self.cells.encode(images_NX), scaled_NL)
        self.generator.fit(images_NX / self.cells.unit, scaled_NL)

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """Return the parameters of one of the two networks; the losses of a phase reach no others."""
        return list((self.discriminator if phase == "discriminator" else self.generator).parameters())

    def draw_noise(self, num: int, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw the latent vector of the image and a number for each cell; see `GenerativeModel.draw_noise`."""
        return draw_normals(num, self.generator.noise_size, generators, self.device)

    def generate(self, labels_NL: Tensor, noise_NZ: Tensor) -> Tensor:
        """Return images; see `GenerativeModel.generate`."""
        image_NX: Tensor = self.generator(self.label_scaling(labels_NL), noise_NZ)
        return image_NX * self.cells.unit

    def losses(
        self, phase: str, images_NX: Tensor, labels_NL: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """Return the terms of the loss; see `GenerativeModel.losses`."""
        real_NX, scaled_NL = self.cells.encode(images_NX), self.label_scaling(labels_NL)
        if phase == "discriminator":
            return self._discriminator_losses(real_NX, scaled_NL, generators)
        return self._generator_losses(real_NX, scaled_NL, generators)

    def _discriminator_losses(
        self, real_NX: Tensor, scaled_NL: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        num = len(real_NX)
        with torch.no_grad():
            chances = [torch.rand((), generator=generator).item() for generator in generators]
            is_chosen_N = torch.tensor(chances, dtype=torch.float32) < PENALIZED
            made_NX = torch.log1p(self.generator(scaled_NL, self.draw_noise(num, generators)))
        both_MX = torch.cat([real_NX, made_NX])
        twice_ML = torch.cat([scaled_NL, scaled_NL])
        scores_M, told_ML = self.discriminator(both_MX, self.features(both_MX, twice_ML), twice_ML)
        return {
            "adversarial": functional.softplus(scores_M[num:] - scores_M[:num]),
            "penalty": self._penalty(real_NX, made_NX, scaled_NL, is_chosen_N.nonzero()[:, 0].to(self.device)),
            "labels": functional.smooth_l1_loss(told_ML[:num], scaled_NL, reduction="none").sum(1),
        }

    def _penalty(self, real_NX: Tensor, made_NX: Tensor, scaled_NL: Tensor, chosen_C: Tensor) -> Tensor:
        """Return the squared gradients of the score with respect to the images that chance has chosen."""
        penalty_N = torch.zeros(len(real_NX), device=real_NX.device)
        if not len(chosen_C):
            return penalty_N
        images_MX = torch.cat([real_NX[chosen_C], made_NX[chosen_C]]).requires_grad_()
        labels_ML = scaled_NL[chosen_C].repeat(2, 1)
        scores_M, _ = self.discriminator(images_MX, self.features(images_MX, labels_ML), labels_ML)
        (slopes_MX,) = torch.autograd.grad(scores_M.sum(), images_MX, create_graph=True)
        squares_M = slopes_MX.square().flatten(1).sum(1)
        weight = 0.5 * self.config.penalty / PENALIZED
        return penalty_N.index_add(0, chosen_C, weight * (squares_M[: len(chosen_C)] + squares_M[len(chosen_C) :]))

    def _generator_losses(
        self, real_NX: Tensor, scaled_NL: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        num = len(real_NX)
        noise_MZ = torch.cat([self.draw_noise(num, generators), self.draw_noise(num, generators)])
        twice_ML = torch.cat([scaled_NL, scaled_NL])
        made_MX = torch.log1p(self.generator(twice_ML, noise_MZ))
        all_KX, thrice_KL = torch.cat([real_NX, made_MX]), torch.cat([scaled_NL, twice_ML])
        features_KF = self.features(all_KX, thrice_KL)
        # detached copies: what this phase does not update gets no gradient
        fixed = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        scores_K, told_KL = torch.func.functional_call(self.discriminator, fixed, (all_KX, features_KF, thrice_KL))
        real_N, first_N, second_N = scores_K.chunk(3)
        adversarial_N = functional.softplus(real_N - first_N) + functional.softplus(real_N - second_N)
        total_K1 = features_KF[:, self.features.total : self.features.total + 1]
        return {
            "adversarial": 0.5 * self.config.adversarial_weight * adversarial_N,
            "labels": self.config.label_weight * _energy_score(told_KL),
            "total": self.config.total_weight * _energy_score(total_K1),
            "profiles": self.config.profile_weight * self._profile_score(features_KF),
        }

    def _profile_score(self, features_KF: Tensor) -> Tensor:
        """Score every feature on its own, and the layers along each axis together."""
        alone_NF = _energy_score(features_KF[:, :, None])
        groups = [
            _energy_score(group_KF)
            for group_KF in torch.split_with_sizes(features_KF, self.features.group_sizes, dim=1)
        ]
        return alone_NF.mean(1) + torch.stack(groups).mean(0)


class Generator(nn.Module):
    """Convolutional generator of images in units: a quarter of the resolution, then half, then all of it.

    The resolution doubles by convolutions with eight times the channels, which become the eight cells of a voxel
    (W. Shi et al., "Real-time single image and video super-resolution", 2016): the arithmetic of a transposed
    convolution, in a form that is several times faster on processors.

    Parameters
    ----------
    shape
        Of an image.
    num_labels
        L.
    config
        Sizes.

    Examples
    --------
    >>> generator = Generator((25, 25, 25), 1, GanConfig())
    >>> sum(parameter.numel() for parameter in generator.parameters()) // 100_000
    8
    """

    law_BK: Tensor
    total_B2: Tensor

    def __init__(self, shape: tuple[int, ...], num_labels: int, config: GanConfig) -> None:
        super().__init__()
        self.shape, self.latent_size, self.is_of_spots = shape, config.latent_size, config.cell_law == "spots"
        self.half_shape = tuple(-(-side // 2) for side in shape)
        self.quarter_shape = tuple(-(-side // 2) for side in self.half_shape)
        first, second, third = config.generator_channels
        self.condition = nn.Linear(2 * num_labels, 2 * config.latent_size)
        self.hidden = nn.Linear(config.latent_size, config.latent_size)
        self.grid = nn.Linear(config.latent_size, first * math.prod(self.quarter_shape))
        self.grid_shape = (first, *self.quarter_shape)
        self.widen = nn.Conv3d(first, second, 3, padding=1)
        self.to_half = nn.Conv3d(second, 8 * third, 3, padding=1)
        self.to_full = nn.Conv3d(third, 16, 3, padding=1)
        self.layers = nn.Linear(config.latent_size, 2 * sum(self.half_shape))
        num_terms = label_basis(torch.zeros(1, num_labels)).shape[1]
        self.register_buffer("total_B2", torch.zeros(num_terms, 2))
        self.register_buffer("law_BK", torch.zeros(num_terms, 16 * math.prod(self.half_shape)))
        _start(self)
        with torch.no_grad():
            self.to_full.weight.mul_(FIRST_SHARE)
            self.layers.weight.mul_(FIRST_SHARE)
            self.layers.weight[: -2 * self.half_shape[2]] = 0.0  # along the depth first: there showers fluctuate most

    def fit(self, units_NX: Tensor, scaled_NL: Tensor) -> None:
        """Fit the law of single cells; see `fit_cell_law`."""
        law_B2X = fit_cell_law(units_NX, scaled_NL, is_of_spots=self.is_of_spots)
        # a side may be odd: what is cut off again is never hit, and so has no part in the total
        sides = zip(self.half_shape[::-1], self.shape[::-1], strict=True)
        padding = [number for half, side in sides for number in (0, 2 * half - side)]
        half_x, half_y, half_depth = self.half_shape
        padded = functional.pad(law_B2X, padding)
        padded[0, 0] = functional.pad(law_B2X[0, 0], padding, value=NEVER_HIT)
        eighths = padded.reshape(-1, 2, half_x, 2, half_y, 2, half_depth, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
        self.law_BK.copy_(eighths.reshape(self.law_BK.shape))
        self.total_B2.copy_(fit_total_law(units_NX, scaled_NL))

    @property
    def noise_size(self) -> int:
        """Random numbers of an image: latent ones, and one for each cell of the doubled half resolution."""
        return self.latent_size + 8 * math.prod(self.half_shape)

    def forward(self, scaled_NL: Tensor, noise_NZ: Tensor) -> Tensor:
        """Return images in units, not negative, shape ``(N, *shape)``."""
        num = len(noise_NZ)
        latent, cell_noise = noise_NZ[:, : self.latent_size], noise_NZ[:, self.latent_size :]
        scale, shift = self.condition(torch.cat([scaled_NL, scaled_NL**2], dim=1)).chunk(2, dim=1)
        hidden = functional.leaky_relu(self.hidden(latent * (1.0 + scale) + shift), SLOPE)
        # rectified in place and before voxels are taken apart: passes over memory cost as much as layers
        maps = functional.leaky_relu(self.grid(hidden), SLOPE, inplace=True).reshape(num, *self.grid_shape)
        maps = functional.leaky_relu(self.widen(maps), SLOPE, inplace=True)
        maps = _double(functional.leaky_relu(self.to_half(maps), SLOPE, inplace=True), self.half_shape)
        maps = self.to_full(maps)
        with torch.autocast(noise_NZ.device.type, enabled=False):  # energies have more digits than bfloat16
            return self._image(label_basis(scaled_NL), maps.float(), hidden.float(), latent[:, 0], cell_noise)

    def _image(
        self, basis_NB: Tensor, maps: Tensor, hidden: Tensor, total_noise_N: Tensor, cell_noise: Tensor
    ) -> Tensor:
        """Correct the law of single cells, draw the cells, and give them their total energy."""
        num = len(maps)
        law = (basis_NB @ self.law_BK).reshape(num, 16, *self.half_shape)
        level, spread = (law + maps).chunk(2, dim=1)
        level = level + self._layer_offsets(hidden)
        noise = cell_noise.reshape(num, 8, *self.half_shape)
        spread = torch.exp(spread.clamp(max=MOST_LEVEL))
        if self.is_of_spots:
            cells = draw_spots(level, noise) * spread
        else:
            cells = functional.relu(torch.addcmul(read_level(level), spread, noise), inplace=True)
        log_total_N, log_spread_N = (basis_NB @ self.total_B2).unbind(1)
        # the total is known better than by adding up cells: resolution and sampling fraction are right at once
        total_N = torch.exp(log_total_N + torch.exp(log_spread_N) * total_noise_N)
        factor_N = total_N / cells.flatten(1).sum(1).clamp(min=LEAST_TOTAL)
        return _double(cells * factor_N[:, None, None, None, None], self.shape)[:, 0]

    def _layer_offsets(self, hidden: Tensor) -> Tensor:
        """Return what whole layers along each axis have more or less, shape ``(N, 8, *half_shape)``."""
        num, (half_x, half_y, half_depth) = len(hidden), self.half_shape
        sizes = [2 * half_x, 2 * half_y, 2 * half_depth]
        along_x, along_y, along_depth = torch.split_with_sizes(self.layers(hidden), sizes, dim=1)
        along_x = along_x.reshape(num, half_x, 2).mT.reshape(num, 2, 1, half_x, 1)
        along_y = along_y.reshape(num, half_y, 2).mT.reshape(num, 1, 2, 1, half_y)
        along_depth = along_depth.reshape(num, half_depth, 2).mT.reshape(num, 1, 2, 1, 1, half_depth)
        across = (along_x + along_y).reshape(num, 4, 1, half_x, half_y, 1)
        return (across + along_depth).reshape(num, 8, half_x, half_y, half_depth)


class Discriminator(nn.Module):
    """Convolutional discriminator of encoded images, with heads for real or generated and for the labels.

    Parameters
    ----------
    shape
        Of an image.
    num_labels
        L.
    num_features
        F, see `FeatureScaling`.
    config
        Sizes.

    Examples
    --------
    >>> discriminator = Discriminator((25, 25, 25), 1, 152, GanConfig())
    >>> sum(parameter.numel() for parameter in discriminator.parameters()) // 100_000
    8
    """

    def __init__(self, shape: tuple[int, ...], num_labels: int, num_features: int, config: GanConfig) -> None:
        super().__init__()
        channels = (2, *config.discriminator_channels)
        self.layers = nn.ModuleList(
            nn.Conv3d(before, after, 3, stride=2, padding=1) for before, after in pairwise(channels)
        )
        eighth = [-(-side // 8) for side in shape]
        self.hidden = nn.Linear(
            channels[-1] * math.prod(eighth) + num_features + 2 * num_labels, config.discriminator_size
        )
        self.score = nn.Linear(config.discriminator_size, 1)
        self.labels = nn.Linear(config.discriminator_size, num_labels)
        _start(self)

    def forward(self, encoded_NX: Tensor, features_NF: Tensor, scaled_NL: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores, high for real, shape ``(N,)``, and what the scaled labels seem to be, ``(N, L)``."""
        maps = torch.stack([encoded_NX, 1.0 - torch.exp(-4.0 * encoded_NX)], dim=1)
        for layer in self.layers:
            maps = functional.leaky_relu(layer(maps), SLOPE)
        seen = torch.cat([maps.flatten(1), features_NF, scaled_NL, scaled_NL**2], dim=1)
        hidden = functional.leaky_relu(self.hidden(seen), SLOPE)
        return self.score(hidden)[:, 0], self.labels(hidden)


def _start(network: nn.Module) -> None:
    """Draw first weights that keep the spread of what passes through layers; there is no normalization that would."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight, SLOPE)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _energy_score(values_KD: Tensor) -> Tensor:
    """Return ``(|a - x| + |b - x| - |a - b|) / 2`` for real x and generated a and b; norms over the last dimension."""
    real, first, second = values_KD.chunk(3)

    def distance(one: Tensor, other: Tensor) -> Tensor:
        # the square root has no slope at zero
        return ((one - other).square().mean(-1) + 1e-12).sqrt()

    return 0.5 * (distance(first, real) + distance(second, real) - distance(first, second))


def _double(maps: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Make eight channels of every voxel its eight cells, and cut the result to a shape."""
    num, channels, *sides = maps.shape
    cells = maps.reshape(num, channels // 8, 2, 2, 2, *sides).permute(0, 1, 5, 2, 6, 3, 7, 4)
    doubled = cells.reshape(num, channels // 8, *(2 * side for side in sides))
    return doubled[:, :, : shape[0], : shape[1], : shape[2]]
