"""Rows that become columns: what a converter found in traces of pyprob, and the batch of it. Pure.

Log probabilities of sites whose distribution is stored are computed here, all together, by what `verify` checks them
with. Knows nothing of addresses and of what pyprob keeps where.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.importers.pyprob_priors import Prior, draw_shape
from tracestore.traces.batch import TRACE_COLUMNS, TraceBatch
from tracestore.traces.layout import Layout, Site, SiteKind
from tracestore.traces.rescore import rescore

__all__ = ["PyprobRow", "gather_rows", "to_angles", "to_numbers", "to_observation"]

Array = NDArray[np.generic]

FLOAT32_EPS = 2.0**-24


@dataclass(slots=True)
class PyprobRow:
    """One trace while it is converted, its numbers flat, site by site."""

    stream: int
    sites: list[Site] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    parameters: list[float] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    """NaN where `rescore` shall find it."""
    stored: list[tuple[int, float, float]] = field(default_factory=list)
    """Position, log prob that pyprob stored, and how much single precision may move it."""
    observations: dict[str, Array] = field(default_factory=dict)
    log_weight: float = 0.0
    seconds: float = 0.0
    is_shortened: bool = False
    num_dropped: int = 0
    """Tags whose value is not numbers."""

    def keep(self, name: str, array: Array) -> None:
        """Keep the value of an observe: by its name, or without a name at its site."""
        if not name:
            self.values.extend(to_numbers(array))
        elif name in self.observations:
            message = f"The name {name!r} stands for two observations."
            raise InvalidInputError(message, name=name)
        else:
            self.observations[name] = array

    def compare(self, log_prob: float, prior: Prior, value: Array) -> None:
        """Have the log prob of the last site compared with what pyprob stored, as far as single precision goes."""
        size = 2.0 + float(np.abs(value.astype(np.float64)).sum()) + sum(map(abs, prior.numbers))
        if prior.family == "Beta":  # pyprob leaves out that the interval may be longer than one
            low, high = np.reshape(prior.numbers, (4, -1))[2:]
            with np.errstate(all="ignore"):
                log_prob -= float(np.log(high - low).sum())
        self.stored.append((len(self.log_probs) - 1, log_prob, 8 * FLOAT32_EPS * size * math.log(size)))


def gather_rows(
    rows: Sequence[PyprobRow], layout_of: Callable[[list[Site]], Layout]
) -> tuple[TraceBatch | None, tuple[str, ...], list[tuple[int, str]]]:
    """Make a batch of rows; what differs from pyprob's log probs, and traces whose parameters are not allowed."""
    places: dict[Layout, int] = {}
    index = np.array([places.setdefault(layout_of(row.sites), len(places)) for row in rows], np.int32)
    given = np.array([number for row in rows for number in row.log_probs], np.float64)
    stream = np.array([row.stream for row in rows], np.int64)
    columns: dict[str, Any] = {name: np.zeros(len(rows), dtype) for name, dtype in TRACE_COLUMNS}
    columns |= {
        "stream": stream,
        "log_proposal": np.full(len(rows), np.nan),
        "log_weight": np.array([row.log_weight for row in rows]),
        "seconds": np.array([row.seconds for row in rows], np.float32),
        "accepted": np.ones(len(rows), np.bool_),
    }
    batch = TraceBatch(
        layouts=tuple(places),
        layout_index=index,
        values=np.array([number for row in rows for number in row.values], np.float64),
        log_probs=given,
        parameters=np.array([number for row in rows for number in row.parameters], np.float64),
        observations=_gather_observations(rows),
        **columns,
    )
    scored = rescore(batch)
    has_prior = np.concatenate([[site.num_parameters > 0 for site in row.sites] for row in rows])
    given[has_prior] = scored[has_prior]
    row_of_site = np.repeat(np.arange(len(rows)), batch.num_sites)
    wrong = np.flatnonzero(has_prior & np.isnan(given))
    bad = dict(zip(row_of_site[wrong[::-1]].tolist(), wrong[::-1].tolist(), strict=True))
    invalid = []
    for number, slot in sorted(bad.items()):
        address = rows[number].sites[slot - int(batch.site_offsets[number])].address
        invalid.append((rows[number].stream, f"The parameters stored at {address!r} make no distribution."))
    differences = tuple(
        one for number, row in enumerate(rows) if number not in bad for one in _differences(row, batch, number)
    )
    _add_sums(batch, row_of_site)
    if not bad:
        return batch, differences, invalid
    good = np.array([number not in bad for number in range(len(rows))])
    return batch.take(good) if good.any() else None, differences, invalid


def to_numbers(value: Array) -> list[float]:
    """Flatten a value."""
    if value.dtype.kind not in "biuf":
        message = f"A value has dtype {value.dtype}, which is not real numbers."
        raise InvalidInputError(message)
    if value.size == 1:
        return [float(value.item())]  # the common case, without a detour through lists
    numbers: list[float] = value.astype(np.float64).ravel().tolist()
    return numbers


def to_angles(value: Array) -> list[float]:
    """Flatten angles: pi rounded to single precision is larger than pi, and outside of where angles are."""
    rounded = float(np.float32(math.pi))
    return [math.copysign(math.pi, x) if math.pi < abs(x) <= rounded else x for x in to_numbers(value)]


def to_observation(value: Array) -> Array:
    """Observations keep their floating type, as a recorder keeps them; whole numbers become float64."""
    if value.dtype.kind not in "biuf":
        message = f"An observation has dtype {value.dtype}, which is not real numbers."
        raise InvalidInputError(message)
    array = value.reshape(draw_shape(value))
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _gather_observations(rows: Sequence[PyprobRow]) -> dict[str, Array]:
    columns: dict[str, Array] = {}
    for name in dict.fromkeys(name for row in rows for name in row.observations):
        found = {number: row.observations[name] for number, row in enumerate(rows) if name in row.observations}
        first = next(iter(found.values()))
        column = np.zeros((len(rows), *first.shape), np.result_type(*{array.dtype for array in found.values()}))
        for number, array in found.items():
            if array.shape != first.shape:
                message = f"Observation {name!r} has shapes {first.shape} and {array.shape}."
                raise InvalidInputError(message, name=name)
            column[number] = array
        columns[name] = column
    return columns


def _add_sums(batch: TraceBatch, row_of_site: NDArray[np.int64]) -> None:
    kinds = np.concatenate([batch.layouts[place].kinds for place in batch.layout_index])
    for column, kind in ((batch.log_prior, SiteKind.SAMPLE), (batch.log_likelihood, SiteKind.OBSERVE)):
        chosen = kinds == kind
        column[:] = np.bincount(row_of_site[chosen], batch.log_probs[chosen], len(batch))


def _differences(row: PyprobRow, batch: TraceBatch, number: int) -> list[str]:
    start = int(batch.site_offsets[number])
    found = []
    for position, stored, slack in row.stored:
        ours = float(batch.log_probs[start + position])
        num_elements = max(math.prod(row.sites[position].shape), 1)
        if stored == ours or abs(stored - ours) <= 1e-4 * (num_elements + abs(ours)) + slack:
            continue
        address = row.sites[position].address
        found.append(f"pyprob stored the log prob {stored:.9g} at {address!r}, where it is {ours:.9g}")
    return found
