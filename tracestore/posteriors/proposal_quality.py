"""How well a network proposes, address by address, judged on traces that are drawn from the posterior.

The network's log q is compared with the prior's log p at every controlled site. On posterior draws their mean
difference is what the network knows more than the prior; and with the weight of each draw under the network at hand,
one can tell how many times more draws would be needed if the prior proposed at one address alone.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from tracestore.diagnostics.weights import normalized_weights
from tracestore.errors import InvalidInputError
from tracestore.posteriors.findings import Finding, Verdict, listed, percent
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch
from tracestore.traces.layout import Site, SiteKind
from tracestore.traces.trace import TraceStatus

if TYPE_CHECKING:
    from tracestore.formats.document import JSON
    from tracestore.posteriors.posterior import Posterior

__all__ = [
    "AddressQuality",
    "ProposalQuality",
    "SiteScorer",
    "SiteSession",
    "Trained",
    "proposal_quality",
    "untrained_findings",
]

MAX_TRACES = 2000
UNTRAINED_DOUBTFUL = 0.01
_AT_ONCE = 256

Column = NDArray[np.float64]


class Trained(Protocol):
    """Whatever knows the addresses that it was trained on."""

    @property
    def base_addresses(self) -> Collection[str]:
        """Base addresses."""


class SiteSession(Protocol):
    """Scores recorded traces site by site."""

    def site_log_probs(self, batch: TraceBatch, observation: int | NDArray[np.int64] = 0) -> Column:
        """Return log q at every controlled site.

        Parameters
        ----------
        batch
            N traces.
        observation
            Number of the observation to score them for: one for all, or one a trace, shape ``(N,)``.

        Returns
        -------
        ndarray
            Flat, trace by trace and site by site; NaN where the prior proposes.
        """


class SiteScorer(Trained, Protocol):
    """A network that scores recorded traces site by site."""

    def session(self, observations: Sequence[Mapping[str, NDArray[np.generic]]], num_slots: int) -> SiteSession:
        """Start scoring for one or more observations."""


@dataclass(frozen=True, slots=True)
class AddressQuality:
    """How well a network proposes at one base address."""

    base: str
    """Base address."""
    name: str
    """The user's name, if it has one."""
    num_visits: int
    """Visits in the traces looked at."""
    presence: float
    """Posterior probability that a trace visits it."""
    is_trained: bool
    """Whether the network met it in training."""
    prior_share: float
    """Share of the visits at which the prior proposed: sites never trained, rare instances, rejection loops."""
    gain: float
    """Mean of log q - log p of a visit over posterior draws, in nats: what the network knows more than the prior."""
    benefit: float
    """How many times more draws would be needed, if the prior proposed here alone; below 1 the network does harm."""


class ProposalQuality(Sequence[AddressQuality]):
    """The quality of a network's proposals by base address; prints as a table.

    Parameters
    ----------
    rows
        One a base address, those that matter most first.
    num_traces
        Traces looked at.
    efficiency
        ESS per draw that importance sampling from the network alone would have; NaN where that is not known.
    """

    def __init__(self, rows: Sequence[AddressQuality], num_traces: int, efficiency: float) -> None:
        self.rows = tuple(rows)
        self.num_traces = num_traces
        self.efficiency = efficiency

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> AddressQuality: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[AddressQuality]: ...
    def __getitem__(self, index: int | slice) -> AddressQuality | Sequence[AddressQuality]:
        return self.rows[index]

    def __iter__(self) -> Iterator[AddressQuality]:
        return iter(self.rows)

    @property
    def untrained(self) -> tuple[str, ...]:
        """Base addresses that the traces visit and the network never met."""
        return tuple(row.base for row in self.rows if not row.is_trained)

    def findings(self) -> list[Finding]:
        """Say in words at which addresses the network does not help, the worst first."""
        found = []
        for row in sorted(self.rows, key=lambda row: row.gain):
            if row.is_trained and row.gain < 0.0 and row.presence >= UNTRAINED_DOUBTFUL:
                text = (
                    f"At {row.name or row.base!r} the network proposes worse than the prior, by {-row.gain:.2g} nats."
                )
                advice = "Train longer, on more traces, or with a head that fits its posterior."
                found.append(Finding(Verdict.DOUBTFUL, "poor-proposal", row.name or row.base, text, advice))
        return found

    def to_json(self) -> "dict[str, JSON]":
        """Return the table as JSON; null stands for what is not known."""
        return {
            "num_traces": self.num_traces,
            "efficiency": _known(self.efficiency),
            "addresses": [
                {**asdict(row), "gain": _known(row.gain), "benefit": _known(row.benefit)} for row in self.rows
            ],
        }

    def __str__(self) -> str:
        header = ["", "visits", "presence", "by prior", "gain", "benefit", ""]
        lines = [header] + [
            [
                row.name or row.base,
                f"{row.num_visits}",
                percent(row.presence),
                percent(row.prior_share),
                "-" if math.isnan(row.gain) else f"{row.gain:.3f}",
                "-" if math.isnan(row.benefit) else f"{row.benefit:.3g}",
                "" if row.is_trained else "never trained",
            ]
            for row in self.rows
        ]
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column in (0, len(header) - 1) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )


