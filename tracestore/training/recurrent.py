"""The recurrent core: a packed pass over traces of different lengths, and single steps for running simulators.

Shapes: P sites of a packed sequence, B traces at one step, I inputs, H state, G gates (4 H for an LSTM, 3 H for a GRU).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

__all__ = ["RecurrentCore"]


class RecurrentCore(nn.Module):
    """One layer of LSTM or GRU.

    On a processor the packed pass is unrolled here: torch's own backward pass costs the number of steps times the
    number of sites. Accelerators use torch's fused kernels; both give the same numbers up to rounding.

    Parameters
    ----------
    kind
        Cell.
    num_inputs, size
        Widths of the inputs and of the state.

    Examples
    --------
    >>> core = RecurrentCore("gru", 3, 5)
    >>> core(torch.ones(4, 3), torch.tensor([2, 1, 1])).shape
    torch.Size([4, 5])
    """

    def __init__(self, kind: Literal["lstm", "gru"], num_inputs: int, size: int) -> None:
        super().__init__()
        self.kind = kind
        self.size = size
        self.cell: nn.LSTM | nn.GRU = nn.LSTM(num_inputs, size) if kind == "lstm" else nn.GRU(num_inputs, size)

    @property
    def num_states(self) -> int:
        """Vectors that make up the state: two for an LSTM, of which the first is the output."""
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
        # the part that does not depend on the state is one product for all sites
        gates_PG = self._project("ih", x_PI)
        state_SBH = x_PI.new_zeros(self.num_states, int(batch_sizes[0]), self.size).unbind(0)
        steps = []
        for gates_BG in torch.split(gates_PG, batch_sizes.tolist()):
            if len(gates_BG) < len(state_SBH[0]):
                state_SBH = tuple(vector_BH[: len(gates_BG)] for vector_BH in state_SBH)
            state_SBH = self._advance(gates_BG, state_SBH)
            steps.append(state_SBH[0])
        return torch.cat(steps)

    def step(self, x_BI: Tensor, state_SBH: Tensor) -> Tensor:
        """Advance some traces by one site; returns the new state, shape ``(num_states, B, H)``.

        Parameters
        ----------
        x_BI
            Inputs.
        state_SBH
            State before.
        """
        return torch.stack(self._advance(self._project("ih", x_BI), state_SBH.unbind(0)))

    def _project(self, part: str, x: Tensor) -> Tensor:
        """Apply the cell's linear layer of the inputs (``ih``) or of the state (``hh``)."""
        weight: Tensor = getattr(self.cell, f"weight_{part}_l0")
        bias: Tensor = getattr(self.cell, f"bias_{part}_l0")
        return torch.addmm(bias, x, weight.t())

    def _advance(self, gates_BG: Tensor, state_SBH: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Apply the cell to the gates' input part, shape ``(B, G)``, and the state."""
        recurrent_BG = self._project("hh", state_SBH[0])
        if self.kind == "gru":
            reset, update, new = gates_BG.chunk(3, dim=1)
            reset_hidden, update_hidden, new_hidden = recurrent_BG.chunk(3, dim=1)
            candidate_BH = torch.tanh(torch.addcmul(new, torch.sigmoid(reset + reset_hidden), new_hidden))
            return (torch.lerp(candidate_BH, state_SBH[0], torch.sigmoid(update + update_hidden)),)
        enter, forget, new, leave = (gates_BG + recurrent_BG).chunk(4, dim=1)
        memory_BH = torch.addcmul(torch.sigmoid(enter) * torch.tanh(new), torch.sigmoid(forget), state_SBH[1])
        return torch.sigmoid(leave) * torch.tanh(memory_BH), memory_BH
