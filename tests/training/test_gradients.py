import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from tracestore.training.gradients import (
    BLOCK,
    clip_gradients,
    coalesce_gradient,
    drop_gradients,
    gradient_norm,
    scale_gradients,
    touched_rows,
)


def looked_up(rows, num_rows=5, width=3):
    table = nn.Embedding(num_rows, width, sparse=True)
    values = torch.randn(len(rows), width, generator=torch.Generator().manual_seed(1))
    (table(torch.tensor(rows)) * values).sum().backward()
    return table.weight


def parameter_with(gradient):
    parameter = nn.Parameter(torch.zeros_like(gradient))
    parameter.grad = gradient
    return parameter


@pytest.mark.parametrize("rows", [[0, 2, 4], [4, 0, 2], [3, 1, 3, 3]], ids=["in order", "unordered", "repeated"])
def test_touched_rows_are_those_of_the_dense_gradient(rows):
    weight = looked_up(rows)
    dense = weight.grad.to_dense()
    found, gradients = touched_rows(weight)
    assert found.tolist() == sorted(set(rows))
    torch.testing.assert_close(gradients, dense[found])
    torch.testing.assert_close(weight.grad.to_dense(), dense)


def test_rows_in_order_are_not_copied():
    weight = looked_up([0, 2, 4])
    before = weight.grad._values().data_ptr()
    assert coalesce_gradient(weight).values().data_ptr() == before


def test_the_norm_is_that_of_the_dense_gradients():
    weight, other = looked_up([1, 3, 1, 1]), parameter_with(torch.tensor([[2.0], [-5.0]]))
    expected = torch.cat([weight.grad.to_dense().flatten(), other.grad.flatten()]).double().norm()
    found = gradient_norm([weight, nn.Parameter(torch.zeros(3)), other])
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert weight.grad.is_sparse


@pytest.mark.parametrize("size", [BLOCK, BLOCK + 1, 40 * BLOCK, 40 * BLOCK + 7])
def test_the_norm_of_a_long_gradient_is_exact_to_six_digits(size):
    gradient = torch.randn(size, generator=torch.Generator().manual_seed(2)) + 3.0
    expected = gradient.double().norm().item()
    assert gradient_norm([parameter_with(gradient)]).item() == pytest.approx(expected, rel=1e-6)


def test_many_small_contributions_are_not_lost_beside_a_large_one():
    # in float32 throughout, 1e8 + 1 + 1 + ... stays 1e8
    gradient = torch.ones(300 * BLOCK)
    gradient[0] = 1e4
    expected = gradient.double().norm().item()
    assert gradient_norm([parameter_with(gradient)]).item() == pytest.approx(expected, rel=1e-5)


def test_without_gradients_the_norm_is_zero():
    assert gradient_norm([nn.Parameter(torch.ones(2))]).item() == 0.0


def test_scaling_multiplies_dense_and_sparse_gradients():
    weight, other = looked_up([1, 3, 1]), parameter_with(torch.tensor([2.0, 4.0]))
    dense = weight.grad.to_dense()
    scale_gradients([weight, nn.Parameter(torch.zeros(3)), other], 0.5)
    assert torch.equal(weight.grad.to_dense(), 0.5 * dense)
    assert other.grad.tolist() == [1.0, 2.0]
    assert weight.grad.is_sparse


def test_tables_whose_gradients_share_memory_are_scaled_once_each():
    # a sum hands the same gradient to both lookups, and sparse gradients keep it without a copy
    first, second = nn.Embedding(3, 2, sparse=True), nn.Embedding(3, 2, sparse=True)
    rows = torch.tensor([0, 2])
    ((first(rows) + second(rows)) * 2.0).sum().backward()
    scale_gradients([first.weight, second.weight], 0.5)
    assert first.weight.grad.to_dense()[0].tolist() == [1.0, 1.0]
    assert second.weight.grad.to_dense()[0].tolist() == [1.0, 1.0]


def test_another_backward_adds_to_scaled_gradients():
    table = nn.Embedding(3, 1, sparse=True)
    for rows in ([0, 1], [1, 2]):
        table(torch.tensor(rows)).sum().backward()
        scale_gradients([table.weight], 0.5)
    assert table.weight.grad.to_dense().flatten().tolist() == [0.25, 0.75, 0.5]


@pytest.mark.parametrize(("longest", "expected"), [(1.0, [0.6, 0.8]), (6.0, [3.0, 4.0])], ids=["longer", "shorter"])
def test_only_a_longer_gradient_is_clipped(longest, expected):
    parameter = parameter_with(torch.tensor([3.0, 4.0]))
    assert clip_gradients(iter([parameter]), longest).item() == pytest.approx(5.0)
    assert parameter.grad.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_reported_and_left(bad):
    parameter = parameter_with(torch.tensor([3.0, bad]))
    assert not torch.isfinite(clip_gradients([parameter], 1.0))
    assert parameter.grad[0].item() == 3.0


def test_dropped_gradients_are_none():
    weight = looked_up([1])
    drop_gradients([weight])
    assert weight.grad is None
