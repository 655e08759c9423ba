"""What is drawn of one set of showers: profiles, trends, histograms, spectra, correlations, with bootstrap bands.

Sets in, numbers out.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tracestore.diagnostics.bands import Band, bootstrap_band, correlation_matrix, ratio_band
from tracestore.diagnostics.showers import AXES, ShowerFeatures, shower_features
from tracestore.reports.showers.numbers import Histogram, SetNumbers, Trend
from tracestore.reports.showers.sets import ANGLE, LabelBin, ShowerPlan, ShowerSet

__all__ = [
    "LEAST_DRAWN", "QUANTITIES", "Edges", "features_of", "histogram_edges", "measure_set", "profile_rows",
    "quantities_of",
]  # fmt: skip

FloatArray = NDArray[np.float64]
Edges = Mapping[str, tuple[FloatArray, ...]]
"""Edges of histograms by quantity and bin."""

QUANTITIES = ("response", "hits", *(f"center_{axis}" for axis in AXES), *(f"width_{axis}" for axis in AXES))
"""What is drawn against labels."""
LEAST_DRAWN = 30
"""Fewest showers behind a curve with a band."""
LEAST_IN_POINT = 10
NUM_RESAMPLES = 200
MEV = 1e3
TAILS = (0.002, 0.998)


def features_of(showers: ShowerSet) -> ShowerFeatures:
    """Return the table that the classifier sees.

    Parameters
    ----------
    showers
        The set.
    """
    return shower_features(showers.summary, showers.energy, angles=showers.labels.get(ANGLE))


def quantities_of(showers: ShowerSet) -> FloatArray:
    """Return `QUANTITIES` of each shower, shape ``(N, quantities)``: hits are those above the lowest threshold.

    Parameters
    ----------
    showers
        The set.
    """
    summary = showers.summary
    columns = [showers.response, summary.hits[:, 0].astype(np.float64), *summary.centers.T, *summary.widths.T]
    return np.stack(columns, axis=1)


def profile_rows(showers: ShowerSet, axis: str) -> FloatArray:
    """Return profiles in MeV for each GeV of the particle, shape ``(N, cells)``.

    Parameters
    ----------
    showers
        The set.
    axis
        One of `AXES`.
    """
    rows: FloatArray = showers.summary.profiles[AXES.index(axis)] * (MEV / showers.energy[:, None])
    return rows


def histogram_edges(sets: Sequence[ShowerSet], bins: Sequence[LabelBin]) -> Edges:
    """Choose edges that all sets share, as fine as the smallest set allows.

    They hold nearly all of each set, but no more than three times the range of the first.

    Parameters
    ----------
    sets
        The sets, the reference first.
    bins
        The bins of labels.

    Returns
    -------
    dict of str to tuple of ndarray
        For ``response`` and ``hits``, by bin.
    """
    edges: dict[str, list[FloatArray]] = {"response": [], "hits": []}
    for one in bins:
        parts = [showers.select(one.select(showers.labels)) for showers in sets]
        parts = [part for part in parts if len(part) >= LEAST_DRAWN]
        fewest = min((len(part) for part in parts), default=1)
        number = int(np.clip(2.0 * fewest ** (1 / 3), 8, 40))
        for name, values in (
            ("response", [p.response for p in parts]),
            ("hits", [p.summary.hits[:, 0] for p in parts]),
        ):
            tails = np.array([np.quantile(row, TAILS) for row in values] or [np.array([0.0, 1.0])])
            width = float(tails[0, 1] - tails[0, 0])
            low = max(float(tails[:, 0].min()), float(tails[0, 0]) - width)
            high = min(float(tails[:, 1].max()), float(tails[0, 1]) + width)
            if not high > low:
                low, high = low - 0.5, high + 0.5
            edges[name].append(np.linspace(low, high, number + 1))
    return {name: tuple(several) for name, several in edges.items()}


def measure_set(
    showers: ShowerSet, plan: ShowerPlan, edges: Edges, *, reference: ShowerSet | None = None, seed: int = 0
) -> SetNumbers:
    """Compute everything that is drawn of a set.

    Parameters
    ----------
    showers
        The set.
    plan
        Its bins.
    edges
        Of histograms, by quantity and bin.
    reference
        What profiles are divided by; none for the reference itself.
    seed
        Of the resampling.

    Returns
    -------
    SetNumbers
        With bands of 95 %.
    """
    rng = np.random.default_rng(seed)
    masks = [one.select(showers.labels) for one in plan.bins]
    profiles: dict[str, tuple[Band | None, ...]] = {}
    ratios: dict[str, tuple[Band | None, ...]] = {}
    for axis in AXES:
        rows = profile_rows(showers, axis)
        profiles[axis] = tuple(_mean_band(rows[mask], rng) for mask in masks)
        if reference is not None:
            others = profile_rows(reference, axis)
            pairs = [
                (rows[mask], others[one.select(reference.labels)]) for mask, one in zip(masks, plan.bins, strict=True)
            ]
            ratios[axis] = tuple(_quotient(row, other, rng) for row, other in pairs)
    table = quantities_of(showers)
    features = features_of(showers).values
    total = float(showers.summary.total.sum() + showers.lost.sum())
    num_cells = len(showers) * int(np.prod([profile.shape[1] for profile in showers.summary.profiles]))
    return SetNumbers(
        name=showers.name,
        num_showers=len(showers),
        counts=tuple(int(mask.sum()) for mask in masks),
        profiles=profiles,
        ratios=ratios,
        trends={
            label: _trend(label, showers.labels[label], table, fine, rng) for label, fine in plan.fine_edges.items()
        },
        histograms={
            name: tuple(
                _histogram(table[mask, place], known, rng) for mask, known in zip(masks, edges[name], strict=True)
            )
            for place, name in enumerate(("response", "hits"))
        },
        spectra=tuple(_spectrum(showers.spectra[mask], plan.spectrum_edges, rng) for mask in masks),
        correlations=tuple(
            correlation_matrix(features[mask]) if mask.sum() >= LEAST_DRAWN else None
            for mask in [np.ones(len(showers), np.bool_), *masks]
        ),
        response=float(showers.response.mean()),
        below_threshold=float(showers.lost.sum()) / total if total > 0.0 else 0.0,
        negative_cells=showers.num_negative / num_cells,
        pictures=showers.pictures,
        singles=showers.singles,
        single_labels=showers.single_labels,
    )


def _mean_band(rows: FloatArray, rng: np.random.Generator) -> Band | None:
    if len(rows) < LEAST_DRAWN:
        return None
    return bootstrap_band(rows, seed=_seed(rng), num_resamples=NUM_RESAMPLES)


def _quotient(rows: FloatArray, others: FloatArray, rng: np.random.Generator) -> Band | None:
    if min(len(rows), len(others)) < LEAST_DRAWN:
        return None
    with np.errstate(all="ignore"):
        return ratio_band(rows, others, seed=_seed(rng), num_resamples=NUM_RESAMPLES)


def _histogram(values: FloatArray, edges: FloatArray, rng: np.random.Generator) -> Histogram | None:
    if len(values) < LEAST_DRAWN:
        return None
    places = np.searchsorted(edges, values, "right") - 1
    places[values == edges[-1]] = len(edges) - 2
    is_in = (places[:, None] == np.arange(len(edges) - 1)).astype(np.float64)
    band = bootstrap_band(is_in, seed=_seed(rng), num_resamples=NUM_RESAMPLES)
    return Histogram(edges, Band(*(numbers / np.diff(edges) for numbers in band)))


def _spectrum(spectra: NDArray[np.int32], edges: FloatArray, rng: np.random.Generator) -> Histogram | None:
    band = _mean_band(spectra.astype(np.float64), rng)
    return None if band is None else Histogram(edges, band)


def _trend(label: str, by: FloatArray, table: FloatArray, edges: FloatArray, rng: np.random.Generator) -> Trend:
    places = np.searchsorted(edges, by, "right") - 1
    places[by == edges[-1]] = len(edges) - 2
    counts = np.array([np.count_nonzero(places == place) for place in range(len(edges) - 1)])
    found = np.full((3, 3, len(counts), table.shape[1]), np.nan)  # band, statistic, bin, quantity
    for place, count in enumerate(counts):
        if count >= LEAST_IN_POINT:
            rows = table[places == place]
            band = bootstrap_band(rows, seed=_seed(rng), statistic=_mean_and_spread, num_resamples=NUM_RESAMPLES)
            found[:, :, place] = np.stack(band)
    mean, spread, relative = (
        {name: Band(*found[:, statistic, :, column]) for column, name in enumerate(QUANTITIES)}
        for statistic in range(3)
    )
    return Trend(label, edges, counts, mean, spread, relative)


def _mean_and_spread(rows: FloatArray) -> FloatArray:
    """Return mean, standard deviation, and their quotient, zero where there is none, shape ``(3, quantities)``."""
    mean, spread = rows.mean(axis=0), rows.std(axis=0, ddof=1)
    return np.stack([mean, spread, np.divide(spread, mean, out=np.zeros_like(mean), where=mean != 0.0)])


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))
