"""Random operations of torch: what each is given, where its result goes, and what is refused.

Every operation has a function that reads its arguments and returns the draw and the tensor to be filled with it. Must
not know how operations are intercepted, nor who draws.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from tracestore._extras import extra
from tracestore.errors import SimulatorProtocolError

with extra("train"):
    import torch

from tracestore.hijacking.torch_priors import (
    FILLING,
    FROM_PARAMETERS,
    Draw,
    Limits,
    as_array,
    bernoulli,
    integers,
    normal,
    permutation,
    uniform,
)

__all__ = ["Operation", "Result", "bind", "find_operation", "refuse", "uses_no_randomness"]

MAX_KEPT = 1024
"""Most elements of a draw whose prior is kept for the next one with the same parameters."""

Given = dict[str, Any]
"""Arguments by the names of the operation's schema, defaults filled in."""


class Result(NamedTuple):
    """A draw and the tensor that it fills."""

    draw: Draw
    target: torch.Tensor
    answer: Callable[[torch.Tensor], Any] | None = None
    """What the operation returns, when that is not the filled tensor."""


Operation = Callable[[Given], Result]


def bind(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Given:  # noqa: ANN401  # torch.ops has no type
    """Arguments of a call by name."""
    given = {}
    for place, (name, default) in enumerate(_arguments(function)):  # in this order, whatever was given by name
        if place < len(args):
            given[name] = args[place]
        elif name in kwargs:
            given[name] = kwargs[name]
        elif default is not _REQUIRED:
            given[name] = default
    return given


@cache
def _arguments(function: Any) -> list[tuple[str, object]]:  # noqa: ANN401
    """Names and defaults of an operation's arguments; reading them from torch takes longer than a draw."""
    return [
        (argument.name, argument.default_value if argument.has_default_value() else _REQUIRED)
        for argument in function._schema.arguments
    ]


_REQUIRED = object()


def find_operation(name: str) -> Operation | None:
    """How an operation is answered, by its name without namespace and overload; None when it is not known."""
    return _OPERATIONS.get(name)


def refuse(name: str, why: str) -> SimulatorProtocolError:
    """Make the error that says that an operation cannot be recorded."""
    message = (
        f"The operation {name} of torch cannot be recorded: {why}; draw with torch.distributions or with another "
        "operation there, or with `tracestore.sample`."
    )
    return SimulatorProtocolError(message, operation=name)


def uses_no_randomness(given: Given) -> bool | None:
    """Whether an unknown operation is sure to use no random numbers; None when its arguments do not tell."""
    for name in ("dropout_p", "dropout", "p"):
        if isinstance(given.get(name), float):
            return given[name] == 0.0 or given.get("train", True) is False
    return True if given.get("training") is False or given.get("train") is False else None


def _limits(target: torch.Tensor) -> Limits:
    return _limits_of(target.dtype)


@cache
def _limits_of(dtype: torch.dtype) -> Limits:
    if not dtype.is_floating_point:
        return Limits(2.0**-53, 0.0)
    info = torch.finfo(dtype)
    return Limits(info.eps, info.tiny)


def _make(make: Callable[..., Draw], target: torch.Tensor, *parameters: object) -> Draw:
    """Make a draw; programs make many small ones with the same numbers for parameters, which are kept."""
    if target.numel() <= MAX_KEPT and all(type(one) in (float, int) for one in parameters):
        return _kept(make, target.shape, _limits(target), parameters)
    return make(tuple(target.shape), _limits(target), *parameters)


@lru_cache(maxsize=256)
def _kept(make: Callable[..., Draw], shape: torch.Size, limits: Limits, parameters: tuple[object, ...]) -> Draw:
    return make(tuple(shape), limits, *parameters)


def _filling(name: str, parameters: Sequence[str]) -> tuple[Operation, Operation]:
    """Make the operation that fills its tensor, and the one that fills a new one like it."""
    make = FILLING[name]

    def in_place(given: Given) -> Result:
        target = given["self"]
        return Result(_make(make, target, *[given[one] for one in parameters]), target)

    def new(given: Given) -> Result:
        return in_place({**given, "self": torch.empty_like(given["self"])})

    return in_place, new


def _bernoulli(given: Given) -> Result:
    target = torch.empty_like(given["self"])
    return Result(_make(bernoulli, target, given.get("p", given["self"])), target)


def _normal(given: Given) -> Result:
    mean, std, size = given["mean"], given["std"], given.get("size")
    tensors = [one for one in (mean, std) if isinstance(one, torch.Tensor)]
    if size is not None:
        target = _empty(given, size)
    else:
        shape = _common_shape(tensors)
        target = torch.empty(shape, dtype=tensors[0].dtype, device=tensors[0].device)
    return Result(_make(normal, target, mean, std), target)


def _empty(given: Given, size: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
    return torch.empty(
        tuple(size),
        # a default of the schema is a number
        dtype=given["dtype"] if isinstance(given.get("dtype"), torch.dtype) else dtype,
        layout=given.get("layout"),
        device=given.get("device"),
        pin_memory=given.get("pin_memory"),
    )


def _target(given: Given, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Make an empty result, of a size or like another tensor."""
    if "self" in given:
        options = {name: given[name] for name in ("dtype", "layout", "device", "memory_format") if given.get(name)}
        return torch.empty_like(given["self"], **options)
    return _empty(given, given["size"], dtype)


def _rand(given: Given) -> Result:
    target = _target(given)
    return Result(_make(uniform, target), target)


def _randn(given: Given) -> Result:
    target = _target(given)
    return Result(_make(normal, target), target)


def _randint(given: Given) -> Result:
    target = _target(given, torch.int64)
    return Result(integers(tuple(target.shape), int(given.get("low", 0)), int(given["high"])), target)


def _randperm(given: Given) -> Result:
    target = _empty(given, (given["n"],), torch.int64)
    return Result(permutation(int(given["n"])), target)


def _random(given: Given) -> Result:
    target = given["self"]
    low, high = int(given.get("from") or 0), given.get("to")
    if high is None:
        if target.dtype.is_floating_point:
            high = int(2 / torch.finfo(target.dtype).eps) + 1
        else:
            high = 2 if target.dtype is torch.bool else torch.iinfo(target.dtype).max + 1
    return Result(integers(tuple(target.shape), low, int(high)), target)


def _from_parameters(name: str) -> Operation:
    make = FROM_PARAMETERS[name]

    def operation(given: Given) -> Result:
        first = next(one for one in given.values() if isinstance(one, torch.Tensor))
        rest = {key: one for key, one in given.items() if key not in ("generator", "out")}
        arguments = [as_array(one) if isinstance(one, torch.Tensor) else one for one in rest.values()]
        draw = make(_limits(first), *arguments)
        if name == "multinomial":
            shape, dtype = (*first.shape[:-1], given["num_samples"]), torch.int64
        else:
            shape, dtype = _common_shape(rest.values()), first.dtype
        return Result(draw, torch.empty(shape, dtype=dtype, device=first.device))

    return operation


def _common_shape(values: Iterable[object]) -> torch.Size:
    # that of torch imports a computer algebra system at its first call
    return torch.Size(np.broadcast_shapes(*(tuple(one.shape) for one in values if isinstance(one, torch.Tensor))))


def _native_dropout(given: Given) -> Result:
    source, p = given["input"], float(given["p"])
    mask = torch.empty_like(source, dtype=torch.bool)
    is_kept = 1.0 if given["train"] is False else 1.0 - p
    scale = 0.0 if is_kept == 0.0 else 1.0 / is_kept
    made = bernoulli(tuple(mask.shape), _limits(source), is_kept)
    return Result(made, mask, lambda kept: (source * kept * scale, kept))


_OPERATIONS: dict[str, Operation] = {
    "bernoulli": _bernoulli,
    "native_dropout": _native_dropout,
    "normal": _normal,
    "rand": _rand,
    "rand_like": _rand,
    "randint": _randint,
    "randint_like": _randint,
    "randn": _randn,
    "randn_like": _randn,
    "random_": _random,
    "randperm": _randperm,
    **{name: _from_parameters(name) for name in FROM_PARAMETERS},
}
for _name, _parameters in {
    "cauchy": ("median", "sigma"),
    "exponential": ("lambd",),
    "geometric": ("p",),
    "log_normal": ("mean", "std"),
    "uniform": ("from", "to"),
}.items():
    _OPERATIONS[_name + "_"], _OPERATIONS[_name] = _filling(_name, _parameters)
_OPERATIONS["normal_"] = _filling("normal", ("mean", "std"))[0]
_OPERATIONS["bernoulli_"] = _filling("bernoulli", ("p",))[0]
