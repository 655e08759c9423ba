"""Every proposal: the distribution that is drawn from has the log probability of the loss, and the prior's support."""

import math

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from tests.networks.proposal_cases import (
    CASES,
    case_id,
    drawn_from,
    head_of,
    log_priors_of,
    prior_rows,
    random_raw,
    site_of,
    torch_log_prob,
    values_of,
)
from tracestore.networks.heads import num_entries
from tracestore.networks.tables import StackedMLP
from tracestore.traces.distributions import Uniform

EXTREMES = [-1e4, -50.0, 0.0, 50.0, 1e4]


def edge_values(prior):
    """Draws of the prior, and the ends of its support where it can draw them."""
    rng = np.random.default_rng(5)
    draws = [prior.sample(rng) for _ in range(5)]
    ends = [end for end in prior.support if math.isfinite(end) and not prior.shape]
    near = [math.nextafter(end, 0.5 * sum(prior.support)) for end in ends if not prior.is_discrete]
    return draws + [value for value in [*ends, *near] if math.isfinite(prior.log_prob(value))]


@pytest.mark.parametrize("case", CASES, ids=case_id)
class TestEveryForm:
    def test_drawn_distribution_has_the_log_prob_of_the_loss(self, case):
        head = head_of(case.prior, case.config)
        rng = np.random.default_rng(1)
        for raw in random_raw(head, 4):
            distribution = drawn_from(head, raw, case.prior)
            draws = [*edge_values(case.prior), *(distribution.sample(rng) for _ in range(6))]
            expected = [distribution.log_prob(draw) for draw in draws]
            np.testing.assert_allclose(torch_log_prob(head, raw, case.prior, draws), expected, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("spread", [1.0, 50.0])
    def test_draws_stay_in_the_support_and_the_ratio_to_the_prior_is_bounded(self, case, spread):
        head = head_of(case.prior, case.config)
        rng = np.random.default_rng(2)
        bound = math.log(case.config.prior_fraction)
        for raw in random_raw(head, 3, spread):
            distribution = drawn_from(head, raw, case.prior)
            assert distribution.is_discrete == case.prior.is_discrete
            assert distribution.shape == case.prior.shape
            for draw in [distribution.sample(rng) for _ in range(40)]:
                assert case.prior.log_prob(draw) > -math.inf
            for draw in edge_values(case.prior):
                log_prior = case.prior.log_prob(draw)
                assert distribution.log_prob(draw) - log_prior >= bound - 1e-9 - 1e-15 * abs(log_prior)

    @pytest.mark.parametrize("pattern", [*EXTREMES, "mixed"])
    def test_extreme_raw_outputs_give_finite_log_probs_and_gradients(self, case, pattern):
        head = head_of(case.prior, case.config)
        draws = edge_values(case.prior)
        size = (len(draws), len(head.form.output_bias))
        if pattern == "mixed":
            chosen = torch.randint(len(EXTREMES), size, generator=torch.Generator().manual_seed(7))
            raw = torch.tensor(EXTREMES, dtype=torch.float64)[chosen].requires_grad_()
        else:
            raw = torch.full(size, pattern, dtype=torch.float64, requires_grad=True)
        priors = prior_rows(head, case.prior, len(draws))
        proposal = head.shape_proposal(raw, priors)
        log_prior = log_priors_of(draws, case.prior)
        log_q = head.log_prob(proposal, priors, values_of(draws, case.prior), log_prior)
        log_q.sum().backward()
        assert torch.isfinite(log_q).all()
        assert raw.grad is not None
        assert torch.isfinite(raw.grad).all()
        bound = math.log(case.config.prior_fraction) - 1e-9
        assert (log_q - log_prior >= bound - 1e-15 * log_prior.abs()).all()

    def test_log_prob_has_the_right_gradient(self, case):
        head = head_of(case.prior, case.config)
        raw = random_raw(head, 1).requires_grad_()
        # a draw of the proposal: where a difference quotient has digits
        draws = [drawn_from(head, raw[0].detach(), case.prior).sample(np.random.default_rng(6))]

        def log_prob(raw):
            return torch_log_prob(head, raw[0], case.prior, draws)

        assert torch.autograd.gradcheck(log_prob, raw, eps=1e-6, atol=1e-4, rtol=1e-3)

    def test_values_have_places_among_the_embedding_entries(self, case):
        head = head_of(case.prior, case.config)
        rng = np.random.default_rng(4)
        values = values_of([case.prior.sample(rng) for _ in range(20)], case.prior)
        coordinate = head.coordinate(prior_rows(head, case.prior, 20), values)
        entries, rest = divmod(num_entries(site_of(case.prior), head, case.config), head.num_coordinates)
        is_flat = head.num_coordinates == 1 and not case.prior.shape
        assert rest == 0
        assert coordinate.shape == ((20,) if is_flat else (20, head.num_coordinates))
        assert ((coordinate >= 0.0) & (coordinate <= (entries - 1 if head.is_discrete else 1.0))).all()


def test_a_head_applies_its_perceptron_and_keeps_its_weights_small(monkeypatch):
    prior, config = CASES[0].prior, CASES[0].config
    head = head_of(prior, config)
    head.mlp.grow([torch.Generator().manual_seed(3)])
    monkeypatch.setattr(StackedMLP, "forward", lambda self, state, rows: head.form.output_bias.expand(2, -1))
    priors = prior_rows(head, prior, 2)
    found = head(torch.zeros(2, config.core_size), torch.zeros(2, dtype=torch.int64), priors)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, head.shape_proposal(head.form.output_bias.double().expand(2, -1), priors))


