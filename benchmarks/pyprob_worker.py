"""The predecessor's half of `pyprob_peer.py` and `pyprob_sort.py`; runs in an environment of its own.

That has pyprob, numpy and torch only.

    python pyprob_worker.py write   FOLDER --num-traces N --per-file K
    python pyprob_worker.py prepare FOLDER --num-traces N --per-file K
    python pyprob_worker.py read    FOLDER --batches B
    python pyprob_worker.py sort    FOLDER --model marsaglia|shower --num-traces N --per-file K

Each stage prints one line of JSON. A process that has opened an offline data set of pyprob 1.5.0 does not come to an
end by itself, so that this one leaves without shutting the interpreter down.
"""

import argparse
import contextlib
import io
import json
import math
import os
import sys
import time
import traceback
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyprob  # type: ignore[import-not-found]  # not among this project's dependencies
import torch
from pyprob import Model
from pyprob.distributions import Normal, Uniform  # type: ignore[import-not-found]
from pyprob.nn import Batch, OfflineDataset, TraceBatchSampler  # type: ignore[import-not-found]
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

BATCH = 64
SHAPE = (20, 35, 35)
NOISE = 0.5


class GumMarsaglia(Model):
    """The draws of `tracestore.simulators.toys.gum_marsaglia`."""

    def forward(self):
        s = 1.0
        while s >= 1.0:
            x = pyprob.sample(Uniform(-1, 1))
            y = pyprob.sample(Uniform(-1, 1))
            s = float(x) ** 2 + float(y) ** 2
        mu = 1 + math.sqrt(5) * x * math.sqrt(-2 * math.log(s) / s)
        likelihood = Normal(mu, math.sqrt(2))
        pyprob.observe(likelihood, name="obs0")
        pyprob.observe(likelihood, name="obs1")
        return mu


class Shower(Model):
    """The draws of `shower` in `pyprob_peer.py`."""

    def forward(self):
        energy = float(pyprob.sample(Uniform(1, 3), address="energy"))
        number = 2 + int(5 * float(pyprob.sample(Uniform(0, 1), address="number")))
        parts = []
        for part in range(number):
            u = v = 1.0
            while u * u + v * v >= 1.0:
                u = float(pyprob.sample(Uniform(-1, 1), address=f"u{part}"))
                v = float(pyprob.sample(Uniform(-1, 1), address=f"v{part}"))
                share = float(pyprob.sample(Uniform(0, 1), address=f"share{part}"))
            parts.append((u, v, share))
        pyprob.observe(Normal(torch.from_numpy(image(energy, parts)), NOISE), name="voxels")


def image(energy, parts):
    """Mean deposits: a blob for each part, as in `pyprob_peer.py`."""
    u, v, share = np.asarray(parts, np.float32).T
    centers = (3.0 + 4.0 * share * energy, 17.0 + 8.0 * u, 17.0 + 8.0 * v)
    z, x, y = (
        np.exp(-0.5 * (np.arange(size, dtype=np.float32) - center[:, None]) ** 2)
        for size, center in zip(SHAPE, centers, strict=True)
    )
    return np.einsum("pi,pj,pk->ijk", z * (10.0 * energy * share)[:, None], x, y, optimize=True).astype(np.float32)


class Timer:
    """Wall time and CPU time (this process, all threads) of a block."""

    def __enter__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *exception):
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu

    def of(self, num_traces):
        return {"num_traces": num_traces, "wall": self.wall, "cpu": self.cpu}


def write(arguments):
    model = GumMarsaglia()
    model.save_dataset(str(arguments.folder / "warm"), num_traces=64, num_traces_per_file=64)
    traces = arguments.folder / "traces"
    with Timer() as timer:
        model.save_dataset(str(traces), num_traces=arguments.num_traces, num_traces_per_file=arguments.per_file)
    num_bytes = sum(path.stat().st_size for path in traces.iterdir())
    return {
        "write": timer.of(arguments.num_traces),
        "num_bytes": num_bytes,
        "versions": {name: version(name) for name in ("pyprob", "torch", "numpy", "sqlitedict")},
    }


