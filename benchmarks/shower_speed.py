"""Speed of the shower simulators: against throwing spots one by one, and from the formulas to a store.

    OMP_NUM_THREADS=1 python benchmarks/shower_speed.py [--showers N] [--workers W] [--json]

In one run, interleaved, on the same energies: images by `SpotEnergies` (all cells of a shower at once, whatever its
number of spots); images by spots thrown one by one with the same formulas, vectorized over the spots of a shower, in
two dozen lines of numpy; recorded traces, which are scored, too; and a whole job into a store, compressed, on W
processes. Showers per second of CPU, the best of the repeats, but per second of the clock for the job. Full Monte Carlo
is not run here: what it costs is for the literature to say.
"""

import argparse
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

import tracestore as ts
from tracestore.simulators import PriorController, Simulator, run_trace
from tracestore.simulators.shower import ANGLE_CONFIG, ShowerConfig, ShowerModel, shower, shower_angle
from tracestore.simulators.shower_profiles import num_spots, radial_shape, shape_law, spot_shape

FIXED = (10.0, 100.0, 500.0)
REPEATS = 3


def spots_one_by_one(config: ShowerConfig, energy: float, angle: float, rng: np.random.Generator) -> np.ndarray:
    """The same shower from the positions of all its spots."""
    box, medium = config.box, config.medium
    shape = shape_law(energy, medium).shape(*rng.standard_normal(2))
    spots = spot_shape(shape, medium)
    number = rng.poisson(num_spots(energy, medium))
    depth = rng.standard_gamma(spots.form, number) * (spots.maximum / (spots.form - 1.0))
    core, tail, share = radial_shape(depth / shape.maximum, energy, medium)
    radius = np.where(rng.random(number) < share, core, tail) * box.moliere_radius
    uniform = rng.random(number)
    radius *= np.sqrt(uniform / (1.0 - uniform))
    turn = rng.random(number) * (2.0 * math.pi)
    across, along = radius * np.sin(turn), depth * box.radiation_length
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    num_x, num_y, num_layers = box.shape
    x = np.floor(radius * np.cos(turn) / box.cell_size + num_x / 2).astype(np.int64)
    y = np.floor((along * cosine + across * sine) / box.cell_size + num_y / 2).astype(np.int64)
    layer = np.floor((along * sine - across * cosine) / box.layer_depth).astype(np.int64)
    is_inside = (x >= 0) & (x < num_x) & (y >= 0) & (y < num_y) & (layer >= 0) & (layer < num_layers)
    cell = ((x * num_y + y) * num_layers + layer)[is_inside]
    # log of the ratio of the two profiles along the depth, up to a constant: the mean energy of a spot
    decline, of_spots = (shape.form - 1.0) / shape.maximum, (spots.form - 1.0) / spots.maximum
    log_scale = (shape.form - spots.form) * np.log(depth) - (decline - of_spots) * depth
    constant = shape.form * math.log(decline) - spots.form * math.log(of_spots)
    constant += math.lgamma(spots.form) - math.lgamma(shape.form)
    energies = rng.standard_exponential(number) * np.exp(log_scale + constant)
    energies *= config.sampling_fraction * energy / num_spots(energy, medium)
    return np.bincount(cell, energies[is_inside], math.prod(box.shape)).reshape(box.shape)


def cells_at_once(model: ShowerModel, energy: float, angle: float, rng: np.random.Generator) -> np.ndarray:
    """A shower by the simulator's own distribution, not recorded."""
    return model.cells(energy, rng.standard_normal(2), angle).sample(rng)


def make_all(maker: Callable[..., np.ndarray], chosen: list[tuple[float, float]]) -> None:
    """Make one image for each electron."""
    rng = np.random.default_rng(2)
    for energy, angle in chosen:
        maker(energy, angle, rng)


def electrons(config: ShowerConfig, fixed: float | None, number: int) -> list[tuple[float, float]]:
    """Energies and angles of one set: fixed energies, or the priors."""
    rng = np.random.default_rng(1)
    angles = np.full(number, 90.0) if config.angle_range is None else rng.uniform(*config.angle_range, number)
    energies = rng.uniform(*config.energy_range, number) if fixed is None else np.full(number, fixed)
    return list(zip(energies.tolist(), angles.tolist(), strict=True))


def best(calls: dict[str, Callable[[], object]], number: int) -> dict[str, float]:
    """Showers per second of CPU of several calls, in turns."""
    seconds = dict.fromkeys(calls, math.inf)
    for _ in range(REPEATS):
        for name, call in calls.items():
            start = time.process_time()
            call()
            seconds[name] = min(seconds[name], time.process_time() - start)
    return {name: number / value for name, value in seconds.items()}


def images(name: str, config: ShowerConfig, number: int) -> Iterator[dict[str, object]]:
    """Yield how fast images are made at fixed energies and over the range."""
    model = ShowerModel(config)
    makers = {
        "cells": partial(cells_at_once, model),
        "spots": partial(spots_one_by_one, config),
    }
    for fixed in (*FIXED, None):
        chosen = electrons(config, fixed, number)
        rates = best({label: partial(make_all, maker, chosen) for label, maker in makers.items()}, number)
        label = "range" if fixed is None else f"{fixed:g} GeV"
        yield {"what": f"{name}, images, {label}", **rates, "ratio": rates["cells"] / rates["spots"]}


def traces(name: str, program: Simulator, number: int, workers: int) -> Iterator[dict[str, object]]:
    """Yield how fast traces are recorded, and how fast a job writes them."""
    rng, prior = np.random.default_rng(3), PriorController()
    rates = best({"traces": lambda: [run_trace(program, prior, rng) for _ in range(number)]}, number)
    yield {"what": f"{name}, recorded and scored", **rates}
    many = 10 * number
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        store = ts.simulate(program, Path(folder) / "showers", num_traces=many, workers=workers, seed=1)
        seconds = time.perf_counter() - start
        size = store.stats().nbytes / many
    yield {
        "what": f"{name}, job of {many} with {workers} processes",
        "job": many / seconds,
        "bytes_per_shower": size,
        "hours_for_200000": 200_000 * seconds / many / 3600,
        "GB_for_200000": 200_000 * size / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--showers", type=int, default=100, help="in each set of images; ten times as many in a job")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "numpy": np.__version__}
    rows: list[dict[str, object]] = []
    for name, config, program in (("upright", ShowerConfig(), shower), ("tilted", ANGLE_CONFIG, shower_angle)):
        rows += images(name, config, options.showers)
        rows += traces(name, program, options.showers, options.workers)
    if options.json:
        print(json.dumps({"machine": machine, "rows": rows}))
        return
    for row in rows:
        numbers = ", ".join(f"{key} {value:,.3g}" for key, value in row.items() if isinstance(value, float))
        print(f"{row['what']}: {numbers}")


if __name__ == "__main__":
    main()
