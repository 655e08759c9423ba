"""Time until the posterior of a count is within a given KL divergence of the exact one: IC, RMH and prior IS.

    OMP_NUM_THREADS=1 python -m benchmarks.time_to_kl [--only NAME] [--targets KL KL] [--seeds R]

An engine runs anew at every number of draws, which doubles, with several seeds. The divergence is that of the estimated
probabilities from the exact ones, sum of p log(p / exact), averaged over the seeds; where it crosses the target, draws
and CPU seconds are interpolated between two sizes, in logarithms. Seconds include what a call takes before its first
draw, warm-up and the writing of the store. Those of training include the simulation of its traces: with them, IC pays
for a network that serves all other observations of the program, too.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

import tracestore as ts
from tests.statistical.programs import branching_joint, knuth, random_sum
from tracestore.inference import Posterior
from tracestore.simulators import Simulator
from tracestore.simulators.toys import branching, geometric

FIRST, LARGEST = 256, 262_144


class Counted(NamedTuple):
    """A program, an observation, and the joint probabilities of its result 0, 1, 2, ... with that observation."""

    program: Simulator
    observed: float
    joint: NDArray[np.float64]

    @property
    def exact(self) -> NDArray[np.float64]:
        return self.joint / self.joint.sum()


class Size(NamedTuple):
    """What a number of draws cost and gave, the mean over the seeds."""

    num_draws: int
    seconds: float
    divergence: float


def programs() -> list[Counted]:
    count = np.arange(60)
    return [
        Counted(branching, 6.0, branching_joint(6)),
        Counted(geometric, 3.0, 0.5 ** (count + 1.0) * stats.norm.pdf(3.0, count, 1.0)),
        Counted(knuth, 7.0, stats.poisson.pmf(count, 4.0) * stats.norm.pdf(7.0, count, 1.0)),
        Counted(random_sum, 4.0, stats.poisson.pmf(count - 1, 2.0) * stats.norm.pdf(4.0, 0.0, np.sqrt(count + 0.25))),
    ]


def divergence(found: Mapping[float, float], exact: NDArray[np.float64]) -> float:
    """KL divergence of the found probabilities from the exact ones; finite, as the engines stay on the support."""
    return sum(p * math.log(p / exact[int(value)]) for value, p in found.items() if p > 0.0)


def measure(
    run: Callable[[int, int, Path], Posterior], exact: NDArray[np.float64], seeds: int, target: float, folder: Path
) -> list[Size]:
    """Run an engine with more and more draws until it is below the target."""
    sizes: list[Size] = []
    num_draws = FIRST
    while num_draws <= LARGEST and not (sizes and sizes[-1].divergence <= target):
        spent, apart = [], []
        for seed in range(1, seeds + 1):
            start = time.process_time()
            posterior = run(num_draws, seed, folder / f"{num_draws}-{seed}")
            spent.append(time.process_time() - start)
            apart.append(divergence(posterior.probabilities("result"), exact))
        sizes.append(Size(num_draws, float(np.mean(spent)), float(np.mean(apart))))
        num_draws *= 2
    return sizes


def crossing(sizes: list[Size], target: float) -> tuple[float, float] | None:
    """Draws and seconds where the divergence falls to the target; None when it never does."""
    logs = np.log([[size.num_draws, size.seconds, max(size.divergence, 1e-12)] for size in sizes])
    below = np.flatnonzero(logs[:, 2] <= math.log(target))
    if not len(below):
        return None
    at = int(below[0])
    if at == 0:
        return sizes[0].num_draws, sizes[0].seconds
    share = (logs[at - 1, 2] - math.log(target)) / (logs[at - 1, 2] - logs[at, 2])
    draws, seconds = np.exp(logs[at - 1, :2] + share * (logs[at, :2] - logs[at - 1, :2]))
    return float(draws), float(seconds)


def compare(case: Counted, targets: list[float], seeds: int, training_traces: int, folder: Path) -> None:
    """Print a row for each engine and target."""
    program, seen = case.program, {"obs": case.observed}
    start = time.process_time()
    ts.simulate(program, folder / "traces", num_traces=training_traces, seed=1)
    network = ts.training.train(folder / "traces", folder / "network")
    training = time.process_time() - start
    inference = ts.inference
    engines: dict[str, Callable[[int, int, Path], Posterior]] = {
        "IC": lambda num, seed, path: inference.ic(program, seen, path, network=network, num_draws=num, seed=seed),
        "RMH": lambda num, seed, path: inference.rmh(program, seen, path, num_draws=num, seed=seed, chains=4),
        "prior IS": lambda num, seed, path: inference.importance(program, seen, path, num_draws=num, seed=seed),
    }
    found = {
        name: measure(run, case.exact, seeds, min(targets), folder / name.replace(" ", "-"))
        for name, run in engines.items()
    }
    for target in sorted(targets, reverse=True):
        ours = crossing(found["IC"], target)
        for name, sizes in found.items():
            where = crossing(sizes, target)
            if where is None:
                cells = [f"> {sizes[-1].num_draws:,}", f"> {sizes[-1].seconds:.2f}", "-", "-"]
            else:
                draws, seconds = where
                ratio = f"{seconds / ours[1]:.1f}" if ours else "-"
                whole = f"{seconds + training:.2f}" if name == "IC" else f"{seconds:.2f}"
                cells = [f"{draws:,.0f}", f"{seconds:.2f}", whole, ratio]
            label = f"{program.__name__} {case.observed:g}"
            print("| " + " | ".join([label, f"{target:g}", name, *cells]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.01, 0.001])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--training-traces", type=int, default=10_000)
    parser.add_argument("--only", default="", help="programs whose name has this word")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.seeds} seeds; {arguments.training_traces:,} traces of training; CPU seconds.\n")
    print("| program | KL | engine | draws | s | s, training included | time / that of IC |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="tracestore-kl-") as folder:
        for case in [case for case in programs() if arguments.only in case.program.__name__]:
            place = Path(folder) / case.program.__name__
            compare(case, arguments.targets, arguments.seeds, arguments.training_traces, place)


if __name__ == "__main__":
    main()
