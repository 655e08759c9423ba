"""How fast a network learns under different orders of the same traces: loss after equal traces, and after equal time.

    python -m benchmarks.convergence FOLDER [--network NETWORK] [--seeds 4] [--epochs E]

Traces are tau decays with an image of 20x35x35 voxels, sorted, 90 % for training. Networks: `example` is that of
`examples/tau.py`, which leaves all draws but the first four of each base address to the prior, so that short and long
traces cost about the same; `every-draw` proposes all draws, so that a batch takes as many recurrent steps as its
longest trace has draws: there alike lengths pay, and one seed of one epoch tells what a step costs, not how it learns.

Early in its training a network stays on a plateau near the loss of the prior, and chance decides when it leaves.
`example, warm` therefore begins with weights that have left it, found by random order, the same for all.

For each seed all orders start from the same weights, have the same schedule and see the same number of traces. They
train in one process and take turns step by step, so that what others do on the machine strikes all alike; seconds are
CPU time of one thread, reading included. FOLDER keeps traces and finished seeds; the same call continues. It ends with
`convergence.txt`, `convergence.json` and `convergence.png` there.
"""

import argparse
import copy
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

import tracestore as ts
from tracestore.samplers.plan import BatchPlan
from tracestore.samplers.policy import BatchPolicy, CostModel
from tracestore.samplers.selection import select_traces
from tracestore.samplers.torch_loader import trace_loader
from tracestore.samplers.trace_dataset import TraceDataset
from tracestore.simulators.tau import tau
from tracestore.training import NetworkConfig, ProposalNetwork, TrainConfig, Trainer

NUM_TRACES = 12_000
BATCH = 64
VALIDATION_FRACTION = 0.1
VALIDATIONS_PER_EPOCH = 2
NUM_FIT_TRACES = 1024
REFERENCE = "random"
LEAST_GAIN = 0.1
"""A network has learned when its loss is so far below the prior's: at first all lose time on a plateau near it."""

# microseconds of a training step of the network `example`, fitted by `benchmarks.imbalance`
MEASURED = CostModel(per_trace=260.0, per_site=0.15)
MEAN_SITES = 117.1
WARM_GAIN = 0.3
"""Where a warm start begins."""


@dataclass(frozen=True)
class PredecessorPlan:
    """pyprob's offline sampler with ten buckets, one rank: fixed chunks of the sorted traces, bucket after bucket.

    As there, the last partial chunk, which has the longest traces, is left out of every epoch.
    """

    indices: np.ndarray
    """Training traces by length, then type."""
    seed: int
    num_buckets: int = 10

    @property
    def num_steps(self):
        return len(self.indices) // BATCH

    def step(self, epoch, step):
        rng = np.random.default_rng((self.seed, epoch))
        buckets = np.array_split(np.arange(self.num_steps), self.num_buckets)
        chunks = np.concatenate([rng.permutation(buckets[bucket]) for bucket in rng.permutation(self.num_buckets)])
        return self.indices[chunks[step] * BATCH : (chunks[step] + 1) * BATCH]


ORDERS = {
    "random": BatchPolicy(global_batch=BATCH, micro=1, order="random"),
    "mixed, atoms of 8": BatchPolicy(global_batch=BATCH, micro=8, order="random"),
    "bucketed, atoms of 1": BatchPolicy(global_batch=BATCH, micro=1),
    "bucketed, atoms of 2": BatchPolicy(global_batch=BATCH, micro=2),
    "bucketed, atoms of 4": BatchPolicy(global_batch=BATCH, micro=4),
    "bucketed, atoms of 8": BatchPolicy(global_batch=BATCH, micro=8),
    "bucketed, mixing 0.3": BatchPolicy(global_batch=BATCH, micro=1, mixing=0.3),
    "measured cost": BatchPolicy(global_batch=BATCH, micro=1, cost=MEASURED),
    "equal cost": BatchPolicy(budget=BATCH * float(MEASURED.of(MEAN_SITES)), micro=1, cost=MEASURED),
    "sorted-pure": BatchPolicy(global_batch=BATCH, micro=BATCH, mixing=0.0),
    "predecessor's": None,
}
"""Bucketed where nothing else is said, with a cost of 1 + sites unless measured; equal cost is a token budget."""

