"""A surrogate: a generative model with the names, ranges and origin of what it was trained on.

Speaks numpy to its callers. Knows nothing of how a model learns.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import save

from tracestore.errors import GeometryMismatchError, InvalidInputError
from tracestore.formats.document import digest
from tracestore.networks.persistence import to_json, write_folder
from tracestore.store.job import Job
from tracestore.surrogates.config import SurrogateConfig
from tracestore.surrogates.flow import FlowMatching
from tracestore.surrogates.gan import AdversarialGenerator
from tracestore.surrogates.model import LEAST_CELLS, GenerativeModel, row_generators
from tracestore.surrogates.precision import Precision, at_bfloat16, quantized_model, require_precision

__all__ = [
    "SURROGATE_FILE",
    "SURROGATE_VERSION",
    "WEIGHTS_FILE",
    "Surrogate",
    "new_surrogate",
    "require_geometry",
]

SURROGATE_VERSION = 1
"""Version of what `Surrogate.files` gives."""
SURROGATE_FILE = "surrogate.json"
WEIGHTS_FILE = "weights.safetensors"
NUM_PROBES = 64
"""Images from which the scales of integers are taken."""
_GENERATE = 1
_CALIBRATE = 2
"""Purposes of streams of noise, beside the seed: trainers use others."""


class Surrogate:
    """A conditional generator of one observation of a simulator; make one with `new_surrogate`.

    Parameters
    ----------
    model
        What generates.
    config
        What it was built from.
    labels
        Names of the draws or tags that an image is conditioned on, in the order of the columns.
    observation
        Name of what is generated.

    Attributes
    ----------
    model, config, labels, observation
        As given.
    label_ranges
        Lowest and highest value of each label in the training set; empty before training.
    summary
        Numbers that training leaves.
    job
        The job that trains it.

    Examples
    --------
    >>> surrogate = new_surrogate((8, 8, 8), ["energy"], "shower", seed=1)
    >>> surrogate.record_labels(np.array([[10.0], [20.0]]))
    >>> surrogate.generate([[12.0], [15.0]], seed=1).shape
    (2, 8, 8, 8)
    """

    def __init__(
        self, model: GenerativeModel, config: SurrogateConfig, labels: Sequence[str], observation: str
    ) -> None:
        self.model = model
        self.config = config
        self.labels = tuple(labels)
        self.observation = observation
        self.label_ranges: tuple[tuple[float, float], ...] = ()
        self.summary: dict[str, Any] = {}
        self.job = Job("train-surrogate", {})
        self._integers: tuple[int, GenerativeModel] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image."""
        return self.model.shape

    @property
    def num_parameters(self) -> int:
        """Trained numbers, those that only training needs (a discriminator) included."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def record_labels(self, labels: ArrayLike) -> None:
        """Widen `label_ranges` to labels of the training set, shape ``(N, L)``."""
        labels_NL = self._as_labels(labels)
        if not len(labels_NL):
            return
        lows, highs = labels_NL.min(axis=0).tolist(), labels_NL.max(axis=0).tolist()
        ranges = list(zip(lows, highs, strict=True))
        if self.label_ranges:
            ranges = [
                (min(low, old[0]), max(high, old[1]))
                for (low, high), old in zip(ranges, self.label_ranges, strict=True)
            ]
        self.label_ranges = tuple(ranges)

    def generate(
        self,
        labels: ArrayLike,
        *,
        seed: int,
        batch_size: int = 64,
        precision: Precision = "float32",
        extrapolate: bool = False,
        first_row: int = 0,
    ) -> NDArray[np.float32]:
        """Generate an image for each row of labels; row i is a function of the seed, i and its labels alone.

        Rows agree whatever the batch size up to rounding: sums in a matrix product may be ordered by its size.

        Parameters
        ----------
        labels
            Shape ``(N, L)``, in the order and units of `labels`; with one label also ``(N,)`` or one number.
        seed
            Of the noise.
        batch_size
            Images that are computed at once.
        precision
            In which layers compute: ``int8`` is for processors, and measures its scales at the first use.
        extrapolate
            Whether labels outside of the trained ranges are allowed.
        first_row
            Number of the first row, so that a long run can be made in pieces.

        Returns
        -------
        numpy.ndarray
            Float32 of shape ``(N, *shape)``.

        Raises
        ------
        InvalidInputError
            When labels are of the wrong number, not finite, or outside of the trained ranges, or the seed is negative.
        """
        labels_NL = self._as_labels(labels)
        if batch_size < 1:
            message = f"`batch_size` must be a positive whole number; got {batch_size!r}."
            raise InvalidInputError(message, argument="batch_size")
        if seed < 0:
            message = f"`seed` must be a whole number from 0; got {seed!r}."
            raise InvalidInputError(message, argument="seed")
        if not extrapolate:
            self._require_in_range(labels_NL)
        require_precision(precision)
        images = np.empty((len(labels_NL), *self.shape), np.float32)
        model = self._in_integers() if precision == "int8" else self.model
        bits = at_bfloat16(model) if precision == "bfloat16" else nullcontext()
        with bits, torch.inference_mode():
            for start in range(0, len(labels_NL), batch_size):
                part = labels_NL[start : start + batch_size]
                rows = np.arange(first_row + start, first_row + start + len(part))
                noise_NZ = model.draw_noise(len(part), row_generators(rows, seed, _GENERATE))
                given_NL = torch.from_numpy(part).to(model.device, torch.float32)
                images[start : start + len(part)] = model.generate(given_NL, noise_NZ).cpu().numpy()
        return images

    def files(self) -> dict[str, bytes]:
        """Return the files of the surrogate by name; the last one completes it."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        weights = save(tensors)
        record = {
            "version": SURROGATE_VERSION,
            "weights": digest(weights),
            "config": self.config.to_dict(),
            "labels": list(self.labels),
            "label_ranges": [list(pair) for pair in self.label_ranges],
            "observation": self.observation,
            "shape": list(self.shape),
            "summary": self.summary,
            "job": self.job.to_json(),
        }
        return {WEIGHTS_FILE: weights, SURROGATE_FILE: to_json(record)}

    def save(self, folder: str | Path) -> None:
        """Write the surrogate into a folder that appears at once or not at all; an earlier one is replaced."""
        write_folder(Path(folder), self.files())

    def to(self, device: str | torch.device) -> "Surrogate":
        """Move the model to a device, in place, and return the surrogate."""
        self.model.to(device)
        return self

    def _in_integers(self) -> GenerativeModel:
        versions = sum(parameter._version for parameter in self.model.parameters())
        if self._integers is None or self._integers[0] != versions:
            columns = [
                np.linspace(low, high, NUM_PROBES) for low, high in self.label_ranges or [(0.0, 1.0)] * len(self.labels)
            ]
            # each label runs through its range in an order of its own
            rng = np.random.default_rng(0)
            labels_NL = torch.from_numpy(np.stack([rng.permutation(column) for column in columns], axis=1))
            noise_NZ = self.model.draw_noise(NUM_PROBES, row_generators(np.arange(NUM_PROBES), 0, _CALIBRATE))
            self._integers = versions, quantized_model(self.model, labels_NL.float(), noise_NZ)
        return self._integers[1]

    def _as_labels(self, labels: ArrayLike) -> NDArray[np.float64]:
        labels_NL = np.asarray(labels, np.float64)
        if labels_NL.ndim < 2 and len(self.labels) == 1:
            labels_NL = labels_NL.reshape(-1, 1)
        if labels_NL.ndim != 2 or labels_NL.shape[1] != len(self.labels):
            message = (
                f"Labels must have a column for each of {', '.join(self.labels)}, shape (N, {len(self.labels)}); "
                f"got shape {labels_NL.shape}."
            )
            raise InvalidInputError(message, expected=len(self.labels), found=labels_NL.shape)
        if not np.isfinite(labels_NL).all():
            message = "Labels hold values that are not finite; a surrogate needs finite ones."
            raise InvalidInputError(message, argument="labels")
        return labels_NL

    def _require_in_range(self, labels_NL: NDArray[np.float64]) -> None:
        for column, (name, (low, high)) in enumerate(zip(self.labels, self.label_ranges, strict=False)):
            excess = np.maximum(low - labels_NL[:, column], labels_NL[:, column] - high)
            if len(excess) and excess.max() > 0.0:
                row = int(excess.argmax())
                found = float(labels_NL[row, column])
                message = (
                    f"Label {name!r} of row {row} is {found:g}, {excess[row]:.3g} outside of the trained range {low:g} "
                    f"to {high:g}; give labels inside, train on a wider store, or pass `extrapolate=True`."
                )
                raise InvalidInputError(message, label=name, row=row, found=found, lowest=low, highest=high)


