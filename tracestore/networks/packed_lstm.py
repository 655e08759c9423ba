"""An LSTM layer over a packed sequence as one differentiable function, for processors.

Step by step it does what depends on the step before and nothing else: torch's own graph of an unrolled layer computes,
for every step, the gradient of the recurrent weights and adds it to the one so far, and keeps and frees a dozen
tensors. Here that gradient is one product over all sites, and so are the derivatives of the gates.

Shapes: P sites, step by step with the longest trace first, H output, G = 4 H gates (input, forget, new, output).
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

__all__ = ["packed_lstm"]


def packed_lstm(inputs_PG: Tensor, weight_GH: Tensor, batch_sizes: Sequence[int]) -> Tensor:
    """Run an LSTM layer from a state of zeros; returns the outputs, shape ``(P, H)``.

    It can be differentiated once.

    Parameters
    ----------
    inputs_PG
        The part of the gates that comes from the inputs, both biases included.
    weight_GH
        Weights of the state.
    batch_sizes
        Traces in each step, not increasing.

    Examples
    --------
    >>> packed_lstm(torch.zeros(3, 8), torch.ones(8, 2), [2, 1]).tolist()
    [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    """
    outputs: Tensor = _PackedLstm.apply(inputs_PG, weight_GH, list(batch_sizes))  # type: ignore[no-untyped-call]
    return outputs


class _PackedLstm(torch.autograd.Function):
    @staticmethod
    def forward(  # torch has no type for the context
        ctx: Any,  # noqa: ANN401
        inputs_PG: Tensor,
        weight_GH: Tensor,
        batch_sizes: list[int],
    ) -> Tensor:
        size = weight_GH.shape[1]
        gates_PG = inputs_PG.to(weight_GH.dtype, copy=True)
        memory_PH, bounded_PH, output_PH = gates_PG.new_empty(3, len(gates_PG), size).unbind(0)
        enter_PH, forget_PH, new_PH, leave_PH = gates_PG.chunk(4, dim=1)
        whole = (gates_PG, gates_PG[:, : 2 * size], enter_PH, forget_PH, new_PH, leave_PH, memory_PH, bounded_PH)
        transposed_HG = weight_GH.t()
        last: tuple[Tensor, Tensor] | None = None
        for gates, sigmoids, enter, forget, new, leave, memory, bounded, output in zip(
            *(torch.split(tensor, batch_sizes) for tensor in (*whole, output_PH)), strict=True
        ):
            if last is not None:
                last_output, last_memory = (tensor[: len(gates)] for tensor in last)
                gates.addmm_(last_output, transposed_HG)
            sigmoids.sigmoid_()
            new.tanh_()
            leave.sigmoid_()
            torch.mul(enter, new, out=memory)
            if last is not None:
                memory.addcmul_(forget, last_memory)
            torch.tanh(memory, out=bounded)
            torch.mul(leave, bounded, out=output)
            last = output, memory
        ctx.save_for_backward(gates_PG, weight_GH, memory_PH, bounded_PH, output_PH)
        ctx.batch_sizes = batch_sizes
        return output_PH

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_PH: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        gates_PG, weight_GH, memory_PH, bounded_PH, output_PH = ctx.saved_tensors
        sizes, size = ctx.batch_sizes, weight_GH.shape[1]
        previous = _previous(sizes)
        factors_PG = _derivatives(gates_PG, memory_PH, bounded_PH, previous)
        leave_PH = gates_PG[:, 3 * size :]
        to_memory_PH = torch.addcmul(leave_PH, leave_PH * bounded_PH, bounded_PH, value=-1.0)
        # from here on the factors become gradients, in place and from the last step to the first
        grad_PH = grad_PH.to(weight_GH.dtype, copy=True)
        inner_P3H, outer_PH = factors_PG[:, : 3 * size].view(-1, 3, size), factors_PG[:, 3 * size :]
        forget_PH, memory_grad_PH = gates_PG[:, size : 2 * size], torch.empty_like(grad_PH)
        whole = (factors_PG, inner_P3H, outer_PH, grad_PH, memory_grad_PH, to_memory_PH, forget_PH)
        later: tuple[Tensor, Tensor, Tensor] | None = None
        for gates_grad, inner, outer, grad, memory_grad, to_memory, forget in zip(
            *(reversed(torch.split(tensor, sizes)) for tensor in whole), strict=True
        ):
            if later is not None:
                grad[: len(later[0])].addmm_(later[0], weight_GH)
            torch.mul(grad, to_memory, out=memory_grad)
            if later is not None:
                memory_grad[: len(later[0])].addcmul_(later[1], later[2])
            inner.mul_(memory_grad.unsqueeze(1))
            outer.mul_(grad)
            later = gates_grad, memory_grad, forget
        weight_grad_GH = factors_PG[sizes[0] :].t() @ output_PH.index_select(0, previous)
        return factors_PG, weight_grad_GH, None


def _previous(sizes: Sequence[int]) -> Tensor:
    """Return the place of the site before, for all sites from the second step on."""
    starts = accumulate(sizes[:-1], initial=0)
    places = [torch.arange(start, start + count) for start, count in zip(starts, sizes[1:], strict=False)]
    return torch.cat(places) if places else torch.zeros(0, dtype=torch.long)


def _derivatives(gates_PG: Tensor, memory_PH: Tensor, bounded_PH: Tensor, previous: Tensor) -> Tensor:
    """Return the derivative of the memory (of the output, for the last gate) by each gate before its activation."""
    enter, forget, new, leave = gates_PG.chunk(4, dim=1)
    factors_PG = torch.empty_like(gates_PG)
    by_enter, by_forget, by_new, by_leave = factors_PG.chunk(4, dim=1)
    torch.addcmul(enter, enter, enter, value=-1.0, out=by_enter).mul_(new)
    torch.addcmul(forget, forget, forget, value=-1.0, out=by_forget)
    num_first = len(memory_PH) - len(previous)
    by_forget[:num_first] = 0.0
    by_forget[num_first:].mul_(memory_PH.index_select(0, previous))
    torch.addcmul(enter, enter * new, new, value=-1.0, out=by_new)
    torch.addcmul(leave, leave, leave, value=-1.0, out=by_leave).mul_(bounded_PH)
    return factors_PG
