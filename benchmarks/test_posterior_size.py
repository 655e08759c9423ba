"""A million posterior draws of one tau decay: bytes on disk and memory while writing. The target is 200 MB.

Real runs of the engines are short; a million draws are then written through `TraceStore.writer` with their layouts.
Draws of importance sampling (and of inference compilation) get the lengths of real decays and fresh numbers; chains are
the real ones, repeated with other numbers, so that what they rejected, and how long they stayed, remains true.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.test_open import measure_apart
from tracestore import TraceStore
from tracestore.inference import RMHConfig, importance, rmh
from tracestore.traces import TRACE_COLUMNS, Layout, Site, TraceBatch

NUM_DRAWS = 1_000_000
NUM_REAL = 8_000
CHAINS = 4
TARGET = 200e6
SMALL_SEGMENT = 2**26
LONG = pytest.mark.timeout(3_600)
DRAW = "tauola.random"


def disk_bytes(path):
    """Bytes of everything in a store, by kind of file."""
    found: Counter[str] = Counter()
    for file in Path(path).rglob("*"):
        if file.is_file():
            found[file.name if file.parts[-3] == "segments" else file.parent.name] += file.stat().st_size
    return found


def biggest(sizes, num_draws):
    return ", ".join(f"{name} {size / num_draws:.1f}" for name, size in sizes.most_common(7))


def decay_lengths(num_decays):
    """Draws that TAUOLA takes for decays with momenta from the prior, shape ``(num_decays,)``."""
    from tracestore.simulators.tau import library

    rng = np.random.default_rng(1)
    lengths = []
    for momentum in rng.uniform([-3.0, -3.0, 40.0], [3.0, 3.0, 50.0], (num_decays, 3)):
        taken = 0

        def draw():
            nonlocal taken
            taken += 1
            return float(rng.random(dtype=np.float32))

        library().decay(tuple(momentum), draw)
        lengths.append(taken - 1)
    return np.array(lengths)


class DistinctDraws:
    """Draws of importance sampling that are all distinct, with the sites and lengths of real ones."""

    def __init__(self, store, lengths):
        trace = store[int(np.argmax(store.take(np.arange(len(store)), observations=()).num_sites))]
        sites = trace.layout.sites
        places = [place for place, site in enumerate(sites) if site.base.startswith(DRAW)]
        self.head, self.tail, self.draws = sites[: places[0]], sites[places[-1] + 1 :], [sites[places[0]]]
        self.observations = {name: np.asarray(seen) for name, seen in trace.observations.items()}
        self.lengths = lengths
        self.layouts: dict[int, Layout] = {}

    def layout(self, length):
        if length not in self.layouts:
            one = self.draws[0]
            fields = (one.kind, one.is_controlled, one.name, one.family, one.shape, one.num_parameters)
            for number in range(len(self.draws) + 1, length + 1):
                self.draws.append(Site(f"{one.base}#{number}", *fields))
            self.layouts[length] = Layout((*self.head, *self.draws[:length], *self.tail))
        return self.layouts[length]

    def batch(self, rng, num_draws, start):
        lengths = self.lengths[rng.integers(0, len(self.lengths), num_draws)]
        # the longest were seen once or twice: spread them as a larger sample would be
        is_long = lengths > np.quantile(self.lengths, 0.95)
        lengths = np.where(is_long, (lengths * rng.uniform(0.9, 1.1, num_draws)).astype(int), lengths)
        distinct, index = np.unique(lengths, return_inverse=True)
        layouts = tuple(map(self.layout, distinct.tolist()))
        sizes = {
            name: np.array([getattr(layout, f"num_{name}") for layout in layouts])[index]
            for name in ("values", "sites", "parameters")
        }
        likelihood = rng.normal(-1e4, 1e3, num_draws)
        log_probs = np.zeros(sizes["sites"].sum())
        log_probs[np.cumsum(sizes["sites"]) - 1] = likelihood
        columns: dict[str, Any] = {name: np.zeros(num_draws, dtype) for name, dtype in TRACE_COLUMNS}
        columns.update(log_likelihood=likelihood, log_weight=likelihood, log_proposal=np.full(num_draws, np.nan))
        columns["stream"] = columns["draw"] = np.arange(start, start + num_draws)
        columns["seconds"] = rng.random(num_draws, np.float32)
        return TraceBatch(
            layouts=layouts,
            layout_index=index.astype(np.int32),
            values=rng.random(sizes["values"].sum(), np.float32).astype(np.float64),
            log_probs=log_probs,
            parameters=np.tile([0.0, 1.0], sizes["parameters"].sum() // 2 + 1)[: sizes["parameters"].sum()],
            observations={
                name: np.broadcast_to(seen, (num_draws, *seen.shape)) for name, seen in self.observations.items()
            },
            **columns,
        )


def write_distinct(real, path, num_draws, num_decays, segment_bytes):
    """Write distinct draws."""
    made = DistinctDraws(TraceStore.open(real), decay_lengths(int(num_decays)))
    rng = np.random.default_rng(2)
    with TraceStore.create(path).writer(segment_bytes=int(segment_bytes)) as writer:
        for start in range(0, int(num_draws), 2_000):
            writer.append(made.batch(rng, min(2_000, int(num_draws) - start), start))


def write_chains(real, path, num_draws, segment_bytes, accept_all):
    """Write the draws of real chains again and again, each time with other numbers and chains."""
    store = TraceStore.open(real)
    order = np.lexsort((store.column("draw"), store.column("chain")))
    with TraceStore.create(path).writer(segment_bytes=int(segment_bytes)) as writer:
        for turn in range(int(num_draws) // len(store)):
            for low in range(0, len(store), 1_000):
                batch = store.take(order[low : low + 1_000])
                writer.append(
                    replace(
                        batch,
                        # equal numbers stay equal, and are single-precision as before
                        values=(batch.values * (1.0 - turn / 2**20)).astype(np.float32).astype(np.float64),
                        chain=batch.chain + np.int32(CHAINS * turn),
                        stream=batch.stream + turn * len(store),
                        accepted=np.ones(len(batch), np.bool_) if accept_all == "all" else batch.accepted,
                    )
                )


def write_apart(name, *arguments):
    """Call a function of this file in a fresh process; its CPU seconds, and peak bytes above the imports."""
    script = f"from benchmarks.test_posterior_size import {name}; step('import'); {name}(*sys.argv[1:]); step('write')"
    found = measure_apart(script, *arguments)
    return found["write"][1], found["write"][2] - found["import"][2]


@pytest.fixture(scope="module")
def real(tmp_path_factory, request):
    """Stores of a short run of each engine on the test event."""
    pytest.importorskip("alouette")
    from tracestore.simulators.tau import tau, test_event

    folder = tmp_path_factory.mktemp("real")
    scale = request.config.getoption("--scale")
    num_draws = CHAINS * max(100, int(NUM_REAL / CHAINS * scale))
    config = RMHConfig(warmup=max(50, int(1_000 * min(scale, 1.0))))
    observation, _ = test_event()
    return {
        "importance": importance(tau, observation, folder / "importance", num_draws=num_draws, seed=1).store,
        "rmh": rmh(tau, observation, folder / "rmh", num_draws=num_draws, chains=CHAINS, seed=1, config=config).store,
    }


@pytest.mark.parametrize("engine", ["importance", "rmh"])
def test_real_run(real, report, engine):
    store = real[engine]
    sizes, stats = disk_bytes(store.path), store.stats()
    report(
        f"posterior, {engine}, {len(store):,} real draws: {sizes.total() / len(store):,.0f} bytes a draw, a million "
        f"of these/target = {sizes.total() / len(store) * 1e6 / TARGET:.1f}; {stats.num_sites / len(store):.0f} sites "
        f"a draw, states/draws = {stats.num_states / len(store):.2f}, {stats.num_layouts} layouts"
    )
    report(f"    bytes a draw: {biggest(sizes, len(store))}")
    report_codecs(report, store, sizes.total() / len(store))


def compressed(store, codec):
    """Bytes by file of two segments, and what a codec would leave of their MiBs: plain, or with bytes split if less."""
    found: dict[str, tuple[int, int]] = {}
    for entry in store.segments[:2]:
        for path in (store.path / "segments" / entry.id).glob("*.arrow"):
            data, left = np.fromfile(path, np.uint8), 0
            for low in range(0, len(data), 2**20):
                block = data[low : low + 2**20]
                split = block[: len(block) // 8 * 8].reshape(-1, 8).T.tobytes()
                left += min(len(pa.Codec(codec).compress(one)) for one in (block.tobytes(), split))
            before = found.get(path.name, (0, 0))
            found[path.name] = (before[0] + len(data), before[1] + left)
    return found


def report_codecs(report, store, bytes_per_draw):
    for codec in ("lz4", "zstd"):
        found = compressed(store, codec)
        before, after = (sum(sizes[place] for sizes in found.values()) for place in (0, 1))
        most = sorted(found, key=found.__getitem__)[-4:][::-1]
        report(
            f"    {codec} would leave {after / before:.3f}, a million draws/target = "
            f"{bytes_per_draw * 1e6 / TARGET * after / before:.2f}: "
            + ", ".join(f"{file} {found[file][1] / found[file][0]:.3f}" for file in most)
        )


def report_store(report, path, title, cpu, peak):
    store = TraceStore.open(path)
    sizes, stats, num_draws = disk_bytes(path), store.stats(), len(store)
    report(
        f"posterior, {title}, {num_draws:,} draws in {len(store.segments)} segments: bytes/target of 200 MB for a "
        f"million = {sizes.total() / num_draws * 1e6 / TARGET:.2f}; {sizes.total() / 1e6:,.1f} MB, states/draws = "
        f"{stats.num_states / num_draws:.2f}, {stats.num_sites / num_draws:.0f} sites a draw, {stats.num_layouts} "
        f"layouts; written in {cpu:.0f} s of CPU, peak {peak / 1e6:,.0f} MB"
    )
    report(f"    bytes a draw: {biggest(sizes, num_draws)}")
    report_codecs(report, store, sizes.total() / num_draws)
    return sizes.total()


@LONG
def test_distinct_draws(real, report, tmp_path, scale):
    num_draws, decays = max(4_000, int(NUM_DRAWS * scale)), max(1_000, int(20_000 * scale))
    cpu, peak = write_apart("write_distinct", real["importance"].path, tmp_path / "all", num_draws, decays, 2**30)
    report_store(report, tmp_path / "all", "all distinct, segments of 1 GiB", cpu, peak)
    few = max(4_000, num_draws // 10)
    cpu, peak = write_apart("write_distinct", real["importance"].path, tmp_path / "few", few, decays, SMALL_SEGMENT)
    report_store(report, tmp_path / "few", "all distinct, segments of 64 MiB", cpu, peak)
    report(f"    peak/segment bytes = {peak / SMALL_SEGMENT:.2f}")


@LONG
def test_chain_draws(real, report, tmp_path, scale):
    source, num_real = real["rmh"].path, len(real["rmh"])
    num_draws = max(1, int(NUM_DRAWS * scale) // num_real) * num_real
    cpu, peak = write_apart("write_chains", source, tmp_path / "all", num_draws, 2**30, "")
    report_store(report, tmp_path / "all", "RMH, segments of 1 GiB", cpu, peak)
    few = max(1, num_draws // 10 // num_real) * num_real
    cpu, peak = write_apart("write_chains", source, tmp_path / "few", few, SMALL_SEGMENT, "")
    shared = report_store(report, tmp_path / "few", "RMH, segments of 64 MiB", cpu, peak)
    report(f"    peak/segment bytes = {peak / SMALL_SEGMENT:.2f}")
    cpu, peak = write_apart("write_chains", source, tmp_path / "unshared", few, SMALL_SEGMENT, "all")
    unshared = report_store(report, tmp_path / "unshared", "RMH, all marked accepted", cpu, peak)
    report(f"    with/without sharing of rejected states = {shared / unshared:.2f}")
