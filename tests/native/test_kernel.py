"""Batched kernels: a user's C or C++ file as a function of arrays."""

import multiprocessing
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from tracestore.errors import CompilerError, InvalidInputError, KernelError, KernelVersionError, TracestoreWarning
from tracestore.native import kernel as kernel_module
from tracestore.native.build import build_library, find_compiler
from tracestore.native.kernel import Kernel, default_threads, load_kernel, thread_scaling
from tracestore.native.kernel_library import KernelShape

LINE = """
#include "tracestore_kernel.h"
TRACESTORE_KERNEL(line, 2, 1, TRACESTORE_PER_POINT)
int32_t line(int64_t rows, int64_t n, const double *p, const double *x, double *out, int32_t threads) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < n; ++i) out[r * n + i] = p[2 * r] + p[2 * r + 1] * x[i];
    return threads == 7 ? 5 : 0;
}
int32_t line_gradient(int64_t rows, int64_t n, const double *p, const double *x, const double *w, double *out,
                      double *gradient, int32_t threads) {
    for (int64_t r = 0; r < rows; ++r) {
        gradient[2 * r] = gradient[2 * r + 1] = 0.0;
        for (int64_t i = 0; i < n; ++i) {
            gradient[2 * r] += w[r * n + i];
            gradient[2 * r + 1] += w[r * n + i] * x[i];
        }
    }
    return line(rows, n, p, x, out, threads);
}
"""
SUMS = """
#include <cmath>
#include "tracestore_kernel.h"
#include "power.h"
TRACESTORE_KERNEL(sums, 1, 1, TRACESTORE_PER_ROW)
TRACESTORE_EXPORT int32_t sums(int64_t rows, int64_t n, const double *p, const double *x, double *out,
                               int32_t threads) {
    const int64_t blocks = (n + 99) / 100;
    std::vector<double> parts(rows * blocks);
    tracestore::for_blocks(n, 100, threads, [&](int64_t block, int64_t begin, int64_t end) {
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t i = begin; i < end; ++i) parts[r * blocks + block] += std::pow(x[i], POWER * p[r]);
    });
    for (int64_t r = 0; r < rows; ++r) {
        out[r] = 0.0;
        for (int64_t block = 0; block < blocks; ++block) out[r] += parts[r * blocks + block];
    }
    return 0;
}
"""
PARAMETERS = np.array([[1.0, 2.0], [0.5, -1.0]])
POINTS = np.array([[0.0], [1.0], [4.0]])
VALUES = [[1.0, 3.0, 9.0], [0.5, -0.5, -3.5]]


def line_fallback(parameters, points):
    return parameters[:, :1] + parameters[:, 1:] * points[:, 0]


def line_gradient_fallback(parameters, points, weights):
    return line_fallback(parameters, points), np.stack([weights.sum(1), weights @ points[:, 0]], 1)


@pytest.fixture
def c_file(tmp_path):
    if find_compiler("c") is None:
        pytest.skip("this machine has no C compiler")
    path = tmp_path / "line.c"
    path.write_text(LINE)
    return path


@pytest.fixture
def line(c_file):
    return load_kernel(c_file, "line", num_parameters=2, num_columns=1, output="point")


@pytest.fixture
def sums(tmp_path):
    if find_compiler("c++") is None:
        pytest.skip("this machine has no C++ compiler")
    path, header = tmp_path / "sums.cpp", tmp_path / "power.h"
    path.write_text(SUMS)
    header.write_text("#define POWER 2.0\n")
    return load_kernel(path, "sums", num_parameters=1, num_columns=1, headers=[header])


def test_a_c_file_becomes_a_function(line):
    assert line.is_native
    assert line.call(PARAMETERS, POINTS).tolist() == VALUES


def test_one_row_has_no_row_axis(line):
    assert line.call([0.5, -1.0], POINTS).tolist() == VALUES[1]


def test_gradient_is_that_of_the_weighted_sum(line):
    out, gradient = line.gradient(PARAMETERS, POINTS, [[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]])
    assert out.tolist() == VALUES
    assert gradient.tolist() == [[6.0, 14.0], [1.0, 4.0]]


def test_weights_are_one_when_none_are_given(line):
    assert line.gradient([0.5, -1.0], POINTS)[1].tolist() == [3.0, 5.0]