def proposal_quality(
    source: "Posterior | TraceStore", network: SiteScorer, *, max_traces: int = MAX_TRACES
) -> ProposalQuality:
    """Judge a network's proposals, address by address.

    Parameters
    ----------
    source
        A posterior, whose draws count by their weights; or a store of traces from the prior, each with its own
        observation, which is as good: they are posterior draws for their observations.
    network
        The network.
    max_traces
        Traces that are looked at, evenly over the source.

    Returns
    -------
    ProposalQuality
        One row a base address of controlled draws, in the order of the probability that a trace visits it.

    Raises
    ------
    InvalidInputError
        When the observations do not fit the network, or no trace has any weight.
    """
    tallies: dict[str, _Tally] = {}
    log_ratios, masses = [], []
    first = 0
    for batch, weights, session, observation in _scored_batches(source, network, max_traces):
        log_q = session.site_log_probs(batch, observation)
        log_ratios.append(_tally(tallies, batch, weights, log_q, first))
        masses.append(weights)
        first += len(batch)
    mass = np.concatenate(masses)
    mass /= mass.sum()
    log_ratio = np.concatenate(log_ratios)
    is_posterior = not isinstance(source, TraceStore)
    trained = set(network.base_addresses)
    rows = [tally.finish(base, trained, mass, log_ratio if is_posterior else None) for base, tally in tallies.items()]
    rows.sort(key=lambda row: -row.presence)
    return ProposalQuality(rows, len(mass), _efficiency(source, mass, log_ratio) if is_posterior else math.nan)


@dataclass(slots=True)
class _Tally:
    """What was seen at one base address."""

    name: str
    num_visits: int = 0
    num_by_prior: int = 0
    rows: list[NDArray[np.int64]] = field(default_factory=list)
    """Traces of the visits."""
    differences: list[Column] = field(default_factory=list)
    """Log q - log p of the visits."""

    def finish(self, base: str, trained: Collection[str], mass: Column, log_ratio: Column | None) -> AddressQuality:
        rows, differences = np.concatenate(self.rows), np.concatenate(self.differences)
        visits = mass[rows]
        presence = float(mass[np.unique(rows)].sum())
        gain = float(visits @ differences / visits.sum()) if visits.sum() > 0.0 else math.nan
        benefit = math.nan
        if log_ratio is not None:
            changed = log_ratio + np.bincount(rows, differences, minlength=len(mass))
            benefit = math.exp(min(_log_mean(mass, changed) - _log_mean(mass, log_ratio), 700.0))
        return AddressQuality(
            base=base,
            name=self.name,
            num_visits=self.num_visits,
            presence=min(presence, 1.0),
            is_trained=base in trained,
            prior_share=self.num_by_prior / self.num_visits,
            gain=gain,
            benefit=benefit,
        )


def _tally(tallies: dict[str, _Tally], batch: TraceBatch, weights: Column, log_q: Column, first: int) -> Column:
    """Enter the sites of a batch; returns the log of the joint density over that of the network, by trace."""
    controlled = _controlled(batch)
    if log_q.shape != (len(controlled.trace),):
        message = (
            f"`site_log_probs` must return one number for each of {len(controlled.trace)} controlled sites;"
            f" got shape {log_q.shape}."
        )
        raise InvalidInputError(message, expected=len(controlled.trace), found=log_q.shape)
    by_prior = np.isnan(log_q)
    difference = np.where(by_prior, 0.0, log_q - controlled.log_prior)
    for key, site in enumerate(controlled.sites):
        mine = np.flatnonzero(controlled.site == key)
        tally = tallies.setdefault(site.base, _Tally(site.name))
        tally.num_visits += len(mine)
        tally.num_by_prior += int(by_prior[mine].sum())
        tally.rows.append(controlled.trace[mine] + first)
        tally.differences.append(difference[mine])
    return batch.log_likelihood - np.bincount(controlled.trace, difference, minlength=len(batch))


@dataclass(frozen=True, slots=True)
class _Controlled:
    """The controlled sites of a batch, flat."""

    sites: tuple[Site, ...]
    """One a base address."""
    site: NDArray[np.int64]
    """Position in ``sites``."""
    trace: NDArray[np.int64]
    log_prior: Column


