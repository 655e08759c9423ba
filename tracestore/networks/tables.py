"""Tables of parameters: one tensor holds the layers of all addresses, so that many addresses are one matrix product.

Rows are appended when new addresses arrive. Every row starts from a stream of its own (the generator that the caller
gives), which makes the initial weights independent of the order of arrival. A minibatch touches few rows, and only
these get a gradient: it is a sparse tensor, which optimizers and reductions over ranks take row by row.

Shapes: P sites, R rows (addresses), G tiles, C sites in a tile, I inputs, M hidden, O outputs.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["StackedMLP", "Table", "Tiles", "group_rows", "uniform_rows"]

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


class Table(nn.Module):
    """Rows of one shape, of which a batch looks up some.

    Parameters
    ----------
    *shape
        Shape of a row.

    Examples
    --------
    >>> table = Table(2, 3)
    >>> table.append(torch.ones(4, 2, 3))
    >>> table(torch.tensor([3, 3, 1])).sum().backward()
    >>> table.weight.grad.is_sparse, table.weight.grad.coalesce().indices().tolist()
    (True, [[1, 3]])
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(torch.empty(0, math.prod(shape)))

    def __len__(self) -> int:
        return len(self.weight)

    def append(self, rows: Tensor) -> None:
        """Add rows, shape ``(new, *shape)``; the parameter is replaced by a longer one."""
        added = rows.reshape(len(rows), -1).to(self.weight)
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), added]))

    def forward(self, rows_P: Tensor) -> Tensor:
        """Look up rows; returns shape ``(P, *shape)``."""
        found = functional.embedding(rows_P, self.weight, sparse=True)
        return found.view(len(rows_P), *self.shape)


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
        self.register_buffer("output_bias", output_bias, persistent=False)
        self.weight_in = Table(num_inputs, num_hidden)
        self.bias_in = Table(num_hidden)
        self.weight_out = Table(num_hidden, num_outputs)
        self.bias_out = Table(num_outputs)

    output_bias: Tensor

    def __len__(self) -> int:
        return len(self.bias_in)

    @property
    def row_size(self) -> int:
        """Numbers of one row."""
        return sum(math.prod(table.shape) for table in (self.weight_in, self.bias_in, self.weight_out, self.bias_out))

    def grow(self, generators: Sequence[torch.Generator]) -> None:
        """Append one row per generator."""
        num_inputs, num_hidden = self.weight_in.shape
        bound = 1.0 / math.sqrt(num_inputs)
        small = 0.1 / math.sqrt(num_hidden)
        self.weight_in.append(uniform_rows(self.weight_in.shape, bound, generators))
        self.bias_in.append(uniform_rows(self.bias_in.shape, bound, generators))
        self.weight_out.append(uniform_rows(self.weight_out.shape, small, generators))
        self.bias_out.append(self.output_bias.expand(len(generators), -1))

    def forward(self, x_PI: Tensor, rows_P: Tensor) -> Tensor:
        """Apply to each site the perceptron of its row; returns shape ``(P, O)``."""
        if len(self) == 1 or len(rows_P) == 1:
            return self._perceptron(x_PI.unsqueeze(0), rows_P[:1]).squeeze(0)
        tiles = group_rows(rows_P)
        grid = x_PI.new_zeros(len(tiles.rows_G) * tiles.size, x_PI.shape[1]).index_copy(0, tiles.place_P, x_PI)
        out_GCO = self._perceptron(grid.view(len(tiles.rows_G), tiles.size, -1), tiles.rows_G)
        return out_GCO.flatten(0, 1).index_select(0, tiles.place_P)

    def _perceptron(self, x_GCI: Tensor, rows_G: Tensor) -> Tensor:
        hidden_GCM = torch.baddbmm(self.bias_in(rows_G).unsqueeze(1), x_GCI, self.weight_in(rows_G))
        return torch.baddbmm(self.bias_out(rows_G).unsqueeze(1), functional.relu(hidden_GCM), self.weight_out(rows_G))
