"""Posterior predictive checks: whether the simulator, as the posterior has it, makes data like those observed.

New observations are drawn for posterior traces, from the likelihoods that the traces store, or by running the simulator
again with the draws of the trace. Where the observed data lie among them tells whether the model can make such data; it
says nothing about the engine.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.posteriors.findings import Diagnosis, Finding, Verdict, percent
from tracestore.simulators.base import ReplayController, Simulator, as_simulator, run_trace
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions import from_parameters
from tracestore.traces.layout import SiteKind
from tracestore.traces.trace import Trace, TraceStatus

if TYPE_CHECKING:
    from tracestore.posteriors.posterior import Posterior

__all__ = ["PredictiveCheck", "PredictiveStatistic", "predictive_check"]

P_BAD = 0.001
P_DOUBTFUL = 0.05
"""Limits of the two-sided probability, over all statistics together (Bonferroni)."""

Observation = dict[str, NDArray[np.generic]]
Statistic = Callable[[Mapping[str, NDArray[np.generic]]], float]


@dataclass(frozen=True, slots=True, eq=False)
class PredictiveStatistic:
    """One number of the data: as observed, and in the data that the posterior makes."""

    name: str
    observed: float
    draws: NDArray[np.float64]
    """Shape ``(num_draws,)``."""

    @property
    def p_value(self) -> float:
        """Share of the drawn data in which the number is larger than observed, ties counted half."""
        return float((self.draws > self.observed).mean() + 0.5 * (self.draws == self.observed).mean())

    @property
    def two_sided(self) -> float:
        """Probability of a number as far out, on either side; not below what so many draws can tell."""
        smallest = 1.0 / (len(self.draws) + 1)
        return min(2.0 * max(min(self.p_value, 1.0 - self.p_value), smallest), 1.0)


class PredictiveCheck(Sequence[PredictiveStatistic]):
    """Statistics of the observed data among those of drawn data; prints as text.

    Parameters
    ----------
    observed
        Observed values by name.
    draws
        Drawn data, one dictionary a posterior trace; a trace that takes another path may lack a name.
    statistics
        Functions of such a dictionary, by name.
    num_failed
        Runs of the simulator that failed to make data.
    """

    def __init__(
        self,
        observed: Observation,
        draws: Sequence[Observation],
        statistics: Mapping[str, Statistic],
        num_failed: int = 0,
    ) -> None:
        self.observed = observed
        self.draws = tuple(draws)
        self.num_failed = num_failed
        self.statistics = tuple(self._evaluate(name, function) for name, function in statistics.items())

    def __len__(self) -> int:
        return len(self.statistics)

    @overload
    def __getitem__(self, index: int) -> PredictiveStatistic: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PredictiveStatistic]: ...
    def __getitem__(self, index: int | slice) -> PredictiveStatistic | Sequence[PredictiveStatistic]:
        return self.statistics[index]

    def __iter__(self) -> Iterator[PredictiveStatistic]:
        return iter(self.statistics)

    @cached_property
    def pit(self) -> dict[str, NDArray[np.float64]]:
        """Where each observed number lies among the drawn ones, between 0 and 1, by name; of the observation's shape.

        The data inform the posterior, so that these lie nearer to one half than uniform numbers would.
        """
        found = {}
        for name, value in self.observed.items():
            drawn = [draw[name] for draw in self.draws if name in draw and draw[name].shape == value.shape]
            if drawn:
                stacked = np.stack(drawn).astype(np.float64)
                own = value.astype(np.float64)
                found[name] = np.asarray((stacked < own).mean(axis=0) + 0.5 * (stacked == own).mean(axis=0))
        return found

    @property
    def diagnosis(self) -> Diagnosis:
        """Which statistics of the data the model does not make, in words."""
        findings = []
        if self.num_failed:
            text = f"{self.num_failed} runs of the simulator failed to make data; they are left out."
            findings.append(Finding(Verdict.DOUBTFUL, "failed-runs", "simulator", text))
        for statistic in self.statistics:
            probability = min(statistic.two_sided * len(self.statistics), 1.0)
            side = "larger" if statistic.p_value < 0.5 else "smaller"
            beyond = max(statistic.p_value, 1.0 - statistic.p_value)
            text = f"{statistic.name!r} is {statistic.observed:.4g}, {side} than in {percent(beyond)} of the drawn data"
            if probability >= P_DOUBTFUL:
                findings.append(Finding(Verdict.GOOD, "predictive", statistic.name, f"{text}."))
                continue
            verdict = Verdict.BAD if probability < P_BAD else Verdict.DOUBTFUL
            advice = "Look at what the simulator leaves out, or at the observation."
            text = f"{text}: the model hardly makes such data."
            findings.append(Finding(verdict, "predictive", statistic.name, text, advice))
        return Diagnosis(f"posterior predictive check, {len(self.draws):,} draws", tuple(findings))

    def __str__(self) -> str:
        return str(self.diagnosis)

    def _evaluate(self, name: str, function: Statistic) -> PredictiveStatistic:
        numbers = []
        for place, data in enumerate([self.observed, *self.draws]):
            try:
                number = float(function(data))
            except KeyError as error:
                which = "the observed data" if place == 0 else f"drawn data number {place - 1}"
                message = (
                    f"The statistic {name!r} needs {error.args[0]!r}, which {which} lack; they have {sorted(data)}."
                )
                raise InvalidInputError(message, statistic=name) from error
            if math.isnan(number):
                message = f"The statistic {name!r} is NaN for {'the observed data' if place == 0 else 'drawn data'}."
                raise InvalidInputError(message, statistic=name)
            numbers.append(number)
        return PredictiveStatistic(name, numbers[0], np.array(numbers[1:]))


def predictive_check(
    posterior: "Posterior",
    *,
    statistics: Mapping[str, Statistic] | None = None,
    num_draws: int = 1000,
    seed: int = 0,
    simulator: Simulator | Callable[[], object] | None = None,
    observed: Mapping[str, ArrayLike] | None = None,
) -> PredictiveCheck:
    """Draw data from the posterior and see where the observed data lie among them.

    Parameters
    ----------
    posterior
        What an engine drew.
    statistics
        Functions of the data, a dictionary of arrays by name, each returning a number. By default the value of each
        scalar observation, and mean, standard deviation, smallest and largest number of others.
    num_draws
        Data sets to draw, each for a posterior trace that is chosen by weight.
    seed
        Seed of the draws.
    simulator
        Runs again for each trace, with the draws of the trace. Without it, data come from the likelihoods that the
        traces store, which costs no run: where the simulator uses what it observes, each observation is then drawn
        given the *observed* values of the others. Needed where a likelihood is too large to be stored.
    observed
        The observed values; those of the posterior when None.

    Returns
    -------
    PredictiveCheck
        One number a statistic, with p-values, and where each observed number lies.

    Raises
    ------
    InvalidInputError
        When a likelihood is not stored and no simulator is given, or a statistic fails.
    DegenerateWeightsError
        When no draw has weight.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.toys import gum
    >>> posterior = ts.inference.importance(gum, {"obs0": 8.0, "obs1": 9.0}, "post", num_draws=2000, seed=1)
    >>> check = predictive_check(posterior, statistics={"distance": lambda data: abs(data["obs0"] - data["obs1"])})
    >>> [statistic.name for statistic in check], bool(0.2 < check[0].p_value < 0.9)
    (['distance'], True)
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    batch = posterior.resample(num_draws, rng)
    if observed is None:
        own: Observation = dict(posterior.observations) or dict(batch[0].observations)
    else:
        own = {name: np.asarray(value) for name, value in observed.items()}
    if not own:
        message = "There is nothing to check: the posterior has no named observation."
        raise InvalidInputError(message)
    if simulator is None:
        draws = [_draw_from_stored(trace, rng) for trace in batch]
        return PredictiveCheck(own, draws, statistics or _default_statistics(own))
    runs = list(_run_again(batch, as_simulator(simulator), rng))
    draws = [_data_of(trace, own) for trace in runs if trace.status is TraceStatus.OK]
    if not draws:
        message = f"The simulator failed in all of {len(runs)} runs; the first failure: {runs[0].failure}."
        raise InvalidInputError(message)
    return PredictiveCheck(own, draws, statistics or _default_statistics(own), len(runs) - len(draws))


