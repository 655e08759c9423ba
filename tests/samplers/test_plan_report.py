"""What a report says of a plan, compared with counting trace by trace."""

import json

import numpy as np
import pytest

from tests.samplers.runs import make_runs
from tracestore.errors import InvalidInputError, PlanError
from tracestore.samplers import BatchPlan, BatchPolicy, CostModel, World
from tracestore.samplers.plan_measures import ShuffleQuality
from tracestore.samplers.plan_report import examine_plan
from tracestore.samplers.schemes import TraceTable

RUNS = make_runs((1, 4, 130), (2, 9, 71), (3, 2, 40), (2, 9, 119), (4, 50, 37), (5, 60, 3), num_segments=3)
OBSERVED = np.array([0.0, 5.0, 10.0, 5.0, 20.0, 0.0])
BYTES = np.array([100.0, 150.0, 60.0, 150.0, 900.0, 1000.0])
SELECTED = np.arange(400) % 7 != 2
COST = CostModel(per_trace=2.0, per_site=0.5, per_observation_byte=0.25)
POLICIES = {
    "deck": BatchPolicy(global_batch=48, micro=4, num_buckets=3, cost=COST),
    "sorted-pure": BatchPolicy(global_batch=48, micro=8, num_buckets=2, mixing=0.0, cost=COST),
    "random": BatchPolicy(global_batch=48, micro=1, order="random", cost=COST),
    "sequential": BatchPolicy(global_batch=48, micro=4, order="sequential", cost=COST),
    "budget": BatchPolicy(budget=600.0, micro=4, cost=COST),
}


@pytest.fixture(params=POLICIES)
def policy(request):
    return POLICIES[request.param]


@pytest.fixture(params=[None, SELECTED], ids=["all", "selected"])
def selected(request):
    return request.param


@pytest.fixture
def plan(policy, selected):
    return BatchPlan(RUNS, policy, 5, selected=selected, observation_bytes=OBSERVED)


def examine(plan, selected, num_ranks=3, **options):
    return examine_plan(
        plan, RUNS, num_ranks, selected=selected, observation_bytes=OBSERVED, segments=RUNS.segment, trace_bytes=BYTES,
        epoch=1, **options,
    )  # fmt: skip


def selected_traces(selected):
    return np.arange(400) if selected is None else np.flatnonzero(selected)


def run_of(traces):
    return np.searchsorted(RUNS.first, traces, "right") - 1


def rank_batches(plan, step, num_ranks=3):
    return [plan.step(1, step, World(rank, num_ranks)) for rank in range(num_ranks)]


def test_dealing_a_step_is_what_each_rank_gets(plan, selected):
    numbers = selected_traces(selected)
    for step in range(plan.num_steps):
        traces, ranks = plan.epoch(1).deal(step, 3)
        for rank, expected in enumerate(rank_batches(plan, step)):
            assert np.array_equal(np.sort(numbers[traces[ranks == rank]]), expected)


def test_every_trace_is_found_in_its_step(plan, selected):
    numbers = selected_traces(selected)
    found = plan.epoch(1).steps_of_traces()
    for step in range(plan.num_steps):
        assert np.array_equal(numbers[found == step], plan.step(1, step))


def test_steps_are_counted_trace_by_trace(plan, selected):
    steps = examine(plan, selected).steps
    assert np.array_equal(steps.step, np.arange(plan.num_steps))
    types = []
    for step in range(plan.num_steps):
        batches = rank_batches(plan, step)
        runs = [run_of(batch) for batch in batches]
        whole = np.concatenate(runs)
        costs = [COST.of(RUNS.num_sites[run], OBSERVED[run]).sum() for run in runs]
        stretches = 0
        for batch, run in zip(batches, runs, strict=True):
            stretches += sum(
                place == 0 or batch[place - 1] != batch[place] - 1
                or RUNS.segment[run[place - 1]] != RUNS.segment[run[place]]
                for place in range(len(batch))
            )  # fmt: skip
            types += [len(set(RUNS.trace_type[run]))] if len(batch) else []
        assert steps.num_traces[step] == len(whole)
        assert steps.num_sites[step] == RUNS.num_sites[whole].sum()
        assert steps.num_bytes[step] == pytest.approx(BYTES[whole].sum())
        assert steps.num_segments[step] == len(set(RUNS.segment[whole]))
        assert steps.num_rank_segments[step] == pytest.approx(np.mean([len(set(RUNS.segment[run])) for run in runs]))
        assert steps.num_stretches[step] == stretches
        assert steps.mean_cost[step] == pytest.approx(np.mean(costs))
        assert steps.max_cost[step] == pytest.approx(np.max(costs))
        assert steps.padded_sites[step] == sum(len(run) * RUNS.num_sites[run].max() for run in runs if len(run))
    assert steps.types_per_rank.tolist() == types


