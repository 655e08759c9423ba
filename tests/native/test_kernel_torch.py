"""Kernels as operators of torch, whatever runs behind them; here it is numpy."""

import gc

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tracestore.errors import InvalidInputError, KernelError  # noqa: E402
from tracestore.native.kernel import Kernel  # noqa: E402
from tracestore.native.kernel_library import KernelShape  # noqa: E402
from tracestore.native.torch_kernel import TensorKernel  # noqa: E402


def power(parameters, points):
    return parameters[:, :1] * points[:, 0] ** parameters[:, 1:]


def power_gradient(parameters, points, weights):
    out = power(parameters, points)
    return out, np.stack([(weights * out / parameters[:, :1]).sum(1), (weights * out * np.log(points[:, 0])).sum(1)], 1)


def power_sum(parameters, points):
    return power(parameters, points).sum(1)


def power_sum_gradient(parameters, points, weights):
    return power_sum(parameters, points), power_gradient(parameters, points, weights[:, None])[1]


def square(parameters, points):
    return (parameters**2).sum(1)


def square_gradient(parameters, points, weights):
    return square(parameters, points), 2.0 * parameters * weights[:, None]


KERNELS = {
    "point": Kernel("power", KernelShape(2, 1, "point"), None, power, power_gradient),
    "row": Kernel("power_sum", KernelShape(2, 1), None, power_sum, power_sum_gradient),
    "pointless": Kernel("square", KernelShape(2), None, square, square_gradient),
}
PARAMETERS = torch.tensor([[1.5, 0.5], [0.7, 2.0], [2.0, 1.0]], dtype=torch.float64)
POINTS = torch.tensor([[0.5], [1.5], [2.0], [3.0]], dtype=torch.float64)


@pytest.fixture(params=KERNELS)
def wrapped(request):
    return TensorKernel(KERNELS[request.param])


def points_of(wrapped):
    return (POINTS,) if wrapped.kernel.shape.num_columns else ()


def asking(parameters=PARAMETERS):
    return parameters.clone().requires_grad_()


def test_values_are_those_of_the_kernel(wrapped):
    expected = wrapped.kernel.call(PARAMETERS.numpy(), *[points.numpy() for points in points_of(wrapped)])
    assert np.array_equal(wrapped(PARAMETERS, *points_of(wrapped)).numpy(), expected)


def test_values_are_the_same_with_a_gradient(wrapped):
    assert torch.equal(wrapped(asking(), *points_of(wrapped)), wrapped(PARAMETERS, *points_of(wrapped)))


def test_gradients_are_right(wrapped):
    assert torch.autograd.gradcheck(lambda rows: wrapped(rows, *points_of(wrapped)), (asking(),))


def test_gradients_of_one_row_are_right(wrapped):
    assert torch.autograd.gradcheck(lambda row: wrapped(row, *points_of(wrapped)), (asking(PARAMETERS[1]),))


def test_gradients_of_strided_parameters_are_right(wrapped):
    columns = PARAMETERS.T.contiguous().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: wrapped(rows.T, *points_of(wrapped)), (columns,))


@pytest.mark.parametrize(
    ("operator", "name"),
    [("kernel_values", "point"), ("kernel_values", "row"), ("kernel_row_values", "row")],
)
def test_operators_keep_the_rules_of_torch(operator, name):
    wrapped = TensorKernel(KERNELS[name])
    torch.library.opcheck(getattr(torch.ops.tracestore, operator).default, (asking(), POINTS, wrapped._number))


def test_second_derivatives_are_refused(wrapped):
    parameters = asking()
    (gradient,) = torch.autograd.grad(wrapped(parameters, *points_of(wrapped)).sum(), parameters, create_graph=True)
    with pytest.raises(InvalidInputError, match="first derivatives only"):
        gradient.sum().backward()


def test_one_pass_serves_values_and_gradient():
    calls = []

    def value(parameters, points):
        calls.append("value")
        return power_sum(parameters, points)

    def gradient(parameters, points, weights):
        calls.append("gradient")
        return power_sum_gradient(parameters, points, weights)

    kernel = TensorKernel(Kernel("power_sum", KernelShape(2, 1), None, value, gradient))
    kernel(asking(), POINTS).sum().backward()
    assert calls == ["gradient"]


@pytest.mark.parametrize("name", ["point", "row"])
def test_a_graph_outlives_the_wrapper(name):
    parameters = asking()
    total = TensorKernel(KERNELS[name])(parameters, POINTS).sum()
    gc.collect()
    total.backward()
    assert parameters.grad is not None


def test_a_kernel_without_gradient_refuses_one():
    kernel = TensorKernel(Kernel("power", KernelShape(2, 1, "point"), None, power))
    with pytest.raises(KernelError, match="has no gradient"):
        kernel(asking(), POINTS).sum().backward()


@pytest.mark.parametrize(
    ("parameters", "points", "words"),
    [
        (PARAMETERS[:, :1], POINTS, r"must have shape \(num_rows, 2\) or \(2,\); got \(3, 1\)"),
        (PARAMETERS.float(), POINTS, r"float64 on the CPU; got torch\.float32"),
        (PARAMETERS, POINTS.float(), r"`points`.*got torch\.float32"),
        (PARAMETERS.to("meta"), POINTS, "on meta"),
        (PARAMETERS, POINTS.clone().requires_grad_(), "no gradient by its points"),
        (PARAMETERS, None, "must have 1 columns"),
        (PARAMETERS, POINTS.T, "must have 1 columns"),
        (PARAMETERS, torch.zeros(4, 2, dtype=torch.float64)[:, :1], "not contiguous"),
    ],
    ids=["size", "single", "single-points", "device", "gradient", "none", "columns", "strided"],
)
def test_tensors_that_do_not_fit_are_refused(parameters, points, words):
    with pytest.raises(InvalidInputError, match=words):
        TensorKernel(KERNELS["row"])(parameters, points)


def test_the_kernel_itself_sends_tensors_to_the_wrapper():
    with pytest.raises(InvalidInputError, match="TensorKernel"):
        KERNELS["row"].call(PARAMETERS, POINTS)
