"""Embedding of what was observed: one vector for all named observations, with modules of the user's own among them.

Knows nothing of draws or addresses. How a single array is embedded is in `array_embeddings` and `user_modules`.

Shapes: N traces, E embedding, F numbers.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from tracestore.errors import InvalidInputError
from tracestore.networks.array_embeddings import ArrayEmbedding, PerceptronEmbedding, make_array_embedding
from tracestore.networks.config import NetworkConfig
from tracestore.networks.user_modules import ModuleEmbedding, ModuleRecord

__all__ = ["ObservationEmbedding"]

MAX_FLAT_SIZE = 64
"""Arrays of up to this many cells are treated like vectors."""
FIT_ROWS = 64
"""Traces that `fit` holds in double precision at a time."""


class ObservationEmbedding(nn.Module):
    """One vector for all named observations of a trace.

    Scalars, vectors and small arrays are joined and go through a perceptron; every larger array, and every observation
    that ``config.observation_of`` or ``modules`` names, has an embedding of its own; a last perceptron joins them.
    Inputs are standardized by what `fit` saw.

    Parameters
    ----------
    shapes
        Shape of each named observation.
    config
        Sizes, and the kind of embedding of each observation.
    modules
        Modules of your own, by the name of the observation that they embed. Such a module is given the standardized
        observation, float32 of shape ``(N, *shape)``, and returns a floating-point tensor ``(N, ...)``, which is
        flattened and brought to width E by a linear layer with ReLU. It is used as it is, not copied.

    Raises
    ------
    InvalidInputError
        When there is no observation, an unknown one is named, an array is too small for its kind, or a module returns
        something else than it should.

    Examples
    --------
    >>> config = NetworkConfig(observation_size=8)
    >>> embedding = ObservationEmbedding({"obs0": (), "image": (10, 10)}, config)
    >>> embedding({"obs0": torch.zeros(3), "image": torch.zeros(3, 10, 10)}).shape
    torch.Size([3, 8])

    With a module of one's own:

    >>> convolution = nn.Sequential(nn.Unflatten(1, (1, 10)), nn.Conv2d(1, 4, 3), nn.ReLU())
    >>> embedding = ObservationEmbedding({"image": (10, 10)}, config, modules={"image": convolution})
    >>> embedding({"image": torch.zeros(3, 10, 10)}).shape
    torch.Size([3, 8])
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        config: NetworkConfig,
        modules: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        modules = {} if modules is None else modules
        self.shapes = {name: tuple(shape) for name, shape in sorted(shapes.items())}
        if not any(math.prod(shape) for shape in self.shapes.values()):
            message = "A network needs at least one named observation to learn from; the traces have none."
            raise InvalidInputError(message)
        _require_known_names(self.shapes, config, modules)
        size = config.observation_size
        parts, joined = [], []
        for name, shape in self.shapes.items():
            if name in modules:
                parts.append(_Part({name: shape}, ModuleEmbedding(modules[name], name, shape, size)))
            elif (kind := _kind(name, shape, config)) == "joined":
                joined.append(name)
            else:
                parts.append(_Part({name: shape}, make_array_embedding(kind, name, shape, size)))
        if num_numbers := sum(math.prod(self.shapes[name]) for name in joined):
            flat = {name: self.shapes[name] for name in joined}
            parts.insert(0, _Part(flat, PerceptronEmbedding((num_numbers,), size)))
        self.parts = nn.ModuleList(parts)
        num_inputs = len(parts) * size
        hidden = (num_inputs + size) // 2
        self.joint = nn.Sequential(nn.Linear(num_inputs, hidden), nn.ReLU(), nn.Linear(hidden, size), nn.ReLU())

    @property
    def user_modules(self) -> dict[str, nn.Module]:
        """The user's modules, by the name of the observation."""
        return {
            name: part.embedding.module
            for part in self._parts()
            if isinstance(part.embedding, ModuleEmbedding)
            for name in part.shapes
        }

    @property
    def module_records(self) -> dict[str, ModuleRecord]:
        """What to remember of the user's modules, by the name of the observation."""
        return {name: ModuleRecord.of(module) for name, module in self.user_modules.items()}

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Embed observations of shape ``(N, *shape)`` each; returns ``(N, E)``.

        Raises
        ------
        InvalidInputError
            When an observation is missing or has another shape.
        """
        self._require_shapes(observations)
        embedding: Tensor = self.joint(torch.cat([part(observations) for part in self.parts], dim=1))
        return embedding

    def fit(self, observations: Mapping[str, Tensor]) -> None:
        """Set the standardization: per number for vectors and small arrays, one for all cells of a larger array.

        Numbers that do not vary are shifted but not scaled.

        Parameters
        ----------
        observations
            Typical observations, shape ``(N, *shape)`` each, of any numeric type.

        Raises
        ------
        InvalidInputError
            When there is none, one has another shape, or a value is not finite as a float32.
        """
        self.fit_batches([observations])

    @torch.no_grad()
    def fit_batches(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Do as `fit` with any number of batches, of which one is in memory at a time.

        Parameters
        ----------
        batches
            Typical observations; in each batch, shape ``(N, *shape)`` each.

        Raises
        ------
        InvalidInputError
            As for `fit`.
        """
        parts = self._parts()
        moments = [_Moments(part.mean.shape) for part in parts]
        for observations in batches:
            self._require_shapes(observations)
            num_rows = len(next(iter(observations.values())))
            for start in range(0, num_rows, FIT_ROWS):
                rows = {name: observations[name][start : start + FIT_ROWS].float() for name in self.shapes}
                _require_finite(rows)
                for part, moment in zip(parts, moments, strict=True):
                    moment.add(part.gather(rows).double().cpu())
        if not moments[0].count:
            message = "There is no observation to fit to; give at least one trace."
            raise InvalidInputError(message)
        for part, moment in zip(parts, moments, strict=True):
            part.mean.copy_(moment.mean)
            part.scale.copy_(moment.scale())

    def _parts(self) -> list["_Part"]:
        return [cast("_Part", part) for part in self.parts]

    def _require_shapes(self, observations: Mapping[str, Tensor]) -> None:
        for name, shape in self.shapes.items():
            found = tuple(observations[name].shape) if name in observations else None
            if found is None or found[1:] != shape or not found:
                message = (
                    f"Observation {name!r} has shape {shape} in the data that this network was made for; "
                    f"given is {'none of this name' if found is None else f'a batch of shape {found}'}."
                )
                raise InvalidInputError(message, name=name, shape=shape, found=found)