def test_imbalance_is_that_of_the_plan(plan, selected):
    report = examine(plan, selected)
    costs = np.array([plan.rank_costs(1, step, 3) for step in range(plan.num_steps)])
    own, batch = report.schemes[0], round((plan.policy.global_batch or plan.num_traces / plan.num_steps) / 3)
    assert own.imbalance == pytest.approx(costs.max(axis=1).sum() / costs.mean(axis=1).sum())
    assert own.worst == pytest.approx((costs.max(axis=1) / costs.mean(axis=1)).max())
    assert own.num_dropped == 0
    assert report.schemes[1].num_dropped == 0
    # 400 or 342 traces in batches of about 16 on 3 ranks never divide
    assert 0 < report.schemes[2].num_dropped == len(selected_traces(selected)) - report.schemes[2].num_steps * batch * 3
    names = [scheme.name for scheme in report.schemes]
    assert names[1:3] == ["random chunks", "pyprob, 1 bucket"]
    assert names[-2:] == ["one bucket per round", "synchronized buckets"]


def test_atoms_are_counted_one_by_one(plan, selected):
    report = examine(plan, selected)
    cut = plan.epoch(1).cut
    numbers = selected_traces(selected)
    kinds = [
        [int(kind) for kind in RUNS.trace_type[run_of(numbers[cut.members(np.array([atom]))])]]
        for atom in range(cut.num_atoms)
    ]
    assert report.atoms.num_atoms == len(kinds)
    assert report.atoms.pure_share == pytest.approx(sum(len(k) for k in kinds if len(set(k)) == 1) / len(numbers))
    assert report.atoms.mean_types == pytest.approx(np.mean([len(set(k)) for k in kinds]))


def test_shuffle_is_counted_pair_by_pair(plan, selected):
    found = examine(plan, selected).shuffle
    here, following = plan.epoch(1).steps_of_traces(), plan.epoch(2).steps_of_traces()
    number = len(here)
    first, second = np.triu_indices(number, 1)
    mates = here[first] == here[second]
    assert found.neighbors == pytest.approx(np.mean(here[1:] == here[:-1]))
    assert found.neighbors_expected == pytest.approx(mates.mean())
    assert found.reunion == pytest.approx((following[first] == following[second])[mates].mean())
    order = np.argsort(here, kind="stable")
    rank = np.empty(number)
    rank[order] = np.arange(number) + 0.5
    middle = np.array([rank[here == step].mean() for step in range(plan.num_steps)])[here] / number
    place = (np.arange(number) + 0.5) / number
    if plan.policy.order == "sequential":
        assert found.correlation > 0.98
    else:
        assert found.correlation == pytest.approx(np.corrcoef(place, middle)[0, 1], abs=1e-3)
    # by chance, a trace may come at the place of any other
    assert found.displacement == pytest.approx(
        np.abs(place - middle).mean() / np.abs(place[:, None] - middle).mean(), rel=1e-3
    )
    assert found.grid.sum() == number


def test_orders_are_told_apart():
    runs = make_runs(*[(kind, 10 + kind, 500) for kind in range(8)])
    found = {}
    for name, policy in {
        "sequential": BatchPolicy(global_batch=40, order="sequential"),
        "random": BatchPolicy(global_batch=40, micro=1, order="random"),
        "deck": BatchPolicy(global_batch=40, micro=8),
    }.items():
        found[name] = examine_plan(BatchPlan(runs, policy, 1), runs).shuffle
    store, random, deck = found["sequential"], found["random"], found["deck"]
    assert (store.correlation, store.displacement, store.reunion) == pytest.approx((1, 0, 1), abs=0.01)
    assert (random.correlation, random.displacement) == pytest.approx((0, 1), abs=0.05)
    assert random.neighbors == pytest.approx(random.neighbors_expected, abs=0.01)
    assert random.reunion == pytest.approx(random.reunion_expected, abs=0.01)
    assert deck.neighbors == pytest.approx(7 / 8, abs=0.01)
    assert deck.reunion > 2 * deck.reunion_expected