def prepare(arguments):
    """Generate, sort, and hand over what was drawn, so that the other side stores the same traces."""
    traces, ordered = str(arguments.folder / "traces"), str(arguments.folder / "sorted")
    Shower().save_dataset(traces, num_traces=arguments.num_traces, num_traces_per_file=arguments.per_file)
    with Timer() as timer:
        dataset = OfflineDataset(traces)
        dataset.save_sorted(ordered, num_traces_per_file=arguments.per_file)
    draws, lengths = [], []
    voxels = np.empty((len(dataset), *SHAPE), np.float32)
    for index, trace in enumerate(dataset[index] for index in range(len(dataset))):
        draws += [float(variable.value) for variable in trace.variables_controlled]
        lengths.append(len(trace.variables_controlled))
        voxels[index] = trace.named_variables["voxels"].value.numpy()
    np.savez(arguments.folder / "draws.npz", draws=np.array(draws), lengths=np.array(lengths), voxels=voxels)
    num_bytes = sum(path.stat().st_size for path in Path(ordered).iterdir())
    return {"sort": timer.of(len(dataset)), "num_bytes": num_bytes}


def sort(arguments):
    """Generate, then sort as a user has to: the first open hashes every trace, `save_sorted` writes them anew."""
    traces, ordered = str(arguments.folder / "traces"), str(arguments.folder / "sorted")
    model = {"marsaglia": GumMarsaglia, "shower": Shower}[arguments.model]()
    model.save_dataset(traces, num_traces=arguments.num_traces, num_traces_per_file=arguments.per_file)
    with Timer() as opening:
        dataset = OfflineDataset(traces)
    with Timer() as saving:
        dataset.save_sorted(ordered, num_traces_per_file=arguments.per_file)
    num_bytes = sum(path.stat().st_size for path in Path(ordered).iterdir())
    versions = {name: version(name) for name in ("pyprob", "torch", "numpy", "sqlitedict")}
    times = {"open": opening.of(arguments.num_traces), "save": saving.of(arguments.num_traces)}
    return {**times, "num_bytes": num_bytes, "versions": versions}


def read(arguments):
    """Read minibatches of the sorted set: in order, whole batches shuffled (pyprob's own way), traces shuffled."""
    dataset = OfflineDataset(str(arguments.folder / "sorted"))
    samplers = {
        "in_order": TraceBatchSampler(dataset, batch_size=BATCH, shuffle_batches=False),
        "batches_shuffled": TraceBatchSampler(dataset, batch_size=BATCH, shuffle_batches=True),
        "traces_shuffled": BatchSampler(RandomSampler(dataset), BATCH, drop_last=True),
    }
    next(iter(DataLoader(dataset, batch_size=BATCH, collate_fn=Batch)))
    found = {}
    for name, sampler in samplers.items():
        num_traces = 0
        loader = iter(DataLoader(dataset, batch_sampler=sampler, num_workers=0, collate_fn=Batch))
        with Timer() as timer:
            for _, batch in zip(range(arguments.batches), loader, strict=False):
                num_traces += len(batch)
        found[name] = timer.of(num_traces)
    return found


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["prepare", "read", "sort", "write"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-traces", type=int, default=BATCH, help="a multiple of --per-file")
    parser.add_argument("--per-file", type=int, default=BATCH)
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--model", choices=["marsaglia", "shower"], default="marsaglia")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main(arguments):
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    pyprob.set_verbosity(0)
    pyprob.seed(arguments.seed)
    stage = {"write": write, "prepare": prepare, "read": read, "sort": sort}[arguments.stage]
    with contextlib.redirect_stdout(io.StringIO()):  # progress, and a line for every trace type
        found = stage(arguments)
    print(json.dumps(found))


if __name__ == "__main__":
    options, status = parse(), 1
    try:
        main(options)
        status = 0
    except BaseException:  # noqa: BLE001  # whatever happened, the process has to end
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
