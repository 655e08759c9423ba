"""Where each parameter's gradient lies in the buffer that is summed over ranks.

A slot holds the whole gradient of an ordinary parameter, and of a table only the rows that some rank has touched. It
copies gradients in and hands them out again; it knows no ranks and starts no sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tracestore.errors import InvalidInputError
from tracestore.networks.tables import Table

__all__ = ["GradientSlot", "arrange_slots"]


@dataclass(slots=True)
class GradientSlot:
    """The place of one parameter's gradient, for one step.

    Examples
    --------
    >>> weight = nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([1.0, 2.0])
    >>> slot = GradientSlot("weight", weight, is_table=False, segment=0)
    >>> slot.place(torch.empty(2))
    >>> slot.fill(), slot.view
    (None, tensor([1., 2.]))
    """

    name: str
    parameter: nn.Parameter
    is_table: bool
    segment: int
    """Which part of the buffer it belongs to."""
    rows: Tensor | None = None
    """Of a table: the sorted union of the rows that ranks have touched."""
    view: Tensor | None = None
    """Its part of the buffer: the shape of the parameter, or ``(len(rows), width)``."""
    is_filled: bool = False

    @property
    def num_values(self) -> int:
        """Numbers that the slot holds."""
        return self.parameter.numel() if self.rows is None else len(self.rows) * self.parameter.shape[1]

    def place(self, part: Tensor) -> None:
        """Give the slot its part of the buffer, shape ``(num_values,)``."""
        shape = self.parameter.shape if self.rows is None else (len(self.rows), self.parameter.shape[1])
        self.view = part.view(shape)

    def fill(self) -> Tensor | None:
        """Copy the gradient, or zeros where there is none, into the buffer.

        Returns
        -------
        Tensor or None
            How many rows had a gradient but no place in the buffer, where this can happen at all.

        Raises
        ------
        InvalidInputError
            When the gradient of a table is not sparse, or of another parameter is; when the slot is full already.
        """
        assert self.view is not None, "a slot has its part of the buffer before it is filled"
        grad = self.parameter.grad
        if self.is_filled:
            message = f"The gradient of {self.name} was finished twice in one backward pass; do not nest such passes."
            raise InvalidInputError(message, name=self.name)
        self.is_filled = True
        if grad is None:
            self.view.zero_()
            return None
        if grad.is_sparse != self.is_table:
            message = (
                f"The gradient of {self.name} must be {'sparse' if self.is_table else 'dense'}: tables, and only "
                "tables, are looked up with `sparse=True`."
            )
            raise InvalidInputError(message, name=self.name)
        if self.rows is None:
            self.view.copy_(grad)
            return None
        self.view.zero_()
        rows, values = grad._indices()[0], grad._values()
        if len(self.rows) == 0:
            return torch.tensor(len(rows))
        index = torch.searchsorted(self.rows, rows).clamp_(max=len(self.rows) - 1)
        self.view.index_add_(0, index, values)
        return (self.rows[index] != rows).sum()

    def give_back(self) -> None:
        """Make the summed part of the buffer the gradient; that of a table is sparse and coalesced."""
        if self.rows is None or self.view is None:
            self.parameter.grad = self.view
        else:
            self.parameter.grad = torch.sparse_coo_tensor(
                self.rows.unsqueeze(0), self.view, self.parameter.shape, check_invariants=False, is_coalesced=True
            )


def arrange_slots(network: nn.Module, segments: Sequence[tuple[str, ...]]) -> list[GradientSlot]:
    """Give every trainable parameter a slot, segment by segment, in the order of the network within each.

    Parameters
    ----------
    network
        The network.
    segments
        Beginnings of parameter names, a group for each segment; what fits no group goes to the last.

    Raises
    ------
    InvalidInputError
        When parameters differ in type or device.

    Examples
    --------
    >>> network = nn.ModuleDict({"observation": nn.Linear(1, 1), "head": nn.Linear(1, 1)})
    >>> [slot.name for slot in arrange_slots(network, [("head.",), ("observation.",)])]
    ['head.weight', 'head.bias', 'observation.weight', 'observation.bias']
    """
    tables = {id(module.weight) for module in network.modules() if isinstance(module, Table)}
    slots = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            fitting = (index for index, group in enumerate(segments) if name.startswith(group))
            segment = next(fitting, len(segments) - 1)
            slots.append(GradientSlot(name, parameter, id(parameter) in tables, segment))
    kinds = {(slot.parameter.dtype, slot.parameter.device) for slot in slots}
    if len(kinds) > 1:
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        message = f"All parameters must have one type and be on one device to be summed together; found {found}."
        raise InvalidInputError(message)
    return sorted(slots, key=lambda slot: slot.segment)
