"""What carries the history of a trace from site to site: the choice of core, and the core that carries nothing.

Shapes: P sites of a packed sequence, B traces at one step, I inputs, H output.
"""

import itertools
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from tracestore.networks.config import NetworkConfig
from tracestore.networks.recurrent import RecurrentCore
from tracestore.networks.transformer import TransformerCore

__all__ = ["Core", "FeedforwardCore", "Memory", "make_core"]


class Memory(Protocol):
    """What a core remembers of running simulators, one slot each."""

    def restart(self, slot: int) -> None:
        """Put a slot at the start of a trace."""

    def save(self, slot: int) -> tuple[Tensor, ...]:
        """Return what `restore` needs to put a slot back to where it is now in its trace."""

    def restore(self, slot: int, saved: tuple[Tensor, ...]) -> None:
        """Put a slot back to where it was in this trace."""

    def advance(self, slots: Sequence[int], x_BI: Tensor) -> Tensor:
        """Advance distinct slots by one site; returns the outputs, shape ``(B, H)``."""


class Core(Protocol):
    """A module that turns the inputs at the sites of traces into what proposal heads read."""

    def __call__(self, x_PI: Tensor, batch_sizes: Tensor) -> Tensor:
        """Run over whole traces, packed step by step with the longest first; returns shape ``(P, H)``."""

    def memory(self, num_slots: int) -> Memory:
        """Return the memory of some running simulators, at their start."""


class FeedforwardCore(nn.Module):
    """Layers without history: a proposal depends on the observation and on where the trace is.

    Parameters
    ----------
    num_inputs, size
        Widths.
    num_layers
        Layers.

    Examples
    --------
    >>> import torch
    >>> FeedforwardCore(3, 5)(torch.ones(4, 3), torch.tensor([2, 2])).shape
    torch.Size([4, 5])
    """

    def __init__(self, num_inputs: int, size: int, num_layers: int = 1) -> None:
        super().__init__()
        widths = [num_inputs, *[size] * num_layers]
        self.layers = nn.Sequential(
            *(part for pair in itertools.pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU()))
        )

    def forward(self, x_PI: Tensor, batch_sizes: Tensor | None = None) -> Tensor:
        """Apply the layers to every site; returns shape ``(P, H)``."""
        outputs: Tensor = self.layers(x_PI)
        return outputs

    def memory(self, num_slots: int) -> "_NoMemory":
        """Return a memory that keeps nothing."""
        return _NoMemory(self)


class _NoMemory:
    def __init__(self, core: FeedforwardCore) -> None:
        self._core = core

    def restart(self, slot: int) -> None:
        """Do nothing."""

    def save(self, slot: int) -> tuple[Tensor, ...]:
        """Return nothing."""
        return ()

    def restore(self, slot: int, saved: tuple[Tensor, ...]) -> None:
        """Do nothing."""

    def advance(self, slots: Sequence[int], x_BI: Tensor) -> Tensor:
        """Apply the layers."""
        return self._core.forward(x_BI)


def make_core(config: NetworkConfig, num_inputs: int) -> RecurrentCore | TransformerCore | FeedforwardCore:
    """Build the core that a configuration asks for.

    Parameters
    ----------
    config
        Kind and sizes.
    num_inputs
        Width of the inputs.
    """
    if config.core == "feedforward":
        return FeedforwardCore(num_inputs, config.core_size, config.core_layers)
    if config.core == "transformer":
        return TransformerCore(num_inputs, config.core_size, config.core_layers, config.attention_heads)
    return RecurrentCore(config.core, num_inputs, config.core_size, config.core_layers)
