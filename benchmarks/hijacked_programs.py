"""Unmodified programs, native against recorded, and what each draw of `random` and torch costs more.

    python -m benchmarks.hijacked_programs [--runs N] [--draws N] [--repeats R]

Programs (what is installed of them): a queueing network of ciw with blocking, and rounds of blackjack of gymnasium.
Runs a second of processor time, native and recorded in turns, the best of several repeats; and the draws, addresses and
trace types of the recorded runs. Then methods of Python's `random` and operations of torch, in microseconds of
processor time a draw: native; recorded; and `tracestore.sample` of the same prior inside a run, which is the cost of
recording itself. The last column is the difference of these two: what the hijack costs.
"""

import argparse
import importlib.util
import platform
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import tracestore as ts
from tracestore.hijacking import hijack
from tracestore.simulators import PriorController, Simulator, run_trace

Call = Callable[[], object]

UNIT, SIX, THREE = ts.Uniform(0.0, 1.0), ts.Categorical([1 / 6] * 6), ts.Categorical([1 / 3] * 3)

RANDOM: dict[str, tuple[Call, Call]] = {
    "random.random()": (lambda: random.random(), lambda: ts.sample(UNIT)),  # looked up at each call
    "random.expovariate(2.0)": (lambda: random.expovariate(2.0), lambda: ts.sample(ts.Exponential(2.0))),
    "random.gauss(0.0, 1.0)": (lambda: random.gauss(0.0, 1.0), lambda: ts.sample(ts.Normal(0.0, 1.0))),
    "random.gammavariate(2.0, 3.0)": (lambda: random.gammavariate(2.0, 3.0), lambda: ts.sample(ts.Gamma(2.0, 1 / 3))),
    "random.randint(1, 6)": (lambda: random.randint(1, 6), lambda: ts.sample(SIX)),
    "random.choice('abc')": (lambda: random.choice("abc"), lambda: ts.sample(THREE)),
}


def torch_calls() -> dict[str, tuple[Call, Call]]:
    """Operations of torch, where it is installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    wide = np.zeros(100)
    loc, scale = torch.tensor(0.0), torch.tensor(1.0)
    family = torch.distributions.Normal(loc, scale)
    return {
        "torch.randn(())": (lambda: torch.randn(()), lambda: ts.sample(ts.Normal(0.0, 1.0))),
        "torch.randn(100)": (lambda: torch.randn(100), lambda: ts.sample(ts.Normal(wide, 1.0))),
        "torch.distributions.Normal.sample": (lambda: family.sample(), lambda: ts.sample(ts.Normal(0.0, 1.0))),
        "no draw: torch.add": (lambda: loc + scale, lambda: None),
    }


def queue() -> Call:
    """Make a run of two nodes with blocking and feedback, for twenty hours."""
    import ciw

    return lambda: run_queue(ciw)


def run_queue(ciw: Any) -> None:  # the module
    """Simulate once."""
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Exponential(2.5), ciw.dists.Exponential(1.0)],
        service_distributions=[ciw.dists.Exponential(3.0), ciw.dists.Exponential(2.5)],
        routing=[[0.0, 0.7], [0.2, 0.0]],
        number_of_servers=[1, 2],
        queue_capacities=[float("inf"), 2],
    )
    ciw.Simulation(network).simulate_until_max_time(20.0)


def blackjack() -> Call:
    """Make a player of rounds."""
    import gymnasium

    table = gymnasium.make("Blackjack-v1", disable_env_checker=True)

    def play() -> None:
        (total, _, _), _ = table.reset()
        is_over = False
        while not is_over:
            (total, _, _), _, is_over, _, _ = table.step(int(total < 17))

    return play


def measure_program(name: str, program: Call, source: str, runs: int, repeats: int) -> None:
    """Print one line about a program."""

    def rerouted() -> None:
        with hijack(source):
            program()

    recorded = Simulator(rerouted)
    traces = [run_trace(recorded, PriorController(), np.random.default_rng(seed)) for seed in range(max(runs, 10))]
    native_times, recorded_times = [], []
    for _ in range(repeats):
        start = time.thread_time()
        for _ in range(runs):
            program()
        middle = time.thread_time()
        for seed in range(runs):
            run_trace(recorded, PriorController(), np.random.default_rng(seed))
        native_times.append((middle - start) / runs)
        recorded_times.append((time.thread_time() - middle) / runs)
    native, slow = min(native_times), min(recorded_times)
    draws = sum(map(len, traces)) / len(traces)
    addresses = {site.address.rpartition("#")[0] for trace in traces for site in trace.sites}
    types = {trace.layout.trace_type for trace in traces}
    print(
        f"{name:<12} {1 / native:10,.0f} {1 / slow:10,.0f} {slow / native:7.2f} {draws:8.1f} "
        f"{1e6 * (slow - native) / draws:9.2f} {len(addresses):9} {len(types):6} of {len(traces)}"
    )


def seconds(call: Call, draws: int) -> float:
    """Time of one call, of many made in a loop."""
    start = time.thread_time()
    for _ in range(draws):
        call()
    return (time.thread_time() - start) / draws


def in_run(call: Call, draws: int, source: str) -> float:
    """Time of one call inside a run that records."""
    found = []

    def program() -> None:
        with hijack(source, leaks="ignore"):
            call()
            found.append(seconds(call, draws))

    trace = run_trace(Simulator(program), PriorController(), np.random.default_rng(1), max_sites=2 * draws + 10)
    if trace.failure:
        raise SystemExit(trace.failure)
    return found[0]


def measure_calls(calls: dict[str, tuple[Call, Call]], source: str, draws: int, repeats: int) -> None:
    """Print a line for each method."""
    for name, (call, same_prior) in calls.items():
        times = np.array(
            [
                (seconds(call, draws), in_run(call, draws, source), in_run(same_prior, draws, "numpy"))
                for _ in range(repeats)
            ]
        )
        native, recorded, sampled = 1e6 * times.min(0)
        print(f"{name:<36} {native:8.2f} {recorded:10.2f} {sampled:8.2f} {recorded - sampled:10.2f}")


def main() -> None:
    """Measure what is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", metavar="N", type=int, default=200, help="runs of each program (default 200)")
    parser.add_argument("--draws", metavar="N", type=int, default=5000, help="draws of each method (default 5000)")
    parser.add_argument("--repeats", metavar="R", type=int, default=5, help="repeats of each (default 5)")
    args = parser.parse_args()
    print(f"Python {platform.python_version()}, numpy {np.__version__}, tracestore {ts.__version__}\n")
    titles = ("native", "recorded", "ratio", "draws", "us/draw", "addresses")
    print("{:<12} {:>10} {:>10} {:>7} {:>8} {:>9} {:>9} types".format("runs/s", *titles))
    if importlib.util.find_spec("ciw") is not None:
        measure_program("ciw", queue(), "random", args.runs, args.repeats)
    if importlib.util.find_spec("gymnasium") is not None:
        measure_program("blackjack", blackjack(), "numpy", 10 * args.runs, args.repeats)
    print(f"\n{'us a draw':<36} {'native':>8} {'recorded':>10} {'sample':>8} {'hijack':>10}")
    measure_calls(RANDOM, "random", args.draws, args.repeats)
    measure_calls(torch_calls(), "torch", args.draws, args.repeats)


if __name__ == "__main__":
    main()