NETWORKS = {
    "example": (NetworkConfig(max_instance=4), 4, tuple(ORDERS)),
    # from weights that have left the plateau near the prior, where chance decides who loses how much time
    "example, warm": (NetworkConfig(max_instance=4), 2, tuple(ORDERS)),
    # more than the longest trace has; the embedding of instance numbers has one row for each
    "every-draw": (
        NetworkConfig(max_instance=16_384),
        1,
        ("random", "mixed, atoms of 8", "bucketed, atoms of 1", "bucketed, atoms of 8", "sorted-pure", "predecessor's"),
    ),
}
"""Network, epochs and orders."""


def make_store(folder):
    """Tau decays, sorted; made once."""
    ts.simulate(tau, folder / "traces", num_traces=NUM_TRACES, workers=2, seed=1)
    return ts.sort_store(folder / "traces", folder / "sorted")


def make_plan(store, order, seed):
    """The batches of one order, over the training traces."""
    status, stream = (np.asarray(store.column(name), np.int64) for name in ("status", "stream"))
    selected = select_traces(status, stream, "train", VALIDATION_FRACTION)
    policy = ORDERS[order]
    if policy is not None:
        return BatchPlan(store.runs, policy, seed, selected=selected)
    runs = store.runs
    length, kind = (np.repeat(column, runs.num_traces) for column in (runs.num_sites, runs.trace_type))
    by_length = np.lexsort((kind, length))
    return PredecessorPlan(by_length[selected[by_length]], seed)


def validation_loader(store):
    return trace_loader(store, global_batch=256, subset="validation", validation_fraction=VALIDATION_FRACTION)


@dataclass
class Training:
    """One network that learns from one order."""

    order: str
    plan: BatchPlan | PredecessorPlan
    trainer: Trainer
    num_traces: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    read_seconds: float = 0.0
    curve: list = field(default_factory=list)

    @property
    def is_finished(self):
        return self.trainer.step == self.trainer.num_steps

    def advance(self, dataset):
        """Read and learn one batch, with the clocks running."""
        epoch, step = divmod(self.trainer.step, self.plan.num_steps)
        indices = self.plan.step(epoch, step)  # an epoch's plan is made with its first step
        wall, cpu = time.perf_counter(), time.process_time()
        batch = dataset[np.sort(indices)]
        self.read_seconds += time.process_time() - cpu
        self.trainer.train_step(batch)
        self.wall_seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu
        self.num_traces += len(indices)

    def validate(self, store):
        """Note the loss, between steps where it is due."""
        due = np.linspace(0, self.plan.num_steps, VALIDATIONS_PER_EPOCH + 1).astype(int)[1:]
        if self.is_finished or (self.trainer.step - 1) % self.plan.num_steps + 1 in due:
            self.curve.append((self.num_traces, self.cpu_seconds, self.trainer.validate(validation_loader(store))))


def new_network(store, dataset, network_name, seed):
    """A network as the verb `train` makes it."""
    chosen = np.sort(np.random.default_rng(seed).choice(len(store), NUM_FIT_TRACES, replace=False))
    first = dataset[chosen]
    network = ProposalNetwork(store.observation_shapes, replace(NETWORKS[network_name][0], seed=seed))
    network.observation.fit(first.observations)
    network.grow(network.unknown_sites(first))
    return network


