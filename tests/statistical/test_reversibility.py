"""Detailed balance, counted: from exact posterior draws, each move goes from x to y as often as from y to x."""

import math
from collections import Counter
from collections.abc import Hashable, Iterator
from itertools import count, islice

import numpy as np
import pytest
from scipy import stats

from tests.statistical.chain_programs import FINITE, MIXTURES, chain_on
from tracestore.inference.chain import Chain
from tracestore.inference.independence import IndependenceSource, entries_of
from tracestore.simulators.base import Simulator, run_trace
from tracestore.traces.distributions import Bernoulli, Binomial, Categorical, Distribution
from tracestore.traces.layout import Site, SiteKind
from tracestore.traces.trace import Trace

pytestmark = pytest.mark.statistical

NUM_STEPS = 8000


class Script:
    """Gives the draws prescribed values, then the smallest ones; keeps what else was possible."""

    def __init__(self, values: list[int]) -> None:
        self.values = values
        self.options: list[int] = []

    def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[int, float]:
        position = len(self.options)
        if isinstance(prior, Binomial):
            self.options.append(int(prior.total_count) + 1)
        else:
            assert isinstance(prior, Bernoulli | Categorical)
            self.options.append(2 if isinstance(prior, Bernoulli) else len(np.atleast_1d(prior.probs)))
        value = self.values[position] if position < len(self.values) else 0
        return value, prior.log_prob(value)


class Ahead:
    """Proposals for one observation, drawn many at a time: the moves here come one by one."""

    def __init__(self, source: IndependenceSource) -> None:
        self.source = source
        self.log_weight = source.log_weight
        self.proposals = (trace for unit in count() for trace in source.draw_pool(0, unit, 0, 256))

    def draw_pool(self, chain: int, unit: int, first: int, num_traces: int) -> list[Trace]:
        return list(islice(self.proposals, num_traces))


def all_traces(program: Simulator, observations: dict[str, np.ndarray]) -> Iterator[Trace]:
    """Every trace of a finite program, by counting through its draws."""
    values: list[int] = []
    while True:
        script = Script(values)
        yield run_trace(program, script, np.random.default_rng(0), observations=observations)
        values = values + [0] * (len(script.options) - len(values))
        while values and values[-1] + 1 == script.options[len(values) - 1]:
            values.pop()
        if not values:
            return
        values[-1] += 1


def key(trace: Trace) -> Hashable:
    return tuple(
        (site.id, trace.value(position)) for position, site in enumerate(trace.sites) if site.kind is SiteKind.SAMPLE
    )


def step_from(chain: Chain, trace: Trace, rng: np.random.Generator, number: int) -> Trace:
    chain._move_to(trace, entries_of(trace, None), None)
    for _ in chain._steps(rng, 1, number):
        pass
    return chain.trace


def flows(chain: Chain, traces: list[Trace]) -> list[tuple[int, int]]:
    """How often single moves from exact posterior draws went from x to y, and from y to x, for all pairs met."""
    chain.source = Ahead(chain.source)  # type: ignore[arg-type, assignment]
    log_joint = np.array([trace.log_joint for trace in traces])
    probability = np.exp(log_joint - log_joint.max())
    rng = np.random.default_rng(1)
    starts = rng.choice(len(traces), NUM_STEPS, p=probability / probability.sum()).tolist()
    found: Counter[tuple[Hashable, Hashable]] = Counter()
    for number, start in enumerate(starts):
        found[key(traces[start]), key(step_from(chain, traces[start], rng, number))] += 1
    pairs = {frozenset(pair) for pair in found if pair[0] != pair[1]}
    return [(found[a, b], found[b, a]) for a, b in map(tuple, pairs)]


def assert_balanced(both: list[tuple[int, int]]) -> None:
    squares = [(there - back) ** 2 / (there + back) for there, back in both if there + back >= 10]
    assert len(squares) >= 2
    assert stats.chi2.sf(sum(squares), len(squares)) > 0.001


@pytest.mark.parametrize("moves", MIXTURES, ids=lambda moves: "+".join(moves))
@pytest.mark.parametrize("program", FINITE, ids=lambda program: program.__name__)
def test_flows_are_equal(program: Simulator, moves: dict[str, float]) -> None:
    chain = chain_on(program, {"y": 1.0}, moves)
    traces = list(all_traces(program, dict(chain.target.observations)))
    both = flows(chain, traces)
    redraws_nothing = moves.keys() <= {"redraw", "walk_redraw"} and all(site.name for site in traces[0].sites)
    if moves.keys() <= {"walk"} or redraws_nothing:
        assert not both  # nothing continuous to walk, nothing unnamed to draw anew
    else:
        assert_balanced(both)


def test_flows_are_equal_when_a_draw_of_some_traces_is_observed() -> None:
    """Its score is part of the likelihood on one path only."""
    chain = chain_on(FINITE[0], {"y": 1.0, "size": 1.0}, MIXTURES[-1])
    traces = list(all_traces(FINITE[0], dict(chain.target.observations)))
    assert len(traces) == 2 + 2 * 2
    assert_balanced(flows(chain, traces))


def test_all_traces_are_found() -> None:
    traces = list(all_traces(FINITE[0], {"y": np.asarray(1.0)}))
    assert len({key(trace) for trace in traces}) == len(traces) == 2 + 3 * 2 * 2
    assert math.fsum(math.exp(trace.log_prior) for trace in traces) == pytest.approx(1.0)
