"""Weights for other observed values or other likelihoods, from recorded traces: nothing is run again.

Each draw was made for the old observation, so its weight loses the old log probabilities of the observes that change
and gains the new ones: importance sampling from the old posterior. Everything else about the trace stays, which is
right as long as the simulator does not use the observed values after observing them.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import DegenerateWeightsError, InvalidInputError, UnknownAddressError
from tracestore.formats.document import digest
from tracestore.posteriors.draw_view import DrawView, call, weighted
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions import Distribution
from tracestore.traces.distributions.rows import is_known_family, log_prob_rows
from tracestore.traces.layout import MAX_OBSERVE_PARAMETERS, Layout, Site, SiteKind
from tracestore.traces.trace import Trace, TraceStatus

__all__ = ["Likelihood", "reobserve"]

Column = NDArray[np.float64]
Likelihood = Callable[[Trace], Distribution]
"""Function that gives the distribution of an observe in a trace."""


class _Change(NamedTuple):
    value: NDArray[np.float64] | None
    """The new observed value; None for the recorded one."""
    likelihood: Likelihood | None


def reobserve(view: DrawView, observations: Mapping[str, ArrayLike], likelihoods: Mapping[str, Likelihood]) -> DrawView:
    """Weight draws for other observed values or likelihoods.

    Parameters
    ----------
    view
        The draws.
    observations
        New observed values, by name of the observe.
    likelihoods
        Functions that give the new likelihood in a trace, by name of the observe.

    Returns
    -------
    DrawView
        The same draws with other weights. Draws that the old observation excluded count, too.

    Raises
    ------
    UnknownAddressError
        When no draw has an observe of a name.
    InvalidInputError
        When a value does not fit, an observe was changed before, or its likelihood is not in the traces.
    DegenerateWeightsError
        When no draw has weight afterwards.
    """
    names = dict.fromkeys([*observations, *likelihoods])
    changes = {name: _Change(_numbers(name, observations), likelihoods.get(name)) for name in names}
    _require_fresh(view, changes)
    is_prior = view.engine == "prior"
    log_weights = view.log_weights.copy()
    seen: set[str] = set()
    for rows, batch in view.table.batches():
        seen |= {name for layout in batch.layouts for name in changes if name in layout.observed_names}
        removed, added, touched = _score(batch, changes)
        old = log_weights[rows]
        # a draw that the old observation made impossible has a weight of zero that says nothing about the new one
        lost = touched & (removed == -math.inf) & (batch.status == TraceStatus.OK) & (not is_prior)
        if lost.any():
            _require_own_weights(view)
        with np.errstate(invalid="ignore"):
            # draws of the prior engine made their own observations, so their weights hold no likelihood to take out
            change = added if is_prior else added - removed
            new = np.where(old == -math.inf, -math.inf, old + change)
        new[lost] = (_base(batch) + _rest(batch, changes) + added)[lost]
        log_weights[rows] = np.where(touched, new, old)
    _require_seen(view, changes, seen)
    _require_weight(log_weights)
    step = {
        "reobserve": {
            name: None if change.value is None else digest(change.value.tobytes()) for name, change in changes.items()
        },
        "likelihoods": list(likelihoods),
    }
    values = {**view.reobserved, **{name: change.value for name, change in changes.items()}}
    return replace(weighted(view, log_weights, step), reobserved=values)


def _numbers(name: str, observations: Mapping[str, ArrayLike]) -> NDArray[np.float64] | None:
    if name not in observations:
        return None
    try:
        value = np.array(observations[name], dtype=np.float64)
    except (TypeError, ValueError) as error:
        message = f"Observation {name!r} must be a number or an array of numbers; found {observations[name]!r:.60}."
        raise InvalidInputError(message, name=name) from error
    if not np.isfinite(value).all():
        message = f"Observation {name!r} must be finite; {int((~np.isfinite(value)).sum())} of its numbers are not."
        raise InvalidInputError(message, name=name)
    return value


def _require_fresh(view: DrawView, changes: Mapping[str, _Change]) -> None:
    if not changes:
        message = "`reobserve` needs new `observations` or `likelihoods`; got neither."
        raise InvalidInputError(message, argument="observations")
    again = [name for name in changes if name in view.reobserved]
    if again:
        message = f"{again[0]!r} was reobserved before; go back to the posterior of the store and change all at once."
        raise InvalidInputError(message, names=tuple(again))


def _score(batch: TraceBatch, changes: Mapping[str, _Change]) -> tuple[Column, Column, NDArray[np.bool_]]:
    """Log probabilities taken out and put in, and which traces have any of the observes; shape ``(traces,)`` each."""
    removed, added = np.zeros(len(batch)), np.zeros(len(batch))
    touched = np.zeros(len(batch), np.bool_)
    for place, layout in enumerate(batch.layouts):
        rows = np.flatnonzero(batch.layout_index == place)
        for position, site, change in _changed(layout, changes):
            if not len(rows):
                continue
            removed[rows] += batch.log_probs[batch.site_offsets[rows] + position]
            added[rows] += _new_scores(batch, rows, position, site, change)
            touched[rows] = True
    return removed, added, touched


def _changed(layout: Layout, changes: Mapping[str, _Change]) -> Iterator[tuple[int, Site, _Change]]:
    for position, site in enumerate(layout.sites):
        if site.kind is SiteKind.OBSERVE and site.name in changes:
            yield position, site, changes[site.name]


def _new_scores(batch: TraceBatch, rows: NDArray[np.int64], position: int, site: Site, change: _Change) -> Column:
    """Log probability of an observe under what is new, in the traces of one layout."""
    if change.value is not None and change.value.shape != site.shape:
        message = (
            f"Observation {site.name!r} has shape {change.value.shape}; the simulator observes shape {site.shape}."
        )
        raise InvalidInputError(message, name=site.name, found=change.value.shape, expected=site.shape)
    dtype = batch.observations[site.name].dtype
    value = None if change.value is None else change.value.astype(dtype if dtype.kind == "f" else np.float64)
    if change.likelihood is not None:
        scores = np.empty(len(rows))
        for place, row in enumerate(rows.tolist()):
            trace = batch[row]
            if trace.status is TraceStatus.OK:
                observed = trace.observations[site.name] if value is None else value
                distribution = call(change.likelihood, trace)
                scores[place] = distribution.log_prob(observed if site.shape else float(observed))
            else:
                scores[place] = 0.0  # failed traces have no weight whatever is observed
    else:
        _require_stored(site)
        start, stop = batch.layouts[batch.layout_index[rows[0]]].parameter_offsets[position : position + 2]
        parameters = batch.parameters[batch.parameter_offsets[rows, None] + np.arange(start, stop)]
        values = np.broadcast_to(np.asarray(value), (len(rows), *site.shape))
        scores = log_prob_rows(site.family, site.shape, parameters, values)
    bad = np.isnan(scores) | (scores == math.inf)
    if bad.any():
        message = (
            f"The new log probability of {site.name!r} is {scores[bad][0]!r} in {int(bad.sum())} draws; densities must"
            " be finite or zero. Check the likelihood that you gave, or the store with `tracestore verify --deep`."
        )
        raise InvalidInputError(message, name=site.name)
    return scores


def _require_stored(site: Site) -> None:
    if site.num_parameters == 0 or not is_known_family(site.family):
        why = (
            f"it has more than {MAX_OBSERVE_PARAMETERS} numbers, which traces do not keep"
            if site.num_parameters == 0
            else f"its family {site.family} is not known"
        )
        message = (
            f"The likelihood of {site.name!r} cannot be rebuilt from the traces: {why}. Give it as a function of a"
            f" trace: `likelihoods={{{site.name!r}: function}}`."
        )
        raise InvalidInputError(message, name=site.name, address=site.address)


def _base(batch: TraceBatch) -> Column:
    """Log weight without any likelihood: what the proposal alone gives."""
    base = np.zeros(len(batch))
    proposed = np.flatnonzero(~np.isnan(batch.log_proposal))
    for row in proposed.tolist():
        layout = batch.layouts[batch.layout_index[row]]
        log_probs = batch.log_probs[batch.site_offsets[row] : batch.site_offsets[row + 1]]
        base[row] = float(log_probs[layout.controlled].sum()) - float(batch.log_proposal[row])
    return base


def _rest(batch: TraceBatch, changes: Mapping[str, _Change]) -> Column:
    """Log likelihood of the observes that stay as they are."""
    rest = np.zeros(len(batch))
    for place, layout in enumerate(batch.layouts):
        rows = np.flatnonzero(batch.layout_index == place)
        for position, site in enumerate(layout.sites):
            if site.kind is SiteKind.OBSERVE and site.name not in changes:
                rest[rows] += batch.log_probs[batch.site_offsets[rows] + position]
    return rest


def _require_seen(view: DrawView, changes: Mapping[str, _Change], seen: set[str]) -> None:
    unknown = [name for name in changes if name not in seen]
    if unknown:
        known = sorted({name for layout in view.table.layouts() for name in layout.observed_names})
        message = f"No draw has an observe {unknown[0]!r}; the observes are: {', '.join(known) or 'none'}."
        raise UnknownAddressError(message, name=unknown[0])


def _require_own_weights(view: DrawView) -> None:
    """Refuse where a factor was lost in a weight of zero that the new observation brings back."""
    if any("reweight" in step for step in view.steps):
        message = (
            "Some draws were impossible under the old observation, so the factor of `reweight` is lost in their zero"
            " weights. Reobserve first, then reweight."
        )
        raise InvalidInputError(message)


def _require_weight(log_weights: Column) -> None:
    if not (log_weights > -math.inf).any():
        message = (
            f"All {len(log_weights)} draws have weight zero under the new observation; it is impossible for every one"
            " of them. Infer with it from the start."
        )
        raise DegenerateWeightsError(message, num_draws=len(log_weights))
