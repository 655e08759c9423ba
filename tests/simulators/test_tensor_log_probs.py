"""Log densities in torch against those of the distributions, and their gradients against differences."""

import math

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InvalidInputError
from tracestore.traces.distributions.row_categorical import CategoricalRows
from tracestore.traces.distributions.row_draws import Rows

torch = pytest.importorskip("torch")
tensor_log_probs = pytest.importorskip("tracestore.simulators.tensor_log_probs")

NUM = 6
"""Traces."""


def spread(low, high):
    return np.linspace(low, high, NUM)


ONE = np.ones(NUM)
CASES = {
    "normal": (ts.Normal, (spread(-1.0, 1.0), spread(0.5, 2.0)), spread(-2.0, 3.0)),
    "log_normal": (ts.LogNormal, (spread(-1.0, 1.0), spread(0.5, 2.0)), spread(0.1, 3.0)),
    "exponential": (ts.Exponential, (spread(0.5, 2.0),), spread(0.1, 3.0)),
    "gamma": (ts.Gamma, (spread(0.5, 4.0), spread(0.5, 2.0)), spread(0.1, 3.0)),
    "weibull": (ts.Weibull, (spread(0.5, 2.0), spread(0.7, 4.0)), spread(0.1, 3.0)),
    "uniform": (ts.Uniform, (spread(-2.0, -1.0), spread(1.0, 2.0)), spread(-0.9, 0.9)),
    "beta": (ts.Beta, (spread(0.7, 3.0), spread(2.0, 0.8), spread(-2.0, -1.0), spread(1.0, 2.0)), spread(-0.9, 0.9)),
    "von_mises": (ts.VonMises, (spread(-2.0, 2.0), spread(0.1, 30.0)), spread(-3.0, 3.0)),
    "truncated": (ts.TruncatedNormal, (spread(-1.0, 1.0), spread(0.5, 2.0), -ONE, 2.0 * ONE), spread(-0.9, 1.9)),
    "far_tail": (ts.TruncatedNormal, (spread(-1.0, 1.0), spread(0.2, 0.5), 4.0 * ONE, 6.0 * ONE), spread(4.1, 5.9)),
    "half_open": (ts.TruncatedNormal, (spread(-1.0, 1.0), spread(0.5, 2.0), 0.0, math.inf), spread(0.1, 1.9)),
    "bernoulli": (ts.Bernoulli, (spread(0.1, 0.9),), np.array([0.0, 1.0] * 3)),
    "poisson": (ts.Poisson, (spread(0.1, 9.0),), np.array([0.0, 1.0, 2.0, 5.0, 8.0, 20.0])),
    "binomial": (ts.Binomial, (8.0 * ONE, spread(0.1, 0.9)), np.array([0.0, 1.0, 2.0, 5.0, 7.0, 8.0])),
    "categories": (CategoricalRows, (np.arange(1.0, 1.0 + 3 * NUM).reshape(NUM, 3),), np.array([0.0, 1.0, 2.0] * 2)),
}
DIFFERENTIABLE_VALUES = [name for name in CASES if name not in ("bernoulli", "poisson", "binomial", "categories")]


def scored(family, parameters, values):
    return tensor_log_probs.tensor_log_prob(Rows.of(family(*parameters), len(values)), values)


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_the_distribution(case):
    family, parameters, values = CASES[case]
    found = scored(family, parameters, torch.tensor(values))
    expected = Rows.of(family(*parameters), NUM).log_prob(values)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", CASES)
def test_gradients_by_parameters_are_right(case):
    family, parameters, values = CASES[case]
    free = [index for index, numbers in enumerate(parameters) if np.ndim(numbers)]
    if case == "binomial":
        free = [1]  # a number of tries has no gradient

    def score(*tensors):
        all_parameters = list(parameters)
        for index, tensor in zip(free, tensors, strict=True):
            all_parameters[index] = tensor
        return scored(family, all_parameters, torch.tensor(values))

    tensors = [torch.tensor(parameters[index], requires_grad=True) for index in free]
    assert torch.autograd.gradcheck(score, tensors)


@pytest.mark.parametrize("case", DIFFERENTIABLE_VALUES)
def test_gradients_by_values_are_right(case):
    family, parameters, values = CASES[case]
    assert torch.autograd.gradcheck(lambda x: scored(family, parameters, x), [torch.tensor(values, requires_grad=True)])


@pytest.mark.parametrize("case", [name for name in CASES if name != "normal"])
def test_a_value_outside_of_the_support_is_impossible_and_its_gradient_a_number(case):
    family, parameters, _ = CASES[case]
    outside = {"far_tail": 9.0, "von_mises": 4.0, "truncated": 9.0, "uniform": 9.0, "beta": 9.0}.get(case, -1.0)
    arrays = [np.broadcast_to(numbers, (NUM, *np.shape(numbers)[1:])).copy() for numbers in parameters]
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    scores = scored(family, tensors, torch.full((NUM,), outside, dtype=torch.float64))
    scores.sum().backward()
    assert torch.isneginf(scores).all()
    assert all(torch.isfinite(tensor.grad).all() for tensor in tensors if tensor.grad is not None)


def test_mixtures_add_their_components():
    loc = torch.tensor(spread(-1.0, 1.0), requires_grad=True)
    mixture = ts.Mixture([ts.Normal(loc, 1.0), ts.Normal(2.0, spread(0.5, 1.0))], [0.3, 0.7])
    values = spread(-2.0, 3.0)
    found = tensor_log_probs.tensor_log_prob(Rows.of(mixture, NUM), torch.tensor(values))
    np.testing.assert_allclose(found.detach().numpy(), Rows.of(mixture, NUM).log_prob(values), rtol=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), loc)
    assert (gradient != 0.0).all()


def test_multivariate_draws_share_their_parameters():
    prior = ts.MultivariateNormal([0.0, 1.0], [[1.0, 0.5], [0.5, 2.0]])
    values = np.random.default_rng(1).normal(size=(NUM, 2))
    found = tensor_log_probs.tensor_log_prob(Rows.of(prior, NUM), torch.tensor(values))
    np.testing.assert_allclose(found.numpy(), Rows.of(prior, NUM).log_prob(values), rtol=1e-12)


def test_vectors_are_summed():
    values = np.random.default_rng(1).normal(size=(NUM, 4))
    prior = ts.Normal(spread(-1.0, 1.0)[:, None], np.ones((1, 4)))
    found = tensor_log_probs.tensor_log_prob(Rows.of(prior, NUM), torch.tensor(values))
    np.testing.assert_allclose(found.numpy(), Rows.of(prior, NUM).log_prob(values), rtol=1e-12)


def test_a_family_without_a_density_in_torch_is_refused():
    rows = Rows.of(ts.PiecewiseUniform([0.0, 1.0, 2.0], [0.5, 0.5]), NUM)
    with pytest.raises(InvalidInputError, match=r"PiecewiseUniform.* has no log density in torch"):
        tensor_log_probs.tensor_log_prob(rows, torch.ones(NUM))


def test_a_score_of_ones_own_must_be_one_number_a_trace():
    class Odd(ts.Normal):
        def tensor_log_prob(self, values):
            return values.sum()

    with pytest.raises(InvalidInputError, match=r"`tensor_log_prob` of Odd must return one number a trace"):
        tensor_log_probs.tensor_log_prob(Rows.of(Odd(0.0, 1.0), NUM), torch.ones(NUM))
