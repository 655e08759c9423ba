"""Stacked parameters: one tensor holds the layers of all addresses, so that many addresses are one matrix product.

Rows are appended when new base addresses arrive. Every row starts from a stream of its own (the generator that the
caller gives), which makes the initial weights independent of the order of arrival.

Shapes: P sites, R rows (addresses), G tiles, C sites in a tile, I inputs, M hidden, O outputs.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Growth", "StackedMLP", "Tiles", "append_rows", "group_rows", "uniform_rows"]

Growth = dict[nn.Parameter, nn.Parameter]
"""Replaced parameters and what replaced them; the old rows come first in the new tensor."""

MAX_TILE = 64
"""Most sites in one tile: larger tiles copy fewer weights but pad more."""


class Tiles(NamedTuple):
    """Sites grouped by row and cut into tiles of one row each; see `group_rows`."""

    rows_G: Tensor
    """Row of each tile."""
    place_P: Tensor
    """Place of each site in the padded grid of ``G * size`` sites."""
    size: int
    """Sites in a tile, padding included."""


def group_rows(rows_P: Tensor) -> Tiles:
    """Group sites by row and cut the groups into tiles of equal size.

    Parameters
    ----------
    rows_P
        Row of each site, shape ``(P,)``; at least one site.

    Examples
    --------
    >>> tiles = group_rows(torch.tensor([3, 1, 3]))
    >>> tiles.rows_G.tolist(), tiles.place_P.tolist(), tiles.size
    ([1, 3], [2, 0, 3], 2)
    """
    order = torch.argsort(rows_P, stable=True)
    present, counts = torch.unique_consecutive(rows_P[order], return_counts=True)
    mean = math.ceil(len(rows_P) / len(present))
    size = min(MAX_TILE, 1 << (mean - 1).bit_length())
    num_tiles = (counts + size - 1) // size
    first_tile = torch.cumsum(num_tiles, 0) - num_tiles
    first_site = torch.cumsum(counts, 0) - counts
    shift = torch.repeat_interleave(first_tile * size - first_site, counts, output_size=len(rows_P))
    place = torch.empty_like(rows_P)
    place[order] = torch.arange(len(rows_P), device=rows_P.device) + shift
    return Tiles(torch.repeat_interleave(present, num_tiles), place, size)


def uniform_rows(shape: Sequence[int], bound: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw rows uniformly from (-bound, bound), each from its own generator.

    Parameters
    ----------
    shape
        Shape of one row.
    bound
        Half width of the distribution.
    generators
        One per row.
    """
    rows = torch.empty(len(generators), *shape)
    for row, generator in zip(rows, generators, strict=True):
        row.uniform_(-bound, bound, generator=generator)
    return rows


def append_rows(module: nn.Module, name: str, rows: Tensor) -> Growth:
    """Replace a parameter by one with more rows.

    Parameters
    ----------
    module, name
        Owner and attribute of the parameter.
    rows
        New rows, shape ``(new, ...)``.
    """
    old = getattr(module, name)
    new = nn.Parameter(torch.cat([old.detach(), rows.to(old)]))
    setattr(module, name, new)
    return {old: new}


class StackedMLP(nn.Module):
    """One perceptron with a hidden layer per row, all rows in stacked tensors.

    Parameters
    ----------
    num_inputs, num_hidden, num_outputs
        Widths, the same for all rows.
    output_bias
        Initial bias of the outputs, shape ``(O,)``; the output weights start small, so that it sets the initial output.

    Examples
    --------
    >>> mlp = StackedMLP(4, 8, 3, torch.zeros(3))
    >>> _ = mlp.grow([torch.Generator().manual_seed(row) for row in range(2)])
    >>> mlp(torch.ones(5, 4), torch.tensor([0, 1, 1, 0, 1])).shape
    torch.Size([5, 3])
    """

    def __init__(self, num_inputs: int, num_hidden: int, num_outputs: int, output_bias: Tensor) -> None:
        super().__init__()
        self.output_bias = output_bias
        self.weight_in = nn.Parameter(torch.empty(0, num_inputs, num_hidden))
        self.bias_in = nn.Parameter(torch.empty(0, num_hidden))
        self.weight_out = nn.Parameter(torch.empty(0, num_hidden, num_outputs))
        self.bias_out = nn.Parameter(torch.empty(0, num_outputs))

    def grow(self, generators: Sequence[torch.Generator]) -> Growth:
        """Append one row per generator."""
        _, num_inputs, num_hidden = self.weight_in.shape
        num_outputs = self.bias_out.shape[1]
        bound = 1.0 / math.sqrt(num_inputs)
        small = 0.1 / math.sqrt(num_hidden)
        return {
            **append_rows(self, "weight_in", uniform_rows((num_inputs, num_hidden), bound, generators)),
            **append_rows(self, "bias_in", uniform_rows((num_hidden,), bound, generators)),
            **append_rows(self, "weight_out", uniform_rows((num_hidden, num_outputs), small, generators)),
            **append_rows(self, "bias_out", self.output_bias.expand(len(generators), -1)),
        }

    def forward(self, x_PI: Tensor, rows_P: Tensor) -> Tensor:
        """Apply to each site the perceptron of its row; returns shape ``(P, O)``."""
        tiles = group_rows(rows_P)
        grid = x_PI.new_zeros(len(tiles.rows_G) * tiles.size, x_PI.shape[1]).index_copy(0, tiles.place_P, x_PI)
        x_GCI = grid.view(len(tiles.rows_G), tiles.size, -1)
        hidden_GCM = functional.relu(_apply(x_GCI, self.weight_in, self.bias_in, tiles.rows_G))
        out_GCO = _apply(hidden_GCM, self.weight_out, self.bias_out, tiles.rows_G)
        return out_GCO.flatten(0, 1).index_select(0, tiles.place_P)


def _apply(x_GCI: Tensor, weight_RIO: Tensor, bias_RO: Tensor, rows_G: Tensor) -> Tensor:
    bias_G1O = bias_RO.index_select(0, rows_G).unsqueeze(1)
    return torch.baddbmm(bias_G1O, x_GCI, weight_RIO.index_select(0, rows_G))
