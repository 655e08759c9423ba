"""What a store must hold, in memory: receipts, versions, orphans, and the traces of every segment."""

from dataclasses import dataclass, field, replace

import numpy as np

from tests.suites.batches import make_batch, make_layout
from tracestore.traces import TraceBatch

KINDS = [
    (make_layout(0), make_layout(1)),
    (make_layout(2), make_layout(0, vectors=1)),
    (make_layout(5, observed=("dense", "count")), make_layout(1, tag=False)),
]


def make_rows(number: int, unit: int | None, *, has_traces: bool = True) -> TraceBatch:
    """Traces of a unit of work, made for the `number`-th time; the streams tell the unit, the values the number."""
    first_stream = 10 * (unit if unit is not None else 100 + number)
    num_traces = 5 + number % 4 if has_traces else 0
    kinds = KINDS[number % len(KINDS)]
    return make_batch(number, num_traces, kinds, first_stream=first_stream, num_failed=number % 2 if has_traces else 0)


def in_row_order(batch: TraceBatch) -> TraceBatch:
    """Rows in the order of a sealed segment (format 3.21)."""
    ids = np.array([layout.id for layout in batch.layouts], np.uint64)[batch.layout_index]
    return batch.take(np.lexsort((batch.stream, ids, batch.trace_types, batch.num_sites)))


@dataclass(frozen=True)
class Claim:
    """What a receipt says."""

    name: str
    units: frozenset[int]
    states: tuple
    segment: str | None


@dataclass(frozen=True)
class Version:
    segments: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    """Of the receipts that count, in the order of folding."""
    folded: frozenset[str] = frozenset()
    quarantined: frozenset[str] = frozenset()


@dataclass
class Model:
    versions: list[Version] = field(default_factory=lambda: [Version()])
    oldest: int = 0
    receipts: dict[str, Claim] = field(default_factory=dict)
    orphans: dict[str, Claim] = field(default_factory=dict)
    """By segment, what was to be the receipt of it."""
    rows: dict[str, TraceBatch] = field(default_factory=dict)
    makers: dict[str, frozenset[str]] = field(default_factory=dict)
    """By segment, names of the receipts whose traces it has."""

    @property
    def newest(self) -> Version:
        return self.versions[-1]

    @property
    def number(self) -> int:
        return len(self.versions) - 1

    @property
    def pending(self) -> list[str]:
        return self.pending_at(self.newest)

    def pending_at(self, version: Version) -> list[str]:
        return sorted(set(self.receipts) - version.folded)

    def plan(self, version: Version) -> tuple[list[Claim], list[str]]:
        """Receipts that a fold takes, and names of those that it sets aside."""
        units = {unit for claim in version.claims for unit in claim.units}
        taken, aside = [], []
        for name in self.pending_at(version):
            claim = self.receipts[name]
            if units & claim.units:
                aside.append(name)
            else:
                units |= claim.units
                taken.append(claim)
        return taken, aside

    def done(self, version: Version) -> set[int]:
        return {unit for claim in (*version.claims, *self.plan(version)[0]) for unit in claim.units}

    def states(self, version: Version) -> list:
        return [state for claim in (*version.claims, *self.plan(version)[0]) for state in claim.states]

    def batch(self, version: Version) -> TraceBatch:
        return TraceBatch.concatenate([self.rows[identity] for identity in version.segments])

    def place(self, claim: Claim, rows: TraceBatch) -> None:
        """A segment is sealed, its receipt is not published."""
        assert claim.segment is not None
        self.rows[claim.segment] = rows
        self.makers[claim.segment] = frozenset({claim.name})
        self.orphans[claim.segment] = claim

    def receive(self, claim: Claim) -> None:
        self.receipts[claim.name] = claim
        if claim.segment is not None:
            self.orphans.pop(claim.segment, None)

    def publish(self, **changes) -> None:
        self.versions.append(replace(self.newest, **changes))

    def fold(self) -> None:
        if self.pending:
            taken, _ = self.plan(self.newest)
            self.publish(
                segments=(*self.newest.segments, *(claim.segment for claim in taken if claim.segment)),
                claims=(*self.newest.claims, *taken),
                folded=frozenset(self.receipts),
            )

    def adoptable(self) -> list[str]:
        """Orphans whose work is not done."""
        done = self.done(self.newest)
        return sorted(identity for identity, claim in self.orphans.items() if not claim.units & done)

    def adopt(self) -> list[str]:
        """Give orphans the receipts that they were to have; their ids."""
        adopted = []
        for identity in self.adoptable():
            # one that was adopted may have the work of the next
            if identity in self.adoptable():
                self.receive(self.orphans[identity])
                adopted.append(identity)
        return adopted

    def quarantine(self, identity: str) -> None:
        self.publish(
            segments=tuple(one for one in self.newest.segments if one != identity),
            claims=tuple(claim for claim in self.newest.claims if claim.name not in self.makers[identity]),
            quarantined=self.newest.quarantined | {identity},
        )

    def put(self, new: str, old: list[str]) -> None:
        """A segment is there that may stand for others."""
        self.rows[new] = TraceBatch.concatenate([self.rows[identity] for identity in old])
        self.makers[new] = frozenset().union(*(self.makers[identity] for identity in old))

    def replace(self, new: str, old: list[str]) -> None:
        self.put(new, old)
        segments = list(self.newest.segments)
        place = min(map(segments.index, old))
        kept = [identity for identity in segments[place:] if identity not in old]
        self.publish(segments=(*segments[:place], new, *kept))

    def sort(self, after: list[tuple[str, int]]) -> None:
        """All traces in the order of sorting, cut into segments of these ids and sizes."""
        before = self.newest.segments
        batch = self.batch(self.newest)
        ids = np.array([layout.id for layout in batch.layouts], np.uint64)[batch.layout_index]
        ordered = batch.take(np.lexsort((ids, batch.trace_types, batch.num_sites)))
        gone = set(before) - {identity for identity, _ in after}
        new = {identity for identity, _ in after} - set(before)
        # receipts whose traces are spread are in no segment alone
        makers = frozenset().union(*(self.makers[identity] for identity in gone)) if len(new) == 1 else frozenset()
        start = 0
        for identity, num_traces in after:
            self.rows[identity] = ordered.take(np.arange(start, start + num_traces))
            start += num_traces
            if identity in new:
                self.makers[identity] = makers
        assert start == len(batch)
        self.publish(segments=tuple(identity for identity, _ in after))

    def used(self) -> set[str | None]:
        """Segments that a collection leaves when only the newest version is retained."""
        waiting = {self.receipts[name].segment for name in self.pending}
        return {*self.newest.segments, *self.newest.quarantined, *waiting, *self.adoptable()}

    def copied(self) -> "Model":
        """Model of a copy of the newest version."""
        newest = replace(self.newest, quarantined=frozenset())
        versions = [Version(), newest] if self.number else [Version()]
        return Model(versions, 0, {name: self.receipts[name] for name in newest.folded}, {}, self.rows, self.makers)
