"""Recurrent cores: a packed pass over traces of different lengths, and single steps for running simulators.

Shapes: P sites of a packed sequence, B traces at one step, I inputs, H output, G gates (4 H for an LSTM, 3 H for a
GRU), L layers, S slots.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from tracestore.networks.packed_lstm import packed_lstm

__all__ = ["RecurrentCore", "RecurrentMemory"]

State = tuple[Tensor, ...]
"""State of one layer: output and memory of an LSTM, the output alone of a GRU; shape ``(B, H)`` each."""
LONGEST_MEMORY = 100.0
"""Sites over which the most lasting units remember at the start."""


class RecurrentCore(nn.Module):
    """LSTM or GRU.

    On a processor the packed pass is unrolled here: torch's own backward pass costs the number of steps times the
    number of sites. Accelerators use torch's fused kernels; both give the same numbers up to rounding.

    The gates start so that the memories of the units last from one site to a hundred (Tallec and Ollivier, "Can
    recurrent neural networks warp time?", ICLR 2018): what matters may lie many nuisance draws back.

    Parameters
    ----------
    kind
        Cell.
    num_inputs, size
        Widths of the inputs and of the state.
    num_layers
        Layers, each fed with the outputs of the one below.

    Examples
    --------
    >>> core = RecurrentCore("gru", 3, 5)
    >>> core(torch.ones(4, 3), torch.tensor([2, 1, 1])).shape
    torch.Size([4, 5])
    >>> core.memory(num_slots=8).advance([2, 7], torch.ones(2, 3)).shape
    torch.Size([2, 5])
    """

    def __init__(self, kind: Literal["lstm", "gru"], num_inputs: int, size: int, num_layers: int = 1) -> None:
        super().__init__()
        self.kind = kind
        self.size = size
        self.num_layers = num_layers
        cell = nn.LSTM if kind == "lstm" else nn.GRU
        self.cell: nn.LSTM | nn.GRU = cell(num_inputs, size, num_layers)
        for layer in range(num_layers):
            self._start_with_memory(layer)

    @torch.no_grad()
    def _start_with_memory(self, layer: int) -> None:
        """Let units start with memories of 1 to `LONGEST_MEMORY` sites; torch's default forgets half at every site."""
        bias_ih, bias_hh = (getattr(self.cell, f"bias_{part}_l{layer}") for part in ("ih", "hh"))
        keep = torch.log(torch.empty(self.size).uniform_(1.0, LONGEST_MEMORY))
        first, second = slice(0, self.size), slice(self.size, 2 * self.size)
        bias_ih[second] = keep  # the forget gate of an LSTM, the update gate of a GRU
        bias_hh[second] = 0.0
        if self.kind == "lstm":  # what is kept for long is written little by little
            bias_ih[first] = -keep
            bias_hh[first] = 0.0

    @property
    def num_states(self) -> int:
        """Vectors that make up a layer's state: two for an LSTM, of which the first is the output."""
        return 2 if self.kind == "lstm" else 1

    def forward(self, x_PI: Tensor, batch_sizes: Tensor) -> Tensor:
        """Run over whole traces from a state of zeros; returns the outputs, shape ``(P, H)``.

        Parameters
        ----------
        x_PI
            Inputs, step by step, longest trace first.
        batch_sizes
            Traces in each step, not increasing, on the CPU.
        """
        if x_PI.device.type != "cpu":
            outputs: Tensor = self.cell(PackedSequence(x_PI, batch_sizes))[0].data
            return outputs
        sizes = batch_sizes.tolist()
        for layer in range(self.num_layers):
            x_PI = self._run(layer, x_PI, sizes)
        return x_PI

    def memory(self, num_slots: int) -> "RecurrentMemory":
        """Return the state of some running simulators, at their start."""
        return RecurrentMemory(self, num_slots)

    def step(self, x_BI: Tensor, states: Sequence[State]) -> list[State]:
        """Advance some traces by one site; returns the new state of each layer."""
        advanced = []
        for layer, state in enumerate(states):
            advanced.append(self._advance(layer, self._project("ih", layer, x_BI), state))
            x_BI = advanced[-1][0]
        return advanced

    def _run(self, layer: int, x_PI: Tensor, batch_sizes: Sequence[int]) -> Tensor:
        # the part that does not depend on the state is one product for all sites
        gates_PG = self._project("ih", layer, x_PI)
        if self.kind == "lstm":
            weight, bias = (getattr(self.cell, f"{part}_hh_l{layer}") for part in ("weight", "bias"))
            return packed_lstm(gates_PG + bias, weight, batch_sizes)
        state: State = x_PI.new_zeros(self.num_states, batch_sizes[0], self.size).unbind(0)
        outputs = []
        for gates_BG in torch.split(gates_PG, list(batch_sizes)):
            if len(gates_BG) < len(state[0]):
                state = tuple(vector_BH[: len(gates_BG)] for vector_BH in state)
            state = self._advance(layer, gates_BG, state)
            outputs.append(state[0])
        return torch.cat(outputs)

    def _project(self, part: str, layer: int, x: Tensor) -> Tensor:
        """Apply a cell's linear layer of the inputs (``ih``) or of the state (``hh``)."""
        weight: Tensor = getattr(self.cell, f"weight_{part}_l{layer}")
        bias: Tensor = getattr(self.cell, f"bias_{part}_l{layer}")
        return torch.addmm(bias, x, weight.t())

    def _advance(self, layer: int, gates_BG: Tensor, state: State) -> State:
        """Apply the cell to the gates' input part and the state."""
        recurrent_BG = self._project("hh", layer, state[0])
        if self.kind == "gru":
            reset, update, new = gates_BG.chunk(3, dim=1)
            reset_hidden, update_hidden, new_hidden = recurrent_BG.chunk(3, dim=1)
            candidate_BH = torch.tanh(torch.addcmul(new, torch.sigmoid(reset + reset_hidden), new_hidden))
            return (torch.lerp(candidate_BH, state[0], torch.sigmoid(update + update_hidden)),)
        enter, forget, new, leave = (gates_BG + recurrent_BG).chunk(4, dim=1)
        memory_BH = torch.addcmul(torch.sigmoid(enter) * torch.tanh(new), torch.sigmoid(forget), state[1])
        return torch.sigmoid(leave) * torch.tanh(memory_BH), memory_BH


class RecurrentMemory:
    """The recurrent state of running simulators, one slot each, in one slab.

    Parameters
    ----------
    core
        Advances it.
    num_slots
        Number of slots.
    """

    def __init__(self, core: RecurrentCore, num_slots: int) -> None:
        self._core = core
        device = next(core.parameters()).device
        self._state = torch.zeros(core.num_layers, core.num_states, num_slots, core.size, device=device)

    def restart(self, slot: int) -> None:
        """Put a slot at the start of a trace."""
        self._state[:, :, slot] = 0.0

    def save(self, slot: int) -> tuple[Tensor, ...]:
        """Return a slot's state."""
        return (self._state[:, :, slot].clone(),)

    def restore(self, slot: int, saved: tuple[Tensor, ...]) -> None:
        """Put a slot back into a state."""
        self._state[:, :, slot] = saved[0]

    def advance(self, slots: Sequence[int], x_BI: Tensor) -> Tensor:
        """Advance some slots by one site; returns the outputs, shape ``(B, H)``.

        Parameters
        ----------
        slots
            Distinct slots.
        x_BI
            Their inputs.
        """
        index = torch.tensor(slots, dtype=torch.long, device=self._state.device)
        states = [layer.unbind(0) for layer in self._state.index_select(2, index).unbind(0)]
        advanced = self._core.step(x_BI, states)
        self._state.index_copy_(2, index, torch.stack([torch.stack(state) for state in advanced]))
        return advanced[-1][0]
