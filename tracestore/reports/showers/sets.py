"""Sets of showers, read in blocks and kept as summaries: what a comparison is computed from. Needs no torch.

A set is a few hundred numbers a shower, whatever the size of its images, which are seen once. Knows nothing of figures
and of what is compared with what.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tracestore.diagnostics.showers import ShowerSummary, join_summaries, summarize_showers
from tracestore.errors import InvalidInputError

__all__ = [
    "ANGLE", "ENERGY", "LABEL_UNITS", "LabelBin", "ShowerPlan", "ShowerReader", "ShowerSet", "bin_edges", "label_bins",
    "plan_showers", "read_showers",
]  # fmt: skip

FloatArray = NDArray[np.float64]
ShowerReader = Callable[[int, int], NDArray[np.floating]]
"""Gives the images of the rows from one index to another, shape ``(n, x, y, depth)``."""

ENERGY, ANGLE = "energy", "angle"
LABEL_UNITS = {ENERGY: "GeV", ANGLE: "degrees"}
SPECTRUM_DECADES = (-8.0, 2.0)
"""Decades of the energy of a cell in GeV."""
BINS_A_DECADE = 6
LEAST_IN_BIN = 100
"""Fewest showers of the reference in a bin with panels of its own."""
LEAST_IN_FINE_BIN = 80
BLOCK_CELLS = 2**22
NUM_SINGLES = 4


@dataclass(frozen=True, slots=True)
class LabelBin:
    """A range of energies, or of angles.

    Examples
    --------
    >>> LabelBin("energy", 10.0, 27.0).words
    '10 to 27 GeV'
    """

    label: str
    """Name of the label."""
    low: float
    high: float

    @property
    def words(self) -> str:
        """The range as people read it."""
        return f"{self.low:.3g} to {self.high:.3g} {LABEL_UNITS.get(self.label, '')}".rstrip()

    def select(self, labels: Mapping[str, FloatArray]) -> NDArray[np.bool_]:
        """Return which showers are in the bin, shape ``(N,)``; it holds both of its edges."""
        values = labels[self.label]
        return (values >= self.low) & (values <= self.high)


@dataclass(frozen=True, slots=True, eq=False)
class ShowerPlan:
    """What is kept of every set, decided from the labels of the reference."""

    threshold: float
    """In GeV: cells at or below it count as empty."""
    bins: tuple[LabelBin, ...]
    """With panels of their own: energies first, then angles."""
    fine_edges: Mapping[str, FloatArray]
    """By label: edges of the bins of what is drawn against it."""
    picture_bins: tuple[LabelBin, ...]
    """Those with an average image."""
    picture_axis: int
    """Which axis across the shower the images show: 0 for x, 1 for y."""
    singles: tuple[Mapping[str, float], ...]
    """Labels of the single showers that are shown."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Energies above which cells are counted: the threshold and three more, a decade apart, in GeV."""
        return tuple(self.threshold * 10.0**power for power in range(4))

    @property
    def spectrum_edges(self) -> FloatArray:
        """Edges of the spectrum of cells in GeV."""
        low, high = SPECTRUM_DECADES
        return 10.0 ** np.linspace(low, high, round((high - low) * BINS_A_DECADE) + 1)


@dataclass(frozen=True, slots=True, eq=False)
class ShowerSet:
    """What is kept of N showers of one origin."""

    name: str
    labels: Mapping[str, FloatArray]
    """Energy in GeV and, where there is one, angle in degrees, shape ``(N,)`` each."""
    summary: ShowerSummary
    """Of cells above the threshold."""
    spectra: NDArray[np.int32]
    """Cells by energy, thresholds disregarded, shape ``(N, bins)``."""
    lost: FloatArray
    """Energy of each shower at or below the threshold in GeV, shape ``(N,)``."""
    num_negative: int
    """Cells below zero; they count as empty."""
    pictures: FloatArray
    """Mean image by bin in GeV, shape ``(picture bins, across, depth)``; NaN where a bin is empty."""
    singles: FloatArray
    """Images of single showers in GeV, shape ``(singles, across, depth)``."""
    single_labels: tuple[Mapping[str, float], ...]
    """Their labels."""

    def __len__(self) -> int:
        """Showers."""
        return len(self.summary)

    @property
    def energy(self) -> FloatArray:
        """Of the particles in GeV, shape ``(N,)``."""
        return self.labels[ENERGY]

    @property
    def response(self) -> FloatArray:
        """Visible energy over that of the particle, shape ``(N,)``."""
        return self.summary.total / self.energy

    def select(self, rows: NDArray[np.generic]) -> "ShowerSet":
        """Return the set of some of the showers; pictures stay those of all."""
        return ShowerSet(
            self.name,
            {name: values[rows] for name, values in self.labels.items()},
            self.summary.select(rows),
            self.spectra[rows],
            self.lost[rows],
            self.num_negative,
            self.pictures,
            self.singles,
            self.single_labels,
        )


