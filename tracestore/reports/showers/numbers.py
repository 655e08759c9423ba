"""What a comparison of showers finds, as plain records that become JSON; needs neither torch nor figures."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tracestore.diagnostics.bands import Band
from tracestore.diagnostics.showers import AXES
from tracestore.diagnostics.two_samples import AreaEstimate, ChiSquare
from tracestore.formats.document import JSON
from tracestore.posteriors.findings import Verdict
from tracestore.reports.showers.sets import LabelBin

__all__ = [
    "VERDICT_WORDS", "ComparisonResult", "Criterion", "Histogram", "ModelComparison", "SetNumbers", "Trend",
    "quotient_band",
]  # fmt: skip

FloatArray = NDArray[np.float64]

VERDICT_WORDS = {Verdict.GOOD: "close", Verdict.DOUBTFUL: "off", Verdict.BAD: "fails"}
"""How a criterion is met, as people read it."""


@dataclass(frozen=True, slots=True, eq=False)
class Trend:
    """Quantities against a label, with bootstrap bands; NaN where a bin has too few showers."""

    label: str
    edges: FloatArray
    """Shape ``(bins + 1,)``."""
    counts: NDArray[np.int64]
    """Showers by bin."""
    mean: Mapping[str, Band]
    """By quantity, three arrays of shape ``(bins,)``."""
    spread: Mapping[str, Band]
    """Standard deviations."""
    relative: Mapping[str, Band]
    """Standard deviations over means."""


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """A density with a bootstrap band."""

    edges: FloatArray
    """Shape ``(bins + 1,)``."""
    density: Band
    """Per unit of the quantity, or a number a shower; three arrays of shape ``(bins,)``."""


@dataclass(frozen=True, slots=True, eq=False)
class SetNumbers:
    """What is drawn of one set of showers; lists by bin are in the order of `ComparisonResult.bins`.

    None stands where a bin has too few showers.
    """

    name: str
    num_showers: int
    counts: tuple[int, ...]
    """Showers by bin."""
    profiles: Mapping[str, tuple[Band | None, ...]]
    """By axis and bin: visible energy by cell in MeV for each GeV of the particle."""
    ratios: Mapping[str, tuple[Band | None, ...]]
    """The same over those of the reference; empty for the reference."""
    trends: Mapping[str, Trend]
    """By label."""
    histograms: Mapping[str, tuple[Histogram | None, ...]]
    """By quantity, ``response`` and ``hits``, and bin."""
    spectra: tuple[Histogram | None, ...]
    """By bin: cells of a shower by energy in GeV."""
    correlations: tuple[FloatArray | None, ...]
    """Of the features: in all showers, then by bin."""
    response: float
    """Mean of visible energy over that of the particle."""
    below_threshold: float
    """Share of the visible energy in cells at or below the threshold."""
    negative_cells: float
    """Share of the cells that are below zero."""
    pictures: FloatArray
    """Mean images, see `ShowerSet`; not part of the JSON."""
    singles: FloatArray
    """Images of single showers; not part of the JSON."""
    single_labels: tuple[Mapping[str, float], ...]
    """Their labels."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """One number by which a model is judged, and the limits that it is held against.

    Examples
    --------
    >>> one = Criterion("response", "sampling fraction", 0.04, 0.003, 0.01, 0.03, "at 10 to 27 GeV")
    >>> one.verdict.name, round(one.excess, 4)
    ('BAD', 0.037)
    """

    key: str
    title: str
    """What is compared, as people read it."""
    value: float
    """The difference, zero when there is none (the area under the curve: 0.5)."""
    noise: float
    """What two sets of this size and one distribution differ by, about."""
    good: float
    """Up to here it is close."""
    bad: float
    """Beyond, it fails."""
    where: str = ""
    """Where the difference is largest, in words."""

    @property
    def excess(self) -> float:
        """The difference without the part that noise explains; what is held against the limits."""
        none = 0.5 if self.key == "auc" else 0.0
        return self.value if math.isnan(self.value) else max(self.value - self.noise, none)

    @property
    def verdict(self) -> Verdict:
        """Good is close, doubtful is off, bad fails."""
        if not self.excess <= self.bad:
            return Verdict.BAD
        return Verdict.GOOD if self.excess <= self.good else Verdict.DOUBTFUL


@dataclass(frozen=True, slots=True, eq=False)
class ModelComparison:
    """One model against the reference."""

    name: str
    origin: str
    """Where its showers are from, in words."""
    numbers: SetNumbers
    against: SetNumbers
    """Of the showers of the reference that it is compared with: all, or those with labels alike; not in the JSON."""
    num_compared: int
    """Showers of each set behind areas, chi-squares and criteria."""
    auc: AreaEstimate
    """Of a classifier between model and reference: 0.5 when nothing tells them apart."""
    auc_by_bin: tuple[AreaEstimate | None, ...]
    chi_square: Mapping[str, ChiSquare]
    """Of the mean profile along each axis, what energy and angle explain taken out."""
    chi_square_by_bin: Mapping[str, tuple[ChiSquare | None, ...]]
    response_difference: float
    """Mean sampling fraction over that of the reference, less one."""
    criteria: tuple[Criterion, ...]
    remarks: tuple[str, ...] = ()
    """What has to be known to read the numbers."""

    def criterion(self, key: str) -> Criterion:
        """Return one of the criteria by its key."""
        return next(one for one in self.criteria if one.key == key)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ComparisonResult:
    """Everything that a comparison found; `to_dict` makes it JSON."""

    reference: SetNumbers
    models: tuple[ModelComparison, ...]
    floor: ModelComparison
    """One half of the reference against the other: what noise alone gives at half the size."""
    bins: tuple[LabelBin, ...]
    picture_bins: tuple[LabelBin, ...]
    """Those of the mean images."""
    picture_axis: str
    """Axis across the shower that images show."""
    feature_names: tuple[str, ...]
    """What the classifier sees, and correlations are of."""
    facts: Mapping[str, JSON] = field(default_factory=dict)
    """How it was computed: seed, threshold, sizes."""

    @property
    def threshold(self) -> float:
        """Energy in GeV at or below which cells count as empty."""
        return float(str(self.facts["threshold"]))

    @property
    def reference_shape(self) -> tuple[int, ...]:
        """Cells of an image: x, y, depth."""
        bands = [next(band for band in self.reference.profiles[axis] if band is not None) for axis in AXES]
        return tuple(len(band.mean) for band in bands)

    def __getitem__(self, name: str) -> ModelComparison:
        """Return a model by name."""
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(name)

    def to_dict(self) -> dict[str, JSON]:
        """Return all numbers as JSON; what does not exist or is not finite is null."""
        names = [_bin_to_json(one) for one in self.bins]
        models: dict[str, JSON] = {model.name: _model_to_json(model) for model in self.models}
        return {
            "version": 1,
            "facts": dict(self.facts),
            "bins": list(names),
            "features": list(self.feature_names),
            "models": models,
            "floor": _model_to_json(self.floor),
            "reference": _to_json(self.reference),
        }


def quotient_band(one: Band, other: Band) -> Band:
    """Return the quotient of two independent bands, their relative widths added in quadrature.

    Parameters
    ----------
    one, other
        Numerator and denominator, of one shape.

    Examples
    --------
    >>> two, four = (Band(np.array([x]), np.array([x - 0.2]), np.array([x + 0.2])) for x in (2.0, 4.0))
    >>> [values.round(3).tolist() for values in quotient_band(two, four)]
    [[0.5], [0.444], [0.556]]
    """
    with np.errstate(all="ignore"):
        ratio = one.mean / other.mean
        below = np.hypot((one.mean - one.lower) / one.mean, (other.upper - other.mean) / other.mean)
        above = np.hypot((one.upper - one.mean) / one.mean, (other.mean - other.lower) / other.mean)
        return Band(ratio, ratio * (1.0 - below), ratio * (1.0 + above))


def _model_to_json(model: ModelComparison) -> JSON:
    return {
        "origin": model.origin,
        "num_showers": model.numbers.num_showers,
        "num_compared": model.num_compared,
        "auc": _number(model.auc.value),
        "auc_interval": [_number(model.auc.lower), _number(model.auc.upper)],
        "auc_by_bin": [_to_json(one) for one in model.auc_by_bin],
        "chi_square": {axis: _chi_to_json(one) for axis, one in model.chi_square.items()},
        "chi_square_by_bin": {
            axis: [None if one is None else _chi_to_json(one) for one in several]
            for axis, several in model.chi_square_by_bin.items()
        },
        "sampling_fraction": _number(model.numbers.response),
        "sampling_fraction_difference": _number(model.response_difference),
        "criteria": {one.key: _criterion_to_json(one) for one in model.criteria},
        "remarks": list(model.remarks),
        "curves": _to_json(model.numbers),
    }


def _criterion_to_json(one: Criterion) -> JSON:
    shown: dict[str, JSON] = {
        "value": _number(one.value), "noise": _number(one.noise), "excess": _number(one.excess),
        "good": one.good, "bad": one.bad, "verdict": VERDICT_WORDS[one.verdict], "where": one.where,
        "title": one.title,
    }  # fmt: skip
    return shown


def _chi_to_json(one: ChiSquare) -> JSON:
    return {
        "value": _number(one.value),
        "degrees": one.degrees,
        "reduced": _number(one.reduced),
        "deviations": _number(one.deviations),
    }


def _bin_to_json(one: LabelBin) -> JSON:
    return {"label": one.label, "low": one.low, "high": one.high}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _to_json(value: object) -> JSON:
    """Return records, named tuples and arrays as JSON, without images."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = [
            one.name for one in dataclasses.fields(value) if one.name not in {"pictures", "singles", "single_labels"}
        ]
        return {name: _to_json(getattr(value, name)) for name in shown}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _to_json(one) for name, one in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(name): _to_json(one) for name, one in value.items()}
    if isinstance(value, np.ndarray | tuple | list):
        return [_to_json(one) for one in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, float):
        return _number(value)
    return value if isinstance(value, str | int | None) else str(value)