def test_a_cpp_file_with_a_header_becomes_a_function(sums):
    assert sums([[1.0], [0.5]], POINTS).tolist() == [17.0, 5.0]


def test_sums_do_not_depend_on_the_number_of_threads(sums):
    points = np.random.default_rng(1).uniform(0.1, 1.0, (2001, 1))
    one = sums([[0.3], [1.7]], points, num_threads=1)
    assert all(np.array_equal(one, sums([[0.3], [1.7]], points, num_threads=number)) for number in (2, 3, 64))


def test_no_points_are_fine(line, sums):
    assert line.call(PARAMETERS, np.empty((0, 1))).shape == (2, 0)
    assert sums([1.0], np.empty((0, 1))) == 0.0


def test_a_shared_library_is_loaded_as_it_is(c_file):
    header = (Path(kernel_module.__file__).parent / "src" / "tracestore_kernel.h").read_text()
    built = build_library("ready", {"line.c": LINE, "tracestore_kernel.h": header})
    kernel = load_kernel(built, "line", num_parameters=2, num_columns=1, output="point")
    assert kernel.call(PARAMETERS, POINTS).tolist() == VALUES


def test_another_interface_version_is_refused(tmp_path, build):
    built = build("other_version", "int32_t tracestore_kernel_abi(void) { return 2; }")
    with pytest.raises(KernelVersionError, match="version 2 of the kernel interface, and this release calls version 1"):
        load_kernel(built, "line", num_parameters=2)


def test_a_library_without_a_version_is_refused(build):
    built = build("no_version", "int f(void) { return 2; }")
    with pytest.raises(KernelError, match="no function 'tracestore_kernel_abi'"):
        load_kernel(built, "f", num_parameters=2)


def test_a_missing_function_is_refused(c_file):
    with pytest.raises(KernelError, match="no function 'curve_shape'"):
        load_kernel(c_file, "curve", num_parameters=2)


@pytest.mark.parametrize(
    "shape",
    [
        {"num_parameters": 3, "num_columns": 1, "output": "point"},
        {"num_parameters": 2, "num_columns": 2, "output": "point"},
        {"num_parameters": 2, "num_columns": 1, "output": "row"},
    ],
    ids=["parameters", "columns", "output"],
)
def test_other_sizes_than_the_library_declares_are_refused(c_file, shape):
    with pytest.raises(KernelError, match="has 2 parameters, 1 columns, one number a point; it was declared with"):
        load_kernel(c_file, "line", **shape)


def test_a_file_that_cannot_be_loaded_is_refused(tmp_path):
    path = tmp_path / "none.so"
    path.write_text("no library")
    with pytest.raises(KernelError, match="cannot be loaded"):
        load_kernel(path, "line", num_parameters=2)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"none\.c' cannot be read: No such file"):
        load_kernel(tmp_path / "none.c", "line", num_parameters=2)


def test_an_error_in_the_source_is_an_error_with_a_fallback_too(c_file):
    c_file.write_text(LINE + "int broken(void) { return nothing; }")
    with pytest.raises(CompilerError, match="nothing"):
        load_kernel(
            c_file, "line", num_parameters=2, num_columns=1, output="point", fallback=line_fallback
        )  # fmt: skip


def test_a_reported_failure_is_an_error(line):
    with pytest.raises(KernelError, match="status 5"):
        line.call(PARAMETERS, POINTS, num_threads=7)


@pytest.fixture
def without_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(kernel_module, "find_compiler", lambda _: None)
    monkeypatch.setattr("tracestore.native.build.find_compiler", lambda _: None)
    kernel_module._warn_once.cache_clear()
    path = tmp_path / "line.c"
    path.write_text(LINE)
    yield path
    kernel_module._warn_once.cache_clear()


def test_without_a_compiler_the_fallback_runs_and_says_so_once(without_compiler):
    def load():
        return load_kernel(
            without_compiler, "line", num_parameters=2, num_columns=1, output="point",
            fallback=line_fallback, fallback_gradient=line_gradient_fallback, times_slower=5.0,
        )  # fmt: skip

    with pytest.warns(
        TracestoreWarning, match=r"No C compiler .* 'line.c' runs: the same numbers, about 5 times slower"
    ):
        kernel = load()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load()
    assert not kernel.is_native
    assert kernel.call(PARAMETERS, POINTS).tolist() == VALUES


