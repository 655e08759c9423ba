"""Sum gradients over ranks that have touched different rows of a network's tables.

A table has a row per address and a minibatch touches few, so what travels is the union of the rows that any rank has
touched, next to the gradients of all other parameters, in one buffer. The buffer is cut into segments; the sum of
one begins when its gradients are finished, while the backward pass goes on with the next.

No rank knows what the others do in a step: one lacks a head, another has no traces at all. It need not, because every
rank starts the same sums, of the same sizes, in the same order, in every step:

1. a flag for each row of each table, which makes the union and with it the sizes of the segments;
2. each segment, first to last; what a rank lacks is zero there;
3. statistics, in float64, and which parameters have a gradient anywhere.

A rank is free only in *when* it starts them. Nothing here knows the loss, the optimizer or how bytes travel.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tracestore.errors import InvalidInputError
from tracestore.training.agreement import require_same
from tracestore.training.communicator import Communicator, Handle
from tracestore.training.gradient_slots import GradientSlot, arrange_slots

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

__all__ = ["GradientSync", "SyncRecord"]

_MOST_RANKS_OF_A_BYTE = 255
_SPARE_SPACE = 1.25
"""By how much a new buffer exceeds what the step needs, since other steps touch other rows."""


@dataclass(frozen=True, slots=True)
class SyncRecord:
    """What one step cost in communication, on this rank."""

    reduced_bytes: int = 0
    """What this rank gave to sums: flags, gradients and statistics."""
    dense_bytes: int = 0
    """What it would have given if whole tables were summed."""
    waited_seconds: float = 0.0
    """Time in which this rank did nothing but wait for sums; on a GPU, what the processor waited."""
    total_seconds: float = 0.0
    """Time spent here: copies, starting sums, waiting."""


@dataclass(slots=True)
class _Step:
    """What `begin` prepares and `finish` ends."""

    slots: list[GradientSlot]
    flags: Tensor
    """Whether a row is touched, table after table; summed over ranks, by how many."""
    flags_handle: Handle
    segments: list[Tensor] = field(default_factory=list)
    """Parts of the buffer, once the union of rows is known."""
    unfinished: list[int] = field(default_factory=list)
    """Gradients that the backward pass has yet to finish, by segment."""
    num_started: int = 0
    handles: list[Handle] = field(default_factory=list)
    missed: list[Tensor] = field(default_factory=list)
    """Numbers of rows that had a gradient without having been declared."""

    @property
    def tables(self) -> list[GradientSlot]:
        return [slot for slot in self.slots if slot.is_table]


class GradientSync:
    """Make the gradients of a network the sum over ranks, with the same bits on all of them.

    Use it once per optimizer step: `begin`, `backward`, `finish`. With several minibatches per step, call
    ``loss.backward()`` for all but the last, then `begin` with the rows of all of them. A rank without a loss leaves
    `backward` out. Before the next step, set gradients to None: they are views of a buffer that is used again.

    Parameters of a `Table` must have sparse gradients, all others dense ones, or none. A parameter that no rank has a
    gradient for gets None. On one rank, gradients stay as the backward pass left them.

    Parameters
    ----------
    network
        The network, which may grow between steps, on all ranks alike.
    communicator
        The ranks.
    segments
        Beginnings of parameter names, a group for each segment, in the order in which the backward pass finishes
        them. Parameters that fit no group travel with the last.

    Examples
    --------
    >>> from tracestore.training.communicator import SoleProcess
    >>> network = nn.Linear(2, 1)
    >>> sync = GradientSync(network, SoleProcess())
    >>> sync.begin({})
    >>> sync.backward(network(torch.ones(3, 2)).sum())
    >>> sync.finish(torch.tensor([3.0], dtype=torch.float64))
    tensor([3.], dtype=torch.float64)
    """

    def __init__(
        self, network: nn.Module, communicator: Communicator, *, segments: Sequence[Sequence[str]] = ()
    ) -> None:
        self.network = network
        self.communicator = communicator
        self.segments = tuple(tuple(group) for group in segments) or ((),)
        self.record = SyncRecord()
        """What the last finished step cost."""
        self._step: _Step | None = None
        self._buffer = torch.empty(0)
        self._agreed: object = None
        self._waited_seconds = self._total_seconds = 0.0

    # ---------------------------------------------------------------------------------------------------- the step

    def begin(self, touched: Mapping[str, Tensor]) -> None:
        """Tell the other ranks which rows this rank touches, without waiting for their answer.

        Parameters
        ----------
        touched
            Rows by the name of the table's parameter, all that will have a gradient; each row once. Rows on the
            processor cost no wait for a GPU.

        Raises
        ------
        InvalidInputError
            When a name is not that of a table, or a row is outside of it; when parameters differ in type or device.
        RankMismatchError
            When the networks of the ranks differ in their parameters.
        """
        if self.communicator.num_ranks == 1:
            return
        start = time.perf_counter()
        self._waited_seconds = self._total_seconds = 0.0
        slots = arrange_slots(self.network, self.segments)
        self._agree(slots)
        for slot in slots:
            grad = slot.parameter.grad
            if grad is not None and not grad.is_sparse and _shares_memory(grad, self._buffer):
                slot.parameter.grad = grad.clone()  # set to zero since the last step, not to None
        flags = self._flag([slot for slot in slots if slot.is_table], touched)
        self._step = _Step(slots, flags, self.communicator.sum_(flags))
        self._total_seconds += time.perf_counter() - start

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of the step's last minibatch; sums begin while it goes on.

        Parameters
        ----------
        loss
            A number. When no parameter has a part in it, there is nothing to do.
        """
        if not loss.requires_grad:
            return
        if self.communicator.num_ranks == 1:
            torch.autograd.backward([loss])
            return
        step = self._step
        assert step is not None, "begin comes before backward"
        reached = _reached(loss)
        hooks = []
        step.unfinished = [0] * len(self.segments)
        for slot in step.slots:
            if id(slot.parameter) in reached:
                step.unfinished[slot.segment] += 1
                register: Callable[..., RemovableHandle] = slot.parameter.register_post_accumulate_grad_hook
                hooks.append(register(partial(self._take, step, slot)))
        try:
            torch.autograd.backward([loss])
        finally:
            for hook in hooks:
                hook.remove()

    def finish(self, statistics: Tensor) -> Tensor:
        """Wait for all sums and put them into the gradients.

        Parameters
        ----------
        statistics
            float64 of shape ``(n,)``, the same number on the same kind of device on all ranks, such as the sum of
            losses and the number of traces.

        Returns
        -------
        Tensor
            The statistics, summed over ranks.

        Raises
        ------
        InvalidInputError
            When a row had a gradient that no rank had declared; all ranks raise it, and gradients are not the sum.
        """
        if self.communicator.num_ranks == 1:
            return statistics
        start = time.perf_counter()
        step, self._step = self._step, None
        assert step is not None, "begin comes before finish"
        if not step.segments:
            self._allocate(step)
        while step.num_started < len(step.segments):
            self._start_segment(step)
        # whole numbers are exact in float64: the counts here, and those among the statistics
        missed = sum(count.item() for count in step.missed)
        present = [float(slot.parameter.grad is not None) for slot in step.slots]
        totals = torch.cat([statistics.double(), statistics.new_tensor([missed, *present], dtype=torch.float64)])
        step.handles.append(self.communicator.sum_(totals))
        for handle in step.handles:
            self._wait(handle)
        num_missed, *num_present = totals[len(statistics) :].tolist()
        if num_missed:
            message = (
                f"{num_missed:.0f} rows of tables had a gradient, but were not among the touched rows; declare in "
                "`begin` the rows of all minibatches of the step."
            )
            raise InvalidInputError(message, num_missed=int(num_missed))
        for slot, num_ranks in zip(step.slots, num_present, strict=True):
            if num_ranks:
                slot.give_back()
            else:
                slot.parameter.grad = None
        self._total_seconds += time.perf_counter() - start
        self.record = SyncRecord(
            reduced_bytes=sum(part.nbytes for part in (step.flags, totals, *step.segments)),
            dense_bytes=statistics.nbytes + sum(slot.parameter.nbytes for slot in step.slots),
            waited_seconds=self._waited_seconds,
            total_seconds=self._total_seconds,
        )
        return totals[: len(statistics)]

    # -------------------------------------------------------------------------------------------- rows and the buffer

    def _agree(self, slots: list[GradientSlot]) -> None:
        """Compare the networks of all ranks when this one has changed: they change in the same steps, or not at all."""
        layout = [(slot.name, tuple(slot.parameter.shape), slot.segment) for slot in slots]
        if layout != self._agreed:
            facts = {f"the shape of {name}": str(shape) for name, shape, _ in layout}
            require_same(self.communicator, facts)
            self._agreed = layout

    def _flag(self, tables: list[GradientSlot], touched: Mapping[str, Tensor]) -> Tensor:
        unknown = sorted(set(touched) - {slot.name for slot in tables})
        if unknown:
            message = f"Touched rows are given for {', '.join(unknown)}, but the network has no such tables."
            raise InvalidInputError(message, names=tuple(unknown))
        sizes = [len(slot.parameter) for slot in tables]
        is_small = self.communicator.num_ranks <= _MOST_RANKS_OF_A_BYTE
        flags = torch.zeros(sum(sizes), dtype=torch.uint8 if is_small else torch.int32)
        for slot, part in zip(tables, torch.split(flags, sizes), strict=True):
            rows = touched.get(slot.name)
            if rows is None or len(rows) == 0:
                continue
            rows = rows.cpu()
            if int(rows.min()) < 0 or int(rows.max()) >= len(part):
                message = f"Touched rows of {slot.name} must be from 0 to {len(part) - 1}; got {rows.tolist()[:8]}."
                raise InvalidInputError(message, name=slot.name)
            part[rows] = 1
        return flags

    def _allocate(self, step: _Step) -> None:
        """Wait for the union of rows, and give every gradient its part of the buffer."""
        self._wait(step.flags_handle)
        tables = step.tables
        for slot, part in zip(tables, torch.split(step.flags, [len(slot.parameter) for slot in tables]), strict=True):
            slot.rows = part.nonzero().squeeze(1).to(slot.parameter.device)
        sizes = [slot.num_values for slot in step.slots]
        if step.slots:
            like = step.slots[0].parameter
            is_fit = (self._buffer.dtype, self._buffer.device) == (like.dtype, like.device)
            if not is_fit or len(self._buffer) < sum(sizes):
                self._buffer = torch.empty(int(_SPARE_SPACE * sum(sizes)), dtype=like.dtype, device=like.device)
        buffer = self._buffer[: sum(sizes)]
        for slot, part in zip(step.slots, torch.split(buffer, sizes), strict=True):
            slot.place(part)
        in_segment = [0] * len(self.segments)
        for slot in step.slots:
            in_segment[slot.segment] += slot.num_values
        step.segments = list(torch.split(buffer, in_segment))

    # ------------------------------------------------------------------------------------------------------- the sums

    def _take(self, step: _Step, slot: GradientSlot, parameter: Tensor) -> None:
        """Copy a finished gradient, and start the sums of segments that are complete."""
        start = time.perf_counter()
        if not step.segments:
            self._allocate(step)
        self._fill(step, slot)
        step.unfinished[slot.segment] -= 1
        while step.num_started < len(step.segments) and not step.unfinished[step.num_started]:
            self._start_segment(step)
        for handle in step.handles:
            handle.is_done()  # lets MPI get on with it
        self._total_seconds += time.perf_counter() - start

    def _start_segment(self, step: _Step) -> None:
        """Start the next sum; parameters without a part in the last loss may hold gradients of minibatches before."""
        index = step.num_started
        for slot in step.slots:
            if slot.segment == index and not slot.is_filled:
                self._fill(step, slot)
        if len(step.segments[index]):
            step.handles.append(self.communicator.sum_(step.segments[index]))
        step.num_started += 1

    def _fill(self, step: _Step, slot: GradientSlot) -> None:
        missed = slot.fill()
        if missed is not None:
            step.missed.append(missed)

    def _wait(self, handle: Handle) -> None:
        start = time.perf_counter()
        handle.wait()
        self._waited_seconds += time.perf_counter() - start


def _reached(loss: Tensor) -> set[int]:
    """Return the identities of the leaves that a loss depends on."""
    node = torch.autograd.graph.get_gradient_edge(loss).node
    leaves, seen, left = set(), {node}, [node]
    while left:
        node = left.pop()
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        for follower, _ in node.next_functions:
            if follower is not None and follower not in seen:
                seen.add(follower)
                left.append(follower)
    return leaves


def _shares_memory(tensor: Tensor, other: Tensor) -> bool:
    return tensor.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