@pytest.mark.parametrize(
    "case",
    # the log masses of the largest counts themselves have no digits to compare
    [case for case in CASES if case.prior.is_discrete and "largest" not in case.name],
    ids=case_id,
)
def test_an_untrained_discrete_head_proposes_close_to_the_prior(case):
    head = head_of(case.prior, case.config)
    rng = np.random.default_rng(8)
    draws = [case.prior.sample(rng) for _ in range(200)]
    ratio = torch_log_prob(head, head.form.output_bias.double(), case.prior, draws) - log_priors_of(draws, case.prior)
    assert float(ratio.mean().abs()) < 0.25


@pytest.mark.parametrize("case", [case for case in CASES if not case.prior.is_discrete], ids=case_id)
def test_an_untrained_continuous_head_proposes_where_the_prior_does(case):
    head = head_of(case.prior, case.config)
    rng = np.random.default_rng(8)
    draws = [case.prior.sample(rng) for _ in range(200)]
    ratio = torch_log_prob(head, head.form.output_bias.double(), case.prior, draws) - log_priors_of(draws, case.prior)
    assert float(ratio.mean()) > -1.5


@pytest.mark.parametrize("case", [case for case in CASES if "spline" in case.name or "mix" in case.name], ids=case_id)
def test_an_untrained_spline_is_the_prior(case):
    head = head_of(case.prior, case.config)
    rng = np.random.default_rng(8)
    draws = [case.prior.sample(rng) for _ in range(20)]
    found = torch_log_prob(head, head.form.output_bias.double(), case.prior, draws)
    torch.testing.assert_close(found, log_priors_of(draws, case.prior), rtol=1e-6, atol=1e-6)


def test_a_large_rate_is_proposed_for_beyond_the_number_of_bins():
    case = next(case for case in CASES if case.name == "poisson_large")
    head = head_of(case.prior, case.config)
    raw = head.form.output_bias.double().clone()
    raw[1 + 4] = 30.0  # one bin below the mean
    draws = [drawn_from(head, raw, case.prior).sample(np.random.default_rng(seed)) for seed in range(100)]
    window = np.percentile(draws, [10, 80])
    assert 400.0 < window[0] < window[1] < 480.0
    assert window[1] - window[0] < case.prior.stddev


@pytest.mark.parametrize("case", [case for case in CASES if case.prior.shape == (1,)], ids=case_id)
def test_a_vector_of_one_element_may_come_as_a_number(case):
    head = head_of(case.prior, case.config)
    priors = prior_rows(head, case.prior, 3)
    row, column = torch.arange(3.0).double(), torch.arange(3.0).double().unsqueeze(1)
    proposal = head.shape_proposal(random_raw(head, 3), priors)
    log_prior = torch.zeros(3).double()
    expected = head.log_prob(proposal, priors, column, log_prior)
    torch.testing.assert_close(head.log_prob(proposal, priors, row, log_prior), expected)
    torch.testing.assert_close(head.coordinate(priors, row), head.coordinate(priors, column))


def test_angles_beside_either_end_are_placed_alike():
    case = next(case for case in CASES if case.name == "von_mises")
    head = head_of(case.prior, case.config)
    values = torch.tensor([-math.pi, math.pi, -1.0, 1.0], dtype=torch.float64)
    first, second, third, fourth = head.coordinate(prior_rows(head, case.prior, 4), values)
    torch.testing.assert_close(first, second)
    assert not torch.allclose(third, fourth)


def test_a_uniform_prior_too_narrow_for_bins_is_the_proposal():
    binned = next(case for case in CASES if case.name == "binned")
    prior = Uniform(1.0, 1.0 + 4 * 2.0**-52)
    head = head_of(prior, binned.config)
    raw = random_raw(head, 1)[0]
    distribution = drawn_from(head, raw, prior)
    assert distribution.log_prob(1.0) == pytest.approx(prior.log_prob(1.0))
    assert float(torch_log_prob(head, raw, prior, [1.0])) == pytest.approx(prior.log_prob(1.0))


def test_the_edges_of_bins_are_those_of_the_drawn_distribution():
    binned = next(case for case in CASES if case.name == "binned")
    prior = Uniform(-0.1, 0.7)
    head = head_of(prior, binned.config)
    raw = random_raw(head, 1)[0]
    distribution = drawn_from(head, raw, prior)
    edges = distribution.components[0].edges.tolist()
    draws = [value for edge in edges for value in (edge, math.nextafter(edge, 9.0), math.nextafter(edge, -9.0))]
    draws = [draw for draw in draws if -0.1 <= draw <= 0.7]
    expected = [distribution.log_prob(draw) for draw in draws]
    np.testing.assert_allclose(torch_log_prob(head, raw, prior, draws), expected, rtol=1e-9)


@pytest.mark.parametrize("case", [case for case in CASES if case.name == "multivariate"], ids=case_id)
def test_a_component_can_follow_a_correlation(case):
    head = head_of(case.prior, case.config)
    raw = head.form.output_bias.double().clone()
    raw[0] = 100.0  # one component alone
    raw[-3:] = 10.0
    draws = np.array([drawn_from(head, raw, case.prior).sample(np.random.default_rng(seed)) for seed in range(300)])
    standard = np.linalg.solve(np.linalg.cholesky(case.prior.covariance), (draws - case.prior.mean).T)
    assert np.corrcoef(standard)[0, 1] > 0.8
