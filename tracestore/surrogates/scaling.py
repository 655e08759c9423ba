"""Scalings between physical units and the numbers that networks read; buffers that `fit` sets from data.

Cells span seven decades and most are zero. A cell is read as ``log(1 + cell / unit)``, the unit being the mean energy
of a hit where hits are rare, that is of a single spot: linear for single spots, logarithmic in the core, and zero
exactly where the cell is zero. This is our choice; the papers of the 3DGAN use a power of the energy, or none.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["CellScaling", "FeatureScaling", "LabelScaling"]

LOGARITHMIC_FROM = 3.0
"""Ratio of highest to lowest value from which a positive label is read as its logarithm."""
RARE = 0.1
"""Share of the images below which a cell is hit rarely."""
SOFT_HIT = 0.1
"""Energy, in units, at which a cell counts as half a hit where counts need a gradient."""


class CellScaling(nn.Module):
    """Cells to logarithms and back.

    Examples
    --------
    >>> scaling = CellScaling()
    >>> scaling.fit(torch.tensor([[[[1.0, 2.0]]]]))
    >>> scaling.decode(scaling.encode(torch.tensor([0.0, 7.0]))).round().tolist()
    [0.0, 7.0]
    """

    unit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unit", torch.ones(()))

    def fit(self, images_NX: Tensor) -> None:
        """Set the unit: the mean energy of hits of cells that few images hit, or else of the lowest tenth of hits."""
        is_hit_NX = images_NX > 0.0
        if not is_hit_NX.any():
            return
        hits_X = is_hit_NX.sum(0)
        is_rare_X = (hits_X > 0) & (hits_X < RARE * len(images_NX))
        if is_rare_X.any():
            unit = images_NX.sum(0, dtype=torch.float64)[is_rare_X].sum() / hits_X[is_rare_X].sum()
        else:
            unit = images_NX[is_hit_NX].quantile(RARE) if int(is_hit_NX.sum()) < 1e7 else images_NX[is_hit_NX].median()
        self.unit.copy_(unit)

    def encode(self, images: Tensor) -> Tensor:
        """Return ``log(1 + cell / unit)``."""
        return torch.log1p(images / self.unit)

    def decode(self, encoded: Tensor) -> Tensor:
        """Return the cells."""
        return torch.expm1(encoded) * self.unit


class LabelScaling(nn.Module):
    """Labels to numbers of mean zero and spread one, by their logarithm where they are positive and span much.

    Parameters
    ----------
    num_labels
        L.

    Examples
    --------
    >>> scaling = LabelScaling(1)
    >>> scaling.fit(torch.tensor([[1.0], [100.0]]))
    >>> [round(value, 3) for value in scaling(torch.tensor([[1.0], [10.0], [100.0]])).flatten().tolist()]
    [-1.0, 0.0, 1.0]
    """

    center_L: Tensor
    spread_L: Tensor
    is_log_L: Tensor

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.register_buffer("center_L", torch.zeros(num_labels))
        self.register_buffer("spread_L", torch.ones(num_labels))
        self.register_buffer("is_log_L", torch.zeros(num_labels, dtype=torch.bool))

    def fit(self, labels_NL: Tensor) -> None:
        """Set center and spread from labels of the training set."""
        if not len(labels_NL):
            return
        lowest, highest = labels_NL.amin(0), labels_NL.amax(0)
        self.is_log_L.copy_((lowest > 0.0) & (highest > LOGARITHMIC_FROM * lowest))
        read_NL = self._read(labels_NL)
        self.center_L.copy_(read_NL.mean(0))
        spread_L = read_NL.std(0, unbiased=False)
        self.spread_L.copy_(torch.where(spread_L > 0.0, spread_L, torch.ones_like(spread_L)))

    def forward(self, labels_NL: Tensor) -> Tensor:
        """Return what networks read, shape ``(N, L)``."""
        return (self._read(labels_NL) - self.center_L) / self.spread_L

    def _read(self, labels_NL: Tensor) -> Tensor:
        logs_NL = torch.log(labels_NL.clamp(min=torch.finfo(labels_NL.dtype).tiny))
        return torch.where(self.is_log_L, logs_NL, labels_NL)


class FeatureScaling(nn.Module):
    """Features of an image as residuals: minus what its labels let expect, over their spread.

    Features, with a gradient: the logarithms of the energies of all layers along the three axes and of the total, and
    the same of soft counts of hits. What labels let expect is a polynomial of second order in each scaled label.

    Parameters
    ----------
    shape
        Of an image.
    num_labels
        L.

    Examples
    --------
    >>> FeatureScaling((8, 8, 8), 1)(torch.zeros(3, 8, 8, 8), torch.zeros(3, 1)).shape
    torch.Size([3, 50])
    """

    weights_BF: Tensor
    spread_F: Tensor

    def __init__(self, shape: Sequence[int], num_labels: int) -> None:
        super().__init__()
        self.num_features = 2 * (sum(shape) + 1)
        self.total = self.num_features // 2 - 1
        self.group_sizes = 2 * [*shape, 1]
        self.register_buffer("weights_BF", torch.zeros(1 + 2 * num_labels, self.num_features))
        self.register_buffer("spread_F", torch.ones(self.num_features))

    def fit(self, encoded_NX: Tensor, scaled_NL: Tensor) -> None:
        """Set polynomials and spreads from images that `CellScaling` encoded and scaled labels."""
        if not len(encoded_NX):
            return
        features_NF, basis_NB = _features(encoded_NX).double().cpu(), _basis(scaled_NL).double().cpu()
        # a ridge far below the spread of any feature keeps few images, or a label that never varies, solvable
        gram_BB = basis_NB.T @ basis_NB + 1e-6 * len(basis_NB) * torch.eye(basis_NB.shape[1], dtype=torch.float64)
        weights_BF = torch.linalg.solve(gram_BB, basis_NB.T @ features_NF)
        spread_F = (features_NF - basis_NB @ weights_BF).square().mean(0).sqrt()
        self.weights_BF.copy_(weights_BF)
        self.spread_F.copy_(spread_F.clamp(min=1e-2))

    def forward(self, encoded_NX: Tensor, scaled_NL: Tensor) -> Tensor:
        """Return the residuals, shape ``(N, F)``; column `total` is the total energy."""
        return (_features(encoded_NX) - _basis(scaled_NL) @ self.weights_BF) / self.spread_F


def _features(encoded_NX: Tensor) -> Tensor:
    energies = torch.expm1(encoded_NX)
    return torch.cat([torch.log1p(_sums(energies)), torch.log1p(_sums(energies / (energies + SOFT_HIT)))], dim=1)


def _sums(cells_NX: Tensor) -> Tensor:
    """Sum layers along the three axes, and all."""
    over_depth = cells_NX.sum(3)
    along_x = over_depth.sum(2)
    return torch.cat([along_x, over_depth.sum(1), cells_NX.sum((1, 2)), along_x.sum(1, keepdim=True)], dim=1)


def _basis(scaled_NL: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(scaled_NL[:, :1]), scaled_NL, scaled_NL**2], dim=1)
