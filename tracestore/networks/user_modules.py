"""A user's own module as the embedding of an observation, and how it is told apart when a network is loaded.

Its weights are saved like all others; the module itself is code, which is never saved: it has to be given again.

Shapes: N traces, E embedding, W numbers that a module returns for a trace.
"""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from tracestore.errors import CheckpointMismatchError, InvalidInputError
from tracestore.networks.array_embeddings import ArrayEmbedding

__all__ = ["ModuleEmbedding", "ModuleRecord", "require_modules"]

TRIED_ROWS = (2, 3)
"""A module is tried on batches of these sizes; what follows the size is the batch axis."""


class ModuleEmbedding(ArrayEmbedding):
    """A user's module, then a linear layer with ReLU.

    Parameters
    ----------
    module
        Takes ``(N, *shape)`` and returns a floating-point tensor ``(N, ...)``.
    name
        Name of the observation.
    shape
        Its shape.
    size
        Width of the embedding.

    Raises
    ------
    InvalidInputError
        When it is not a module, or returns something else on zeros.

    Examples
    --------
    >>> embedding = ModuleEmbedding(nn.Identity(), "image", (10, 12), 8)
    >>> embedding(torch.zeros(3, 10, 12)).shape, embedding.last.in_features
    (torch.Size([3, 8]), 120)
    """

    def __init__(self, module: nn.Module, name: str, shape: Sequence[int], size: int) -> None:
        super().__init__(shape, size)
        width = _find_width(module, name, shape)
        self.module = module
        self.last = nn.Linear(width, size)

    def reduce(self, x: Tensor) -> Tensor:
        """Return observations as they are."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Embed standardized observations ``(N, *shape)``; returns ``(N, E)``."""
        found_NW = self.module(x).reshape(len(x), self.last.in_features)
        # a module may compute in half precision; autocast casts by itself
        return functional.relu(self.last(found_NW.to(self.last.weight.dtype)))


@dataclass(frozen=True, slots=True)
class ModuleRecord:
    """What is remembered of a user's module beside its weights, to tell whether it is given again.

    Attributes
    ----------
    class_name
        Qualified name of its class.
    description
        Its text form, which shows layers and their settings.
    shapes
        Shape of each tensor of its state.

    Examples
    --------
    >>> record = ModuleRecord.of(nn.Linear(2, 3))
    >>> record.shapes
    {'weight': (3, 2), 'bias': (3,)}
    >>> ModuleRecord.from_json(record.to_json()) == record
    True
    """

    class_name: str
    description: str
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Describe a module whose parameters all have a shape."""
        kind = type(module)
        description = re.sub(r"\b0x[0-9a-fA-F]+", "0x", repr(module))  # places in memory differ in every process
        shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        return cls(f"{kind.__module__}.{kind.__qualname__}", description, shapes)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return {"class": self.class_name, "description": self.description, "shapes": shapes}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Build a record from what `to_json` gave."""
        shapes = {name: tuple(shape) for name, shape in fields["shapes"].items()}
        return cls(fields["class"], fields["description"], shapes)

    def require_same(self, module: nn.Module, name: str) -> None:
        """Check that a module is like the one recorded.

        Parameters
        ----------
        module
            The module.
        name
            Name of the observation that it embeds.

        Raises
        ------
        CheckpointMismatchError
            When its class, its text form or the shapes of its tensors differ.
        """
        found = type(self).of(module)
        difference = self._difference(found)
        if difference:
            message = (
                f"The module for observation {name!r} is not like the one that the network was trained with, of class "
                f"{self.class_name}: {difference}. Give a module that is built as it was."
            )
            raise CheckpointMismatchError(message, name=name, class_name=self.class_name, difference=difference)

    def _difference(self, found: "ModuleRecord") -> str:
        # a class of a script belongs to `__main__` while the script runs, and to a module when another one imports it
        is_of_script = "__main__" in {self.class_name.split(".")[0], found.class_name.split(".")[0]}
        names = [
            record.class_name.rsplit(".", 1)[-1] if is_of_script else record.class_name for record in (self, found)
        ]
        if names[0] != names[1]:
            return f"given is one of class {found.class_name}"
        for key in sorted({*self.shapes, *found.shapes}):
            then, now = self.shapes.get(key), found.shapes.get(key)
            if then != now:
                return f"its tensor {key!r} has shape {now or 'absent'} instead of {then or 'absent'}"
        changes = difflib.ndiff(self.description.splitlines(), found.description.splitlines())
        first = next((line for line in changes if line[:2] in {"- ", "+ "}), "")
        return f"its text form differs in `{' '.join(first[2:].split())}`" if first else ""


