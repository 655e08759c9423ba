"""Dictionaries of addresses and trace types: dense numbers, and what happens when two things have one id."""

import numpy as np
import pyarrow as pa
import pytest

from tests.suites.batches import make_batch, make_layout, make_site
from tracestore.errors import FormatError
from tracestore.storage import LocalStorage
from tracestore.store import TraceStore
from tracestore.store.addresses import AddressBook
from tracestore.store.trace_types import TraceTypeBook
from tracestore.traces import Layout, SiteKind
from tracestore.traces import layout as layouts


def segment(*addresses):
    """Addresses of a segment: triples of id, base and instance."""
    ids, bases, instances = zip(*addresses, strict=True)
    return np.array(ids, np.uint64), pa.array(bases, pa.string()), np.array(instances, np.int32)


@pytest.fixture
def storage(tmp_path):
    return LocalStorage(tmp_path)


def test_numbers_follow_first_appearance_and_never_change(storage):
    first = AddressBook(storage, ()).extend([segment((9, "a", 1), (3, "b", 1)), segment((3, "b", 1), (5, "c", 2))])
    assert list(first) == ["a#1", "b#1", "c#2"]
    second = first.extend([segment((1, "d", 1), (9, "a", 1))])
    assert list(AddressBook(storage, second.pieces)) == ["a#1", "b#1", "c#2", "d#1"]
    assert second.pieces[: len(first.pieces)] == first.pieces
    assert second.numbers(np.array([1, 7, 9, 5], np.uint64)).tolist() == [3, -1, 0, 2]
    assert second.extend([segment((3, "b", 1))]) is second


@pytest.mark.parametrize(
    "segments",
    [
        [segment((7, "one", 1), (7, "two", 1))],
        [segment((7, "one", 1)), segment((2, "x", 1), (7, "two", 1))],
        [segment((7, "one", 1)), segment((7, "one", 2))],
    ],
    ids=["in-a-segment", "between-segments", "instances"],
)
@pytest.mark.parametrize("is_published", [True, False])
def test_two_addresses_with_one_id_are_an_error_that_shows_both(storage, segments, is_published):
    book = AddressBook(storage, ())
    if is_published and len(segments) > 1:
        book = AddressBook(storage, book.extend(segments[:1]).pieces)
        segments = segments[1:]
    with pytest.raises(FormatError, match=r"'one#1' and '(two#1|one#2)' have the same id 0000000000000007"):
        book.extend(segments)


def test_collision_in_a_store_is_an_error_and_nothing_is_published(tmp_path, monkeypatch):
    store = TraceStore.create(tmp_path / "store")
    store.append(make_batch(1, 20, [make_layout(1)]))
    monkeypatch.setattr(layouts, "address_id", lambda address: 5)
    with pytest.raises(FormatError, match=r"'\S+' and '\S+' have the same id 0000000000000005"):
        store.append(make_batch(2, 20, [make_layout(2)]))
    assert TraceStore.open(tmp_path / "store").version == 1


def test_trace_types_have_numbers_and_addresses(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    kinds = [make_layout(1), make_layout(3), make_layout(3, tag=False)]
    store.append(make_batch(1, 60, kinds))
    store.append(make_batch(2, 60, [make_layout(5), *kinds]))
    book = TraceStore.open(tmp_path / "store").trace_type_book
    assert len(book) == 3  # two layouts share a type
    for kind in (*kinds, make_layout(5)):
        number = int(book.numbers(np.array([kind.trace_type], np.uint64))[0])
        found = [store.addresses[address] for address in book.addresses(number)]
        assert found == [site.address for site in kind.sites if site.is_controlled]
    assert book.numbers(np.array([1], np.uint64)).tolist() == [-1]


def test_types_of_single_traces_are_left_to_the_segment(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    store.append(make_batch(1, 1, [make_layout(1)]))
    assert (len(store.trace_type_book), len(store.trace_types)) == (0, 1)


def test_two_trace_types_with_one_id_are_an_error_that_shows_both(storage):
    addresses = AddressBook(storage, ()).extend([segment((1, "a", 1), (2, "b", 1), (3, "c", 1))])

    def types(*sequences):
        starts = np.cumsum([0, *map(len, sequences)])
        return np.full(len(sequences), 8, np.uint64), starts, np.concatenate(sequences).astype(np.uint64)

    book = TraceTypeBook(storage, ()).extend([types([1, 2])], addresses)
    for other in ([1, 3], [1], [1, 2, 3]):
        with pytest.raises(FormatError, match=r"same id 0000000000000008: a#1, b#1, and a#1"):
            book.extend([types(other)], addresses)
    with pytest.raises(FormatError, match="same id"):
        TraceTypeBook(storage, ()).extend([types([1, 2], [2, 1])], addresses)
    assert book.extend([types([1, 2], [1, 2])], addresses) is book


def test_many_long_addresses(tmp_path):
    long = "f" * 1000
    sites = tuple(make_site(f"{long}{number}", 1, SiteKind.SAMPLE) for number in range(5_000))
    store = TraceStore.create(tmp_path / "store")
    batch = make_batch(1, 3, [Layout(sites)])
    store.append(batch)
    store.append(batch)
    again = TraceStore.open(tmp_path / "store")
    assert len(again.addresses) == 5_000
    assert again.addresses[4_999] == sites[-1].address
    assert len(again.manifest.pieces) == 1
    assert np.array_equal(again.take([1]).values, batch.take([1]).values)
    assert len(again.values(sites[77].address)[0]) == 6
