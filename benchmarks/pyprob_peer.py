"""Writing and reading beside the predecessor, pyprob 1.5.0, as ratios inside one run.

    python benchmarks/pyprob_peer.py --pyprob-python PATH [--scale S] [--backend arrow|zarr] [--repeats R]

PATH is the interpreter of an environment of its own with pyprob 1.5.0 and a torch (Python 3.11 at most; pyprob does not
import on later ones). Its half runs in subprocesses of `pyprob_worker.py`, in turns with this one, so that both meet
the same disturbances; one process and one thread on either side.

Writing: prior traces of Marsaglia's Gaussian, simulation included. Reading: traces of `shower` with a float32
observation of 20x35x35; pyprob draws them, and the store holds the same ones, replayed value by value. For each line
the table gives the best of all repeats on either side, their ratio, and in brackets the range of the ratios of the
repeats.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tracestore as ts
from tracestore import TraceStore
from tracestore.samplers.torch_loader import trace_loader
from tracestore.simulators import run_trace
from tracestore.simulators.toys import gum_marsaglia
from tracestore.traces import TraceBatch

BATCH = 64
SHAPE = (20, 35, 35)
NOISE = 0.5
WORKER = Path(__file__).with_name("pyprob_worker.py")
PEER_OBSERVATION_BYTES = 8
"""Two float32 numbers; what pyprob puts around them is not part of the observation."""


@ts.simulator
def shower():
    """Two to six parts, each from a rejection loop of its own, and their image in a calorimeter."""
    energy = ts.sample(ts.Uniform(1.0, 3.0), address="energy")
    number = 2 + int(5 * ts.sample(ts.Uniform(0.0, 1.0), address="number"))
    parts = []
    for part in range(number):
        u = v = 1.0
        while u * u + v * v >= 1.0:
            u = ts.sample(ts.Uniform(-1.0, 1.0), address=f"u{part}")
            v = ts.sample(ts.Uniform(-1.0, 1.0), address=f"v{part}")
            share = ts.sample(ts.Uniform(0.0, 1.0), address=f"share{part}")
        parts.append((u, v, share))
    ts.observe(ts.Normal(image(energy, parts), NOISE), name="voxels", dtype=np.float32)


def image(energy, parts):
    """Mean deposits: a blob for each part, as in `pyprob_worker.py`."""
    u, v, share = np.asarray(parts, np.float32).T
    centers = (3.0 + 4.0 * share * energy, 17.0 + 8.0 * u, 17.0 + 8.0 * v)
    z, x, y = (
        np.exp(-0.5 * (np.arange(size, dtype=np.float32) - center[:, None]) ** 2)
        for size, center in zip(SHAPE, centers, strict=True)
    )
    return np.einsum("pi,pj,pk->ijk", z * (10.0 * energy * share)[:, None], x, y, optimize=True).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Timing:
    """One measurement."""

    num_traces: int
    wall: float
    cpu: float

    def each(self, clock: str) -> float:
        """Seconds per trace."""
        return float(getattr(self, clock)) / self.num_traces


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison, repeated."""

    name: str
    peer_name: str
    goal: float | None
    num_workers: int = 0
    ours: list[Timing] = field(default_factory=list)
    peers: list[Timing] = field(default_factory=list)

    def add(self, ours: Timing, peer: Mapping[str, Any]) -> None:
        self.ours.append(ours)
        self.peers.append(Timing(**peer))

    def ratio(self, clock: str) -> str:
        best = min(timing.each(clock) for timing in self.peers) / min(timing.each(clock) for timing in self.ours)
        pairs = [peer.each(clock) / our.each(clock) for our, peer in zip(self.ours, self.peers, strict=True)]
        return f"{best:,.1f} ({min(pairs):,.0f}-{max(pairs):,.0f})"

    def render(self) -> str:
        rates = [max(1 / timing.each("wall") for timing in timings) for timings in (self.ours, self.peers)]
        goal = "-" if self.goal is None else f">= {self.goal:g}"
        cells = (f"{self.name} / {self.peer_name}", *(f"{rate:,.0f}" for rate in rates))
        # the CPU time of worker processes is not in that of their parent
        cpu = "-" if self.num_workers else self.ratio("cpu")
        return "| " + " | ".join((*cells, self.ratio("wall"), cpu, goal)) + " |"

    def spread(self) -> str:
        """Slowest over best, of either side."""
        slow = [
            max(timing.wall / timing.num_traces for timing in timings)
            / min(timing.wall / timing.num_traces for timing in timings)
            for timings in (self.ours, self.peers)
        ]
        return f"{self.name}: {slow[0]:.2f} and {slow[1]:.2f}"


