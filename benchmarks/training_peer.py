"""Training beside the predecessor, pyprob 1.5.0, on the same traces with the same layers, as ratios inside one run.

    python -m benchmarks.training_peer --pyprob-python PATH [--only WORD ...] [--repeats R] [--reading | --curves]

PATH is the interpreter of an environment of its own with pyprob 1.5.0 and a torch. Its half, `pyprob_trainer.py`, runs
in a process that stays and takes turns with this one; one thread on either side.

Traces are simulated here and handed over value by value: Marsaglia's Gaussian, and `shower` of `pyprob_peer.py` with an
observation of 20x35x35. Networks have the layers of the paper on both sides: an embedding of the observations, an LSTM
that sees value, address and family of the draw before, and for every address an embedding, a value embedding and a
proposal of two layers for a mixture of truncated normals. All layers exist before the clock starts, which spares pyprob
a new Adam at every new address.

Steps: forward, backward and update on minibatches that lie in memory. `at most` is the ratio that a library without any
cost but that of its products of matrices and convolutions would reach here. `--reading`: pyprob's own loop over its
sorted files, and this library's loader and trainer over a sorted store. `--curves` compares validation losses after
equal traces in the same order at the same learning rates; both sides count -log q of the same draws, and held-out
traces with an address that was never trained on are left out.
"""

import argparse
import copy
import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.pyprob_peer import shower
from benchmarks.training_orders import make_network, make_stores, make_trainer, pure_batches, random_batches
from tracestore.networks.config import NETWORKS, NetworkConfig
from tracestore.networks.network import ProposalNetwork
from tracestore.samplers.torch_loader import trace_loader
from tracestore.samplers.trace_dataset import TraceDataset
from tracestore.simulators import toys
from tracestore.training import TrainConfig, Trainer
from tracestore.training.schedules import learning_rate

WORKER = Path(__file__).with_name("pyprob_trainer.py")
VOXELS = (20, 35, 35)
RATE = 1e-3
"""pyprob's default learning rate."""
BATCH_OF_READING = 64
SIMULATORS = {"marsaglia": (toys.gum_marsaglia, 8192), "shower": (shower, 1024)}


