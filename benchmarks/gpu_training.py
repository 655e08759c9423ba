"""How fast an accelerator trains the paper's network, and whether the loader keeps up with it.

    python -m benchmarks.gpu_training [--device cuda] [--batches 256 1024] [--steps 50] [--peak-tflops 989]
    python -m benchmarks.gpu_training --smoke

Traces are tau decays (extra `sims`; without it, showers of `pyprob_peer.py`) with observations of 20x35x35, in a sorted
store in a temporary folder. The network is `NETWORKS["paper"]`: 3D convolutions, an LSTM of 512, layers for every
address; `--rows base` gives it layers for base addresses instead.

For each batch size and precision:

* `resident`: steps on minibatches whose observations already lie on the device;
* `loader, ...`: the same trainer fed by the loader with its options; the goal is 0.9 of the resident rate;
* share of the peak: floating-point operations of products and convolutions, forward and backward, as torch counts
  them, over time and over `--peak-tflops`, the dense peak of the device in the precision used.

Seconds are wall time between two synchronizations of the device. `--smoke` runs a tiny version anywhere.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training_orders import make_stores, simulator_of
from tracestore.errors import MissingExtraError
from tracestore.networks.config import NETWORKS
from tracestore.networks.network import ProposalNetwork
from tracestore.samplers.torch_loader import trace_loader
from tracestore.samplers.trace_dataset import TraceDataset
from tracestore.training import TrainConfig, Trainer

LOADERS: dict[str, Any] = {
    "in the process": {},
    "a thread ahead": {"prefetch": 2},
    "a thread ahead, pinned": {"prefetch": 2, "pin_memory": True},
    "2 workers": {"num_workers": 2},
    "4 workers": {"num_workers": 4},
    "8 workers, pinned": {"num_workers": 8, "pin_memory": True},
}
SMOKE_LOADERS = ("in the process", "a thread ahead")
NUM_FIT_TRACES = 512
NUM_WARM = 3
MOST_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    batch: int
    precision: str
    compiled: bool
    source: str
    traces_per_second: float
    of_resident: float
    teraflops: float
    of_peak: float | None

    def render(self) -> str:
        """As a line of a table."""
        peak = "-" if self.of_peak is None else f"{self.of_peak:.1%}"
        how = f"{self.precision}{', compiled' if self.compiled else ''}"
        return (
            f"| {self.batch} | {how} | {self.source} | {self.traces_per_second:,.0f} | {self.of_resident:.2f} "
            f"| {self.teraflops:,.2f} | {peak} |"
        )


def make_store(folder, num_traces, workers):
    """A sorted store of decays, or of showers where the decay library is not installed."""
    try:
        return make_stores(folder, simulator_of("tau"), "tau", num_traces, workers)[1]
    except MissingExtraError:
        from benchmarks.pyprob_peer import shower

        return make_stores(folder, shower, "shower", num_traces, workers)[1]


def make_network(store, config):
    """A network with rows for all addresses of the store."""
    network = ProposalNetwork(store.observation_shapes, config)
    chosen = np.linspace(0, len(store) - 1, min(NUM_FIT_TRACES, len(store))).astype(int)
    network.observation.fit(TraceDataset(store)[np.unique(chosen)].observations)
    network.grow(store.sites())
    return network


def synchronize(device):
    """Wait for the device."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def rate(trainer, batches, device, num_warm):
    """Traces per second of steps on minibatches from an iterable."""
    source, num_traces = iter(batches), 0
    for batch in islice(source, num_warm):
        trainer.train_step(batch)
    synchronize(device)
    start = time.perf_counter()
    for batch in source:
        trainer.train_step(batch)
        num_traces += len(batch)
    synchronize(device)
    return num_traces / (time.perf_counter() - start)


def endless(loader):
    """Minibatches, epoch after epoch."""
    while True:
        yield from loader
        loader.seek(loader.epoch + 1)


def resident(batches, device):
    """Minibatches with observations on the device; the small columns stay where the network wants them."""
    return [
        replace(batch, observations={name: x.to(device) for name, x in batch.observations.items()}) for batch in batches
    ]


def count_flops(network, batches):
    """Operations of a trace, forward and backward, as torch counts products and convolutions."""
    num_traces = sum(map(len, batches))
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            loss = -network.trace_log_probs(network.steps(batch), network.embed(batch.observations)).sum()
            loss.backward()
    network.zero_grad()
    return counter.get_total_flops() / num_traces


def measure(store, network, options, batch, precision, loaders):
    """Rows of one batch size in one precision."""
    config = TrainConfig(precision=precision, device=options.device, compile=options.compile)
    trainer = Trainer(network, config, num_steps=10_000, grows=False)
    num_batches = options.steps + options.warm
    kept = resident(islice(endless(trace_loader(store, global_batch=batch)), num_batches), options.device)
    flops = count_flops(network, kept[:2])
    best = rate(trainer, kept, options.device, options.warm)
    del kept
    found = {"resident": best}
    for name in loaders:
        loader = trace_loader(store, global_batch=batch, **LOADERS[name])
        found[f"loader, {name}"] = rate(trainer, islice(endless(loader), num_batches), options.device, options.warm)
    for name, per_second in found.items():
        tera = per_second * flops / 1e12
        peak = tera / options.peak_tflops if options.peak_tflops else None
        yield Row(batch, precision, options.compile, name, per_second, per_second / best, tera, peak)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--loaders", nargs="*", choices=LOADERS, default=list(LOADERS))
    parser.add_argument("--rows", choices=["address", "base"], default="address")
    parser.add_argument("--traces", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warm", type=int, default=NUM_WARM, help="steps before the clock starts")
    parser.add_argument("--peak-tflops", type=float, help="dense peak of the device, for the share of the peak")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--folder", help="keep the store here; the same call takes it from there")
    parser.add_argument("--json", type=Path, help="append one line per row to this file")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on the processor")
    options = parser.parse_args()
    config = replace(NETWORKS["paper"], rows=options.rows)
    if options.smoke:
        options.device, options.batches, options.traces, options.steps = "cpu", [2], 16, 1
        options.warm, options.precisions = 1, options.precisions[:1]
        options.loaders = [name for name in options.loaders if name in SMOKE_LOADERS]
        config = replace(config, core_size=32, observation_size=16, mixture_size=2)
    if options.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        print(torch.cuda.get_device_name())
    with tempfile.TemporaryDirectory(prefix="tracestore-gpu-") as scratch:
        workers = 1 if options.smoke else min(MOST_WORKERS, os.cpu_count() or 1)
        store = make_store(options.folder or scratch, options.traces, workers)
        network = make_network(store, config)
        print(f"{len(store):,} traces, {len(network.vocabulary):,} rows, {network.num_parameters:,} parameters")
        print("| batch | precision | minibatches from | traces/s | of resident | TFLOP/s | of peak |")
        print("|---|---|---|---|---|---|---|")
        for batch in options.batches:
            for precision in options.precisions:
                for row in measure(store, network, options, batch, precision, options.loaders):
                    print(row.render(), flush=True)
                    if options.json:
                        fields = {name: getattr(row, name) for name in row.__dataclass_fields__}
                        with options.json.open("a") as file:
                            file.write(json.dumps(fields | {"device": options.device, "rows": options.rows}) + "\n")


if __name__ == "__main__":
    main()
