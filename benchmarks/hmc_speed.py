"""Effective draws per second of chains that follow gradients, against random walks, on two programs.

    python -m benchmarks.hmc_speed [--program NAME]... [--events N] [--draws N] [--chains N] [--folder FOLDER]

* normal: ten correlated normal numbers, known exactly;
* cross-section: the six parameters of a differential cross-section, from `--events` events, with native kernels.

Each engine has the same chains and its own number of draws, with its warm-up in the time, which is that of the
processor, so that a shared machine gives the same figures. The effective size is the
smallest of all draws. Of every draw the engines' means are compared, in standard errors of their difference; those of
the normal program with the exact ones, those of the cross-section with the parameters that made its events, in
posterior standard deviations.
"""

import argparse
import itertools
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tracestore as ts
from tracestore.inference import HMCConfig, MALAConfig, RMHConfig, hmc, mala, rmh
from tracestore.posteriors import Posterior
from tracestore.simulators import BatchedSimulator
from tracestore.simulators.cross_section import TRUTH, cross_section_simulator, pseudo_data

COVARIANCE = 0.9 ** np.abs(np.subtract.outer(np.arange(10), np.arange(10)))
FACTOR = np.linalg.cholesky(COVARIANCE)
SEEN = np.linspace(-1.0, 1.0, 10)


def normal(factor: Any) -> Callable[[], None]:
    """Ten standard normal numbers, seen after a linear map and with noise."""

    def program() -> None:
        unit = ts.sample(ts.Normal(np.zeros((1, 10)), 1.0), name="unit")
        ts.observe(ts.Normal(unit @ factor.T, 0.5), name="seen")

    return program


def effective_size(posterior: Posterior) -> float:
    """Smallest bulk size of all draws."""
    return min(row.ess or math.nan for row in posterior.summary())


def measure(
    engine: Callable[..., Posterior], program: BatchedSimulator, data: Mapping[str, Any], path: Path, **settings: Any
) -> tuple[Posterior, dict[str, Any]]:
    """Run an engine and take its time."""
    start, cpu_start = time.perf_counter(), time.process_time()
    posterior = engine(program, data, path, seed=1, **settings)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    size = effective_size(posterior)
    figures = {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "draws": len(posterior),
        "acceptance": round(posterior.acceptance, 2),
        "ess": round(size),
        "ess_per_cpu_second": round(size / cpu_seconds, 2),
        "rhat": round(max(row.rhat or math.nan for row in posterior.summary()), 3),
    }
    steps = sum(row.num_steps for row in posterior.trajectories)
    if steps:
        figures["gradients_per_step"] = round(sum(row.num_gradients for row in posterior.trajectories) / steps, 1)
        figures["divergent"] = sum(row.num_divergent for row in posterior.trajectories)
    return posterior, figures


def compare(posteriors: Mapping[str, Posterior]) -> dict[str, float]:
    """Largest difference of means of two engines, in standard errors."""
    worst = {}
    for (first, one), (second, other) in itertools.combinations(posteriors.items(), 2):
        pairs = zip(one.summary(), other.summary(), strict=True)
        worst[f"{first}-{second}"] = round(
            max(abs(a.mean - b.mean) / math.hypot(a.mcse or 0.0, b.mcse or 0.0) for a, b in pairs), 1
        )
    return worst


def run(name: str, events: int, draws: int, chains: int, folder: Path) -> dict[str, Any]:
    """Run three engines on one program."""
    if name == "normal":
        with_torch = BatchedSimulator(normal(torch.tensor(FACTOR)), name="normal-torch", arrays="torch")
        with_numpy = BatchedSimulator(normal(FACTOR), name="normal-numpy")
        data: Mapping[str, Any] = {"seen": SEEN}
        covariance = np.linalg.inv(np.eye(10) + FACTOR.T @ FACTOR / 0.25)
        expected = (covariance @ FACTOR.T @ SEEN / 0.25).tolist()
    else:
        with_torch = cross_section_simulator(events, arrays="torch")
        with_numpy, data = cross_section_simulator(events), pseudo_data(events, seed=3)
        expected = list(TRUTH.values())
    engines: dict[str, tuple[Callable[..., Posterior], BatchedSimulator, int, Any]] = {
        "hmc": (hmc, with_torch, draws, HMCConfig(warmup=200)),
        "mala": (mala, with_torch, 4 * draws, MALAConfig(warmup=400)),
        "rmh": (rmh, with_numpy, 16 * draws, RMHConfig(warmup=1000)),
    }
    posteriors, found = {}, {}
    for engine, (function, program, number, config) in engines.items():
        posteriors[engine], found[engine] = measure(
            function, program, data, folder / f"{name}-{engine}", num_draws=number, chains=chains, config=config
        )
        rows = posteriors[engine].summary()
        scale = [(row.mcse or math.nan) if name == "normal" else row.sd for row in rows]
        off = [abs(row.mean - truth) / size for row, truth, size in zip(rows, expected, scale, strict=True)]
        found[engine]["off_at_most"] = round(max(off), 1)
    return {"engines": found, "standard_errors_apart": compare(posteriors)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", action="append", choices=("normal", "cross-section"))
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=3200, help="of hmc, all chains together")
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.folder or Path(tempfile.mkdtemp())
    try:
        for name in args.program or ("normal", "cross-section"):
            found = run(name, args.events, args.draws, args.chains, folder)
            print(name, json.dumps(found, indent=2))
    finally:
        if args.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
