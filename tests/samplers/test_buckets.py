import numpy as np
import pytest

from tracestore.samplers.atoms import AtomCut, RunTable
from tracestore.samplers.buckets import cut_buckets, shuffle_buckets, take_turns
from tracestore.samplers.policy import BatchPolicy

SIZES = np.full(50, 40)
TABLE = RunTable(np.cumsum(SIZES) - SIZES, SIZES, np.arange(1.0, 51.0), np.arange(50, dtype=np.uint64))
BOUNDS = np.array([0, 300, 300, 1_000])


@pytest.mark.parametrize("mixing", [0.0, 0.5, 1.0])
def test_buckets_are_alike_in_total_cost(mixing):
    cut = AtomCut(TABLE, 4, 1)
    policy = BatchPolicy(global_batch=8, micro=4, num_buckets=5, mixing=mixing)
    line, bounds = cut_buckets(cut, np.arange(cut.num_atoms), policy, 3)
    totals = np.add.reduceat(cut.costs(line), bounds[:-1])
    assert np.array_equal(np.sort(line), np.arange(cut.num_atoms))
    assert np.ptp(totals) <= 2 * cut.costs(line).max()
    assert (np.diff(cut.costs(line)) <= 0).all()


@pytest.mark.parametrize(("mixing", "reach"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_atoms_move_within_their_bucket_by_the_share(mixing, reach):
    line = shuffle_buckets(np.arange(1_000), BOUNDS, mixing, 3)
    for start, stop in ((0, 300), (300, 1_000)):
        moved = np.abs(line[start:stop] - np.arange(start, stop)) / (stop - start)
        assert set(line[start:stop].tolist()) == set(range(start, stop))
        assert moved.max() <= reach + 0.01
        assert moved.mean() >= reach / 8


def test_each_bucket_comes_evenly():
    bucket = np.repeat([0, 1, 2], [60, 30, 10])
    turns = take_turns(bucket, np.random.default_rng(1).random(100))
    assert np.array_equal(np.sort(turns), np.arange(100))
    for half in np.split(bucket[turns], 2):
        assert np.abs(np.bincount(half) - [30, 15, 5]).max() <= 1
