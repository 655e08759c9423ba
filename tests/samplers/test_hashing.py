import numpy as np
import pytest

from tracestore.samplers.hashing import derive_key, keyed_hash, keyed_order, mix64, narrowest, unit_interval


def test_mixer_matches_published_splitmix64_sequence():
    # first outputs of SplitMix64 with seed 1234567, as in the Rosetta Code reference
    states = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1234567)
    assert mix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_hash_is_pinned():
    assert keyed_hash(np.arange(3), derive_key(1, 2)).tolist() == [
        7646902884856827076,
        14279837455593027829,
        4002329620749731164,
    ]


def test_hash_has_no_collisions_and_leaves_input_alone():
    indices = np.arange(10_000)
    assert len(np.unique(keyed_hash(indices, 7))) == 10_000
    assert np.array_equal(indices, np.arange(10_000))


@pytest.mark.parametrize("other", [(2, 1), (1,), (1, 2, 0), (-1, 2)])
def test_keys_differ(other):
    assert derive_key(1, 2) != derive_key(*other)


def test_orders_of_neighboring_keys_are_unrelated():
    orders = [np.argsort(keyed_hash(np.arange(4096), derive_key(3, epoch))) for epoch in range(8)]
    for one in range(8):
        for two in range(one):
            assert abs(np.corrcoef(orders[one], orders[two])[0, 1]) < 5 / np.sqrt(4096)


def test_hash_does_not_depend_on_the_layout_of_its_input():
    numbers = np.arange(70_000).reshape(2, -1)
    assert np.array_equal(keyed_hash(numbers.T, 5), keyed_hash(numbers, 5).T)
    assert np.array_equal(keyed_hash(numbers.reshape(-1)[-3:], 5), keyed_hash(numbers, 5).reshape(-1)[-3:])


def test_order_is_that_of_the_hashes():
    items = np.arange(100_000)
    assert np.array_equal(keyed_order(items, 3), np.argsort(keyed_hash(items, 3) >> np.uint64(17), kind="stable"))


def test_order_is_first_by_rank():
    items = np.arange(5, 100_000, 3, dtype=np.int32)
    ranks = (items % 7).astype(np.uint64)
    order = keyed_order(items, 3, lambda block: ranks[block], 3)
    assert order.dtype == np.int32
    assert np.array_equal(np.sort(order), items)
    assert np.array_equal(order % 7, np.sort(ranks))
    assert abs(np.corrcoef(order[order % 7 == 2], np.sort(order[order % 7 == 2]))[0, 1]) < 0.1


@pytest.mark.parametrize("items", [[], [0], [2**40, 1]])
def test_order_of_few_items(items):
    assert sorted(keyed_order(np.array(items, np.int64), 3).tolist()) == sorted(items)


def test_narrowest_holds_the_number():
    assert all(np.iinfo(narrowest(number)).max >= number for number in (1, 2**31 - 1, 2**31))
    assert narrowest(2**31 - 1) is np.int32


def test_unit_interval_is_uniform_and_below_one():
    numbers = unit_interval(keyed_hash(np.arange(100_000), 1))
    counts = np.histogram(numbers, 20, (0, 1))[0]
    assert ((counts - 5_000) ** 2 / 5_000).sum() < 50
    assert unit_interval(np.array([2**64 - 1], np.uint64))[0] < 1
