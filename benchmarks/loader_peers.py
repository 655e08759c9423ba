"""Loaders of other projects beside this one, on the same records, in one run.

    OMP_NUM_THREADS=1 python -m benchmarks.loader_peers --peer NAME=PYTHON [--peer NAME=PYTHON ...] [--scale S]

NAME is `datasets`, `webdataset` or `streaming`; PYTHON is the interpreter of an environment that has it, numpy and
torch. Records are traces of about 100 draws with a float32 observation of 20x35x35, sorted, 2,048 at scale 1: 200 MB,
once more for each loader and twice for this one, in a temporary folder that is removed at the end.

Every loader delivers shuffled batches of torch tensors, in a fresh process each time, by turns: in each round, this
library's and all peers' with the same number of workers. The first pass of a process is not timed: it fills the page
cache, starts the workers, and sums all numbers, which must agree between loaders. Then come passes whose best, over all
rounds, counts. Two lines stand for this library: its default order, and any trace after any other, which is what
the peers do (WebDataset within its buffer).
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.loader_worker import SHAPE
from benchmarks.synthetic import NUM_LAYOUTS, make_batch, make_layout
from tracestore import TraceStore, sort_store

WORKER = Path(__file__).with_name("loader_worker.py")
OURS = ("tracestore", "tracestore-shuffle")
PEERS = {
    "datasets": ("datasets", "datasets-arrow"),
    "streaming": ("streaming", "streaming-local"),
    "webdataset": ("webdataset",),
}
"""Loaders of each project: as its guide shows it, and tuned."""
LEAST_DRAWS = 80
PER_SEGMENT = 256
MEGABYTE = 1e6


def make_records(num_traces, seed):
    """Traces as in other benchmarks, but of 81 to 120 draws."""
    batch = make_batch(num_traces, seed)
    layouts = tuple(make_layout(LEAST_DRAWS - 10 + kind) for kind in range(NUM_LAYOUTS))
    totals = {
        name: sum(getattr(layouts[kind], name) for kind in batch.layout_index)
        for name in ("num_values", "num_sites", "num_parameters")
    }
    rng = np.random.default_rng(seed)
    return replace(
        batch,
        layouts=layouts,
        values=rng.normal(size=totals["num_values"]),
        log_probs=rng.normal(size=totals["num_sites"]),
        parameters=rng.normal(size=totals["num_parameters"]),
    )


def write_records(folder, num_traces):
    """A sorted store, and the same traces in the same order as plain numbers; statistics, and the bytes of a trace."""
    unsorted = TraceStore.create(folder / "unsorted")
    with unsorted.writer() as writer:
        for seed in range(num_traces // PER_SEGMENT):
            writer.append(make_records(PER_SEGMENT, seed))
            writer.seal()
    store = sort_store(folder / "unsorted", folder / "tracestore")
    shutil.rmtree(folder / "unsorted")
    shape = (len(store), *SHAPE)
    observations = np.lib.format.open_memmap(folder / "observations.npy", "w+", np.float32, shape)
    types, rows = [], []
    for start in range(0, len(store), PER_SEGMENT):
        batch = store.take(np.arange(start, start + PER_SEGMENT))
        observations[start : start + len(batch)] = batch.observations["detector"]
        types.append(batch.trace_types.astype(np.int64))
        sites, values, parameters = batch.site_offsets, batch.value_offsets, batch.parameter_offsets
        for index in range(len(batch)):
            rows += [
                batch.values[values[index] : values[index + 1]],
                batch.log_probs[sites[index] : sites[index + 1]],
                batch.parameters[parameters[index] : parameters[index + 1]],
            ]
    observations.flush()
    sizes = np.array([len(row) for row in rows]).reshape(-1, 3).sum(axis=1)
    np.save(folder / "types.npy", np.concatenate(types))
    np.save(folder / "offsets.npy", np.concatenate(([0], np.cumsum(sizes))))
    np.save(folder / "rows.npy", np.concatenate(rows))
    return store.stats(), (observations.nbytes + int(sizes.sum()) * 8) / len(store)


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs stages of the worker, each in the environment of its loader."""

    folder: Path
    pythons: dict[str, str]
    timeout: float

    def run(self, stage, loader, **options):
        words = [self.pythons.get(loader, sys.executable), str(WORKER), stage, loader, str(self.folder)]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_OFFLINE": "1"}
        if loader in OURS:
            environment["PYTHONPATH"] = str(WORKER.parents[1])
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=self.timeout, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])


