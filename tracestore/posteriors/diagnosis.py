"""Judge a posterior by its own draws, and say in words what is wrong and what to do next.

Thresholds: Pareto k-hat after Vehtari et al. (JMLR 2024), R-hat and effective sizes after Vehtari et al. (Bayesian
Analysis 2021). The verdict is about the draws alone: a network or a chain that never met a mode does not know of it.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tracestore.errors import InvalidInputError, UnknownAddressError
from tracestore.posteriors.chain_findings import ChainLimits, chain_findings
from tracestore.posteriors.draw_table import DrawTable, Present
from tracestore.posteriors.findings import Diagnosis, Finding, Verdict
from tracestore.posteriors.proposal_quality import Trained, untrained_findings
from tracestore.posteriors.variable import MAX_ELEMENTS
from tracestore.posteriors.weight_findings import weight_findings

if TYPE_CHECKING:
    from tracestore.posteriors.posterior import Posterior

__all__ = ["Diagnosis", "Finding", "Verdict", "diagnose"]

ENGINE_WORDS = {
    "is": "importance sampling from the prior",
    "ic": "inference compilation",
    "rmh": "random-walk Metropolis-Hastings",
    "lmh": "lightweight Metropolis-Hastings",
    "hmc": "Hamiltonian Monte Carlo",
    "mala": "the Metropolis-adjusted Langevin algorithm",
    "prior": "prior draws",
}


def diagnose(
    posterior: "Posterior",
    *,
    rhat_max: float = 1.01,
    ess_per_chain: float = 100.0,
    names: Sequence[str] | None = None,
    network: Trained | None = None,
) -> Diagnosis:
    """Judge a posterior and say what to do next.

    Parameters
    ----------
    posterior
        What an engine drew.
    rhat_max
        Largest R-hat of chains that agree.
    ess_per_chain
        Smallest bulk and tail size a chain.
    names
        Variables to judge, by name or address; all names when None, long vectors left out.
    network
        The network that proposed: addresses that it was never trained on are reported.

    Returns
    -------
    Diagnosis
        Findings with advice, the worst first. Its ``exit_code`` is 1 when the posterior must not be trusted.

    Raises
    ------
    InvalidInputError
        When a limit is out of range.
    UnknownAddressError
        When no draw has one of the names.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.toys import gum
    >>> posterior = ts.inference.importance(gum, {"obs0": 8.0, "obs1": 9.0}, "post", num_draws=50, seed=1)
    >>> diagnosis = diagnose(posterior)
    >>> diagnosis.verdict.name, diagnosis.exit_code, diagnosis.findings[0].code in ("ess", "one-draw", "khat")
    ('BAD', 1, True)
    """
    _require_limits(rhat_max, ess_per_chain)
    subject = _subject(posterior)
    if not len(posterior):
        text = "There are no draws."
        return Diagnosis(subject, (Finding(Verdict.BAD, "no-draws", "draws", text, "Run the engine to its end."),))
    table = posterior.table
    findings: list[Finding] = []
    if posterior.has_chains:
        limits = ChainLimits(rhat_max, ess_per_chain)
        findings += chain_findings(posterior, table, _variables(table, names), limits)
    if posterior.is_weighted:
        findings += weight_findings(posterior, table, _variables(table, names))
    if network is not None:
        findings += untrained_findings(posterior, network)
    return Diagnosis(subject, tuple(findings))


def _require_limits(rhat_max: float, ess_per_chain: float) -> None:
    if not rhat_max > 1.0:
        message = f"`rhat_max` must be above 1; got {rhat_max!r}."
        raise InvalidInputError(message, argument="rhat_max")
    if not ess_per_chain > 0.0:
        message = f"`ess_per_chain` must be positive; got {ess_per_chain!r}."
        raise InvalidInputError(message, argument="ess_per_chain")


def _subject(posterior: "Posterior") -> str:
    engine = " and ".join(ENGINE_WORDS.get(part, part) for part in posterior.engine.split("+"))
    job = posterior.stores[0].job
    program = job.fields.get("simulator", "?") if job is not None else "?"
    chains = f" of {posterior.num_chains} chains" if posterior.has_chains else ""
    return f"{engine} for {program!r}, {len(posterior):,} draws{chains}"


def _variables(table: DrawTable, names: Sequence[str] | None) -> Iterator[tuple[str, Present]]:
    """Read variables, one at a time; without names those that are not long."""
    for name in table.names if names is None else names:
        try:
            present = table.present(name)
        except UnknownAddressError:
            if names is not None:
                raise
            continue  # a name that no draw of this observation has
        if names is not None or math.prod(present.values.shape[1:]) <= MAX_ELEMENTS:
            yield name, present