def new_surrogate(
    shape: Sequence[int],
    labels: Sequence[str],
    observation: str,
    config: SurrogateConfig | None = None,
    seed: int = 0,
) -> Surrogate:
    """Build a surrogate with fresh weights, which are a function of the seed.

    Parameters
    ----------
    shape
        Of an image: three sides of at least 8 cells.
    labels
        Names of the draws or tags it is conditioned on, at least one.
    observation
        Name of what is generated.
    config
        Which model, and its sizes.
    seed
        Of the weights.

    Raises
    ------
    InvalidInputError
        When the shape does not suit, or there are no labels.
    """
    sides = tuple(int(side) for side in shape)
    if len(sides) != 3 or min(sides) < LEAST_CELLS:
        message = f"A surrogate makes images of three sides of at least {LEAST_CELLS} cells; got shape {sides}."
        raise InvalidInputError(message, shape=sides)
    if not labels or len(set(labels)) != len(labels):
        message = f"A surrogate needs the names of one or more different labels; got {list(labels)!r}."
        raise InvalidInputError(message, labels=tuple(labels))
    config = config or SurrogateConfig()
    with torch.random.fork_rng(devices=[]):  # layers draw their weights from the global stream: borrow it
        torch.manual_seed(seed)
        model = _build(sides, len(labels), config)
    return Surrogate(model, config, labels, observation)


def require_geometry(surrogate: Surrogate, shape: Sequence[int]) -> None:
    """Refuse images of another shape than a surrogate makes.

    Parameters
    ----------
    surrogate
        The surrogate.
    shape
        Of an image of a store or a program.

    Raises
    ------
    GeometryMismatchError
        When the shapes differ.
    """
    if tuple(shape) != surrogate.shape:
        message = (
            f"The surrogate makes images of shape {surrogate.shape}, but {surrogate.observation!r} has shape "
            f"{tuple(shape)}; train a surrogate on images of this shape."
        )
        raise GeometryMismatchError(message, surrogate=surrogate.shape, found=tuple(shape))


def _build(shape: tuple[int, ...], num_labels: int, config: SurrogateConfig) -> GenerativeModel:
    if config.model == "flow":
        return FlowMatching(shape, num_labels, config.flow)
    return AdversarialGenerator(shape, num_labels, config.gan)
