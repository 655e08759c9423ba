"""One or more distributions of every family, with the scipy distribution that each scalar one must agree with."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

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

__all__ = ["CASES", "CONTINUOUS", "DISCRETE", "SCALAR", "VECTOR", "Case", "case_id"]


@dataclass(frozen=True)
class Case:
    """A distribution, its reference if scipy has one, and its text form."""

    id: str
    distribution: Distribution
    reference: Any = None
    repr: str = ""


def case_id(case):
    """Name of a case in the list of tests."""
    return case.id


def truncnorm(loc, scale, low, high):
    return stats.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale)


CONTINUOUS = [
    Case("normal", Normal(1.0, 2.0), stats.norm(1.0, 2.0), "Normal(loc=1.0, scale=2.0)"),
    Case("uniform", Uniform(-1.0, 3.0), stats.uniform(-1.0, 4.0), "Uniform(low=-1.0, high=3.0)"),
    Case("beta", Beta(2.0, 3.5), stats.beta(2.0, 3.5)),
    Case("beta-moved", Beta(0.7, 1.5, -2.0, 5.0), stats.beta(0.7, 1.5, -2.0, 7.0)),
    Case("exponential", Exponential(2.5), stats.expon(scale=0.4), "Exponential(rate=2.5)"),
    Case("gamma", Gamma(3.0, 2.0), stats.gamma(3.0, scale=0.5)),
    Case("gamma-peaked", Gamma(0.6, 0.5), stats.gamma(0.6, scale=2.0)),
    Case("lognormal", LogNormal(0.3, 0.8), stats.lognorm(0.8, scale=math.exp(0.3))),
    Case("weibull", Weibull(2.0, 1.7), stats.weibull_min(1.7, scale=2.0)),
    Case("weibull-peaked", Weibull(2.0, 0.8), stats.weibull_min(0.8, scale=2.0)),
    Case("truncated", TruncatedNormal(0.3, 0.6, -1.0, 2.0), truncnorm(0.3, 0.6, -1.0, 2.0)),
    Case("truncated-above", TruncatedNormal(0.0, 1.0, 1.5, 4.0), truncnorm(0.0, 1.0, 1.5, 4.0)),
    Case("truncated-below", TruncatedNormal(5.0, 2.0, -math.inf, -3.0), truncnorm(5.0, 2.0, -math.inf, -3.0)),
    Case("truncated-tail", TruncatedNormal(0.0, 1.0, 8.0, 12.0), truncnorm(0.0, 1.0, 8.0, 12.0)),
    Case("truncated-wide", TruncatedNormal(0.4, 50.0, 0.0, 1.0), truncnorm(0.4, 50.0, 0.0, 1.0)),
    Case("truncated-half", TruncatedNormal(0.0, 1.0, 0.0, math.inf), stats.halfnorm()),
    Case("vonmises", VonMises(0.0, 2.0), stats.vonmises(2.0)),
    Case("vonmises-turned", VonMises(2.5, 1.5)),
    Case("vonmises-uniform", VonMises(1.0, 0.0), stats.uniform(-math.pi, 2.0 * math.pi)),
    Case("piecewise", PiecewiseUniform([0.0, 1.0, 1.5, 4.0], [2.0, 0.0, 6.0])),
    Case("mixture", Mixture([Normal(-2.0, 0.5), TruncatedNormal(0.0, 1.0, -1.0, 4.0)], [0.3, 0.7])),
    Case("mixture-nested", Mixture([Mixture([Normal(0.0, 1.0), Uniform(0.0, 1.0)], [1, 1]), Normal(3.0, 1.0)], [2, 1])),
]
DISCRETE = [
    Case("categorical", Categorical([0.2, 0.0, 0.5, 0.3]), None, "Categorical(probs=[0.2, 0.0, 0.5, 0.3])"),
    Case("poisson", Poisson(3.7), stats.poisson(3.7), "Poisson(rate=3.7)"),
    Case("poisson-large", Poisson(4e4), stats.poisson(4e4)),
    Case("bernoulli", Bernoulli(0.3), stats.bernoulli(0.3), "Bernoulli(probs=0.3)"),
    Case("binomial", Binomial(12, 0.35), stats.binom(12, 0.35), "Binomial(total_count=12, probs=0.35)"),
    Case("mixture-discrete", Mixture([Categorical([0.1, 0.9]), Poisson(6.0)], [0.4, 0.6])),
]
VECTOR = [
    Case("normal-vector", Normal([0.0, 1.0, -1.0], 2.0), None, "Normal(loc=[ 0.,  1., -1.], scale=2.)"),
    Case("normal-matrix", Normal(np.arange(6.0).reshape(2, 3), [1.0, 2.0, 3.0])),
    Case("uniform-vector", Uniform([0.0, -1.0], [1.0, 4.0])),
    Case("beta-vector", Beta([2.0, 0.5], 1.5, 0.0, [1.0, 3.0])),
    Case("exponential-vector", Exponential([0.5, 2.0])),
    Case("gamma-vector", Gamma([0.5, 9.0], 2.0)),
    Case("lognormal-vector", LogNormal(0.0, [0.5, 1.0])),
    Case("weibull-vector", Weibull([1.0, 2.0], [0.9, 3.0])),
    Case("truncated-vector", TruncatedNormal([0.0, 9.0], 1.0, -1.0, [1.0, 2.0])),
    Case("vonmises-vector", VonMises([0.0, 3.0], [2.0, 30.0])),
    Case("poisson-vector", Poisson([[0.0, 2.0], [20.0, 0.1]])),
    Case("bernoulli-vector", Bernoulli([0.1, 0.9, 1.0])),
    Case("binomial-vector", Binomial([3, 10], [0.0, 0.4])),
    Case("one-element", Normal([1.0], [2.0])),
    Case("no-element", Normal(np.empty(0), 1.0)),
    Case("multivariate", MultivariateNormal([1.0, -1.0], [[1.0, 0.6], [0.6, 2.0]])),
    Case("mixture-vector", Mixture([Normal([0.0, 1.0], 1.0), Uniform([0.0, 0.0], [1.0, 2.0])], [0.5, 0.5])),
]
SCALAR = CONTINUOUS + DISCRETE
CASES = SCALAR + VECTOR
