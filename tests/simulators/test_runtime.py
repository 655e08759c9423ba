"""Recording: what `sample`, `observe` and `tag` leave behind in a trace."""

import threading
from typing import Any

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InvalidInputError
from tracestore.simulators import PriorController, ReplayController, Simulator, as_simulator, run_trace, toys
from tracestore.traces import SiteKind, Trace, TraceStatus


def run(function: object, seed: int = 1, **options: object) -> Trace:
    return run_trace(as_simulator(function), PriorController(), np.random.default_rng(seed), **options)  # type: ignore[arg-type]


def test_outside_a_run_the_functions_just_work() -> None:
    assert isinstance(ts.sample(ts.Normal(0.0, 1.0), name="x"), float)
    assert ts.observe(ts.Normal(0.0, 1.0), 3.0, name="y") == 3.0
    assert isinstance(ts.observe(ts.Normal(0.0, 1.0), name="y"), float)
    ts.tag(1.0, name="t")
    assert isinstance(toys.gum(), float)


def test_scores_add_up_by_kind() -> None:
    trace = run(toys.gum)
    mu, y0, y1 = trace["mu"], trace["obs0"], trace["obs1"]
    assert trace.log_prior == ts.Normal(1.0, 5**0.5).log_prob(mu)
    assert trace.log_likelihood == ts.Normal(mu, 2**0.5).log_prob(y0) + ts.Normal(mu, 2**0.5).log_prob(y1)
    assert trace.log_probs.sum() == pytest.approx(trace.log_joint)
    np.testing.assert_allclose(trace.parameters, np.array([1.0, 5**0.5, mu, 2**0.5, mu, 2**0.5]))


def test_the_same_stream_gives_the_same_trace() -> None:
    assert run(toys.gum, 5)["mu"] == run(toys.gum, 5)["mu"] != run(toys.gum, 6)["mu"]


def test_an_observation_comes_from_the_engine_then_the_argument_then_the_likelihood() -> None:
    def program() -> None:
        ts.observe(ts.Normal(0.0, 1.0), 5.0, name="y")
        ts.observe(ts.Normal(0.0, 1.0), 6.0)

    assert run(program)["y"] == 5.0
    conditioned = run(program, observations={"y": np.array(7.0)})
    assert conditioned["y"] == 7.0
    assert conditioned.value(1) == 6.0


def test_a_missing_observation_is_the_callers_fault_even_when_swallowed() -> None:
    def program() -> None:
        try:
            ts.observe(ts.Normal(0.0, 1.0), name="y")
        except ValueError:
            raise RuntimeError("wrapped") from None

    with pytest.raises(InvalidInputError, match="observes 'y' but no value was given"):
        run(program, observations={"z": np.array(1.0)})


def test_a_named_draw_can_be_conditioned_on() -> None:
    trace = run(toys.gum, observations={"mu": np.array(2.0), "obs0": np.array(8.0), "obs1": np.array(9.0)})
    assert trace.sites[0].kind is SiteKind.OBSERVE
    assert trace.log_prior == 0.0
    assert trace["mu"] == 2.0 == trace.result


def test_names_of_observes_are_unique_within_a_trace() -> None:
    def program() -> None:
        for _ in range(2):
            ts.observe(ts.Normal(0.0, 1.0), name="y")

    trace = run(program)
    assert trace.status is TraceStatus.FAILED
    assert "'y' is used twice" in trace.failure


def test_a_raising_simulator_leaves_a_failed_trace_with_what_it_reached() -> None:
    def program() -> None:
        ts.sample(ts.Normal(0.0, 1.0), name="x")
        raise ZeroDivisionError("no")

    trace = run(program)
    assert (trace.status, trace.failure, len(trace)) == (TraceStatus.FAILED, "ZeroDivisionError: no", 1)


def test_a_capped_trace_is_recorded_even_when_the_simulator_catches_everything() -> None:
    def program() -> None:
        while True:
            try:
                ts.sample(ts.Normal(0.0, 1.0))
            except Exception:  # noqa: BLE001  # what careless programs do
                continue

    trace = run(program, max_sites=10)
    assert (trace.status, len(trace)) == (TraceStatus.CAPPED, 10)


def test_a_nan_likelihood_is_a_failure_that_names_the_place() -> None:
    class Broken(ts.Normal):
        __slots__ = ()

        def log_prob(self, value: object) -> float:
            return float("nan")

    trace = run(lambda: ts.observe(Broken(0.0, 1.0), 1.0, name="y", address="here"))
    assert trace.status is TraceStatus.FAILED
    assert "'here~Normal#1' is NaN" in trace.failure


