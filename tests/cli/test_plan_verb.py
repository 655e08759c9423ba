"""`tracestore plan`: what it prints, what it writes, what it refuses."""

import json

import numpy as np
import pytest

from tracestore import TraceStore
from tracestore.samplers import BatchPlan, BatchPolicy, CostModel, select_traces
from tracestore.samplers.plan_report import examine_plan


@pytest.fixture
def traces(run):
    """Two segments of 200 traces and many types, without an observation in some of them."""
    words = ["simulate", "geometric", "traces", "--num-traces", 200]
    assert run(*words, "--seed", 1)[0] == 0
    assert run(*words, "--seed", 2, "--append")[0] == 0
    return "traces"


def facts(answer):
    status, output, errors = answer
    assert status == 0, errors
    return json.loads(output)


def test_text_for_people(run, traces):
    status, output, errors = run("plan", traces, "--global-batch", 64, "--micro", 8, "--ranks", 4)
    assert (status, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0] == "traces: 400 traces, 7 steps of 64 traces, 4 ranks"
    assert lines[-1] == "ranks that can share a step: 1, 2, 4, 8"
    for words in ("50 of 8 traces", "segments of a step", "contiguous reads", "store neighbors", "max/mean"):
        assert words in output
    for scheme in ("this plan", "random chunks", "pyprob, 1 bucket", "one bucket per round", "synchronized buckets"):
        assert f"\n  {scheme}  " in output


def test_numbers_are_those_of_the_plan(run, traces):
    found = facts(
        run("plan", traces, "--global-batch", 64, "--micro", 8, "--ranks", 4, "--seed", 3, "--epoch", 2, "--json")
    )
    store = TraceStore.open(traces)
    plan = BatchPlan(store.runs, BatchPolicy(global_batch=64, micro=8), 3)
    costs = [plan.rank_costs(2, step, 4) for step in range(plan.num_steps)]
    assert (found["store"], found["num_traces"], found["num_steps"]) == ("traces", 400, 7)
    assert found["schemes"][0]["imbalance"] == pytest.approx(
        sum(cost.max() for cost in costs) / sum(cost.mean() for cost in costs)
    )
    assert found["shuffle"] == examine_plan(plan, store.runs, 4, epoch=2).to_dict()["shuffle"]
    assert found["allowed_ranks"] == [1, 2, 4, 8]
    assert found["per_step"]["num_segments"]["max"] == 2
    assert found["per_step"]["num_bytes"]["mean"] * 7 == pytest.approx(sum(entry.nbytes for entry in store.segments))


def test_every_word_of_the_policy_counts(run, traces):
    words = "--micro 4 --buckets 3 --order deck --mixing 0.5 --cost-per-trace 7 --cost-per-site 2 --cost-per-byte 0.5"
    found = facts(run("plan", traces, "--global-batch", 32, *words.split(), "--json"))
    assert found["policy"] == {
        "global_batch": 32,
        "budget": None,
        "micro": 4,
        "num_buckets": 3,
        "order": "deck",
        "mixing": 0.5,
        "cost": {"per_trace": 7.0, "per_site": 2.0, "per_observation_byte": 0.5},
    }


def test_bytes_of_observations_cost_something(run, traces):
    cost = ["--cost-per-trace", 0, "--cost-per-site", 0, "--cost-per-byte", 1]
    store = TraceStore.open(traces)
    (observed,) = {entry.observation_bytes for entry in store.segments}
    assert observed > 0
    found = facts(run("plan", traces, "--budget", 100 * observed, *cost, "--json"))
    policy = BatchPolicy(budget=100.0 * observed, cost=CostModel(per_trace=0.0, per_site=0.0, per_observation_byte=1.0))
    assert found["num_steps"] == BatchPlan(store.runs, policy, 0, observation_bytes=observed).num_steps
    assert found["per_step"]["num_traces"]["max"] <= 100


def test_budget_admits_any_number_of_ranks(run, traces):
    status, output, errors = run("plan", traces, "--budget", 500, "--micro", 2, "--ranks", 7)
    assert status == 0, errors
    assert "of cost 500 at most, 7 ranks" in output
    assert output.endswith("ranks that can share a step: any number\n")