def _controlled(batch: TraceBatch) -> _Controlled:
    known: dict[str, int] = {}
    sites: list[Site] = []
    per_layout = []
    for layout in batch.layouts:
        mine = []
        for site in layout.sites:
            if site.is_controlled and site.base not in known:
                known[site.base] = len(sites)
                sites.append(site)
            mine.append(known[site.base] if site.is_controlled else -1)
        per_layout.append(np.array(mine, np.int64))
    numbers = np.concatenate([np.empty(0, np.int64), *(per_layout[place] for place in batch.layout_index)])
    chosen = np.flatnonzero(numbers >= 0)
    trace = np.repeat(np.arange(len(batch)), batch.num_sites)
    return _Controlled(tuple(sites), numbers[chosen], trace[chosen], batch.log_probs[chosen])


def _scored_batches(
    source: "Posterior | TraceStore", network: SiteScorer, max_traces: int
) -> Iterator[tuple[TraceBatch, Column, SiteSession, int | NDArray[np.int64]]]:
    """Yield traces, their weights, who scores them, and for which observations."""
    if isinstance(source, TraceStore):
        usable = np.flatnonzero(source.column("status") == TraceStatus.OK)
        for rows in _portions(usable, max_traces):
            batch = source.take(rows)
            own_session = network.session([batch[row].observations for row in range(len(batch))], 1)
            yield batch, np.ones(len(batch)), own_session, np.arange(len(batch))
        return
    weights = normalized_weights(source.log_weights)
    usable = np.flatnonzero(weights)
    table = source.table
    session: SiteSession | None = None
    for rows in _portions(usable, max_traces):
        batch = table.take(rows)
        if session is None:
            session = network.session([batch[0].observations], 1)
        yield batch, weights[rows], session, 0


def _portions(usable: NDArray[np.int64], max_traces: int) -> Iterator[NDArray[np.int64]]:
    if not len(usable):
        message = "The proposals cannot be judged: there is no trace that ended well and has weight."
        raise InvalidInputError(message)
    places = np.unique(np.linspace(0, len(usable) - 1, min(len(usable), max_traces)).astype(np.int64))
    for start in range(0, len(places), _AT_ONCE):
        yield usable[places[start : start + _AT_ONCE]]


def _efficiency(source: "Posterior | TraceStore", mass: Column, log_ratio: Column) -> float:
    """ESS per draw under the network alone: one over the posterior mean of the weight, normalized by the evidence."""
    if isinstance(source, TraceStore) or source.has_chains or source.engine == "prior":
        return math.nan
    return math.exp(min(source.log_evidence - _log_mean(mass, log_ratio), 0.0))


def _known(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _log_mean(mass: Column, logs: Column) -> float:
    used = mass > 0.0
    largest = float(logs[used].max())
    return largest + math.log(float(mass[used] @ np.exp(logs[used] - largest)))


def untrained_findings(posterior: "Posterior", network: Trained) -> list[Finding]:
    """Name the addresses that a posterior visits and a network never met.

    Parameters
    ----------
    posterior
        Draws.
    network
        The network.
    """
    weights = normalized_weights(posterior.log_weights)
    rows = np.argsort(-weights, kind="stable")[:MAX_TRACES]
    rows = rows[weights[rows] > 0.0]
    if not len(rows):
        return []
    batch = posterior.table.take(rows)
    trained = set(network.base_addresses)
    met: dict[str, float] = {}
    mass = np.bincount(batch.layout_index, weights[rows], minlength=len(batch.layouts)) / weights[rows].sum()
    for layout, share in zip(batch.layouts, mass.tolist(), strict=True):
        for base in {site.base for site in layout.sites if site.is_controlled and site.kind is SiteKind.SAMPLE}:
            met[base] = met.get(base, 0.0) + share
    unknown = {base: share for base, share in met.items() if base not in trained and share > 0.0}
    if not unknown:
        text = f"The network was trained on every address that the posterior visits, {len(met)} in number."
        return [Finding(Verdict.GOOD, "untrained", "network", text)]
    ordered = sorted(unknown, key=lambda base: -unknown[base])
    share = min(unknown[ordered[0]], 1.0)
    plural = "es" if len(ordered) > 1 else ""
    text = (
        f"The network was never trained on the address{plural} {listed(ordered)}, the first in {percent(share)} of the"
        " posterior: the prior proposes there."
    )
    verdict = Verdict.DOUBTFUL if share >= UNTRAINED_DOUBTFUL else Verdict.GOOD
    advice = "Train on more traces, or finetune on traces that visit them."
    return [Finding(verdict, "untrained", ordered[0], text, advice)]
