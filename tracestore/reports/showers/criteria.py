"""The criteria by which a model is judged: differences in units that people read, and limits for them.

The limits are ours: what a study of a calorimeter would call good enough depends on the study. Statistical measures
(the area under the curve, chi-squares) find smaller differences the more showers there are; these do not.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tracestore.diagnostics.bands import correlation_matrix
from tracestore.diagnostics.showers import AXES
from tracestore.diagnostics.two_samples import AreaEstimate
from tracestore.reports.showers.measures import features_of, profile_rows, quantities_of
from tracestore.reports.showers.numbers import Criterion
from tracestore.reports.showers.sets import LabelBin, ShowerPlan, ShowerSet, label_bins

__all__ = ["judge"]

FloatArray = NDArray[np.float64]

LEAST_JUDGED = 60
"""Fewest showers of each set in a bin that is judged."""
RESPONSE, HITS = 0, 1
"""Columns of `quantities_of`; centers and widths follow."""
NUM_MOMENTS = 2 * len(AXES)
NORMAL_95 = 1.96
"""Half the width of a central interval of 95 %, in standard errors."""
TINY = 1e-150


def judge(
    model: ShowerSet, reference: ShowerSet, plan: ShowerPlan, areas: Sequence[tuple[str, AreaEstimate]]
) -> tuple[Criterion, ...]:
    """Compare a model with the reference by all criteria.

    Parameters
    ----------
    model, reference
        Sets with labels that are distributed alike.
    plan
        Bins.
    areas
        Area of the classifier, and where: over all showers, and in bins.

    Returns
    -------
    tuple of Criterion
        In the order in which they are shown.
    """
    pairs = list(_pairs(model, reference, plan.bins))
    fine = [one for label, edges in plan.fine_edges.items() for one in label_bins(label, edges)]
    fine_pairs = list(_pairs(model, reference, fine)) or pairs
    tables = [(where, quantities_of(one), quantities_of(other)) for where, one, other in fine_pairs]
    return (
        _largest("auc", "classifier area", 0.6, 0.8, [(where, _area(one, len(areas))) for where, one in areas]),
        *(_profile(axis, pairs) for axis in AXES),
        _worst("response", "sampling fraction", 0.01, 0.03, tables, _mean_change(RESPONSE)),
        _worst("resolution", "resolution", 0.1, 0.25, tables, _spread_change(RESPONSE)),
        _worst("hits", "number of hits", 0.03, 0.1, tables, _mean_change(HITS)),
        _spectrum(pairs, plan),
        _worst("moments", "means of centers and widths", 0.1, 0.3, tables, _moment_shift, NUM_MOMENTS),
        _worst("moment_spreads", "spreads of centers and widths", 0.1, 0.3, tables, _moment_spread, NUM_MOMENTS),
        _correlations(pairs),
    )


Pair = tuple[str, ShowerSet, ShowerSet]
Table = tuple[str, FloatArray, FloatArray]
Difference = tuple[float, float]
"""A difference and what noise makes it, about."""


def _pairs(model: ShowerSet, reference: ShowerSet, bins: Sequence[LabelBin]) -> Iterator[Pair]:
    """Yield the showers of each bin that has enough of both."""
    for one in bins:
        chosen, others = one.select(model.labels), one.select(reference.labels)
        if min(chosen.sum(), others.sum()) >= LEAST_JUDGED:
            yield f"at {one.words}", model.select(chosen), reference.select(others)


def _largest(key: str, title: str, good: float, bad: float, found: Sequence[tuple[str, Difference]]) -> Criterion:
    """Return the difference that exceeds its noise most; the largest when none does."""
    if not found:
        return Criterion(key, title, float("nan"), 0.0, good, bad, "nowhere: too few showers")
    where, (value, noise) = max(found, key=lambda one: (max(one[1][0] - one[1][1], 0.0), one[1][0]))
    return Criterion(key, title, value, noise, good, bad, where)


def _area(area: AreaEstimate, number: int) -> Difference:
    """Return an area and how far the largest of a number of them is lifted by noise."""
    return area.value, _reach(number) / NORMAL_95 * 0.5 * (area.upper - area.lower)


def _reach(number: int) -> float:
    """Return how many standard errors the largest of some Normal numbers reaches, about."""
    return math.sqrt(2.0 * math.log(2.0 * max(number, 1)))


def _worst(
    key: str, title: str, good: float, bad: float, tables: Sequence[Table],
    measure: Callable[[FloatArray, FloatArray, float], Difference], number: int = 1,
) -> Criterion:  # fmt: skip
    """Return the largest of differences, a number of them in each bin."""
    reach = _reach(number * len(tables))
    return _largest(key, title, good, bad, [(where, measure(one, other, reach)) for where, one, other in tables])


def _profile(axis: str, pairs: Sequence[Pair]) -> Criterion:
    """Return the share of the energy that is in wrong cells of the profile."""
    found = []
    for where, model, reference in pairs:
        one, other = profile_rows(model, axis), profile_rows(reference, axis)
        found.append((where, _misplaced(one, other)))
    return _largest(f"profile_{axis}", f"profile along {axis}", 0.02, 0.05, found)


def _spectrum(pairs: Sequence[Pair], plan: ShowerPlan) -> Criterion:
    """Return the share of the hit cells that have a wrong energy, by bins of it."""
    kept = plan.spectrum_edges[1:] > plan.threshold
    found = [
        (where, _misplaced(model.spectra[:, kept].astype(np.float64), reference.spectra[:, kept].astype(np.float64)))
        for where, model, reference in pairs
    ]
    return _largest("spectrum", "energies of cells", 0.03, 0.1, found)


def _misplaced(one: FloatArray, other: FloatArray) -> Difference:
    """Return half of the summed differences of two normalized mean rows, and what noise makes it."""
    total, other_total = one.sum(axis=1).mean(), other.sum(axis=1).mean()
    if not (total > 0.0 and other_total > 0.0):
        return float(total != other_total), 0.0
    shares, other_shares = one.mean(axis=0) / total, other.mean(axis=0) / other_total
    # errors of the shares: what a shower adds beyond its own part of the whole
    errors = [
        (rows - rows.sum(axis=1, keepdims=True) * share).std(axis=0) / whole / np.sqrt(len(rows))
        for rows, share, whole in ((one, shares, total), (other, other_shares, other_total))
    ]
    noise = 0.5 * np.sqrt(2.0 / np.pi) * np.hypot(*errors).sum()
    return float(0.5 * np.abs(shares - other_shares).sum()), float(1.25 * noise)


def _mean_change(column: int) -> Callable[[FloatArray, FloatArray, float], Difference]:
    def measure(one: FloatArray, other: FloatArray, reach: float) -> Difference:
        mean, other_mean = one[:, column].mean(), other[:, column].mean()
        if not other_mean > 0.0:
            return float(mean > 0.0), 0.0
        error = np.hypot(*(rows[:, column].std() / np.sqrt(len(rows)) for rows in (one, other)))
        return float(abs(mean / other_mean - 1.0)), float(reach * error / other_mean)

    return measure


def _spread_change(column: int) -> Callable[[FloatArray, FloatArray, float], Difference]:
    """Compare standard deviations over means."""

    def measure(one: FloatArray, other: FloatArray, reach: float) -> Difference:
        columns = [rows[:, column : column + 1] for rows in (one, other)]
        relative = [rows.std(axis=0) / np.maximum(np.abs(rows.mean(axis=0)), TINY) for rows in columns]
        return _most(
            _log_ratio(*relative), reach * np.sqrt(_spread_variance(columns[0]) + _spread_variance(columns[1]))
        )

    return measure


def _moment_shift(one: FloatArray, other: FloatArray, reach: float) -> Difference:
    """Return the largest change of a mean, in standard deviations of the reference."""
    spread = other[:, HITS + 1 :].std(axis=0)
    varies = spread > 0.0
    change = np.abs(one[:, HITS + 1 :].mean(axis=0) - other[:, HITS + 1 :].mean(axis=0))[varies] / spread[varies]
    errors = np.hypot(one[:, HITS + 1 :].std(axis=0)[varies] / spread[varies] / np.sqrt(len(one)), len(other) ** -0.5)
    return _most(change, reach * errors)


def _moment_spread(one: FloatArray, other: FloatArray, reach: float) -> Difference:
    rows, others = one[:, HITS + 1 :], other[:, HITS + 1 :]
    noise = reach * np.sqrt(_spread_variance(rows) + _spread_variance(others))
    return _most(_log_ratio(rows.std(axis=0), others.std(axis=0)), noise)


def _correlations(pairs: Sequence[Pair]) -> Criterion:
    """Return the largest difference of a correlation of features, bin by bin."""
    found = []
    for where, model, reference in pairs:
        names, rows = features_of(model)
        other = features_of(reference).values
        above = np.triu_indices(len(names), 1)
        first, second = correlation_matrix(rows)[above], correlation_matrix(other)[above]
        errors = np.hypot((1.0 - first**2) / np.sqrt(len(rows)), (1.0 - second**2) / np.sqrt(len(other)))
        # a feature that varies in one set only differs altogether; one that varies in neither does not
        is_nowhere = np.isnan(first) & np.isnan(second)
        change = np.where(is_nowhere, 0.0, np.nan_to_num(np.abs(first - second), nan=1.0))
        noise = _reach(len(change) * len(pairs)) * np.nan_to_num(errors)
        place = _worst_place(change, noise)
        words = f"of {names[above[0][place]]} and {names[above[1][place]]} {where}"
        found.append((words, (float(change[place]), float(noise[place]))))
    return _largest("correlations", "correlations of features", 0.1, 0.25, found)


def _most(change: FloatArray, noise: FloatArray) -> Difference:
    if not len(change):
        return 0.0, 0.0
    place = _worst_place(change, noise)
    return float(change[place]), float(noise[place])


def _worst_place(change: FloatArray, noise: FloatArray) -> int:
    """Return where a difference exceeds its noise most, or is largest when none does."""
    excess = np.maximum(change - noise, 0.0)
    return int(np.argmax(excess if excess.any() else change))


def _log_ratio(one: FloatArray, other: FloatArray) -> FloatArray:
    """Return how far quotients are from one, as logarithms; zero where neither varies, infinite where one does not."""
    with np.errstate(all="ignore"):
        return np.where((one == 0.0) & (other == 0.0), 0.0, np.abs(np.log(one) - np.log(other)))


def _spread_variance(values: FloatArray) -> FloatArray:
    """Return the squared relative errors of standard deviations of columns, from their fourth moments."""
    centered = values - values.mean(axis=0)
    square = np.maximum((centered**2).mean(axis=0), TINY)
    variance: FloatArray = np.maximum((centered**4).mean(axis=0) / square**2 - 1.0, 0.0) / (4.0 * len(values))
    return variance
