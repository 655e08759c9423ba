"""The program as its traces show it: addresses with their use, and trace types. Records, and how they are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

import numpy as np

from tracestore.errors import TracestoreError
from tracestore.posteriors.posterior import Posterior
from tracestore.reports.layout_shares import LayoutShares
from tracestore.reports.source_lines import SourceFinder, SourceLine
from tracestore.traces.address import REJECTION
from tracestore.traces.layout import Layout, Site, SiteKind

__all__ = [
    "Address",
    "Program",
    "Role",
    "TraceTypeRow",
    "Use",
    "collect_addresses",
    "describe_sequence",
    "find_name",
    "read_program",
    "role_of",
]

MAX_ADDRESSES = 120
"""Base addresses that the table has, those of the largest share first."""
MAX_MOMENTS = 30
"""Scalar addresses of which mean and sd are read."""
MAX_TYPES = 12
"""Trace types that the table has."""
MAX_SEQUENCE = 400
"""Characters of the sequence of a trace type."""
LONGEST_CYCLE = 6
"""Longest repeated part that is looked for in a sequence."""


class Role(StrEnum):
    """What happens at an address."""

    SAMPLED = "sampled"
    REJECTION = "sampled, rejection loop"
    FIXED = "sampled, not controlled"
    OBSERVED = "observed"
    TAGGED = "tagged"

    @property
    def letter(self) -> str:
        """First letter of the short ids of such addresses."""
        return {Role.OBSERVED: "O", Role.TAGGED: "T"}.get(self, "A")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One base address."""

    id: str
    """Short: ``A1``, ``O1``, ``T1``, numbered in the order of the program."""
    base: str
    role: Role
    names: tuple[str, ...]
    family: str
    shape: tuple[int, ...]
    source: SourceLine | None = None

    @property
    def label(self) -> str:
        """What people call it: its name, or the label of the innermost call."""
        if self.names:
            return self.names[0] + (" ..." if len(self.names) > 1 else "")
        return find_name(self.base)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How one engine used one address."""

    share: float
    """Share of the posterior that has the address."""
    mean_visits: float
    """Visits of a trace that has it, on average."""
    most_visits: int
    mean: float = float("nan")
    """Of the first instance, where it is a scalar; NaN when not read."""
    sd: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceTypeRow:
    """One trace type."""

    id: int
    num_sites: int
    """Controlled draws of a trace."""
    shares: Mapping[str, float]
    """Share of the posterior by engine label."""
    counts: Mapping[str, int]
    """Traces by engine label, with weight or without."""
    sequence: str
    """Short ids in order, repeats collapsed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Addresses and trace types over all engines of a report."""

    addresses: tuple[Address, ...]
    num_addresses: int
    """Base addresses in all; more than there are rows when some are left out."""
    uses: Mapping[str, Mapping[str, Use]]
    """By engine label, then by base address; an absent one was not met."""
    trace_types: tuple[TraceTypeRow, ...]
    num_types: int
    rest: Mapping[str, float]
    """Share of the trace types that are left out, by engine label."""
    covered: Mapping[str, float]
    """Share of the posterior whose layouts were looked at, by engine label."""


def find_name(base: str) -> str:
    """Return the label of the innermost call of a base address, or the place as it is.

    Parameters
    ----------
    base
        A base address.

    Examples
    --------
    >>> find_name("decay:energy/split:fraction~Beta"), find_name("tauola.random~Uniform")
    ('fraction', 'tauola.random')
    """
    place = base.removeprefix(REJECTION).rpartition("~")[0] or base
    return place.rpartition("/")[2].partition(":")[2] or place


def role_of(site: Site) -> Role:
    """Return what happens at a site.

    Parameters
    ----------
    site
        A site of a layout.
    """
    if site.kind is SiteKind.OBSERVE:
        return Role.OBSERVED
    if site.kind is SiteKind.TAG:
        return Role.TAGGED
    if not site.is_controlled:
        return Role.FIXED
    return Role.REJECTION if site.is_rejection else Role.SAMPLED


def collect_addresses(found: Sequence[LayoutShares], finder: SourceFinder | None = None) -> tuple[Address, ...]:
    """Give numbers to base addresses, in the order in which the program comes to them.

    The order is that of the mean rank of an address among the distinct addresses of a trace, so that loops of different
    lengths change nothing.

    Parameters
    ----------
    found
        Layouts with their shares, of one engine or several.
    finder
        Looks for source lines; None leaves them out.
    """
    ranks: dict[str, float] = {}
    weights: dict[str, float] = {}
    sites: dict[str, Site] = {}
    names: dict[str, dict[str, None]] = {}
    for part in found:
        for layout, share in zip(part.layouts, part.shares.tolist(), strict=True):
            weight = share + 1e-9  # layouts without weight have an order, too
            distinct: dict[str, Site] = {}
            for site in layout.sites:
                distinct.setdefault(site.base, site)
                if site.name:
                    names.setdefault(site.base, {}).setdefault(site.name)
            for rank, (base, site) in enumerate(distinct.items()):
                sites.setdefault(base, site)
                ranks[base] = ranks.get(base, 0.0) + weight * rank
                weights[base] = weights.get(base, 0.0) + weight
    numbers: dict[str, int] = {}
    addresses = []
    for base in sorted(sites, key=lambda base: (ranks[base] / weights[base], base)):
        role = role_of(sites[base])
        number = numbers[role.letter] = numbers.get(role.letter, 0) + 1
        addresses.append(
            Address(
                id=f"{role.letter}{number}", base=base, role=role, names=tuple(names.get(base, ())),
                family=sites[base].family, shape=sites[base].shape,
                source=finder.find(base) if finder is not None else None,
            )
        )  # fmt: skip
    return tuple(addresses)


def read_program(posteriors: Mapping[str, Posterior], found: Mapping[str, LayoutShares]) -> Program | None:
    """Read addresses and trace types of posteriors.

    Parameters
    ----------
    posteriors
        By label.
    found
        Layouts of those that have any weight, by the same labels.

    Returns
    -------
    Program or None
        None when no engine has a layout.
    """
    if not found:
        return None
    job = next(iter(posteriors.values())).store.job
    finder = SourceFinder(str(job.fields.get("simulator", "")) if job is not None else "")
    addresses = collect_addresses(list(found.values()), finder)
    uses = {label: _uses(shares) for label, shares in found.items()}
    shown = _most_used(addresses, uses)
    scalars = [a for a in shown if not a.shape and a.role is not Role.OBSERVED][:MAX_MOMENTS]
    for label in uses:
        for address in scalars:
            if address.base in uses[label]:
                uses[label][address.base] = _with_moments(posteriors[label], address, uses[label][address.base])
    types, rest, num_types = _trace_types(found, {address.base: address.id for address in addresses})
    return Program(
        addresses=shown, num_addresses=len(addresses), uses=uses, trace_types=types, num_types=num_types, rest=rest,
        covered={label: shares.covered for label, shares in found.items()},
    )  # fmt: skip


def _most_used(addresses: tuple[Address, ...], uses: Mapping[str, Mapping[str, Use]]) -> tuple[Address, ...]:
    if len(addresses) <= MAX_ADDRESSES:
        return addresses

    def share(address: Address) -> float:
        return max((use[address.base].share for use in uses.values() if address.base in use), default=0.0)

    kept = {address.base for address in sorted(addresses, key=share, reverse=True)[:MAX_ADDRESSES]}
    return tuple(address for address in addresses if address.base in kept)


def _uses(found: LayoutShares) -> dict[str, Use]:
    share: dict[str, float] = {}
    visits: dict[str, float] = {}
    most: dict[str, int] = {}
    for layout, weight in zip(found.layouts, found.shares.tolist(), strict=True):
        counts: dict[str, int] = {}
        for site in layout.sites:
            counts[site.base] = counts.get(site.base, 0) + 1
        for base, count in counts.items():
            share[base] = share.get(base, 0.0) + weight
            visits[base] = visits.get(base, 0.0) + weight * count
            most[base] = max(most.get(base, 0), count)
    return {
        base: Use(
            share=1.0 if share[base] > 1.0 - 1e-9 else share[base],
            mean_visits=visits[base] / share[base] if share[base] > 0 else most[base],
            most_visits=most[base],
        )
        for base in share
    }


def _with_moments(posterior: Posterior, address: Address, use: Use) -> Use:
    """Add mean and sd of the first instance, reading one column of each store and keeping none."""
    weights = np.zeros(sum(map(len, posterior.stores)))
    weights[posterior.table.store_rows] = posterior.weights
    values, kept = [], []
    start = 0
    for store in posterior.stores:
        try:
            found, rows = store.values(f"{address.base}#1")
        except TracestoreError:  # this store has it nowhere, or in different shapes
            found, rows = np.zeros(0), np.zeros(0, np.int64)
        values.append(found.astype(np.float64, copy=False).reshape(len(rows), -1)[:, :1].ravel())
        kept.append(weights[start + rows[: len(values[-1])]])
        start += len(store)
    column, weight = np.concatenate(values), np.concatenate(kept)
    total = float(weight.sum())
    if not total > 0:
        return use
    used = weight > 0.0
    column, weight = column[used], weight[used] / total
    mean = float(weight @ column)
    sd = float(np.sqrt(weight @ (column - mean) ** 2))
    return Use(share=use.share, mean_visits=use.mean_visits, most_visits=use.most_visits, mean=mean, sd=sd)


def _trace_types(
    found: Mapping[str, LayoutShares], ids: Mapping[str, str]
) -> tuple[tuple[TraceTypeRow, ...], dict[str, float], int]:
    shares: dict[int, dict[str, float]] = {}
    counts: dict[int, dict[str, int]] = {}
    for label, part in found.items():
        columns = zip(part.trace_types.tolist(), part.type_shares.tolist(), part.type_counts.tolist(), strict=True)
        for identity, share, count in columns:
            shares.setdefault(identity, {})[label] = share
            counts.setdefault(identity, {})[label] = count
    layouts = {layout.trace_type: layout for part in found.values() for layout in reversed(part.layouts)}
    known = [identity for identity in shares if identity in layouts]
    # the mean over engines: one engine that got stuck in one type must not decide alone
    order = sorted(known, key=lambda identity: (-sum(shares[identity].values()), identity))[:MAX_TYPES]
    rows = tuple(
        TraceTypeRow(
            id=identity, num_sites=int(layouts[identity].controlled.sum()), shares=shares[identity],
            counts=counts[identity], sequence=describe_sequence(layouts[identity], ids),
        )
        for identity in order
    )  # fmt: skip
    rest = {label: max(1.0 - sum(row.shares.get(label, 0.0) for row in rows), 0.0) for label in found}
    return rows, rest, len(shares)


def describe_sequence(layout: Layout, ids: Mapping[str, str]) -> str:
    """Write the controlled draws of a layout as short ids, repeats collapsed.

    Parameters
    ----------
    layout
        A layout.
    ids
        Short ids by base address.

    Examples
    --------
    >>> from tracestore.traces.layout import Site
    >>> sites = [Site(f"{base}#{n}", SiteKind.SAMPLE, True, "", "Normal", (), 2) for base, n in
    ...          [("a", 1), ("b", 1), ("b", 2), ("b", 3), ("c", 1), ("d", 1), ("c", 2), ("d", 2), ("c", 3)]]
    >>> describe_sequence(Layout(tuple(sites)), {"a": "A1", "b": "A2", "c": "A3", "d": "A4"})
    'A1 A2#1..3 (A3 A4)x2 A3#3'
    """
    sites = [(ids.get(site.base, "?"), site.instance) for site in layout.sites if site.is_controlled]
    runs = []
    for short, group in groupby(sites, key=lambda pair: pair[0]):
        members = [instance for _, instance in group]
        runs.append((short, members[0], members[-1]))
    parts = []
    place = 0
    while place < len(runs):
        length, repeats = _longest_repeat([run[0] for run in runs], runs, place)
        if repeats > 1:
            parts.append(f"({' '.join(short for short, _, _ in runs[place : place + length])})x{repeats}")
            place += length * repeats
            continue
        short, first, last = runs[place]
        parts.append(f"{short}#{first}..{last}" if last > first else (f"{short}#{first}" if first > 1 else short))
        place += 1
    text = " ".join(parts)
    return text if len(text) <= MAX_SEQUENCE else f"{text[:MAX_SEQUENCE].rpartition(' ')[0]} ..."


def _longest_repeat(shorts: list[str], runs: list[tuple[str, int, int]], place: int) -> tuple[int, int]:
    """Length and number of the repeats that begin here and cover the most; single visits only."""
    best = (1, 1)
    for length in range(2, LONGEST_CYCLE + 1):
        unit = shorts[place : place + length]
        repeats = 1
        while shorts[place + repeats * length : place + (repeats + 1) * length] == unit:
            repeats += 1
        covered = runs[place : place + length * repeats]
        if repeats > 1 and length * repeats > best[0] * best[1] and all(first == last for _, first, last in covered):
            best = (length, repeats)
    return best if best[1] > 1 else (1, 1)
