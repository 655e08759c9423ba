"""Inference on closed programs: they are functions of their draws, and posteriors are the exact ones."""

import numpy as np
import pytest

import tracestore as ts
from tracestore.simulators import PriorController, ReplayController, run_trace
from tracestore.store import TraceStore
from tracestore.traces.trace import TraceStatus

pytest.importorskip("zmq")
from tests.ppx.closed_programs import NEEDS_COMPILER, compiled
from tracestore.native.hooks import Hook
from tracestore.ppx.interposed import InterposedProgram

pytestmark = [NEEDS_COMPILER, pytest.mark.processes]

OBSERVATION = {"obs0": 2.0, "obs1": 3.0}
MEAN, SD = 2.25, 1.2**-0.5
"""Of the exact posterior: the prior of mu is Normal(1, sqrt 5), each observation is Normal(mu, sqrt 2)."""


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    with compiled(tmp_path_factory.mktemp("closed")) as found:
        yield found


def read_mu(output):
    mu = float(output.stdout.split()[1])
    ts.tag(mu, name="mu")
    ts.observe(ts.Normal(mu, 2**0.5), name="obs0")
    ts.observe(ts.Normal(mu, 2**0.5), name="obs1")


def read_numbers(output):
    return np.array([float(word) for word in output.stdout.split() if word[0] in "-0123456789"])


@pytest.fixture
def gum(programs):
    program = InterposedProgram(
        [programs.path("gum")], hooks=[Hook("drand48", "uniform_double")], observe=read_mu, instances=2
    )
    yield program
    program.close()


@pytest.fixture
def decay(programs):
    hooks = [Hook("_ZN3Rng4flatEv", "uniform_double")]
    program = InterposedProgram([programs.path("decay")], hooks=hooks, observe=read_numbers, instances=3)
    yield program
    program.close()


def test_replayed_in_another_order_the_draws_give_the_same_output(decay):
    traces = [run_trace(decay, PriorController(), np.random.default_rng(seed)) for seed in range(30)]
    for index in np.random.default_rng(7).permutation(len(traces)):
        trace = traces[index]
        again = run_trace(decay, ReplayController(trace), np.random.default_rng(0))
        assert [site.address for site in again.sites] == [site.address for site in trace.sites]
        assert np.array_equal(again.values, trace.values)


def test_runs_in_flight_together_give_the_traces_of_single_ones(decay, tmp_path):
    ts.simulate(decay, tmp_path / "together", num_traces=24, seed=3)
    decay.max_in_flight = 1
    ts.simulate(decay, tmp_path / "single", num_traces=24, seed=3)
    together, single = (TraceStore.open(tmp_path / name) for name in ("together", "single"))
    assert len(together) == len(single) == 24
    values = [{trace.stream: list(trace.values) for trace in store} for store in (together, single)]
    assert values[0] == values[1]


def test_worker_processes_start_programs_of_their_own(decay, tmp_path):
    run_trace(decay, PriorController(), np.random.default_rng(1))  # this process has one that waits
    ts.simulate(decay, tmp_path / "traces", num_traces=40, seed=3, workers=2)
    store = TraceStore.open(tmp_path / "traces")
    assert len(store) == 40
    assert all(trace.status is TraceStatus.OK for trace in store)


@pytest.mark.statistical
def test_importance_sampling_gives_the_exact_posterior(gum, tmp_path):
    posterior = ts.inference.importance(gum, OBSERVATION, tmp_path / "is", num_draws=1_000, seed=2)
    error = SD / posterior.ess**0.5
    assert posterior.mean("mu") == pytest.approx(MEAN, abs=4 * error)
    assert posterior.std("mu") == pytest.approx(SD, rel=0.15)


@pytest.mark.statistical
def test_rmh_gives_the_exact_posterior(gum, tmp_path):
    config = ts.inference.RMHConfig(warmup=150)
    posterior = ts.inference.rmh(gum, OBSERVATION, tmp_path / "rmh", num_draws=600, chains=2, seed=2, config=config)
    assert posterior.mean("mu") == pytest.approx(MEAN, abs=0.4)
    assert posterior.std("mu") == pytest.approx(SD, rel=0.35)