@dataclass(slots=True)
class Rates:
    """Passes of one loader with one number of workers."""

    loader: str
    num_workers: int
    num_traces: int = 0
    rounds: list[list[float]] = field(default_factory=list)

    def add(self, found):
        self.num_traces = found["sums"]["num_traces"]
        self.rounds.append(found["seconds"])

    @property
    def best(self):
        return self.num_traces / min(map(min, self.rounds))

    def times(self, other):
        """How many times as fast as another: best against best, and in brackets the range over rounds."""
        pairs = [min(theirs) / min(ours) for ours, theirs in zip(self.rounds, other.rounds, strict=True)]
        return f"{self.best / other.best:.1f} ({min(pairs):.1f}-{max(pairs):.1f})"


def measure(runner, loaders, batch, rounds, passes):
    """Passes of all loaders, by turns; what they delivered that is not what this library does."""
    rates = [Rates(loader, num_workers) for num_workers in (0, 1, 2) for loader in loaders]
    sums: dict[str, int] = {}
    different = set()
    for _ in range(rounds):
        for rate in rates:
            found = runner.run("read", rate.loader, batch=batch, num_workers=rate.num_workers, passes=passes)
            rate.add(found)
            sums = sums or found["sums"]
            different |= {f"{rate.loader}: {name}" for name, number in found["sums"].items() if number != sums[name]}
    return rates, sorted(different)


def table(rates, trace_bytes, disk):
    by_place = {(rate.loader, rate.num_workers): rate for rate in rates}
    lines = [
        "| loader | workers | traces/s | GB/s | MB on disk | this library, default / it | plain shuffle / it |",
        "|---|---|---|---|---|---|---|",
    ]
    for rate in rates:
        ratios = [by_place[ours, rate.num_workers].times(rate) for ours in OURS]
        speed = f"{rate.best:,.0f} | {rate.best * trace_bytes / 1e9:.2f}"
        lines.append(
            f"| {rate.loader} | {rate.num_workers} | {speed} | {disk[rate.loader]:,.0f} | {' | '.join(ratios)} |"
        )
    return lines


def folder_megabytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MEGABYTE


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peer", action="append", required=True, metavar="NAME=PYTHON", help="a loader, and where it is"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the number of traces")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=3, help="timed passes of each process")
    return parser.parse_args()


def main():
    arguments = parse()
    projects = dict(peer.split("=", 1) for peer in arguments.peer)
    pythons = {loader: python for project, python in projects.items() for loader in PEERS[project]}
    num_traces = max(1, round(8 * arguments.scale)) * PER_SEGMENT
    folder = Path(tempfile.mkdtemp(prefix="tracestore-loaders-"))
    try:
        stats, trace_bytes = write_records(folder, num_traces)
        runner = Runner(folder, pythons, timeout=600 * max(1.0, arguments.scale))
        peers = [loader for project in projects for loader in PEERS[project]]
        versions = {runner.run("write", loader)["version"]: loader for loader in peers}
        disk = {loader: folder_megabytes(folder / loader) for loader in peers}
        disk |= dict.fromkeys(OURS, folder_megabytes(folder / OURS[0]))
        rates, different = measure(runner, (*OURS, *peers), arguments.batch, arguments.rounds, arguments.passes)
    finally:
        shutil.rmtree(folder)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; {', '.join(versions)}.")
    print(
        f"{num_traces} traces of {stats.num_sites / num_traces:.0f} sites and {stats.num_trace_types} types, "
        f"{trace_bytes:,.0f} bytes each; batches of {arguments.batch}, {arguments.rounds} rounds of "
        f"{arguments.passes} passes, best of all (in brackets the range over rounds).\n"
    )
    print(*table(rates, trace_bytes, disk), sep="\n")
    print(f"\nDelivered other numbers than this library: {'; '.join(different) or 'none'}.")


if __name__ == "__main__":
    main()
