"""Stores against a model in memory: writers, killed writers, folds, maintenance, conversion, in any order."""

import os
import secrets
import shutil
import tempfile
import warnings
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.properties.store_model import Claim, Model, in_row_order, make_rows
from tests.store.stores import JOB
from tests.suites.batches import assert_same
from tracestore.errors import InvalidInputError, StoreNotFoundError, TracestoreError, TracestoreWarning
from tracestore.sorting import sort_store
from tracestore.store import StoreWriter, TraceStore, compact, convert, gc, quarantine, recover, verify
from tracestore.traces import TraceBatch

MOST_WRITERS, MOST_PINS, MOST_COPIES = 4, 4, 1
LONG_SECONDS = 1e6
SMALL_BYTES, LARGE_BYTES = 25_000, 10**9
SETTINGS = settings(
    max_examples=max(1, settings.default.max_examples * 2 // 3),
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
PICK = st.integers(0, 5)
UNITS = st.lists(st.none() | st.integers(0, 9), min_size=1, max_size=3)
ENDINGS = st.sampled_from(["seal", "close", "place and die", "seal", "close", "place", "die in place", "open", "die"])
FOLD_DEATHS = st.sampled_from([None, None, ("create", "manifests/"), ("replace", "LATEST")])
ACTIONS: dict[str, dict[str, st.SearchStrategy]] = {
    "write": {"pick": PICK, "is_new": st.booleans(), "is_sorted": st.booleans(), "units": UNITS, "ending": ENDINGS},
    "end_writing": {"pick": PICK, "ending": ENDINGS},
    "open_version": {"pick": PICK, "back": st.integers(0, 4)},
    "refresh": {"pick": PICK},
    "fold": {"pick": PICK, "death": FOLD_DEATHS},
    "put_replacement": {"pick": PICK, "first": PICK, "second": PICK, "is_published": st.booleans()},
    "recover": {"pick": PICK},
    "compact": {
        "pick": PICK,
        "num_bytes": st.sampled_from([SMALL_BYTES, LARGE_BYTES]),
        "codec": st.sampled_from([None, None, "zstd"]),
        "after": st.none() | st.integers(0, 1),
    },
    "collect": {
        "pick": PICK,
        "is_eager": st.sampled_from([True, True, False]),
        "is_killed": st.sampled_from([False, False, True]),
    },
    "sort": {"pick": PICK, "num_bytes": st.sampled_from([SMALL_BYTES, LARGE_BYTES]), "is_killed": st.booleans()},
    "quarantine": {"pick": PICK, "which": PICK},
    "convert": {"is_moving": st.booleans()},
}


class Died(BaseException):
    """The process was killed here."""


@contextmanager
def dying(storage, method: str, part: str, *, after: int = 0):
    """Kill the process at a call of a storage method about a name with this part."""
    original, left = getattr(type(storage), method), [after]

    def operate(self, *arguments):
        name = arguments[1 if method == "place" else 0]
        left[0] -= part in name
        if left[0] < 0:
            raise Died
        return original(self, *arguments)

    with mock.patch.object(type(storage), method, operate):
        yield


def warning_of(aside):
    """Expect a warning about receipts that are set aside, if there are any, and no other one."""
    if not aside:
        return nullcontext()
    return pytest.warns(TracestoreWarning, match=f"^{len(aside)} receipts .* were set aside: {', '.join(aside)}")


@dataclass
class Pin:
    """An open store, and the version that it must go on reading."""

    store: TraceStore
    version: int


@dataclass(eq=False)
class Author:
    """A writer, and what it has taken."""

    writer: StoreWriter
    pin: Pin
    known: set[int]
    is_sorted: bool
    sequence: int = 0
    batches: list[TraceBatch] = field(default_factory=list)
    units: set[int] = field(default_factory=set)
    states: list = field(default_factory=list)
    placed: str | None = None
    """Segment that is in place while its receipt is not."""

    def claim(self) -> Claim:
        name = f"{self.writer.name}-{self.sequence:08d}"
        return Claim(name, frozenset(self.units), tuple(self.states), self.placed)

    def rows(self) -> TraceBatch:
        batch = TraceBatch.concatenate(self.batches)
        return in_row_order(batch) if self.is_sorted else batch

    def forget(self) -> None:
        self.sequence += 1
        self.batches, self.units, self.states, self.placed = [], set(), [], None


class StoreMachine(RuleBasedStateMachine):
    backend = "arrow"
    is_local = True

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.model = Model()
        self.authors: list[Author] = []
        self.pins: list[Pin] = []
        self.addresses: list[str] = []
        self.types: list[int] = []
        self.num_made = self.num_copies = 0
        self.is_checked = False

    @initialize(parts=st.lists(st.tuples(UNITS, ENDINGS), min_size=2, max_size=4))
    def create(self, parts):
        self.location = self.new_location()
        self.pins = [Pin(TraceStore.create(self.location, job=JOB, backend=self.backend), 0)]
        for units, ending in parts:
            self.write(0, True, True, units, ending)

    def teardown(self):
        shutil.rmtree(self.folder)

    def new_location(self):
        name = secrets.token_hex(8)
        return str(self.folder / name) if self.is_local else f"memory://machine-{name}"

    def pin(self, pick) -> Pin:
        return self.pins[pick % len(self.pins)]

    def has_moved(self, pin):
        """A handle has published or refreshed: it reads the newest version now."""
        pin.version = self.model.number
        self.is_checked = False

    # one rule that chooses: with a rule for each action, a run of a few steps rarely gets beyond an empty store
    @rule(data=st.data())
    def act(self, data):
        name = data.draw(st.sampled_from(self.possible_actions()), label="action")
        getattr(self, name)(**data.draw(st.fixed_dictionaries(ACTIONS[name]), label="arguments"))

    def possible_actions(self):
        """Names of actions that change something, the frequent ones more than once."""
        model = self.model
        names = ["write"] * 3
        names += ["collect", "collect", "open_version", "refresh"] * bool(model.number)
        names += ["put_replacement", "compact", "compact", "sort", "quarantine"] * bool(model.newest.segments)
        names += ["fold", "recover"] * bool(model.pending)
        names += ["recover"] * 2 * bool(model.orphans)
        names += ["convert"] * (bool(model.number) and self.num_copies < MOST_COPIES)
        return names + ["end_writing"] * bool(self.authors)

    # ---------------------------------------------------------------------------------------------------- writers

    def write(self, pick, is_new, is_sorted, units, ending):
        if not self.authors or (is_new and len(self.authors) < MOST_WRITERS):
            pin = self.pin(pick)
            writer = pin.store.writer(order="sorted" if is_sorted else "written")
            known = self.model.done(self.model.newest)
            self.authors.append(Author(writer, pin, known, is_sorted))
        author = self.authors[pick % len(self.authors)]
        for unit in units:
            self.append(author, unit)
        self.end(author, ending)

    def end_writing(self, pick, ending):
        self.end(self.authors[pick % len(self.authors)], ending)

    def append(self, author, unit):
        self.num_made += 1
        number = self.num_made
        batch = make_rows(number, unit, has_traces=number % 6 != 0)
        if author.placed:
            self.publish_receipt(author)
        if unit in author.known:
            with pytest.raises(InvalidInputError, match="are complete already"):
                author.writer.append(batch, work=[unit], state=number)
            return
        if unit is None:
            author.writer.append(batch)
        else:
            author.writer.append(batch, work=[unit], state={"made": number})
            author.known.add(unit)
            author.units.add(unit)
            author.states.append(([unit], {"made": number}))
        if len(batch):
            author.batches.append(batch)

    def end(self, author, ending):
        can_place = bool(author.batches) and not author.placed
        if ending == "seal":
            self.seal(author)
        elif ending == "close":
            self.close(author)
        elif ending.startswith("place") and can_place:
            self.place(author)
        elif ending == "die in place" and can_place:
            self.die_in_place(author)
        if "die" in ending or ending == "close":
            self.authors.remove(author)

    def seal(self, author):
        entry = author.writer.seal()
        assert (entry is None) == (not author.batches)
        if entry is not None:
            assert author.placed in (None, entry.id)
            author.placed = entry.id
        if author.batches or author.units:
            self.publish_receipt(author)

    def publish_receipt(self, author):
        if author.placed and author.placed not in self.model.rows:
            self.model.place(author.claim(), author.rows())
        self.model.receive(author.claim())
        author.forget()

    def place(self, author):
        """Die, or fail, between the segment and its receipt."""
        storage = author.pin.store.storage
        before = set(storage.folders("segments"))
        with dying(storage, "create", "receipts/"), pytest.raises(Died):
            author.writer.seal()
        (author.placed,) = set(storage.folders("segments")) - before
        self.model.place(author.claim(), author.rows())

    def die_in_place(self, author):
        storage = author.pin.store.storage
        death = ("place", "segments/") if self.is_local else ("create", "seal.json")
        with dying(storage, *death), pytest.raises(Died):
            author.writer.seal()
        if self.is_local:
            half = storage.staging(author.writer.name) / "half"
            half.mkdir(parents=True)
            (half / "values.arrow").write_bytes(b"half")

    def close(self, author):
        self.seal(author)
        with warning_of(self.model.plan(self.model.newest)[1]):
            author.writer.close()
        self.model.fold()
        self.has_moved(author.pin)

    # ---------------------------------------------------------------------------------------------------- readers

    def open_version(self, pick, back):
        version = max(self.model.number - back, 0)
        if 0 < version < self.model.oldest:
            with pytest.raises(StoreNotFoundError, match=f"oldest that is whole is {self.model.oldest}"):
                TraceStore.open(self.location, version=version)
            return
        if len(self.pins) == MOST_PINS:
            self.pins.remove(self.pin(pick))
        self.pins.append(Pin(TraceStore.open(self.location, version=version), version))
        self.is_checked = False

    def refresh(self, pick):
        self.pin(pick).store.refresh()
        self.has_moved(self.pin(pick))

    # ------------------------------------------------------------------------------------------------ publication

    def fold(self, pick, death):
        pin = self.pin(pick)
        if death is None:
            with warning_of(self.model.plan(self.model.newest)[1]):
                found = pin.store.fold()
            self.model.fold()
            assert found == self.model.number
            self.has_moved(pin)
            return
        with dying(pin.store.storage, *death), pytest.raises(Died):
            pin.store.fold()
        if death[0] == "replace":
            self.model.fold()
        self.is_checked = False

    def put_replacement(self, pick, first, second, is_published):
        pin, ids = self.pin(pick), self.model.newest.segments
        old = sorted({ids[first % len(ids)], ids[second % len(ids)]}, key=ids.index)
        self.num_made += 1
        new = f"again-{self.num_made}"
        entry = pin.store.write_segment(new, [self.model.rows[identity] for identity in old])
        if is_published:
            self.model.replace(new, old)
            assert pin.store.publish([entry], replaces=old) == self.model.number
            self.has_moved(pin)

    # ------------------------------------------------------------------------------------------------ maintenance

    def recover(self, pick):
        pin = self.pin(pick)
        adopted = self.model.adopt()
        with warning_of(self.model.plan(self.model.newest)[1]):
            assert recover(pin.store) == adopted
        self.model.fold()
        self.has_moved(pin)
        # whatever was sealed is in the store now, or others had done the work
        done = self.model.done(self.model.newest)
        assert all(claim.units & done for claim in self.model.orphans.values())

    def compact(self, pick, num_bytes, codec, after):
        pin = self.pin(pick)
        death = nullcontext() if after is None else dying(pin.store.storage, "create", "manifests/", after=after)
        with suppress(Died), death:
            compact(pin.store, segment_bytes=num_bytes, codec=codec)
        pin.store.refresh()
        for number in range(self.model.number + 1, pin.store.version + 1):
            self.learn_replacement(number)
        self.has_moved(pin)
        if after is None and num_bytes == LARGE_BYTES:
            assert len(pin.store.segments) == 1

    def learn_replacement(self, number):
        """Compaction chose the id; the new segment must stand for neighbors."""
        before = self.model.newest.segments
        after = [entry.id for entry in TraceStore.open(self.location, version=number).segments]
        old = [identity for identity in before if identity not in after]
        (new,) = set(after) - set(before)
        start = before.index(old[0])
        assert list(before[start : start + len(old)]) == old
        self.model.replace(new, old)

    def sort(self, pick, num_bytes, is_killed):
        pin = self.pin(pick)
        if self.model.pending:
            with pytest.raises(TracestoreError, match=f"^{len(self.model.pending)} sealed segments .* not part of"):
                sort_store(pin.store, segment_bytes=num_bytes)
            self.has_moved(pin)
            return
        death = dying(pin.store.storage, "create", "manifests/") if is_killed else nullcontext()
        with suppress(Died), death:
            sort_store(pin.store, segment_bytes=num_bytes)
        pin.store.refresh()
        if pin.store.version > self.model.number:
            self.model.sort([(entry.id, entry.num_traces) for entry in pin.store.segments])
        self.has_moved(pin)
        if not is_killed:
            self.require_sorted(pin.store)

    def require_sorted(self, store):
        runs = store.runs
        order = np.lexsort((runs.first, runs.layout, runs.trace_type, runs.num_sites))
        assert np.array_equal(order, np.arange(len(order)))

    def collect(self, pick, is_eager, is_killed):
        pin, storage = self.pin(pick), self.pin(pick).store.storage
        used, before = self.model.used(), storage.folders("segments")
        unused = [identity for identity in before if identity not in used] if is_eager else []
        seconds = 0 if is_eager else LONG_SECONDS
        if unused and is_killed:
            with dying(storage, "remove", "segments/"), pytest.raises(Died):
                gc(pin.store, older_than=seconds)
        else:
            found = gc(pin.store, older_than=seconds)
            assert (list(found.segments), list(found.orphans)) == (unused, self.model.adoptable())
            assert storage.folders("segments") == [identity for identity in before if identity not in unused]
            if is_eager:
                assert (storage.folders("staging"), found.oldest_version) == ([], self.model.number)
            self.forget(unused)
        if unused:
            self.model.oldest = self.model.number
        self.has_moved(pin)

    def forget(self, unused):
        """Writers that were about to publish these are late: all of the work is done."""
        self.authors = [author for author in self.authors if author.placed not in unused]
        for identity in unused:
            self.model.orphans.pop(identity, None)

    def quarantine(self, pick, which):
        pin, ids = self.pin(pick), self.model.newest.segments
        self.model.quarantine(ids[which % len(ids)])
        assert quarantine(pin.store, ids[which % len(ids)], reason="a test") == self.model.number
        self.has_moved(pin)

    def convert(self, is_moving):
        self.num_copies += 1
        source, location = TraceStore.open(self.location), self.new_location()
        if self.model.pending:
            with pytest.raises(TracestoreError, match=f"^{len(self.model.pending)} sealed segments .* not part of"):
                convert(source, location)
            return
        other = "zarr" if self.backend == "arrow" and find_spec("zarr") else "arrow"
        copy = convert(source, location, backend=other)
        self.check_content(copy, self.model.newest)
        assert list(copy.addresses) == list(source.addresses)
        assert copy.trace_type_book.ids.tolist() == source.trace_type_book.ids.tolist()
        if is_moving:
            self.backend, self.location, self.authors = other, location, []
            self.model = self.model.copied()
            self.pins = [Pin(copy, self.model.number)]
            self.is_checked = False

    # ------------------------------------------------------------------------------------------------- invariants

    @invariant()
    def agrees_with_the_model(self):
        if not self.pins:
            return
        store, version = TraceStore.open(self.location), self.model.newest
        assert store.version == self.model.number
        assert store.completed_work() == self.model.done(version)
        assert store.work_states() == self.model.states(version)
        assert [pin.store.version for pin in self.pins] == [pin.version for pin in self.pins]
        if not self.is_checked:
            self.check_content(store, version)
            self.check_dictionaries(store)
            assert verify(store, deep=True, log_probs=False) == []
            self.check_pins()
        self.is_checked = True

    def check_content(self, store, version):
        assert [entry.id for entry in store.segments] == list(version.segments)
        if not version.segments:
            assert len(store) == 0
            return
        assert_same(store.take(np.arange(len(store))), self.model.batch(version))

    def check_dictionaries(self, store):
        addresses, types = list(store.addresses), store.trace_type_book.ids.tolist()
        assert addresses[: len(self.addresses)] == self.addresses
        assert types[: len(self.types)] == self.types
        assert len(set(addresses)) == len(addresses)
        assert len(set(types)) == len(types)
        for identity in self.model.newest.segments:
            rows = self.model.rows[identity]
            used = [rows.layouts[place] for place in np.unique(rows.layout_index)]
            assert {site.address for layout in used for site in layout.sites} <= set(addresses)
            ids, counts = np.unique(rows.trace_types, return_counts=True)
            assert set(ids[counts > 1].tolist()) <= set(types)
        self.addresses, self.types = addresses, types

    def check_pins(self):
        for pin in self.pins:
            # what a reader of a version that was given up has not read yet may be gone; it is never wrong
            is_whole = pin.version == 0 or pin.version >= self.model.oldest
            with nullcontext() if is_whole else suppress(TracestoreError):
                self.check_content(pin.store, self.model.versions[pin.version])


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """No test here survives a power failure, and waiting for the disk is most of their time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize(("backend", "is_local"), [("arrow", True), ("zarr", True), ("arrow", False)])
def test_store_agrees_with_the_model(backend, is_local, import_or_skip):
    import_or_skip(f"tracestore.formats.{backend}")
    if not is_local:
        import_or_skip("tracestore.storage.objects")
    with warnings.catch_warnings():
        warnings.simplefilter("error", TracestoreWarning)
        machine = type("Machine", (StoreMachine,), {"backend": backend, "is_local": is_local})
        # a Zarr segment is many files, and takes three times as long
        num_examples = SETTINGS.max_examples // (3 if backend == "zarr" else 1)
        run_state_machine_as_test(machine, settings=settings(SETTINGS, max_examples=num_examples))
