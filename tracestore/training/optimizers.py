"""Adam, RMSprop and SGD for networks that are partly tables: only the rows that a gradient touches move.

A *table* is a parameter with one row per address whose gradient is a sparse tensor. Each of its rows counts as a tensor
of its own: it has its own moments, its own number of updates and, with LARC, its own trust ratio, as if every address
had a module of its own. State is kept under parameter names, so a parameter may be replaced by a longer one. This
module knows nothing of losses, schedules or ranks.

References: Kingma and Ba, Adam, ICLR 2015 (the bias correction of their section 3, counted per row here; torch's
SparseAdam counts all steps, so a row that is first touched late starts with an uncorrected, far too small second
moment and a first step up to sqrt(1 / (1 - beta2)) times too long). Sutskever et al., ICML 2013 (momentum). You,
Gitman and Ginsburg, arXiv:1708.03888 (LARC). Tieleman and Hinton, Coursera lecture 6.5, 2012 (RMSprop). Baydin et al.,
SC'19, section 7.1.2 (Adam with LARC).
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from tracestore.errors import CheckpointMismatchError, InvalidInputError
from tracestore.networks.config import Config
from tracestore.training.gradients import touched_rows

__all__ = ["Optimizer", "OptimizerConfig"]

MAX_VIEWS = 20_000
"""Rows of a table whose views are kept; making a view takes longer than updating a narrow row."""
LARC_FALLBACK = 1.0 / 16000.0
"""Local rate where the weights or the gradient are zero, so that biases that start from zero move at all."""
LARC_EPSILON = 1e-8


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig(Config):
    """Kind and constants of an optimizer.

    Examples
    --------
    >>> OptimizerConfig(kind="sgd", momentum=0.8).num_moments
    1
    """

    kind: Literal["adam", "sgd", "adam_larc", "sgd_larc", "rmsprop"] = "adam"
    """Update rule. With ``larc`` the gradient of each tensor (of a table: each row) is scaled before the rule sees it.
    Adam hardly notices a scale that stays the same, so there LARC only reweights a tensor's past gradients."""
    beta1: float = 0.9
    """Adam: decay of the mean of the gradients per update."""
    beta2: float = 0.999
    """Adam and RMSprop: decay of the mean of their squares per update; RMSprop is mostly used with 0.9."""
    epsilon: float = 1e-8
    """Adam and RMSprop: added to the root of the mean square."""
    momentum: float = 0.9
    """SGD: decay of the sum of the gradients per update; 0 for none."""
    nesterov: bool = True
    """SGD: Nesterov's momentum."""
    weight_decay: float = 0.0
    """Multiple of the weights that is added to the gradient (an L2 penalty, not AdamW's decoupled decay), before LARC
    scales it; a row of a table decays only when it is touched."""
    larc_coefficient: float = 0.002
    """LARC: length of an update relative to the weights, times the learning rate where ``larc_clips`` is false."""
    larc_clips: bool = True
    """LARC: whether the local rate only ever lowers the learning rate, or replaces a factor of it."""

    @property
    def num_moments(self) -> int:
        """Tensors of a parameter's size that its state needs."""
        return int(self.has_mean) + int(self.has_square)

    @property
    def has_mean(self) -> bool:
        """Whether its state has a mean or sum of gradients."""
        return self.kind.startswith("adam") or (self.kind.startswith("sgd") and self.momentum > 0)

    @property
    def has_square(self) -> bool:
        """Whether its state has a mean of squared gradients."""
        return not self.kind.startswith("sgd")

    def _problems(self) -> list[str]:
        problems = [
            f"`{name}` must lie in [0, 1); got {getattr(self, name)!r}"
            for name in ("beta1", "beta2", "momentum")
            if not 0.0 <= getattr(self, name) < 1.0
        ]
        problems += [
            f"`{name}` must be positive; got {getattr(self, name)!r}"
            for name in ("epsilon", "larc_coefficient")
            if not 0.0 < getattr(self, name) < math.inf
        ]
        if not 0.0 <= self.weight_decay < math.inf:
            problems.append(f"`weight_decay` must not be negative; got {self.weight_decay!r}")
        return problems


