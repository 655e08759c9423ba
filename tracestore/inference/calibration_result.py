"""What a calibration found: ranks of the truth by quantity, judged in words; JSON in and out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from tracestore.diagnostics.calibration import central_coverage, shape_of, uniformity_pvalue
from tracestore.errors import FormatError, StoreNotFoundError
from tracestore.posteriors.findings import Diagnosis, Finding, Verdict, listed, percent
from tracestore.store.job import Job
from tracestore.store.location import StorePath, to_location

if TYPE_CHECKING:
    from tracestore.formats.document import JSON

__all__ = ["FILE_NAME", "Calibration", "CalibrationQuantity", "open_calibration"]

FILE_NAME = "calibration.json"
LEVELS = (0.5, 0.8, 0.95)
"""Levels of the central intervals whose coverage is told."""
P_BAD = 0.001
P_DOUBTFUL = 0.05
"""Limits of the probability that calibrated posteriors look as bad in any of the quantities (Bonferroni)."""
_FEW_TRIALS = 50
_LOST_DOUBTFUL = 0.02
_LOST_BAD = 0.2
_CLEAR = 2.5


@dataclass(frozen=True, slots=True)
class CalibrationQuantity:
    """Ranks of the truth in one quantity."""

    name: str
    pit: tuple[float, ...]
    """Where the truth stood in each trial that has it, between 0 and 1: uniform when calibrated."""
    trials: tuple[int, ...]
    """The trial of each rank."""
    num_lost: int = 0
    """Trials whose truth has the quantity, but no draw with weight does."""

    @property
    def p_value(self) -> float:
        """Probability that uniform ranks deviate as much."""
        return uniformity_pvalue(self.pit)

    @property
    def coverage(self) -> dict[float, float]:
        """How often central intervals held the truth, by level."""
        return dict(zip(LEVELS, central_coverage(self.pit, LEVELS).tolist(), strict=True))

    @property
    def words(self) -> str:
        """How the ranks deviate: overconfident, underconfident, biased, or in another way."""
        bias, spread = shape_of(self.pit)
        found = []
        if abs(bias) > _CLEAR:
            found.append(
                f"biased {'low' if bias > 0 else 'high'} (the draws lie {'below' if bias > 0 else 'above'} the truth)"
            )
        if abs(spread) > _CLEAR:
            found.append("overconfident (too narrow)" if spread > 0 else "underconfident (too wide)")
        return " and ".join(found) or "wrong in shape"


class Calibration:
    """Simulation-based calibration of an engine on a simulator; prints as text.

    Parameters
    ----------
    job
        What was calibrated.
    num_trials
        Trials that were run.
    num_failed
        Prior runs that failed, which observe nothing.
    num_degenerate
        Trials whose posterior had no draw with weight.
    quantities
        Ranks by quantity.

    Examples
    --------
    >>> even = tuple(((np.arange(100) + 0.5) / 100).tolist())
    >>> narrow = tuple(np.where(np.arange(100) % 2, 0.02, 0.98).tolist())
    >>> quantities = [CalibrationQuantity("mu", narrow, tuple(range(100)))]
    >>> calibration = Calibration(Job("calibrate", {"engine": "ic", "simulator": "gum"}), 100, 0, 0, quantities)
    >>> calibration.exit_code, calibration.diagnosis.findings[0].subject
    (1, 'mu')
    >>> "overconfident" in str(calibration)
    True
    """

    def __init__(
        self, job: Job, num_trials: int, num_failed: int, num_degenerate: int, quantities: Sequence[CalibrationQuantity]
    ) -> None:
        self.job = job
        self.num_trials = num_trials
        self.num_failed = num_failed
        self.num_degenerate = num_degenerate
        self.quantities = tuple(quantities)

    def __repr__(self) -> str:
        fields = self.job.fields
        return f"Calibration({fields.get('engine')} of {fields.get('simulator')!r}, {self.num_trials} trials)"

    def __str__(self) -> str:
        return str(self.diagnosis)

    def __getitem__(self, name: str) -> CalibrationQuantity:
        """Return a quantity by name."""
        return next(quantity for quantity in self.quantities if quantity.name == name)

    @property
    def pit(self) -> dict[str, NDArray[np.float64]]:
        """Ranks of the truth by quantity, for figures."""
        return {quantity.name: np.array(quantity.pit) for quantity in self.quantities}

    @property
    def verdict(self) -> Verdict:
        """The worst verdict over the quantities."""
        return self.diagnosis.verdict

    @property
    def exit_code(self) -> int:
        """1 when a quantity is miscalibrated beyond doubt, 0 otherwise."""
        return self.diagnosis.exit_code

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """Findings by quantity, the worst first."""
        fields = self.job.fields
        subject = f"calibration of {fields.get('engine')} for {fields.get('simulator')!r}, {self.num_trials} trials"
        findings = self._about_trials()
        judged = [quantity for quantity in self.quantities if quantity.pit]
        calibrated = []
        for quantity in judged:
            finding = self._judge(quantity, len(judged))
            if finding is None:
                calibrated.append(quantity.name)
            else:
                findings.append(finding)
        if calibrated:
            text = f"The ranks of {listed(calibrated, 8)} are uniform as far as {self.num_trials} trials tell."
            findings.append(Finding(Verdict.GOOD, "calibrated", calibrated[0], text))
        findings += [_about_presence(quantity) for quantity in judged if quantity.num_lost]
        return Diagnosis(subject, tuple(findings))

    def _about_trials(self) -> list[Finding]:
        findings = []
        if self.num_trials < _FEW_TRIALS:
            text = f"{self.num_trials} trials show gross miscalibration only."
            findings.append(Finding(Verdict.DOUBTFUL, "few-trials", "trials", text, "Run two hundred or more."))
        if self.num_failed:
            text = f"In {self.num_failed} trials the simulator failed to make an observation; they are left out."
            findings.append(Finding(Verdict.GOOD, "failed-trials", "trials", text))
        if self.num_degenerate:
            share = self.num_degenerate / max(self.num_trials, 1)
            verdict = Verdict.BAD if share > _LOST_BAD else Verdict.DOUBTFUL
            text = f"In {self.num_degenerate} of {self.num_trials} trials no draw had any weight; they are left out."
            advice = "Their observations are out of reach: draw more, or use other proposals."
            findings.append(Finding(verdict, "no-weight", "trials", text, advice))
        return findings

    def _judge(self, quantity: CalibrationQuantity, num_judged: int) -> Finding | None:
        p_value = min(quantity.p_value * num_judged, 1.0)
        if p_value >= P_DOUBTFUL:
            return None
        verdict = Verdict.BAD if p_value < P_BAD else Verdict.DOUBTFUL
        level = 0.8
        text = (
            f"{quantity.name!r} is {quantity.words}: the central {level:.0%} intervals hold the truth in"
            f" {percent(quantity.coverage[level])} of {len(quantity.pit)} trials (p = {p_value:.1g})."
        )
        return Finding(verdict, "miscalibrated", quantity.name, text, _advice(str(self.job.fields.get("engine"))))

    def to_json(self) -> "dict[str, JSON]":
        """Return the calibration as JSON."""
        return {
            "job": cast("JSON", self.job.to_json()),
            "num_trials": self.num_trials,
            "num_failed": self.num_failed,
            "num_degenerate": self.num_degenerate,
            "quantities": [
                {
                    "name": quantity.name,
                    "pit": list(quantity.pit),
                    "trials": list(quantity.trials),
                    "num_lost": quantity.num_lost,
                }
                for quantity in self.quantities
            ],
            "diagnosis": cast("JSON", self.diagnosis.to_json()),
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> "Calibration":
        """Calibration from its members."""
        quantities = [
            CalibrationQuantity(entry["name"], tuple(entry["pit"]), tuple(entry["trials"]), entry["num_lost"])
            for entry in document["quantities"]
        ]
        return Calibration(
            Job.from_json(document["job"]),
            document["num_trials"],
            document["num_failed"],
            document["num_degenerate"],
            quantities,
        )


def open_calibration(path: StorePath) -> Calibration:
    """Open a finished calibration.

    Parameters
    ----------
    path
        Folder that `calibrate` wrote.

    Raises
    ------
    StoreNotFoundError
        When there is none, or it is not finished.
    FormatError
        When its file is damaged.
    """
    storage = to_location(path).open()
    try:
        text = storage.read(FILE_NAME)
    except FileNotFoundError as error:
        message = f"{storage.url} holds no finished calibration; run `calibrate` with this path to make or finish it."
        raise StoreNotFoundError(message, path=storage.url) from error
    try:
        return Calibration.from_json(json.loads(text))
    except (KeyError, TypeError, ValueError) as error:
        message = (
            f"{storage.url}/{FILE_NAME} is damaged: {error!r}. Remove it; the same call of `calibrate` makes it anew."
        )
        raise FormatError(message, path=storage.url) from error


def _about_presence(quantity: CalibrationQuantity) -> Finding:
    total = len(quantity.pit) + quantity.num_lost
    share = quantity.num_lost / total
    verdict = Verdict.GOOD if share < _LOST_DOUBTFUL else Verdict.DOUBTFUL
    text = f"In {quantity.num_lost} of {total} trials the truth has {quantity.name!r}, but no draw with weight does."
    return Finding(verdict, "lost", quantity.name, text, "Draw more, so that rare paths are met.")


def _advice(engine: str) -> str:
    if engine == "ic":
        return "Draw more for each observation; train the network longer; look at k-hat and ESS of single trials."
    if engine == "is":
        return "Draw more for each observation, or use `ic`; look at k-hat and ESS of single trials."
    return "Run the chains longer, with more warm-up; look at R-hat of single trials."