def plan_showers(
    labels: Mapping[str, FloatArray], *, threshold: float, energy_edges: Sequence[float] | None = None
) -> ShowerPlan:
    """Choose bins and single showers from the labels of the reference.

    Parameters
    ----------
    labels
        Energy and perhaps angle, shape ``(N,)`` each.
    threshold
        In GeV.
    energy_edges
        Ascending, in GeV; chosen when not given.

    Returns
    -------
    ShowerPlan
        A function of the arguments.

    Raises
    ------
    InvalidInputError
        When the threshold is not positive, an energy is not, or the edges are not ascending energies.

    Examples
    --------
    >>> plan = plan_showers({"energy": np.linspace(10.0, 500.0, 5000)}, threshold=1e-5)
    >>> [one.words for one in plan.bins]
    ['10 to 27 GeV', '27 to 71 GeV', '71 to 190 GeV', '190 to 500 GeV']
    """
    energy = labels[ENERGY]
    if not 0.0 < threshold < math.inf:
        message = f"`threshold` must be a positive energy in GeV; got {threshold!r}."
        raise InvalidInputError(message, argument="threshold")
    if not (np.isfinite(energy).all() and (energy > 0.0).all()):
        message = f"Energies of showers must be positive numbers in GeV; the lowest is {float(energy.min())!r}."
        raise InvalidInputError(message, argument="reference")
    if energy_edges is None:
        edges = bin_edges(energy, 4, LEAST_IN_BIN, is_logarithmic=True)
    else:
        edges = np.asarray(energy_edges, np.float64)
        if edges.ndim != 1 or len(edges) < 2 or not (edges > 0.0).all() or not (np.diff(edges) > 0.0).all():
            message = f"`energy_edges` must be two or more ascending energies in GeV; got {energy_edges!r}."
            raise InvalidInputError(message, argument="energy_edges")
    fine = {ENERGY: bin_edges(energy, 12, LEAST_IN_FINE_BIN, is_logarithmic=True, is_rounded=False)}
    bins = label_bins(ENERGY, edges)
    pictured, axis = bins, 0
    if ANGLE in labels:
        angles = bin_edges(labels[ANGLE], 3, LEAST_IN_BIN)
        fine[ANGLE] = bin_edges(labels[ANGLE], 9, LEAST_IN_FINE_BIN, is_rounded=False)
        pictured, axis = label_bins(ANGLE, angles), 1
        bins = (*bins, *pictured)
    return ShowerPlan(threshold, bins, fine, pictured, axis, _single_labels(labels))


def bin_edges(
    values: FloatArray, number: int, least: int, *, is_logarithmic: bool = False, is_rounded: bool = True
) -> FloatArray:
    """Divide the range of values into bins of like width, joined where there are few values.

    Parameters
    ----------
    values
        Shape ``(N,)``.
    number
        Bins at most.
    least
        Fewest values in a bin.
    is_logarithmic
        Whether bins are of like width in the logarithm.
    is_rounded
        Whether edges have two digits.

    Examples
    --------
    >>> bin_edges(np.linspace(60.0, 120.0, 600), 3, 10).tolist()
    [60.0, 80.0, 100.0, 120.0]
    """
    low, high = float(values.min()), float(values.max())
    if not high > low:
        pad = 0.01 * abs(low) or 1.0
        return np.array([low - pad, high + pad])
    inner = np.geomspace(low, high, number + 1) if is_logarithmic else np.linspace(low, high, number + 1)
    edges = np.array([_rounded(edge) for edge in inner]) if is_rounded else inner
    if not (np.diff(edges) > 0.0).all():
        edges = inner
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    kept = [float(edges[0])]
    for edge in edges[1:-1]:
        is_full = np.count_nonzero((values >= kept[-1]) & (values < edge)) >= least
        if is_full and np.count_nonzero(values >= edge) >= least:
            kept.append(float(edge))
    return np.array([*kept, float(edges[-1])])


def label_bins(label: str, edges: FloatArray) -> tuple[LabelBin, ...]:
    """Return the bins between edges."""
    return tuple(LabelBin(label, low, high) for low, high in pairwise(edges.tolist()))


