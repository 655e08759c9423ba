"""What a training step costs on unsorted and on sorted traces, and by a loop over trace types as in the paper.

    python -m benchmarks.training_orders [--model tau|marsaglia ...] [--batches 64 256 1024] [--repeats R] [--network N]

The network embeds all observations of a minibatch at once, runs its core over mixed trace types in one packed pass, and
applies stacked heads: it should not notice whether a minibatch holds one trace type or sixty. Compared are, for the
same network, the same traces and the same batch size:

* `random`: minibatches of shuffled traces;
* `sorted`: minibatches of neighbors in a sorted store, as pure as they get;
* `loop`: the random minibatches again, cut by trace type; the network runs once for each type, then one update. That is
  what the paper and pyprob do.

Minibatches lie in memory: only steps are timed (forward, backward, update), one pass over all traces. One thread; all
variants train copies of the same network in one process and take turns, minibatch by minibatch. Seconds are CPU time.
Networks that propose every draw of tau decays are slow and measured at the first batch size only: they have as many
steps in sequence as the longest trace of a minibatch has draws, thousands at times, which is what sorting saves there.
"""

import argparse
import copy
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

import tracestore as ts
from tracestore.networks.config import NETWORKS, NetworkConfig
from tracestore.networks.network import ProposalNetwork
from tracestore.samplers.trace_dataset import TraceDataset
from tracestore.simulators import toys
from tracestore.training import TrainConfig, Trainer

NUM_FIT_TRACES = 512
NUM_TRACES = {"marsaglia": 8_192, "tau": 2_048}
"""Multiples of the batch sizes, so that no order leaves out the longest traces."""
PAPER_SMALL = replace(NETWORKS["paper"], core_size=128, mixture_size=5, observation="light", observation_size=64)
"""The paper's layers, one set per address, narrow enough for the thousands of addresses of tau decays."""
VARIANTS: dict[str, NetworkConfig] = {
    "default": NETWORKS["light"],
    "default, every draw": replace(NETWORKS["light"], max_instance=16_384),
    "own layers per address": PAPER_SMALL,
}
DATA_OF = {"marsaglia": ("default", "own layers per address"), "tau": tuple(VARIANTS)}


@dataclass(slots=True)
class Course:
    """One way to go through the traces."""

    trainer: Trainer
    minibatches: list
    """Each is a tuple of parts."""
    seconds: list[float] = field(default_factory=list)
    num_traces: int = 0

    def advance(self, place: int) -> None:
        """Train on one minibatch."""
        parts = self.minibatches[place % len(self.minibatches)]
        start = time.process_time()
        self.trainer.train_step(*parts)
        self.seconds.append(time.process_time() - start)
        self.num_traces += sum(map(len, parts))

    @property
    def rate(self) -> float:
        """Traces per second of CPU time."""
        return self.num_traces / sum(self.seconds)


def simulator_of(model):
    """The simulator of a name."""
    if model == "tau":
        from tracestore.simulators.tau import tau  # needs an extra

        return tau
    return toys.gum_marsaglia


def make_stores(folder, simulator, name, num_traces, workers=1):
    """Prior traces; returns the store as they come, and the sorted one."""
    path = Path(folder) / f"{name}-{num_traces}"
    store = ts.simulate(simulator, path, num_traces=num_traces, workers=workers, seed=1)
    return store, ts.sort_store(path, path.with_name(f"{path.name}-sorted"))


def make_network(store, config, batches, modules=None):
    """A network as the verb `train` makes it, with rows for all addresses of some batches."""
    dataset = TraceDataset(store)
    chosen = np.linspace(0, len(store) - 1, min(NUM_FIT_TRACES, len(store))).astype(int)
    network = ProposalNetwork(store.observation_shapes, config, modules=modules)
    network.observation.fit(dataset[np.unique(chosen)].observations)
    for batch in batches:
        network.grow(network.unknown_sites(batch))
    return network


def make_trainer(network, num_steps=1000, **options):
    """A trainer of one rank for a network that has all its rows."""
    return Trainer(network, TrainConfig(**options), num_steps=num_steps, grows=False)


def cut_by_type(dataset, indices):
    """The parts of a minibatch that hold one trace type each."""
    kind = dataset[indices].layout_index.numpy()
    return tuple(dataset[indices[kind == one]] for one in np.unique(kind))


def random_batches(num_traces, batch_size, num_batches, seed=0):
    """Indices of minibatches without repetition, in random order."""
    mixed = np.random.default_rng(seed).permutation(num_traces)
    return [mixed[start : start + batch_size] for start in range(0, num_batches * batch_size, batch_size)]


def pure_batches(num_traces, batch_size, num_batches, seed=0):
    """Indices of minibatches of neighbors, spread over the store."""
    places = np.random.default_rng(seed).permutation(num_traces // batch_size)[:num_batches]
    return [np.arange(place * batch_size, (place + 1) * batch_size) for place in places]


def measure(store, ordered, config, batch_size, repeats):
    """Courses by name, and facts about their minibatches."""
    dataset, ordered_dataset = TraceDataset(store), TraceDataset(ordered)
    num_batches = len(store) // batch_size
    mixed = random_batches(len(store), batch_size, num_batches)
    minibatches = {
        "random": [(dataset[indices],) for indices in mixed],
        "sorted": [(ordered_dataset[indices],) for indices in pure_batches(len(store), batch_size, num_batches)],
        "loop": [cut_by_type(dataset, indices) for indices in mixed],
    }
    network = make_network(store, config, [part for all_of in minibatches.values() for one in all_of for part in one])
    courses = {name: Course(make_trainer(copy.deepcopy(network)), found) for name, found in minibatches.items()}
    for course in courses.values():
        course.trainer.train_step(*course.minibatches[0])  # the first use of anything is slower
    for place in range(repeats * num_batches):
        for course in courses.values():
            course.advance(place)
    types = {name: np.mean([count_types(parts) for parts in course.minibatches]) for name, course in courses.items()}
    return courses, types, network


def count_types(parts):
    """Trace types of a minibatch."""
    return sum(len(np.unique(part.layout_index.numpy())) for part in parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=NUM_TRACES, default=list(NUM_TRACES))
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--network", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--repeats", type=int, default=1, help="passes over the traces")
    parser.add_argument("--folder", help="keep the stores here; the same call takes them from there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="tracestore-orders-") as scratch:
        folder = options.folder or scratch
        heads = ("model", "network (parameters)", "batch", "types, random / sorted", "random, traces/s")
        print(f"| {' | '.join((*heads, 'sorted / random', 'random / loop'))} |")
        print("|---|---|---|---|---|---|---|")
        for model in options.model:
            store, ordered = make_stores(folder, simulator_of(model), model, NUM_TRACES[model])
            for name in options.network:
                if name not in DATA_OF[model]:
                    continue
                is_slow = model == "tau" and name != "default"
                for batch_size in options.batches[: 1 if is_slow else None]:
                    courses, types, network = measure(store, ordered, VARIANTS[name], batch_size, options.repeats)
                    rates = {key: course.rate for key, course in courses.items()}
                    print(
                        f"| {model} | {name} ({network.num_parameters:,}) | {batch_size} "
                        f"| {types['random']:.0f} / {types['sorted']:.1f} | {rates['random']:,.0f} "
                        f"| {rates['sorted'] / rates['random']:.2f} | {rates['random'] / rates['loop']:.1f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
