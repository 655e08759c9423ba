"""Every proposal: the distribution that is drawn from has the log probability of the loss, and the prior's support."""

import math

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

import tracestore as ts
from tests.training.programs import FAMILIES, WITHOUT_PROPOSAL
from tracestore.errors import CheckpointMismatchError
from tracestore.traces import Site, SiteKind
from tracestore.training.config import NETWORKS, NetworkConfig
from tracestore.training.heads import head_key, make_head, num_entries

CONFIG = NetworkConfig(recurrent_size=6, head_size=8, count_bins=16)
CASES = [
    *((name, prior, CONFIG) for name, prior in FAMILIES.items()),
    ("uniform_binned", ts.Uniform(-2.0, 6.0), NetworkConfig(recurrent_size=6, uniform_proposal="binned")),
    ("uniform_paper", ts.Uniform(40.0, 50.0), NETWORKS["paper"]),
    ("categorical_certain", ts.Categorical([0.0, 1.0, 0.0]), CONFIG),
    ("bernoulli_certain", ts.Bernoulli(1.0), CONFIG),
    ("binomial_certain", ts.Binomial(40, 1.0), CONFIG),
    ("poisson_zero", ts.Poisson(0.0), CONFIG),
    ("gamma_steep", ts.Gamma(0.05, 1.0), CONFIG),
    ("truncated_narrow", ts.TruncatedNormal(0.0, 1000.0, 1.0, 2.0), CONFIG),
    ("truncated_tail", ts.TruncatedNormal(0.0, 1.0, 8.0, 9.0), CONFIG),
]


def site_of(prior, name="named"):
    return Site(f"here~{prior.suffix}#1", SiteKind.SAMPLE, True, name, prior.family, prior.shape, prior.num_parameters)


def proposals(prior, config, count=6):
    """A head with arbitrary weights, its parameters for one prior, and the distributions made of them."""
    key = head_key(site_of(prior), config)
    assert key is not None
    head = make_head(key, config)
    generator = torch.Generator().manual_seed(3)
    head.mlp.grow([generator])
    for parameter in head.mlp.parameters():
        parameter.data += 0.5 * torch.randn(parameter.shape, generator=generator)
    parameters = torch.as_tensor(prior.parameters())
    padded = torch.zeros(max(head.prior_width, len(parameters)), dtype=torch.float64)
    padded[: len(parameters)] = parameters
    priors = padded.expand(count, -1)
    state = torch.randn(count, config.recurrent_size, generator=generator)
    proposal = head(state, torch.zeros(count, dtype=torch.int64), priors)
    return head, priors, proposal, [head.distribution(row, prior) for row in proposal.detach().numpy()]


@pytest.mark.parametrize(("name", "prior", "config"), CASES, ids=[name for name, _, _ in CASES])
class TestEveryFamily:
    def test_drawn_distribution_has_the_log_prob_of_the_loss(self, name, prior, config):
        head, priors, proposal, distributions = proposals(prior, config)
        rng = np.random.default_rng(1)
        for draw in [*(prior.sample for _ in range(10)), *(d.sample for d in distributions)]:
            value = float(draw(rng))
            values = torch.full((len(distributions),), value, dtype=torch.float64)
            log_prior = torch.full_like(values, prior.log_prob(value))
            expected = [distribution.log_prob(value) for distribution in distributions]
            found = head.log_prob(proposal, priors, values, log_prior)
            np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5, atol=1e-5)

    def test_draws_stay_in_the_support_and_the_ratio_to_the_prior_is_bounded(self, name, prior, config):
        _, _, _, distributions = proposals(prior, config)
        rng = np.random.default_rng(2)
        bound = math.log(config.prior_fraction) - 1e-9
        for distribution in distributions:
            assert distribution.is_discrete == prior.is_discrete
            for value in [distribution.sample(rng) for _ in range(50)]:
                assert prior.log_prob(value) > -math.inf
            for value in [prior.sample(rng) for _ in range(50)]:
                assert distribution.log_prob(value) - prior.log_prob(value) >= bound

    def test_gradients_are_finite(self, name, prior, config):
        head, priors, proposal, _ = proposals(prior, config)
        value = float(prior.sample(np.random.default_rng(4)))
        values = torch.full((len(priors),), value, dtype=torch.float64)
        head.log_prob(proposal, priors, values, torch.full_like(values, prior.log_prob(value))).sum().backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in head.mlp.parameters())

    def test_values_have_a_place_among_the_embedding_entries(self, name, prior, config):
        head, priors, _, _ = proposals(prior, config)
        values = torch.tensor([float(prior.sample(np.random.default_rng(seed))) for seed in range(len(priors))])
        coordinate = head.coordinate(priors, values.double())
        last = num_entries(site_of(prior), head, config) - 1 if head.is_discrete else 1.0
        assert (coordinate >= 0.0).all()
        assert prior.family in {"Poisson", "Binomial"} or (coordinate <= last).all()


@pytest.mark.parametrize("name", ["uniform", "normal", "beta", "exponential", "gamma", "truncated_half_line"])
def test_continuous_proposals_integrate_to_one(name):
    prior = FAMILIES[name]
    head, priors, proposal, _ = proposals(prior, CONFIG, count=1)
    low, high = prior.support
    center, reach = float(prior.mean), 30.0 * float(prior.stddev)
    low, high = max(low, center - reach), min(high, center + reach)
    # a grid of squares is dense near zero, where positive densities are steep
    edges = low + (high - low) * np.linspace(0.0, 1.0, 400_001) ** 2
    middle = torch.as_tensor(0.5 * (edges[1:] + edges[:-1]))
    log_prior = torch.tensor([prior.log_prob(value) for value in middle.tolist()], dtype=torch.float64)
    count = len(middle)
    log_q = head.log_prob(proposal.expand(count, -1), priors.expand(count, -1), middle, log_prior)
    assert float((log_q.detach().exp() * torch.as_tensor(np.diff(edges))).sum()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", ["categorical", "bernoulli", "poisson", "poisson_large", "binomial"])
def test_discrete_proposals_sum_to_one(name):
    _, _, _, distributions = proposals(FAMILIES[name], CONFIG, count=3)
    for distribution in distributions:
        assert math.fsum(math.exp(distribution.log_prob(count)) for count in range(1000)) == pytest.approx(1.0)


@pytest.mark.parametrize("name", WITHOUT_PROPOSAL)
def test_other_families_have_no_head(name):
    prior = WITHOUT_PROPOSAL[name]
    assert prior.shape or head_key(site_of(prior), CONFIG) is None


def test_raw_uniform_draws_get_bins_and_named_ones_a_mixture():
    prior = ts.Uniform(0.0, 1.0)
    assert head_key(site_of(prior, name=""), CONFIG) == "Uniform_binned"
    assert head_key(site_of(prior, name="px"), CONFIG) == "Uniform"
    assert head_key(site_of(prior, name=""), NetworkConfig(uniform_proposal="truncated_normal")) == "Uniform"


def test_a_head_of_another_release_is_refused():
    with pytest.raises(CheckpointMismatchError, match="'Spline' that this release does not know"):
        make_head("Spline", CONFIG)
