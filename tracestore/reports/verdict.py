"""Compare engines with each other and with the truth, in words. Pure: records in, records out.

How far a single engine can be trusted is the diagnosis of its posterior, `tracestore.posteriors.diagnosis`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tracestore.posteriors.findings import Verdict
from tracestore.reports.data import Engine, Marginal, Variable

__all__ = ["Agreement", "compare", "describe_agreement", "describe_trust", "describe_truth"]

MEAN_DOUBTFUL = 3.0
MEAN_BAD = 4.0
PROBABILITY_BAD = 0.1


@dataclass(frozen=True, slots=True)
class Agreement:
    """The largest difference between any two engines in one variable."""

    variable: Variable
    verdict: Verdict | None
    """None when no two engines can be compared."""
    engines: tuple[str, str] = ("", "")
    difference: float = float("nan")
    """Of the means, or of the probabilities of ``category``."""
    num_errors: float = float("nan")
    """The difference in combined standard errors."""
    category: str = ""


def compare(variables: Sequence[Variable], engines: Sequence[Engine]) -> list[Agreement]:
    """Find the largest difference between engines in each variable.

    Parameters
    ----------
    variables
        What to compare.
    engines
        Two or more; fewer give nothing to compare.

    Returns
    -------
    list[Agreement]
        One a variable, in order.
    """
    return [_compare_one(variable, engines) for variable in variables]


def _compare_one(variable: Variable, engines: Sequence[Engine]) -> Agreement:
    drawn = [(e, e.marginals[variable.name]) for e in engines if variable.name in e.marginals]
    drawn = [(e, m) for e, m in drawn if not m.is_empty]
    worst = Agreement(variable, None)
    for (first, a), (second, b) in combinations(drawn, 2):
        found = (
            _compare_categories(variable, first, a, second, b)
            if variable.is_discrete
            else _compare_means(variable, first, a, second, b)
        )
        if found.verdict is not None and (worst.verdict is None or _severity(found) > _severity(worst)):
            worst = found
    return worst


def _severity(agreement: Agreement) -> tuple[int, float]:
    rank = agreement.verdict.rank if agreement.verdict is not None else -1
    return rank, abs(agreement.difference) if agreement.category else agreement.num_errors


def _compare_means(variable: Variable, first: Engine, a: Marginal, second: Engine, b: Marginal) -> Agreement:
    pair = (first.label, second.label)
    difference = a.mean - b.mean
    error = float(np.hypot(a.mcse, b.mcse))
    if not np.isfinite(error):
        return Agreement(variable, None, pair, difference)
    if error == 0:
        num_errors = 0.0 if difference == 0 else float("inf")
    else:
        num_errors = abs(difference) / error
    verdict = Verdict.GOOD if num_errors <= MEAN_DOUBTFUL else Verdict.DOUBTFUL
    if num_errors > MEAN_BAD:
        verdict = Verdict.BAD
    return Agreement(variable, verdict, pair, difference, num_errors)


def _compare_categories(variable: Variable, first: Engine, a: Marginal, second: Engine, b: Marginal) -> Agreement:
    best = Agreement(variable, None)
    for value, label in variable.categories or ():
        p, q = float(a.weights[a.values == value].sum()), float(b.weights[b.values == value].sum())
        variance = sum(r * (1 - r) / n for r, n in ((p, _draws_behind(first, a)), (q, _draws_behind(second, b))))
        difference = p - q
        num_errors = abs(difference) / np.sqrt(variance) if variance > 0 else (0.0 if difference == 0 else np.inf)
        if np.isnan(best.difference) or abs(difference) > abs(best.difference):
            verdict = Verdict.GOOD if abs(difference) <= PROBABILITY_BAD else Verdict.DOUBTFUL
            if abs(difference) > PROBABILITY_BAD and num_errors > MEAN_BAD:
                verdict = Verdict.BAD
            best = Agreement(variable, verdict, (first.label, second.label), difference, float(num_errors), label)
    return best


def _draws_behind(engine: Engine, marginal: Marginal) -> float:
    return max(next((n for n in (marginal.ess, engine.ess) if np.isfinite(n)), 1.0), 1.0)


def describe_agreement(agreements: Sequence[Agreement], num_engines: int) -> tuple[Verdict | None, str]:
    """Say in one or two sentences whether the engines agree.

    Parameters
    ----------
    agreements
        The result of `compare`.
    num_engines
        How many engines were compared.

    Returns
    -------
    tuple[Verdict | None, str]
        The worst verdict (None without anything to compare) and the words.
    """
    judged = [a for a in agreements if a.verdict is not None]
    if num_engines < 2 or not judged:
        missing = "only one engine was run" if num_engines < 2 else "no variable could be compared"
        return None, f"Agreement cannot be checked: {missing}."
    worst = max((a.verdict for a in judged if a.verdict is not None), key=lambda v: v.rank)
    names = _names([a.variable.label for a in judged if a.verdict is worst])
    if worst is Verdict.GOOD:
        text = f"The engines agree on {'all ' if len(judged) > 1 else ''}{_count(len(judged), 'variable')}."
    elif worst is Verdict.DOUBTFUL:
        text = f"The engines roughly agree; look twice at {names}."
    else:
        text = f"The engines disagree on {names}."
    return worst, f"{text} {_largest(judged)}".strip()


def _largest(judged: Sequence[Agreement]) -> str:
    parts = []
    means = [a for a in judged if not a.category and np.isfinite(a.num_errors)]
    if means:
        top = max(means, key=lambda a: a.num_errors)
        pair = " and ".join(top.engines)
        parts.append(f"The largest difference of means is {top.num_errors:.1f} combined standard errors "
                     f"({top.variable.label}, between {pair})")  # fmt: skip
    shares = [a for a in judged if a.category]
    if shares:
        top = max(shares, key=lambda a: abs(a.difference))
        pair = " and ".join(top.engines)
        joint = "the" if parts else "The"
        parts.append(f"{joint} largest difference of probabilities is {abs(top.difference):.2f} "
                     f"({top.variable.label} {top.category}, between {pair})")  # fmt: skip
    return "; ".join(parts) + "." if parts else ""


def describe_trust(engines: Sequence[Engine]) -> str:
    """Name the engines that their own diagnostics disqualify; empty when there is none.

    Parameters
    ----------
    engines
        All engines of the report.
    """
    bad = [engine.label for engine in engines if engine.verdict is Verdict.BAD]
    if not bad:
        return ""
    if len(bad) == len(engines):
        return "No engine can be trusted by its own diagnostics; neither their agreement nor a disagreement says much."
    theirs, them = ("its", "it") if len(bad) == 1 else ("their", "them")
    return f"Do not trust {_names(bad)}, by {theirs} own diagnostics; comparisons with {them} say little."


def describe_truth(variables: Sequence[Variable], engine: Engine) -> str:
    """Say where the truth lies in the posterior of one engine.

    Parameters
    ----------
    variables
        Those with a known truth count.
    engine
        Whose posterior.

    Returns
    -------
    str
        A sentence; empty when no truth is known.
    """
    inside, total, parts = 0, 0, []
    for variable in variables:
        marginal = engine.marginals.get(variable.name)
        if variable.truth is None or marginal is None or marginal.is_empty:
            continue
        if variable.is_discrete:
            share = float(marginal.weights[marginal.values == variable.truth].sum())
            parts.append(f"the true {variable.label} ({variable.category_label(variable.truth)}) "
                         f"has probability {share:.2f}")  # fmt: skip
            continue
        total += 1
        below = float(marginal.weights[marginal.values < variable.truth].sum())
        at_or_below = float(marginal.weights[marginal.values <= variable.truth].sum())
        inside += at_or_below >= 0.05 and below <= 0.95
    if total:
        parts.insert(0, f"the truth lies within the central 90 % interval for {inside} of "
                        f"{_count(total, 'continuous variable')}")  # fmt: skip
    return f"{engine.label}: {'; '.join(parts)}." if parts else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
