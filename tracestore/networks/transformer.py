"""A causal transformer as core: a packed pass over traces of different lengths, and single steps with a cache.

Attention has no encoding of positions: every site brings its address and instance number along, so that a prefix is
a set of named values whose order tells little more. Among encodings, having none carries over best to sequences longer
than those trained on (Kazemnejad et al., "The Impact of Positional Encoding on Length Generalization in Transformers",
NeurIPS 2023). A site also sees the inputs of the site before, so that the value drawn there is stored under its address
and instance number in one key of the first layer.

Shapes: P sites of a packed sequence, B traces at one step, I inputs, H output, A attention heads, D width of a head,
T steps of the longest trace, S slots, L layers.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["TransformerCore", "TransformerMemory", "group_traces"]

SHORTEST_GROUP = 16
"""Traces of up to this many sites share a group."""
FIRST_CAPACITY = 64
"""Sites that a new memory has room for in each slot."""


class TraceGroups(NamedTuple):
    """Traces of alike length, padded to the longest of their group; all groups lie in one grid, one after another."""

    shapes: tuple[tuple[int, int], ...]
    """Traces and steps of each group."""
    place_P: Tensor
    """Place in the grid of each site of the packed sequence."""
    previous_P: Tensor
    """Place in the packed sequence of the trace's site before, -1 at its first."""

    @property
    def size(self) -> int:
        """Places of the grid, padding included."""
        return sum(traces * steps for traces, steps in self.shapes)


def group_traces(batch_sizes: Tensor) -> TraceGroups:
    """Split the traces of a packed sequence where lengths halve, so that less than half of the grid is padding.

    Traces of few sites stay together.

    Parameters
    ----------
    batch_sizes
        Traces in each step, not increasing, on the CPU.

    Examples
    --------
    >>> groups = group_traces(torch.tensor([3, *[1] * 39]))
    >>> groups.shapes, groups.place_P[:4].tolist(), groups.previous_P[:4].tolist()
    (((1, 40), (2, 1)), [0, 40, 41, 1], [-1, -1, -1, 0])
    """
    num_steps, num_traces = len(batch_sizes), int(batch_sizes[0])
    lengths_B = num_steps - torch.searchsorted(batch_sizes.flip(0).contiguous(), torch.arange(num_traces), right=True)
    shapes, starts, first, size = [], [], 0, 0
    while first < num_traces:
        longest = int(lengths_B[first])
        shortest = 0 if longest <= SHORTEST_GROUP else longest // 2
        # steps up to `shortest` have all longer traces and those of the group, which therefore end where it begins
        end = num_traces if shortest == 0 else int(batch_sizes[shortest])
        shapes.append((end - first, longest))
        starts.append(size + longest * torch.arange(end - first))
        first, size = end, size + longest * (end - first)
    start_B = torch.cat(starts)
    step_P = torch.repeat_interleave(torch.arange(num_steps), batch_sizes)
    first_of_step = torch.cumsum(batch_sizes, 0) - batch_sizes
    rank_P = torch.arange(len(step_P)) - first_of_step[step_P]
    previous_P = torch.where(step_P > 0, first_of_step[step_P - 1] + rank_P, -1)
    return TraceGroups(tuple(shapes), start_B[rank_P] + step_P, previous_P)


