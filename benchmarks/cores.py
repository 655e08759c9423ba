"""Which core learns fastest: LSTM, GRU, transformer or none, with heads per address or shared.

    python -m benchmarks.cores [--program tau|nuisance] [--seconds 60] [--seeds 1] [--cores NAME ...] [--folder FOLDER]

Validation loss after equal time and after equal traces. Programs: `tau` decays with an image of 20x35x35 voxels (20,000
traces, about 2 GB in FOLDER), or `nuisance`, where 50 to 100 raw random numbers that matter for nothing lie between
two draws and the two that depend on them, so that a proposal for the last two has to remember the first two.

All networks see the same minibatches of 64 in the same order, at a constant learning rate with averaged weights, so
that every moment of a training can be compared. They train in one process and take turns step by step; seconds are
CPU time of one thread, without reading and validation. "Equal traces" is where the slowest network ends.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tracestore as ts
from tracestore.networks import NetworkConfig, ProposalNetwork
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.samplers.torch_loader import TraceLoader, trace_loader
from tracestore.samplers.trace_dataset import TraceDataset
from tracestore.simulators.tau import tau
from tracestore.training import TrainConfig, Trainer

BATCH = 64
NUM_TRACES = 20_000
NUM_FIT_TRACES = 1024
VALIDATION_FRACTION = 0.05
NUM_VALIDATIONS = 6
NUM_PAIRS = 2
NOISE_SD = 0.1

CORES: dict[str, dict[str, Any]] = {
    "lstm": {},
    "lstm, shared heads": {"heads": "shared"},
    "gru": {"core": "gru"},
    "transformer": {"core": "transformer"},
    "transformer, 2 layers": {"core": "transformer", "core_layers": 2},
    "transformer, shared heads": {"core": "transformer", "heads": "shared"},
    "feedforward": {"core": "feedforward"},
}


@ts.simulator
def nuisance():
    """Two pairs of draws, far apart, of which only the sums are seen."""
    first = [ts.sample(ts.Normal(0.0, 1.0), name=f"first{pair}") for pair in range(NUM_PAIRS)]
    for _ in range(ts.sample(ts.Categorical([1.0 / 51] * 51), address="count", control=False) + 50):
        ts.sample(ts.Uniform(0.0, 1.0), address="nuisance")
    last = [ts.sample(ts.Normal(0.0, 1.0), name=f"last{pair}") for pair in range(NUM_PAIRS)]
    for pair in range(NUM_PAIRS):
        ts.observe(ts.Normal(first[pair] + last[pair], NOISE_SD), name=f"sum{pair}")


SMALL = {"core_size": 48, "head_size": 32, "observation_size": 16, "address_size": 16, "num_bins": 8}
PROGRAMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "tau": (tau, {}),
    "nuisance": (nuisance, {"max_instance": 100, **SMALL}),
}
"""Program, and settings of all its networks."""


def nuisance_losses():
    """Loss of the best network without memory, and of the best network: entropies of the exact conditionals."""

    def entropy(variance):
        return 0.5 * math.log(2.0 * math.pi * math.e * variance)

    alone = entropy(1.0 - 1.0 / (2.0 + NOISE_SD**2))
    return NUM_PAIRS * 2 * alone, NUM_PAIRS * (alone + entropy(NOISE_SD**2 / (1.0 + NOISE_SD**2)))


def loader(store, subset, seed=0):
    """Minibatches, mixed; or the validation traces."""
    size = BATCH if subset == "train" else 256
    return trace_loader(store, global_batch=size, seed=seed, subset=subset, validation_fraction=VALIDATION_FRACTION)


@dataclass
class Training:
    """One network under way."""

    name: str
    trainer: Trainer
    loader: TraceLoader
    cpu_seconds: float = 0.0
    num_traces: int = 0
    curve: list = field(default_factory=list)
    _batches: Iterator[TensorBatch] = field(default_factory=lambda: iter(()))

    def advance(self):
        """Learn one minibatch, with the clock running while it does."""
        batch = next(self._batches, None)
        if batch is None:
            self._batches = iter(self.loader)
            batch = next(self._batches)
        started = time.process_time()
        self.trainer.train_step(batch)
        self.cpu_seconds += time.process_time() - started
        self.num_traces += len(batch)

    def validate(self, store):
        """Note the loss."""
        self.curve.append((self.num_traces, self.cpu_seconds, self.trainer.validate(loader(store, "validation"))))


def start(store, name, settings, seed):
    """A network as the verb `train` makes it."""
    chosen = np.sort(np.random.default_rng(seed).choice(len(store), NUM_FIT_TRACES, replace=False))
    first = TraceDataset(store)[chosen]
    network = ProposalNetwork(store.observation_shapes, NetworkConfig(seed=seed, **settings, **CORES[name]))
    network.observation.fit(first.observations)
    network.grow(network.unknown_sites(first))
    config = TrainConfig(learning_rate=4e-3, schedule="constant", warmup_fraction=0.0, average=0.99)
    return Training(name, Trainer(network, config, num_steps=1_000_000), loader(store, "train", seed))


def train(store, names, settings, seconds, seed):
    """Train by turns; returns one record each."""
    trainings = [start(store, name, settings, seed) for name in names]
    rng = np.random.default_rng(seed)
    while waiting := [training for training in trainings if training.cpu_seconds < seconds]:
        for place in rng.permutation(len(waiting)):
            training = waiting[place]
            training.advance()
            if training.cpu_seconds >= seconds * (len(training.curve) + 1) / NUM_VALIDATIONS:
                training.validate(store)
                moment, _, loss = training.curve[-1]
                print(f"{training.name}: {loss:.3f} after {training.cpu_seconds:.0f} s, {moment} traces", flush=True)
    return [
        {
            "core": training.name,
            "seed": seed,
            "num_parameters": training.trainer.network.num_parameters,
            "num_steps": training.trainer.step,
            "curve": training.curve,
        }
        for training in trainings
    ]


def prior_loss_of(store):
    """Validation loss of a network that leaves everything to the prior."""
    trainer = Trainer(ProposalNetwork(store.observation_shapes), TrainConfig(), num_steps=1)
    return trainer.validate(loader(store, "validation"))


def write_table(records, program, prior_loss, seconds):
    """Losses at equal time and at equal traces, the mean over the seeds."""
    moment = min(record["curve"][-1][0] for record in records)
    lines = [f"{program}: validation loss of the prior {prior_loss:.3f}"]
    if program == "nuisance":
        lines.append("best loss without memory {:.3f}, with memory {:.3f}".format(*nuisance_losses()))
    lines.append(
        f"{'core':<26} {'parameters':>10} {'traces/s':>8} {f'after {seconds:g} s':>14} {f'after {moment} traces':>22}"
    )
    for name in dict.fromkeys(record["core"] for record in records):
        curves = [np.array(record["curve"]) for record in records if record["core"] == name]
        at_time = [curve[-1, 2] for curve in curves]
        at_traces = [np.interp(moment, curve[:, 0], curve[:, 2]) for curve in curves]
        speed = np.mean([curve[-1, 0] / curve[-1, 1] for curve in curves])
        size = next(record["num_parameters"] for record in records if record["core"] == name)
        pairs = [f"{np.mean(losses):.3f} ({np.ptp(losses):.3f})" for losses in (at_time, at_traces)]
        lines.append(f"{name:<26} {size:>10} {speed:>8.0f} {pairs[0]:>14} {pairs[1]:>22}")
    return "\n".join([*lines, "brackets: range over the seeds"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", choices=PROGRAMS, default="nuisance")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cores", nargs="+", choices=CORES, default=list(CORES), metavar="NAME")
    parser.add_argument("--folder", type=Path, help="keeps traces and results")
    parser.add_argument("--traces", type=int, default=NUM_TRACES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    simulator, settings = PROGRAMS[args.program]
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        store = ts.simulate(simulator, folder / args.program, num_traces=args.traces, workers=2, seed=1)
        records = []
        for seed in range(args.seeds):
            records += train(store, args.cores, settings, args.seconds, seed)
        print(write_table(records, args.program, prior_loss_of(store), args.seconds))
        (folder / f"cores_{args.program}.json").write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
