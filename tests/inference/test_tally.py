"""Counts of a chain's moves: complete, bounded, and restored as they were."""

import json

from tracestore.inference.tally import MAX_ADDRESSES, OTHER, Tally


def filled(num_addresses: int) -> Tally:
    tally = Tally(["single", "walk"])
    for number in range(num_addresses):
        for _ in range(1 + number % 3):
            tally.count_address(f"x#{number + 1}", has_moved=number % 2 == 0)
    return tally


def total(tally: Tally) -> list[int]:
    return [sum(counts[place] for counts in tally.addresses.values()) for place in (0, 1)]


def test_the_least_visited_addresses_are_counted_together() -> None:
    tally = filled(3 * MAX_ADDRESSES)
    before = total(tally)
    tally.prune()
    assert len(tally.addresses) == MAX_ADDRESSES + 1
    assert total(tally) == before
    assert all(counts[0] == 3 for address, counts in tally.addresses.items() if address != OTHER)


def test_pruning_again_keeps_what_was_counted_together() -> None:
    tally = filled(3 * MAX_ADDRESSES)
    tally.prune()
    for number in range(MAX_ADDRESSES):
        tally.count_address(f"y#{number + 1}", has_moved=True)
    before = total(tally)
    tally.prune()
    assert len(tally.addresses) == MAX_ADDRESSES + 1
    assert total(tally) == before


def test_few_addresses_stay_as_they_are() -> None:
    tally = filled(5)
    before = dict(tally.addresses)
    tally.prune()
    assert tally.addresses == before


def test_reasons_are_bounded() -> None:
    tally = Tally(["single"])
    for number in range(500):
        tally.count_reason(tally.failures, f"ValueError: {number} " + "x" * 1000 + "\ud800")
    assert len(tally.failures) <= 21
    assert sum(tally.failures.values()) == 500
    assert len(json.dumps(tally.to_json()).encode()) < 10_000


def test_restored_counts_are_the_same() -> None:
    tally = filled(10)
    tally.moves["single"] = [20, 10, 3]
    tally.count_reason(tally.impossible, "y")
    tally.count_reason(tally.unscored, "x#1")
    other = Tally(["single", "walk"])
    other.restore(json.loads(json.dumps(tally.to_json())))
    assert other.to_json() == tally.to_json()
    assert (other.num_proposed, other.num_accepted, other.num_failed) == (20, 10, 3)