class _Part(nn.Module):
    """What is embedded by itself: one observation, or several that are joined to one vector."""

    mean: Tensor
    scale: Tensor

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], embedding: ArrayEmbedding) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        self.embedding = embedding
        single = next(iter(shapes.values()))
        if len(shapes) > 1:
            described: tuple[int, ...] = (sum(math.prod(shape) for shape in shapes.values()),)
        elif isinstance(embedding, PerceptronEmbedding):
            described = (math.prod(single),) if _is_flat(single) else ()
        else:
            described = single if _is_flat(single) and isinstance(embedding, ModuleEmbedding) else ()
        self.register_buffer("mean", torch.zeros(described))
        self.register_buffer("scale", torch.ones(described))

    def gather(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Return the observations as the embedding takes them, before they are standardized."""
        if len(self.shapes) == 1:
            return self.embedding.reduce(observations[next(iter(self.shapes))].float())
        tensors = [(observations[name].float(), math.prod(shape)) for name, shape in self.shapes.items()]
        return torch.cat([x.reshape(len(x), num_numbers) for x, num_numbers in tensors], dim=1)

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Standardize and embed; returns ``(N, E)``."""
        embedding: Tensor = self.embedding((self.gather(observations) - self.mean) / self.scale)
        return embedding


class _Moments:
    """Mean and variance of what comes in pieces, in double precision (Chan, Golub and LeVeque, 1983).

    Takes all numbers together, or, with a shape, each number of that shape by itself.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.count = 0.0
        self.mean = torch.zeros(tuple(shape), dtype=torch.float64)
        self.squares = torch.zeros(tuple(shape), dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Add numbers of shape ``(N, *shape)``, or ``(N, ...)``."""
        axes = (0,) if self.mean.dim() else tuple(range(x.dim()))
        count, mean = x.numel() / self.mean.numel(), x.mean(axes)
        difference = mean - self.mean
        self.squares += (x - mean).square().sum(axes) + difference.square() * (
            self.count * count / (self.count + count)
        )
        self.mean += difference * (count / (self.count + count))
        self.count += count

    def scale(self) -> Tensor:
        """Return standard deviations; 1 where float32 cannot tell the numbers apart."""
        deviation = (self.squares / self.count).sqrt()
        resolution = torch.finfo(torch.float32)
        varies = deviation > (self.mean.abs() * resolution.eps).clamp(min=resolution.tiny)
        return torch.where(varies, deviation, 1.0)


def _kind(name: str, shape: Sequence[int], config: NetworkConfig) -> str:
    """Return a key of `ARRAY_EMBEDDINGS`, or ``joined``."""
    kind = config.observation_of.get(name)
    if kind is None and not _is_flat(shape):
        kind = config.observation
    if kind is None or kind == "auto":
        kind = "joined" if _is_flat(shape) else "light"
    return kind


def _is_flat(shape: Sequence[int]) -> bool:
    return len(shape) < 2 or math.prod(shape) <= MAX_FLAT_SIZE


def _require_known_names(
    shapes: Mapping[str, tuple[int, ...]], config: NetworkConfig, modules: Mapping[str, nn.Module]
) -> None:
    for what, names in (("`observation_of`", config.observation_of), ("`modules`", modules)):
        unknown = sorted(set(names) - set(shapes))
        if unknown:
            message = (
                f"{what} has {', '.join(map(repr, unknown))}, which is not among the observations "
                f"{', '.join(map(repr, shapes))}; correct or remove it."
            )
            raise InvalidInputError(message, unknown=tuple(unknown), known=tuple(shapes))
    twice = sorted(set(config.observation_of) & set(modules))
    if twice:
        message = (
            f"Observation {twice[0]!r} has both a module and the kind {config.observation_of[twice[0]]!r}; "
            "remove it from `observation_of` or from `modules`."
        )
        raise InvalidInputError(message, names=tuple(twice))


def _require_finite(observations: Mapping[str, Tensor]) -> None:
    for name, x in observations.items():
        if not torch.isfinite(x).all():
            message = (
                f"Observation {name!r} holds values that are not finite in single precision; a network needs finite "
                "ones to be fitted to."
            )
            raise InvalidInputError(message, name=name)
