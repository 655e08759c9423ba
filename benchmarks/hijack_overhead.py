"""What recording an unmodified program costs for each draw of numpy's methods.

    python -m benchmarks.hijack_overhead [--draws N] [--repeats R]

For each method, in microseconds a scalar draw, the best of several repeats made in turns: the native method; the
replaced method outside of a run; the replaced method inside a run that records; and `tracestore.sample` of the same
prior inside a run, which is the cost of recording itself. The overhead of the hijack is the difference of the last two.
Then what entering and leaving the block costs, and what looking for leaks adds to a run.
"""

import argparse
import gc
import platform
import time
from collections.abc import Callable

import numpy as np

import tracestore as ts
from tracestore.hijacking import Hijack, hijack
from tracestore.simulators import PriorController, Simulator, run_trace

RNG = np.random.default_rng(1)
EQUAL = [0.1] * 10

METHODS: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "normal(0.0, 1.0)": (lambda: RNG.normal(0.0, 1.0), lambda: ts.sample(ts.Normal(0.0, 1.0))),
    "random()": (lambda: RNG.random(), lambda: ts.sample(ts.Uniform(0.0, 1.0))),
    "uniform(-1.0, 1.0)": (lambda: RNG.uniform(-1.0, 1.0), lambda: ts.sample(ts.Uniform(-1.0, 1.0))),
    "exponential(2.0)": (lambda: RNG.exponential(2.0), lambda: ts.sample(ts.Exponential(0.5))),
    "gamma(2.0, 1.0)": (lambda: RNG.gamma(2.0, 1.0), lambda: ts.sample(ts.Gamma(2.0, 1.0))),
    "beta(2.0, 3.0)": (lambda: RNG.beta(2.0, 3.0), lambda: ts.sample(ts.Beta(2.0, 3.0))),
    "poisson(4.0)": (lambda: RNG.poisson(4.0), lambda: ts.sample(ts.Poisson(4.0))),
    "binomial(10, 0.3)": (lambda: RNG.binomial(10, 0.3), lambda: ts.sample(ts.Binomial(10, 0.3))),
    "integers(0, 10)": (lambda: RNG.integers(0, 10), lambda: ts.sample(ts.Categorical(EQUAL))),
    "choice(10)": (lambda: RNG.choice(10), lambda: ts.sample(ts.Categorical(EQUAL))),
    "geometric(0.3)": (lambda: RNG.geometric(0.3), lambda: ts.sample(ts.Exponential(0.36))),
    "np.random.normal(0.0, 1.0)": (lambda: np.random.normal(0.0, 1.0), lambda: ts.sample(ts.Normal(0.0, 1.0))),  # noqa: NPY002
    "normal(0.0, 1.0, 100)": (lambda: RNG.normal(0.0, 1.0, 100), lambda: ts.sample(ts.Normal(np.zeros(100), 1.0))),
}


def seconds(call: Callable[[], object], draws: int) -> float:
    """Time of one call, of many made in a loop."""
    start = time.perf_counter()
    for _ in range(draws):
        call()
    return (time.perf_counter() - start) / draws


def in_run(call: Callable[[], object], draws: int, block: Hijack | None) -> float:
    """Time of one call inside a run that records."""
    found = []

    def program() -> None:
        if block is None:
            found.append(seconds(call, draws))
        else:
            with block:
                found.append(seconds(call, draws))

    run_trace(Simulator(program), PriorController(), np.random.default_rng(1))
    return found[0]


def measure(native: Callable[[], object], sample: Callable[[], object], draws: int, repeats: int) -> list[float]:
    """Best times, in microseconds: native, outside, inside, sample."""
    block = hijack("numpy", leaks="ignore")
    rounds = []
    for _ in range(repeats):
        row = [seconds(native, draws)]
        with block:
            row.append(seconds(native, draws))
        row += [in_run(native, draws, block), in_run(sample, draws, None)]
        rounds.append(row)
    return [1e6 * min(column) for column in zip(*rounds, strict=True)]


def run_seconds(block: Callable[[], Hijack] | None, repeats: int) -> list[float]:
    """Time of each of some runs of an empty program."""

    def program() -> None:
        if block is not None:
            with block():
                pass

    simulator = Simulator(program)
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        run_trace(simulator, PriorController(), RNG)
        found.append(time.perf_counter() - start)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, numpy {np.__version__}, microseconds a draw")
    titles = ("native", "outside", "inside", "sample", "added outside", "added inside", "inside/sample")
    print(f"{'method':28}", *[f"{title:>13}" for title in titles])
    for name, (native, sample) in METHODS.items():
        row = measure(native, sample, options.draws, options.repeats)
        row += [row[1] - row[0], row[2] - row[3], row[2] / row[3]]
        print(f"{name:28}", *[f"{number:13.2f}" for number in row])
    empty = min(run_seconds(None, 200))
    for leaks in ("ignore", "raise"):
        times = run_seconds(lambda leaks=leaks: hijack("numpy", leaks=leaks), 200)  # type: ignore[misc]
        first = ", ".join([f"{1e3 * seconds:.1f}" for seconds in times[:3]])
        print(f"leaks={leaks!r}: a run takes {1e6 * (min(times) - empty):.0f} us more; the first three {first} ms")
    print(f"{len(gc.get_objects())} objects in the process")


if __name__ == "__main__":
    main()
