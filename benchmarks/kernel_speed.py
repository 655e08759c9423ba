"""A native kernel against the same formula in numpy and in torch, forward and with the gradient, in one run.

    python -m benchmarks.kernel_speed [--points N] [--repeats N] [--threads 1,2] [--large-rows N]

The formula is the cross-section of `tracestore.simulators.cross_section`, six parameters. For one row of parameters and
all points, on each number of threads:

* the cross-section at each point, and the gradient of a weighted sum of it;
* the sum of logs over all points, and its gradient (native: in one pass, without arrays of the size of the points);
* both through torch: the kernel as an operator against the formula in operations of torch, forward and backward.

numpy runs on one thread whatever is asked. Then several rows of parameters in one call, the integral, the time of calls
with one point, and the largest difference between the versions. The best of some repeats counts.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch

from tracestore.native.torch_kernel import TensorKernel
from tracestore.simulators import cross_section_formulas as formulas
from tracestore.simulators.cross_section import TRUTH
from tracestore.simulators.cross_section_kernels import cross_section_kernels


def seconds_of(work: Callable[[], object], repeats: int) -> float:
    """Wall time of the best repeat."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def make_points(number: int) -> np.ndarray:
    """Points spread evenly over logs of x and Q2."""
    rng = np.random.default_rng(1)
    axes = [np.exp(rng.uniform(*np.log(one), number)) for one in (formulas.X_RANGE, formulas.Q2_RANGE)]
    return np.ascontiguousarray(np.stack(axes, 1))


