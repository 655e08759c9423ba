"""Findings about chains that follow gradients: whether their trajectories hold, and whether energies are explored."""

from typing import TYPE_CHECKING

from tracestore.posteriors.findings import Finding, Verdict, percent

if TYPE_CHECKING:
    from tracestore.posteriors.posterior import Posterior

__all__ = ["trajectory_findings"]

DIVERGENT_BAD = 0.01
EBFMI_DOUBTFUL = 0.3
"""Below it the momenta change the energy too little (Betancourt 2016; the limit is that of Stan)."""


def trajectory_findings(posterior: "Posterior") -> list[Finding]:
    """Judge the trajectories of chains; nothing for chains without gradients.

    Parameters
    ----------
    posterior
        Draws of chains.
    """
    rows = posterior.trajectories
    num_steps = sum(row.num_steps for row in rows)
    if not num_steps:
        return []
    acceptance = sum(row.acceptance * row.num_steps for row in rows) / num_steps
    gradients = sum(row.num_gradients for row in rows) / num_steps
    sizes = sorted({f"{row.step_size:.3g}" for row in rows})
    text = (
        f"Step size {', '.join(sizes)}, {gradients:.1f} gradients a step, mean probability of acceptance"
        f" {acceptance:.2f}."
    )
    return [Finding(Verdict.GOOD, "trajectories", "chains", text), *_divergences(posterior), *_energies(posterior)]


def _divergences(posterior: "Posterior") -> list[Finding]:
    rows = posterior.trajectories
    found, total = sum(row.num_divergent for row in rows), sum(row.num_steps for row in rows)
    if not found:
        return []
    text = (
        f"{found:,} of {total:,} trajectories diverged ({percent(found / total)}): the posterior bends more sharply"
        " somewhere than the step size can follow, and the chains may miss that part."
    )
    advice = (
        "Raise `target_acceptance` (0.95); if they stay, write a draw whose scale is another draw as a standard draw"
        " times its scale, or use a narrower prior."
    )
    verdict = Verdict.BAD if found / total >= DIVERGENT_BAD else Verdict.DOUBTFUL
    return [Finding(verdict, "divergences", "chains", text, advice)]


def _energies(posterior: "Posterior") -> list[Finding]:
    known = [(row.ebfmi, row.chain) for row in posterior.trajectories if row.move == "hmc" and row.ebfmi is not None]
    if not known or min(known)[0] >= EBFMI_DOUBTFUL:
        return []
    lowest, chain = min(known)
    num_low = sum(number < EBFMI_DOUBTFUL for number, _ in known)
    text = (
        f"The energy of {num_low} of {len(known)} chains changes little from step to step (E-BFMI {lowest:.2f} in chain"
        f" {chain}, below {EBFMI_DOUBTFUL:g}): tails are explored slowly."
    )
    advice = "Run longer, or write draws whose scales are other draws as standard draws times their scales."
    return [Finding(Verdict.DOUBTFUL, "energy", f"chain {chain}", text, advice)]
