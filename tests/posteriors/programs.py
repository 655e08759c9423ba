"""Programs and stores that the tests of posteriors share."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tracestore.simulators.base import PriorController, Simulator, run_trace, simulator
from tracestore.simulators.runtime import observe, sample, tag
from tracestore.store.job import Job
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions import Bernoulli, Normal, Uniform
from tracestore.traces.trace import Trace

ORIGIN = {"simulator": "hand", "fingerprint": "0", "observation": "1"}


@simulator
def mixed() -> float:
    """A draw that only some traces have, a vector, a constant tag."""
    x = sample(Normal(0.0, 1.0), name="x")
    if sample(Bernoulli(0.25), name="extra"):
        x += sample(Normal(0.0, 0.1), name="shift")
    place = sample(Normal(np.zeros(2), np.ones(2)), name="place")
    tag(place + x, name="moved")
    tag(3.0, name="three")
    observe(Normal(x, 1.0), name="y")
    return x


@simulator
def windows() -> float:
    """An observation that most draws exclude, and one that none does."""
    x = sample(Uniform(0.0, 4.0), name="x")
    observe(Uniform(x, x + 1.0), name="seen")
    observe(Normal(x, 1.0), name="y")
    return x


@simulator
def pixels() -> float:
    """A likelihood too large to be kept in traces."""
    level = sample(Normal(0.0, 1.0), name="level")
    observe(Normal(np.full(40, level), np.ones(40)), name="image")
    return level


def conditioned(
    program: Simulator, observations: Mapping[str, float | np.ndarray], num_traces: int, *, seed: int = 1
) -> list[Trace]:
    """Draws of the prior with their likelihood as weight."""
    given = {name: np.asarray(value, np.float64) for name, value in observations.items()}
    traces = []
    for draw in range(num_traces):
        rng = np.random.default_rng([seed, draw])
        trace = run_trace(program, PriorController(), rng, observations=given, stream=draw)
        trace.draw, trace.log_weight = draw, trace.log_likelihood
        traces.append(trace)
    return traces


def write(path: Path, traces: Sequence[Trace], *, states: Sequence[object] = (), **fields: object) -> TraceStore:
    """A store as an engine writes it."""
    store = TraceStore.create(path, job=Job("infer", {**ORIGIN, **fields}))
    if traces:
        store.append(TraceBatch.from_traces(traces), work=[0])
    for number, state in enumerate(states, 1):
        with store.writer() as writer:
            writer.append(TraceBatch.from_traces(traces).take([]), work=[number], state=state)
    return store


def write_many(
    path: Path, program: Simulator, observations: Sequence[Mapping[str, float]], num_draws: int
) -> TraceStore:
    """A store of many observations, draws shuffled as workers would leave them."""
    traces = []
    for number, given in enumerate(observations):
        for trace in conditioned(program, given, num_draws, seed=number):
            trace.chain = number
            trace.stream = number * num_draws + trace.draw
            traces.append(trace)
    order = np.random.default_rng(0).permutation(len(traces))
    return write(
        path, [traces[place] for place in order], engine="ic", num_observations=len(observations), num_draws=num_draws
    )
