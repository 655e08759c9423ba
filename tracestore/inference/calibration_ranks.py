"""Ranks of the truth in posteriors, quantity by quantity: every variable, the log likelihood, and all of them jointly.

The log likelihood is a quantity because it finds what no variable can: a posterior that ignores the data has uniform
ranks in each variable. Knows neither engines nor files.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from tracestore.diagnostics import chains
from tracestore.diagnostics.calibration import randomized_pit
from tracestore.diagnostics.tarp import reference_points, scales_of, tarp_pit
from tracestore.diagnostics.weights import kish_ess
from tracestore.errors import DegenerateWeightsError, DiagnosticError, InvalidInputError, UnknownAddressError
from tracestore.inference.calibration_result import CalibrationQuantity
from tracestore.posteriors.posterior import Posterior
from tracestore.posteriors.variable import MAX_ELEMENTS, by_chain
from tracestore.traces.trace import RESULT

__all__ = ["JOINT", "LOG_LIKELIHOOD", "Ranks", "Truths"]

LOG_LIKELIHOOD = "log likelihood"
JOINT = "joint"
_MIN_JOINT_TRIALS = 10

Column = NDArray[np.float64]


class Truths:
    """What was true in each trial.

    Parameters
    ----------
    draws
        Prior draws; the k-th is the truth of trial k.
    names
        Variables to rank, by name or address; all names when None, long vectors left out.

    Raises
    ------
    UnknownAddressError
        When no draw has one of the names.
    """

    def __init__(self, draws: Posterior, names: Sequence[str] | None) -> None:
        self.log_likelihood = draws.table.column("log_likelihood").astype(np.float64)
        self.values: dict[str, dict[int, Column]] = {}
        chosen = draws.names if names is None else names
        if names is None and set(chosen) != {RESULT}:
            # what a simulator returns is most often one of its named values
            chosen = [name for name in chosen if name != RESULT]
        for name in chosen:
            values, rows = draws.table.present(name)
            if names is not None or math.prod(values.shape[1:]) <= MAX_ELEMENTS:
                self.values[name] = dict(zip(rows.tolist(), values, strict=True))

    @property
    def names(self) -> tuple[str, ...]:
        """Variables to rank."""
        return tuple(self.values)


@dataclass(slots=True)
class _Collected:
    pit: list[float] = field(default_factory=list)
    trials: list[int] = field(default_factory=list)
    num_lost: int = 0


class Ranks:
    """Collects the ranks of the truth, trial by trial.

    Parameters
    ----------
    truths
        What was true.
    observations
        Observed numbers of each trial, shape ``(trials, features)``; None leaves out the joint rank.
    trials
        Trials that made an observation.
    seed
        Seed of the ties and of the reference points.
    """

    def __init__(self, truths: Truths, observations: Column | None, trials: Sequence[int], seed: int) -> None:
        self.truths = truths
        self.seed = seed
        self.num_degenerate = 0
        self._found: dict[str, _Collected] = {}
        self._joint: dict[int, Column] = {}
        self._joint_names = [name for name in truths.names if all(trial in truths.values[name] for trial in trials)]
        if observations is not None and self._joint_names and len(trials) >= _MIN_JOINT_TRIALS:
            stacked = np.stack([self._joint_truth(trial) for trial in trials])
            self._scales = scales_of(stacked)
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
            points = reference_points(observations[np.asarray(trials)], stacked, rng)
            self._joint = dict(zip(trials, points, strict=True))

    def add(self, trial: int, posterior: Posterior) -> None:
        """Rank the truth of a trial in its posterior; a posterior without any weight is counted and left out.

        Parameters
        ----------
        trial
            Number of the trial.
        posterior
            What an engine drew for its observation.
        """
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(2, trial)))
        try:
            log_weights = np.log(posterior.weights, where=posterior.weights > 0.0, out=np.full(len(posterior), -np.inf))
        except DegenerateWeightsError:
            self.add_degenerate()
            return
        column = posterior.table.column("log_likelihood").astype(np.float64)
        size = _size(posterior, column, posterior.table.chain, log_weights)
        truth = float(self.truths.log_likelihood[trial])
        self._note(LOG_LIKELIHOOD, trial, randomized_pit(column, truth, rng, log_weights=log_weights, size=size))
        for name, of_trial in self.truths.values.items():
            if trial in of_trial:
                self._add_variable(name, trial, posterior, log_weights, of_trial[trial], rng)
        if trial in self._joint:
            self._add_joint(trial, posterior, log_weights, rng)

    def add_degenerate(self) -> None:
        """Count a trial without a usable posterior."""
        self.num_degenerate += 1

    def quantities(self) -> list[CalibrationQuantity]:
        """Return what was collected, variables first."""
        last = (LOG_LIKELIHOOD, JOINT)
        ordered = [name for name in self._found if name not in last] + [name for name in last if name in self._found]
        return [
            CalibrationQuantity(name, tuple(found.pit), tuple(found.trials), found.num_lost)
            for name, found in ((name, self._found[name]) for name in ordered)
        ]

    def _add_variable(
        self,
        name: str,
        trial: int,
        posterior: Posterior,
        log_weights: Column,
        truth: Column,
        rng: np.random.Generator,
    ) -> None:
        labels = [name + (f"[{', '.join(map(str, index))}]" if index else "") for index in np.ndindex(*truth.shape)]
        try:
            values, rows = posterior.table.present(name)
        except UnknownAddressError:
            rows = np.empty(0, np.int64)
        own = log_weights[rows]
        if not np.isfinite(own).any():
            for label in labels:
                self._found.setdefault(label, _Collected()).num_lost += 1
            return
        if values.shape[1:] != truth.shape:
            message = f"{name!r} has shape {truth.shape} in the truth and {values.shape[1:]} in the posterior."
            raise InvalidInputError(message, name=name)
        chain = posterior.table.chain[rows]
        for label, column, number in zip(labels, values.reshape(len(values), -1).T, truth.ravel(), strict=True):
            size = _size(posterior, column, chain, own)
            self._note(label, trial, randomized_pit(column, float(number), rng, log_weights=own, size=size))

    def _add_joint(self, trial: int, posterior: Posterior, log_weights: Column, rng: np.random.Generator) -> None:
        try:
            parts = [posterior.table.present(name) for name in self._joint_names]
            rows = reduce(np.intersect1d, [part.rows for part in parts])
        except UnknownAddressError:
            rows = np.empty(0, np.int64)
        own = log_weights[rows]
        if not np.isfinite(own).any():
            self._found.setdefault(JOINT, _Collected()).num_lost += 1
            return
        draws = np.hstack([part.values[np.isin(part.rows, rows)].reshape(len(rows), -1) for part in parts])
        truth, point = self._joint_truth(trial), self._joint[trial]
        distance = np.linalg.norm((draws - point) / self._scales, axis=1)
        size = _size(posterior, distance, posterior.table.chain[rows], own)
        self._note(JOINT, trial, tarp_pit(draws, truth, point, self._scales, rng, log_weights=own, size=size))

    def _joint_truth(self, trial: int) -> Column:
        return np.concatenate([self.truths.values[name][trial].ravel() for name in self._joint_names])

    def _note(self, name: str, trial: int, pit: float) -> None:
        found = self._found.setdefault(name, _Collected())
        found.pit.append(pit)
        found.trials.append(trial)


def _size(posterior: Posterior, column: Column, chain: NDArray[np.int64], log_weights: Column) -> float:
    """Effective number of independent draws behind the ranks of a column."""
    size = kish_ess(log_weights)
    if not posterior.has_chains:
        return size
    try:
        found = chains.ess(by_chain(column, chain))
    except DiagnosticError:  # hardly present in some chain: as if nothing were known
        return 1.0
    return size if math.isnan(found) else min(found * size / len(column), size)
