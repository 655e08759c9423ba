"""Log probabilities computed anew from what a batch stores, and where they differ from the stored ones.

A checksum tells whether bytes are those that were written; this tells whether they make sense: the stored value under
the stored family and parameters has the stored log probability, and the log probabilities of a trace add up.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions.rows import is_known_family, log_prob_rows
from tracestore.traces.layout import Layout, Site, SiteKind

__all__ = ["ATOL", "RTOL", "Disagreement", "disagreements", "rescore", "scored_observations"]

RTOL = 1e-9
"""Relative tolerance. A sum of 100,000 terms, one after the other, is off by at most 1.2e-11 of the sum of their sizes;
the rest is for stores from machines whose logarithms round differently."""
ATOL = 1e-6
"""Absolute tolerance for each element of a draw. Terms of a log probability cancel: those of a Poisson count of a
million are 1e7 large, so another rounding of one moves the result by 2e-9, for a count of a hundred million by 2e-7."""

COLUMNS = (("log_prior", SiteKind.SAMPLE), ("log_likelihood", SiteKind.OBSERVE))
"""Columns of a trace that are sums over its sites of one kind, controlled or not."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A stored log probability that is not what the rest of the trace implies.

    Examples
    --------
    >>> print(Disagreement(3, "gum:mu~Normal#1", stored=-1.5, recomputed=-2.5))
    trace 3: log prob of gum:mu~Normal#1 is stored as -1.5, but its value and parameters give -2.5
    """

    row: int
    """Position of the trace in the batch."""
    address: str
    """Address of the site; ``log_prior`` or ``log_likelihood`` for the sums over a trace's sites."""
    stored: float
    recomputed: float
    """From value and parameters, NaN when the parameters make no distribution; the sum of the stored log probabilities
    of the sites for ``log_prior`` and ``log_likelihood``."""

    def __str__(self) -> str:
        if self.address in dict(COLUMNS):
            return (
                f"trace {self.row}: {self.address} is stored as {self.stored!r}, "
                f"but its sites sum to {self.recomputed!r}"
            )
        return (
            f"trace {self.row}: log prob of {self.address} is stored as {self.stored!r}, "
            f"but its value and parameters give {self.recomputed!r}"
        )


def rescore(batch: TraceBatch) -> NDArray[np.float64]:
    """Compute the log probability of every site from its stored value, family and parameters.

    Parameters
    ----------
    batch
        Traces.

    Returns
    -------
    ndarray of float64
        Of the shape of ``batch.log_probs``. NaN for tags, for sites without stored parameters (likelihoods too large to
        store), for families that this release does not know, and where parameters make no distribution.

    Raises
    ------
    InvalidInputError
        When the batch lacks one of the `scored_observations`.

    Examples
    --------
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> rng = np.random.default_rng(1)
    >>> batch = TraceBatch.from_traces([run_trace(toys.gum, PriorController(), rng) for _ in range(2)])
    >>> [site.kind.name for site in batch.layouts[0].sites]
    ['SAMPLE', 'OBSERVE', 'OBSERVE', 'TAG']
    >>> np.isnan(rescore(batch)).tolist()
    [False, False, False, True, False, False, False, True]
    """
    return _rescore(batch)[0]


def disagreements(batch: TraceBatch, *, rtol: float = RTOL, atol: float = ATOL) -> list[Disagreement]:
    """Find every stored log probability that does not follow from the rest of its trace.

    A site must have the log probability that its value has under its family and parameters; `rescore` tells which sites
    are left out. ``log_prior`` and ``log_likelihood`` must be the sums of the stored log probabilities of all sample
    and all observe sites, also of a trace that failed: it holds what was recorded until then. Infinities agree with
    themselves, NaN with NaN only.

    Parameters
    ----------
    batch
        Traces.
    rtol
        Tolerance relative to the log probability of a site, or to the sum of the sizes of those in a sum.
    atol
        Tolerance for each element of a draw, and for a sum.

    Returns
    -------
    list of Disagreement
        By trace; in a trace its sites in order, then the sums.

    Raises
    ------
    InvalidInputError
        When the batch lacks one of the `scored_observations`.

    Examples
    --------
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> batch = TraceBatch.from_traces([run_trace(toys.gum, PriorController(), np.random.default_rng(1))])
    >>> disagreements(batch)
    []
    >>> batch.log_prior[0] = 2.0
    >>> [found.address for found in disagreements(batch)]
    ['log_prior']
    """
    recomputed, num_elements = _rescore(batch)
    stored = batch.log_probs
    agree = _agree(stored, recomputed, rtol, np.abs(stored), atol * np.maximum(num_elements, 1))
    wrong = np.flatnonzero((num_elements >= 0) & ~agree)
    rows = np.searchsorted(batch.site_offsets, wrong, side="right") - 1
    found = []
    for slot, row in zip(wrong.tolist(), rows.tolist(), strict=True):
        sites = batch.layouts[batch.layout_index[row]].sites
        address = sites[slot - int(batch.site_offsets[row])].address
        found.append(Disagreement(row, address, float(stored[slot]), float(recomputed[slot])))
    found += _wrong_sums(batch, rtol, atol)
    return sorted(found, key=lambda one: one.row)


def scored_observations(layouts: Iterable[Layout]) -> set[str]:
    """Names of the observations that `rescore` needs: all others need not be read.

    Parameters
    ----------
    layouts
        Layouts of the batch.

    Examples
    --------
    >>> small = Site("p:y~Normal#1", SiteKind.OBSERVE, False, "y", "Normal", (), 2)
    >>> image = Site("p:image~Normal[35,35]#1", SiteKind.OBSERVE, False, "image", "Normal", (35, 35), 0)
    >>> scored_observations([Layout((small, image))])
    {'y'}
    """
    return {site.name for layout in layouts for site in layout.sites if _is_scored(site) and _is_observation(site)}


