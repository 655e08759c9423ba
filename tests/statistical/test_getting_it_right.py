"""Joint distribution tests of the chains (Geweke 2004, "Getting it right").

From a draw of the prior and data simulated from it, moves and new data alternate: if every move leaves the posterior of
the data at hand invariant, what comes out has the distribution of the prior, whatever the program.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tests.inference.providers import RuleProvider
from tests.statistical.chain_programs import CONTINUOUS, MIXTURES, chain_on, crooked
from tracestore.inference.chain import Chain
from tracestore.inference.independence import IndependenceSource, entries_of
from tracestore.simulators.base import PriorController, ReplayController, Simulator, run_trace
from tracestore.traces.trace import Trace

pytestmark = pytest.mark.statistical

NUM_RUNS = 400
NUM_STEPS = 5

FEATURES: dict[str, dict[str, Callable[[Trace], float]]] = {
    "growing": {
        "base": lambda trace: float(trace["base"]),
        "length": lambda trace: float(trace["count"]),
        "data": lambda trace: float(trace["y"]) - float(trace["base"]),
    },
    "tangled": {
        "x": lambda trace: float(trace["x"]),
        "rate": lambda trace: float(trace["rate"]),
        "z": lambda trace: float(np.ravel(trace["z"])[0]),
        "data": lambda trace: float(trace["y"]) * float(trace["x"]),
    },
    "shapes": {
        "mean": lambda trace: float(trace["result"]),
        "plane": lambda trace: float(np.prod(trace["plane"])),
        "angle": lambda trace: float(np.cos(trace["angle"])),
        "count": lambda trace: float(trace["count"]),
        "share": lambda trace: float(np.ravel(trace["share"])[1]),
    },
    "rejecting": {
        "level": lambda trace: float(trace["level"]),
        "length": len,
        "data": lambda trace: float(trace["y"]),
    },
}


def drawn(program: Simulator, rng: np.random.Generator) -> Trace:
    """Draws and data from the joint distribution."""
    return run_trace(program, PriorController(), rng)


def stand(chain: Chain, trace: Trace) -> None:
    """Put a chain at a trace, with its data as the observation."""
    chain.target = replace(chain.target, observations=trace.observations)
    chain._move_to(trace, entries_of(trace, None), None)


def new_data(chain: Chain, rng: np.random.Generator) -> Trace:
    """The draws of the chain with other data."""
    return run_trace(chain.target.program, ReplayController(chain.trace), rng)


def same_draws(ours: Trace, theirs: Trace) -> bool:
    mine, other = (
        np.concatenate([np.ravel(entry.value) for entry in entries_of(trace, None).values()])
        for trace in (ours, theirs)
    )
    return np.array_equal(mine, other)


@pytest.mark.parametrize("moves", MIXTURES, ids=lambda moves: "+".join(moves))
@pytest.mark.parametrize("program", CONTINUOUS, ids=lambda program: program.__name__)
def test_moves_and_data_keep_the_joint_distribution(program: Simulator, moves: dict[str, float]) -> None:
    rng = np.random.default_rng(1)
    chain = chain_on(program, {"y": 0.0}, moves, joint_scale=0.6)
    network = RuleProvider(program, (), crooked)
    stand(chain, drawn(program, rng))
    chain.scales.learn(chain.trace, chain.entries)  # what this trace lacks has no step
    before, after = [], []
    for run in range(NUM_RUNS):
        stand(chain, drawn(program, rng))
        before.append(chain.trace)
        for step in range(NUM_STEPS):
            chain.source = IndependenceSource(
                program, chain.target.observations, network, seed=run, defensive=0.5, num_slots=4, max_sites=1000
            )
            for _ in chain._steps(rng, 1, step):
                pass
            stand(chain, new_data(chain, rng))
        after.append(chain.trace)
    fresh = [drawn(program, rng) for _ in range(5 * NUM_RUNS)]
    found = {
        name: stats.ks_2samp([feature(trace) for trace in after], [feature(trace) for trace in fresh]).pvalue
        for name, feature in FEATURES[program.__name__].items()
    }
    assert min(found.values()) > 0.001, found
    has_moved = [not same_draws(ours, theirs) for ours, theirs in zip(before, after, strict=True)]
    assert np.mean(has_moved) > 0.15
