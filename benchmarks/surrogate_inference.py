"""What a surrogate in the place of the simulator does to posteriors, and how its error is corrected.

An electron of unknown energy makes a shower; what is read are the energies of five groups of layers, each with Normal
noise. For a few observations made with the simulator, the posterior of the energy by importance sampling and by Markov
chains, with the simulator and with the surrogate in its place; and by a small proposal network that was trained on
traces of the surrogate alone, used with the surrogate and, which corrects its error by the weights, with the simulator.

Knows nothing of how surrogates are trained. `benchmarks/surrogates.py` calls it.
"""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tracestore as ts
from tracestore.inference import RMHConfig
from tracestore.simulators.base import Simulator
from tracestore.simulators.batched import BatchedSimulator
from tracestore.simulators.shower import ShowerConfig, ShowerModel, draw_shower
from tracestore.surrogates import Surrogate
from tracestore.surrogates.stand_in import draw_surrogate, surrogate_digest

GROUPS = 5
"""Of five layers each."""
NOISE = 0.1
"""Standard deviation of a reading in GeV of visible energy; 100 GeV leave about 2.5."""
TRUTH = (60.0, 150.0, 350.0)
BATCH_SIZE = 512
CALL_SECONDS = 10.0
"""That importance sampling with the surrogate may take, by its speed in batches."""
FEW = 300
"""Most draws of the network with the surrogate, which then makes one image at a time."""
WARMUP = 100
MARGIN = 0.02
"""Share of the trained range that the prior leaves out at either end."""
PLACE = {"name": "energy", "address": "energy"}
"""The same in both programs, so that a network trained on one knows the other."""


def readings(images: np.ndarray) -> np.ndarray:
    """Visible energies of groups of layers, on the last axis."""
    layers = images.sum(axis=(-3, -2), dtype=np.float64)
    return layers.reshape(*layers.shape[:-1], GROUPS, -1).sum(axis=-1)


def prior_of(surrogate: Surrogate) -> ts.Uniform:
    """The energies that both programs draw from."""
    low, high = surrogate.label_ranges[0]
    return ts.Uniform(low + MARGIN * (high - low), high - MARGIN * (high - low))


def original(prior: ts.Uniform, *, control: bool = False) -> Simulator:
    """The program with the simulator; chains may move all of its draws, a network proposes the energy alone."""
    model = ShowerModel(ShowerConfig())

    def program() -> None:
        energy = ts.sample(prior, **PLACE)
        image = draw_shower(model, energy, control=control)
        ts.observe(ts.Normal(readings(image), NOISE), name="readings")

    return Simulator(program, reentrant=True, name=f"{__name__}:original({prior!r}, {control})")


def with_surrogate(surrogate: Surrogate, prior: ts.Uniform, *, control: bool = False) -> BatchedSimulator:
    """The same program with a surrogate."""

    def program() -> None:
        energies = ts.sample(prior, **PLACE)
        images = draw_surrogate(surrogate, energies, control=control)
        ts.observe(ts.Normal(readings(images), NOISE), name="readings")

    name = f"{__name__}:with_surrogate({surrogate_digest(surrogate)}, {prior!r}, {control})"
    return BatchedSimulator(program, name=name, batch_size=BATCH_SIZE)


def observation(energy: float, seed: int) -> dict[str, np.ndarray]:
    """Readings of one shower of the simulator."""
    rng = np.random.default_rng([seed, round(energy)])
    image = ShowerModel(ShowerConfig()).cells(energy, rng.standard_normal(2)).sample(rng)
    return {"readings": readings(image) + NOISE * rng.standard_normal(GROUPS)}


def affordable_draws(surrogate: Surrogate, prior: ts.Uniform, seconds: float) -> int:
    """Number of images that some seconds are enough for."""
    low, high = prior.support
    labels = np.linspace(low, high, 64)
    surrogate.generate(labels, seed=1, batch_size=64)
    start = time.perf_counter()
    surrogate.generate(labels, seed=1, batch_size=64)
    return max(256, round(seconds * len(labels) / (time.perf_counter() - start)))


