"""Compare sets of showers: areas of classifiers, chi-squares of profiles, criteria. Sets in, a record out.

A surrogate has the labels of the reference, shower by shower. A store has its own: where they are distributed
otherwise, as many showers of each small bin of labels are taken from both sets, so that labels tell nothing apart.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracestore.diagnostics.showers import AXES
from tracestore.diagnostics.two_samples import ChiSquare, chi_square, classifier_area
from tracestore.errors import InvalidInputError
from tracestore.formats.document import JSON
from tracestore.reports.showers.criteria import judge
from tracestore.reports.showers.measures import Edges, features_of, histogram_edges, measure_set, profile_rows
from tracestore.reports.showers.numbers import ComparisonResult, ModelComparison, SetNumbers
from tracestore.reports.showers.sets import ANGLE, ENERGY, LABEL_UNITS, ShowerPlan, ShowerSet
from tracestore.reports.showers.sources import LEAST_SHOWERS

__all__ = ["compare_sets", "labels_differ", "match_labels"]

FloatArray = NDArray[np.float64]
Rows = NDArray[np.int64]

LEAST_TOLD_APART = 100
"""Fewest showers of each set for a classifier in a bin."""
DIFFERENT = 1e-3
"""Probability below which labels are taken for distributed otherwise."""
MATCH_BINS = {ENERGY: 40, ANGLE: 8}


def compare_sets(
    reference: ShowerSet,
    models: Sequence[ShowerSet],
    plan: ShowerPlan,
    *,
    origins: Mapping[str, str],
    is_paired: Mapping[str, bool],
    seed: int,
    facts: Mapping[str, JSON],
    advance: Callable[[int], None] = lambda done: None,
) -> ComparisonResult:
    """Compare models with the reference.

    Parameters
    ----------
    reference, models
        Sets read with the plan.
    plan
        Bins.
    origins
        Where models are from, by name, in words.
    is_paired
        Which models have the labels of the reference.
    seed
        Of resampling and classifiers.
    facts
        How the comparison was made, for the record.
    advance
        Told the number of sets compared so far.

    Raises
    ------
    InvalidInputError
        When the labels of a model hardly overlap with those of the reference.
    """
    edges = histogram_edges([reference, *models], plan.bins)
    matches = {one.name: None if is_paired[one.name] else match_labels(reference, one, seed=seed) for one in models}
    measured = measure_set(reference, plan, edges, seed=seed)
    advance(1)
    compared = []
    for place, model in enumerate(models):
        rows = matches[model.name]
        part, other, against = model, reference, measured
        if rows is not None:
            part, other = model.select(rows[1]), reference.select(rows[0])
            against = measure_set(other, plan, edges, seed=seed)
        remarks = _remarks(model, rows, len(reference))
        sides = _Sides(part, other, against, origins[model.name], remarks)
        compared.append(_compare(sides, plan, edges, seed + place + 1))
        advance(place + 2)
    order = np.random.default_rng(seed).permutation(len(reference))
    halves = [reference.select(np.sort(order[start::2])) for start in (0, 1)]
    words = ("Half of the reference against the other half: what these sizes give when there is no difference.",)
    floor = _compare(_Sides(halves[0], halves[1], measured, "half of the reference", words), plan, edges, seed)
    advance(len(models) + 2)
    names = features_of(reference).names
    return ComparisonResult(
        reference=measured,
        models=tuple(compared),
        floor=floor,
        bins=plan.bins,
        picture_bins=plan.picture_bins,
        picture_axis=AXES[plan.picture_axis],
        feature_names=names,
        facts=facts,
    )


def match_labels(reference: ShowerSet, model: ShowerSet, *, seed: int) -> tuple[Rows, Rows] | None:
    """Choose rows of two sets so that their labels are distributed alike; None when they are already.

    Parameters
    ----------
    reference, model
        The sets.
    seed
        Of the choice.

    Returns
    -------
    tuple of ndarray or None
        Rows of the reference and of the model, ascending.

    Raises
    ------
    InvalidInputError
        When too few showers have labels in common.
    """
    if not any(labels_differ(reference.labels[label], model.labels[label]) for label in reference.labels):
        return None
    cells, number = [np.zeros(len(one), np.int64) for one in (reference, model)], 1
    for label, count in MATCH_BINS.items():
        if label in reference.labels:
            pooled = [one.labels[label] for one in (reference, model)]
            edges = np.unique(np.quantile(np.concatenate(pooled), np.linspace(0.0, 1.0, count + 1)))
            for place, values in enumerate(pooled):
                cells[place] = cells[place] * count + np.searchsorted(edges[1:-1], values, "right")
            number *= count
    counts = np.minimum(*(np.bincount(one, minlength=number) for one in cells))
    if counts.sum() < LEAST_SHOWERS:
        label = ENERGY
        ranges = [f"{one.labels[label].min():g} to {one.labels[label].max():g}" for one in (reference, model)]
        message = (
            f"Labels of {model.name!r} and of the reference hardly overlap: {int(counts.sum())} showers in common, "
            f"{LEAST_SHOWERS} are needed. Energies are {ranges[1]} and {ranges[0]} {LABEL_UNITS[label]}."
        )
        raise InvalidInputError(message, argument="models", name=model.name, found=int(counts.sum()))
    rng = np.random.default_rng(seed)
    first, second = (_first_of_each(one, counts, rng) for one in cells)
    return first, second


def labels_differ(one: FloatArray, other: FloatArray) -> bool:
    """Tell whether two sets of numbers have different distributions, by the test of Kolmogorov and Smirnov.

    Parameters
    ----------
    one, other
        Shapes ``(N,)`` and ``(M,)``.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> labels_differ(rng.random(500), rng.random(400)), labels_differ(rng.random(500), rng.random(400) ** 2)
    (False, True)
    """
    points = np.sort(np.concatenate([one, other]))
    reached = [np.searchsorted(np.sort(values), points, "right") / len(values) for values in (one, other)]
    distance = float(np.abs(reached[0] - reached[1]).max())
    size = len(one) * len(other) / (len(one) + len(other))
    return bool(2.0 * np.exp(-2.0 * size * distance**2) < DIFFERENT)


class _Sides(NamedTuple):
    """A model and what it is compared with."""

    model: ShowerSet
    reference: ShowerSet
    against: SetNumbers
    origin: str
    remarks: tuple[str, ...]


def _compare(sides: _Sides, plan: ShowerPlan, edges: Edges, seed: int) -> ModelComparison:
    model, reference = sides.model, sides.reference
    numbers = measure_set(model, plan, edges, reference=reference, seed=seed)
    masks = [(one.select(model.labels), one.select(reference.labels)) for one in plan.bins]
    rows, others = features_of(model).values, features_of(reference).values
    auc = classifier_area(others, rows, seed=seed)
    by_axis: dict[str, ChiSquare] = {}
    by_bin: dict[str, tuple[ChiSquare | None, ...]] = {}
    for axis in AXES:
        first, second = _unexplained(model, reference, axis)
        by_axis[axis] = chi_square(first, second)
        least = max(LEAST_TOLD_APART, 4 * first.shape[1])
        by_bin[axis] = tuple(
            chi_square(first[mask], second[other]) if min(mask.sum(), other.sum()) >= least else None
            for mask, other in masks
        )
    areas = tuple(
        classifier_area(others[other], rows[mask], seed=seed)
        if min(mask.sum(), other.sum()) >= LEAST_TOLD_APART
        else None
        for mask, other in masks
    )
    found = [("over all showers", auc)]
    found += [(f"at {one.words}", area) for one, area in zip(plan.bins, areas, strict=True) if area is not None]
    return ModelComparison(
        name=model.name,
        origin=sides.origin,
        numbers=numbers,
        against=sides.against,
        num_compared=min(len(model), len(reference)),
        auc=auc,
        auc_by_bin=areas,
        chi_square=by_axis,
        chi_square_by_bin=by_bin,
        response_difference=float(model.response.mean() / reference.response.mean() - 1.0),
        criteria=judge(model, reference, plan, found),
        remarks=sides.remarks,
    )


def _unexplained(model: ShowerSet, reference: ShowerSet, axis: str) -> tuple[FloatArray, FloatArray]:
    """Return profiles without what a polynomial in the labels, common to both sets, explains.

    Means differ as they did. But the spread over labels, which both sets share, would hide differences between them.
    """
    rows = np.concatenate([profile_rows(model, axis), profile_rows(reference, axis)])
    columns = [np.ones(len(rows))]
    energy = np.log(np.concatenate([model.energy, reference.energy]))
    columns += [_centered(energy) ** power for power in (1, 2, 3)]
    if ANGLE in model.labels:
        angle = np.concatenate([model.labels[ANGLE], reference.labels[ANGLE]])
        columns += [_centered(angle) ** power for power in (1, 2, 3, 4)]
        columns += [_centered(angle) * _centered(energy), _centered(angle) ** 2 * _centered(energy)]
    basis = np.stack(columns, axis=1)
    solution, *_ = np.linalg.lstsq(basis, rows, rcond=None)
    rest = rows - basis @ solution
    return rest[: len(model)], rest[len(model) :]


def _centered(values: FloatArray) -> FloatArray:
    spread = values.std()
    centered: FloatArray = (values - values.mean()) / (spread if spread > 0.0 else 1.0)
    return centered


def _first_of_each(cells: Rows, counts: Rows, rng: np.random.Generator) -> Rows:
    """Choose as many rows of each cell as counted, at random."""
    order = rng.permutation(len(cells))
    order = order[np.argsort(cells[order], kind="stable")]
    ordered = cells[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered, "left")
    return np.sort(order[rank < counts[ordered]])


def _remarks(model: ShowerSet, rows: tuple[Rows, Rows] | None, num_reference: int) -> tuple[str, ...]:
    found = []
    if rows is not None:
        found.append(
            f"Its energies or angles are distributed otherwise than those of the reference: {len(rows[0]):,} of its "
            f"{len(model):,} showers, and as many of the reference's {num_reference:,}, with labels alike are compared."
        )
    if model.num_negative:
        found.append(f"{model.num_negative:,} cells are below zero; they count as empty.")
    return tuple(found)
