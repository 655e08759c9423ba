"""One process against two: importance sampling and inference compilation on a simulator that takes a millisecond.

    OMP_NUM_THREADS=1 python -m benchmarks.inference_processes [--draws N] [--repeats R]

By turns: each engine with one and with two workers, a whole call into a store each; IC with one and two simulator
processes beside one worker; and, as the most that the machine gives, plain calls of the simulator in one process and in
two independent ones. The first ratio is of the fastest repeats in wall time, the range that of single repeats; the last
column is what a machine with two free cores would give by CPU time: that of the call with one process, over that of the
parent and half that of its children with two. The goal is 1.7.
"""

import argparse
import math
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

import tracestore as ts
from tracestore.inference import ic, importance
from tracestore.networks import ProposalNetwork
from tracestore.training import train_online

SEEN = {"obs0": 8.0, "obs1": 9.0}
ROUNDS = 20_000
"""Rounds of idle arithmetic that take about a millisecond."""


@ts.simulator(reentrant=True)
def costly() -> float:
    """Gaussian with unknown mean, by a calculation that takes its time."""
    mu: float = ts.sample(ts.Normal(1.0, math.sqrt(5.0)), name="mu")
    shift = 0.0
    for number in range(ROUNDS):
        shift = 0.5 * (shift + 1e-9 * (number % 3))
    for name in SEEN:
        ts.observe(ts.Normal(mu + shift, math.sqrt(2.0)), name=name)
    return mu


def call_plainly(num_calls: int) -> None:
    for _ in range(num_calls):
        costly()


def call_in_processes(num_processes: int, num_calls: int) -> None:
    """Call the simulator in independent processes, each its share."""
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=call_plainly, args=(num_calls // num_processes,)) for _ in range(num_processes)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


class Cost(NamedTuple):
    """What a call took, in seconds."""

    wall: float
    own: float
    """CPU time of this process."""
    children: float
    """CPU time of the processes that it started."""


def cost(call: Callable[[], object]) -> Cost:
    wall, before = time.perf_counter(), os.times()
    call()
    after = os.times()
    own, children = (after[place] + after[place + 1] - before[place] - before[place + 1] for place in (0, 2))
    return Cost(time.perf_counter() - wall, own, children)


def measure(network: ProposalNetwork, num_draws: int, repeat: int, folder: Path) -> dict[str, tuple[Cost, Cost]]:
    """Measure everything with one process and with two."""
    found = {}
    common = {"num_draws": num_draws, "seed": repeat}
    ways: dict[str, Callable[[int], object]] = {
        "plain calls, independent processes": lambda number: call_in_processes(number, num_draws),
        "importance, workers": lambda number: importance(
            costly, SEEN, folder / f"is-{number}", workers=number, **common
        ),
        "IC, workers": lambda number: ic(
            costly, SEEN, folder / f"ic-{number}", network=network, workers=number, **common
        ),
        "IC, simulator processes": lambda number: ic(
            costly, SEEN, folder / f"apart-{number}", network=network, simulator_processes=number, **common
        ),
    }  # fmt: skip
    for name, way in ways.items():
        one, two = (cost(partial(way, number)) for number in (1, 2))
        found[name] = (one, two)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    call_plainly(50)
    each = cost(partial(call_plainly, 400)).own / 400
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; a call takes {1e3 * each:.2f} ms.\n")
    with tempfile.TemporaryDirectory(prefix="tracestore-processes-") as folder:
        network = train_online(costly, Path(folder) / "network", num_traces=1600)
        rows = [
            measure(network, arguments.draws, repeat, Path(folder) / f"{repeat}") for repeat in range(arguments.repeats)
        ]
    print("| what | one, draws/s | two, draws/s | two / one (range) | by CPU time |")
    print("|---|---|---|---|---|")
    for name in rows[0]:
        pairs = [row[name] for row in rows]
        ratios = [one.wall / two.wall for one, two in pairs]
        fastest = [min(pair[place].wall for pair in pairs) for place in (0, 1)]
        by_cpu = [(one.own + one.children) / (two.own + two.children / 2) for one, two in pairs]
        cells = (
            name, *(f"{arguments.draws / wall:,.0f}" for wall in fastest),
            f"{fastest[0] / fastest[1]:.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
            f"{min(by_cpu):.2f}-{max(by_cpu):.2f}",
        )  # fmt: skip
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