def train_proposals(program: BatchedSimulator, folder: Path, num_traces: int, seed: int) -> Any:
    """A small network trained on traces of the surrogate alone."""
    store = ts.simulate(program, folder / "proposal-traces", num_traces=num_traces, seed=seed)
    config = ts.training.TrainConfig(epochs=max(2, min(20, 60_000 // num_traces)), seed=seed)
    return ts.training.train(store, folder / "proposals", config=config)


def compare(
    surrogate: Surrogate, folder: Path, *, num_draws: int, workers: int, seed: int
) -> Iterator[dict[str, object]]:
    """Yield a row for each observation and method; shifts are from importance sampling with the simulator.

    Parameters
    ----------
    surrogate
        Trained, with the energy as its only label.
    folder
        Scratch.
    num_draws
        Draws of importance sampling; chains have a quarter, and the network a tenth.
    workers
        Processes for the simulator; the surrogate runs in this process.
    seed
        Of everything.
    """
    prior = prior_of(surrogate)
    true_program, stand_in = original(prior), with_surrogate(surrogate, prior)
    start = time.perf_counter()
    affordable = affordable_draws(surrogate, prior, CALL_SECONDS)
    yield {"what": "draws that the surrogate affords", "draws": affordable}
    num_traces = max(500, min(num_draws // 2, affordable))
    network = train_proposals(stand_in, folder, num_traces, seed)
    yield {"what": "proposal network", "traces": num_traces, "seconds": time.perf_counter() - start}
    movable = original(prior, control=True), with_surrogate(surrogate, prior, control=True)
    chains = {"simulator": 2 * max(1, workers // 2), "surrogate": 64}
    engines = ts.inference
    few, some = max(200, num_draws // 10), max(400, num_draws // 4)
    many = {
        "simulator": _multiple(some, chains["simulator"]),
        "surrogate": _multiple(min(some, affordable), chains["surrogate"]),
    }
    calls = {
        "IS, simulator": partial(engines.importance, true_program, num_draws=num_draws, workers=workers),
        "IS, surrogate": partial(engines.importance, stand_in, num_draws=min(num_draws, affordable)),
        "RMH, simulator": partial(
            engines.rmh, movable[0], num_draws=many["simulator"], chains=chains["simulator"], workers=workers,
            config=RMHConfig(warmup=WARMUP),
        ),
        "RMH, surrogate": partial(
            engines.rmh, movable[1], num_draws=many["surrogate"], chains=chains["surrogate"],
            config=RMHConfig(warmup=WARMUP),
        ),
        "IC, surrogate": partial(engines.ic, stand_in, network=network, num_draws=min(few, FEW)),
        "IC from the surrogate, simulator": partial(
            engines.ic, true_program, network=network, num_draws=few, workers=workers
        ),
    }  # fmt: skip
    for number, energy in enumerate(TRUTH):
        yield from _rows(energy, observation(energy, seed), calls, folder / f"energy-{energy:g}", seed + number)


def _rows(energy, seen, calls, folder, seed) -> Iterator[dict[str, object]]:
    reference = None
    for method, call in calls.items():
        start = time.perf_counter()
        posterior = call(seen, folder / method.replace(", ", "-").replace(" ", "-"), seed=seed)
        seconds = time.perf_counter() - start
        mean, stddev = float(posterior.mean("energy")), float(posterior.std("energy"))
        reference = reference or (mean, stddev)
        yield {
            "what": f"{energy:g} GeV, {method}",
            "energy": energy,
            "method": method,
            "mean": mean,
            "stddev": stddev,
            "shift_in_stddevs": (mean - reference[0]) / reference[1],
            "stddev_ratio": stddev / reference[1],
            "mcse_in_stddevs": float(posterior.mcse("energy")) / reference[1],
            "ess": float(posterior.ess),
            "draws": len(posterior),
            "seconds": seconds,
        }


def _multiple(number: int, of: int) -> int:
    return -(-number // of) * of