def warm_network(store, dataset, network_name):
    """The first network that random order takes well below the prior's loss, as it is then."""
    goal = prior_loss_of(store) - WARM_GAIN
    seed = 0
    while True:
        plan = make_plan(store, REFERENCE, seed)
        trainer = Trainer(new_network(store, dataset, network_name, seed), TrainConfig(), num_steps=4 * plan.num_steps)
        training = Training(REFERENCE, plan, trainer)
        while not training.is_finished:
            training.advance(dataset)
            training.validate(store)
            if training.curve and training.curve[-1][2] < goal:
                return trainer.network
        seed += 1


def train_seed(store, network_name, seed, epochs, orders):
    """Train all orders from the same weights, by turns; returns one record each."""
    dataset = TraceDataset(store)
    if "warm" in network_name:
        network = warm_network(store, dataset, network_name)
    else:
        network = new_network(store, dataset, network_name, seed)
    trainings = []
    for order in orders:
        plan = make_plan(store, order, seed)
        trainer = Trainer(copy.deepcopy(network), TrainConfig(), num_steps=epochs * plan.num_steps)
        trainings.append(Training(order, plan, trainer))
    rng = np.random.default_rng(seed)
    while waiting := [training for training in trainings if not training.is_finished]:
        for place in rng.permutation(len(waiting)):
            waiting[place].advance(dataset)
            waiting[place].validate(store)
    return [
        {
            "network": network_name,
            "order": training.order,
            "seed": seed,
            "epochs": epochs,
            "num_steps": training.trainer.num_steps,
            "num_traces": training.num_traces,
            "cpu_seconds": training.cpu_seconds,
            "read_seconds": training.read_seconds,
            "wall_seconds": training.wall_seconds,
            "curve": training.curve,
        }
        for training in trainings
    ]


def mean_and_error(values):
    values = np.asarray(values, float)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(values.mean()), float(error)


def loss_at(record, column, place):
    """Loss of a curve at a number of traces (column 0) or seconds (column 1), interpolated."""
    curve = np.asarray(record["curve"])
    return float(np.interp(place, curve[:, column], curve[:, 2]))


def curve_mean(record):
    """Mean loss of all validations: less a matter of chance than the last."""
    return float(np.mean(record["curve"], axis=0)[2])


def compare(records, network_name, prior_loss):
    """One row per order: losses against those of the reference at the same seed."""
    by_seed: dict[int, dict[str, dict]] = {}
    for record in records:
        if record["network"] == network_name:
            by_seed.setdefault(record["seed"], {})[record["order"]] = record
    rows = []
    for order in NETWORKS[network_name][2]:
        seeds = [found for found in by_seed.values() if {order, REFERENCE} <= set(found)]
        if not seeds:
            continue
        own, other = ([found[name] for found in seeds] for name in (order, REFERENCE))
        # the moment in which the fastest of all has seen all traces
        moments = [min(record["cpu_seconds"] for record in found.values()) for found in seeds]
        losses, reference = ([record["curve"][-1][2] for record in side] for side in (own, other))
        at_moment, reference_then = (
            [loss_at(record, 1, moment) for record, moment in zip(side, moments, strict=True)] for side in (own, other)
        )
        speed, reference_speed = (
            [record["num_traces"] / record["cpu_seconds"] for record in side] for side in (own, other)
        )
        figures = {
            "loss": losses,
            "difference": np.subtract(losses, reference),
            "curve": [curve_mean(record) - curve_mean(first) for record, first in zip(own, other, strict=True)],
            "milliseconds": [1e3 * record["cpu_seconds"] / record["num_steps"] for record in own],
            "speed": np.divide(speed, reference_speed),
            "equal_time": np.subtract(at_moment, reference_then),
        }
        rows.append(
            {"network": network_name, "order": order, "seeds": len(seeds)}
            | {"learned": sum(loss < prior_loss - LEAST_GAIN for loss in losses)}
            | {name: mean_and_error(values) for name, values in figures.items()}
        )
    return rows


