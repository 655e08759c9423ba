"""The cross-section in torch: its kernels with gradients by the parameters, and the bundled program with tensors."""

from functools import lru_cache
from typing import NamedTuple

from tracestore._extras import extra
from tracestore.native.torch_kernel import TensorKernel
from tracestore.simulators.batched import batched_simulator
from tracestore.simulators.cross_section import NUM_EVENTS, Collisions
from tracestore.simulators.cross_section_kernels import cross_section_kernels

with extra("train"):
    import torch
    from torch import Tensor

__all__ = ["cross_section", "stack_columns", "tensor_events_log_prob", "tensor_total"]


_BUNDLED = Collisions(NUM_EVENTS, "torch")


@batched_simulator(batch_size=512, arrays="torch")
def cross_section() -> None:
    """Do as `tracestore.simulators.cross_section.cross_section`, with tensors, for engines that follow gradients."""
    _BUNDLED.run()


class _TensorKernels(NamedTuple):
    sum_of_logs: TensorKernel
    total: TensorKernel


@lru_cache(maxsize=1)
def _kernels() -> _TensorKernels:
    kernels = cross_section_kernels()
    return _TensorKernels(TensorKernel(kernels.sum_of_logs), TensorKernel(kernels.total))


def stack_columns(columns: list[Tensor]) -> Tensor:
    """Put parameters, each of shape ``(num_rows,)``, side by side.

    Examples
    --------
    >>> stack_columns([torch.zeros(3), torch.ones(3)]).shape
    torch.Size([3, 2])
    """
    return torch.stack(columns, 1)


def tensor_total(parameters: Tensor) -> Tensor:
    """Return the integral of the cross-section, pb, shape ``(num_rows,)``.

    Parameters
    ----------
    parameters
        float64, shape ``(num_rows, 6)``.

    Examples
    --------
    >>> tensor_total(torch.tensor([[0.7, 3.5, 4.5, 0.4, 0.15, 0.6]], dtype=torch.float64)).round()
    tensor([152976.], dtype=torch.float64)
    """
    return _kernels().total(parameters)


def tensor_events_log_prob(parameters: Tensor, events: Tensor) -> Tensor:
    """Score events under each row of parameters.

    Parameters
    ----------
    parameters
        float64, shape ``(num_rows, 6)``.
    events
        float64, shape ``(num_rows, num_events, 2)``; may be one expanded set of events.

    Returns
    -------
    Tensor
        Shape ``(num_rows,)``.

    Examples
    --------
    >>> parameters = torch.tensor([[0.7, 3.5, 4.5, 0.4, 0.15, 0.6]], dtype=torch.float64)
    >>> events = torch.tensor([[[0.1, 10.0], [0.3, 30.0]]], dtype=torch.float64)
    >>> tensor_events_log_prob(parameters, events).round(decimals=2)
    tensor([-8.6400], dtype=torch.float64)
    """
    if events.stride(0) == 0 or len(events) == 1:
        sums = _kernels().sum_of_logs(parameters, events[0].contiguous())
    else:
        rows = [
            _kernels().sum_of_logs(row[None], each.contiguous()) for row, each in zip(parameters, events, strict=True)
        ]
        sums = torch.cat(rows)
    return sums - events.shape[1] * torch.log(tensor_total(parameters))
