"""What every batch plan guarantees, over run directories, policies, seeds, selections, ranks and workers."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.samplers.runs import make_runs
from tracestore.errors import PlanError
from tracestore.samplers import BatchPlan, BatchPolicy, BucketedBatchSampler, World


@dataclass(frozen=True)
class Case:
    runs: SimpleNamespace
    policy: BatchPolicy
    seed: int
    selected: np.ndarray | None
    epoch: int

    @property
    def plan(self):
        return BatchPlan(self.runs, self.policy, self.seed, selected=self.selected)

    @property
    def expected(self):
        num_traces = int(self.runs.num_traces.sum())
        return np.arange(num_traces) if self.selected is None else np.flatnonzero(self.selected)


@st.composite
def cases(draw):
    run = st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(1, 30))
    parts = [
        (kind * 10 + sites, sites * sites, traces)
        for kind, sites, traces in draw(st.lists(run, min_size=1, max_size=12))
    ]
    runs = make_runs(*parts)
    num_traces = int(runs.num_traces.sum())
    selected = None
    if draw(st.booleans()):
        share = draw(st.sampled_from([0.1, 0.5, 0.9]))
        selected = np.random.default_rng(draw(st.integers(0, 99))).random(num_traces) < share
        selected[draw(st.integers(0, num_traces - 1))] = True
    order = draw(st.sampled_from(["deck", "random", "sequential"]))
    available = num_traces if selected is None else int(selected.sum())
    micro = draw(st.integers(1, min(7, available)))
    num_slots = draw(st.integers(1, min(24, available // micro)))
    settings = {
        "micro": micro,
        "num_buckets": draw(st.integers(1, 5)),
        "order": order,
        "mixing": draw(st.sampled_from([0.0, 0.3, 1.0])),
    }
    if draw(st.booleans()):
        policy = BatchPolicy(global_batch=micro * num_slots, **settings)
    else:
        dearest = max(1.0 + sites for sites in runs.num_sites.tolist())
        policy = BatchPolicy(budget=micro * dearest * draw(st.floats(3, 20)), **settings)
    return Case(runs, policy, draw(st.integers(0, 2**40)), selected, draw(st.integers(0, 3)))


def global_batches(plan, epoch, num_ranks=1):
    return [
        [plan.step(epoch, step, World(rank, num_ranks)) for rank in range(num_ranks)] for step in range(plan.num_steps)
    ]


@given(cases(), st.data())
def test_every_selected_trace_comes_exactly_once_per_epoch(case, data):
    num_ranks = data.draw(st.sampled_from(case.policy.allowed_ranks))
    batches = global_batches(case.plan, case.epoch, num_ranks)
    seen = np.concatenate([indices for ranks in batches for indices in ranks])
    assert np.array_equal(np.sort(seen), case.expected)


@given(cases())
def test_only_the_last_step_is_short(case):
    plan = case.plan
    sizes = [len(ranks[0]) for ranks in global_batches(plan, case.epoch)]
    assert sizes == [plan.step_size(case.epoch, step) for step in range(plan.num_steps)]
    assert all(size == case.policy.global_batch for size in sizes[:-1])
    assert sizes[-1] > 0


@given(cases())
def test_global_batches_do_not_depend_on_the_number_of_ranks(case):
    alone = global_batches(case.plan, case.epoch)
    for num_ranks in case.policy.allowed_ranks:
        together = global_batches(case.plan, case.epoch, num_ranks)
        assert len(together) == len(alone)
        for ranks, (batch,) in zip(together, alone, strict=True):
            assert np.array_equal(np.sort(np.concatenate(ranks)), batch)


@given(cases(), st.data())
def test_every_rank_has_the_same_number_of_slots(case, data):
    plan, num_ranks = case.plan, data.draw(st.sampled_from(case.policy.allowed_ranks))
    for ranks in global_batches(plan, case.epoch, num_ranks)[: -1 if plan.num_steps > 1 else None]:
        if sum(map(len, ranks)) == case.policy.global_batch:
            assert {len(indices) for indices in ranks} == {case.policy.global_batch // num_ranks}


@given(cases(), st.integers(1, 24))
def test_other_numbers_of_ranks_are_refused_with_those_that_work(case, num_ranks):
    plan = case.plan
    if case.policy.num_slots % num_ranks == 0:
        assert num_ranks in case.policy.allowed_ranks
        return
    with pytest.raises(PlanError, match=rf"got {num_ranks}\. Allowed: 1") as caught:
        plan.step(0, 0, World(0, num_ranks))
    assert caught.value.fields["allowed"] == case.policy.allowed_ranks
    assert all(case.policy.num_slots % allowed == 0 for allowed in case.policy.allowed_ranks)


@given(cases(), st.integers(1, 4))
def test_workers_divide_the_steps_and_change_nothing(case, num_workers):
    plan = case.plan
    alone = [indices.tolist() for indices in BucketedBatchSampler(plan)]
    shares = [
        [indices.tolist() for indices in BucketedBatchSampler(plan, world=World(0, 1, worker, num_workers))]
        for worker in range(num_workers)
    ]
    assert [shares[step % num_workers][step // num_workers] for step in range(plan.num_steps)] == alone


@given(cases(), st.data())
def test_resume_is_exact_at_another_number_of_ranks(case, data):
    stop = data.draw(st.integers(0, case.plan.num_steps - 1))
    ranks_before, ranks_after = (data.draw(st.sampled_from(case.policy.allowed_ranks)) for _ in range(2))
    walk = BucketedBatchSampler(case.plan, world=World(0, ranks_before), snapshot="s", start=(case.epoch, 0))
    walker = iter(walk)
    for _ in range(stop):
        next(walker)
    state = walk.state_dict()
    rest: list[list[int]] = [[] for _ in range(case.plan.num_steps - stop)]
    for rank in range(ranks_after):
        resumed = BucketedBatchSampler(case.plan, world=World(rank, ranks_after), snapshot="s")
        resumed.load_state_dict(state)
        assert len(resumed) == len(rest)
        for place, indices in enumerate(resumed):
            rest[place].extend(indices.tolist())
    uninterrupted = [ranks[0].tolist() for ranks in global_batches(case.plan, case.epoch)[stop:]]
    assert [sorted(batch) for batch in rest] == uninterrupted


@given(cases())
def test_plan_is_a_pure_function(case):
    once, again = case.plan, case.plan
    again.step(case.epoch + 1, 0)
    for step in reversed(range(once.num_steps)):
        assert np.array_equal(once.step(case.epoch, step), again.step(case.epoch, step))


@given(cases(), st.data())
def test_rank_costs_add_up_and_are_balanced_within_one_atom(case, data):
    plan, num_ranks = case.plan, data.draw(st.sampled_from(case.policy.allowed_ranks))
    cost = np.repeat(case.policy.cost.of(case.runs.num_sites), case.runs.num_traces)
    for step in range(plan.num_steps):
        costs = plan.rank_costs(case.epoch, step, num_ranks)
        by_rank = [cost[plan.step(case.epoch, step, World(rank, num_ranks))].sum() for rank in range(num_ranks)]
        assert np.allclose(costs, by_rank)
        assert costs.max() - costs.min() <= cost.max() * case.policy.micro + 1e-9