def _draw_from_stored(trace: Trace, rng: np.random.Generator) -> Observation:
    drawn: Observation = {}
    offsets = trace.layout.parameter_offsets
    for position, site in enumerate(trace.sites):
        if site.kind is not SiteKind.OBSERVE or not site.name:
            continue
        if not site.num_parameters:
            message = (
                f"The likelihood of {site.name!r} has too many parameters to be stored with each trace; give"
                " `simulator`, which then makes the data anew."
            )
            raise InvalidInputError(message, name=site.name)
        parameters = trace.parameters[offsets[position] : offsets[position + 1]]
        drawn[site.name] = np.asarray(from_parameters(site.family, parameters, site.shape).sample(rng))
    return drawn


def _run_again(batch: TraceBatch, program: Simulator, rng: np.random.Generator) -> Iterator[Trace]:
    for trace in batch:
        yield run_trace(program, ReplayController(trace), rng)


def _data_of(trace: Trace, names: Collection[str]) -> Observation:
    """Observations of a run, and draws that an observation had fixed."""
    fixed = {name: np.asarray(trace[name]) for name in names if name in trace and name not in trace.observations}
    return {**trace.observations, **fixed}


def _default_statistics(observed: Observation) -> dict[str, Statistic]:
    """Value of scalars; mean, spread and extremes of others."""
    functions: dict[str, Callable[[NDArray[np.float64]], float]] = {
        "mean": lambda array: float(np.mean(array)),
        "sd": lambda array: float(np.std(array)),
        "smallest": lambda array: float(np.min(array)),
        "largest": lambda array: float(np.max(array)),
    }

    def of(name: str, function: Callable[[NDArray[np.float64]], float]) -> Statistic:
        return lambda data: function(data[name].astype(np.float64))

    found: dict[str, Statistic] = {}
    for name, value in observed.items():
        if value.size == 1:
            found[name] = of(name, lambda array: float(array.item()))
        else:
            found |= {f"{word} of {name}": of(name, function) for word, function in functions.items()}
    return found