@dataclass(frozen=True, slots=True)
class Case:
    """One network on one model, in minibatches of one size."""

    name: str
    model: str
    core_size: int
    observation_size: int
    mixture_size: int
    batch: int
    num_steps: int
    """Of a repeat."""
    observation: Literal["auto", "mlp", "cnn3d"] = "auto"
    is_default: bool = False
    """Whether this library's side is its default network, which has other layers."""
    is_linear: bool = False
    """Whether voxels go through a layer of the user's own, as wide as pyprob's, instead of the kind above."""

    @property
    def title(self) -> str:
        """What it is."""
        return f"{self.model}, {self.name}, {self.batch}"

    @property
    def config(self) -> NetworkConfig:
        """This library's network."""
        if self.is_default:
            return NETWORKS["light"]
        return replace(
            NETWORKS["paper"],
            core_size=self.core_size,
            observation_size=self.observation_size,
            mixture_size=self.mixture_size,
            observation=self.observation,
        )

    @property
    def sizes(self) -> dict:
        """pyprob's network."""
        return {"lstm_dim": self.core_size, "proposal_mixture_components": self.mixture_size}

    @property
    def modules(self) -> dict | None:
        """The user's layer."""
        if not self.is_linear:
            return None
        size = self.observation_size
        return {"voxels": nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(VOXELS)), size), nn.ReLU())}

    @property
    def observations(self) -> dict:
        """pyprob's embeddings, together as wide as this library's."""
        size = self.observation_size
        if self.model == "marsaglia":
            return {name: {"dim": size // 2, "depth": 2} for name in ("obs0", "obs1")}
        if self.observation == "cnn3d":
            return {"voxels": {"reshape": [1, *VOXELS], "dim": size}}
        return {"voxels": {"dim": size, "depth": 1}}


CASES = (
    Case("LSTM 128", "marsaglia", 128, 64, 5, 64, 8),
    Case("LSTM 128", "marsaglia", 128, 64, 5, 256, 4),
    Case("LSTM 128", "marsaglia", 128, 64, 5, 1024, 2),
    Case("default network against LSTM 128", "marsaglia", 128, 64, 5, 64, 8, is_default=True),
    Case("default network against LSTM 128", "marsaglia", 128, 64, 5, 1024, 2, is_default=True),
    Case("LSTM 512", "marsaglia", 512, 256, 10, 64, 8),
    Case("LSTM 512", "marsaglia", 512, 256, 10, 1024, 1),
    Case("LSTM 128, feed-forward", "shower", 128, 64, 5, 64, 2, is_linear=True),
    Case("LSTM 128, feed-forward", "shower", 128, 64, 5, 256, 1, is_linear=True),
    Case("LSTM 128, mlp", "shower", 128, 64, 5, 64, 2, observation="mlp"),
    Case("LSTM 512, feed-forward", "shower", 512, 256, 10, 64, 2, is_linear=True),
    Case("default network against LSTM 128, feed-forward", "shower", 128, 64, 5, 64, 2, is_default=True),
    Case("LSTM 128, 3D CNN", "shower", 128, 64, 5, 16, 1, observation="cnn3d"),
)


class Worker:
    """The other side."""

    def __init__(self, python, folder):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        words = [python, "-I", str(WORKER), str(folder)]
        self.process = subprocess.Popen(
            words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __call__(self, do, **options):
        print(json.dumps({"do": do, **options}), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("the process with pyprob has ended")
        return json.loads(answer)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:
            print(file=self.process.stdin, flush=True)
        self.process.wait(timeout=60)


@dataclass(slots=True)
class Line:
    """One comparison."""

    name: str
    most: float = np.inf
    """Traces per second that products of matrices alone would allow."""
    ours: list = field(default_factory=list)
    peers: list = field(default_factory=list)
    """Traces per second of CPU time and of wall time, by repeat."""

    def add(self, num_traces, mine, theirs) -> None:
        """Add a repeat: seconds of either side."""
        self.ours.append([num_traces / seconds for seconds in mine])
        self.peers.append([num_traces / theirs["cpu"], num_traces / theirs["wall"]])

    def render(self) -> str:
        ours, peers = (np.array(side) for side in (self.ours, self.peers))
        pairs = ours[:, 0] / peers[:, 0]
        best = ours.max(0) / peers.max(0)
        return (
            f"| {self.name} | {ours[:, 0].max():,.0f} | {peers[:, 0].max():,.1f} "
            f"| **{best[0]:.1f}** ({pairs.min():.1f}-{pairs.max():.1f}) | {best[1]:.1f} "
            f"| {self.most / peers[:, 0].max():.0f} |"
        )


def hand_over(store, folder):
    """Write the draws of a store as arrays."""
    index = ProposalNetwork(store.observation_shapes, NETWORKS["paper"])
    dataset, parts = TraceDataset(store), []
    (folder / "arrays").mkdir(parents=True)
    for start in range(0, len(store), 1024):
        batch = dataset[np.arange(start, min(start + 1024, len(store)))]
        index.grow(index.unknown_sites(batch))
        plan = index.index.plan(batch)
        order = np.lexsort((np.arange(len(plan.trace)), plan.trace))  # of one trace, step by step
        values, parameters = batch.values.numpy(), batch.parameters.numpy()
        bounds = parameters[plan.parameter[order, None] + np.arange(2)]
        parts.append(
            (np.bincount(plan.trace, minlength=len(batch)), plan.row[order], values[plan.value[order]], bounds)
        )
    rows = index.vocabulary.rows
    if {row.family for row in rows} != {"Uniform"}:
        raise SystemExit("only uniform draws are handed over")
    lengths, address, values, bounds = (np.concatenate(column) for column in zip(*parts, strict=True))
    addresses = np.array([row.key for row in rows])
    np.savez(folder / "traces.npz", lengths=lengths, address=address, values=values, bounds=bounds, addresses=addresses)
    for name in store.observation_shapes:
        column = np.stack([dataset[[place]].observations[name][0].numpy() for place in range(len(store))])
        np.save(folder / "arrays" / f"{name}.npy", column)


def measure_steps(case, store, worker, repeats):
    """Lines for random and for sorted minibatches in memory, and the facts of the case."""
    dataset = TraceDataset(store)
    orders = {
        "random": random_batches(len(store), case.batch, case.num_steps),
        "sorted": pure_batches(len(store), case.batch, case.num_steps),
    }
    ours = {name: [dataset[indices] for indices in order] for name, order in orders.items()}
    network = make_network(store, case.config, [batch for found in ours.values() for batch in found], case.modules)
    trainer = make_trainer(network, learning_rate=RATE)
    needed = np.unique(np.concatenate([indices for order in orders.values() for indices in order])).tolist()
    built = worker("build", sizes=case.sizes, observations=case.observations, rate=RATE, traces=needed)
    lines = {name: Line(f"{case.title}, {name}", products_rate(network, found)) for name, found in ours.items()}
    types = {}
    for repeat in range(repeats + 1):
        for name, order in orders.items():
            mine = timed(lambda: [trainer.train_step(batch) for batch in ours[name]])  # noqa: B023  # called at once
            theirs = worker("steps", batches=[indices.tolist() for indices in order])
            types[name] = np.mean(theirs["types"])
            if repeat:  # the first round warms up
                lines[name].add(theirs["num_traces"], mine, theirs)
    facts = (
        f"{case.title}: {network.num_parameters:,} parameters, pyprob {built['num_parameters']:,}; "
        f"{types['random']:.1f} types in a random minibatch, {types['sorted']:.1f} in a sorted one"
    )
    if case.observation == "cnn3d":
        facts += f"; the CNN alone is {cnn_share(network, ours['random'], trainer):.0%} of our step"
    return list(lines.values()), facts


def timed(call):
    """CPU and wall seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def products_rate(network, batches):
    """Traces per second if products and convolutions, at the speed of the core's own product, were all there is."""
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            loss = -network.trace_log_probs(network.steps(batch), network.embed(batch.observations)).sum()
            loss.backward()
    network.zero_grad()
    weight_GI = network.core.cell.weight_ih_l0.detach()
    x_PI = torch.randn(512, weight_GI.shape[1])
    seconds = min(timed(lambda: [x_PI @ weight_GI.t() for _ in range(10)])[0] / 10 for _ in range(5))
    speed = 2 * x_PI.numel() * len(weight_GI) / seconds
    return speed / counter.get_total_flops() * sum(map(len, batches))


def cnn_share(network, batches, trainer):
    """The share of a step that the embedding of the observations takes, forward and backward."""

    def embed():
        for batch in batches:
            network.embed(batch.observations).sum().backward()

    embed()
    return timed(embed)[0] / timed(lambda: [trainer.train_step(batch) for batch in batches])[0]


def measure_reading(case, store, worker, num_traces, repeats):
    """A line for training from files: loops of either side over sorted traces."""
    dataset = TraceDataset(store)
    network = make_network(store, case.config, [dataset[np.arange(len(store))]], case.modules)
    trainer = make_trainer(network, learning_rate=RATE)
    loader = trace_loader(store, global_batch=case.batch)
    worker("build", sizes=case.sizes, observations=case.observations, rate=RATE, traces=list(range(len(store))))
    line = Line(f"{case.title}, with reading", products_rate(network, [dataset[np.arange(case.batch)]]))

    def train():
        seen = 0
        while seen < num_traces:
            for batch in loader:
                trainer.train_step(batch)
                seen += len(batch)
                if seen >= num_traces:
                    break
            loader.seek(loader.epoch + 1)

    for repeat in range(repeats + 1):
        mine = timed(train)
        theirs = worker("learn", num_traces=num_traces, batch_size=case.batch, rate=RATE)
        if repeat:
            line.add(theirs["num_traces"], mine, theirs)
    return line


def compare_losses(store, worker, batch_size, epochs, rates):
    """Rows of validation losses after equal traces in the same order."""
    case = Case("LSTM 128", "marsaglia", 128, 64, 5, batch_size, 0)
    dataset, rng = TraceDataset(store), np.random.default_rng(0)
    mixed = rng.permutation(len(store))
    held_out, trained = mixed[:2048], mixed[2048:]
    num_steps = epochs * (len(trained) // batch_size)
    order = np.concatenate([rng.permutation(trained)[: len(trained) // batch_size * batch_size] for _ in range(epochs)])
    batches = order.reshape(num_steps, batch_size)
    network = make_network(store, case.config, [dataset[trained]])
    is_known = np.array([not network.unknown_sites(dataset[[place]]) for place in held_out])
    held_out = held_out[is_known]
    rows = []
    for rate, schedule in rates:
        config = TrainConfig(learning_rate=rate, final_learning_rate=0.01 * rate, schedule=schedule)
        trainer = Trainer(copy.deepcopy(network), config, num_steps=num_steps, grows=False)
        worker("build", sizes=case.sizes, observations=case.observations, rate=rate, traces=trained.tolist())
        done = 0
        for stop in np.linspace(0, num_steps, 9).astype(int)[1:]:
            for indices in batches[done:stop]:
                trainer.train_step(dataset[indices])
            steps = range(done, stop)
            their_rates = [learning_rate(config, step, num_steps, batch_size=None) for step in steps]
            worker("steps", batches=batches[done:stop].tolist(), rates=their_rates)
            done = stop
            mine = trainer.validate([dataset[held_out]])
            theirs = worker("validate", traces=held_out.tolist())["loss"]
            rows.append(
                f"| {schedule}, {rate:g} | {stop * batch_size:,} | {mine:.4f} | {theirs:.4f} | {mine - theirs:+.4f} |"
            )
            print(rows[-1], flush=True)
    prior = -float(network.steps(dataset[held_out]).log_prior.sum()) / len(held_out)
    return rows, prior, len(held_out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pyprob-python", required=True, help="interpreter of an environment with pyprob 1.5.0")
    parser.add_argument("--only", nargs="*", default=[], help="cases whose title holds all of these words")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reading", action="store_true", help="measure training from files instead")
    parser.add_argument("--curves", action="store_true", help="compare losses instead of speeds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [case for case in CASES if all(word in case.title for word in options.only)]
    with tempfile.TemporaryDirectory(prefix="tracestore-training-peer-") as scratch:
        for model in dict.fromkeys(case.model for case in cases):
            folder = Path(scratch) / model
            simulator, num_traces = SIMULATORS[model]
            store = make_stores(folder, simulator, model, num_traces)[1]
            hand_over(store, folder)
            with Worker(options.pyprob_python, folder) as worker:
                run(store, worker, [case for case in cases if case.model == model], options)


def run(store, worker, cases, options):
    """Measure what was asked for on one model and print it."""
    if options.curves:
        print("| learning rate | traces | validation loss | pyprob's | difference |\n|---|---|---|---|---|")
        if cases[0].model == "marsaglia":
            _, prior, count = compare_losses(store, worker, 64, 4, [(1e-3, "constant"), (4e-3, "cosine")])
            print(f"{count} held-out traces; the loss of the prior is {prior:.4f}")
        return
    print("| model, network, minibatch, order | traces/s | pyprob | ratio of CPU time | of wall time | at most |")
    print("|---|---|---|---|---|---|")
    found = []
    if options.reading:
        worker("write", num_traces=len(store))
        for case in (case for case in cases if case.batch == BATCH_OF_READING and case.observation != "cnn3d"):
            line = measure_reading(case, store, worker, case.batch * case.num_steps * 2, options.repeats)
            print(line.render(), flush=True)
        return
    for case in cases:
        lines, facts = measure_steps(case, store, worker, options.repeats)
        found.append(facts)
        print(*(line.render() for line in lines), sep="\n", flush=True)
    print(*found, sep="\n")


if __name__ == "__main__":
    main()