def timed(call: Callable[[], int]) -> Timing:
    """Measure a call that returns how many traces it dealt with."""
    wall, cpu = time.perf_counter(), time.process_time()
    num_traces = call()
    return Timing(num_traces, time.perf_counter() - wall, time.process_time() - cpu)


@dataclass(frozen=True, slots=True)
class Peer:
    """Runs stages of the worker."""

    python: str
    timeout: float

    def run(self, stage: str, folder: Path, **options: int) -> dict[str, Any]:
        """Run a stage in a process of its own; what it printed."""
        words = [self.python, "-I", str(WORKER), stage, str(folder)]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=self.timeout, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def compare_writing(
    peer: Peer, folder: Path, num_traces: int, backend: str, repeats: int
) -> tuple[str, list[str], Line]:
    """Simulate Marsaglia's Gaussian into both; the peer's versions, rows on sizes, times."""
    per_file = 1000
    num_traces = max(1, round(num_traces / per_file)) * per_file
    line = Line("simulate into a store", "save_dataset", 20)
    generate(folder / "warm", backend, 64)
    for repeat in range(repeats):
        path = folder / f"ours-{repeat}"
        ours = timed(lambda: len(generate(path, backend, num_traces)))  # noqa: B023  # called at once
        theirs = folder / f"peer-{repeat}"
        theirs.mkdir()
        found = peer.run("write", theirs, num_traces=num_traces, per_file=per_file, seed=repeat + 1)
        line.add(ours, found["write"])
    store = TraceStore.open(folder / "ours-0")
    observed = sum(column.nbytes for column in store.take(np.arange(len(store))).observations.values()) / len(store)
    whole, peer_whole = tree_bytes(folder / "ours-0") / num_traces, found["num_bytes"] / num_traces
    rest, peer_rest = whole - observed, peer_whole - PEER_OBSERVATION_BYTES
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    rows = [
        f"| bytes per trace, besides observations | {rest:,.0f} | {peer_rest:,.0f} | {peer_rest / rest:.1f} | >= 10 |",
        f"| bytes per trace, all files | {whole:,.0f} | {peer_whole:,.0f} | {peer_whole / whole:.1f} | - |",
    ]
    return versions, rows, line


def generate(path: Path, backend: str, num_traces: int) -> TraceStore:
    place = ts.StoreLocation(path, backend=backend)
    return ts.simulate(gum_marsaglia, place, num_traces=num_traces, workers=1, seed=1)


