"""What a surrogate is trained on: which labels and images of a store, checked before anything is trained.

Knows nothing of models. N traces, L labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracestore.errors import InvalidInputError, MissingLabelsError
from tracestore.samplers.selection import select_traces
from tracestore.store.trace_store import TraceStore
from tracestore.traces.layout import SiteKind
from tracestore.training.job import split_columns

__all__ = ["ImageSet", "find_images"]

DEFAULT_LABELS = ("energy", "angle")
DEFAULT_OBSERVATION = "shower"
NUM_FIT_TRACES = 4096
"""Traces from which scalings are set."""
MOST_LISTED = 12
"""Names that a message lists."""


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images of a store and the labels that they are conditioned on."""

    store: TraceStore
    labels: tuple[str, ...]
    observation: str
    shape: tuple[int, ...]
    values_NL: NDArray[np.float64]
    """Labels of the traces that did not fail."""

    def fit_part(self, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
        """Read images and labels of some of the training traces, to set scalings.

        Parameters
        ----------
        fraction
            Share of the validation part.
        seed
            Of the choice.

        Raises
        ------
        InvalidInputError
            When images hold values that are not finite, or negative ones.
        """
        status, stream = split_columns(self.store)
        good = np.flatnonzero(select_traces(status, stream, "train", fraction))
        chosen = np.sort(np.random.default_rng(seed).choice(good, min(NUM_FIT_TRACES, len(good)), replace=False))
        labels, images = self.store.as_arrays(self.labels, observations=[self.observation], indices=chosen)
        flat = images.reshape(len(images), -1)
        for is_bad, problem in (
            (~np.isfinite(flat).all(axis=1), "is not finite"),
            (flat.min(axis=1) < 0.0, "has negative values"),
        ):
            if is_bad.any():
                traces = chosen[is_bad].tolist()
                message = (
                    f"Observation {self.observation!r} {problem} in traces {', '.join(map(str, traces[:8]))} of the "
                    f"store {self.store.storage.url}; train on a store without them."
                )
                raise InvalidInputError(message, name=self.observation, traces=tuple(traces))
        return torch.from_numpy(images), torch.from_numpy(labels)


def find_images(store: TraceStore, labels: Sequence[str] = (), observation: str | None = None) -> ImageSet:
    """Find images and labels in a store, and check that every trace that did not fail has them.

    Parameters
    ----------
    store
        The store.
    labels
        Names of draws or tags; ``energy`` and ``angle`` by default, where the store has them.
    observation
        Name of the images; the only observation by default, or ``shower``.

    Raises
    ------
    MissingLabelsError
        When the store, or a trace, lacks a label.
    InvalidInputError
        When there is no such observation, a trace lacks it, or labels are not single finite numbers.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.shower import shower
    >>> store = ts.simulate(shower, "showers", num_traces=20, seed=1)
    >>> images = find_images(store)
    >>> images.labels, images.observation, images.shape
    (('energy',), 'shower', (25, 25, 25))
    """
    observation = _choose_observation(store, observation)
    _require_observed(store, observation)
    names = _choose_labels(store, labels)
    good = np.flatnonzero(split_columns(store)[0] == 0)
    columns = [_label_values(store, name, good) for name in names]
    shape = store.observation_shapes[observation]
    return ImageSet(store, names, observation, shape, np.stack(columns, axis=1))


def _choose_observation(store: TraceStore, observation: str | None) -> str:
    known = list(store.observation_shapes)
    if observation is None:
        observation = known[0] if len(known) == 1 else DEFAULT_OBSERVATION
    if observation not in known:
        found = f"it has {_listed(known)}" if known else "it has no observations at all"
        message = f"The store {store.storage.url} has no observation {observation!r}; {found}. Name its images."
        raise InvalidInputError(message, argument="observation", name=observation, known=tuple(known))
    return observation


def _choose_labels(store: TraceStore, labels: Sequence[str]) -> tuple[str, ...]:
    known = sorted({site.name for site in store.sites() if site.kind is not SiteKind.OBSERVE and site.name})
    addresses = {site.address for site in store.sites()}
    names = tuple(labels) or tuple(name for name in DEFAULT_LABELS if name in known)
    missing = [name for name in names if name not in known and name not in addresses]
    if missing or not names:
        asked = _listed(missing or DEFAULT_LABELS)
        found = f"its draws and tags are {_listed(known)}" if known else "none of its draws and tags has a name"
        message = (
            f"The store {store.storage.url} has no {asked} to condition images on; {found}. Choose labels among them, "
            "or record what is missing with `sample(..., name=)` or `tag`."
        )
        raise MissingLabelsError(message, missing=tuple(missing or DEFAULT_LABELS), known=tuple(known))
    return names


def _label_values(store: TraceStore, name: str, good: NDArray[np.int64]) -> NDArray[np.float64]:
    values, indices = store.values(name)
    place = np.searchsorted(indices, good)
    has_it = (
        np.take(indices, np.minimum(place, len(indices) - 1)) == good if len(indices) else np.zeros(len(good), bool)
    )
    if not has_it.all():
        lacking = good[~has_it]
        message = (
            f"Label {name!r} is missing in {len(lacking):,} of {len(good):,} traces of the store {store.storage.url}, "
            f"the first is {lacking[0]}; condition on what every trace has."
        )
        raise MissingLabelsError(message, missing=(name,), traces=tuple(lacking[:8].tolist()))
    if values.ndim > 1:
        message = f"Label {name!r} has shape {values.shape[1:]}; a label must be a single number."
        raise InvalidInputError(message, name=name, shape=values.shape[1:])
    found: NDArray[np.float64] = values[place].astype(np.float64)
    if not np.isfinite(found).all():
        bad = good[~np.isfinite(found)]
        message = (
            f"Label {name!r} is not finite in traces {', '.join(map(str, bad[:8]))}; train on a store without them."
        )
        raise InvalidInputError(message, name=name, traces=tuple(bad[:8].tolist()))
    return found


def _require_observed(store: TraceStore, observation: str) -> None:
    """Refuse good traces that never reached the observe: they would be read as zeros."""
    runs, status = store.runs, split_columns(store)[0]
    lacking = [
        number for number in np.unique(runs.layout) if observation not in store.layouts[int(number)].observed_names
    ]
    for run in np.flatnonzero(np.isin(runs.layout, np.array(lacking, runs.layout.dtype))):
        first = int(runs.first[run])
        good = np.flatnonzero(status[first : first + int(runs.num_traces[run])] == 0)
        if len(good):
            message = (
                f"Trace {first + int(good[0])} of the store {store.storage.url} has no observation {observation!r} "
                "although it did not fail; a surrogate needs an image in every trace."
            )
            raise InvalidInputError(message, name=observation, trace=first + int(good[0]))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_LISTED
    return ", ".join(map(repr, names[:MOST_LISTED])) + (f" and {more} more" if more > 0 else "")
