"""Replayed scaling: loads that follow from the settings, costs found again, and what a larger job would do."""

import itertools
import json

import numpy as np
import pytest

pytest.importorskip("torch")

import tracestore as ts
from tests.networks.family_programs import TINY
from tests.samplers.runs import make_runs
from tracestore.errors import InvalidInputError, PlanError
from tracestore.samplers.cost_fit import CostFit, fit_costs
from tracestore.samplers.policy import CostModel
from tracestore.simulators.toys import branching
from tracestore.training import TrainConfig, train
from tracestore.training.history import read_history
from tracestore.training.scaling import SumModel, fit_sums, read_loads, replay_weak_scaling

COST = CostModel(per_trace=1e-3, per_site=1e-4)
COSTS = CostFit(COST, 5e-3, 1.0, 0.0, 100, 0, ())
NO_SUMS = SumModel(latency=0.0, bytes_per_second=1e30)
RUNS = make_runs((1, 4, 600), (2, 9, 710), (3, 2, 400), (2, 30, 1190), (4, 50, 370), (5, 60, 130))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scaling")
    store = ts.simulate(branching, folder / "store", num_traces=400, seed=1)
    train(store, folder / "network", config=TrainConfig(network=TINY, epochs=2, batch_size=16, seed=3))
    return store, folder / "network"


def replay(num_ranks, costs=COSTS, sums=NO_SUMS, **options):
    options = {"traces_per_rank": 16, "num_bytes": 1e6, **options}
    return replay_weak_scaling(RUNS, costs, sums, num_ranks=num_ranks, **options)


# ---------------------------------------------------------------------------------------------------------- loads


def test_loads_are_those_of_the_steps(trained):
    store, folder = trained
    loads = read_loads(folder, store, skip=0)
    lines = list(read_history(folder))
    assert loads.num_traces.tolist() == np.diff([0, *(line["num_traces"] for line in lines)]).tolist()
    times = [sum(line["times"].values()) - line["times"]["sync"] for line in lines]
    np.testing.assert_allclose(loads.seconds, times)
    assert loads.observation_bytes.tolist() == (4 * loads.num_traces).tolist()


def test_every_epoch_holds_all_sites_once(trained):
    store, folder = trained
    loads = read_loads(folder, store, skip=0)
    first, second = np.split(loads.num_sites, 2)
    assert first.sum() == second.sum()
    assert first.tolist() != second.tolist()


def test_first_steps_are_left_out(trained):
    store, folder = trained
    every = read_loads(folder, store, skip=0)
    assert read_loads(folder, store, skip=4).seconds.tolist() == every.seconds[4:].tolist()


def test_ranks_share_the_steps(trained, tmp_path):
    store, folder = trained
    for name in ("config.json", "job.json", "history.jsonl"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "ranks").mkdir()
    (tmp_path / "ranks" / "rank-00001.jsonl").write_bytes((folder / "history.jsonl").read_bytes())
    shares = [read_loads(tmp_path, store, rank=rank, num_ranks=2, skip=0) for rank in range(2)]
    alone = read_loads(folder, store, skip=0)
    assert (shares[0].num_sites + shares[1].num_sites).tolist() == alone.num_sites.tolist()
    assert shares[0].num_traces[0] == shares[1].num_traces[0] == 8


def test_costs_are_found_in_the_loads(trained, tmp_path):
    """A history whose times follow a law gives the law."""
    store, folder = trained
    loads = read_loads(folder, store, skip=0)
    for name in ("config.json", "job.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    seconds = 0.01 + 0.002 * loads.num_sites
    lines = [
        {**line, "times": {"read": 0.0, "forward": value, "backward": 0.0, "optimize": 0.0, "sync": 9.0}}
        for line, value in zip(read_history(folder), seconds.tolist(), strict=True)
    ]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_loads(tmp_path, store, skip=0)
    fit = fit_costs(found.num_traces, found.num_sites, found.observation_bytes, found.seconds)
    assert fit.cost.per_site == pytest.approx(0.002, rel=1e-6)


def test_another_store_is_refused(trained, tmp_path):
    other = ts.simulate(branching, tmp_path / "other", num_traces=400, seed=2)
    with pytest.raises(InvalidInputError, match="was trained on the snapshot"):
        read_loads(trained[1], other)


# ----------------------------------------------------------------------------------------------------------- sums


def test_one_rank_sums_nothing():
    assert SumModel(1e-3, 1e6).seconds(1e9, 1) == 0.0


def test_latency_grows_with_the_doublings_and_bytes_with_the_share_of_the_others():
    model = SumModel(latency=1.0, bytes_per_second=1e6)
    assert [model.seconds(0.0, ranks) for ranks in (2, 4, 5, 1024)] == [1, 2, 3, 10]
    assert model.seconds(1e6, 4) - model.seconds(0.0, 4) == pytest.approx(1.5)


def test_sums_with_noise_give_the_model_roughly():
    model = SumModel(latency=5e-5, bytes_per_second=2e9)
    sizes = np.geomspace(1e3, 1e8, 12)
    noise = np.random.default_rng(2).uniform(0.95, 1.05, 12)
    fitted = fit_sums(sizes, noise * [model.seconds(size, 2) for size in sizes])
    assert fitted.latency == pytest.approx(model.latency, rel=0.1)
    assert fitted.bytes_per_second == pytest.approx(model.bytes_per_second, rel=0.1)


@pytest.mark.parametrize(
    ("sizes", "seconds", "words"),
    [([5, 5], [1, 1], "at least two sizes"), ([1e3, 1e6], [1.0, 1.0 - 1e-9], "did not take longer")],
)
def test_sums_that_tell_nothing_are_refused(sizes, seconds, words):
    with pytest.raises(InvalidInputError, match=words):
        fit_sums(sizes, seconds)


# --------------------------------------------------------------------------------------------------------- replay


def test_one_rank_waits_for_nobody():
    (step,) = replay([1])
    assert (step.imbalance, step.sums) == (1.0, 0.0)
    assert step.speed == step.speed_of_hidden_sums


def test_mean_step_is_that_of_the_costs():
    """Over a whole epoch, the mean load does not depend on who has what."""
    sites = np.repeat(RUNS.num_sites, RUNS.num_traces)
    num_full = len(sites) // 64
    (step,) = replay([4], num_steps=num_full)
    assert step.mean == pytest.approx(5e-3 + 16 * COST.of(sites).mean(), rel=0.03)


def test_larger_jobs_wait_and_more_traces_pass():
    steps = replay([1, 2, 4, 8, 16, 32])
    assert [step.num_traces for step in steps] == [16, 32, 64, 128, 256, 512]
    assert all(after.speed > before.speed for before, after in itertools.pairwise(steps))
    assert all(step.imbalance > 1.0 for step in steps[1:])


def test_a_large_step_of_its_own_hides_imbalance():
    fixed = CostFit(COST, 1e3, 1.0, 0.0, 100, 0, ())
    assert replay([8], fixed)[0].imbalance < replay([8])[0].imbalance


def test_sums_come_on_top():
    sums = SumModel(latency=0.0, bytes_per_second=1e8)
    (step,), (free,) = replay([8], sums=sums), replay([8])
    assert step.speed_of_hidden_sums == free.speed
    assert step.num_traces / step.speed - free.num_traces / free.speed == pytest.approx(2 * 7 / 8 * 1e6 / 1e8)


def test_too_few_traces_are_refused():
    with pytest.raises(PlanError, match="A batch of 16384 is larger"):
        replay([1024])