def compare_reading(peer: Peer, folder: Path, num_traces: int, backend: str, repeats: int) -> tuple[str, list[Line]]:
    """Read minibatches of the same traces from sorted stores; what was read, and times."""
    per_file = 4 * BATCH
    num_traces = max(1, round(num_traces / per_file)) * per_file
    prepared = peer.run("prepare", folder, num_traces=num_traces, per_file=per_file)
    replay(folder / "draws.npz", folder / "ours", backend)
    ordering = Line("sort", "first open and save_sorted, once", None)
    ordering.add(
        timed(lambda: len(ts.sort_store(folder / "ours", folder / "ours-sorted", segment_bytes=2**28))),
        prepared["sort"],
    )
    require_same(folder / "draws.npz", folder / "ours-sorted")
    names = {
        "first": ("take, 64 consecutive, first pass (checksums)", "in order", "in_order", None),
        "consecutive": ("take, 64 consecutive", "in order", "in_order", 100),
        "shuffled": ("take, 64 shuffled", "traces shuffled", "traces_shuffled", 100),
        "loader": ("trace_loader", "batches shuffled (its default)", "batches_shuffled", 100),
        "best": ("trace_loader", "in order (its best)", "in_order", 100),
        "one": ("trace_loader, 1 worker", "batches shuffled (its default)", "batches_shuffled", 100),
        "two": ("trace_loader, 2 workers", "batches shuffled (its default)", "batches_shuffled", 100),
    }
    workers = {"one": 1, "two": 2}
    lines = {key: Line(name, theirs, goal, workers.get(key, 0)) for key, (name, theirs, _, goal) in names.items()}
    read_ours(folder / "ours-sorted", repeats)  # the first use of anything in a process is slower
    for repeat in range(repeats):
        ours = read_ours(folder / "ours-sorted", repeat)
        theirs = peer.run("read", folder, batches=min(12, num_traces // BATCH), seed=repeat + 1)
        for key, line in lines.items():
            line.add(ours["loader" if key == "best" else key], theirs[names[key][2]])
    stats = TraceStore.open(folder / "ours-sorted").stats()
    draws = stats.num_sites / stats.num_traces - 1
    sizes = [tree_bytes(folder / "ours-sorted") / num_traces, prepared["num_bytes"] / num_traces]
    facts = (
        f"Read: {num_traces} traces of {draws:.1f} draws on average and {stats.num_trace_types} trace types; "
        f"{sizes[0]:,.0f} bytes per trace on disk against {sizes[1]:,.0f}."
    )
    return facts, [*lines.values(), ordering]


def read_ours(path: Path, seed: int) -> dict[str, Timing]:
    """Pass over a sorted store that was just opened, and again in each order; all batches are copied out."""
    store = TraceStore.open(path)
    order = np.arange(len(store))
    mixed = np.random.default_rng(seed).permutation(order)
    loaders = [trace_loader(store, global_batch=BATCH, seed=seed, num_workers=workers) for workers in range(3)]
    for loader in loaders[1:]:
        count(loader)  # starts its workers, which stay
    return {
        "first": timed(lambda: count(store.take(indices) for indices in minibatches(order))),
        "consecutive": timed(lambda: count(store.take(indices) for indices in minibatches(order))),
        "shuffled": timed(lambda: count(store.take(indices) for indices in minibatches(mixed))),
        "loader": timed(lambda: count(loaders[0])),
        "one": timed(lambda: count(loaders[1])),
        "two": timed(lambda: count(loaders[2])),
    }


def minibatches(order: np.ndarray) -> list[np.ndarray]:
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def count(batches: Iterable[Any]) -> int:
    num_traces = 0
    for batch in batches:
        assert batch.observations["voxels"].shape == (len(batch), *SHAPE)
        num_traces += len(batch)
    return num_traces


@dataclass(frozen=True, slots=True)
class Replay:
    """Gives the draws of a run the values of another one, in order."""

    values: Iterator[float]

    def draw(self, site, prior, rng):
        value = next(self.values, None)
        if value is None:
            raise SystemExit(f"the two programs differ: pyprob's ends before {site.address}")
        return value, prior.log_prob(value)


def replay(source: Path, path: Path, backend: str) -> None:
    """Store the traces that pyprob drew."""
    with np.load(source) as arrays:
        draws, lengths, voxels = (arrays[name] for name in ("draws", "lengths", "voxels"))
    store = TraceStore.create(path) if backend == "arrow" else TraceStore.create(path, backend=backend)
    rng = np.random.default_rng(1)
    ends = np.cumsum(lengths)
    with store.writer() as writer:
        for chunk in minibatches(np.arange(len(lengths))):
            traces = []
            for index in chunk.tolist():
                values = draws[ends[index] - lengths[index] : ends[index]].tolist()
                seen = {"voxels": voxels[index]}
                trace = run_trace(shower, Replay(iter(values)), rng, observations=seen, stream=index)
                if trace.failure or len(trace.values) != len(values):
                    raise SystemExit(f"the two programs differ: {len(values)} draws gave {trace!r} {trace.failure}")
                traces.append(trace)
            writer.append(TraceBatch.from_traces(traces))


def require_same(source: Path, path: Path) -> None:
    store = TraceStore.open(path)
    streams = np.asarray(store.column("stream"))
    with np.load(source) as arrays:
        voxels, lengths = arrays["voxels"], arrays["lengths"]
    for chunk in minibatches(np.arange(len(store))):
        batch = store.take(chunk)
        same = np.array_equal(batch.observations["voxels"], voxels[streams[chunk]])
        if not same or len(batch.values) != lengths[streams[chunk]].sum():
            raise SystemExit("the sorted store does not hold the traces that pyprob drew")


def tree_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pyprob-python", required=True, help="interpreter of an environment with pyprob 1.5.0")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the numbers of traces")
    parser.add_argument("--backend", default="arrow", help="format of the store")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    peer = Peer(arguments.pyprob_python, timeout=600 * max(1.0, arguments.scale))
    folder = Path(tempfile.mkdtemp(prefix="tracestore-peer-"))
    try:
        (folder / "write").mkdir()
        (folder / "read").mkdir()
        common = (arguments.backend, arguments.repeats)
        versions, sizes, writing = compare_writing(peer, folder / "write", round(8_000 * arguments.scale), *common)
        facts, reading = compare_reading(peer, folder / "read", round(2_048 * arguments.scale), *common)
    finally:
        shutil.rmtree(folder)
    print(f"Backend {arguments.backend}, Python {platform.python_version()}, {os.cpu_count()} cores; peer: {versions}.")
    print(facts)
    print("\n| this library / pyprob | traces/s | pyprob | ratio of wall time | of CPU time | goal |")
    print("|---|---|---|---|---|---|")
    print(*(line.render() for line in (writing, *reading)), sep="\n")
    print("\n| | this library | pyprob | pyprob / this library | goal |\n|---|---|---|---|---|")
    print(*sizes, sep="\n")
    spreads = {line.name: line.spread() for line in (writing, *reading) if len(line.ours) > 1}
    if spreads:
        print(f"\nSlowest repeat over best, here and there: {'; '.join(spreads.values())}.")


if __name__ == "__main__":
    main()
