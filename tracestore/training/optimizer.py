"""Adam over parameters that grow, and its learning rate."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tracestore.errors import CheckpointMismatchError
from tracestore.training.config import TrainConfig
from tracestore.training.tables import Growth

__all__ = ["follow_growth", "learning_rate", "load_optimizer_tensors", "make_optimizer", "optimizer_tensors"]


def make_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Adam:
    """Build Adam for all parameters of a network."""
    return torch.optim.Adam(network.parameters(), lr=config.learning_rate)


def learning_rate(config: TrainConfig, step: int, num_steps: int) -> float:
    """Return the learning rate of a step.

    Parameters
    ----------
    config
        Schedule, highest and final rate, share of the warm-up.
    step
        Step, from 0.
    num_steps
        Steps of the whole training.

    Examples
    --------
    >>> config = TrainConfig(learning_rate=1.0, final_learning_rate=0.1, warmup_fraction=0.2)
    >>> [round(learning_rate(config, step, 10), 3) for step in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.55, 0.1]
    """
    warmup = int(config.warmup_fraction * num_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = min((step - warmup) / max(num_steps - warmup, 1), 1.0)
    share = {
        "constant": 1.0,
        "polynomial": (1.0 - progress) ** 2,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[config.schedule]
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * share


def follow_growth(optimizer: torch.optim.Adam, growth: Growth) -> None:
    """Make an optimizer continue with grown parameters; moments of the new rows start from zero.

    Parameters
    ----------
    optimizer
        Holds the parameters before the growth.
    growth
        What was replaced by what; replacements of parameters that it does not hold are added.
    """
    (group,) = optimizer.param_groups
    held = {id(parameter): place for place, parameter in enumerate(group["params"])}
    for old, new in growth.items():
        if id(old) not in held:
            group["params"].append(new)
            continue
        group["params"][held[id(old)]] = new
        state = optimizer.state.pop(old, {})
        if state:
            grown = torch.zeros_like(new)
            optimizer.state[new] = {
                name: _extend(tensor, grown) if tensor.shape == old.shape else tensor for name, tensor in state.items()
            }


def optimizer_tensors(optimizer: torch.optim.Adam, network: nn.Module) -> dict[str, Tensor]:
    """Return the moments and step counts under the names of their parameters."""
    return {
        f"{name}/{key}": tensor.detach().cpu().contiguous()
        for name, parameter in network.named_parameters()
        for key, tensor in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Adam, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer the moments and step counts that `optimizer_tensors` returned.

    Raises
    ------
    CheckpointMismatchError
        When a name or shape does not fit the network.
    """
    parameters = dict(network.named_parameters())
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or (moment != "step" and tensor.shape != parameter.shape):
            message = f"The optimizer state {key!r} does not fit the network; restore the checkpoint as it was written."
            raise CheckpointMismatchError(message, name=key)
        optimizer.state[parameter][moment] = tensor if moment == "step" else tensor.to(parameter.device)


def _extend(tensor: Tensor, grown: Tensor) -> Tensor:
    grown = grown.clone()
    grown[: len(tensor)] = tensor
    return grown
