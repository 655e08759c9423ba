"""Traces per second of one program, written once, run for one trace at a time and for many at once.

    python -m benchmarks.batched_speed [--number N] [--single N] [--store N] [--repeats N] [--folder FOLDER]

The program has ten draws, nine of which depend on the one before, and one observe. In one run, on one core:

* per trace: `PriorDraws.make` of the program for one trace, chunks of 256, scaled per trace;
* batched: `run_batch` of all traces in one call, and in calls of `BATCH_SIZE`;
* stores: `simulate` of both programs, and which share of the time the batches take, the rest being writing;
* chains: steps of a chain per second and effective draws per second of `rmh` with four chains of the program for one
  trace, and with many chains of the batched one.

The best of some repeats counts.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import tracestore as ts
from tracestore.execution.prior_draws import PriorDraws
from tracestore.execution.workers import plan_chunks
from tracestore.inference import RMHConfig, rmh
from tracestore.simulators import BatchedSimulator, Simulator, run_batch
from tracestore.simulators.batched import BATCH_SIZE


def program():
    """Ten draws and one observe: the same source for one trace and for many."""
    x = ts.sample(ts.Normal(0.0, 1.0), name="x0")
    for step in range(1, 9):
        x = ts.sample(ts.Normal(x, 1.0), name=f"x{step}")
    scale = ts.sample(ts.Uniform(0.5, 2.0), name="scale")
    ts.observe(ts.Normal(x, scale), name="y")


single, batched = Simulator(program, name="chain"), BatchedSimulator(program, name="batched-chain")


def seconds_of(work: Callable[[], object], repeats: int) -> float:
    """Wall time of the best repeat."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def making(number: int, singles: int, repeats: int) -> dict[str, float]:
    """Microseconds for each trace of a `TraceBatch`."""
    draws, chunks = PriorDraws(1, "speed", 100), plan_chunks(singles, 256)
    rng = np.random.default_rng(1)

    def in_calls() -> None:
        for first in range(0, number, BATCH_SIZE):
            run_batch(batched, min(BATCH_SIZE, number - first), rng)

    run_batch(batched, 100, rng)
    found = {
        "per trace": seconds_of(lambda: [draws.make(single, chunk) for chunk in chunks], repeats) / singles,
        "batched, one call": seconds_of(lambda: run_batch(batched, number, rng), repeats) / number,
        f"batched, calls of {BATCH_SIZE}": seconds_of(in_calls, repeats) / number,
    }
    for size in (1, 10, 100, 1000, 10_000):
        calls = max(1, min(1000, 100_000 // size))
        repeated = seconds_of(lambda: [run_batch(batched, size, rng) for _ in range(calls)], repeats)  # noqa: B023
        found[f"batched, calls of {size}"] = repeated / calls / size
    return {name: 1e6 * seconds for name, seconds in found.items()}


def storing(number: int, singles: int, folder: Path) -> dict[str, float]:
    """Microseconds for each trace of a store, and the share of it that is not the batch."""
    found = {}
    for name, simulator, count in (("per trace", single, singles), ("batched", batched, number)):
        path = folder / name.replace(" ", "-")
        start = time.perf_counter()
        ts.simulate(simulator, path, num_traces=count, seed=1)
        found[name] = 1e6 * (time.perf_counter() - start) / count
        found[f"{name}, bytes"] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / count
        shutil.rmtree(path)
    chunks = plan_chunks(number, most=BATCH_SIZE)
    draws = PriorDraws(1, "simulate", 100)
    made = seconds_of(lambda: [len(draws.make(batched, chunk)) for chunk in chunks], 1) / number
    found["share of writing, batched"] = 1.0 - 1e6 * made / found["batched"]
    return found


def chaining(folder: Path) -> dict[str, float]:
    """Steps of a chain and effective draws per second, warm-up and writing included."""
    found, observed = {}, {"y": 3.0}
    settings = (("per trace, 4 chains", single, 4, 20_000, 1), ("batched, 1000 chains", batched, 1000, 200_000, 5))
    for name, simulator, chains, num_draws, thinning in settings:
        path = folder / f"rmh-{chains}"
        config = RMHConfig(warmup=1000, thinning=thinning)
        start = time.perf_counter()
        posterior = rmh(simulator, observed, path, num_draws=num_draws, chains=chains, seed=1, config=config)
        seconds = time.perf_counter() - start
        found[f"{name}: steps/s"] = (num_draws * thinning + 1000 * chains) / seconds
        found[f"{name}: smallest ESS/s"] = posterior.ess / seconds
        shutil.rmtree(path)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=1_000_000)
    parser.add_argument("--single", type=int, default=20_000)
    parser.add_argument("--store", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        made = making(arguments.number, arguments.single, arguments.repeats)
        result = {
            "making, us per trace": made,
            "times faster": {name: made["per trace"] / value for name, value in made.items()},
            "storing, us per trace": storing(arguments.store, arguments.single, folder),
            "chains": chaining(folder),
        }
    finally:
        shutil.rmtree(folder)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
