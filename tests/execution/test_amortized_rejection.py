"""Amortized rejection loops: unbiased weights for one accepted pass, whatever proposes."""

import math
from collections.abc import Callable

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import SimulatorProtocolError
from tracestore.execution.amortized_rejection import AmortizedController, LoopSettings
from tracestore.simulators import Recorder, Simulator, execute
from tracestore.traces import Site, Trace, TraceStatus
from tracestore.traces.distributions import Distribution

Rule = Callable[[Site, Distribution], Distribution | None]


class Asking:
    """Proposes by a rule; remembers where it was sent back to."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.visits: list[str] = []

    def __call__(self, site: Site, prior: Distribution, previous: object) -> Distribution | None:
        assert (previous is None) == (not self.visits)
        self.visits.append(site.name)
        return self.rule(site, prior)

    def save(self) -> object:
        return list(self.visits)

    def restore(self, saved: object) -> None:
        assert isinstance(saved, list)
        self.visits = list(saved)


def beta() -> float:
    """Beta(2, 2) by rejection, then five successes in five trials: the posterior is Beta(7, 2)."""
    for attempt in ts.rejection():
        x = ts.sample(ts.Uniform(0.0, 1.0), name="x")
        if ts.sample(ts.Uniform(0.0, 1.0), name="height") < 4.0 * x * (1.0 - x):
            attempt.accept()
    ts.observe(ts.Binomial(5, x), 5.0, name="five")
    return float(x)


def framed() -> float:
    """Draws before and after the loop; the loop's acceptance depends on the draw before it."""
    scale = ts.sample(ts.Uniform(0.5, 2.0), name="scale")
    for attempt in ts.rejection():
        x = ts.sample(ts.Normal(0.0, 1.0), name="x")
        if x > scale:
            attempt.accept()
    y = ts.sample(ts.Normal(x, 1.0), name="y")
    ts.observe(ts.Normal(y, 0.5), 3.0, name="seen")
    return float(scale)


def run(program: Callable[[], object], rule: Rule, seed: int, settings: LoopSettings) -> tuple[Trace, Asking]:
    asking = Asking(rule)
    controller = AmortizedController(asking, settings)
    recorder = Recorder(controller, np.random.default_rng(seed), {}, 100_000, make_loop=controller.make_loop)
    trace = execute(Simulator(program), recorder)
    trace.log_proposal = controller.log_proposal
    return trace, asking


def weights(program: Callable[[], object], rule: Rule, count: int, settings: LoopSettings) -> tuple[np.ndarray, ...]:
    traces = [run(program, rule, seed, settings)[0] for seed in range(count)]
    assert all(trace.status is TraceStatus.OK for trace in traces)
    logs = np.array([trace.log_joint - trace.log_proposal for trace in traces])
    return np.exp(logs), np.array([trace.result for trace in traces])


def from_prior(site: Site, prior: Distribution) -> Distribution | None:
    return None


def skewed(site: Site, prior: Distribution) -> Distribution | None:
    return ts.Beta(4.0, 1.5) if site.name == "x" else ts.Beta(1.0, 1.7)


def shifted(site: Site, prior: Distribution) -> Distribution | None:
    return {"x": ts.Normal(2.0, 0.7), "y": ts.Normal(3.0, 0.8), "scale": ts.TruncatedNormal(1.8, 0.6, 0.5, 2.0)}[
        site.name
    ]


def assert_mean(values: np.ndarray, expected: float) -> None:
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - expected) < 4 * error, (values.mean(), expected, error)


@pytest.mark.parametrize("rule", [from_prior, skewed])
@pytest.mark.parametrize(
    "settings",
    [
        LoopSettings(0.1),
        LoopSettings(0.0, 2, 2),
        LoopSettings(1.0, 2, 2),
        LoopSettings(0.3, 4, 1),
        LoopSettings(0.2, 2, 6),
    ],
)
def test_evidence_and_mean_of_the_beta(rule: Rule, settings: LoopSettings) -> None:
    found, result = weights(beta, rule, 4000, settings)
    assert_mean(found, math.exp(-2.233592))
    assert_mean(found * (result - 7 / 9), 0.0)


def test_acceptance_that_depends_on_what_came_before() -> None:
    from scipy import integrate, stats

    def joint(x: float, scale: float) -> float:
        return stats.norm.pdf(x) / stats.norm.sf(scale) * stats.norm.pdf(3.0, x, math.sqrt(1.25)) / 1.5

    def above(moment: int) -> float:
        return float(
            integrate.dblquad(lambda x, s: s**moment * joint(x, s), 0.5, 2.0, lambda s: s, lambda s: s + 12.0)[0]
        )

    evidence = above(0)
    found, result = weights(framed, shifted, 4000, LoopSettings(0.2))
    assert_mean(found, evidence)
    assert_mean(found * (result - above(1) / evidence), 0.0)


def test_a_good_proposal_helps() -> None:
    plain, _ = weights(beta, from_prior, 1500, LoopSettings(0.1, 8, 8))
    guided, _ = weights(beta, skewed, 1500, LoopSettings(0.1, 8, 8))
    assert (guided.std() / guided.mean()) < 0.7 * (plain.std() / plain.mean())


def test_the_trace_holds_the_accepted_pass_alone() -> None:
    trace, asking = run(framed, shifted, 3, LoopSettings(0.1))
    assert [site.name for site in trace.sites if site.kind == 0] == ["scale", "x", "y"]
    assert [site.instance for site in trace.sites] == [1] * len(trace.sites)
    # the session saw the same, as if nothing had been thrown away
    assert asking.visits == ["scale", "x", "y"]


def test_a_loop_in_a_loop_is_refused() -> None:
    def nested() -> None:
        for outer in ts.rejection():
            for inner in ts.rejection():
                ts.sample(ts.Uniform(0.0, 1.0), name="x")
                inner.accept()
            outer.accept()

    with pytest.raises(SimulatorProtocolError, match="inside another one cannot be amortized"):
        run(nested, from_prior, 1, LoopSettings(0.1))


def test_a_loop_that_is_left_by_break_is_refused() -> None:
    def breaks() -> None:
        for _ in ts.rejection():
            if ts.sample(ts.Uniform(0.0, 1.0), name="x") > 0.5:
                break

    with pytest.raises(SimulatorProtocolError, match=r"left by `break`"):
        run(breaks, from_prior, 1, LoopSettings(0.1))


def test_a_run_that_fails_in_a_loop_is_a_failed_trace() -> None:
    def fails() -> None:
        for _ in ts.rejection():
            ts.sample(ts.Uniform(0.0, 1.0), name="x")
            message = "no luck"
            raise ValueError(message)

    trace, _ = run(fails, from_prior, 1, LoopSettings(0.1))
    assert trace.status is TraceStatus.FAILED
    assert trace.failure == "ValueError: no luck"


def test_an_endless_loop_is_capped() -> None:
    def endless() -> None:
        for _ in ts.rejection():
            ts.sample(ts.Uniform(0.0, 1.0), name="x")

    trace, _ = run(endless, from_prior, 1, LoopSettings(0.1))
    assert trace.status is TraceStatus.CAPPED
