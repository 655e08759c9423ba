"""What every batch plan guarantees, over run directories, policies, seeds, selections, ranks and workers."""

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.samplers.runs import make_runs
from tracestore.errors import CheckpointMismatchError, PlanError
from tracestore.samplers import BatchPlan, BatchPolicy, BucketedBatchSampler, World

MOST_RANKS = 9
ROUNDING = 1 + 1e-9


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

    @property
    def possible_ranks(self):
        return self.policy.allowed_ranks or tuple(range(1, MOST_RANKS + 1))

    @property
    def cost(self):
        """Cost of each trace of the store."""
        return np.repeat(self.policy.cost.of(self.runs.num_sites), self.runs.num_traces)

    def sampler(self, *, snapshot="s", **options):
        return BucketedBatchSampler(self.plan, snapshot=snapshot, **options)


@st.composite
def run_directories(draw):
    run = st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(1, 30))
    parts = [
        (kind * 10 + sites, sites * sites, traces)
        for kind, sites, traces in draw(st.lists(run, min_size=1, max_size=12))
    ]
    return make_runs(*parts)


@st.composite
def cases(draw, *, has_budget=None):
    runs = draw(run_directories())
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
    if draw(st.booleans()) if has_budget is None else has_budget:
        dearest = float(1 + runs.num_sites.max())
        least = 4 * micro * dearest
        if draw(st.booleans()):
            budget = least * draw(st.floats(1, 5))
        else:
            # shares of the whole that come out even, where a planner that rounds wrongly gives itself away
            cost = np.repeat(1.0 + runs.num_sites, runs.num_traces)
            total = float(cost.sum() if selected is None else cost[selected].sum())
            budget = max(least, total / draw(st.integers(2, 6)) + draw(st.sampled_from([0, 1])) * micro * dearest)
        policy = BatchPolicy(budget=budget, **settings)
    else:
        policy = BatchPolicy(global_batch=micro * num_slots, **settings)
    return Case(runs, policy, draw(st.integers(0, 2**40)), selected, draw(st.integers(0, 3)))


def global_batches(plan, epoch, num_ranks=1):
    return [
        [plan.step(epoch, step, World(rank, num_ranks)) for rank in range(num_ranks)] for step in range(plan.num_steps)
    ]


def sets_of(batches):
    return [sorted(np.concatenate(ranks).tolist()) for ranks in batches]


def walk_on(case, state, world):
    """Batches of one rank and worker from a state to the end of its epoch."""
    resumed = case.sampler(world=world)
    resumed.load_state_dict(state)
    return [indices.tolist() for indices in resumed]


# --- every trace exactly once ---


@given(cases(), st.data())
def test_every_selected_trace_comes_exactly_once_per_epoch(case, data):
    num_ranks = data.draw(st.sampled_from(case.possible_ranks))
    seen = np.concatenate(sets_of(global_batches(case.plan, case.epoch, num_ranks)))
    assert np.array_equal(np.sort(seen), case.expected)


@given(cases(), st.data(), st.integers(1, 4))
def test_workers_of_all_ranks_see_every_trace_once(case, data, num_workers):
    num_ranks = data.draw(st.sampled_from(case.possible_ranks))
    seen = [
        indices
        for rank in range(num_ranks)
        for worker in range(num_workers)
        for indices in case.sampler(world=World(rank, num_ranks, worker, num_workers), start=(case.epoch, 0))
    ]
    assert np.array_equal(np.sort(np.concatenate(seen)), case.expected)


# --- sizes of steps ---


@given(cases(has_budget=False))
def test_only_the_last_step_is_short(case):
    sizes = [len(batch) for (batch,) in global_batches(case.plan, case.epoch)]
    assert all(size == case.policy.global_batch for size in sizes[:-1])
    assert 0 < sizes[-1] <= case.policy.global_batch


@given(cases())
def test_step_size_counts_the_traces_of_all_ranks(case):
    plan = case.plan
    sizes = [plan.step_size(case.epoch, step) for step in range(plan.num_steps)]
    assert sizes == [len(batch) for (batch,) in global_batches(plan, case.epoch)]


@given(cases(has_budget=True))
def test_no_step_costs_more_than_the_budget(case):
    assert all(
        case.cost[batch].sum() <= case.policy.budget * ROUNDING for (batch,) in global_batches(case.plan, case.epoch)
    )


