"""Moments of images by which a generator is judged: sums along the axes, totals and hit cells, in bands of a label.

The same for every model, so that scores compare models. Knows nothing of networks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Moments", "image_features"]

NUM_BANDS = 4
"""Bands of the first label, with equally many traces each."""
LEAST_TRACES = 8
"""Traces that a band needs to count."""


class Moments(nn.Module):
    """Means and spreads of features of images, real and generated, by bands of the first label.

    Features are the visible energy of every layer along each axis, the total, and the number of hit cells.

    Parameters
    ----------
    shape
        Of an image.
    num_labels
        Labels of an image.

    Examples
    --------
    >>> moments = Moments((8, 8, 8), 1)
    >>> images = torch.rand(200, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    >>> labels = torch.linspace(1.0, 2.0, 200)[:, None]
    >>> moments.fit(images, labels)
    >>> moments.distance(moments.sums(images, images, labels))
    0.0
    >>> moments.distance(moments.sums(images, 1.1 * images, labels)) > 0.1
    True
    """

    edges_B: Tensor

    def __init__(self, shape: Sequence[int], num_labels: int) -> None:
        super().__init__()
        self.num_features = sum(shape) + 2
        self.num_bands = NUM_BANDS if num_labels else 1
        self.register_buffer("edges_B", torch.zeros(self.num_bands - 1, dtype=torch.float64))

    def fit(self, images_NX: Tensor, labels_NL: Tensor) -> None:
        """Set the borders of the bands.

        Parameters
        ----------
        images_NX
            Not used.
        labels_NL
            Labels of the training set.
        """
        if self.num_bands > 1:
            levels = torch.arange(1, self.num_bands, dtype=torch.float64) / self.num_bands
            self.edges_B.copy_(torch.quantile(labels_NL[:, 0].double(), levels.to(labels_NL.device)))

    def sums(self, real_NX: Tensor, generated_NX: Tensor, labels_NL: Tensor) -> Tensor:
        """Add up powers of the features over traces.

        Parameters
        ----------
        real_NX, generated_NX
            Images of equal labels.
        labels_NL
            The labels.

        Returns
        -------
        torch.Tensor
            Float64, flat: per band the number of traces, then per source, feature and power (1, 2) the sums.
        """
        bands_N = torch.zeros(len(labels_NL), dtype=torch.int64, device=labels_NL.device)
        if self.num_bands > 1:
            bands_N = torch.bucketize(labels_NL[:, 0].double().contiguous(), self.edges_B)
        columns = [torch.ones(len(labels_NL), 1, dtype=torch.float64, device=labels_NL.device)]
        for images_NX in (real_NX, generated_NX):
            features_NF = image_features(images_NX)
            columns += [features_NF, features_NF**2]
        table_NC = torch.cat(columns, dim=1)
        sums_BC = table_NC.new_zeros(self.num_bands, table_NC.shape[1])
        return sums_BC.index_add_(0, bands_N, table_NC).flatten()

    def distance(self, sums: Tensor) -> float:
        """Return how far apart the moments are: root mean square over features and bands.

        What is averaged is the difference of the means over the spread of the real ones, and the log ratio of the
        spreads.

        Parameters
        ----------
        sums
            What `sums` gave, added up over batches.
        """
        table_BC = sums.double().cpu().reshape(self.num_bands, -1)
        table_BC = table_BC[table_BC[:, 0] >= LEAST_TRACES]
        if not len(table_BC):
            return float("inf")
        means = table_BC[:, 1:] / table_BC[:, :1]
        real, real_2, made, made_2 = means.chunk(4, dim=1)
        # sums of squares of a hundred thousand numbers lose some digits; a spread below that is none
        real_sd = (real_2 - real**2).clamp(min=0.0).sqrt()
        made_sd = (made_2 - made**2).clamp(min=0.0).sqrt()
        counts = real_sd > 1e-6 * real.abs()
        shift = (made - real)[counts] / real_sd[counts]
        spread = torch.log((made_sd[counts] / real_sd[counts]).clamp(1e-3, 1e3))
        total = torch.cat([shift, spread]).square().mean().sqrt()
        return float(total.nan_to_num(nan=float("inf"))) if len(shift) else 0.0


def image_features(images_NX: Tensor) -> Tensor:
    """Return sums of layers along each axis, the total and the number of hit cells, float64 of shape ``(N, F)``.

    Parameters
    ----------
    images_NX
        Shape ``(N, x, y, depth)``.

    Examples
    --------
    >>> image_features(torch.ones(1, 2, 2, 2)).tolist()
    [[4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 8.0, 8.0]]
    """
    images = images_NX.double()
    last_two, first_depth = images.sum(dim=3), images.sum(dim=2)
    layers = [last_two.sum(dim=2), last_two.sum(dim=1), first_depth.sum(dim=1)]
    total = layers[0].sum(dim=1, keepdim=True)
    hits = (images_NX > 0.0).sum(dim=(1, 2, 3), dtype=torch.float64)[:, None]
    return torch.cat([*layers, total, hits], dim=1)