def test_blocks_do_not_matter(plan, selected, monkeypatch):
    before = examine(plan, selected)
    monkeypatch.setattr("tracestore.samplers.plan_measures._BLOCK", 56)
    after = examine(plan, selected)
    assert after.to_dict()["atoms"] == before.to_dict()["atoms"]
    assert after.to_dict()["shuffle"] == pytest.approx(before.to_dict()["shuffle"])
    assert np.array_equal(after.shuffle.grid, before.shuffle.grid)


def test_one_trace_can_be_examined():
    quality = ShuffleQuality.measure(np.zeros(1, np.int32), np.zeros(1, np.int32), np.array([0]))
    assert (quality.neighbors, quality.neighbors_expected, quality.reunion, quality.correlation) == (0, 0, 0, 0)


def test_long_epochs_are_sampled_evenly():
    plan = BatchPlan(RUNS, POLICIES["deck"], 5, observation_bytes=OBSERVED)
    report = examine(plan, None, max_steps=3)
    assert report.steps.step.tolist() == [0, 4, 8]
    assert report.to_dict()["num_examined_steps"] == 3
    assert "measured on 3 steps, evenly spread over epoch 1" in str(report)
    assert "measured on" not in str(examine(plan, None))


def test_numbers_for_programs(plan, selected):
    report = examine(plan, selected)
    facts = json.loads(json.dumps(report.to_dict()))
    assert facts["num_traces"] == plan.num_traces
    assert facts["per_step"]["num_traces"]["max"] == report.steps.num_traces.max()
    assert facts["schemes"][0]["imbalance"] == report.schemes[0].imbalance
    assert facts["allowed_ranks"] == (None if plan.policy.budget else list(plan.policy.allowed_ranks))
    assert facts["policy"]["cost"]["per_trace"] == 2.0
    assert facts["mean_stretch"] == pytest.approx(plan.num_traces / report.steps.num_stretches.sum())


def test_text_for_people(plan, selected):
    text = str(examine(plan, selected))
    is_budget = plan.policy.budget is not None
    assert ("cost 600 at most" if is_budget else "steps of 48 traces") in text
    assert text.endswith("any number" if is_budget else ", ".join(map(str, plan.policy.allowed_ranks)))


def test_other_schemes_are_left_out_when_the_traces_do_not_suffice():
    runs = make_runs((1, 3, 5))
    plan = BatchPlan(runs, BatchPolicy(global_batch=64, order="sequential"), 1)
    report = examine_plan(plan, runs, 4)
    assert [scheme.name for scheme in report.schemes] == ["this plan"]
    assert report.schemes[0].imbalance == pytest.approx(4 * 5 / 5)


@pytest.mark.parametrize("wrong", [{"num_ranks": 5}, {"num_ranks": 0}])
def test_ranks_that_cannot_share_a_step_are_refused(wrong):
    plan = BatchPlan(RUNS, POLICIES["deck"], 5)
    with pytest.raises(PlanError, match=f"got {wrong['num_ranks']}"):
        examine_plan(plan, RUNS, **wrong)


@pytest.mark.parametrize("wrong", [{"max_steps": 0}, {"epoch": -1}, {"selected": SELECTED}])
def test_wrong_input_is_refused(wrong):
    plan = BatchPlan(RUNS, POLICIES["deck"], 5)
    with pytest.raises(InvalidInputError, match=r"got 0|epoch -1|343"):
        examine_plan(plan, RUNS, **wrong)


def test_table_and_plan_have_the_same_costs(plan, selected, policy):
    table = TraceTable.select(RUNS, policy.cost, selected=selected, observation_bytes=OBSERVED)
    whole = sum(plan.rank_costs(1, step, 1)[0] for step in range(plan.num_steps))
    assert table.costs[table.run_of].sum() == pytest.approx(whole)