class TransformerCore(nn.Module):
    """Layers of causal attention over the prefix of a trace, each followed by a perceptron.

    Parameters
    ----------
    num_inputs, size
        Widths of the inputs and of the layers.
    num_layers
        Layers.
    num_heads
        Attention heads of a layer; divides ``size``.

    Examples
    --------
    >>> core = TransformerCore(3, 8, num_layers=2, num_heads=2)
    >>> core(torch.ones(4, 3), torch.tensor([2, 1, 1])).shape
    torch.Size([4, 8])
    >>> core.memory(num_slots=8).advance([2, 7], torch.ones(2, 3)).shape
    torch.Size([2, 8])
    """

    def __init__(self, num_inputs: int, size: int, num_layers: int = 1, num_heads: int = 4) -> None:
        super().__init__()
        self.size = size
        self.num_heads = num_heads
        self.here = nn.Linear(num_inputs, size)
        self.before = nn.Linear(num_inputs, size, bias=False)
        self.start = nn.Parameter(torch.zeros(size))
        self.layers = nn.ModuleList([_Layer(size, num_layers) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(size)

    @property
    def layer_list(self) -> "list[_Layer]":
        """The layers, from the inputs on."""
        return [cast("_Layer", layer) for layer in self.layers]

    def forward(self, x_PI: Tensor, batch_sizes: Tensor) -> Tensor:
        """Run over whole traces; returns the outputs, shape ``(P, H)``.

        Parameters
        ----------
        x_PI
            Inputs, step by step, longest trace first.
        batch_sizes
            Traces in each step, not increasing, on the CPU.
        """
        groups = group_traces(batch_sizes)
        place_P, previous_P = (tensor.to(x_PI.device) for tensor in (groups.place_P, groups.previous_P))
        before_PH = torch.cat([self.start.unsqueeze(0), self.before(x_PI)])
        x_PH = self.here(x_PI) + functional.embedding(previous_P + 1, before_PH)
        for layer in self.layer_list:
            x_PH = x_PH + layer.join(self._attend(layer.split(x_PH), groups, place_P))
            x_PH = x_PH + layer.transform(x_PH)
        outputs: Tensor = self.norm(x_PH)
        return outputs

    def memory(self, num_slots: int) -> "TransformerMemory":
        """Return the cache of some running simulators, at their start."""
        return TransformerMemory(self, num_slots)

    def _attend(self, queries_keys_values: Tensor, groups: TraceGroups, place_P: Tensor) -> Tensor:
        """Let every site attend to its trace up to itself; ``(P, 3 H)`` to ``(P, H)``."""
        width = queries_keys_values.shape[1]
        grid = queries_keys_values.new_zeros(groups.size, width).index_copy(0, place_P, queries_keys_values)
        outputs = []
        sizes = [traces * steps for traces, steps in groups.shapes]
        for padded, (traces, steps) in zip(torch.split(grid, sizes), groups.shapes, strict=True):
            # padding comes after the sites of a trace, which therefore never attend to it
            query, key, value = padded.view(traces, steps, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            attended_BATD = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            outputs.append(attended_BATD.transpose(1, 2).reshape(traces * steps, self.size))
        # the gradient of an embedding is added up row by row in parallel, that of other ways to select is not
        return functional.embedding(place_P, torch.cat(outputs))


class _Layer(nn.Module):
    """The weights of one layer; attention itself is the caller's, as sites lie differently in training and in use."""

    def __init__(self, size: int, num_layers: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(size)
        self.query_key_value = nn.Linear(size, 3 * size)
        self.output = nn.Linear(size, size)
        self.mlp_norm = nn.LayerNorm(size)
        self.mlp_in = nn.Linear(size, 2 * size)
        self.mlp_out = nn.Linear(2 * size, size)
        with torch.no_grad():  # what all layers add to a site's vector starts as large as what one would
            for linear in (self.output, self.mlp_out):
                linear.weight /= math.sqrt(2.0 * num_layers)

    def split(self, x_BH: Tensor) -> Tensor:
        """Return queries, keys and values side by side, shape ``(B, 3 H)``."""
        joined: Tensor = self.query_key_value(self.attention_norm(x_BH))
        return joined

    def join(self, attended_BH: Tensor) -> Tensor:
        """Mix the heads."""
        mixed: Tensor = self.output(attended_BH)
        return mixed

    def transform(self, x_BH: Tensor) -> Tensor:
        """Apply the perceptron."""
        changed: Tensor = self.mlp_out(functional.gelu(self.mlp_in(self.mlp_norm(x_BH))))
        return changed


class TransformerMemory:
    """Keys and values of running simulators, one slot each, in one slab that doubles when a trace outgrows it.

    Parameters
    ----------
    core
        Advances it.
    num_slots
        Number of slots.
    """

    def __init__(self, core: TransformerCore, num_slots: int) -> None:
        self._core = core
        start = core.start.detach()
        self._before_SH = start.repeat(num_slots, 1)
        self._lengths_S = torch.zeros(num_slots, dtype=torch.long, device=start.device)
        shape = (len(core.layers), 2, num_slots, FIRST_CAPACITY, core.size)
        self._cache = torch.zeros(shape, dtype=start.dtype, device=start.device)

    def restart(self, slot: int) -> None:
        """Put a slot at the start of a trace."""
        self._before_SH[slot] = self._core.start.detach()
        self._lengths_S[slot] = 0

    def save(self, slot: int) -> tuple[Tensor, ...]:
        """Return how far a slot is in its trace; what it has kept stays in its place."""
        return self._before_SH[slot].clone(), self._lengths_S[slot].clone()

    def restore(self, slot: int, saved: tuple[Tensor, ...]) -> None:
        """Put a slot back to where it was in this trace."""
        self._before_SH[slot], self._lengths_S[slot] = saved

    @torch.no_grad()
    def advance(self, slots: Sequence[int], x_BI: Tensor) -> Tensor:
        """Advance some slots by one site; returns the outputs, shape ``(B, H)``.

        Parameters
        ----------
        slots
            Distinct slots.
        x_BI
            Their inputs.
        """
        core, index = self._core, torch.tensor(slots, dtype=torch.long, device=x_BI.device)
        places_B = self._lengths_S[index]
        longest = int(places_B.max()) + 1
        if longest > self._cache.shape[3]:
            self._cache = torch.cat([self._cache, torch.zeros_like(self._cache)], dim=3)
        is_visible = torch.arange(longest, device=x_BI.device) <= places_B.unsqueeze(1)
        x_BH = core.here(x_BI) + self._before_SH[index]
        for layer, cache in zip(core.layer_list, self._cache, strict=True):
            query_BH, key_BH, value_BH = layer.split(x_BH).chunk(3, dim=1)
            cache[:, index, places_B] = torch.stack([key_BH, value_BH])
            key, value = (self._by_head(part[index, :longest]) for part in cache)
            query = self._by_head(query_BH.unsqueeze(1))
            attended_BA1D = functional.scaled_dot_product_attention(query, key, value, is_visible[:, None, None])
            x_BH = x_BH + layer.join(attended_BA1D.flatten(1))
            x_BH = x_BH + layer.transform(x_BH)
        self._before_SH[index] = core.before(x_BI)
        self._lengths_S[index] = places_B + 1
        outputs: Tensor = core.norm(x_BH)
        return outputs

    def _by_head(self, x_BTH: Tensor) -> Tensor:
        """Split the width over the heads; returns shape ``(B, A, T, D)``."""
        return x_BTH.view(*x_BTH.shape[:2], self._core.num_heads, -1).transpose(1, 2)
