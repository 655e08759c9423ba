"""Findings about weighted draws: what the weights, the failed runs and the likelihood say about them."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tracestore.diagnostics.psis import khat_threshold, pareto_khat, tail_length
from tracestore.diagnostics.weights import kish_ess, normalized_weights, weighted_ess
from tracestore.posteriors.draw_table import DrawTable, Present
from tracestore.posteriors.findings import Finding, Verdict, listed, percent
from tracestore.posteriors.observe_sites import ObserveScore, observe_scores, unbounded_observes
from tracestore.traces.trace import TraceStatus

if TYPE_CHECKING:
    from tracestore.posteriors.posterior import Posterior

__all__ = ["failure_finding", "no_weight_finding", "weight_findings"]

TIED_RATIO = 30.0
"""Largest weight of such draws, relative to the mean, that is harmless."""
TIED_SHARE = 0.25
"""Where fewer of the largest weights are distinct, draws are discrete and a continuous tail says nothing."""
KHAT_BAD = 0.7
KHAT_FINE = 0.5
"""Below this the weights have a finite variance, as far as their tail tells."""
ESS_BAD = 50
ESS_GOOD = 200
EFFICIENCY_LOW = 1e-3
SHARE_BAD = 0.2
SHARE_DOUBTFUL = 0.05
FAILED_DOUBTFUL = 0.01
FAILED_BAD = 0.5
MAX_LOOKED_AT = 2000
"""Traces that are read to say what is in them."""


def weight_findings(
    posterior: "Posterior", table: DrawTable, variables: Iterable[tuple[str, Present]]
) -> list[Finding]:
    """Judge weighted draws.

    Parameters
    ----------
    posterior
        Weighted draws, at least one.
    table
        Its columns.
    variables
        Names and draws of the variables whose own effective sample size is looked at.

    Returns
    -------
    list[Finding]
        In no particular order.
    """
    log_weights = posterior.log_weights
    findings = failure_finding(table)
    if not np.isfinite(log_weights).any():
        return [*findings, no_weight_finding(table, posterior.engine)]
    if posterior.engine == "prior":
        text = f"{len(log_weights):,} draws from the prior, all of the same weight: there is no observation to judge."
        return [*findings, Finding(Verdict.GOOD, "prior", "weights", text)]
    better = _better_proposals(posterior.engine)
    khat = pareto_khat(log_weights)
    tail = _khat(khat, log_weights, better)
    # advice once is enough
    more = "Draw more, or improve the proposals." if tail.verdict is Verdict.BAD else f"Draw more. {better}"
    findings += [tail, *_one_draw(log_weights, more), *_size(log_weights, more)]
    findings += _sizes_of_variables(log_weights, variables)
    return findings + _unbounded(posterior, table, khat)


def failure_finding(table: DrawTable) -> list[Finding]:
    """Say how many recorded runs failed, and why; nothing when none did.

    Parameters
    ----------
    table
        Columns of the draws.
    """
    failed = np.flatnonzero(table.column("status"))
    if not len(failed):
        return []
    share = len(failed) / len(table)
    verdict = Verdict.DOUBTFUL if share >= FAILED_DOUBTFUL else Verdict.GOOD
    batch = table.take(failed[:MAX_LOOKED_AT])
    reasons = Counter(batch.failures.values()).most_common(3)
    counts = "; ".join(f"{count:,} x {reason}" for reason, count in reasons)
    text = f"{len(failed):,} of {len(table):,} runs of the simulator failed ({percent(share)}): {counts}."
    advice = (
        "They count as impossible; where a failure is not part of the model, that biases the posterior:"
        " mend the simulator."
    )
    return [Finding(Verdict.BAD if share > FAILED_BAD else verdict, "failed-runs", "simulator", text, advice)]


def _better_proposals(engine: str) -> str:
    if "ic" in engine.split("+"):
        return (
            "Train the network on more traces, `refine` it for this observation, raise the share of the prior"
            " (`defensive`), or use `rmh`."
        )
    return "Train a network and use `ic`, or use `rmh`."


def no_weight_finding(table: DrawTable, engine: str) -> Finding:
    """Say why no draw has weight, and at which observe.

    Parameters
    ----------
    table
        Draws that all have weight zero.
    engine
        What made them.
    """
    total = len(table)
    ended_well = np.flatnonzero(table.column("status") == TraceStatus.OK)
    if not len(ended_well):
        text = f"All {total:,} draws have weight zero, because the simulator failed in every run."
        return Finding(Verdict.BAD, "no-weight", "simulator", text, "Mend the simulator, or check the observation.")
    batch = table.take(ended_well[_spread(len(ended_well))])
    scores = observe_scores(batch)
    blocking = [score for score in scores if score.num_impossible]
    where = " ".join(map(_describe_impossible, blocking[:3])) or _describe_lowest(scores)
    text = f"All {total:,} draws have weight zero. {where}".strip()
    names = [score.name for score in blocking or scores][:3]
    checked = f"Check the observation {listed(names)}: unit, sign, order" if names else "Check the observation"
    others = "" if engine == "ic" else ", or let a network propose (`ic`)"
    advice = f"{checked}; a likelihood without probability there can be widened. Then draw more{others}."
    return Finding(Verdict.BAD, "no-weight", names[0] if names else "weights", text, advice)


def _describe_impossible(score: ObserveScore) -> str:
    place = score.address if score.address == score.name else f"{score.name!r} ({score.address})"
    return (
        f"At the observe {place} the observed value has probability zero in {score.num_impossible:,} of"
        f" {score.num_visits:,} visits."
    )


def _describe_lowest(scores: Sequence[ObserveScore]) -> str:
    if not scores:
        return "No observe was reached."
    return f"The lowest log probabilities are at the observe {scores[0].name!r}, {scores[0].mean:.4g} on average."


def _khat(khat: float, log_weights: NDArray[np.float64], better: str) -> Finding:
    finite = log_weights[np.isfinite(log_weights)]
    limit = khat_threshold(len(log_weights))
    if len(finite) == len(log_weights) and np.ptp(finite) == 0.0:
        return Finding(Verdict.GOOD, "khat", "weights", "All weights are equal.")
    if not math.isfinite(khat):
        text = "k-hat could not be estimated: too few draws carry weight."
        return Finding(Verdict.DOUBTFUL, "khat", "weights", text, "Draw more.")
    tail = np.sort(finite)[-tail_length(len(log_weights)) :]
    if khat > limit and len(np.unique(tail)) < TIED_SHARE * len(tail):
        ratio = math.exp(float(tail[-1]) - float(np.logaddexp.reduce(finite))) * len(log_weights)
        text = (
            f"The {len(tail):,} largest weights take only {len(np.unique(tail)):,} values, to which no tail fits;"
            f" the largest is {ratio:.3g} times the mean."
        )
        verdict = Verdict.GOOD if ratio <= TIED_RATIO else Verdict.DOUBTFUL
        return Finding(verdict, "khat", "weights", text, "" if verdict is Verdict.GOOD else better)
    if khat > KHAT_BAD:
        text = f"k-hat {khat:.2f} is above {KHAT_BAD}: rare draws with huge weights decide the answer."
        return Finding(Verdict.BAD, "khat", "weights", text, better)
    if khat > limit:
        text = (
            f"k-hat {khat:.2f} is above {limit:.2f}, the limit for {len(log_weights):,} draws: standard errors are too"
            " small."
        )
        return Finding(Verdict.DOUBTFUL, "khat", "weights", text, "Draw more.")
    return Finding(Verdict.GOOD, "khat", "weights", f"k-hat {khat:.2f}: the weights behave.")


def _one_draw(log_weights: NDArray[np.float64], advice: str) -> list[Finding]:
    weights = normalized_weights(log_weights)
    largest = int(np.argmax(weights))
    share = float(weights[largest])
    if share <= SHARE_DOUBTFUL:
        return []
    verdict = Verdict.BAD if share > SHARE_BAD else Verdict.DOUBTFUL
    text = f"One draw, number {largest:,}, carries {percent(share)} of all weight."
    return [Finding(verdict, "one-draw", "weights", text, advice)]


def _size(log_weights: NDArray[np.float64], advice: str) -> list[Finding]:
    size, total = kish_ess(log_weights), len(log_weights)
    facts = f"ESS {size:,.0f} of {total:,} draws"
    if size < ESS_BAD:
        text = f"{facts} is below {ESS_BAD}: means and errors are not reliable."
        findings = [Finding(Verdict.BAD, "ess", "weights", text, advice)]
    elif size < ESS_GOOD:
        text = f"{facts} is below {ESS_GOOD}: good for means, rough for tails and densities."
        findings = [Finding(Verdict.DOUBTFUL, "ess", "weights", text, "Draw more.")]
    else:
        findings = [Finding(Verdict.GOOD, "ess", "weights", f"{facts}.")]
    if size < EFFICIENCY_LOW * total:
        text = f"Only {percent(size / total)} of the draws count: the proposals hardly fit this observation."
        findings.append(Finding(Verdict.DOUBTFUL, "efficiency", "weights", text, advice))
    return findings


def _sizes_of_variables(log_weights: NDArray[np.float64], variables: Iterable[tuple[str, Present]]) -> list[Finding]:
    """Say where the draws behind one variable are far fewer than those behind the posterior."""
    if kish_ess(log_weights) < ESS_BAD:
        return []
    findings = []
    weights = normalized_weights(log_weights)
    for name, (values, rows) in variables:
        presence = min(float(weights[rows].sum()), 1.0)
        columns = values.reshape(len(values), -1).T
        sizes = [size for column in columns if not math.isnan(size := weighted_ess(column, log_weights[rows]))]
        size = min(sizes, default=math.inf)
        if size >= ESS_BAD or not presence > 0.0:
            continue
        rare = f", which is present in {percent(presence)} of the posterior," if presence < 1.0 - 1e-9 else ""
        text = f"{size:.0f} independent draws would know the mean of {name!r}{rare} as well."
        findings.append(Finding(Verdict.DOUBTFUL, "ess-variable", name, text, "Draw more where it matters."))
    return findings


def _unbounded(posterior: "Posterior", table: DrawTable, khat: float) -> list[Finding]:
    weighty = np.flatnonzero(np.isfinite(posterior.log_weights))
    names = unbounded_observes(table.take(weighty[_spread(len(weighty))]))
    if not names:
        return []
    several = "likelihoods at the observes" if len(names) > 1 else "likelihood at the observe"
    text = (
        f"The {several} {listed(names)} may have no bound, because a width is itself random: the variance of the"
        " weights may be infinite, whatever the share of the prior."
    )
    is_fine = khat <= KHAT_FINE
    advice = "" if is_fine else "Bound the width away from zero, or compare with `rmh`."
    verdict = Verdict.GOOD if is_fine else Verdict.DOUBTFUL
    return [Finding(verdict, "unbounded-likelihood", names[0], text, advice)]


def _spread(total: int) -> NDArray[np.int64]:
    """Places of at most `MAX_LOOKED_AT` draws, evenly over all."""
    return np.unique(np.linspace(0, total - 1, min(total, MAX_LOOKED_AT)).astype(np.int64))
