"""The updates of one training step, phase by phase: parameters with an optimizer and averages of their own.

A generator and its discriminator are updated one after the other, so each needs gradients and moments by itself.
Nothing here knows images or stores.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from tracestore.errors import InvalidInputError
from tracestore.training.averaging import WeightAverage
from tracestore.training.communicator import Communicator
from tracestore.training.gradient_sync import GradientSync
from tracestore.training.gradients import drop_gradients, gradient_norm
from tracestore.training.learner import TensorState
from tracestore.training.optimizers import Optimizer, OptimizerConfig

__all__ = ["JointState", "Phase", "make_phases"]


class Phase:
    """What one update of a step changes, and how.

    Parameters
    ----------
    name
        Name of the phase.
    parameters
        Parameters of the model that it updates, by name; all others stay as they are.
    others
        The other parameters, which need no gradients meanwhile.
    communicator
        The ranks.
    optimizer
        Update rule.
    average
        Decay of the averages of the weights; None for none.

    Examples
    --------
    >>> from tracestore.training.communicator import SoleProcess
    >>> one, two = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    >>> phase = Phase("first", {"one": one}, [two], SoleProcess(), OptimizerConfig(), None)
    >>> with phase.entered():
    ...     phase.backward((one * two).sum())
    >>> round(float(phase.update(num_traces=1, rate=0.5, longest=10.0)), 4), one.detach().round(decimals=4), two.grad
    (1.4142, tensor([0.5000, 0.5000]), None)
    """

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, nn.Parameter],
        others: Sequence[nn.Parameter],
        communicator: Communicator,
        optimizer: OptimizerConfig,
        average: float | None,
    ) -> None:
        self.name = name
        self.parameters, self.others = list(parameters.values()), list(others)
        view = _View(parameters)
        self.optimizer = Optimizer(view, optimizer)
        self.average = None if average is None else WeightAverage(view, average)
        self.sync = GradientSync(view, communicator)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Let only the parameters of the phase ask for gradients, which begin with none."""
        drop_gradients(self.parameters)
        self.sync.begin({})
        asking = [parameter for parameter in self.others if parameter.requires_grad]
        for parameter in asking:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in asking:
                parameter.requires_grad_(True)

    def backward(self, loss: Tensor) -> None:
        """Differentiate the sum of the losses of this rank's traces; sums over ranks begin meanwhile."""
        self.sync.backward(loss)

    @torch.no_grad()
    def update(self, num_traces: int, rate: float, longest: float) -> Tensor:
        """Take a step along the gradient of the mean loss, cut to a length; an accelerator is not waited for.

        Parameters
        ----------
        num_traces
            Traces of the step, all ranks together.
        rate
            Learning rate.
        longest
            Norm to which longer gradients are cut.

        Returns
        -------
        Tensor
            The norm of the gradient before that.
        """
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = gradient_norm(self.parameters) / num_traces
        if gradients:
            factor = (longest / norm.clamp(min=longest)).to(gradients[0].dtype) / num_traces
            torch._foreach_mul_(gradients, factor.to(gradients[0].device))
        if self.average is not None:
            self.average.before_step()
        self.optimizer.step(rate)
        return norm


class JointState:
    """The states of several optimizers, or of several averages, as one set of tensors.

    Parameters
    ----------
    states
        By the name of their phase.
    """

    def __init__(self, states: Mapping[str, TensorState]) -> None:
        self._states = states

    def state_tensors(self) -> dict[str, Tensor]:
        """Return all tensors; names begin with that of the phase."""
        return {
            f"{phase}:{name}": tensor
            for phase, state in self._states.items()
            for name, tensor in state.state_tensors().items()
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state_tensors` returned."""
        for phase, state in self._states.items():
            start = f"{phase}:"
            state.load_state_tensors(
                {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
            )


def make_phases(
    named: Mapping[str, nn.Parameter],
    updated: Mapping[str, Sequence[nn.Parameter]],
    communicator: Communicator,
    optimizer: OptimizerConfig,
    average: float | None,
) -> list[Phase]:
    """Give each phase what it updates.

    Parameters
    ----------
    named
        All parameters of the model.
    updated
        Those that each phase updates, by the name of the phase, in order.
    communicator
        The ranks.
    optimizer
        Update rule.
    average
        Decay of averages of the weights.

    Raises
    ------
    InvalidInputError
        When two phases update the same parameter, or one updates none: averages and moments would count it twice.
    """
    seen: dict[int, str] = {}
    phases = []
    for phase, parameters in updated.items():
        chosen = {id(parameter) for parameter in parameters}
        both = {seen[one] for one in chosen if one in seen}
        if both or not chosen:
            problem = f"shares parameters with {', '.join(sorted(both))}" if both else "has no parameters"
            message = f"The phase {phase!r} {problem}; every phase must update parameters of its own."
            raise InvalidInputError(message, phase=phase)
        seen |= dict.fromkeys(chosen, phase)
        mine = {name: parameter for name, parameter in named.items() if id(parameter) in chosen}
        others = [parameter for parameter in named.values() if id(parameter) not in chosen]
        phases.append(Phase(phase, mine, others, communicator, optimizer, average))
    return phases


class _View(nn.Module):
    """Some parameters of a model under their names; the model itself has them."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self._named = dict(parameters)

    def named_parameters(
        self,
        prefix: str = "",
        recurse: bool = True,  # noqa: FBT001, FBT002  # torch's signature
        remove_duplicate: bool = True,  # noqa: FBT001, FBT002
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters; nothing here has another prefix."""
        yield from self._named.items()
