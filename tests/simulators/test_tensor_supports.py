"""Coordinates on the real line: there and back, and their slopes."""

import math

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InvalidInputError

torch = pytest.importorskip("torch")
tensor_supports = pytest.importorskip("tracestore.simulators.tensor_supports")

Z = torch.tensor([-30.0, -2.0, -0.3, 0.0, 1.0, 3.0, 20.0], dtype=torch.float64)
PRIORS = {
    "line": ts.Normal(0.0, 1.0),
    "half_line": ts.Gamma(2.0, 1.0),
    "interval": ts.Uniform(2.0, 5.0),
    "beta": ts.Beta(2.0, 2.0, -1.0, 3.0),
    "upper": ts.TruncatedNormal(0.0, 1.0, -math.inf, 2.0),
    "lower": ts.TruncatedNormal(0.0, 1.0, 1.0, math.inf),
    "all_kinds": ts.TruncatedNormal(
        np.zeros(7), 1.0, [-math.inf, 0.0, 0.0, -math.inf, 1.0, -1.0, -2.0],
        [math.inf, 1.0, math.inf, 4.0, 2.0, math.inf, math.inf],
    ),
    "mixture": ts.Mixture([ts.Uniform(0.0, 1.0), ts.Uniform(0.5, 3.0)], [0.5, 0.5]),
}  # fmt: skip


@pytest.mark.parametrize("name", PRIORS)
def test_values_lie_in_the_support_and_lead_back(name):
    support = tensor_supports.support_of(PRIORS[name])
    values, _ = support.value_at(Z[1:6] if name != "all_kinds" else Z)
    low, high = PRIORS[name].support
    assert ((values >= low) & (values <= high)).all()
    back = support.coordinate_of(values)
    expected = Z[1:6] if name != "all_kinds" else Z
    near = expected.abs() < 10.0
    np.testing.assert_allclose(back[near].numpy(), expected[near].numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PRIORS)
def test_slopes_are_those_of_the_curve(name):
    support = tensor_supports.support_of(PRIORS[name])
    z = Z.clone().requires_grad_()
    values, log_slopes = support.value_at(z)
    (slopes,) = torch.autograd.grad(values.sum(), z, retain_graph=True)
    near = Z.abs() < 10.0  # further out the slope that torch finds has few digits left
    expected = np.log(np.abs(slopes[near].numpy()))
    np.testing.assert_allclose(log_slopes.detach()[near].numpy(), expected, rtol=1e-9, atol=1e-12)
    if log_slopes.requires_grad:
        (gradient,) = torch.autograd.grad(log_slopes.sum(), z)
        assert torch.isfinite(gradient).all()


def test_bounds_have_gradients():
    low = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    support = tensor_supports.support_of(ts.Uniform(low, 3.0))
    values, _ = support.value_at(torch.zeros(2, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(values.sum(), low)
    assert gradient.tolist() == [0.5, 0.5]


def test_angles_are_wrapped():
    support = tensor_supports.support_of(ts.VonMises(0.0, 1.0))
    values, log_slopes = support.value_at(torch.tensor([1.0, 1.0 + 2.0 * math.pi, -4.0], dtype=torch.float64))
    np.testing.assert_allclose(values.numpy(), [1.0, 1.0, 2.0 * math.pi - 4.0])
    assert not log_slopes.any()


@pytest.mark.parametrize("prior", [ts.Poisson(3.0), ts.Categorical([0.5, 0.5])])
def test_whole_numbers_are_refused(prior):
    with pytest.raises(InvalidInputError, match="draws whole numbers, which have no gradient"):
        tensor_supports.support_of(prior)


def test_angles_mixed_with_other_numbers_are_refused():
    with pytest.raises(InvalidInputError, match="mixes angles with other numbers"):
        tensor_supports.support_of(ts.Mixture([ts.VonMises(0.0, 1.0), ts.Normal(6.0, 1.0)], [0.5, 0.5]))


def test_a_mixture_of_angles_is_an_angle():
    mixture = ts.Mixture([ts.VonMises(0.0, 1.0), ts.VonMises(2.0, 1.0)], [0.5, 0.5])
    assert tensor_supports.support_of(mixture).kind == "circle"
