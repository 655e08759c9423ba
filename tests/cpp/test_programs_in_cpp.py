"""Simulators in C++ behind `PPXSimulator`: traces, failures, posteriors."""

import math

import numpy as np
import pytest

import tracestore as ts
from tracestore.simulators import PriorController, ReplayController, run_trace, toys
from tracestore.traces.trace import TraceStatus

pytest.importorskip("zmq")
from tracestore.ppx.simulator import PPXSimulator

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("cpp")]
OBSERVED = {"obs0": 8.0, "obs1": 9.0}


def prior_traces(program, number, seed=1, **options):
    rng = np.random.default_rng(seed)
    return [run_trace(program, PriorController(), rng, **options) for _ in range(number)]


def test_a_trace_of_the_program_scores_as_its_python_twin(examples):
    with PPXSimulator([str(examples / "gum")]) as program:
        (trace,) = prior_traces(program, 1)
    twin = run_trace(toys.gum, PriorController(), np.random.default_rng(1))
    assert trace.log_joint == twin.log_joint
    assert trace.observations == twin.observations


@pytest.mark.parametrize("example", ["gum_marsaglia", "hmm", "detector"])
def test_recorded_draws_reproduce_everything(examples, example):
    with PPXSimulator([str(examples / example)]) as program:
        program.require_stable_addresses(seed=1)
        traces = prior_traces(program, 8)
        rng = np.random.default_rng(2)
        for trace in [traces[index] for index in rng.permutation(len(traces))]:
            again = run_trace(program, ReplayController(trace), rng, observations=trace.observations)
            assert [site.address for site in again.sites] == [site.address for site in trace.sites]
            np.testing.assert_array_equal(again.values, trace.values)


def test_rejected_passes_can_be_left_out(examples):
    with PPXSimulator([str(examples / "gum_marsaglia")]) as program:
        kept = prior_traces(program, 30)
        collapsed = prior_traces(program, 30, collapse_rejection=True)
    assert len({len(trace.sites) for trace in kept}) > 1
    assert {len(trace.sites) for trace in collapsed} == {5}  # two draws, two observes, the result


def test_the_length_cap_is_a_recorded_failure(models):
    with PPXSimulator([str(models), "{endpoint}", "endless"]) as program:
        first, second = prior_traces(program, 2, max_sites=20)
    assert [first.status, second.status] == [TraceStatus.CAPPED] * 2


def test_an_exception_is_a_recorded_failure(models):
    with PPXSimulator([str(models), "{endpoint}", "throws_late"]) as program:
        traces = prior_traces(program, 10)
    failed = [trace for trace in traces if trace.status is TraceStatus.FAILED]
    assert 0 < len(failed) < 10
    assert {trace.failure for trace in failed} == {"std::domain_error: x is beyond one half"}


def test_a_crash_is_a_recorded_failure(models):
    with PPXSimulator([str(models), "{endpoint}", "dies"]) as program:
        traces = prior_traces(program, 2)
    assert {trace.status for trace in traces} == {TraceStatus.FAILED}


@pytest.mark.statistical
def test_importance_sampling_finds_the_posterior(examples, tmp_path):
    with PPXSimulator([str(examples / "gum")]) as program:
        posterior = ts.inference.importance(program, OBSERVED, tmp_path / "post", num_draws=4000, seed=1)
    error = math.sqrt(1 / 1.2) / math.sqrt(posterior.ess)
    assert posterior.mean("mu") == pytest.approx(7.25, abs=4 * error)
    assert posterior.std("mu") == pytest.approx(math.sqrt(1 / 1.2), rel=0.25)


@pytest.mark.statistical
@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["plain"]], ids=["marked", "plain"])
def test_chains_find_the_posterior_through_a_rejection_loop(examples, tmp_path, arguments):
    with PPXSimulator([str(examples / "gum_marsaglia"), "{endpoint}", *arguments], instances=4) as program:
        posterior = ts.inference.rmh(program, OBSERVED, tmp_path / "post", num_draws=8000, seed=1)
    assert posterior.mean("result") == pytest.approx(7.25, abs=0.3)
