"""Where showers come from: stores, and surrogates that generate them for the labels of a reference.

Opens, checks that everything fits together, and reads; computes nothing. Loads torch only for a surrogate on disk.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import GeometryMismatchError, InvalidInputError, StoreNotFoundError, UnknownAddressError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.reports.showers.sets import ANGLE, ENERGY, ShowerPlan, ShowerReader, ShowerSet, read_showers
from tracestore.store.trace_store import TraceStore

__all__ = [
    "LEAST_SHOWERS", "REFERENCE", "ShowerGenerator", "ShowerSource", "Showers", "StoredShowers", "generated_showers",
    "named_models", "open_model", "open_showers", "read_set", "stored_source",
]  # fmt: skip

FloatArray = NDArray[np.float64]

REFERENCE = "reference"
"""What the reference is called; no model may be."""
LEAST_SHOWERS = 200
"""Fewest showers of a set: fewer do not tell the covariance of a profile."""
RUN = 256
"""Showers that are read one after the other where a store has more than are needed."""
SLACK = 0.01
"""How far beyond the trained range of a label, as a share of the range, a surrogate is asked without a word."""


@runtime_checkable
class ShowerGenerator(Protocol):
    """What is needed of a `Surrogate`."""

    labels: tuple[str, ...]
    label_ranges: tuple[tuple[float, float], ...]
    observation: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image."""

    def generate(
        self, labels: ArrayLike, *, seed: int, batch_size: int = 64, extrapolate: bool = False, first_row: int = 0
    ) -> NDArray[np.float32]:
        """Return an image for each row of labels."""


