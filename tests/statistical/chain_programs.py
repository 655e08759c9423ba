"""Programs that are hard on Markov moves: dimension, support, names and scales depend on earlier draws."""

import numpy as np

from tests.inference.providers import RuleProvider
from tracestore.execution.proposing import Previous
from tracestore.inference.chain import Chain
from tracestore.inference.independence import IndependenceSource
from tracestore.inference.rerun import Target
from tracestore.inference.rmh_config import MOVES, RMHConfig
from tracestore.simulators.base import Simulator, simulator
from tracestore.simulators.rejection import rejection
from tracestore.simulators.runtime import observe, sample
from tracestore.traces.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Distribution,
    Exponential,
    Gamma,
    LogNormal,
    Mixture,
    MultivariateNormal,
    Normal,
    PiecewiseUniform,
    Poisson,
    TruncatedNormal,
    Uniform,
    VonMises,
    Weibull,
)
from tracestore.traces.layout import Site

__all__ = ["CONTINUOUS", "FINITE", "MIXTURES", "chain_on"]

MIXTURES = [{name: 1.0} for name in MOVES] + [dict.fromkeys(MOVES, 1.0)]
"""Every move alone, and all together."""


@simulator(reentrant=True)
def detour() -> int:
    """One draw decides which others there are; one address comes under two names."""
    branch = sample(Bernoulli(0.4), name="branch")
    total = branch
    if branch:
        total += sample(Categorical([0.2, 0.3, 0.5]), name="size")
        total += sample(Bernoulli(0.7))
    # unnamed on one path: another role, and another move
    total += sample(Bernoulli(0.3), name="last" if branch else None, address="last")
    observe(Bernoulli(0.15 + 0.2 * min(total, 4)), name="y")
    return total


@simulator(reentrant=True)
def countdown() -> int:
    """A loop whose length and supports depend on what it drew."""
    left, steps = 3, 0
    while left > 0:
        left -= 1 + sample(Binomial(left - 1, 0.4), address="drop") if left > 1 else 1
        steps += sample(Bernoulli(0.5), address="step")
    sample(Bernoulli(0.2), name="idle", control=False)
    observe(Bernoulli(0.2 + 0.2 * steps), name="y")
    return steps


@simulator(reentrant=True)
def shared_address() -> int:
    """One address whose support depends on an earlier draw: its value cannot always be taken over."""
    wide = sample(Bernoulli(0.5), name="wide")
    # a Binomial of the one number of trials does not reach the values of the other
    x = sample(Binomial(3 if wide else 1, 0.5), name="x", address="x")
    observe(Bernoulli(0.2 + 0.2 * x), name="y")
    return x


FINITE = [detour, countdown, shared_address]
"""Programs with a finite number of traces; each observes ``y``."""


@simulator(reentrant=True)
def growing() -> float:
    """A count decides how many draws follow, and the scale of one that is always there."""
    count = sample(Poisson(1.2), name="count")
    base = sample(Normal(0.0, 1.0 + count), name="base")
    total = base
    for step in range(count):
        # the first is named, the others are a block
        total += sample(Normal(0.5, 1.0), name="first" if step == 0 else None)
    observe(Normal(total, 1.0), name="y")
    return base


@simulator(reentrant=True)
def tangled() -> float:
    """Supports and scales follow earlier draws."""
    low = sample(Uniform(-1.0, 0.5), name="low")
    x = sample(Uniform(low, 1.0), name="x")
    rate = sample(Gamma(2.0, 2.0), name="rate")
    y = sample(Exponential(0.2 + rate)) + sample(Weibull(1.5, 1.0)) if x > 0.0 else sample(LogNormal(0.0, 0.5))
    z = sample(TruncatedNormal([0.0, 1.0], 1.0, [low, 0.0], [2.0, np.inf]), name="z")
    observe(Normal(x + y - float(np.sum(z)), 1.0), name="y")
    return x


@simulator(reentrant=True)
def shapes() -> float:
    """Vectors, an angle, mixtures, a histogram, a count and a category."""
    plane = sample(MultivariateNormal([0.0, 1.0], [[1.0, 0.8], [0.8, 1.0]]), name="plane")
    angle = sample(VonMises(2.5, 1.5), name="angle")
    angles = sample(VonMises([0.0, -3.0], [0.5, 2.0]))
    mixed = sample(Mixture([Normal(-1.0, 0.5), Normal(1.0, 1.0)], [0.4, 0.6]), name="mixed")
    level = sample(PiecewiseUniform([0.0, 0.5, 1.0, 3.0], [0.2, 0.5, 0.3]))
    count = sample(Poisson(6.0), name="count")
    kind = sample(Categorical([0.3, 0.3, 0.4]), name="kind")
    share = sample(Beta([2.0, 1.0], [1.0, 3.0]), name="share")
    mean = plane[kind % 2] + np.cos(angle) + np.sin(angles).sum() + mixed + level + 0.2 * count - share.sum()
    observe(Normal(float(mean), 1.0), name="y")
    return float(mean)


@simulator(reentrant=True)
def rejecting() -> float:
    """A rejection loop whose acceptance depends on an earlier draw: every rejected draw counts."""
    level = sample(Uniform(0.2, 1.0), name="level")
    for attempt in rejection():
        x = sample(Beta(2.0, 2.0), address="x")
        if sample(Uniform(0.0, 1.0), address="u") < level * x:
            attempt.accept()
    observe(Normal(x, 0.3), name="y")
    return level


CONTINUOUS = [growing, tangled, shapes, rejecting]
"""Programs with continuous draws; each observes ``y``."""


def crooked(site: Site, prior: Distribution, previous: Previous) -> Distribution | None:
    """Propose something else than the prior, over its whole support, where a rule is easy to write."""
    if prior.family == "Bernoulli":
        return Bernoulli(0.9)
    if prior.family == "Normal" and not prior.shape:
        return Normal(1.0 + (0.1 * float(np.sum(previous)) if previous is not None else 0.0), 0.7)
    if prior.family == "Uniform":
        low, high = prior.support
        return Mixture([prior, Uniform(low, 0.5 * (low + high))], [0.5, 0.5])
    return None


def chain_on(program: Simulator, observed: dict[str, float], moves: dict[str, float], **settings: object) -> Chain:
    """A chain that makes the given moves, of which a network of `crooked` makes some."""
    observations = {name: np.asarray(value, np.float64) for name, value in observed.items()}
    config = RMHConfig(**{"starts_from_ic": False, **settings})  # type: ignore[arg-type]
    mixture = tuple((name, weight / sum(moves.values())) for name, weight in moves.items())
    source = IndependenceSource(
        program, observations, RuleProvider(program, (), crooked), seed=7, defensive=0.5, num_slots=8, max_sites=1000
    )
    return Chain(Target(program, observations, 1000, config, mixture), 0, source)
