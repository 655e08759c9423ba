"""Networks of a flow: one for the layers' energies, one for the cells.

`PatchTransformer` cuts an image into patches, lets them attend to each other, and hands a few numbers to each cell,
where a small perceptron that all cells share joins them with the cell's own noisy value: a patch has hundreds of cells
whose values are nearly independent, more than a token can hold (the transformer follows W. Peebles and S. Xie,
"Scalable diffusion models with transformers", ICCV 2023, with one modulation for all blocks after J. Chen and others,
"PixArt-alpha", 2023; the perceptron is ours). Both start as a velocity of zero.

N images, X cells of an image, T patches, V cells of a patch, W width, C numbers of the condition.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LayerNetwork", "PatchTransformer"]


class PatchTransformer(nn.Module):
    """Velocity of the cells.

    Parameters
    ----------
    shape
        Of an image, three sides; padded to whole patches.
    patch
        Cells of a patch along each side.
    num_conditions
        C.
    width, num_blocks, num_heads
        Of the transformer.
    num_context
        Numbers that a cell gets from its patch.
    num_hidden
        Of the perceptron of a cell.

    Examples
    --------
    >>> network = PatchTransformer((9, 8, 8), (4, 4, 8), 3, 16, 2, 4, 2, 4)
    >>> network.num_patches
    6
    >>> network(torch.ones(2, 9, 8, 8), torch.ones(2, 9, 8, 8), torch.ones(2, 3)).shape
    torch.Size([2, 9, 8, 8])
    """

    def __init__(
        self,
        shape: Sequence[int],
        patch: Sequence[int],
        num_conditions: int,
        width: int,
        num_blocks: int,
        num_heads: int,
        num_context: int,
        num_hidden: int,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.patch = tuple(min(cells, side) for cells, side in zip(patch, shape, strict=True))
        self.grid = tuple(-(-side // cells) for side, cells in zip(shape, self.patch, strict=True))
        self.num_patches = math.prod(self.grid)
        patch_cells = math.prod(self.patch)
        self.condition = nn.Sequential(nn.Linear(num_conditions, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.modulation = nn.Linear(width, 6 * width)
        self.embed = nn.Linear(patch_cells, width)
        self.position_TW = nn.Parameter(0.02 * torch.randn(self.num_patches, width))
        self.blocks = nn.ModuleList([_Block(width, num_heads, num_blocks) for _ in range(num_blocks)])
        self.norm = nn.LayerNorm(width)
        self.context = nn.Linear(width, patch_cells * num_context)
        self.cell_condition = nn.Linear(width, num_hidden, bias=False)
        self.cell_in = nn.Linear(num_context + 2, num_hidden)
        self.cell_out = nn.Linear(num_hidden, 1)
        nn.init.normal_(self.modulation.weight, std=0.02 / math.sqrt(width))
        nn.init.zeros_(self.modulation.bias)
        nn.init.zeros_(self.cell_out.weight)
        nn.init.zeros_(self.cell_out.bias)

    def forward(self, noisy_NX: Tensor, fixed_NX: Tensor, condition_NC: Tensor) -> Tensor:
        """Return the velocity, float32 of shape ``(N, *shape)``.

        Parameters
        ----------
        noisy_NX
            Where the flow is.
        fixed_NX
            A number of each cell that the flow does not change.
        condition_NC
            Time, labels and energies of the layers.
        """
        condition_NW = self.condition(condition_NC)
        modulation_N6 = self.modulation(condition_NW)
        tokens_NTW = self.embed(self._cut(noisy_NX)) + self.position_TW
        for block in self.blocks:
            tokens_NTW = cast("_Block", block)(tokens_NTW, modulation_N6)
        context = self._join(self.context(self.norm(tokens_NTW)))
        seen = torch.cat([noisy_NX.to(context.dtype)[..., None], fixed_NX.to(context.dtype)[..., None], context], -1)
        hidden = self.cell_in(seen) + self.cell_condition(condition_NW)[:, None, None, None]
        velocity: Tensor = self.cell_out(functional.silu(hidden))[..., 0]
        return velocity.float()

    def _cut(self, cells_NX: Tensor) -> Tensor:
        """Return the patches, shape ``(N, T, V)``."""
        sizes = zip(self.grid, self.patch, self.shape, strict=True)
        missing = [grid * patch - side for grid, patch, side in sizes]
        padding = [number for side in reversed(missing) for number in (0, side)]
        (one, two, three), (x, y, z) = self.grid, self.patch
        grid = functional.pad(cells_NX, padding).view(-1, one, x, two, y, three, z)
        return grid.permute(0, 1, 3, 5, 2, 4, 6).reshape(len(cells_NX), self.num_patches, x * y * z)

    def _join(self, patches_NTV: Tensor) -> Tensor:
        """Return what a patch says of each cell, shape ``(N, *shape, numbers)``."""
        (one, two, three), (x, y, z) = self.grid, self.patch
        grid = patches_NTV.view(-1, one, two, three, x, y, z, patches_NTV.shape[2] // (x * y * z))
        cells = grid.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(len(patches_NTV), one * x, two * y, three * z, -1)
        return cells[:, : self.shape[0], : self.shape[1], : self.shape[2]]


class _Block(nn.Module):
    """Attention and a perceptron, modulated by the condition."""

    def __init__(self, width: int, num_heads: int, num_blocks: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.offset = nn.Parameter(torch.zeros(6 * width))
        self.attention_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)
        with torch.no_grad():  # what all blocks add to a token starts as large as what one would
            for linear in (self.output, self.mlp_out):
                linear.weight /= math.sqrt(2.0 * num_blocks)

    def forward(self, x_NTW: Tensor, modulation_N6: Tensor) -> Tensor:
        parts = (modulation_N6 + self.offset)[:, None].chunk(6, dim=-1)
        scale, shift, gate, mlp_scale, mlp_shift, mlp_gate = parts
        normed = self.attention_norm(x_NTW) * (1.0 + scale) + shift
        joined = self.query_key_value(normed).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = joined.permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(query, key, value)
        x_NTW = x_NTW + (1.0 + gate) * self.output(attended.transpose(1, 2).flatten(2))
        normed = self.mlp_norm(x_NTW) * (1.0 + mlp_scale) + mlp_shift
        hidden = functional.gelu(self.mlp_in(normed), approximate="tanh")
        changed: Tensor = x_NTW + (1.0 + mlp_gate) * self.mlp_out(hidden)
        return changed


class LayerNetwork(nn.Module):
    """Velocity of the numbers that stand for the energies of the layers: a residual perceptron.

    Parameters
    ----------
    size
        Numbers.
    num_conditions
        C.
    width, num_blocks
        Of the perceptron.

    Examples
    --------
    >>> LayerNetwork(5, 3, 16, 2)(torch.ones(4, 5), torch.ones(4, 3)).shape
    torch.Size([4, 5])
    """

    def __init__(self, size: int, num_conditions: int, width: int, num_blocks: int) -> None:
        super().__init__()
        self.enter = nn.Linear(size + num_conditions, width)
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
                for _ in range(num_blocks)
            ]
        )
        self.leave = nn.Linear(width, size)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, noisy_NK: Tensor, condition_NC: Tensor) -> Tensor:
        """Return the velocity, float32 of the shape of the first argument."""
        hidden_NW = self.enter(torch.cat([noisy_NK, condition_NC], dim=1))
        for block in self.blocks:
            hidden_NW = hidden_NW + block(hidden_NW)
        velocity: Tensor = self.leave(functional.silu(hidden_NW))
        return velocity.float()
