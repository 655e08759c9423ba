"""Probability distributions of single draws: numpy and `math` only, immutable, cheap to construct."""

from tracestore.traces.distributions.base import Distribution
from tracestore.traces.distributions.bounded import Beta, Uniform, VonMises
from tracestore.traces.distributions.composite import Mixture, MultivariateNormal
from tracestore.traces.distributions.continuous import Exponential, Gamma, LogNormal, Normal, Weibull
from tracestore.traces.distributions.counts import Bernoulli, Binomial, Poisson
from tracestore.traces.distributions.families import FAMILIES, from_parameters
from tracestore.traces.distributions.truncated import TruncatedNormal
from tracestore.traces.distributions.weighted import Categorical, PiecewiseUniform

__all__ = [
    "FAMILIES",
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "Distribution",
    "Exponential",
    "Gamma",
    "LogNormal",
    "Mixture",
    "MultivariateNormal",
    "Normal",
    "PiecewiseUniform",
    "Poisson",
    "TruncatedNormal",
    "Uniform",
    "VonMises",
    "Weibull",
    "from_parameters",
]
