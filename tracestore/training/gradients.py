"""Norm, scale and removal of gradients, some of which are sparse; nothing here makes a sparse gradient dense.

The gradient of a table is a sparse tensor whose entries are whole rows. Backward leaves a row once for every lookup,
so the row's gradient is the sum of its entries: it must be coalesced before anything that is not linear, such as a
norm. This module knows nothing of optimizers or ranks.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = [
    "clip_gradients",
    "coalesce_gradient",
    "drop_gradients",
    "gradient_norm",
    "scale_gradients",
    "touched_rows",
]

BLOCK = 1 << 14
"""Numbers that are summed in their own precision; sums of blocks are added in float64."""


def coalesce_gradient(parameter: Tensor) -> Tensor:
    """Return the gradient of a parameter; a sparse one is coalesced and kept so.

    Nothing is copied when the rows are in order and without repetition. The values may then share memory with other
    gradients: do not change them in place.

    Examples
    --------
    >>> from torch import nn
    >>> table = nn.Embedding(9, 1, sparse=True)
    >>> table(torch.tensor([4, 1, 4])).sum().backward()
    >>> gradient = coalesce_gradient(table.weight)
    >>> gradient.indices().tolist(), gradient.values().tolist()
    ([[1, 4]], [[1.0], [2.0]])
    """
    gradient = parameter.grad
    if gradient is None:
        message = "the parameter has no gradient"
        raise ValueError(message)
    if gradient.is_sparse and not gradient.is_coalesced():
        rows = gradient._indices()[0]
        if bool((rows[1:] > rows[:-1]).all()):
            gradient._coalesced_(True)
        else:
            gradient = parameter.grad = gradient.coalesce()
    return gradient


def touched_rows(parameter: Tensor) -> tuple[Tensor, Tensor]:
    """Return the n rows that a gradient touches, in order, and their gradients, shape ``(n, ...)``.

    A dense gradient touches every row. Do not change either in place.

    Examples
    --------
    >>> from torch import nn
    >>> table = nn.Embedding(9, 1, sparse=True)
    >>> table(torch.tensor([4, 1, 4])).sum().backward()
    >>> rows, gradients = touched_rows(table.weight)
    >>> rows.tolist(), gradients.tolist()
    ([1, 4], [[1.0], [2.0]])
    """
    gradient = coalesce_gradient(parameter)
    if gradient.is_sparse:
        return gradient.indices()[0], gradient.values()
    return torch.arange(len(gradient), device=gradient.device), gradient


@torch.no_grad()
def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the Euclidean norm of all gradients as one vector, in float64 and without waiting for the device.

    Rows that were looked up more than once count with their sum, as in the dense gradient. Sums run over blocks of
    16,384 numbers in the gradients' own precision, and over blocks in float64: a plain float32 norm of a wide table is
    wrong in the fourth digit, and one in float64 throughout takes twenty times as long.

    Parameters
    ----------
    parameters
        Those without gradient are passed over. Sparse gradients are coalesced in place.

    Examples
    --------
    >>> from torch import nn
    >>> table = nn.Embedding(9, 1, sparse=True)
    >>> table(torch.tensor([4, 4, 4, 1])).sum().backward()
    >>> round(gradient_norm([table.weight]).item() ** 2, 6)
    10.0
    """
    small: dict[torch.device, list[Tensor]] = {}
    norms: list[Tensor] = []
    for values in _values(parameters):
        if values.numel() <= BLOCK:
            small.setdefault(values.device, []).append(values)
            continue
        flat = values.reshape(-1)
        whole = len(flat) // BLOCK * BLOCK
        norms.append(torch.linalg.vector_norm(flat[:whole].view(-1, BLOCK), dim=1))
        norms.append(torch.linalg.vector_norm(flat[whole:]).view(1))
    norms += [torch.stack(torch._foreach_norm(group)) for group in small.values()]
    if not norms:
        return torch.zeros((), dtype=torch.float64)
    device = norms[0].device
    wide = torch.float32 if device.type == "mps" else torch.float64  # that device has no float64
    total: Tensor = torch.linalg.vector_norm(torch.cat([norm.to(device, wide) for norm in norms]))
    return total


@torch.no_grad()
def scale_gradients(parameters: Iterable[Tensor], factor: float) -> None:
    """Multiply all gradients by a number.

    Parameters
    ----------
    parameters
        Those without gradient are passed over. Sparse gradients are coalesced and replaced, because backward may have
        left the same memory in the gradients of two tables.
    factor
        What to multiply by.

    Examples
    --------
    >>> from torch import nn
    >>> table = nn.Embedding(9, 1, sparse=True)
    >>> table(torch.tensor([4, 4])).sum().backward()
    >>> scale_gradients([table.weight], 0.25)
    >>> table.weight.grad.to_dense()[4].item()
    0.5
    """
    dense: dict[torch.device, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is None:
            continue
        gradient = coalesce_gradient(parameter)
        if not gradient.is_sparse:
            dense.setdefault(gradient.device, []).append(gradient)
            continue
        parameter.grad = torch.sparse_coo_tensor(
            gradient.indices(), gradient.values() * factor, gradient.shape, is_coalesced=True, check_invariants=False
        )
    for gradients in dense.values():
        torch._foreach_mul_(gradients, factor)


def clip_gradients(parameters: Iterable[Tensor], longest: float) -> Tensor:
    """Scale all gradients down to a norm when they are longer; return the norm before, as `gradient_norm` does.

    A norm that is not finite leaves them as they are: the caller must look at it.

    Parameters
    ----------
    parameters
        Those without gradient are passed over.
    longest
        Largest norm to leave.

    Examples
    --------
    >>> from torch import nn
    >>> weight = nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_gradients([weight], 1.0).item()
    5.0
    >>> weight.grad
    tensor([0.6000, 0.8000])
    """
    parameters = list(parameters)
    norm = gradient_norm(parameters)
    length = norm.item()
    if longest < length < float("inf"):
        scale_gradients(parameters, longest / length)
    return norm


def drop_gradients(parameters: Iterable[Tensor]) -> None:
    """Forget all gradients.

    Examples
    --------
    >>> from torch import nn
    >>> weight = nn.Parameter(torch.zeros(2))
    >>> weight.sum().backward()
    >>> drop_gradients([weight])
    >>> weight.grad is None
    True
    """
    for parameter in parameters:
        parameter.grad = None


def _values(parameters: Iterable[Tensor]) -> Iterable[Tensor]:
    for parameter in parameters:
        if parameter.grad is not None:
            gradient = coalesce_gradient(parameter)
            yield gradient.values() if gradient.is_sparse else gradient
