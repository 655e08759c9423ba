"""Priors of every kind that has a proposal, with the configuration that chooses it."""

import math
from typing import NamedTuple

import numpy as np
import torch

import tracestore as ts
from tracestore.networks.config import NetworkConfig
from tracestore.networks.heads import head_key, make_head
from tracestore.traces import Site, SiteKind

SMALL = NetworkConfig(core_size=6, head_size=8, mixture_size=3, num_bins=8, count_bins=16)
BINNED = NetworkConfig(core_size=6, head_size=8, num_bins=8, uniform_proposal="binned")
SPLINE = NetworkConfig(core_size=6, head_size=8, num_bins=12, uniform_proposal="spline", continuous_proposal="spline")


class ProposalCase(NamedTuple):
    """A prior and the configuration that it is proposed for with."""

    name: str
    prior: ts.Distribution
    config: NetworkConfig = SMALL


CONTINUOUS = [
    ProposalCase("uniform", ts.Uniform(-2.0, 6.0)),
    ProposalCase("binned", ts.Uniform(-2.0, 6.0), BINNED),
    ProposalCase("normal", ts.Normal(3.0, 0.5)),
    ProposalCase("beta", ts.Beta(2.0, 3.0, -1.0, 4.0)),
    ProposalCase("exponential", ts.Exponential(0.5)),
    ProposalCase("gamma", ts.Gamma(2.5, 3.0)),
    ProposalCase("log_normal", ts.LogNormal(0.3, 0.8)),
    ProposalCase("weibull", ts.Weibull(2.0, 1.5)),
    ProposalCase("truncated", ts.TruncatedNormal(0.0, 1.0, -0.5, 3.0)),
    ProposalCase("truncated_half_line", ts.TruncatedNormal(-3.0, 1.0, 0.0, math.inf)),
    ProposalCase("truncated_narrow", ts.TruncatedNormal(0.0, 1000.0, 1.0, 2.0)),
    ProposalCase("truncated_tail", ts.TruncatedNormal(0.0, 1.0, 8.0, 9.0)),
    ProposalCase("truncated_far_tail", ts.TruncatedNormal(0.0, 1.0, -math.inf, -300.0)),
    ProposalCase("von_mises", ts.VonMises(2.5, 2.0)),
    ProposalCase("von_mises_uniform", ts.VonMises(0.0, 0.0)),
    ProposalCase("von_mises_narrow", ts.VonMises(-3.1, 1e4)),
    ProposalCase("mixture", ts.Mixture([ts.Normal(0.0, 1.0), ts.TruncatedNormal(4.0, 1.0, 3.0, 9.0)], [0.6, 0.4])),
    ProposalCase(
        "mixture_nested",
        ts.Mixture([ts.Mixture([ts.Exponential(1.0), ts.Uniform(1.0, 2.0)], [0.5, 0.5]), ts.Weibull(1.0, 2.0)], [1, 3]),
    ),
    ProposalCase("piecewise", ts.PiecewiseUniform([0.0, 1.0, 1.5, 4.0], [2.0, 0.0, 6.0])),
    ProposalCase("spline_uniform", ts.Uniform(-2.0, 6.0), SPLINE),
    ProposalCase("spline_normal", ts.Normal(3.0, 0.5), SPLINE),
    ProposalCase("spline_exponential", ts.Exponential(0.5), SPLINE),
    ProposalCase("spline_log_normal", ts.LogNormal(0.3, 0.8), SPLINE),
    ProposalCase("spline_weibull", ts.Weibull(2.0, 1.5), SPLINE),
    ProposalCase("spline_truncated", ts.TruncatedNormal(0.0, 1.0, -0.5, 3.0), SPLINE),
    ProposalCase("spline_tail_above", ts.TruncatedNormal(0.0, 1.0, 8.0, 9.0), SPLINE),
    ProposalCase("spline_tail_below", ts.TruncatedNormal(0.0, 1.0, -math.inf, -3.0), SPLINE),
]
DISCRETE = [
    ProposalCase("categorical", ts.Categorical([0.1, 0.2, 0.0, 0.4, 0.3])),
    ProposalCase("categorical_small", ts.Categorical([0.25, 0.75])),
    ProposalCase("categorical_certain", ts.Categorical([0.0, 1.0, 0.0])),
    ProposalCase("categorical_one", ts.Categorical([1.0])),
    ProposalCase("bernoulli", ts.Bernoulli(0.3)),
    ProposalCase("bernoulli_certain", ts.Bernoulli(1.0)),
    ProposalCase("bernoulli_never", ts.Bernoulli(0.0)),
    ProposalCase("bernoulli_rare", ts.Bernoulli(1.0 - 1e-12)),
    ProposalCase("poisson", ts.Poisson(4.0)),
    ProposalCase("poisson_zero", ts.Poisson(0.0)),
    ProposalCase("poisson_large", ts.Poisson(500.0)),
    ProposalCase("binomial", ts.Binomial(10, 0.4)),
    ProposalCase("binomial_large", ts.Binomial(1000, 0.3)),
    ProposalCase("binomial_cut", ts.Binomial(1000, 0.985)),
    ProposalCase("binomial_high", ts.Binomial(1000, 0.999)),
    ProposalCase("binomial_none", ts.Binomial(0, 0.4)),
    ProposalCase("binomial_never", ts.Binomial(40, 0.0)),
    ProposalCase("binomial_certain", ts.Binomial(40, 1.0)),
]
HUGE_COUNTS = [
    ProposalCase("poisson_huge", ts.Poisson(1e12)),
    ProposalCase("poisson_largest", ts.Poisson(2.0**52)),
    ProposalCase("binomial_largest", ts.Binomial(2**53, 0.5)),
]
VECTOR = [
    ProposalCase("normal_vector", ts.Normal([0.0, 5.0], [1.0, 3.0])),
    ProposalCase("normal_matrix", ts.Normal(np.arange(6.0).reshape(2, 3), 0.5)),
    ProposalCase("normal_long", ts.Normal(np.arange(12.0), 2.0)),
    ProposalCase("normal_one", ts.Normal([4.0], 2.0)),
    ProposalCase("multivariate", ts.MultivariateNormal([1.0, -1.0], [[1.0, 1.2], [1.2, 2.0]])),
    ProposalCase("multivariate_three", ts.MultivariateNormal([1.0, -1.0, 0.0], np.diag([1.0, 2.0, 0.1]) + 0.3)),
    ProposalCase("uniform_vector", ts.Uniform([0.0, -1.0], [1.0, 4.0])),
    ProposalCase("binned_vector", ts.Uniform([0.0, -1.0], [1.0, 4.0]), BINNED),
    ProposalCase("spline_vector", ts.Normal([0.0, 5.0], [1.0, 3.0]), SPLINE),
    ProposalCase("exponential_one", ts.Exponential([0.5])),
    ProposalCase("beta_vector", ts.Beta([2.0, 1.5], 1.5, 0.0, [1.0, 3.0])),
    ProposalCase("gamma_vector", ts.Gamma([1.5, 9.0], 2.0)),
    ProposalCase("truncated_vector", ts.TruncatedNormal([0.0, 9.0], 1.0, -1.0, [1.0, 2.0])),
    ProposalCase("von_mises_vector", ts.VonMises([0.0, 3.0], [2.0, 30.0])),
    ProposalCase("bernoulli_vector", ts.Bernoulli([0.1, 0.9, 1.0])),
    ProposalCase("poisson_vector", ts.Poisson([[0.0, 2.0], [20.0, 0.1]])),
    ProposalCase("binomial_vector", ts.Binomial([3, 10], [0.0, 0.4])),
]
CASES = CONTINUOUS + DISCRETE + HUGE_COUNTS + VECTOR


