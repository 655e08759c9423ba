"""Inference in fewer bits: bfloat16, or eight-bit integers for weights and activations.

With bfloat16, layers compute in it and what needs more digits does not (`torch.autocast`). With eight bits, the linear
and convolutional layers that generation passes through compute in integers, on processors only: weights have a scale
for each output channel; activations have one scale for each layer, taken once from a few images generated within the
trained range, so that a row does not depend on its neighbors in a batch. Everything else stays float32.

PyTorch is retiring its own quantized tensors without another public way to integer convolutions so far; when they are
gone, eight bits are refused with a sentence.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from tracestore.errors import InvalidInputError
from tracestore.surrogates.model import GenerativeModel

__all__ = ["Precision", "at_bfloat16", "quantized_model", "require_precision"]

Precision = Literal["float32", "bfloat16", "int8"]

LEAST_INPUTS = 8
"""Inputs of a layer from which it is quantized: labels and other few numbers keep their digits."""


def require_precision(precision: str) -> None:
    """Refuse a precision that there is none of.

    Raises
    ------
    InvalidInputError
        When the name is unknown.
    """
    if precision not in get_args(Precision):
        message = f"`precision` must be one of {', '.join(map(repr, get_args(Precision)))}; got {precision!r}."
        raise InvalidInputError(message, argument="precision")


@contextmanager
def at_bfloat16(model: GenerativeModel) -> Iterator[None]:
    """Let the layers of a model compute in bfloat16 while the block lasts.

    Parameters
    ----------
    model
        Not changed.
    """
    with torch.autocast(model.device.type, torch.bfloat16):
        yield


def quantized_model(model: GenerativeModel, labels_NL: Tensor, noise_NZ: Tensor) -> GenerativeModel:
    """Return a copy of a model whose layers compute with eight-bit weights and activations.

    Parameters
    ----------
    model
        On a processor; not changed.
    labels_NL, noise_NZ
        Generations that cover what activations can be.

    Raises
    ------
    InvalidInputError
        When the model is on another device, or this PyTorch has no integer convolutions.
    """
    if model.device.type != "cpu":
        message = (
            f"`precision='int8'` runs on processors, and the surrogate is on {model.device}; use 'bfloat16' there, or "
            "move it with `surrogate.to('cpu')`."
        )
        raise InvalidInputError(message, device=str(model.device))
    twin = copy.deepcopy(model).eval()
    seen = _seen_ranges(twin, labels_NL, noise_NZ)
    for name, (into, out_of) in seen.items():
        parent_name, _, last = name.rpartition(".")
        layer = cast("nn.Linear | nn.Conv3d", twin.get_submodule(name))
        setattr(twin.get_submodule(parent_name), last, _IntegerLayer(layer, into, out_of))
    return twin


Range = tuple[float, float]


def _seen_ranges(model: GenerativeModel, labels_NL: Tensor, noise_NZ: Tensor) -> dict[str, tuple[Range, Range]]:
    """Return the lowest and highest input and output of every layer that generation passes through."""
    seen: dict[str, tuple[Range, Range]] = {}
    hooks = []

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            into, out_of = seen.get(name, ((0.0, 0.0), (0.0, 0.0)))
            seen[name] = (_widened(into, inputs[0]), _widened(out_of, output))

        return note

    for name, layer in model.named_modules():
        is_wide = isinstance(layer, nn.Conv3d) or (isinstance(layer, nn.Linear) and layer.in_features >= LEAST_INPUTS)
        if is_wide and not name.startswith(model.precise_layers):
            hooks.append(layer.register_forward_hook(watch(name)))
    with torch.inference_mode():
        model.generate(labels_NL, noise_NZ)
    for hook in hooks:
        hook.remove()
    return seen


def _widened(seen: Range, values: Tensor) -> Range:
    low, high = (float(value) for value in values.aminmax())
    return min(seen[0], low), max(seen[1], high)


class _IntegerLayer(nn.Module):
    """A linear or convolutional layer in integers, with floats at both ends."""

    def __init__(self, layer: nn.Linear | nn.Conv3d, into: Range, out_of: Range) -> None:
        super().__init__()
        self.scale, self.zero = _grid(into)
        with _retiring():
            weight = layer.weight.detach()
            scales = weight.flatten(1).abs().amax(1).clamp(min=1e-12).double() / 127.0
            zeros = torch.zeros(len(scales), dtype=torch.int64)
            integers = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
            twin: Any = _integer_twin(layer)
            twin.set_weight_bias(integers, None if layer.bias is None else layer.bias.detach())
            twin.scale, twin.zero_point = _grid(out_of)
            self.layer = twin

    def forward(self, inputs: Tensor) -> Tensor:
        with _retiring():
            integers = torch.quantize_per_tensor(inputs, self.scale, self.zero, torch.quint8)
            found: Tensor = self.layer(integers).dequantize()
        return found


def _grid(seen: Range) -> tuple[float, int]:
    """Return scale and zero of 256 values, zero among them exactly."""
    low, high = min(seen[0], 0.0), max(seen[1], 0.0)
    scale = max(high - low, 1e-12) / 255.0
    return scale, round(-low / scale)


def _integer_twin(layer: nn.Linear | nn.Conv3d) -> nn.Module:
    try:
        from torch.ao.nn import quantized
    except ImportError as error:
        message = "`precision='int8'` needs a PyTorch with `torch.ao.nn.quantized`; this one has none, use 'bfloat16'."
        raise InvalidInputError(message, torch=torch.__version__) from error
    kinds: Any = quantized  # its classes have no types
    twin: nn.Module
    if isinstance(layer, nn.Linear):
        twin = kinds.Linear(layer.in_features, layer.out_features, bias_=layer.bias is not None)
    else:
        twin = kinds.Conv3d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            bias=layer.bias is not None,
        )
    return twin


@contextmanager
def _retiring() -> Iterator[None]:
    """Silence the notices of quantized tensors; the module docstring says what is known of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, message=".*quantized tensor creation")
        warnings.filterwarnings("ignore", category=UserWarning, message=".*TypedStorage is deprecated")
        yield