def test_without_a_compiler_or_a_fallback_loading_fails(without_compiler):
    with pytest.raises(CompilerError, match="No C compiler was found"):
        load_kernel(without_compiler, "line", num_parameters=2, num_columns=1, output="point")


@pytest.fixture
def numpy_line():
    return Kernel("line", KernelShape(2, 1, "point"), None, line_fallback)


@pytest.mark.parametrize(
    ("parameters", "points", "words"),
    [
        ([1.0], POINTS, r"shape \(num_rows, 2\) or \(2,\); got \(1,\)"),
        (np.zeros((1, 1, 2)), POINTS, r"got \(1, 1, 2\)"),
        (3.0, POINTS, r"got \(\)"),
        ([1.0, 2.0], None, "got NoneType"),
        ([1.0, 2.0], [[1.0]], "got list"),
        ([1.0, 2.0], np.zeros(3), r"\(num_points, 1\); got shape \(3,\)"),
        ([1.0, 2.0], np.zeros((3, 2)), r"got shape \(3, 2\)"),
        ([1.0, 2.0], np.zeros((3, 1), np.float32), "got float32, contiguous"),
        ([1.0, 2.0], np.zeros((3, 2))[:, :1], "got float64, not contiguous"),
    ],
    ids=["size", "axes", "number", "none", "list", "flat", "columns", "single", "strided"],
)
def test_arrays_that_do_not_fit_are_refused(numpy_line, parameters, points, words):
    with pytest.raises(InvalidInputError, match=words):
        numpy_line.call(parameters, points)


def test_points_for_a_kernel_without_points_are_refused():
    kernel = Kernel("square", KernelShape(1), None, lambda parameters, points: parameters[:, 0] ** 2)
    with pytest.raises(InvalidInputError, match="takes no points"):
        kernel.call([1.0], POINTS)


@pytest.mark.parametrize("number", [0, -1])
def test_no_threads_are_refused(numpy_line, number):
    with pytest.raises(InvalidInputError, match=f"got {number}"):
        numpy_line.call([1.0, 2.0], POINTS, num_threads=number)


def test_weights_of_another_shape_are_refused(line):
    with pytest.raises(InvalidInputError, match=r"its output, \(3,\); got \(2,\)"):
        line.gradient([1.0, 2.0], POINTS, [1.0, 2.0])


def test_a_gradient_that_is_not_there_is_refused(numpy_line):
    with pytest.raises(KernelError, match="has no gradient; define line_gradient"):
        numpy_line.gradient([1.0, 2.0], POINTS)


def test_a_fallback_of_another_shape_is_refused():
    kernel = Kernel("line", KernelShape(2, 1, "point"), None, lambda parameters, points: parameters)
    with pytest.raises(KernelError, match=r"must return shape \(1, 3\); got \(1, 2\)"):
        kernel.call([1.0, 2.0], POINTS)


def test_a_kernel_without_fallback_has_none(line):
    with pytest.raises(KernelError, match="no fallback"):
        line.as_fallback()


@pytest.mark.parametrize("sizes", [(0, 1, "row"), (1, -1, "row"), (1, 0, "point"), (1, 1, "column")], ids=str)
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(InvalidInputError):
        KernelShape(*sizes)


@pytest.mark.parametrize(("chosen", "expected"), [("3", 3), ("", None), ("0", None), ("many", None)])
def test_default_threads_follow_the_environment(monkeypatch, chosen, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4, 5, 6}, raising=False)
    assert default_threads() == (expected or 5)


def test_scaling_has_a_time_for_each_number_of_threads(numpy_line, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    timings = thread_scaling(numpy_line, [1.0, 2.0], POINTS, repeats=1)
    assert [timing.num_threads for timing in timings] == [1, 2, 4, 6]
    assert all(timing.seconds > 0.0 for timing in timings)


@pytest.mark.processes
def test_a_forked_process_calls_what_ran_on_threads_before(sums):
    points = np.random.default_rng(1).uniform(0.1, 1.0, (2001, 1))
    expected = sums([1.0], points, num_threads=3)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(float(sums([1.0], points, num_threads=3))))
    process.start()
    found = receiver.recv() if receiver.poll(60.0) else None
    process.kill()
    process.join()
    assert found == expected