def require_modules(
    saved: Mapping[str, Mapping[str, Any]],
    modules: Mapping[str, nn.Module] | None,
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Check that the modules which a saved network was trained with are given again.

    Parameters
    ----------
    saved
        `ModuleRecord.to_json` of each module, by the name of the observation.
    modules
        The modules that are given.
    shapes
        Shape of each named observation.

    Raises
    ------
    CheckpointMismatchError
        When one is missing, left over, or differs.
    InvalidInputError
        When one does not work on observations of this shape.
    """
    modules = {} if modules is None else modules
    for name in sorted({*saved, *modules}):
        record = ModuleRecord.from_json(saved[name]) if name in saved else None
        if record is None:
            message = (
                f"The network was trained without a module for observation {name!r}; given is one of class "
                f"{type(modules[name]).__qualname__}. Leave it out of `modules`."
            )
            raise CheckpointMismatchError(message, name=name)
        if name not in modules:
            message = (
                f"The network was trained with a module of class {record.class_name} for observation {name!r}, which "
                f"is not given. Build it as it was and give it as `modules={{{name!r}: ...}}`."
            )
            raise CheckpointMismatchError(message, name=name, class_name=record.class_name)
        _find_width(modules[name], name, shapes[name])  # gives lazy parameters their shapes
        record.require_same(modules[name], name)


@torch.no_grad()
def _find_width(module: object, name: str, shape: Sequence[int]) -> int:
    """Try a module on zeros, which gives lazy parameters their shapes, and return how many numbers a trace gets."""
    if not isinstance(module, nn.Module):
        message = f"The module for observation {name!r} must be a torch.nn.Module; got {type(module).__qualname__}."
        raise InvalidInputError(message, name=name)
    modes = [(part, part.training) for part in module.modules()]
    tensor = next(iter([*module.parameters(), *module.buffers()]), torch.empty(0))
    try:
        module.eval()
        with torch.random.fork_rng(devices=[]):  # whether a module draws numbers here must not change what follows
            found = [module(torch.zeros(num_rows, *shape, device=tensor.device)) for num_rows in TRIED_ROWS]
    except Exception as error:
        error.add_note(
            f"raised by the module for observation {name!r}, which was tried on zeros of shape (N, *{shape})"
        )
        raise
    finally:
        for part, is_training in modes:
            part.training = is_training
    described = f"The module of class {type(module).__qualname__} for observation {name!r}"
    problem = _problem(found)
    if problem:
        message = (
            f"{described} must return a finite floating-point tensor of shape (N, ...); for zeros of shape "
            f"{(TRIED_ROWS[0], *shape)} it returned {problem}."
        )
        raise InvalidInputError(message, name=name, found=problem)
    loose = [key for key, value in module.state_dict().items() if not isinstance(value, Tensor)]
    if loose:
        message = f"{described} keeps state that is not a tensor and cannot be saved: {', '.join(loose)}; use buffers."
        raise InvalidInputError(message, name=name, keys=tuple(loose))
    return math.prod(found[0].shape[1:])


def _problem(found: Sequence[object]) -> str:
    first = found[0]
    tensors = [output for output in found if isinstance(output, Tensor)]
    if not isinstance(first, Tensor) or len(tensors) < len(found):
        return f"an object of class {type(first).__qualname__}"
    if not first.is_floating_point():
        return f"numbers of type {first.dtype}"
    shapes = [tuple(output.shape) for output in tensors]
    if shapes != [(num_rows, *shapes[0][1:]) for num_rows in TRIED_ROWS] or not math.prod(shapes[0]):
        return f"shape {shapes[0]}, and shape {shapes[1]} for a batch of {TRIED_ROWS[1]}"
    if not all(torch.isfinite(output).all() for output in tensors):
        return "values that are not finite"
    return ""
