"""Programs and stores that the tests of training share."""

import numpy as np

import tracestore as ts
from tracestore.networks import NetworkConfig
from tracestore.simulators import PriorController, Simulator, run_trace
from tracestore.traces import TraceBatch

TINY = NetworkConfig(
    core_size=12, observation_size=8, address_size=6, instance_size=3, sample_size=4, sample_knots=9,
    head_size=7, mixture_size=3, num_bins=8, count_bins=16, max_instance=3,
)  # fmt: skip


def every_family() -> None:
    """One draw of every family, named or not, in a trace whose path and length vary."""
    n = ts.sample(ts.Poisson(2.0), name="n")
    total = float(n)
    for _ in range(n):
        total += ts.sample(ts.Uniform(-1.0, 2.0))
    total += ts.sample(ts.Normal(total, 2.0), name="x")
    if ts.sample(ts.Bernoulli(0.4)) == 1:
        total += ts.sample(ts.Uniform(0.0, 5.0), name="u")
        total += ts.sample(ts.TruncatedNormal(0.0, 1.0, -1.0, float("inf")))
    else:
        total += ts.sample(ts.Categorical([0.2, 0.5, 0.3])) + ts.sample(ts.Binomial(5, 0.3))
        total += ts.sample(ts.Exponential(2.0)) + ts.sample(ts.Gamma(2.0, 1.0)) + ts.sample(ts.Weibull(1.0, 2.0))
    total += ts.sample(ts.LogNormal(0.0, 0.5)) + ts.sample(ts.Beta(2.0, 3.0)) + ts.sample(ts.VonMises(0.0, 1.0))
    total += float(np.sum(ts.sample(ts.Normal(np.zeros(2), 1.0))))
    total += ts.sample(ts.Normal(0.0, 1.0), control=False)
    ts.observe(ts.Normal(total, 1.0), name="y")
    ts.observe(ts.Normal(np.full(3, total), 1.0), name="v")


def prior_batch(function: object, num_traces: int, seed: int = 1) -> TraceBatch:
    """Prior traces of a program."""
    rng = np.random.default_rng(seed)
    program = Simulator(function)  # type: ignore[arg-type]
    traces = [run_trace(program, PriorController(), rng, stream=stream) for stream in range(num_traces)]
    assert {trace.failure for trace in traces} == {""}
    return TraceBatch.from_traces(traces)
