"""Small simulators whose posteriors are known exactly; used by the guide, the tests and the benchmarks."""

import math

from tracestore.simulators.base import simulator
from tracestore.simulators.runtime import observe, sample
from tracestore.traces.distributions import Bernoulli, Categorical, Normal, Poisson, Uniform

__all__ = ["branching", "geometric", "gum", "gum_marsaglia", "hmm"]


@simulator(reentrant=True)
def gum() -> float:
    """Gaussian with unknown mean: one draw, two observations (Wood et al. 2014)."""
    mu: float = sample(Normal(1.0, math.sqrt(5.0)), name="mu")
    likelihood = Normal(mu, math.sqrt(2.0))
    observe(likelihood, name="obs0")
    observe(likelihood, name="obs1")
    return mu


@simulator(reentrant=True)
def gum_marsaglia() -> float:
    """Gaussian with unknown mean, drawn by Marsaglia's polar method: a rejection loop without a bound."""
    s = 1.0
    while s >= 1.0:
        x: float = sample(Uniform(-1.0, 1.0))
        y: float = sample(Uniform(-1.0, 1.0))
        s = x * x + y * y
    mu = 1.0 + math.sqrt(5.0) * x * math.sqrt(-2.0 * math.log(s) / s)
    likelihood = Normal(mu, math.sqrt(2.0))
    observe(likelihood, name="obs0")
    observe(likelihood, name="obs1")
    return mu


@simulator(reentrant=True)
def branching() -> int:
    """Poisson with data-dependent control flow (Wood et al. 2014)."""
    r: int = sample(Poisson(4.0), name="r")
    rate = 6.0 if r > 4 else 1.0 + _fibonacci(3 * r) + sample(Poisson(4.0), name="extra")
    observe(Poisson(rate), name="obs")
    return r


HMM_INITIAL = (1 / 3, 1 / 3, 1 / 3)
HMM_TRANSITION = ((0.1, 0.5, 0.4), (0.2, 0.2, 0.6), (0.15, 0.15, 0.7))
HMM_MEANS = (-1.0, 1.0, 0.0)
HMM_OBSERVATIONS = (0.9, 0.8, 0.7, 0.0, -0.025, -5.0, -2.0, -0.1, 0.0, 0.13, 0.45, 6.0, 0.2, 0.3, -1.0, -1.0)
"""The sixteen observations of the published example, named ``obs0`` to ``obs15``."""


@simulator(reentrant=True)
def hmm() -> int:
    """Hidden Markov model of three states and sixteen observed steps (Wood et al. 2014)."""
    state: int = sample(Categorical(HMM_INITIAL), name="state0")
    for step in range(len(HMM_OBSERVATIONS)):
        state = sample(Categorical(HMM_TRANSITION[state]), name=f"state{step + 1}")
        observe(Normal(HMM_MEANS[state], 1.0), name=f"obs{step}")
    return state


@simulator(reentrant=True)
def geometric() -> int:
    """Failures before the first success of fair coins, seen with unit Normal noise: unbounded trace types."""
    failures = 0
    while sample(Bernoulli(0.5)) == 0:
        failures += 1
    observe(Normal(float(failures), 1.0), name="obs")
    return failures


def _fibonacci(n: int) -> int:
    """F(0) = F(1) = F(2) = 1."""
    a, b = 1, 1
    for _ in range(n - 1):
        a, b = b, a + b
    return a