@given(cases(has_budget=True))
def test_every_step_is_at_least_a_quarter_full(case):
    """The bound that the planner's two rules imply, for n > 1 steps.

    Let T be the cost of all traces, B the budget, A the cost of the dearest atom, with B >= 4 A. There are
    n = ceil(T / (B - A)) steps, so that an equal share s = T / n has (n - 1) / n (B - A) < s <= B - A. Steps end at the
    edges of atoms that are nearest to the multiples of s, hence within A / 2 of them. So a step costs at most
    s + A <= B. The first and the last have one such end, all others two. With n = 2 a step costs more than
    (B - A) / 2 - A / 2 = B / 2 - A >= B / 4, with n >= 3 more than 2 / 3 (B - A) - A >= B / 4.
    """
    plan = case.plan
    assume(plan.num_steps > 1)
    costs = [case.cost[batch].sum() for (batch,) in global_batches(plan, case.epoch)]
    assert min(costs) * ROUNDING >= case.policy.budget / 4


@given(cases())
def test_all_epochs_have_the_same_number_of_steps(case):
    for epoch in range(3):
        walk = case.sampler(start=(epoch, 0))
        assert sum(1 for _ in walk) == case.plan.num_steps
        assert (walk.epoch, walk.step) == (epoch + 1, 0)


@pytest.mark.parametrize("num_shares", range(2, 12))
@given(seed=st.integers(0, 2**40), micro=st.integers(1, 3), order=st.sampled_from(["deck", "random"]))
def test_budget_that_is_an_even_share_of_the_whole_is_kept(num_shares, seed, micro, order):
    # whoever cuts so many equal shares exceeds the budget by part of an atom
    runs = make_runs((1, 3, 101), (2, 8, 103), (3, 15, 107))
    cost = np.repeat(1.0 + runs.num_sites, runs.num_traces)
    policy = BatchPolicy(budget=float(cost.sum() / num_shares), micro=micro, order=order)
    batches = global_batches(BatchPlan(runs, policy, seed), 0)
    assert policy.budget is not None
    assert max(cost[batch].sum() for (batch,) in batches) <= policy.budget * ROUNDING


def test_steps_of_a_budget_end_at_the_edges_nearest_to_equal_shares():
    # costs 12, 20, 20, 9: shares of 30.5
    runs = make_runs((1, 11, 1), (2, 19, 1), (3, 19, 1), (4, 8, 1))
    plan = BatchPlan(runs, BatchPolicy(budget=80.0, micro=1, order="sequential"))
    assert [plan.step(0, step).tolist() for step in range(plan.num_steps)] == [[0, 1], [2, 3]]


@given(cases(has_budget=True))
def test_budget_of_fewer_than_four_atoms_is_refused_with_the_least_that_works(case):
    costs = case.cost[case.expected]
    largest = min(case.policy.micro * costs.max(), costs.sum())
    small = replace(case, policy=replace(case.policy, budget=3.99 * largest))
    with pytest.raises(PlanError, match=r"budget of .* is too small for ") as caught:
        _ = small.plan
    assert caught.value.fields["least"] == pytest.approx(4 * largest)
    assert replace(case, policy=replace(case.policy, budget=caught.value.fields["least"])).plan.num_steps >= 1


# --- ranks and workers ---


@given(cases(), st.data())
def test_all_ranks_do_equally_many_steps(case, data):
    num_ranks = data.draw(st.sampled_from(case.possible_ranks))
    start = (case.epoch, data.draw(st.integers(0, case.plan.num_steps - 1)))
    walks = [case.sampler(world=World(rank, num_ranks), start=start) for rank in range(num_ranks)]
    promised = {len(walk) for walk in walks}
    assert promised == {case.plan.num_steps - start[1]} == {sum(1 for _ in walk) for walk in walks}


@given(cases())
def test_global_batches_do_not_depend_on_the_number_of_ranks(case):
    alone = sets_of(global_batches(case.plan, case.epoch))
    for num_ranks in case.possible_ranks:
        assert sets_of(global_batches(case.plan, case.epoch, num_ranks)) == alone


