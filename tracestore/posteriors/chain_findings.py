"""Findings about Markov chains: whether they move, whether they agree, and how much they know."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tracestore.diagnostics.chains import MIN_DRAWS, ess, is_constant, rhat
from tracestore.errors import DiagnosticError
from tracestore.posteriors.draw_table import DrawTable, Present
from tracestore.posteriors.findings import Finding, Verdict, listed, percent
from tracestore.posteriors.trajectory_findings import trajectory_findings
from tracestore.posteriors.variable import by_chain

if TYPE_CHECKING:
    from tracestore.posteriors.posterior import Posterior

__all__ = ["ChainLimits", "chain_findings"]

FEW_CHAINS = 4
ESS_BAD = 50
FAILED_DOUBTFUL = 0.01
MANY_MOVES = 100
"""Moves of one kind from which on it says something that none was accepted."""
STANDSTILL_BAD = 0.5
STANDSTILL_DOUBTFUL = 0.1
RHAT_BAD_FACTOR = 5.0
MAX_NAMED = 4

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ChainLimits:
    """Where the judgement of chains changes."""

    rhat_max: float
    """Largest R-hat of chains that agree; five times as far from one they disagree."""
    ess_per_chain: float
    """Smallest bulk and tail size a chain that is enough for densities and tails."""

    @property
    def rhat_bad(self) -> float:
        """R-hat above which the chains disagree."""
        return 1.0 + RHAT_BAD_FACTOR * (self.rhat_max - 1.0)


@dataclass(frozen=True, slots=True)
class _Quantity:
    """A number of every draw, by chain."""

    name: str
    chains: Matrix


@dataclass(frozen=True, slots=True)
class _Measured:
    """What the chains say about a quantity that varies."""

    name: str
    rhat: float
    """NaN with a single chain."""
    bulk: float
    tail: float
    """NaN where it does not apply."""
    num_chains: int


def chain_findings(
    posterior: "Posterior", table: DrawTable, variables: Iterable[tuple[str, Present]], limits: ChainLimits
) -> list[Finding]:
    """Judge the draws of Markov chains.

    Parameters
    ----------
    posterior
        Draws of chains, at least one.
    table
        Its columns.
    variables
        Names and draws of the variables to judge, beside the log likelihood and the log prior.
    limits
        Where the judgement changes.

    Returns
    -------
    list[Finding]
        In no particular order.
    """
    findings = _moves(posterior) + trajectory_findings(posterior)
    lengths = np.unique(table.chain, return_counts=True)[1]
    if lengths.min() < MIN_DRAWS:
        text = f"The shortest chain has {lengths.min()} draws: nothing can be said about it."
        return [*findings, Finding(Verdict.BAD, "few-draws", "chains", text, "Run longer.")]
    findings += _number_of_chains(len(lengths)) + _standstill(table)
    measured: list[_Measured] = []
    for quantities, about in _quantities(table, variables):
        findings += about + [finding for quantity in quantities for finding in _constant_in_some(quantity)]
        measured += [_measure(quantity) for quantity in quantities if not is_constant(quantity.chains)]
    if not measured:
        text = "Nothing varies between draws: there is nothing that chains could agree on."
        return [*findings, Finding(Verdict.DOUBTFUL, "constant", "chains", text, "Check that something is inferred.")]
    if len(lengths) > 1:
        findings.append(_agreement(measured, limits))
    return findings + _sizes(measured, limits)


def _quantities(
    table: DrawTable, variables: Iterable[tuple[str, Present]]
) -> Iterator[tuple[list[_Quantity], list[Finding]]]:
    """Yield what is to be judged, one variable in memory at a time."""
    for column in ("log_likelihood", "log_prior"):
        yield [_Quantity(column.replace("_", " "), by_chain(table.column(column), table.chain))], []
    for name, present in variables:
        yield _read_variable(table, name, present)


def _measure(quantity: _Quantity) -> _Measured:
    return _Measured(
        name=quantity.name,
        rhat=rhat(quantity.chains) if len(quantity.chains) > 1 else math.nan,
        bulk=ess(quantity.chains),
        tail=ess(quantity.chains, method="tail"),
        num_chains=len(quantity.chains),
    )


def _moves(posterior: "Posterior") -> list[Finding]:
    try:
        rows = posterior.acceptance_by_move
    except DiagnosticError:  # a view that was saved: the moves are recorded where the chains ran
        return []
    findings = []
    frozen = []
    for chain in dict.fromkeys(row.chain for row in rows):
        mine = [row for row in rows if row.chain == chain]
        if sum(row.num_proposed for row in mine) and not sum(row.num_accepted for row in mine):
            frozen.append(chain)
            text = f"Chain {chain} accepted none of its {sum(row.num_proposed for row in mine):,} moves."
            advice = (
                "Check the observation, and that the likelihood is not so narrow that no move can keep it; give smaller"
                " steps or other moves, or start the chains from `ic` draws."
            )
            findings.append(Finding(Verdict.BAD, "no-acceptance", f"chain {chain}", text, advice))
    for move in dict.fromkeys(row.move for row in rows):
        mine = [row for row in rows if row.move == move and row.chain not in frozen]
        proposed = sum(row.num_proposed for row in mine)
        if proposed >= MANY_MOVES and not sum(row.num_accepted for row in mine):
            text = f"The move {move!r} was never accepted, in {proposed:,} tries."
            advice = "It costs time and helps nothing; leave it out (`move_weights`)."
            findings.append(Finding(Verdict.GOOD, "idle-move", move, text, advice))
    if not frozen:
        findings += _stiff_addresses(posterior)
    proposed, failed = sum(row.num_proposed for row in rows), sum(row.num_failed for row in rows)
    if failed:
        share = failed / max(proposed, 1)
        text = f"{failed:,} of {proposed:,} moves were rejected because the simulator failed ({percent(share)})."
        advice = "Rare failures do no harm; frequent ones cut off a part of the posterior: mend the simulator."
        verdict = Verdict.DOUBTFUL if share >= FAILED_DOUBTFUL else Verdict.GOOD
        findings.append(Finding(verdict, "failed-runs", "simulator", text, advice))
    return findings


def _stiff_addresses(posterior: "Posterior") -> list[Finding]:
    """Find draws that no move of their own ever changed."""
    stiff = [row for row in posterior.acceptance_by_address if row.num_proposed >= MANY_MOVES and not row.num_accepted]
    if not stiff:
        return []
    names = [row.address for row in stiff]
    text = (
        f"No move of a single draw was ever accepted at {listed(names)}; the first was tried"
        f" {stiff[0].num_proposed:,} times."
    )
    advice = "It moves with others alone; let it walk jointly with what it depends on (`joint_names`)."
    return [Finding(Verdict.DOUBTFUL, "no-acceptance-at", names[0], text, advice)]


def _number_of_chains(number: int) -> list[Finding]:
    if number >= FEW_CHAINS:
        return []
    if number == 1:
        text = "R-hat does not apply: one chain cannot show whether others would agree."
        return [Finding(Verdict.DOUBTFUL, "few-chains", "chains", text, f"Run with `chains={FEW_CHAINS}`.")]
    text = f"{number} chains may agree by chance."
    return [Finding(Verdict.GOOD, "few-chains", "chains", text, f"{FEW_CHAINS} would show more.")]


def _standstill(table: DrawTable) -> list[Finding]:
    """Find chains that stay in one state for a large part of their draws."""
    log_joint = np.column_stack([table.column("log_prior"), table.column("log_likelihood")])
    findings = []
    for chain in np.unique(table.chain):
        mine = log_joint[table.chain == chain]
        changes = np.flatnonzero((mine[1:] != mine[:-1]).any(axis=1)) + 1
        longest = int(np.diff(changes, prepend=0, append=len(mine)).max())
        share = longest / len(mine)
        if share < STANDSTILL_DOUBTFUL or longest < MIN_DRAWS:
            continue
        if longest == len(mine) and np.ptp(log_joint, axis=0).max() == 0.0:
            continue  # nothing varies anywhere, and that is said elsewhere
        verdict = Verdict.BAD if share >= STANDSTILL_BAD else Verdict.DOUBTFUL
        text = f"Chain {chain} stood still for {longest:,} of its {len(mine):,} draws in a row."
        advice = "Run longer, use moves of smaller steps, or mix in `ic` proposals."
        findings.append(Finding(verdict, "stuck", f"chain {chain}", text, advice))
    return findings


def _read_variable(table: DrawTable, name: str, present: Present) -> tuple[list[_Quantity], list[Finding]]:
    """Split a variable into its elements; where only some draws have it, also whether they have it."""
    values, rows = present
    columns = values.reshape(len(values), -1).T
    labels = [name + (f"[{', '.join(map(str, i))}]" if i else "") for i in np.ndindex(*values.shape[1:])]
    if len(rows) == len(table):
        chains = [by_chain(column, table.chain) for column in columns]
        return [_Quantity(label, matrix) for label, matrix in zip(labels, chains, strict=True)], []
    indicator = np.zeros(len(table))
    indicator[rows] = 1.0
    quantities = [_Quantity(f"presence of {name}", by_chain(indicator, table.chain))]
    chain = table.chain[rows]
    numbers, counts = np.unique(chain, return_counts=True)
    usable = np.isin(chain, numbers[counts >= 2 * MIN_DRAWS])
    num_chains = len(np.unique(table.chain))
    share = len(rows) / len(table)
    if (counts >= 2 * MIN_DRAWS).sum() < min(num_chains, 2):
        text = (
            f"{name!r} is present in {percent(share)} of the draws, {len(rows):,} in {len(numbers)} of {num_chains}"
            " chains: too few to compare its values."
        )
        return quantities, [Finding(Verdict.DOUBTFUL, "rarely-present", name, text, "Run longer if it matters.")]
    quantities += [
        _Quantity(f"{label} where present", by_chain(column[usable], chain[usable]))
        for label, column in zip(labels, columns, strict=True)
    ]
    text = f"{name!r} is present in {percent(share)} of the draws; presence and value are judged each for itself."
    return quantities, [Finding(Verdict.GOOD, "present-in-some", name, text)]


def _constant_in_some(quantity: _Quantity) -> list[Finding]:
    constant = [chain for chain, draws in enumerate(quantity.chains) if is_constant(draws)]
    if not constant or is_constant(quantity.chains):
        return []
    places = sorted({float(quantity.chains[chain, 0]) for chain in constant})
    if len(constant) == len(quantity.chains):
        text = f"{quantity.name!r} never varies within a chain, but differs between chains: it is {listed(places)}."
        verdict = Verdict.BAD
    else:
        chains = f"chain{'s' if len(constant) > 1 else ''} {listed(constant)}"
        text = f"{quantity.name!r} never varies in {chains} (it is {listed(places)} there), but it does in others."
        verdict = Verdict.DOUBTFUL
    advice = "Run longer; if that does not help, use moves that change it together with others, or `ic`."
    return [Finding(verdict, "constant-in-some", quantity.name, text, advice)]


def _agreement(measured: Sequence[_Measured], limits: ChainLimits) -> Finding:
    found = [(one.rhat, one.name) for one in measured if not math.isnan(one.rhat)]
    found.sort(key=lambda pair: -pair[0])
    worst, name = found[0]
    above = [name for number, name in found if number > limits.rhat_max]
    others = f" (and that of {listed(above[1:], MAX_NAMED)})" if len(above) > 1 else ""
    number = "infinite" if math.isinf(worst) else f"{worst:.3f}"
    if worst > limits.rhat_bad:
        text = f"R-hat of {name!r} is {number}, above {limits.rhat_bad:g}{others}: the chains disagree."
        advice = "Run longer, mix other moves, or start from `ic` draws; do not merge these chains."
        return Finding(Verdict.BAD, "rhat", name, text, advice)
    if worst > limits.rhat_max:
        text = (
            f"R-hat of {name!r} is {number}, above {limits.rhat_max:g}{others}: good enough for means, not for tails."
        )
        return Finding(Verdict.DOUBTFUL, "rhat", name, text, "Run longer.")
    return Finding(Verdict.GOOD, "rhat", name, f"R-hat at most {worst:.3f} ({name!r}): the chains agree.")


def _sizes(measured: Sequence[_Measured], limits: ChainLimits) -> list[Finding]:
    findings = []
    for method, estimates in (("bulk", "means"), ("tail", "quantiles")):
        sizes = [(one.bulk if method == "bulk" else one.tail, one) for one in measured]
        found = [(size / one.num_chains, size, one.name) for size, one in sizes if not math.isnan(size)]
        if not found:
            continue
        per_chain, size, name = min(found)
        code = f"ess-{method}"
        facts = f"{method.capitalize()} ESS {size:,.0f} of {name!r}"
        if size < ESS_BAD:
            text = f"{facts} is below {ESS_BAD}: its {estimates} and their errors are not reliable."
            findings.append(Finding(Verdict.BAD, code, name, text, "Run longer."))
        elif per_chain < limits.ess_per_chain:
            text = f"{facts} is {per_chain:,.0f} a chain, below {limits.ess_per_chain:g}: its {estimates} are rough."
            advice = f"Run {math.ceil(limits.ess_per_chain / per_chain)} times as long."
            findings.append(Finding(Verdict.DOUBTFUL, code, name, text, advice))
        else:
            text = f"{facts} is the smallest, {per_chain:,.0f} a chain."
            findings.append(Finding(Verdict.GOOD, code, name, text))
    return findings
