"""A moving average of the weights over the steps of a training, for validation and for the network that is kept.

After n steps a weight's average is ``sum_i d**(n - i) w_i / sum_i d**(n - i)`` over its values ``w_1 ... w_n`` after
each step: exponential with decay d, and corrected for its start as Adam's moments are, so that nothing of the initial
weights stays in it. Steps in which a weight did not change count as well. They are not worked through one by one: a
weight that stayed for k steps moves its average by one closed formula, and it does so *just before it changes*, when
its gradient says so. A row of a table therefore costs time only when it is touched, and its average is that over all
steps nonetheless. Rows that join a network that grows count from the step that brought them.

This module knows nothing of optimizers. Reference: Polyak and Juditsky, 1992, for averaging; Kingma and Ba, 2015,
section 7.2, for this form.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from tracestore.errors import CheckpointMismatchError, InvalidInputError
from tracestore.training.gradients import touched_rows

__all__ = ["WeightAverage"]

WIDE_ROW = 4096
"""On a processor, rows from this width on move in place one by one; narrower ones are gathered."""
CHUNK = 1 << 22
"""Numbers that change places at a time."""


@dataclasses.dataclass(slots=True)
class _State:
    """The average of one parameter, and the steps that it covers."""

    average: Tensor
    begun: int | Tensor
    """Last step before the parameter existed; one number for each row of a table."""
    folded: int | Tensor
    """Last step that the average covers."""


class WeightAverage:
    """Exponential moving average of all parameters of a network; same inputs give the same bits.

    Parameters
    ----------
    network
        Its parameters are averaged, by name; they may appear and gain rows between steps. Buffers are left alone.
    decay
        Share of an average that stays after a step, in (0, 1); 0.999 averages over about a thousand steps.

    Raises
    ------
    InvalidInputError
        When the decay is not in (0, 1).

    Examples
    --------
    >>> network = nn.Linear(1, 1, bias=False)
    >>> average = WeightAverage(network, decay=0.5)
    >>> for weight in (1.0, 4.0):
    ...     network.weight.grad = torch.ones(1, 1)
    ...     average.before_step()
    ...     _ = network.weight.data.fill_(weight)  # what an optimizer does
    >>> with average.applied():
    ...     network.weight.item()  # (0.5 * 1 + 4) / (0.5 + 1)
    3.0
    >>> network.weight.item()
    4.0
    """

    def __init__(self, network: nn.Module, decay: float = 0.999) -> None:
        if not 0.0 < decay < 1.0:
            message = f"`decay` must lie between 0 and 1; got {decay!r}."
            raise InvalidInputError(message, decay=decay)
        self.network = network
        self.decay = decay
        self.num_steps = 0
        self._log_decay = math.log(decay)
        self._states: dict[str, _State] = {}
        self._is_applied = False

    @torch.no_grad()
    def before_step(self) -> None:
        """Take in the weights that the coming step changes; call it before every step, with the gradients in place.

        Raises
        ------
        InvalidInputError
            When the averages are in the network, or a parameter has changed other than by new rows.
        """
        self._require_not_applied()
        dense: dict[torch.device, tuple[list[Tensor], list[Tensor], list[float]]] = {}
        for name, parameter in self.network.named_parameters():
            gradient = parameter.grad
            state = self._state(name, parameter, by_row=gradient is not None and gradient.is_sparse)
            if gradient is None:
                continue
            if isinstance(state.folded, Tensor):
                self._fold_rows(state, parameter, touched_rows(parameter)[0])
            else:
                averages, weights, shares = dense.setdefault(parameter.device, ([], [], []))
                averages.append(state.average)
                weights.append(parameter)
                shares.append(self._fold_whole(state))
        for averages, weights, shares in dense.values():
            torch._foreach_lerp_(averages, weights, shares)
        self.num_steps += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the network for a while; the trained weights come back bit for bit.

        They change places in memory, so no second copy of the network is needed. Do not train or grow it meanwhile.

        Raises
        ------
        InvalidInputError
            When the averages are in the network already.
        """
        self._require_not_applied()
        self._catch_up()
        self._exchange()
        self._is_applied = True
        try:
            yield
        finally:
            self._is_applied = False
            self._exchange()

    @torch.no_grad()
    def copy_to(self, network: nn.Module) -> None:
        """Write the averages into another network of the same shape.

        Raises
        ------
        InvalidInputError
            When a parameter is missing there or has another shape, or the averages are in the own network.
        """
        self._require_not_applied()
        self._catch_up()
        others = dict(network.named_parameters())
        for name, parameter in self.network.named_parameters():
            other = others.get(name)
            if other is None or other.shape != parameter.shape:
                found = "no such parameter" if other is None else f"shape {tuple(other.shape)}"
                message = (
                    f"The average of {name!r} has shape {tuple(parameter.shape)}; the other network has {found}. "
                    "Copy to a network of the same configuration that has seen the same addresses."
                )
                raise InvalidInputError(message, name=name)
            state = self._states.get(name)
            other.copy_(parameter if state is None else state.average)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return ``num_steps`` and, for each parameter, ``name/average``, ``name/begun`` and ``name/folded``.

        On a processor the averages share memory with this object: write them out before the next step.

        Raises
        ------
        InvalidInputError
            When the averages are in the network.
        """
        self._require_not_applied()
        tensors = {"num_steps": torch.tensor(self.num_steps)}
        for name, parameter in self.network.named_parameters():
            if name in self._states:
                state = self._state(name, parameter, by_row=False)
                for kind in ("average", "begun", "folded"):
                    tensors[f"{name}/{kind}"] = torch.as_tensor(getattr(state, kind)).cpu().contiguous()
        return tensors

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state_tensors` returned; the steps that follow give the same bits.

        Raises
        ------
        CheckpointMismatchError
            When a name or a shape does not fit the network.
        """
        parameters = dict(self.network.named_parameters())
        names = {key.rpartition("/")[0] for key in tensors if key != "num_steps"}
        states = {}
        for name in sorted(names):
            parameter = parameters.get(name)
            found = [tensors.get(f"{name}/{kind}") for kind in ("average", "begun", "folded")]
            average, begun, folded = found
            if (
                parameter is None
                or average is None
                or begun is None
                or folded is None
                or average.shape != parameter.shape
                or begun.shape != folded.shape
                or begun.shape not in ((), parameter.shape[:1])
            ):
                message = f"The average of {name!r} does not fit the network; restore the checkpoint as written."
                raise CheckpointMismatchError(message, name=name)
            copied = torch.empty_like(parameter, requires_grad=False).copy_(average)
            states[name] = _State(copied, _steps(begun, parameter), _steps(folded, parameter))
        if "num_steps" not in tensors:
            message = "The averages have no `num_steps`; restore the checkpoint as written."
            raise CheckpointMismatchError(message)
        self.num_steps = int(tensors["num_steps"])
        self._states = states

    def _state(self, name: str, parameter: nn.Parameter, *, by_row: bool) -> _State:
        """Return the state of a parameter, made, extended or moved where needed."""
        state = self._states.get(name)
        if state is None:
            average = parameter.detach().clone()
            state = self._states[name] = _State(average, self.num_steps, self.num_steps)
        average = state.average
        has_grown = average.shape != parameter.shape
        if by_row or has_grown:
            state.begun, state.folded = (
                torch.full(average.shape[:1], steps, device=average.device) if isinstance(steps, int) else steps
                for steps in (state.begun, state.folded)
            )
        if has_grown:
            self._extend(name, state, parameter)
        if state.average.device != parameter.device:
            state.average = state.average.to(parameter.device)
            state.begun, state.folded = (
                steps.to(parameter.device) if isinstance(steps, Tensor) else steps
                for steps in (state.begun, state.folded)
            )
        return state

    def _extend(self, name: str, state: _State, parameter: nn.Parameter) -> None:
        average = state.average
        num_old = len(average)
        if average.shape[1:] != parameter.shape[1:] or num_old > len(parameter):
            message = (
                f"The parameter {name!r} has shape {tuple(parameter.shape)}; its average has {tuple(average.shape)}. "
                "A parameter may only gain rows while it is trained."
            )
            raise InvalidInputError(message, name=name)
        new = parameter.detach()[num_old:].to(average.device)
        state.average = torch.cat([average, new])
        steps = torch.full((len(new),), self.num_steps, device=average.device)
        state.begun = torch.cat([torch.as_tensor(state.begun), steps])
        state.folded = torch.cat([torch.as_tensor(state.folded), steps])

    def _fold_whole(self, state: _State) -> float:
        """Return by how much the average moves to the weights, and count the steps."""
        assert isinstance(state.begun, int)
        assert isinstance(state.folded, int)
        stayed, covered = self.num_steps - state.folded, self.num_steps - state.begun
        state.folded = self.num_steps
        return math.expm1(stayed * self._log_decay) / math.expm1(max(covered, 1) * self._log_decay)

    def _fold_rows(self, state: _State, table: Tensor, rows: Tensor) -> None:
        """Move the averages of some rows of a table to their weights."""
        assert isinstance(state.begun, Tensor)
        assert isinstance(state.folded, Tensor)
        stayed = (self.num_steps - state.folded.index_select(0, rows)).to(torch.float32)
        covered = (self.num_steps - state.begun.index_select(0, rows)).to(torch.float32)
        shares = torch.expm1(stayed * self._log_decay) / torch.expm1(covered.clamp(min=1.0) * self._log_decay)
        state.folded.index_fill_(0, rows, self.num_steps)
        if table.device.type == "cpu" and table[:1].numel() >= WIDE_ROW:
            places = rows.tolist()
            averages, weights = [state.average[row] for row in places], [table[row] for row in places]
            torch._foreach_lerp_(averages, weights, shares.tolist())
            return
        column = shares.view(-1, *(1,) * (table.dim() - 1))
        gathered = state.average.index_select(0, rows).lerp_(table.index_select(0, rows), column)
        state.average.index_copy_(0, rows, gathered)

    @torch.no_grad()
    def _catch_up(self) -> None:
        """Let every average cover all steps so far."""
        for name, parameter in self.network.named_parameters():
            if name not in self._states:
                continue
            state = self._state(name, parameter, by_row=False)
            if isinstance(state.folded, Tensor):
                rows = torch.arange(len(parameter), device=parameter.device)
                for part in torch.split(rows, max(1, CHUNK // max(1, parameter[:1].numel()))):
                    self._fold_rows(state, parameter, part)
            else:
                state.average.lerp_(parameter, self._fold_whole(state))

    @torch.no_grad()
    def _exchange(self) -> None:
        """Let weights and averages change places."""
        for name, parameter in self.network.named_parameters():
            if name not in self._states:
                continue
            pair = parameter, self._states[name].average
            weights, averages = (x if x.dim() else x.unsqueeze(0) for x in pair)
            size = max(1, CHUNK // max(1, weights[:1].numel()))
            for weight, average in zip(torch.split(weights, size), torch.split(averages, size), strict=True):
                kept = weight.clone()
                weight.copy_(average)
                average.copy_(kept)

    def _require_not_applied(self) -> None:
        if self._is_applied:
            message = "The averages are in the network; leave `applied` before training, saving or copying."
            raise InvalidInputError(message)


def _steps(found: Tensor, parameter: Tensor) -> int | Tensor:
    return found.to(parameter.device, copy=True) if found.dim() else int(found)
