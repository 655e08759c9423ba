"""Batched simulators in engines: stores of prior traces, importance sampling, and engines of single traces."""

import math

import numpy as np
import pytest

import tracestore as ts
from tests.inference.providers import RuleProvider
from tracestore.execution import prior_draws
from tracestore.inference import RMHConfig, ic, importance, prior, rmh
from tracestore.simulators.batched import BATCH_SIZE, BatchedSimulator, batched_simulator
from tracestore.store import verify
from tracestore.traces.distributions import Normal

needs_engines = pytest.mark.skipif(
    not hasattr(prior_draws, "largest_chunk"), reason="prior draws do not know batched simulators yet"
)

OBSERVED = {"obs0": 8.0, "obs1": 9.0}
SD = math.sqrt(1.0 / 1.2)


def program():
    mu = ts.sample(ts.Normal(1.0, math.sqrt(5.0)), name="mu")
    likelihood = ts.Normal(mu, math.sqrt(2.0))
    ts.observe(likelihood, name="obs0")
    ts.observe(likelihood, name="obs1")
    return mu


gum = BatchedSimulator(program)


@batched_simulator
def importable(n):
    return ts.sample(ts.Normal(np.zeros(n), 1.0), name="mu")


def by_stream(store):
    values, indices = store.values("mu")
    return dict(zip(store.column("stream")[indices].tolist(), values.tolist(), strict=True))


def counting(calls):
    """The program with a record of how many traces each call made."""

    def counted(n):
        calls.append(n)
        return program()

    return BatchedSimulator(counted)


@needs_engines
def test_a_store_is_made_in_one_call_a_chunk(tmp_path):
    calls: list[int] = []
    store = ts.simulate(counting(calls), tmp_path / "s", num_traces=1000, chunk_size=400, seed=1)
    assert calls == [400, 400, 200]
    assert sorted(store.column("stream").tolist()) == list(range(1000))


@needs_engines
def test_chunks_are_as_large_as_the_simulator_likes(tmp_path):
    calls: list[int] = []
    ts.simulate(counting(calls), tmp_path / "s", num_traces=64 * 500, seed=1)
    assert set(calls) == {500}
    assert prior_draws.largest_chunk(gum) == BATCH_SIZE


@needs_engines
def test_a_store_passes_its_checks(tmp_path):
    store = ts.simulate(gum, tmp_path / "s", num_traces=500, seed=1)
    assert verify(store, deep=True) == []


@needs_engines
@pytest.mark.processes
def test_traces_do_not_depend_on_the_number_of_workers(tmp_path):
    one, two = (
        ts.simulate(gum, tmp_path / str(workers), num_traces=1000, chunk_size=100, seed=1, workers=workers)
        for workers in (1, 2)
    )
    assert by_stream(one) == by_stream(two)


@needs_engines
def test_traces_do_not_depend_on_the_place(tmp_path):
    settings = {"num_traces": 1000, "chunk_size": 100, "seed": 1}
    here = ts.simulate(importable, tmp_path / "here", **settings)  # type: ignore[arg-type]
    there = ts.simulate(importable, tmp_path / "there", executor=ts.SerialExecutor(), **settings)  # type: ignore[arg-type]
    assert by_stream(here) == by_stream(there)


@needs_engines
def test_appended_traces_are_new(tmp_path):
    ts.simulate(gum, tmp_path / "s", num_traces=100, seed=1, chunk_size=50)
    store = ts.simulate(gum, tmp_path / "s", num_traces=100, seed=1, chunk_size=50, append=True)
    found = by_stream(store)
    assert sorted(found) == list(range(200))
    assert len(set(found.values())) == 200


@needs_engines
def test_an_interrupted_job_goes_on_with_the_same_traces(tmp_path):
    def interrupt(event):
        if getattr(event, "done", 0) >= 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ts.simulate(gum, tmp_path / "s", num_traces=500, seed=1, chunk_size=100, observer=interrupt)
    store = ts.simulate(gum, tmp_path / "s", num_traces=500, seed=1, chunk_size=100)
    whole = ts.simulate(gum, tmp_path / "t", num_traces=500, seed=1, chunk_size=100)
    assert by_stream(store) == by_stream(whole)


@needs_engines
@pytest.mark.statistical
def test_importance_sampling_finds_the_exact_posterior(tmp_path):
    posterior = importance(gum, OBSERVED, tmp_path / "post", num_draws=100_000, seed=1)
    assert posterior.mean("mu") == pytest.approx(7.25, abs=0.05)
    assert math.sqrt(posterior.var("mu")) == pytest.approx(SD, abs=0.05)
    assert abs(posterior.log_evidence + 8.24) < 4 * posterior.log_evidence_se + 0.01


@needs_engines
def test_failed_traces_have_no_weight(tmp_path):
    def fragile():
        x = ts.sample(ts.Normal(0.0, 1.0), name="x")
        if (x > 2.0).any():
            message = "too far"
            raise ValueError(message)
        ts.observe(ts.Normal(x, 1.0), name="y")

    store = importance(BatchedSimulator(fragile), {"y": 0.0}, tmp_path / "post", num_draws=6400, seed=1).store
    values, indices = store.values("x")
    weights = np.asarray(store.column("log_weight")[indices], np.float64)
    assert np.array_equal(np.isneginf(weights), np.asarray(values, np.float64) > 2.0)
    assert set(store.failures().values()) == {"ValueError: too far"}


@needs_engines
def test_draws_from_the_prior_weigh_the_same(tmp_path):
    store = prior(gum, tmp_path / "prior", num_draws=300, seed=1).store
    assert not store.column("log_weight").any()
    assert sorted(store.column("draw").tolist()) == list(range(300))


def test_chains_of_single_traces_run_it(tmp_path):
    config = RMHConfig(warmup=200)
    posterior = rmh(gum, OBSERVED, tmp_path / "post", num_draws=4000, chains=2, seed=1, config=config)
    assert posterior.mean("mu") == pytest.approx(7.25, abs=0.3)


def test_networks_propose_to_it(tmp_path):
    network = RuleProvider(gum, {"mu"}, lambda *_: Normal(7.0, 1.5))
    posterior = ic(gum, OBSERVED, tmp_path / "post", network=network, num_draws=1000, seed=1)
    assert posterior.mean("mu") == pytest.approx(7.25, abs=0.2)