Showers = TraceStore | ShowerGenerator | str | PathLike[str]
"""A store, a surrogate, or the path of one of both."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredShowers:
    """The showers of a store that are compared."""

    store: TraceStore
    observation: str
    indices: NDArray[np.int64]
    labels: Mapping[str, FloatArray]
    """Shape ``(N,)`` each."""
    shape: tuple[int, ...]

    def read(self, low: int, high: int) -> NDArray[np.floating]:
        """Read images, shape ``(high - low, x, y, depth)``."""
        name = next(iter(self.labels))
        return self.store.as_arrays([name], observations=[self.observation], indices=self.indices[low:high]).x


@dataclass(frozen=True, slots=True, eq=False)
class ShowerSource:
    """One set of showers that can be read."""

    name: str
    labels: Mapping[str, FloatArray]
    shape: tuple[int, ...]
    read: ShowerReader
    is_generated: bool
    """Whether the labels are those of the reference, shower by shower."""
    origin: str
    """Where it is from, in words."""


def named_models(models: Mapping[str, Showers] | Sequence[Showers] | Showers) -> dict[str, Showers]:
    """Return models by name; those without are called after the last part of their path.

    Parameters
    ----------
    models
        One, several, or a dict by name.

    Raises
    ------
    InvalidInputError
        When there is none, a name is empty or that of the reference, or names repeat.

    Examples
    --------
    >>> named_models(["runs/gan", "runs/flow"])
    {'gan': 'runs/gan', 'flow': 'runs/flow'}
    """
    pairs: list[tuple[str, Showers]]
    if isinstance(models, Mapping):
        pairs = list(models.items())
    elif isinstance(models, str | PathLike | TraceStore | ShowerGenerator):
        pairs = [(_name_of(models), models)]
    else:
        pairs = [(_name_of(one), one) for one in models]
    if not pairs:
        message = "A comparison needs one model or more; got none."
        raise InvalidInputError(message, argument="models")
    names = [name for name, _ in pairs]
    for name in names:
        if not name.strip() or name == REFERENCE or names.count(name) > 1:
            message = (
                f"Models need names of their own, not empty and not {REFERENCE!r}; got {name!r} among "
                f"{', '.join(map(repr, names))}. Give a dict of names, or NAME=PATH on the command line."
            )
            raise InvalidInputError(message, argument="models", name=name)
    return dict(pairs)


def open_model(model: Showers, name: str) -> TraceStore | ShowerGenerator:
    """Open the path of a store or of a surrogate; what is open already is returned.

    Parameters
    ----------
    model
        The model.
    name
        For messages.

    Raises
    ------
    StoreNotFoundError
        When the path is neither.
    """
    if isinstance(model, TraceStore):
        return model
    if isinstance(model, str | PathLike):
        try:
            return TraceStore.open(str(model))
        except StoreNotFoundError:
            if not list(Path(model).glob("*.json")):
                message = f"The model {name!r} is neither a store of showers nor a surrogate: {model}."
                raise StoreNotFoundError(message, path=str(model), name=name) from None
        from tracestore.surrogates import load_surrogate

        return load_surrogate(Path(model))
    return model


def open_showers(
    store: TraceStore,
    name: str,
    *,
    labels: Sequence[str] | None,
    observation: str | None,
    num_showers: int,
    needed: Sequence[str] = (),
) -> StoredShowers:
    """Find labels and images of showers in a store, and read the labels.

    Parameters
    ----------
    store
        The store.
    name
        Of the set, for messages.
    labels
        Names of energy and perhaps angle; ``energy`` and, where there is one, ``angle`` when not given.
    observation
        Name of the images; the one observation with three axes when not given.
    num_showers
        How many at most: runs of them, evenly over the store.
    needed
        More labels, those of surrogates.

    Raises
    ------
    InvalidInputError
        When there are no images or no energies, too few showers, or a label is not a number.
    """
    shown = _observation(store, name, observation)
    known = {site.name for site in store.sites()}
    wanted = list(labels) if labels is not None else [ENERGY, *([ANGLE] if ANGLE in known else [])]
    if not 1 <= len(wanted) <= 2:
        message = f"`labels` are the name of the energy and perhaps that of the angle; got {wanted!r}."
        raise InvalidInputError(message, argument="labels")
    names = list(dict.fromkeys([*wanted, *needed]))
    good = np.flatnonzero(store.column("status") == 0)
    if len(good) < LEAST_SHOWERS or num_showers < LEAST_SHOWERS:
        message = (
            f"A comparison needs {LEAST_SHOWERS} showers or more of each set; {name!r} has {len(good)}, and "
            f"`num_showers` is {num_showers}."
        )
        raise InvalidInputError(message, argument="num_showers", name=name, found=len(good))
    indices = _evenly(good, num_showers)
    missing = [label for label in names if label not in known and "|" not in label]
    if missing:
        message = (
            f"The store of {name!r} has no value {missing[0]!r}, which showers are compared by; it has: "
            f"{', '.join(sorted(filter(None, known)))}. Give `labels`, the names of energy and angle."
        )
        raise InvalidInputError(message, argument="labels", name=name, missing=missing[0])
    try:
        columns = {label: _column(store, label, indices, name) for label in names}
    except UnknownAddressError as error:
        error.add_note(f"This is the store of {name!r}.")
        raise
    given = dict(zip((ENERGY, ANGLE), wanted, strict=False))
    found = {short: columns[label] for short, label in given.items()} | columns
    return StoredShowers(store, shown, indices, found, store.observation_shapes[shown])


def generated_showers(
    generator: ShowerGenerator,
    name: str,
    reference: StoredShowers,
    *,
    seed: int,
    batch_size: int,
    extrapolate: bool,
) -> ShowerSource:
    """Return showers of a surrogate for the labels of the reference; they are made when they are read.

    Parameters
    ----------
    generator
        The surrogate.
    name
        Of the set.
    reference
        Its labels.
    seed
        Of the noise.
    batch_size
        Images generated at once.
    extrapolate
        Whether labels outside of the trained ranges are allowed.

    Raises
    ------
    GeometryMismatchError
        When images have another shape than those of the reference.
    InvalidInputError
        When the reference has labels outside of the trained ranges.
    """
    if tuple(generator.shape) != tuple(reference.shape):
        _refuse_shape(name, generator.shape, reference.shape)
    labels_NL = np.stack([reference.labels[label] for label in generator.labels], axis=1)
    for label, values, (low, high) in zip(generator.labels, labels_NL.T, generator.label_ranges, strict=False):
        slack = SLACK * (high - low)
        outside = (values < low - slack) | (values > high + slack)
        if outside.any() and not extrapolate:
            message = (
                f"The surrogate {name!r} was trained on {label} from {low:g} to {high:g}, but the reference goes from "
                f"{values.min():g} to {values.max():g}. Give a reference in this range, or `extrapolate=True`."
            )
            raise InvalidInputError(message, argument="models", name=name, label=label)

    def read(low: int, high: int) -> NDArray[np.floating]:
        return generator.generate(
            labels_NL[low:high], seed=seed, batch_size=batch_size, extrapolate=True, first_row=low
        )

    shown = {label: reference.labels[label] for label in (ENERGY, ANGLE) if label in reference.labels}
    return ShowerSource(name, shown, reference.shape, read, is_generated=True, origin="generated by a surrogate")


def stored_source(showers: StoredShowers, name: str, reference: StoredShowers) -> ShowerSource:
    """Return the showers of a store.

    Raises
    ------
    GeometryMismatchError
        When images have another shape than those of the reference.
    InvalidInputError
        When the reference has angles, and the store has none.
    """
    if tuple(showers.shape) != tuple(reference.shape):
        _refuse_shape(name, showers.shape, reference.shape)
    if ANGLE in reference.labels and ANGLE not in showers.labels:
        message = f"The reference has angles, but the store of {name!r} has none; they cannot be compared."
        raise InvalidInputError(message, argument="models", name=name)
    shown = {label: showers.labels[label] for label in (ENERGY, ANGLE) if label in reference.labels}
    return ShowerSource(
        name, shown, showers.shape, showers.read, is_generated=False, origin=f"store {showers.store.path.name}"
    )


def read_set(source: ShowerSource, plan: ShowerPlan, observer: Observer | None) -> ShowerSet:
    """Read, or generate, a set, and tell of progress.

    Parameters
    ----------
    source
        Of the showers.
    plan
        What to keep.
    observer
        Told of progress, in showers.
    """
    tell: Observer = observer or (lambda event: None)
    total, started = len(source.labels[ENERGY]), time.monotonic()
    phase = f"{'generate' if source.is_generated else 'read'} {source.name}"
    tell(PhaseStarted(phase, total, unit="showers"))
    showers = read_showers(
        source.name,
        source.labels,
        source.shape,
        source.read,
        plan,
        advance=lambda done: tell(PhaseAdvanced(phase, done, total)),
    )
    tell(PhaseFinished(phase, time.monotonic() - started))
    return showers


def _observation(store: TraceStore, name: str, observation: str | None) -> str:
    shapes = store.observation_shapes
    images = [one for one, shape in shapes.items() if len(shape) == 3]
    if observation is None and len(images) == 1:
        return images[0]
    if observation in images:
        return str(observation)
    found = ", ".join(f"{one} {shape}" for one, shape in shapes.items()) or "none"
    wanted = "exactly one observation with three axes" if observation is None else f"an observation {observation!r}"
    message = f"The store of {name!r} needs {wanted}, (x, y, depth); its observations: {found}. Name it: `observation`."
    raise InvalidInputError(message, argument="observation", name=name)


def _column(store: TraceStore, label: str, indices: NDArray[np.int64], name: str) -> FloatArray:
    values, rows = store.values(label)
    places = np.searchsorted(rows, indices)
    if values.ndim != 1 or not np.array_equal(rows[np.minimum(places, len(rows) - 1)], indices):
        message = f"{label!r} of {name!r} must be one number in every trace."
        raise InvalidInputError(message, argument="labels", name=name, label=label)
    return values[places].astype(np.float64)


def _evenly(rows: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Return some of the rows: runs of like length, evenly over all of them."""
    if len(rows) <= number:
        return rows
    num_runs = -(-number // RUN)
    sizes = np.full(num_runs, number // num_runs)
    sizes[: number % num_runs] += 1
    starts = np.arange(num_runs) * len(rows) // num_runs
    return np.concatenate([rows[start : start + size] for start, size in zip(starts, sizes, strict=True)])


def _refuse_shape(name: str, found: Sequence[int], expected: Sequence[int]) -> None:
    message = (
        f"Images of {name!r} have shape {tuple(found)}, those of the reference {tuple(expected)}; only showers of "
        "one geometry can be compared."
    )
    raise GeometryMismatchError(message, name=name, found=tuple(found), expected=tuple(expected))


def _name_of(model: object) -> str:
    if isinstance(model, TraceStore):
        return model.path.name
    return Path(model).name if isinstance(model, str | PathLike) else "surrogate"