def test_vectors_discrete_values_and_tags_keep_their_shape() -> None:
    def program() -> np.ndarray:
        v = ts.sample(ts.Normal(np.zeros(3), 1.0), name="v")
        n = ts.sample(ts.Poisson(4.0), name="n")
        ts.tag(np.arange(4).reshape(2, 2), name="t")
        assert isinstance(n, int)
        return v

    trace = run(program)
    assert trace.failure == ""
    assert trace["v"].shape == (3,)
    assert trace["t"].tolist() == [[0, 1], [2, 3]]
    np.testing.assert_array_equal(trace.result, trace["v"])
    assert trace.sites[0].base.endswith("~Normal[3]")


def test_a_float32_observation_is_scored_as_it_is_stored() -> None:
    trace = run(lambda: ts.observe(ts.Normal(np.zeros((2, 3)), 1.0), name="image", dtype=np.float32))
    assert trace.observations["image"].dtype == np.float32
    assert trace.log_likelihood == pytest.approx(ts.Normal(np.zeros((2, 3)), 1.0).log_prob(trace["image"]))


def test_big_likelihoods_are_not_stored_at_the_site() -> None:
    def program() -> None:
        ts.observe(ts.Normal(np.zeros(1000), 1.0), name="image")

    trace = run(program)
    assert (len(trace.parameters), len(trace.values)) == (0, 0)


@pytest.mark.parametrize("value", ["text", None, {"a": 1}])
def test_tags_are_numbers(value: Any) -> None:
    trace = run(lambda: ts.tag(value, name="t"))
    assert "'t'" in trace.failure
    assert "number" in trace.failure


def test_a_simulators_own_result_tag_wins() -> None:
    def program() -> float:
        ts.tag(1.0, name="result")
        return 2.0

    assert run(program).result == 1.0


def test_draws_of_worker_threads_belong_to_the_trace() -> None:
    def program() -> None:
        thread = threading.Thread(target=lambda: ts.sample(ts.Normal(0.0, 1.0), name="x"))
        thread.start()
        thread.join()

    assert "x" in run(program)


def test_replay_reproduces_a_trace_exactly() -> None:
    for program in (toys.gum_marsaglia, toys.branching, toys.hmm, toys.geometric):
        first = run(program, 3)
        again = run_trace(program, ReplayController(first), np.random.default_rng(99), observations=first.observations)
        assert again.layout == first.layout
        np.testing.assert_array_equal(again.values, first.values)
        np.testing.assert_array_equal(again.log_probs, first.log_probs)


def test_runs_nest_and_clean_up() -> None:
    def outer() -> float:
        inner = run(toys.gum)
        return ts.sample(ts.Normal(float(inner["mu"]), 1.0), name="x")

    trace = run(outer)
    assert [site.name for site in trace.sites] == ["x", "result"]
    ts.tag(1.0)  # no run is left behind


def test_simulators_name_themselves() -> None:
    assert toys.gum.name == "tracestore.simulators.toys:gum"
    assert as_simulator(toys.gum) is toys.gum
    assert isinstance(as_simulator(lambda: None), Simulator)
    with pytest.raises(InvalidInputError, match="function"):
        as_simulator(3)


def test_the_fingerprint_follows_the_code_not_its_layout() -> None:
    def first() -> None:
        ts.sample(ts.Normal(0.0, 1.0))

    one = Simulator(first).fingerprint

    def first() -> None:  # type: ignore[no-redef]
        # a comment
        ts.sample(ts.Normal(0.0, 1.0))

    two = Simulator(first).fingerprint

    def first() -> None:  # type: ignore[no-redef]
        ts.sample(ts.Normal(0.0, 2.0))

    assert one == two != Simulator(first).fingerprint


def test_infinities_of_both_signs_fail_the_trace_and_name_the_site() -> None:
    class Certain(ts.Normal):
        def log_prob(self, x: object) -> float:
            return float("inf")

    def contradictory() -> None:
        ts.sample(Certain(0.0, 1.0), name="x", address="here")
        ts.observe(ts.Uniform(0.0, 1.0), 5.0, name="y")

    trace = run(contradictory)
    assert trace.status is TraceStatus.FAILED
    assert "infinities of both signs, the first at 'here~Normal#1'" in trace.failure
