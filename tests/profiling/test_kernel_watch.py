"""Kernels that a program calls are found and timed again."""

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InvalidInputError
from tracestore.native.kernel import Kernel
from tracestore.native.kernel_library import KernelShape
from tracestore.profiling import profile
from tracestore.profiling.kernel_figure import draw_scaling
from tracestore.profiling.kernel_watch import KernelWatch

SQUARE = Kernel("square", KernelShape(1, 1, "point"), None, lambda rows, points: rows[:, :1] * points[:, 0] ** 2)


def program():
    x = ts.sample(ts.Normal(0.0, 1.0), name="x")
    SQUARE(np.array([x]), np.ones((50, 1)))
    SQUARE.call(np.array([[x], [x]]), points=np.ones((70, 1)))


def test_largest_call_is_timed_on_each_number_of_threads():
    kernels = profile(program, num_traces=10, threads=[1, 2]).kernels
    assert [(kernel.name, kernel.num_calls, kernel.num_rows, kernel.num_points) for kernel in kernels] == [
        ("square", 20, 2, 70)
    ]
    assert [speed.num_threads for speed in kernels[0].speeds] == [1, 2]
    assert (kernels[0].speeds[0].speedup, kernels[0].speeds[0].efficiency) == (1.0, 1.0)


def test_parameters_may_be_a_list():
    with KernelWatch() as watch:
        SQUARE.call([2.0], np.ones((3, 1)))
        SQUARE.call([[2.0], [3.0]], np.ones((3, 1)))
    assert [(kernel.num_calls, kernel.num_rows) for kernel in watch.scaling([1])] == [(2, 2)]


def test_wrong_parameters_are_refused_as_without_the_watch():
    with KernelWatch(), pytest.raises(InvalidInputError, match="'square' must have shape"):
        SQUARE.call([2.0, 3.0], np.ones((3, 1)))


def test_watch_leaves_the_kernels_as_they_were():
    before = dict(vars(Kernel))
    with KernelWatch():
        assert dict(vars(Kernel)) != before
    assert dict(vars(Kernel)) == before


def test_figure_has_a_dot_for_each_number_of_threads():
    kernel = profile(program, num_traces=10, threads=[1, 2, 4]).kernels[0]
    assert draw_scaling(kernel).count("<circle") == 3