@dataclasses.dataclass(slots=True)
class _State:
    """What is remembered of one parameter."""

    mean: Tensor | None
    """Adam's first moment or SGD's momentum."""
    square: Tensor | None
    steps: int | Tensor
    """Updates so far; one number for each row of a table, in float32 as the update wants them."""
    views: dict[int, tuple[Tensor, ...]] = dataclasses.field(default_factory=dict)
    """Weights, updates and moments of rows that were touched before."""
    viewed: int = 0
    """Address of the weights that the views belong to."""


@dataclasses.dataclass(slots=True)
class _Batch:
    """Tensors of one device and type that are updated by one call."""

    gradients: list[Tensor] = dataclasses.field(default_factory=list)
    weights: list[Tensor] = dataclasses.field(default_factory=list)
    steps: list[Tensor] = dataclasses.field(default_factory=list)
    means: list[Tensor] = dataclasses.field(default_factory=list)
    squares: list[Tensor] = dataclasses.field(default_factory=list)

    @property
    def updated(self) -> tuple[list[Tensor], ...]:
        """Everything but the gradients; a rule without moments leaves the last lists empty."""
        return self.weights, self.steps, self.means, self.squares


class Optimizer:
    """Update the parameters of a network from their gradients; same inputs give the same bits.

    Parameters without a gradient are left alone. Parameters may appear and grow by rows between steps: new rows start
    from nothing. A parameter that has grown is treated by rows from then on.

    Parameters
    ----------
    network
        Its parameters, by name.
    config
        Kind and constants; Adam by default.

    Examples
    --------
    >>> table = nn.Embedding(3, 2, sparse=True)
    >>> _ = table.weight.data.fill_(1.0)
    >>> optimizer = Optimizer(table)
    >>> table(torch.tensor([1, 1])).sum().backward()
    >>> optimizer.step(rate=0.5)
    >>> table.weight[:, 0].detach().round(decimals=3)
    tensor([1.0000, 0.5000, 1.0000])
    >>> optimizer.state_tensors()["weight/steps"]
    tensor([0., 1., 0.])
    """

    def __init__(self, network: nn.Module, config: OptimizerConfig | None = None) -> None:
        self.network = network
        self.config = config or OptimizerConfig()
        self._is_adam = self.config.kind.startswith("adam")
        self._has_larc = self.config.kind.endswith("larc")
        self._states: dict[str, _State] = {}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update every parameter that has a gradient; sparse gradients are coalesced in place.

        Parameters
        ----------
        rate
            Learning rate.

        Raises
        ------
        InvalidInputError
            When a parameter has changed other than by new rows.
        """
        batches: dict[tuple[torch.device, torch.dtype], _Batch] = defaultdict(_Batch)
        counts: dict[tuple[int, torch.device], Tensor] = {}  # most parameters have been updated equally often
        for name, parameter in self.network.named_parameters():
            gradient = parameter.grad
            if gradient is None:
                continue
            state = self._state(name, parameter, by_row=gradient.is_sparse)
            batch = batches[parameter.device, parameter.dtype]
            if isinstance(state.steps, Tensor):
                self._add_rows(batch, name, parameter, state)
                continue
            state.steps += 1
            count = counts.get((state.steps, parameter.device))
            if count is None:
                count = torch.full((), float(state.steps), device=parameter.device)
                counts[state.steps, parameter.device] = count
            if gradient.stride() != parameter.stride():  # the fused updates walk through memory
                gradient = torch.empty_like(parameter).copy_(gradient)
            batch.gradients.append(gradient)
            for held, found in zip(batch.updated, (parameter, count, state.mean, state.square), strict=True):
                if found is not None:
                    held.append(found)
        for batch in batches.values():
            if batch.weights:
                self._update(batch, rate)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return moments and numbers of updates as ``name/mean``, ``name/square`` and ``name/steps``.

        On a processor the moments share memory with the optimizer: write them out before the next step.
        """
        tensors = {}
        for name, parameter in self.network.named_parameters():
            if name in self._states:
                state = self._state(name, parameter, by_row=False)
                found = {"mean": state.mean, "square": state.square, "steps": torch.as_tensor(state.steps)}
                tensors.update({f"{name}/{kind}": x.cpu().contiguous() for kind, x in found.items() if x is not None})
        return tensors

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state_tensors` returned; the steps that follow give the same bits.

        Raises
        ------
        CheckpointMismatchError
            When a name, a shape or the kind of the optimizer does not fit.
        """
        parameters = dict(self.network.named_parameters())
        found: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for key, tensor in tensors.items():
            name, _, kind = key.rpartition("/")
            parameter = parameters.get(name)
            if parameter is None or not _is_state_of(parameter, kind, tensor):
                message = f"The optimizer state {key!r} does not fit the network; restore the checkpoint as written."
                raise CheckpointMismatchError(message, name=key)
            found[name][kind] = tensor
        held = {"steps": True, "mean": self.config.has_mean, "square": self.config.has_square}
        needed = {kind for kind, is_held in held.items() if is_held}
        for name, kinds in found.items():
            if set(kinds) != needed:
                message = (
                    f"The optimizer state of {name!r} has {', '.join(sorted(kinds))}; {self.config.kind!r} needs "
                    f"{', '.join(sorted(needed))}. Continue with the optimizer that began the training."
                )
                raise CheckpointMismatchError(message, name=name)
        self._states = {name: _restored(parameters[name], kinds) for name, kinds in found.items()}

    def _state(self, name: str, parameter: nn.Parameter, *, by_row: bool) -> _State:
        """Return the state of a parameter, made, extended or moved where needed."""
        state = self._states.get(name)
        if state is None:
            mean = _zeros(name, parameter) if self.config.has_mean else None
            square = _zeros(name, parameter) if self.config.has_square else None
            state = self._states[name] = _State(mean, square, 0)
        steps = state.steps
        moment = state.square if state.mean is None else state.mean
        if moment is not None and not _is_alike(moment, parameter):
            by_row = by_row or moment.shape != parameter.shape
            state.mean = None if state.mean is None else _extended(name, state.mean, parameter)
            state.square = None if state.square is None else _extended(name, state.square, parameter)
            state.views.clear()  # they would keep the old tensors alive until the table is touched again
        if by_row and isinstance(steps, int):
            num_rows = len(parameter) if moment is None else len(moment)
            steps = state.steps = torch.full((num_rows,), float(steps), device=parameter.device)
        if isinstance(steps, Tensor) and (len(steps) < len(parameter) or steps.device != parameter.device):
            state.steps = torch.zeros(len(parameter), device=parameter.device)
            state.steps[: len(steps)] = steps
            state.views.clear()
        return state

    def _add_rows(self, batch: _Batch, name: str, table: nn.Parameter, state: _State) -> None:
        """Put the touched rows of a table into a batch, each as a tensor of its own."""
        if not table.is_contiguous():
            message = f"The rows of the table {name!r} do not lie one after another; make it contiguous."
            raise InvalidInputError(message, name=name)
        assert isinstance(state.steps, Tensor)
        rows, gradients = touched_rows(table)
        state.steps.index_add_(0, rows, torch.ones(len(rows), device=rows.device))
        if state.viewed != table.data_ptr() or len(state.views) > MAX_VIEWS:
            state.views.clear()
            state.viewed = table.data_ptr()
        pairs = zip(batch.updated, (table, state.steps, state.mean, state.square), strict=True)
        lists, stacked = zip(*((held, x) for held, x in pairs if x is not None), strict=True)
        views = []
        for row in rows.tolist():
            view = state.views.get(row)
            if view is None:
                view = state.views[row] = tuple(x[row] for x in stacked)
            views.append(view)
        batch.gradients += gradients.contiguous().unbind()
        for held, found in zip(lists, zip(*views, strict=True), strict=bool(views)):
            held += found

    def _update(self, batch: _Batch, rate: float) -> None:
        """Update tensors in place, together."""
        config = self.config
        gradients, weight_decay = batch.gradients, config.weight_decay
        if self._has_larc:
            trust = self._trust(batch, rate)
            if weight_decay:
                gradients = list(torch._foreach_add(gradients, batch.weights, alpha=weight_decay))
                weight_decay = 0.0
            gradients = list(torch._foreach_mul(gradients, trust))
        if self._is_adam:
            torch._fused_adam_(
                batch.weights,
                gradients,
                batch.means,
                batch.squares,
                [],
                batch.steps,
                lr=rate,
                beta1=config.beta1,
                beta2=config.beta2,
                weight_decay=weight_decay,
                eps=config.epsilon,
                amsgrad=False,
                maximize=False,
            )
        elif self.config.kind == "rmsprop":
            if weight_decay:
                gradients = list(torch._foreach_add(gradients, batch.weights, alpha=weight_decay))
            torch._foreach_mul_(batch.squares, config.beta2)
            torch._foreach_addcmul_(batch.squares, gradients, gradients, value=1.0 - config.beta2)
            roots = torch._foreach_sqrt(batch.squares)
            torch._foreach_add_(roots, config.epsilon)
            torch._foreach_addcdiv_(batch.weights, gradients, roots, value=-rate)
        else:
            torch._fused_sgd_(
                batch.weights,
                gradients,
                batch.means,
                weight_decay=weight_decay,
                momentum=config.momentum,
                lr=rate,
                dampening=0.0,
                nesterov=config.nesterov and config.momentum > 0,
                maximize=False,
                is_first_step=False,
            )

    def _trust(self, batch: _Batch, rate: float) -> list[float]:
        """Return LARC's factors of the gradients, one per tensor."""
        config = self.config
        weight_norms = torch.stack(torch._foreach_norm(batch.weights))
        gradient_norms = torch.stack(torch._foreach_norm(batch.gradients))
        scaled = gradient_norms + config.weight_decay * weight_norms + LARC_EPSILON
        local = config.larc_coefficient * weight_norms / scaled
        local = torch.where((weight_norms > 0) & (gradient_norms > 0), local, LARC_FALLBACK)
        factors: list[float] = ((local / rate).clamp(max=1.0) if config.larc_clips else local).tolist()
        return factors


def _is_alike(moment: Tensor, parameter: Tensor) -> bool:
    return (
        moment.shape == parameter.shape and moment.stride() == parameter.stride() and moment.device == parameter.device
    )


def _extended(name: str, moment: Tensor, parameter: Tensor) -> Tensor:
    """Return a moment with zeros for new rows, laid out as the parameter."""
    if moment.shape[1:] != parameter.shape[1:] or moment.shape[:1] > parameter.shape[:1]:
        message = (
            f"The parameter {name!r} has shape {tuple(parameter.shape)}; its optimizer state has "
            f"{tuple(moment.shape)}. A parameter may only gain rows while it is trained."
        )
        raise InvalidInputError(message, name=name)
    grown = _zeros(name, parameter)
    old = grown[: len(moment)] if moment.dim() else grown
    old.copy_(moment)
    return grown


def _zeros(name: str, parameter: Tensor) -> Tensor:
    """Return zeros that lie in memory as the parameter does."""
    zeros = torch.zeros_like(parameter)
    if zeros.stride() != parameter.stride():
        message = f"The parameter {name!r} is a view with gaps in memory; make it contiguous before it is trained."
        raise InvalidInputError(message, name=name)
    return zeros


def _is_state_of(parameter: Tensor, kind: str, tensor: Tensor) -> bool:
    if kind == "steps":
        return tensor.dim() == 0 or tensor.shape == parameter.shape[:1]
    return tensor.shape == parameter.shape


def _restored(parameter: nn.Parameter, found: Mapping[str, Tensor]) -> _State:
    moments = {kind: torch.zeros_like(parameter).copy_(x) for kind, x in found.items() if kind != "steps"}
    steps = found["steps"]
    counts = steps.to(parameter.device, copy=True) if steps.dim() else int(steps)
    return _State(moments.get("mean"), moments.get("square"), counts)