def write_table(rows, prior_loss):
    lines = [
        f"validation loss of the prior: {prior_loss:.4f}; differences and speed against `{REFERENCE}`; ms per step"
    ]
    for name, (_, _, orders) in NETWORKS.items():
        chosen = [row for row in rows if row["network"] == name]
        if not chosen:
            continue
        width = max(map(len, orders))
        lines += [
            "",
            f"network {name}, {chosen[0]['seeds']} seeds",
            (
                f"{'order':<{width}}  learned  {'loss':>14}  {'equal traces':>15}  {'all the way':>15}  "
                f"{'equal time':>15}  {'speed':>10}   ms"
            ),
        ]
        for row in chosen:
            pairs = [
                f"{row[key][0]:{form}}+-{row[key][1]:.{digits}f}"
                for key, form, digits in (
                    ("loss", "7.3f", 3),
                    ("difference", "+8.3f", 3),
                    ("curve", "+8.3f", 3),
                    ("equal_time", "+8.3f", 3),
                    ("speed", "4.2f", 2),
                )
            ]
            lines.append(
                f"{row['order']:<{width}}  {row['learned']:>3} of {row['seeds']}  {'  '.join(pairs)}"
                f"  {row['milliseconds'][0]:5.1f}"
            )
    return "\n".join(lines) + "\n"


def draw(records, path):
    """Mean validation loss against traces and against seconds, one row of panels per network."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    colors = colormaps["tab20"]
    names = [name for name in NETWORKS if any(record["network"] == name for record in records)]
    figure = Figure(figsize=(12, 4.5 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 2, squeeze=False)
    for name, row in zip(names, panels, strict=True):
        for place, order in enumerate(NETWORKS[name][2]):
            curves = [record["curve"] for record in records if record["network"] == name and record["order"] == order]
            if not curves:
                continue
            traces, seconds, losses = np.mean(curves, axis=0).T
            style = {"color": colors(list(ORDERS).index(order)), "label": order, "marker": "o", "markersize": 3}
            for panel, places in zip(row, (traces, seconds), strict=True):
                panel.plot(places, losses, "--" if order == REFERENCE else "-", zorder=20 - place, **style)
        row[0].set(xlabel="traces", ylabel="validation loss (-log q per trace)", title=f"network {name}")
        row[1].set(xlabel="seconds (CPU, one thread)", title=f"network {name}")
        row[0].legend(fontsize=8)
        for panel in row:
            panel.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def prior_loss_of(store):
    """Validation loss of a network that leaves everything to the prior."""
    trainer = Trainer(ProposalNetwork(store.observation_shapes), TrainConfig(), num_steps=1)
    return trainer.validate(validation_loader(store))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--network", choices=NETWORKS, default="example")
    parser.add_argument("--seeds", type=int, default=4, help="0 writes the table of what is there")
    parser.add_argument("--epochs", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = args.folder / "results.jsonl"
    store = make_store(args.folder)
    records = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    _, epochs, orders = NETWORKS[args.network]
    epochs = args.epochs or epochs
    for seed in range(args.seeds):
        job = (args.network, seed, epochs)
        done = {record["order"] for record in records if (record["network"], record["seed"], record["epochs"]) == job}
        missing = [order for order in orders if order not in done]
        if missing:
            new = train_seed(store, args.network, seed, epochs, missing)
            records += new
            with results.open("a") as file:
                file.writelines(json.dumps(record) + "\n" for record in new)
            print(f"{args.network}, seed {seed}: {len(new)} orders", flush=True)
    prior_loss = prior_loss_of(store)
    rows = [row for name in NETWORKS for row in compare(records, name, prior_loss)]
    table = write_table(rows, prior_loss)
    (args.folder / "convergence.txt").write_text(table)
    (args.folder / "convergence.json").write_text(json.dumps(rows, indent=2) + "\n")
    draw(records, args.folder / "convergence.png")
    print(table)


if __name__ == "__main__":
    main()