def read_showers(
    name: str,
    labels: Mapping[str, FloatArray],
    shape: Sequence[int],
    read: ShowerReader,
    plan: ShowerPlan,
    *,
    advance: Callable[[int], None] = lambda done: None,
) -> ShowerSet:
    """Read the images of a set in blocks, so that the memory needed is that of a block, and keep what is compared.

    Parameters
    ----------
    name
        Of the set.
    labels
        Of its showers, shape ``(N,)`` each.
    shape
        Of an image: x, y, depth.
    read
        Gives images.
    plan
        What to keep.
    advance
        Told the number of showers read so far.

    Returns
    -------
    ShowerSet
        In the order of the labels.

    Raises
    ------
    InvalidInputError
        When a cell is not finite.
    """
    number = len(labels[ENERGY])
    across = 1 - plan.picture_axis
    rows = [_nearest(labels, wanted) for wanted in plan.singles]
    masks = [one.select(labels) for one in plan.picture_bins]
    pictures = np.zeros((len(masks), shape[plan.picture_axis], shape[2]))
    singles = np.zeros((len(rows), shape[plan.picture_axis], shape[2]))
    summaries, spectra, lost, num_negative = [], [], [], 0
    for low, high in _blocks(number, math.prod(shape)):
        images = np.asarray(read(low, high))
        _require_finite(images, name, low)
        num_negative += int(np.count_nonzero(images < 0.0))
        above = np.where(images > plan.threshold, images, 0)
        summaries.append(summarize_showers(above, thresholds=plan.thresholds))
        owners, cells = _positive_cells(images)
        spectra.append(_spectra(owners, cells, high - low, plan.spectrum_edges))
        is_faint = cells <= plan.threshold
        lost.append(np.bincount(owners[is_faint], cells[is_faint], high - low))
        projected = above.sum(axis=1 + across, dtype=np.float64)
        for place, mask in enumerate(masks):
            pictures[place] += projected[mask[low:high]].sum(axis=0)
        for place, row in enumerate(rows):
            if low <= row < high:
                singles[place] = projected[row - low]
        advance(high)
    counts = np.array([np.count_nonzero(mask) for mask in masks], np.float64)
    with np.errstate(all="ignore"):
        pictures /= counts[:, None, None]
    shown = tuple({label: float(values[row]) for label, values in labels.items()} for row in rows)
    return ShowerSet(
        name,
        dict(labels),
        join_summaries(summaries),
        np.concatenate(spectra),
        np.concatenate(lost).astype(np.float64),
        num_negative,
        pictures,
        singles,
        shown,
    )


def _require_finite(images: NDArray[np.floating], name: str, first: int) -> None:
    is_bad = ~np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if is_bad.any():
        showers = (first + np.flatnonzero(is_bad)).tolist()
        message = (
            f"The set {name!r} has cells that are not finite, in its showers {', '.join(map(str, showers[:8]))}; "
            "compare sets without them."
        )
        raise InvalidInputError(message, name=name, showers=tuple(showers))


def _blocks(number: int, num_cells: int) -> Iterator[tuple[int, int]]:
    step = max(1, BLOCK_CELLS // num_cells)
    return ((low, min(low + step, number)) for low in range(0, number, step))


def _positive_cells(images: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Return the shower and the energy of every cell above zero."""
    flat = images.reshape(-1)
    places = np.flatnonzero(flat > 0.0)
    return places // math.prod(images.shape[1:]), flat[places]


def _spectra(rows: NDArray[np.int64], cells: NDArray[np.floating], number: int, edges: FloatArray) -> NDArray[np.int32]:
    """Count cells of each shower by energy; those beyond the edges are in the outermost bins."""
    num_bins = len(edges) - 1
    places = np.floor((np.log10(cells) - math.log10(edges[0])) * BINS_A_DECADE).astype(np.int64)
    flat = np.bincount(rows * num_bins + np.clip(places, 0, num_bins - 1), minlength=number * num_bins)
    return flat.reshape(number, num_bins).astype(np.int32)


def _single_labels(labels: Mapping[str, FloatArray]) -> tuple[dict[str, float], ...]:
    """Choose showers from low to high energy, and over the range of the angle in turn."""
    order = np.geomspace(labels[ENERGY].min(), labels[ENERGY].max(), NUM_SINGLES + 2)[1:-1]
    chosen = []
    for place, energy in enumerate(order):
        wanted = {ENERGY: float(energy)}
        if ANGLE in labels:
            low, high = float(labels[ANGLE].min()), float(labels[ANGLE].max())
            wanted[ANGLE] = low + (high - low) * (0.15, 0.5, 0.85)[place % 3]
        row = _nearest(labels, wanted)
        chosen.append({name: float(values[row]) for name, values in labels.items()})
    return tuple(chosen)


def _nearest(labels: Mapping[str, FloatArray], wanted: Mapping[str, float]) -> int:
    """Return the shower whose labels are nearest, in the logarithm of the energy and in tens of degrees."""
    distance = (10.0 * (np.log(labels[ENERGY]) - math.log(wanted[ENERGY]))) ** 2
    if ANGLE in wanted and ANGLE in labels:
        distance = distance + ((labels[ANGLE] - wanted[ANGLE]) / 10.0) ** 2
    return int(np.argmin(distance))


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")
