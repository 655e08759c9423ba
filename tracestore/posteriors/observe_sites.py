"""What the observe statements of stored traces tell: which one rules the draws out, which likelihood has no bound."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracestore.traces.batch import TraceBatch
from tracestore.traces.layout import Site, SiteKind

__all__ = ["ObserveScore", "observe_scores", "unbounded_observes"]

_SCALES = ("Normal", "LogNormal", "TruncatedNormal", "VonMises")
"""Families whose density is bounded while their second parameter stays where it is."""
_BOUNDED = ("Bernoulli", "Binomial", "Categorical", "Exponential", "Poisson")
"""Families whose probability of one value is bounded whatever their parameters are."""


class ObserveScore(NamedTuple):
    """Log probabilities at one observe statement over some draws."""

    name: str
    """The user's name, or the address where it has none."""
    address: str
    """Address of the first visit."""
    num_visits: int
    num_impossible: int
    """Visits at which the observed value had probability zero."""
    mean: float
    """Mean log probability of the other visits; -inf without any."""
    best: float
    """Largest log probability."""


def observe_scores(batch: TraceBatch) -> list[ObserveScore]:
    """Collect the log probabilities at each observe statement, the one that rules most draws out first.

    Parameters
    ----------
    batch
        Draws.

    Returns
    -------
    list[ObserveScore]
        By number of impossible visits, then by mean log probability, the lowest first.

    Examples
    --------
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> rng = np.random.default_rng(1)
    >>> seen = {"obs0": np.array(900.0), "obs1": np.array(0.0)}
    >>> traces = [run_trace(toys.gum, PriorController(), rng, observations=seen) for _ in range(5)]
    >>> [score.name for score in observe_scores(TraceBatch.from_traces(traces))]
    ['obs0', 'obs1']
    """
    found: dict[str, list[NDArray[np.float64]]] = {}
    address: dict[str, str] = {}
    for position, site, rows in _observes(batch):
        key = site.name or site.base
        address.setdefault(key, site.address)
        found.setdefault(key, []).append(batch.log_probs[batch.site_offsets[rows] + position])
    scores = []
    for key, parts in found.items():
        log_probs = np.concatenate(parts)
        finite = log_probs[np.isfinite(log_probs)]
        scores.append(
            ObserveScore(
                name=key,
                address=address[key],
                num_visits=len(log_probs),
                num_impossible=int((log_probs == -np.inf).sum()),
                mean=float(finite.mean()) if len(finite) else -np.inf,
                best=float(log_probs.max(initial=-np.inf)),
            )
        )
    return sorted(scores, key=lambda score: (-score.num_impossible, score.mean))


def unbounded_observes(batch: TraceBatch) -> list[str]:
    """Name the observes whose likelihood may have no bound: densities whose width is itself random.

    A density that a draw can make arbitrarily narrow gives weights of any size, so that the variance of importance
    sampling may be infinite even when a share of the draws comes from the prior.

    Parameters
    ----------
    batch
        Draws; likelihoods too large to be stored are not judged.

    Examples
    --------
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> rng = np.random.default_rng(1)
    >>> batch = TraceBatch.from_traces([run_trace(toys.gum, PriorController(), rng) for _ in range(5)])
    >>> unbounded_observes(batch)
    []
    """
    widths: dict[str, list[NDArray[np.float64]]] = {}
    for position, site, rows in _observes(batch):
        if site.family in _BOUNDED or not site.num_parameters:
            continue
        layout = batch.layouts[batch.layout_index[rows[0]]]
        start = batch.parameter_offsets[rows] + layout.parameter_offsets[position]
        parameters = batch.parameters[start[:, None] + np.arange(site.num_parameters)]
        if site.family in _SCALES:
            parameters = parameters[:, math.prod(site.shape) : 2 * math.prod(site.shape)]
        widths.setdefault(site.name or site.base, []).append(parameters)
    return [name for name, parts in widths.items() if _varies(parts)]


def _varies(parts: list[NDArray[np.float64]]) -> bool:
    first = parts[0][0]
    return any(part.shape[1:] != first.shape or not np.allclose(part, first, rtol=1e-9, atol=0.0) for part in parts)


def _observes(batch: TraceBatch) -> Iterator[tuple[int, Site, NDArray[np.int64]]]:
    """Yield position, site and traces of each observe of each layout."""
    for place, layout in enumerate(batch.layouts):
        rows = np.flatnonzero(batch.layout_index == place)
        if not len(rows):
            continue
        for position, site in enumerate(layout.sites):
            if site.kind is SiteKind.OBSERVE:
                yield position, site, rows
