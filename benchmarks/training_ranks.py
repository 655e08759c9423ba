"""What ranks send each other for a step of training, against dense gradients, and what a step takes on one and two.

    python -m benchmarks.training_ranks [--ranks 1 2] [--batches 64] [--steps 8]

Only rows that some rank touched are reduced. Networks: one set of layers per base address (the default network), and
one per address (the paper's choice, narrower), on tau decays. The global minibatch is the same on any number of ranks;
each takes its share. Minibatches lie in memory, and the network has rows for all addresses of the store before the
first step. Bytes are those that a rank
gives to the sums of a step; `dense` is what all parameters together would be. Seconds are wall time of the slowest
rank, so two ranks need two idle cores to mean anything.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.training_orders import VARIANTS, make_network, make_stores, random_batches, simulator_of
from tracestore import TraceStore
from tracestore.samplers.trace_dataset import TraceDataset
from tracestore.training import TrainConfig, Trainer
from tracestore.training.communicator import open_communicator

NETWORKS = ("default", "own layers per address")


def train_rank(path, name, batch_size, num_steps):
    """Train on this rank's share; rank 0 prints what a step took."""
    torch.set_num_threads(1)
    store = TraceStore.open(path)
    dataset = TraceDataset(store)
    order = random_batches(len(store), batch_size, num_steps + 1)
    network = make_network(store, VARIANTS[name], [])
    network.grow(store.sites())
    with open_communicator("auto") as ranks:
        shares = [dataset[indices[ranks.rank :: ranks.num_ranks]] for indices in order]
        trainer = Trainer(network, TrainConfig(), num_steps=1000, communicator=ranks, grows=False)
        trainer.train_step(shares[0])
        start = time.perf_counter()
        records = [trainer.train_step(share) for share in shares[1:]]
        seconds = time.perf_counter() - start
        found = {
            "num_parameters": network.num_parameters,
            "reduced": float(np.mean([record.reduced_bytes for record in records])),
            "dense": float(np.mean([record.dense_bytes for record in records])),
            "seconds": seconds / num_steps,
            "sync": sum(record.times.sync for record in records) / seconds,
            "loss": records[-1].loss,
        }
        if ranks.rank == 0:
            print(json.dumps(found), flush=True)


def launch(num_ranks, path, name, batch_size, num_steps):
    """Run ranks in processes of their own; what rank 0 printed."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    words += ["-m", "benchmarks.training_ranks", "--rank-of", str(path), name, str(batch_size), str(num_steps)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batches", nargs="+", type=int, default=[64])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--folder", help="keep the stores here; the same call takes them from there")
    parser.add_argument("--traces", type=int, default=20_000, help="traces of the store, at least --steps minibatches")
    parser.add_argument("--rank-of", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_of:
        path, name, batch_size, num_steps = options.rank_of
        train_rank(path, name, int(batch_size), int(num_steps))
        return
    with tempfile.TemporaryDirectory(prefix="tracestore-ranks-") as scratch:
        folder = Path(options.folder or scratch)
        make_stores(folder, simulator_of("tau"), "tau", options.traces)
        path = folder / f"tau-{options.traces}"
        heads = ("network (parameters)", "batch", "ranks", "kB summed", "kB dense", "dense / summed", "ms a step")
        print(f"| {' | '.join((*heads, 'in sync', 'loss'))} |")
        print("|---|---|---|---|---|---|---|---|---|")
        for name in NETWORKS:
            for batch_size in options.batches:
                for num_ranks in options.ranks:
                    found = launch(num_ranks, path, name, batch_size, options.steps)
                    ratio = found["dense"] / found["reduced"] if found["reduced"] else float("nan")
                    print(
                        f"| {name} ({found['num_parameters']:,}) | {batch_size} | {num_ranks} "
                        f"| {found['reduced'] / 1e3:,.0f} | {found['dense'] / 1e3:,.0f} | {ratio:.1f} "
                        f"| {1e3 * found['seconds']:,.0f} | {found['sync']:.0%} | {found['loss']:.6f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