class _Group(NamedTuple):
    """What sites that are scored together have in common."""

    family: str
    shape: tuple[int, ...]
    num_parameters: int
    observation: str
    """Where the values are; empty for ``batch.values``."""


def _is_scored(site: Site) -> bool:
    return site.kind is not SiteKind.TAG and site.num_parameters > 0 and is_known_family(site.family)


def _is_observation(site: Site) -> bool:
    return site.kind is SiteKind.OBSERVE and bool(site.name)


def _rescore(batch: TraceBatch) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Log probability of every site, and how many elements its draw has; -1 for sites that are not scored."""
    groups: dict[_Group, int] = {}
    known: dict[int, int] = {}
    numbers = [_group_numbers(layout, groups, known) for layout in batch.layouts]
    result = np.full(len(batch.log_probs), np.nan)
    num_elements = np.full(len(batch.log_probs), -1)
    if not groups or not len(batch):
        return result, num_elements
    group_of_slot = _spread(batch, numbers)
    first_values = _starts(batch, [layout.value_offsets[:-1] for layout in batch.layouts], batch.value_offsets)
    first_parameters = _starts(
        batch, [layout.parameter_offsets[:-1] for layout in batch.layouts], batch.parameter_offsets
    )
    order = np.argsort(group_of_slot, kind="stable")
    bounds = np.searchsorted(group_of_slot[order], np.arange(len(groups) + 1))
    for group, number in groups.items():
        slots = order[bounds[number] : bounds[number + 1]]
        num_elements[slots] = math.prod(group.shape)
        if group.observation:
            rows = np.searchsorted(batch.site_offsets, slots, side="right") - 1
            values = _observed(batch, group, rows)
        else:
            values = _gather(batch.values, first_values[slots], math.prod(group.shape)).reshape(-1, *group.shape)
        if values is not None:
            parameters = _gather(batch.parameters, first_parameters[slots], group.num_parameters)
            result[slots] = log_prob_rows(group.family, group.shape, parameters, values)
    return result, num_elements


def _group_numbers(layout: Layout, groups: dict[_Group, int], known: dict[int, int]) -> NDArray[np.int64]:
    """Return the number of each site's group, -1 for sites that are not scored.

    New groups are added, and numbers remembered by the identity of the site: layouts share most of their sites.
    """
    numbers = []
    for site in layout.sites:
        number = known.get(id(site))
        if number is None:
            number = -1
            if _is_scored(site):
                observation = site.name if _is_observation(site) else ""
                group = _Group(site.family, site.shape, site.num_parameters, observation)
                number = groups.setdefault(group, len(groups))
            known[id(site)] = number
        numbers.append(number)
    return np.array(numbers, np.int64)


def _observed(batch: TraceBatch, group: _Group, rows: NDArray[np.int64]) -> NDArray[np.generic] | None:
    """Observed values of some traces; None when they have not the shape of their sites."""
    column = batch.observations.get(group.observation)
    if column is None:
        message = (
            f"Rescoring needs the observation {group.observation!r}, which the batch lacks; it has "
            f"{', '.join(map(repr, batch.observations)) or 'none'}. Read the traces with their `scored_observations`."
        )
        raise InvalidInputError(message, name=group.observation)
    return column[rows] if column.shape[1:] == group.shape else None


def _spread(batch: TraceBatch, per_layout: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Flat array over all sites of all traces, from one array over the sites of each layout."""
    return np.concatenate([per_layout[index] for index in batch.layout_index])


def _starts(
    batch: TraceBatch, per_layout: list[NDArray[np.int64]], trace_offsets: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Where the numbers of each site start in their flat column."""
    return _spread(batch, per_layout) + np.repeat(trace_offsets[:-1], batch.num_sites)


def _gather(flat: NDArray[np.float64], starts: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    gathered: NDArray[np.float64] = flat[starts[:, None] + np.arange(count)]
    return gathered


def _wrong_sums(batch: TraceBatch, rtol: float, atol: float) -> Iterator[Disagreement]:
    if not len(batch):
        return
    rows = np.repeat(np.arange(len(batch)), batch.num_sites)
    kinds = _spread(batch, [layout.kinds.astype(np.int64) for layout in batch.layouts])
    for column, kind in COLUMNS:
        chosen = kinds == kind
        terms = batch.log_probs[chosen]
        stored: NDArray[np.float64] = getattr(batch, column)
        # term after term in order, as a recorder adds them
        total = np.bincount(rows[chosen], terms, len(batch)).astype(np.float64)  # of integers when there is no term
        size = np.bincount(rows[chosen], np.abs(terms), len(batch)).astype(np.float64)
        for row in np.flatnonzero(~_agree(stored, total, rtol, size, np.full(len(batch), atol))).tolist():
            yield Disagreement(row, column, float(stored[row]), float(total[row]))


def _agree(
    stored: NDArray[np.float64],
    recomputed: NDArray[np.float64],
    rtol: float,
    size: NDArray[np.float64],
    allowance: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Whether numbers agree; an infinite tolerance, which comes of infinite terms, excuses no difference."""
    with np.errstate(all="ignore"):
        tolerance = rtol * size + allowance
        is_near = (np.abs(stored - recomputed) <= tolerance) & np.isfinite(tolerance)
    agree: NDArray[np.bool_] = is_near | (stored == recomputed) | (np.isnan(stored) & np.isnan(recomputed))
    return agree