def case_id(case):
    """Name of a case in the list of tests."""
    return case.name


def site_of(prior, name="named"):
    """A site at which a prior is drawn from."""
    return Site(f"here~{prior.suffix}#1", SiteKind.SAMPLE, True, name, prior.family, prior.shape, prior.num_parameters)


def head_of(prior, config=SMALL, name="named"):
    """The head that serves a prior, without rows."""
    key = head_key(site_of(prior, name), config)
    assert key is not None
    return make_head(key, config)


def prior_rows(head, prior, count):
    """The prior's parameters, padded as a batch has them, once a row."""
    parameters = torch.as_tensor(prior.parameters())
    padded = torch.zeros(max(head.prior_width, len(parameters)), dtype=torch.float64)
    padded[: len(parameters)] = parameters
    return padded.expand(count, -1)


def random_raw(head, count, spread=1.0, seed=3):
    """Raw outputs about the initial ones."""
    bias = head.form.output_bias.double()
    noise = torch.randn(count, len(bias), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return bias + spread * noise


def values_of(draws, prior):
    """Draws as a batch has them: flat float64, one row a draw."""
    flat = torch.as_tensor(np.array(draws, np.float64).reshape(len(draws), -1))
    return flat if prior.shape else flat.squeeze(1)


def log_priors_of(draws, prior):
    """Log probability of each draw under the prior."""
    return torch.tensor([prior.log_prob(draw) for draw in draws], dtype=torch.float64)


def torch_log_prob(head, raw_row, prior, draws):
    """Log q of draws, as the loss has it, under the proposal of one row of raw outputs."""
    priors = prior_rows(head, prior, len(draws))
    proposal = head.shape_proposal(raw_row.expand(len(draws), -1), priors)
    return head.log_prob(proposal, priors, values_of(draws, prior), log_priors_of(draws, prior))


def drawn_from(head, raw_row, prior):
    """The distribution that an engine draws from."""
    proposal = head.shape_proposal(raw_row.unsqueeze(0), prior_rows(head, prior, 1))
    return head.distribution(proposal[0].numpy(), prior)
