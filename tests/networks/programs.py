"""Simulators and batches that the tests of this room share."""

import numpy as np

import tracestore as ts
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.simulators import PriorController, run_trace
from tracestore.traces import TraceBatch

FAMILIES = {
    "uniform": ts.Uniform(-2.0, 6.0),
    "normal": ts.Normal(3.0, 0.5),
    "categorical": ts.Categorical([0.1, 0.2, 0.0, 0.4, 0.3]),
    "categorical_small": ts.Categorical([0.25, 0.75]),
    "bernoulli": ts.Bernoulli(0.3),
    "poisson": ts.Poisson(4.0),
    "poisson_large": ts.Poisson(500.0),
    "binomial": ts.Binomial(10, 0.4),
    "beta": ts.Beta(2.0, 3.0, -1.0, 4.0),
    "exponential": ts.Exponential(0.5),
    "gamma": ts.Gamma(2.5, 3.0),
    "log_normal": ts.LogNormal(0.3, 0.8),
    "weibull": ts.Weibull(2.0, 1.5),
    "truncated_normal": ts.TruncatedNormal(0.0, 1.0, -0.5, 3.0),
    "truncated_half_line": ts.TruncatedNormal(-3.0, 1.0, 0.0, np.inf),
    "von_mises": ts.VonMises(0.0, 2.0),
    "mixture": ts.Mixture([ts.Normal(0.0, 1.0), ts.Normal(4.0, 1.0)], [0.5, 0.5]),
    "normal_vector": ts.Normal([0.0, 1.0], 1.0),
    "uniform_vector": ts.Uniform([0.0, 1.0, 2.0], 3.0),
    "multivariate": ts.MultivariateNormal([0.0, 1.0], [[2.0, 0.5], [0.5, 1.0]]),
}
"""A prior of every family, some in several forms."""

WITHOUT_PROPOSAL = {
    "gamma_mixture": ts.Mixture([ts.Gamma(2.0, 1.0), ts.Gamma(9.0, 1.0)], [0.5, 0.5]),
    "count_mixture": ts.Mixture([ts.Poisson(1.0), ts.Poisson(9.0)], [0.5, 0.5]),
}


@ts.simulator
def every_family():
    """Draw once from every prior."""
    total = 0.0
    for name, prior in {**FAMILIES, **WITHOUT_PROPOSAL}.items():
        total += float(np.sum(ts.sample(prior, name=name, address=name)))
    ts.observe(ts.Normal(total, 1.0), name="total")


@ts.simulator
def mixed():
    """Traces of many types and lengths: a loop, an uncontrolled draw, two observations, more draws than instances."""
    mu = ts.sample(ts.Normal(0.0, 2.0), name="mu")
    ts.sample(ts.Uniform(0.0, 1.0), address="hidden", control=False)
    count = ts.sample(ts.Poisson(2.0), name="count")
    total = mu
    for _ in range(int(count)):
        total += ts.sample(ts.Uniform(-1.0, 1.0 + abs(mu)), address="step")
    if total > 0.0:
        total += ts.sample(ts.Categorical([0.2, 0.3, 0.5]), address="kind")
    ts.observe(ts.Normal(total, 0.5), name="seen")
    ts.observe(ts.Normal(np.full((3,), mu), 1.0), name="vector")


def simulate(simulator, num_traces, seed=1):
    """Return a batch of prior traces."""
    return TraceBatch.from_traces(
        [
            run_trace(simulator, PriorController(), np.random.default_rng([seed, stream]), stream=stream)
            for stream in range(num_traces)
        ]
    )


def tensors(batch):
    """Return a batch as a loader would hand it out."""
    return TensorBatch.from_batch(batch, np.arange(len(batch)))


def observed(batch, row=0):
    """Return one trace's observations."""
    return {name: np.asarray(column[row]) for name, column in batch.observations.items()}
