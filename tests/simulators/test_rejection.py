"""Rejection loops: their draws are marked, all passes are kept, or the rejected ones are forgotten."""

import contextlib

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InferenceError, SimulatorProtocolError
from tracestore.simulators import PriorController, ReplayController, Simulator, run_trace
from tracestore.traces import Site, Trace, TraceStatus
from tracestore.traces.distributions import Distribution


def beta() -> float:
    for attempt in ts.rejection():
        x = ts.sample(ts.Uniform(0.0, 1.0), name="x")
        # a density that is not one, so that scores of rejected passes would show
        if ts.sample(ts.Uniform(0.0, 2.0)) < 4.0 * x * (1.0 - x):
            attempt.accept()
    y: float = ts.sample(ts.Normal(x, 1.0), name="y")
    return y


def marked() -> float:
    with ts.rejection():
        while True:
            x = ts.sample(ts.Uniform(0.0, 1.0), name="x")
            if ts.sample(ts.Uniform(0.0, 2.0)) < 4.0 * x * (1.0 - x):
                break
    y: float = ts.sample(ts.Normal(x, 1.0), name="y")
    return y


def nested() -> None:
    for attempt in ts.rejection():
        ts.sample(ts.Normal(0.0, 1.0), name="outer")
        with ts.rejection():
            ts.sample(ts.Normal(0.0, 1.0), name="inner")
        ts.sample(ts.Normal(0.0, 1.0), name="again")
        attempt.accept()
    ts.sample(ts.Normal(0.0, 1.0), name="after")


def run(function: object, seed: int, **options: object) -> Trace:
    program = Simulator(function)  # type: ignore[arg-type]
    return run_trace(program, PriorController(), np.random.default_rng(seed), **options)  # type: ignore[arg-type]


def passes(trace: Trace) -> int:
    return sum(site.is_rejection for site in trace.sites) // 2


def seed_with_passes(number: int) -> int:
    return next(seed for seed in range(1000) if passes(run(beta, seed)) == number)


@pytest.mark.parametrize("function", [beta, marked])
def test_draws_of_the_loop_are_marked_and_others_are_not(function: object) -> None:
    trace = run(function, seed_with_passes(3))
    assert passes(trace) == 3
    assert all(site.is_rejection == site.address.startswith("[rejection]") for site in trace.sites)
    after = [site for site in trace.sites if site.name == "y"]
    assert len(after) == 1
    assert not after[0].is_rejection


def test_visits_count_up_over_the_passes() -> None:
    trace = run(beta, seed_with_passes(3))
    assert [site.instance for site in trace.sites if site.is_rejection] == [1, 1, 2, 2, 3, 3]


def test_a_loop_in_a_loop_ends_where_it_ends() -> None:
    trace = run(nested, 1)
    assert [site.name for site in trace.sites if site.is_rejection] == ["outer", "inner", "again"]


def test_a_loop_that_is_left_by_break_or_error_is_over() -> None:
    def leaves() -> None:
        for _ in ts.rejection():
            ts.sample(ts.Normal(0.0, 1.0), name="in")
            break
        with contextlib.suppress(ZeroDivisionError), ts.rejection():
            ts.tag(1 / 0)
        ts.sample(ts.Normal(0.0, 1.0), name="out")

    assert [site.is_rejection for site in run(leaves, 1).sites] == [True, False]


class TestCollapsed:
    def test_keeps_the_accepted_pass_alone(self) -> None:
        seed = seed_with_passes(4)
        whole, collapsed = run(beta, seed), run(beta, seed, collapse_rejection=True)
        assert passes(collapsed) == 1
        assert [site.instance for site in collapsed.sites] == [1] * len(collapsed.sites)
        # the program is none the wiser
        assert collapsed.result == whole.result
        assert collapsed["x"] == whole.value(6)
        assert collapsed.log_prior == pytest.approx(whole.log_probs[6:].sum())

    def test_traces_replay(self) -> None:
        trace = run(beta, seed_with_passes(4), collapse_rejection=True)
        again = run_trace(Simulator(beta), ReplayController(trace), np.random.default_rng(0))
        assert again.log_joint == trace.log_joint
        assert again.layout == trace.layout

    def test_forgotten_passes_count_as_length(self) -> None:
        def endless() -> None:
            for _ in ts.rejection():
                ts.sample(ts.Uniform(0.0, 1.0))

        trace = run(endless, 1, collapse_rejection=True, max_sites=50)
        assert trace.status is TraceStatus.CAPPED

    def test_a_loop_that_cannot_be_collapsed_is_refused(self) -> None:
        with pytest.raises(SimulatorProtocolError, match=r"write it as `for attempt in ts\.rejection"):
            run(marked, 1, collapse_rejection=True)


def test_outside_of_a_run_loops_just_loop() -> None:
    assert isinstance(beta(), float)
    assert isinstance(marked(), float)


def test_an_error_of_the_engine_is_not_swallowed_by_the_simulator() -> None:
    class Broken:
        def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[float, float]:
            raise InferenceError("no value")

    def swallows() -> None:
        with contextlib.suppress(Exception):
            ts.sample(ts.Normal(0.0, 1.0))

    with pytest.raises(InferenceError, match="no value"):
        run_trace(Simulator(swallows), Broken(), np.random.default_rng(1))