def torch_density(parameters: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Return the cross-section in operations of torch, shape ``(num_rows, num_points)``."""
    intercept, up_power, down_power, sea, slope, evolution = (column[:, None] for column in parameters.T)
    x, q2 = points.T
    log_x, log_rest = torch.log(x), torch.log(1.0 - x)
    scale = torch.log(torch.log(q2) - formulas.LOG_LAMBDA2) - formulas.LOG_START
    rest = 1.0 - q2 / (formulas.SQUARED_ENERGY * x)
    factor = formulas.COUPLING * (1.0 + rest * rest) / (x * q2 * q2)
    total = torch.exp(torch.log(sea) - slope * (1.0 + scale) * log_x + formulas.SEA_POWER * log_rest)
    for charges, power in ((8.0 / 9.0, up_power), (1.0 / 9.0, down_power)):
        log_beta = torch.lgamma(intercept) + torch.lgamma(power + 1.0) - torch.lgamma(intercept + power + 1.0)
        total = total + torch.exp(
            np.log(charges) - log_beta + intercept * log_x + (power + evolution * scale) * log_rest
        )
    return factor * total


def torch_sum(parameters: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Return the sum of logs in operations of torch."""
    return torch.log(torch_density(parameters, points)).sum(1)


def backward(function: Callable[..., torch.Tensor], parameters: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Values and the gradient of their sum."""
    asking = parameters.clone().requires_grad_()
    return torch.autograd.grad(function(asking, points).sum(), asking)[0]


def measure(points: np.ndarray, threads: int, repeats: int) -> dict[str, float]:
    """Milliseconds of each version, one row of parameters."""
    kernels = cross_section_kernels()
    row, tensors = np.array([[*TRUTH.values()]]), torch.from_numpy(points)
    rows, weights = torch.from_numpy(row), np.ones((1, len(points)))
    torch.set_num_threads(threads)
    found: dict[str, float] = {}

    def add(name: str, work: Callable[[], object]) -> None:
        found[name] = 1e3 * seconds_of(work, repeats)

    for name, kernel, in_torch in (
        ("density", kernels.density, torch_density),
        ("sum of logs", kernels.sum_of_logs, torch_sum),
    ):
        wrapped, plain = TensorKernel(kernel), kernel.as_fallback()
        given = weights if name == "density" else np.ones(1)
        add(f"{name}: native", lambda: kernel.call(row, points, num_threads=threads))  # noqa: B023
        add(f"{name}: numpy", lambda: plain.call(row, points))  # noqa: B023
        with torch.no_grad():
            add(f"{name}: torch", lambda: in_torch(rows, tensors))  # noqa: B023
        add(f"{name} with gradient: native", lambda: kernel.gradient(row, points, given, num_threads=threads))  # noqa: B023
        add(f"{name} with gradient: numpy", lambda: plain.gradient(row, points, given))  # noqa: B023
        if threads == torch.get_num_threads():
            add(f"{name} with gradient: native through torch", lambda: backward(wrapped, rows, tensors))  # noqa: B023
        add(f"{name} with gradient: torch", lambda: backward(in_torch, rows, tensors))  # noqa: B023
    return found


def ratios(found: dict[str, float]) -> dict[str, float]:
    """How many times longer the others take than native code."""
    by = {}
    for name, value in found.items():
        what, _, version = name.rpartition(": ")
        if version != "native":
            by[name] = round(value / found[f"{what}: native"], 2)
    return by


def differences(points: np.ndarray) -> dict[str, float]:
    """Largest relative differences of values and gradients from those of the kernel."""
    kernel, row = cross_section_kernels().sum_of_logs, np.array([[*TRUTH.values()]])
    value, gradient = kernel.gradient(row, points)
    plain_value, plain_gradient = kernel.as_fallback().gradient(row, points)
    rows, tensors = torch.from_numpy(row), torch.from_numpy(points)
    in_torch = backward(torch_sum, rows, tensors).numpy()
    return {
        "numpy: value": float(np.abs(plain_value / value - 1.0).max()),
        "numpy: gradient": float(np.abs(plain_gradient / gradient - 1.0).max()),
        "torch: value": float(np.abs(torch_sum(rows, tensors).numpy() / value - 1.0).max()),
        "torch: gradient": float(np.abs(in_torch / gradient - 1.0).max()),
    }


def small_calls(repeats: int) -> dict[str, float]:
    """Microseconds of calls that do almost nothing."""
    kernels, row, one = cross_section_kernels(), np.array([[*TRUTH.values()]]), make_points(1)
    rows, tensor = torch.from_numpy(row), torch.from_numpy(one)
    wrapped, plain = TensorKernel(kernels.sum_of_logs), kernels.sum_of_logs.as_fallback()
    works: dict[str, Callable[[], object]] = {
        "native": lambda: kernels.sum_of_logs.call(row, one),
        "native, 1 thread given": lambda: kernels.sum_of_logs.call(row, one, num_threads=1),
        "numpy": lambda: plain.call(row, one),
        "native through torch": lambda: wrapped(rows, tensor),
        "native through torch, backward": lambda: backward(wrapped, rows, tensor),
        "torch, backward": lambda: backward(torch_sum, rows, tensor),
        "integral with gradient: native": lambda: kernels.total.gradient(row, num_threads=1),
        "integral with gradient: numpy": lambda: kernels.total.as_fallback().gradient(row),
    }
    return {name: 1e6 * seconds_of(lambda: [work() for _ in range(200)], repeats) / 200 for name, work in works.items()}  # noqa: B023


def many_rows(points: np.ndarray, number: int, repeats: int) -> dict[str, float]:
    """Nanoseconds for each row and point of one call with many rows, and of as many calls."""
    kernel = cross_section_kernels().sum_of_logs
    table = np.array([*TRUTH.values()]) * np.random.default_rng(2).uniform(0.9, 1.1, (number, 6))
    together = seconds_of(lambda: kernel.gradient(table, points, num_threads=1), repeats)
    apart = seconds_of(lambda: [kernel.gradient(row, points, num_threads=1) for row in table], repeats)
    scale = 1e9 / (number * len(points))
    return {"rows": number, "one call": together * scale, "a call a row": apart * scale}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--large-rows", type=int, default=16)
    arguments = parser.parse_args()
    points = make_points(arguments.points)
    result: dict[str, object] = {"points": arguments.points, "native": cross_section_kernels().total.is_native}
    for threads in map(int, arguments.threads.split(",")):
        found = measure(points, threads, arguments.repeats)
        result[f"ms, {threads} threads"] = {name: round(value, 2) for name, value in found.items()}
        result[f"times as long as native, {threads} threads"] = ratios(found)
    torch.set_num_threads(1)
    result["ns a row and point, 1 thread"] = many_rows(points[:100_000], arguments.large_rows, arguments.repeats)
    result["us a call"] = {name: round(value, 1) for name, value in small_calls(arguments.repeats).items()}
    result["largest relative differences"] = differences(points[:100_000])
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
