"""What a report shows, as plain records: engines, variables, marginals; knows nothing of figures or HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tracestore.posteriors.findings import Diagnosis, Verdict
from tracestore.posteriors.summary import AddressAcceptance, MoveAcceptance

__all__ = [
    "COLORS",
    "DASHES",
    "MAX_CATEGORIES",
    "Engine",
    "History",
    "Marginal",
    "RunFacts",
    "Variable",
    "are_categories",
    "make_marginal",
    "make_variable",
    "top_categories",
]

COLORS = ("#0b62a8", "#c4500a", "#00796b", "#9b3f86", "#8a6d00", "#4d5b68")
"""One an engine, told apart with every common color blindness, and dark enough for text on white."""
DASHES = ("solid", "dashed", "dotted", "dashdot")
MAX_CATEGORIES = 30
"""Integer-valued variables with more distinct values than this are drawn as histograms."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Marginal:
    """One scalar variable in the posterior of one engine."""

    values: Floats
    """(M,) values of the draws in which the variable is present."""
    weights: Floats
    """(M,) non-negative, summing to one over these draws."""
    chain: NDArray[np.int64]
    """(M,) chain of each draw."""
    draw: NDArray[np.int64]
    """(M,) position of each draw in its chain."""
    share: float = 1.0
    """Posterior probability that the variable is present at all."""
    mean: float = float("nan")
    std: float = float("nan")
    mcse: float = float("nan")
    """Monte Carlo standard error of the mean; NaN when it cannot be estimated."""
    ess: float = float("nan")
    """Effective number of draws; NaN when it cannot be estimated."""
    rhat: float | None = None
    """None where it does not apply: weighted draws, a single chain, a constant. Infinite for chains that never move."""
    note: str = ""
    """What is special about it, in words: constant, rarely present, absent."""

    @property
    def is_empty(self) -> bool:
        """No draw carries the variable."""
        return len(self.values) == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One scalar variable of the report, common to all engines."""

    name: str
    label: str
    """What people read, with the unit: ``px [GeV]``."""
    categories: tuple[tuple[float, str], ...] | None = None
    """(value, label) of each category in order of the value; None for a continuous variable."""
    truth: float | None = None

    @property
    def is_discrete(self) -> bool:
        """The marginal is a table of probabilities."""
        return self.categories is not None

    def category_label(self, value: float) -> str:
        """Return the label of a category.

        Parameters
        ----------
        value
            The category's value.
        """
        return dict(self.categories or ()).get(value, f"{value:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What was run to make one posterior."""

    place: str
    """Name of the store directory."""
    verb: str
    fields: Mapping[str, object] = field(default_factory=dict)
    """The job: simulator, seed, number of draws, configuration."""
    num_failed: int = 0
    """Traces that the simulator did not finish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The posterior of one engine, ready to be drawn."""

    label: str
    color: str
    dash: str
    """Line style, one of `DASHES`, so that the figures can be read without color."""
    num_draws: int
    num_chains: int
    is_weighted: bool
    ess: float
    """Kish effective sample size of the weights, or the smallest one over the variables for chains."""
    khat: float | None = None
    log_weights: Floats | None = None
    """(N,) unnormalized; None for unweighted draws."""
    log_evidence: float | None = None
    log_evidence_se: float | None = None
    acceptance: float | None = None
    moves: tuple[MoveAcceptance, ...] = ()
    """Of chains, by chain and move."""
    addresses: tuple[AddressAcceptance, ...] = ()
    """Of chains, moves of single draws by address, the most frequent first."""
    diagnosis: Diagnosis = field(default_factory=lambda: Diagnosis("", ()))
    marginals: Mapping[str, Marginal] = field(default_factory=dict)
    facts: RunFacts | None = None

    @property
    def verdict(self) -> Verdict:
        """How far its own diagnostics trust it."""
        return self.diagnosis.verdict

    @property
    def max_weight(self) -> float | None:
        """Share of the largest weight in the sum of all weights."""
        if self.log_weights is None or len(self.log_weights) == 0:
            return None
        top = float(np.max(self.log_weights))
        if not np.isfinite(top):
            return None
        return float(1.0 / np.sum(np.exp(self.log_weights - top)))

    @property
    def max_rhat(self) -> float | None:
        """The largest R-hat over the variables; None when none applies."""
        found = [m.rhat for m in self.marginals.values() if m.rhat is not None]
        return max(found, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The loss of a training run."""

    traces: Floats
    """(K,) traces seen."""
    loss: Floats
    """(K,) training loss."""
    validation_traces: Floats
    """(L,) traces seen at each validation."""
    validation_loss: Floats
    """(L,) validation loss."""


def make_marginal(
    values: NDArray[np.generic],
    weights: NDArray[np.generic] | None,
    chain: NDArray[np.generic] | None = None,
    draw: NDArray[np.generic] | None = None,
    *,
    share: float = 1.0,
    mcse: float = float("nan"),
    ess: float = float("nan"),
    rhat: float | None = None,
) -> Marginal:
    """Build the marginal of one scalar variable and describe what is unusual about it.

    Parameters
    ----------
    values
        (M,) values of the draws that carry the variable.
    weights
        (M,) their weights, any positive scale; None for equal weights.
    chain, draw
        (M,) chain and position of each draw; None for one chain in the given order.
    share
        Posterior probability that the variable is present.
    mcse
        Standard error of the mean; NaN when unknown.
    ess
        Effective number of draws; NaN when unknown.
    rhat
        R-hat over the chains; None when it does not apply.
    """
    numbers = np.asarray(values, dtype=np.float64).reshape(-1)
    raw = np.ones(len(numbers)) if weights is None else np.asarray(weights, dtype=np.float64).reshape(-1)
    keep = np.isfinite(numbers) & np.isfinite(raw)
    chains = np.zeros(len(numbers), dtype=np.int64) if chain is None else np.asarray(chain, dtype=np.int64)
    draws = np.arange(len(numbers)) if draw is None else np.asarray(draw, dtype=np.int64)
    num_odd = int(np.count_nonzero(~keep))
    numbers, raw, chains, draws = numbers[keep], raw[keep], chains[keep], draws[keep]
    total = float(raw.sum())
    if len(numbers) == 0 or not total > 0:
        empty = np.zeros(0)
        none = np.zeros(0, dtype=np.int64)
        note = "present in no draw" if num_odd == 0 else f"not a finite number in any of {num_odd:,} draws"
        return Marginal(values=empty, weights=empty, chain=none, draw=none, share=0.0, note=note)
    probabilities = raw / total
    mean = float(probabilities @ numbers)
    std = float(np.sqrt(probabilities @ (numbers - mean) ** 2))
    notes = []
    if np.ptp(numbers) == 0:
        mean, std, mcse, ess, rhat = float(numbers[0]), 0.0, 0.0, float("nan"), None
        notes.append("constant in all draws")
    if share < 0.9995:
        notes.append(f"present in {_percent(share)} of the posterior; numbers are given that it is present")
    if num_odd:
        notes.append(f"{num_odd:,} draws without a finite value left out")
    return Marginal(
        values=numbers, weights=probabilities, chain=chains, draw=draws, share=share, mean=mean, std=std,
        mcse=mcse, ess=ess, rhat=rhat, note="; ".join(notes),
    )  # fmt: skip


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.2g} %" if percent < 10 else f"{percent:.0f} %"


def make_variable(
    name: str,
    marginals: Sequence[Marginal],
    *,
    label: str | None = None,
    category_labels: Sequence[str] | Mapping[int, str] | None = None,
    truth: float | None = None,
) -> Variable:
    """Decide how a variable is shown, from what all engines drew.

    Parameters
    ----------
    name
        Name or address of the variable.
    marginals
        Its marginal in each engine.
    label
        What people read; the name by default.
    category_labels
        Labels of the categories 0, 1, ..., or by category; makes the variable discrete.
    truth
        The true value, if known.
    """
    drawn = [m.values for m in marginals if not m.is_empty]
    distinct = np.unique(np.concatenate(drawn)) if drawn else np.zeros(0)
    text = label or name
    if category_labels is None and not are_categories(distinct):
        return Variable(name=name, label=text, truth=truth)
    if truth is not None:
        distinct = np.union1d(distinct, [truth])
    labels = dict(enumerate(category_labels)) if isinstance(category_labels, Sequence) else dict(category_labels or {})
    categories = tuple((float(v), str(labels.get(int(v), f"{v:g}"))) for v in distinct)
    return Variable(name=name, label=text, categories=categories, truth=truth)


def are_categories(distinct: Floats) -> bool:
    """Tell whether a variable with these distinct values is best shown as probabilities.

    Parameters
    ----------
    distinct
        (K,) distinct values over all engines.
    """
    if not 0 < len(distinct) <= MAX_CATEGORIES:
        return False
    return bool(np.all(distinct == np.round(distinct)) and np.all(np.abs(distinct) < 2**31))


def top_categories(variable: Variable, engines: Sequence[Engine], most: int) -> list[tuple[float, str]]:
    """Return the most probable categories over all engines, in order of their value; the truth is always one."""
    categories = list(variable.categories or ())
    if len(categories) <= most:
        return categories

    def importance(category: tuple[float, str]) -> float:
        if category[0] == variable.truth:
            return 2.0
        found = [m for e in engines if (m := e.marginals.get(variable.name)) is not None]
        return max((float(m.weights[m.values == category[0]].sum()) for m in found), default=0.0)

    return sorted(sorted(categories, key=importance, reverse=True)[:most])
