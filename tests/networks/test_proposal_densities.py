"""Densities of proposals integrate to one, and what is drawn follows them."""

import math

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from scipy import stats

from tests.networks.proposal_cases import (
    CONTINUOUS,
    DISCRETE,
    VECTOR,
    case_id,
    drawn_from,
    head_of,
    prior_rows,
    random_raw,
    torch_log_prob,
)
from tracestore.traces.distributions import MultivariateNormal, from_parameters

NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)


def steps_of(distribution):
    """Places where a density jumps."""
    places = set(getattr(distribution, "edges", ()))
    places |= {end for end in distribution.support if math.isfinite(end)}
    for part in [*getattr(distribution, "components", ()), *getattr(distribution, "_elements", ())]:
        places |= steps_of(part)
    return places


def partition(draws, prior, distribution):
    """Intervals in each of which the density is smooth: between draws, then in growing steps out to the support."""
    low, high = prior.support
    marks = np.unique(draws)[:: max(len(draws) // 300, 1)]
    reach = 0.01 * (marks[-1] - marks[0]) * 2.0 ** np.arange(14)
    marks = np.concatenate([marks, marks[0] - reach, marks[-1] + reach, [*steps_of(distribution)]])
    return np.unique(np.clip(marks, low, high))


def masses(head, raw, prior, marks):
    """Integral of the loss's density over each interval."""
    centers, halves = 0.5 * (marks[1:] + marks[:-1]), 0.5 * np.diff(marks)
    points = centers[:, None] + halves[:, None] * NODES
    density = np.exp(torch_log_prob(head, raw, prior, points.ravel().tolist()).numpy()).reshape(points.shape)
    return halves * (density * WEIGHTS).sum(axis=1)


@pytest.mark.parametrize("case", CONTINUOUS, ids=case_id)
@pytest.mark.parametrize("seed", [3, 4])
def test_density_integrates_to_one_and_draws_follow_it(case, seed):
    head = head_of(case.prior, case.config)
    raw = random_raw(head, 1, seed=seed)[0]
    distribution = drawn_from(head, raw, case.prior)
    rng = np.random.default_rng([seed, 1])
    marks = partition([distribution.sample(rng) for _ in range(6000)], case.prior, distribution)
    mass = masses(head, raw, case.prior, marks)
    assert mass.sum() == pytest.approx(1.0, abs=1e-5)
    draws = np.sort([distribution.sample(rng) for _ in range(6000)])
    # the Kolmogorov-Smirnov statistic at the marks; below its 0.1 % point
    found = np.searchsorted(draws, marks[1:], side="right") / len(draws)
    assert np.abs(found - np.cumsum(mass)).max() < 1.95 / math.sqrt(len(draws))


@pytest.mark.parametrize("case", DISCRETE, ids=case_id)
def test_mass_sums_to_one_and_draws_follow_it(case):
    head = head_of(case.prior, case.config)
    raw = random_raw(head, 1)[0]
    distribution = drawn_from(head, raw, case.prior)
    low, high = case.prior.support
    values = np.arange(low, min(high, case.prior.mean + 20.0 * case.prior.stddev + 20.0) + 1.0)
    mass = np.exp(torch_log_prob(head, raw, case.prior, values.tolist()).numpy())
    assert mass.sum() == pytest.approx(1.0, abs=1e-9)
    rng = np.random.default_rng(9)
    draws = [distribution.sample(rng) for _ in range(4000)]
    counts = np.bincount(draws, minlength=len(values))
    is_common = 4000 * mass > 5.0
    expected = np.append(4000 * mass[is_common], 4000 * mass[~is_common].sum())
    found = np.append(counts[is_common], counts[~is_common].sum())
    statistic = ((found - expected) ** 2 / np.maximum(expected, 1.0)).sum()
    assert statistic < stats.chi2.ppf(0.999, len(expected))


def grid_along(draws, prior, distribution, num_nodes=8):
    """Marks that follow draws of one element, and the nodes and weights of a quadrature between them."""
    reach = 0.5 * (draws.max() - draws.min())
    low, high = np.clip([draws.min() - reach, draws.max() + reach], *prior.support)
    inner = [mark for mark in steps_of(distribution) if low < mark < high]
    marks = np.unique([low, *np.sort(draws)[:: len(draws) // 14], draws.max(), *inner, *np.linspace(low, high, 25)])
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    halves = 0.5 * np.diff(marks)[:, None]
    return marks, (0.5 * (marks[1:] + marks[:-1])[:, None] + halves * nodes).ravel(), (halves * weights).ravel()


def grid_log_prior(prior, nodes0, nodes1, grid):
    """Log density of the prior on a grid; element by element where elements are independent."""
    if isinstance(prior, MultivariateNormal):
        return torch.tensor([prior.log_prob(point) for point in grid], dtype=torch.float64)
    elements = [from_parameters(prior.family, row) for row in prior.parameters().reshape(-1, 2).T]
    columns = [
        torch.tensor([element.log_prob(x) for x in nodes.tolist()], dtype=torch.float64)
        for element, nodes in zip(elements, (nodes0, nodes1), strict=True)
    ]
    return (columns[0][:, None] + columns[1]).ravel()


@pytest.mark.parametrize(
    "case", [case for case in VECTOR if case.prior.shape == (2,) and not case.prior.is_discrete], ids=case_id
)
def test_vector_densities_integrate_to_one_and_draws_follow_them(case):
    head = head_of(case.prior, case.config)
    raw = random_raw(head, 1, spread=0.5)[0]
    distribution = drawn_from(head, raw, case.prior)
    rng = np.random.default_rng(10)
    draws = np.array([distribution.sample(rng) for _ in range(4000)])
    (marks0, nodes0, weights0), (marks1, nodes1, weights1) = (
        grid_along(draws[:, axis], case.prior, distribution) for axis in range(2)
    )
    grid = np.stack(np.meshgrid(nodes0, nodes1, indexing="ij"), axis=-1).reshape(-1, 2)
    log_prior = grid_log_prior(case.prior, nodes0, nodes1, grid)
    priors = prior_rows(head, case.prior, len(grid))
    proposal = head.shape_proposal(raw.expand(len(grid), -1), priors)
    density = np.exp(head.log_prob(proposal, priors, torch.as_tensor(grid), log_prior).numpy())
    density[np.isneginf(log_prior.numpy())] = 0.0  # elements have supports of their own
    mass = density.reshape(len(nodes0), -1) * weights0[:, None] * weights1
    cells = mass.reshape(len(marks0) - 1, 8, len(marks1) - 1, 8).sum(axis=(1, 3))
    assert cells.sum() == pytest.approx(1.0, abs=2e-3)
    draws = np.array([distribution.sample(rng) for _ in range(4000)])
    found = np.histogram2d(draws[:, 0], draws[:, 1], bins=[marks0, marks1])[0]
    deviations = (found - 4000 * cells) ** 2 / np.maximum(4000 * cells, 1.0)
    assert deviations.sum() < stats.chi2.ppf(0.9999, cells.size)


@pytest.mark.parametrize("case", [case for case in VECTOR if case.prior.is_discrete], ids=case_id)
def test_draws_of_discrete_vectors_follow_their_mass(case):
    head = head_of(case.prior, case.config)
    raw = random_raw(head, 1, spread=0.5)[0]
    distribution = drawn_from(head, raw, case.prior)
    rng = np.random.default_rng(11)
    draws = [distribution.sample(rng) for _ in range(3000)]
    keys, counts = np.unique(np.array([draw.ravel() for draw in draws]), axis=0, return_counts=True)
    common = counts >= 20
    values = list(keys[common].reshape(-1, *case.prior.shape))
    mass = np.exp(torch_log_prob(head, raw, case.prior, values).numpy())
    spread = np.sqrt(3000 * mass * (1.0 - mass))
    assert (np.abs(counts[common] - 3000 * mass) < 4.5 * spread + 1.0).all()
    assert mass.sum() < 1.0 + 1e-9