def test_default_atom_divides_the_batch(run, traces):
    assert facts(run("plan", traces, "--global-batch", 384, "--json"))["atoms"]["micro"] == 6
    assert facts(run("plan", traces, "--budget", 500, "--json"))["atoms"]["micro"] == 1


@pytest.mark.parametrize("subset", ["train", "validation", "all"])
def test_subset(run, traces, subset):
    store = TraceStore.open(traces)
    status, stream = (np.asarray(store.column(name), np.int64) for name in ("status", "stream"))
    expected = select_traces(status, stream, subset, 0.25).sum()
    words = ["--subset", subset, "--validation-fraction", 0.25]
    found = facts(run("plan", traces, "--global-batch", 16, *words, "--json"))
    assert found["num_traces"] == expected


def test_failed_traces_take_no_part(run, tmp_path):
    (tmp_path / "plan_plant.py").write_text(
        "import tracestore as ts\n"
        "def plant():\n"
        "    if ts.sample(ts.Normal(0.0, 1.0), name='x') > 0.5:\n"
        "        raise ValueError('too hot')\n"
    )
    assert run("simulate", "plan_plant:plant", "traces", "--num-traces", 100)[0] == 0
    store = TraceStore.open("traces")
    found = facts(run("plan", "traces", "--global-batch", 16, "--json"))
    assert found["num_traces"] == 100 - len(store.failures()) < 100  # and no trace of it has an observation


def test_page(run, traces, tmp_path):
    pytest.importorskip("matplotlib")
    status, output, errors = run("plan", traces, "--global-batch", 64, "--html", "plan.html")
    assert status == 0, errors
    assert output.endswith("\npage in plan.html\n")
    assert "<h1>Batches of traces</h1>" in (tmp_path / "plan.html").read_text("utf-8")
    answer = run("plan", traces, "--global-batch", 64, "--html", "again.html", "--json")
    assert facts(answer)["num_traces"] == 400
    assert answer[2] == "page in again.html\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--global-batch", 64, "--micro", 8, "--ranks", 3], "got 3. Allowed: 1, 2, 4, 8."),
        (["--global-batch", 401], "A batch of 401 is larger than the 400 selected traces"),
        (["--global-batch", 64, "--micro", 5], "`micro` must divide the `global_batch` of 64; got 5"),
        (["--budget", -2], "`budget` must be finite and positive; got -2.0"),
        (["--budget", 3], "A budget of 3 is too small for traces that cost up to"),
        (["--budget", 500, "--mixing", 2], "`mixing` must be from 0 to 1; got 2.0"),
        (["--budget", 500, "--cost-per-site", -1], "`per_site` must be finite and not negative; got -1.0"),
        (["--budget", 500, "--subset", "train", "--validation-fraction", 1], "must be at least 0 and below 1; got 1.0"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_what_cannot_be_planned_is_one_sentence(run, traces, words, complaint):
    status, output, errors = run("plan", traces, *words)
    assert (status, output) == (1, "")
    assert complaint in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "one of the arguments --global-batch --budget is required"),
        (["--global-batch", 64, "--budget", 5], "not allowed with argument"),
        (["--global-batch", 0], "--global-batch: must be at least 1; got 0"),
        (["--global-batch", 64, "--ranks", 0], "--ranks: must be at least 1; got 0"),
        (["--global-batch", 64, "--order", "clever"], "invalid choice: 'clever'"),
        (["--global-batch", 64, "--epoch", -1], "--epoch: must not be negative; got -1"),
        (["--budget", "much"], "invalid float value: 'much'"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_wrong_usage(run, words, complaint):
    status, output, errors = run("plan", "traces", *words)
    assert (status, output) == (2, "")
    assert complaint in errors


def test_empty_store_is_refused(run):
    TraceStore.create("empty")
    status, output, errors = run("plan", "empty", "--global-batch", 8)
    assert (status, output) == (1, "")
    assert "No trace is selected" in errors