@given(cases(has_budget=False), st.data())
def test_every_rank_has_the_same_number_of_traces_in_a_full_step(case, data):
    num_ranks = data.draw(st.sampled_from(case.possible_ranks))
    for ranks in global_batches(case.plan, case.epoch, num_ranks):
        if sum(map(len, ranks)) == case.policy.global_batch:
            assert {len(indices) for indices in ranks} == {case.policy.global_batch // num_ranks}


@given(cases(has_budget=False), st.integers(1, 24))
def test_other_numbers_of_ranks_are_refused_with_those_that_work(case, num_ranks):
    num_slots = case.policy.num_slots
    assume(num_slots % num_ranks)
    with pytest.raises(PlanError, match=rf"got {num_ranks}\. Allowed: 1") as caught:
        case.plan.step(0, 0, World(0, num_ranks))
    assert caught.value.fields["allowed"] == tuple(n for n in range(1, num_slots + 1) if num_slots % n == 0)


@given(cases(), st.data())
def test_an_atom_is_never_split_between_ranks(case, data):
    """With one atom a step, steps are the atoms; whatever the steps and ranks, each of those stays together."""
    assume(case.policy.order != "sequential")
    single = replace(case.policy, global_batch=case.policy.micro, budget=None)
    atoms = sets_of(global_batches(replace(case, policy=single).plan, case.epoch))
    num_ranks = data.draw(st.sampled_from(case.possible_ranks))
    place = {
        index: (step, rank)
        for step, ranks in enumerate(global_batches(case.plan, case.epoch, num_ranks))
        for rank, indices in enumerate(ranks)
        for index in indices.tolist()
    }
    assert all(len({place[index] for index in atom}) == 1 for atom in atoms)


@given(cases(), st.integers(1, 4), st.data())
def test_workers_divide_the_steps_and_change_nothing(case, num_workers, data):
    world = World(0, data.draw(st.sampled_from(case.possible_ranks)))
    alone = [indices.tolist() for indices in case.sampler(world=world)]
    shares = [
        [
            indices.tolist()
            for indices in case.sampler(world=replace(world, worker_of_rank=worker, workers_per_rank=num_workers))
        ]
        for worker in range(num_workers)
    ]
    assert [shares[step % num_workers][step // num_workers] for step in range(case.plan.num_steps)] == alone


@given(cases(), st.data())
def test_rank_costs_add_up_and_are_balanced_within_one_atom(case, data):
    plan, num_ranks = case.plan, data.draw(st.sampled_from(case.possible_ranks))
    cost = case.cost
    for step in range(plan.num_steps):
        costs = plan.rank_costs(case.epoch, step, num_ranks)
        by_rank = [cost[plan.step(case.epoch, step, World(rank, num_ranks))].sum() for rank in range(num_ranks)]
        assert np.allclose(costs, by_rank)
        assert costs.max() - costs.min() <= cost.max() * case.policy.micro + 1e-9


# --- state and resuming ---


@given(cases(), st.data())
def test_state_is_five_plain_values(case, data):
    stop = data.draw(st.integers(0, case.plan.num_steps))
    walk = case.sampler(start=(np.int64(case.epoch), 0))
    for _, _ in zip(range(stop), iter(walk), strict=False):
        pass
    state = walk.state_dict()
    assert json.loads(json.dumps(state)) == state
    assert state == {
        "snapshot": "s",
        "seed": case.seed,
        "epoch": case.epoch + stop // case.plan.num_steps,
        "step": stop % case.plan.num_steps,
        "policy": case.policy.digest,
    }


@given(cases(), st.data(), st.integers(1, 3))
def test_resume_is_exact_with_other_ranks_and_workers_at_any_stop(case, data, num_workers):
    num_steps = case.plan.num_steps
    stop = data.draw(st.integers(0, num_steps))
    before, after = (data.draw(st.sampled_from(case.possible_ranks)) for _ in range(2))
    walk = case.sampler(world=World(before - 1, before), start=(case.epoch, 0))
    walker = iter(walk)
    for _ in range(stop):
        next(walker)
    state = json.loads(json.dumps(walk.state_dict()))
    first_epoch, first_step = case.epoch + stop // num_steps, stop % num_steps
    rest: list[list[int]] = [[] for _ in range(num_steps - first_step)]
    for rank in range(after):
        shares = [walk_on(case, state, World(rank, after, worker, num_workers)) for worker in range(num_workers)]
        for worker, share in enumerate(shares):
            for place, indices in zip(range(worker, len(rest), num_workers), share, strict=True):
                rest[place].extend(indices)
    assert [sorted(batch) for batch in rest] == sets_of(global_batches(case.plan, first_epoch)[first_step:])


@given(cases(), st.data())
def test_another_snapshot_seed_or_policy_is_refused(case, data):
    state = case.sampler(start=(case.epoch, case.plan.num_steps - 1)).state_dict()
    changed = data.draw(st.sampled_from(["snapshot", "seed", "policy"]))
    other = case
    if changed == "seed":
        other = replace(case, seed=case.seed + 1)
    if changed == "policy":
        name, value = data.draw(
            st.sampled_from([("mixing", 0.7), ("num_buckets", 9), ("micro", 1), ("order", "random")])
        )
        other = replace(case, policy=replace(case.policy, **{name: value}))
        assume(other.policy != case.policy)
    walk = other.sampler(snapshot="t" if changed == "snapshot" else "s")
    with pytest.raises(CheckpointMismatchError) as caught:
        walk.load_state_dict(state)
    assert caught.value.fields["field"] == changed
    assert (walk.epoch, walk.step) == (0, 0)


# --- a store that has grown ---


@given(cases(), run_directories(), st.data())
def test_a_grown_store_is_continued_with_a_whole_epoch(case, appended, data):
    """The state of the old snapshot leads to an epoch not begun before, in which every trace comes exactly once."""
    num_steps = case.plan.num_steps
    stop = data.draw(st.integers(0, num_steps))
    walk = case.sampler(start=(case.epoch, 0))
    for _, _ in zip(range(stop), iter(walk), strict=False):
        pass
    columns = [(runs.trace_type, runs.num_sites, runs.num_traces) for runs in (case.runs, appended)]
    grown = replace(case, runs=make_runs(*zip(*map(np.concatenate, zip(*columns, strict=True)), strict=True)))
    if case.selected is not None:
        grown = replace(grown, selected=np.append(case.selected, np.ones(appended.num_traces.sum(), bool)))
    if case.policy.budget is not None:
        dearest = float(1 + max(case.runs.num_sites.max(), appended.num_sites.max()))
        assume(case.policy.budget >= 4 * case.policy.micro * dearest)
    num_ranks = data.draw(st.sampled_from(case.possible_ranks))
    walks = [grown.sampler(snapshot="grown", world=World(rank, num_ranks)) for rank in range(num_ranks)]
    with pytest.raises(CheckpointMismatchError, match="`continue_from`"):
        walks[0].load_state_dict(walk.state_dict())
    for other in walks:
        other.continue_from(walk.state_dict())
    assert {(other.epoch, other.step) for other in walks} == {(case.epoch + (stop > 0), 0)}
    seen = np.concatenate([indices for other in walks for indices in other])
    assert np.array_equal(np.sort(seen), grown.expected)


# --- a pure function, of every argument ---


@given(cases())
def test_plan_is_a_pure_function(case):
    once, again = case.plan, case.plan
    again.step(case.epoch + 1, 0)
    for step in reversed(range(once.num_steps)):
        assert np.array_equal(once.step(case.epoch, step), again.step(case.epoch, step))


@pytest.mark.parametrize("order", ["deck", "random"])
@pytest.mark.parametrize("micro", [1, 2])
@pytest.mark.parametrize(("seed_step", "epoch_step"), [(0, 1), (1, 0)])
@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 100), mixing=st.sampled_from([0.0, 0.3, 1.0]))
def test_another_epoch_or_seed_gives_other_batches(order, micro, seed_step, epoch_step, seed, epoch, mixing):
    # at least 20 steps of two: two orders do not agree by chance
    runs = make_runs((1, 3, 41), (2, 4, 7))
    policy = BatchPolicy(global_batch=2, micro=micro, order=order, mixing=mixing)
    mine = sets_of(global_batches(BatchPlan(runs, policy, seed), epoch))
    others = sets_of(global_batches(BatchPlan(runs, policy, seed + seed_step), epoch + epoch_step))
    assert mine != others


@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 100))
def test_atoms_do_not_stay_together_over_epochs(seed, epoch):
    # rings of 41 turned by chance: two epochs of ten cut at the same places only by a chance of one in 41 each
    plan = BatchPlan(make_runs((1, 3, 41)), BatchPolicy(global_batch=8, micro=8), seed)
    cuts = [sorted(sets_of(global_batches(plan, later))) for later in range(epoch, epoch + 10)]
    assert sum(one == cuts[0] for one in cuts[1:]) < 5


@given(cases())
def test_sequential_order_is_the_same_in_every_epoch(case):
    case = replace(case, policy=replace(case.policy, order="sequential"))
    first, later = (sets_of(global_batches(case.plan, epoch)) for epoch in (0, case.epoch))
    assert first == later
    assert np.array_equal(np.concatenate(first), case.expected)
