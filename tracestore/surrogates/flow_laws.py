"""Showers as independent standard Normal numbers, nearly: what of them needs no network.

Two invertible maps whose tables `fit` reads from a part of the training set. `LayerLaw` takes what labels let expect
away from the energies of the layers, and their covariance. `CellLaw` predicts the mean energy of each cell from the
labels and the energy of its layer, and maps the cell through the law that cells of this mean have in the data: a
probability of being zero and a distribution above. Zero is an interval of the Normal number, so that a zero comes back
as a zero. A Normal number for each cell that ignores all others already gives every cell its law; a flow learns what
is left. That energies of layers come first, and cells are scaled to them, is the way of CaloFlow (C. Krause and
D. Shih, 2021, arXiv:2106.05285) and CaloDREAM (L. Favaro and others, 2024, arXiv:2405.09629); the common law of cells
of equal mean is our choice.

N traces, L labels, D layers, X cells of an image, B terms, P knots, J means, Q quantiles.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CellLaw", "LabelKnots", "LayerLaw"]

LOGARITHMIC_FROM = 3.0
"""Ratio of highest to lowest value from which a positive label is read as its logarithm."""
DEGREE = 3
"""Of the polynomials of labels."""
LEAST_VARIANCE = 1e-4
"""Of a direction of the layers relative to that of a single layer; those with less are taken for constant."""
NUM_MEANS = 80
"""Rows of the table of laws, even in the logarithm of the mean."""
LOWEST_MEAN = 1e-5
"""Mean, in units, up to which cells are of one kind."""
HIGHEST_MEAN = 1e5
SMOOTHING = 4.0
"""Hits that the neighbors of a cell count for in its share."""
QUANTILES = 33
QUANTILE_RANGE = 4.0
"""The quantiles of a law are those of Normal numbers from minus this to this."""
FARTHEST = 6.0
"""Largest Normal number of a cell."""
LEAST_HITS = 200
"""Hits that a law is read from; a rarer mean has the law of the nearest that has as many."""
_BLOCK = 256


class LabelKnots(nn.Module):
    """Labels as numbers from -1 to 1, as polynomials, and as weights of knots that linear interpolation gives them.

    Parameters
    ----------
    knots
        Knots of each label.

    Examples
    --------
    >>> labels = LabelKnots((3,))
    >>> labels.fit(torch.tensor([[1.0], [100.0]]))
    >>> labels.weights(torch.tensor([[1.0], [10.0]])).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """

    low_L: Tensor
    high_L: Tensor
    is_log_L: Tensor

    def __init__(self, knots: Sequence[int]) -> None:
        super().__init__()
        self.knots = tuple(knots)
        self.num_labels = len(self.knots)
        self.num_terms = math.comb(self.num_labels + DEGREE, DEGREE)
        self.register_buffer("low_L", -torch.ones(self.num_labels))
        self.register_buffer("high_L", torch.ones(self.num_labels))
        self.register_buffer("is_log_L", torch.zeros(self.num_labels, dtype=torch.bool))

    def fit(self, labels_NL: Tensor) -> None:
        """Set the ranges."""
        low_L, high_L = labels_NL.amin(0), labels_NL.amax(0)
        self.is_log_L.copy_((low_L > 0.0) & (high_L > LOGARITHMIC_FROM * low_L))
        read_NL = self._read(labels_NL.float())
        low_L, high_L = read_NL.amin(0), read_NL.amax(0)
        self.low_L.copy_(low_L)
        self.high_L.copy_(torch.where(high_L > low_L, high_L, low_L + 1.0))

    def scale(self, labels_NL: Tensor) -> Tensor:
        """Return the labels from -1 to 1, shape ``(N, L)``."""
        return 2.0 * (self._read(labels_NL.float()) - self.low_L) / (self.high_L - self.low_L) - 1.0

    def terms(self, labels_NL: Tensor) -> Tensor:
        """Return all products of up to three scaled labels, the constant first, shape ``(N, B)``."""
        scaled_NL = self.scale(labels_NL)
        columns = [torch.ones_like(labels_NL[:, 0], dtype=torch.float32)]
        for degree in range(1, DEGREE + 1):
            for chosen in itertools.combinations_with_replacement(range(self.num_labels), degree):
                columns.append(math.prod((scaled_NL[:, column] for column in chosen), start=columns[0]))
        return torch.stack(columns, dim=1)

    def weights(self, labels_NL: Tensor) -> Tensor:
        """Return the weights of all combinations of knots, which add up to one, shape ``(N, P)``."""
        unit_NL = 0.5 * (self.scale(labels_NL).clamp(-1.0, 1.0) + 1.0)
        product_NP = torch.ones_like(unit_NL[:, :1])
        for column, knots in enumerate(self.knots):
            places_K = torch.arange(knots, dtype=torch.float32, device=labels_NL.device)
            hats_NK = (1.0 - (unit_NL[:, column : column + 1] * (knots - 1) - places_K).abs()).clamp(min=0.0)
            product_NP = (product_NP[:, :, None] * hats_NK[:, None, :]).flatten(1)
        return product_NP

    def _read(self, labels_NL: Tensor) -> Tensor:
        logs_NL = torch.log(labels_NL.clamp(min=torch.finfo(torch.float32).tiny))
        return torch.where(self.is_log_L, logs_NL, labels_NL)


class LayerLaw(nn.Module):
    """Energies of the layers as numbers of mean zero and covariance one, whatever the labels.

    They are read as the logarithm of their sum and the square roots of their shares.

    Parameters
    ----------
    num_layers
        D.
    num_terms
        B.
    threshold
        Energy up to which a whole image counts as empty.

    Examples
    --------
    >>> law = LayerLaw(2, 1, 1e-5)
    >>> energies, terms = torch.tensor([[1.0, 3.0], [2.0, 2.0], [5.0, 1.0]]), torch.ones(3, 1)
    >>> law.fit(energies, terms)
    >>> law.decode(law.encode(energies, terms, torch.zeros(3, 2)), terms).round(decimals=2).tolist()
    [[1.0, 3.0], [2.0, 2.0], [5.0, 1.0]]
    """

    floor_D: Tensor
    expected_BK: Tensor
    whiten_KK: Tensor
    color_KK: Tensor

    def __init__(self, num_layers: int, num_terms: int, threshold: float) -> None:
        super().__init__()
        self.size, self.threshold = num_layers + 1, threshold
        self.register_buffer("floor_D", torch.ones(num_layers))
        self.register_buffer("expected_BK", torch.zeros(num_terms, self.size))
        self.register_buffer("whiten_KK", torch.eye(self.size))
        self.register_buffer("color_KK", torch.eye(self.size))

    def fit(self, energies_ND: Tensor, terms_NB: Tensor) -> None:
        """Set expectation and covariance from energies of layers and polynomials of labels."""
        shares_ND = self._read(energies_ND, torch.zeros_like(energies_ND))[:, 1:]
        self.floor_D.copy_(torch.where(energies_ND > 0.0, shares_ND, 1.0).amin(0))
        # an even spread of dequantizing noise, so that the fit is a function of the images alone
        noise_N = torch.special.ndtri((torch.arange(len(energies_ND)) + 0.5) / len(energies_ND))
        noise_ND = noise_N.to(energies_ND.device)[:, None].expand_as(energies_ND)
        raw_NK, terms = self._read(energies_ND, noise_ND).double().cpu(), terms_NB.double().cpu()
        gram_BB = terms.T @ terms + 1e-6 * len(terms) * torch.eye(terms.shape[1], dtype=torch.float64)
        expected_BK = torch.linalg.solve(gram_BB, terms.T @ raw_NK)
        left_NK = raw_NK - terms @ expected_BK
        covariance_KK = left_NK.T @ left_NK / len(left_NK)
        spread_K = covariance_KK.diagonal().sqrt().clamp(min=1e-6)
        values_K, vectors_KK = torch.linalg.eigh(covariance_KK / spread_K[:, None] / spread_K)
        scale_K = values_K.clamp(min=LEAST_VARIANCE).sqrt()
        self.expected_BK.copy_(expected_BK)
        self.color_KK.copy_((vectors_KK * scale_K).T * spread_K)
        self.whiten_KK.copy_(vectors_KK / scale_K / spread_K[:, None])

    def encode(self, energies_ND: Tensor, terms_NB: Tensor, noise_ND: Tensor) -> Tensor:
        """Return the numbers, shape ``(N, D + 1)``; Normal noise takes the place of energies that are zero."""
        return (self._read(energies_ND, noise_ND) - terms_NB @ self.expected_BK) @ self.whiten_KK

    def decode(self, encoded_NK: Tensor, terms_NB: Tensor) -> Tensor:
        """Return the energies, shape ``(N, D)``, not negative."""
        raw_NK = encoded_NK @ self.color_KK + terms_NB @ self.expected_BK
        roots_ND = torch.where(raw_NK[:, 1:] > 0.5 * self.floor_D, raw_NK[:, 1:], 0.0)
        shares_ND = roots_ND.square()
        shares_ND = shares_ND / shares_ND.sum(1, keepdim=True).clamp(min=1e-12)
        total_N1 = raw_NK[:, :1].clamp(max=80.0).exp()
        return torch.where(total_N1 > 1.001 * self.threshold, total_N1 * shares_ND, 0.0)

    def _read(self, energies_ND: Tensor, noise_ND: Tensor) -> Tensor:
        total_N1 = energies_ND.sum(1, keepdim=True).clamp(min=self.threshold)
        roots_ND = (energies_ND / total_N1).sqrt()
        roots_ND = torch.where(energies_ND > 0.0, roots_ND, -0.5 * self.floor_D * noise_ND.abs())
        return torch.cat([total_N1.log(), roots_ND], dim=1)


class CellLaw(nn.Module):
    """Energies of cells as standard Normal numbers, by the law of all cells that have the same mean.

    Parameters
    ----------
    shape
        Of an image; the last axis counts layers.
    num_knots
        P.
    threshold
        Energy below which a cell is zero.
    """

    unit: Tensor
    shares_PX: Tensor
    log_hit_J: Tensor
    logs_JQ: Tensor

    def __init__(self, shape: Sequence[int], num_knots: int, threshold: float) -> None:
        super().__init__()
        self.shape, self.threshold = tuple(shape), threshold
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("shares_PX", torch.zeros(num_knots, math.prod(self.shape)))
        self.register_buffer("log_hit_J", torch.full((NUM_MEANS,), -1.0))
        self.register_buffer("logs_JQ", torch.linspace(-1.0, 1.0, QUANTILES).repeat(NUM_MEANS, 1))

    def fit(self, images_NX: Tensor, weights_NP: Tensor) -> None:
        """Set shares from every other image, and laws from the rest: a law must not know the noise of its means."""
        hit = images_NX[images_NX > 0.0]
        if not len(hit):
            return
        self.unit.copy_(hit.median())
        one, other = (images_NX[::2], weights_NP[::2]), (images_NX[1::2], weights_NP[1::2])
        self._fit_shares(*one)
        self._fit_laws(*(other if len(other[0]) else one))

    def places(self, energies_ND: Tensor, weights_NP: Tensor) -> Tensor:
        """Return where the mean of each cell is among those of the table, from 0 to J - 1, shape ``(N, *shape)``."""
        shares_NX = (weights_NP @ self.shares_PX).view(-1, *self.shape)
        means_NX = shares_NX * (energies_ND / self.unit)[:, None, None, :]
        logs_NX = means_NX.clamp(LOWEST_MEAN, HIGHEST_MEAN).log() - math.log(LOWEST_MEAN)
        return logs_NX * ((NUM_MEANS - 1) / math.log(HIGHEST_MEAN / LOWEST_MEAN))

    def scale_places(self, places_NX: Tensor) -> Tensor:
        """Return the places from -2 to 2, for a network."""
        return places_NX * (4.0 / (NUM_MEANS - 1)) - 2.0

    def encode(self, images_NX: Tensor, places_NX: Tensor, uniform_NX: Tensor) -> Tensor:
        """Return the Normal numbers; a uniform number says where in its interval a zero is."""
        hit_NX = self._hit_probability(places_NX)
        encoded_NX = torch.special.ndtri(((1.0 - hit_NX) * uniform_NX).clamp(min=1e-7))
        hits_M = (images_NX > 0.0).flatten().nonzero()[:, 0]
        places_M = places_NX.flatten()[hits_M]
        logs_M = (images_NX.flatten()[hits_M] / self.unit).log() - _log_scale(places_M)
        column_M = torch.zeros_like(hits_M)
        step = 1 << (QUANTILES - 2).bit_length()
        while step := step // 2:  # the last column whose quantile is not above
            next_M = (column_M + step).clamp(max=QUANTILES - 2)
            column_M = torch.where(self._quantile(places_M, next_M) <= logs_M, next_M, column_M)
        low_M, high_M = self._quantile(places_M, column_M), self._quantile(places_M, column_M + 1)
        rest_M = ((logs_M - low_M) / (high_M - low_M).clamp(min=1e-9)).clamp(0.0, 1.0)
        quantile_M = (column_M + rest_M) * (2.0 * QUANTILE_RANGE / (QUANTILES - 1)) - QUANTILE_RANGE
        # by the probability above, which is small and precise where hits are rare
        positive_M = -torch.special.ndtri(hit_NX.flatten()[hits_M] * torch.special.ndtr(-quantile_M))
        encoded: Tensor = encoded_NX.flatten().index_copy(0, hits_M, positive_M).clamp(-FARTHEST, FARTHEST)
        return encoded.view(images_NX.shape)

    def decode(self, encoded_NX: Tensor, places_NX: Tensor, energies_ND: Tensor) -> Tensor:
        """Return the energies of cells, shape ``(N, *shape)``.

        They add up to those of the layers, but for cells below the threshold.
        """
        surplus_NX = torch.special.ndtr(-encoded_NX) / self._hit_probability(places_NX)
        # the likeliest cell of a layer takes its energy when no other does
        is_hit_NX = (surplus_NX < 1.0) | (surplus_NX == surplus_NX.amin((1, 2), keepdim=True))
        hits_M = is_hit_NX.flatten().nonzero()[:, 0]
        places_M = places_NX.flatten()[hits_M]
        quantile_M = -torch.special.ndtri(surplus_NX.flatten()[hits_M].clamp(1e-7, 1.0 - 1e-7))
        limited_M = quantile_M.clamp(-QUANTILE_RANGE, QUANTILE_RANGE)
        column_M = (limited_M + QUANTILE_RANGE) * ((QUANTILES - 1) / (2.0 * QUANTILE_RANGE))
        left_M = column_M.floor().clamp(max=QUANTILES - 2.0)
        low_M, high_M = (self._quantile(places_M, left_M.long() + more) for more in (0, 1))
        logs_M = torch.lerp(low_M, high_M, column_M - left_M) + _log_scale(places_M)
        cells_NX = torch.zeros_like(encoded_NX).flatten().index_copy(0, hits_M, self.unit * logs_M.exp())
        cells_NX = cells_NX.view(encoded_NX.shape)
        cells_NX = cells_NX * (energies_ND / cells_NX.sum((1, 2)))[:, None, None, :]
        return torch.where(cells_NX >= self.threshold, cells_NX, 0.0)

    def _hit_probability(self, places_NX: Tensor) -> Tensor:
        row = places_NX.floor().clamp(max=NUM_MEANS - 2.0).long()
        return torch.lerp(self.log_hit_J[row], self.log_hit_J[row + 1], places_NX - row).exp()

    def _quantile(self, places_M: Tensor, column_M: Tensor) -> Tensor:
        row_M = places_M.floor().clamp(max=NUM_MEANS - 2.0)
        flat, index_M = self.logs_JQ.flatten(), row_M.long() * QUANTILES + column_M
        return torch.lerp(flat[index_M], flat[index_M + QUANTILES], places_M - row_M)

    def _fit_shares(self, images_NX: Tensor, weights_NP: Tensor) -> None:
        energies_PX = (weights_NP.T @ images_NX.flatten(1)).view(-1, *self.shape)
        # what is seen at all knots stands in, by a few hits, where a knot has seen none
        pooled_1X = energies_PX.sum(0, keepdim=True)
        pooled_1X = SMOOTHING * self.unit * pooled_1X / pooled_1X.sum((1, 2), keepdim=True).clamp(min=1e-12)
        energies_PX = energies_PX + pooled_1X
        layers_PD = energies_PX.sum((1, 2), keepdim=True).clamp(min=1e-12)
        around_PX = _average_around(energies_PX)
        hits_PX = around_PX / self.unit
        energies_PX = (hits_PX * energies_PX + SMOOTHING * around_PX) / (hits_PX + SMOOTHING)
        self.shares_PX.copy_((energies_PX / layers_PD).flatten(1))

    def _fit_laws(self, images_NX: Tensor, weights_NP: Tensor) -> None:
        counts_J = torch.zeros(NUM_MEANS, dtype=torch.float64)
        rows, logs = [], []
        for images, weights in zip(torch.split(images_NX, _BLOCK), torch.split(weights_NP, _BLOCK), strict=True):
            places = self.places(images.sum((1, 2)), weights)
            nearest, is_hit = places.round().long(), images > 0.0
            counts_J += torch.bincount(nearest.flatten().cpu(), minlength=NUM_MEANS)
            rows.append(nearest[is_hit].cpu())
            logs.append(((images[is_hit] / self.unit).log() - _log_scale(places[is_hit])).cpu())
        row_M, log_M = torch.cat(rows), torch.cat(logs)
        order_M = log_M.argsort()
        log_M, row_M = log_M[order_M], row_M[order_M]
        log_M = log_M[row_M.argsort(stable=True)]
        hits_J = torch.bincount(row_M, minlength=NUM_MEANS)
        levels_Q = torch.special.ndtr(torch.linspace(-QUANTILE_RANGE, QUANTILE_RANGE, QUANTILES))
        known = [row for row, hits in enumerate(hits_J.tolist()) if hits >= min(LEAST_HITS, int(hits_J.max()))]
        starts_J = torch.cumsum(hits_J, 0) - hits_J
        for row in range(NUM_MEANS):
            source = min(known, key=lambda other: abs(other - row))
            found = log_M[starts_J[source] : starts_J[source] + hits_J[source]]
            place_Q = (levels_Q * len(found)).clamp(max=len(found) - 1).long()
            self.logs_JQ[row] = found[place_Q]
            # rarer means have rarer hits in proportion, while each hit is alike
            shift = (row - source) * math.log(HIGHEST_MEAN / LOWEST_MEAN) / (NUM_MEANS - 1)
            log_hit = math.log((float(hits_J[source]) + 0.5) / (float(counts_J[source]) + 1.0))
            self.log_hit_J[row] = min(log_hit + min(shift, 0.0), math.log(1.0 - 1e-6))


def _log_scale(places: Tensor) -> Tensor:
    """Return the logarithm of the mean in units where it is above one: the part of the energy that follows the mean."""
    return (places * (math.log(HIGHEST_MEAN / LOWEST_MEAN) / (NUM_MEANS - 1)) + math.log(LOWEST_MEAN)).clamp(min=0.0)


def _average_around(cells_PX: Tensor) -> Tensor:
    """Average each cell with its neighbors within the layer."""
    stacked = cells_PX.permute(0, 3, 1, 2)
    averaged = functional.avg_pool2d(stacked, 3, stride=1, padding=1, count_include_pad=False)
    return averaged.permute(0, 2, 3, 1)
