import itertools

import numpy as np
import pytest

from tests.samplers.runs import make_runs
from tracestore.errors import InvalidInputError, PlanError
from tracestore.samplers import BatchPlan, BatchPolicy, CostModel, World

LENGTHS = (2, 5, 11, 23)
# half as many traces where a trace costs twice as much: four buckets of equal cost are the four lengths
SPREAD = make_runs(*((10 * sites + kind, sites, 1536 // (sites + 1)) for sites in LENGTHS for kind in range(3)))


def sites_of(runs, indices):
    return np.repeat(runs.num_sites, runs.num_traces)[indices]


def runs_of(runs, indices):
    return np.repeat(np.arange(len(runs.first)), runs.num_traces)[indices]


def epoch_of(plan, epoch=0):
    return [plan.step(epoch, step) for step in range(plan.num_steps)]


def test_order_is_pinned():
    plan = BatchPlan(make_runs((1, 3, 10), (2, 5, 7)), BatchPolicy(global_batch=6, micro=2, num_buckets=2), seed=4)
    assert [indices.tolist() for indices in epoch_of(plan, 1)] == [
        [3, 4, 5, 6, 7, 8],
        [11, 12, 13, 14, 15, 16],
        [0, 1, 2, 9, 10],
    ]


def test_each_step_comes_from_one_bucket():
    plan = BatchPlan(SPREAD, BatchPolicy(global_batch=64, micro=8, num_buckets=4))
    assert all(len(set(sites_of(SPREAD, indices))) == 1 for indices in epoch_of(plan))


def test_buckets_take_turns():
    plan = BatchPlan(SPREAD, BatchPolicy(global_batch=24, micro=8, num_buckets=4), seed=2)
    lengths = [int(sites_of(SPREAD, indices)[0]) for indices in epoch_of(plan)]
    longest_stretch = max(len(list(group)) for _, group in itertools.groupby(lengths))
    assert longest_stretch <= 8
    # every quarter of the epoch has its share of every bucket
    for quarter in np.reshape(lengths, (4, -1)):
        assert all(abs((quarter == sites).sum() - 48 / (sites + 1)) <= 1 for sites in LENGTHS)


def test_mixed_steps_hold_several_types():
    plan = BatchPlan(SPREAD, BatchPolicy(global_batch=64, micro=8, num_buckets=4))
    assert np.mean([len(set(runs_of(SPREAD, indices))) for indices in epoch_of(plan)]) > 2.5


def test_steps_of_a_wide_bucket_mix_its_lengths():
    plan = BatchPlan(SPREAD, BatchPolicy(global_batch=64, micro=1, num_buckets=2))
    found = [set(sites_of(SPREAD, indices)) for indices in epoch_of(plan)]
    assert all(lengths in ({2, 5}, {11, 23}) for lengths in found)


def test_sorted_steps_hold_few_types():
    plan = BatchPlan(SPREAD, BatchPolicy(global_batch=64, micro=8, mixing=0.0))
    assert all(len(set(runs_of(SPREAD, indices))) == 1 for indices in epoch_of(plan))


def test_one_bucket_mixes_all_lengths():
    plan = BatchPlan(SPREAD, BatchPolicy(global_batch=128, micro=1, num_buckets=1))
    assert all(set(sites_of(SPREAD, indices)) == set(LENGTHS) for indices in epoch_of(plan))


def test_sequential_order_is_store_order_in_every_epoch():
    plan = BatchPlan(SPREAD, BatchPolicy(global_batch=60, micro=4, order="sequential"), seed=3)
    for epoch in (0, 5):
        assert np.array_equal(np.concatenate(epoch_of(plan, epoch)), np.arange(2880))


def test_sequential_order_admits_less_than_a_batch():
    plan = BatchPlan(make_runs((1, 3, 5)), BatchPolicy(global_batch=64, micro=8, order="sequential"))
    assert [indices.tolist() for indices in epoch_of(plan)] == [[0, 1, 2, 3, 4]]


def test_atoms_are_consecutive_traces_of_one_run():
    plan = BatchPlan(SPREAD, BatchPolicy(global_batch=8, micro=8))
    for indices in epoch_of(plan):
        run = runs_of(SPREAD, indices)
        assert len(set(run)) == 1
        ring = np.sort((indices - indices[0]) % SPREAD.num_traces[run[0]])
        assert np.sum(np.diff(ring) != 1) <= 1


def neighbors(plan, epoch):
    return {tuple(indices) for indices in epoch_of(plan, epoch)}


def test_other_traces_meet_in_another_epoch():
    plan = BatchPlan(SPREAD, BatchPolicy(global_batch=8, micro=8))
    shared = neighbors(plan, 0) & neighbors(plan, 1)
    assert len(shared) < plan.num_steps / 3


def test_leftovers_meet_traces_of_alike_cost():
    # runs shorter than an atom: every atom is mixed
    runs = make_runs(*((kind, 1 + kind // 10, 3) for kind in range(100)))
    plan = BatchPlan(runs, BatchPolicy(global_batch=10, micro=10))
    spread = [np.ptp(sites_of(runs, indices)) for indices in epoch_of(plan)]
    assert max(spread) <= 1
    assert neighbors(plan, 0) != neighbors(plan, 1)


def test_longest_first_balances_ranks():
    rng = np.random.default_rng(5)
    runs = make_runs(*((kind, int(sites), 40) for kind, sites in enumerate(rng.lognormal(3, 1, 200))))
    plan = BatchPlan(runs, BatchPolicy(global_batch=512, micro=4, num_buckets=8))
    costs = np.array([plan.rank_costs(0, step, 16) for step in range(plan.num_steps - 1)])
    assert costs.max(1).sum() / costs.mean(1).sum() < 1.03
    unbucketed = BatchPlan(runs, BatchPolicy(global_batch=512, micro=4, num_buckets=1, cost=CostModel(per_site=1e-9)))
    loads = [
        [sites_of(runs, unbucketed.step(0, step, World(rank, 16))).sum() for rank in range(16)] for step in range(4)
    ]
    assert np.max(loads, 1).sum() / np.mean(loads, 1).sum() > 1.1


@pytest.mark.parametrize("rounds", [64, 65, 200, 203])
def test_many_atoms_are_dealt_evenly(rounds):
    rng = np.random.default_rng(6)
    runs = make_runs(*((kind, int(sites), 1) for kind, sites in enumerate(rng.lognormal(4, 0.5, 3 * rounds))))
    plan = BatchPlan(runs, BatchPolicy(global_batch=3 * rounds, micro=1))
    assert {len(plan.step(0, 0, World(rank, 3))) for rank in range(3)} == {rounds}
    costs = plan.rank_costs(0, 0, 3)
    assert costs.max() / costs.mean() < 1.01


def test_runs_without_selected_traces_do_not_count():
    dear = make_runs((1, 3, 40), (2, 10**6, 9), (3, 4, 40))
    selected = np.repeat([True, False, True], dear.num_traces)
    plan = BatchPlan(dear, BatchPolicy(budget=100.0, micro=2), selected=selected)
    assert np.array_equal(np.sort(np.concatenate(epoch_of(plan))), np.flatnonzero(selected))


@pytest.mark.parametrize("mixing", [0.0, 1.0])
def test_short_step_is_among_the_cheapest(mixing):
    runs = make_runs(*((sites, sites, 37) for sites in (40, 3, 11, 2, 7)))
    plan = BatchPlan(runs, BatchPolicy(global_batch=40, micro=8, num_buckets=4, mixing=mixing))
    costs = [plan.rank_costs(0, step, 1)[0] / plan.step_size(0, step) for step in range(plan.num_steps)]
    assert plan.step_size(0, plan.num_steps - 1) < 40
    assert costs[-1] <= sorted(costs)[1]


def test_empty_ranks_get_nothing():
    plan = BatchPlan(make_runs((1, 3, 33)), BatchPolicy(global_batch=32, micro=8))
    sizes = [len(plan.step(0, 1, World(rank, 4))) for rank in range(4)]
    assert sorted(sizes) == [0, 0, 0, 1]


def test_seed_and_epoch_change_the_order():
    plans = [BatchPlan(SPREAD, BatchPolicy(global_batch=64, micro=8), seed) for seed in (1, 2)]
    first = [plan.step(epoch, 0).tolist() for plan in plans for epoch in (0, 1)]
    assert all(one != two for one, two in itertools.combinations(first, 2))


def test_batch_larger_than_the_selection_is_refused():
    with pytest.raises(PlanError, match="batch of 64 is larger than the 40 selected traces"):
        BatchPlan(make_runs((1, 3, 80)), BatchPolicy(global_batch=64), selected=np.arange(80) < 40)


def test_empty_selection_is_refused():
    with pytest.raises(PlanError, match="No trace is selected"):
        BatchPlan(make_runs((1, 3, 80)), BatchPolicy(global_batch=8), selected=np.zeros(80, bool))


def test_selection_of_wrong_length_is_refused():
    with pytest.raises(InvalidInputError, match="each of 80 traces; got 79"):
        BatchPlan(make_runs((1, 3, 80)), BatchPolicy(global_batch=8), selected=np.ones(79, bool))


@pytest.mark.parametrize(("epoch", "step"), [(0, 45), (0, -1), (-1, 0)])
def test_steps_that_do_not_exist_are_refused(epoch, step):
    plan = BatchPlan(SPREAD, BatchPolicy(global_batch=64))
    with pytest.raises(InvalidInputError, match=r"steps 0 to 44; got step"):
        plan.step(epoch, step)


def test_negative_seed_is_refused():
    with pytest.raises(InvalidInputError, match="`seed` must not be negative"):
        BatchPlan(SPREAD, BatchPolicy(global_batch=64), -1)
