"""One address over a million traces against reading everything, and against a copy of the whole column of values.

Dense arrays of a few sites and the observations against a loop over traces.

Times are CPU times: the first call of a fresh store, which verifies the blocks that it touches, and the least of later
ones. Bytes touched are those of the ranges that the first call reads and verifies; beside them what comes from the disk
when nothing is cached, with what the system reads ahead.
"""

import gc
import time
from typing import Any

import numpy as np
import pytest

from benchmarks.test_open import measure_apart
from tracestore import TraceStore
from tracestore.formats.blocks import BlockFile
from tracestore.storage import LocalStorage
from tracestore.storage.local import LocalFile
from tracestore.traces import TRACE_COLUMNS, Layout, Site, SiteKind, TraceBatch

NUM_TRACES = 1_000_000
NUM_ARRAY_TRACES = 200_000
BATCH = 1_024
APPENDED = 20_000
SEGMENT_BYTES = 2**28

OBSERVES = [Site(f"{name}~Normal#1", SiteKind.OBSERVE, False, name, "Normal", (), 2) for name in ("obs0", "obs1")]

COLD = """
import os, pathlib
from tracestore.store import TraceStore
def disk():
    return int(dict(line.split(":") for line in open("/proc/self/io"))["read_bytes"])
for path in pathlib.Path(sys.argv[1]).glob("segments/**/*"):
    if path.is_file():
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
before = disk()
TraceStore.open(sys.argv[1]).values(sys.argv[2])
found.append(("disk", disk() - before))
"""


def draws(name, count):
    return [Site(f"{name}~Uniform#{number}", SiteKind.SAMPLE, True, "", "Uniform", (), 2) for number in range(1, count)]


def marsaglia_layout(num_turns):
    """Pairs of draws until one is inside the circle, then two observes."""
    pairs = [site for both in zip(draws("x", num_turns + 1), draws("y", num_turns + 1), strict=True) for site in both]
    return Layout((*pairs, *OBSERVES))


CASES = {
    "marsaglia": (tuple(map(marsaglia_layout, range(1, 12))), "x~Uniform#1", "x~Uniform#5"),
    "116 sites": ((Layout((*draws("x", 115), *OBSERVES)),), "x~Uniform#60", "x~Uniform#114"),
}


def make_batch(layouts, num_traces, rng, start):
    """Traces with as many turns as rejection takes; uniform draws, and observations that differ."""
    turns = np.minimum(rng.geometric(np.pi / 4, num_traces), len(layouts)) - 1
    index = turns.astype(np.int32)
    sizes = {
        name: int(np.array([getattr(layout, name) for layout in layouts])[index].sum())
        for name in ("num_values", "num_sites", "num_parameters")
    }
    columns: dict[str, Any] = {name: np.zeros(num_traces, dtype) for name, dtype in TRACE_COLUMNS}
    columns["stream"] = np.arange(start, start + num_traces)
    columns["log_prior"] = rng.normal(size=num_traces)
    columns["log_likelihood"] = rng.normal(size=num_traces)
    return TraceBatch(
        layouts=layouts,
        layout_index=index,
        values=rng.random(sizes["num_values"]),
        log_probs=rng.normal(size=sizes["num_sites"]),
        parameters=np.zeros(sizes["num_parameters"]),
        observations={name: rng.normal(size=num_traces) for name in ("obs0", "obs1")},
        **columns,
    )


def cpu_seconds(call):
    start = time.process_time()
    call()
    return time.process_time() - start


@pytest.fixture
def touched(monkeypatch):
    """Ranges that files were asked for, as bytes."""
    sizes = []
    load, ranges, peek = LocalFile.load, LocalFile.ranges, BlockFile.peek

    def count_load(file, start, stop):
        sizes.append(stop - start)
        load(file, start, stop)

    def count_ranges(file, starts, stops):
        sizes.append(int(np.sum(stops) - np.sum(starts)))
        return ranges(file, starts, stops)

    def count_peek(file, start, stop):
        found = peek(file, start, stop)
        sizes.append(found.nbytes)
        return found

    monkeypatch.setattr(BlockFile, "peek", count_peek)
    monkeypatch.setattr(LocalFile, "load", count_load)
    monkeypatch.setattr(LocalFile, "ranges", count_ranges)
    return sizes


def measure(path, call, touched):
    """CPU seconds of the first and of the fastest later call, and bytes that the first touched."""
    store = TraceStore.open(path)
    touched.clear()
    first = cpu_seconds(lambda: call(store))
    num_bytes = sum(touched)
    return first, min(cpu_seconds(lambda: call(store)) for _ in range(3)), num_bytes


def copy_values(store):
    """Copy the values column of every segment, as plain bytes, into one buffer."""
    for entry in store.segments:
        folder = LocalStorage(store.path / "segments" / entry.id)
        data = folder.open("values.arrow" if store.backend == "arrow" else "values/c/0").data
        buffer = np.empty(2**20, np.uint8)
        for low in range(0, len(data), len(buffer)):
            part = data[low : low + len(buffer)]
            buffer[: len(part)] = part


@pytest.mark.parametrize("backend", ["arrow", "zarr"])
@pytest.mark.parametrize("case", CASES)
def test_values(tmp_path, report, scale, touched, backend, case):
    layouts, common, rare = CASES[case]
    num_traces = max(2 * BATCH, int(NUM_TRACES * scale))
    rng = np.random.default_rng(1)
    store = TraceStore.create(tmp_path / "store", backend=backend)
    with store.writer(segment_bytes=SEGMENT_BYTES) as writer:
        for start in range(0, num_traces, APPENDED):
            writer.append(make_batch(layouts, min(APPENDED, num_traces - start), rng, start))
    total = sum(entry.nbytes for entry in store.segments)
    everything = measure(store.path, lambda store: [len(batch) for batch in store.batches(BATCH)], touched)
    column = measure(store.path, copy_values, touched)
    report(
        f"values, {backend}, {case}, {num_traces:,} traces in {len(store.segments)} segments, {total / 1e6:,.0f} MB: "
        f"everything {everything[0]:.2f} s at first, {everything[1]:.2f} s later; copy of the values column "
        f"{column[1]:.3f} s"
    )
    for name in (common, rare, "obs0"):
        first, later, num_bytes = measure(store.path, lambda store: store.values(name), touched)  # noqa: B023 (called at once)
        values, indices = TraceStore.open(store.path).values(name)
        gc.collect()  # what is mapped cannot be dropped from the cache
        (cold,) = measure_apart(COLD, store.path, name)["disk"]
        report(
            f"    {name}, {len(indices):,} traces: everything/values = {everything[0] / first:.0f} at first, "
            f"{everything[1] / later:.0f} later; copy of the column/values = {column[1] / later:.2f}; touched/all = "
            f"{num_bytes / total:.3f} ({num_bytes / 1e6:,.1f} MB for {values.nbytes / 1e6:,.1f} MB of values; "
            f"{cold / 1e6:,.1f} MB from a cold disk); {first:.3f} s at first, {later:.3f} s later"
        )


def loop_over_traces(store, names, num_traces):
    """Make the arrays in the way that comes first to mind."""
    theta, x = [], []
    for index, trace in enumerate(store):
        if index == num_traces:
            break
        theta.append([trace[name] for name in names])
        x.append([trace.observations[name] for name in ("obs0", "obs1")])
    return np.array(theta, np.float32), np.array(x, np.float32)


@pytest.mark.parametrize("case", CASES)
def test_as_arrays(tmp_path, report, scale, case):
    layouts, common, _ = CASES[case]
    names = [common, common.replace("x~", "y~") if case == "marsaglia" else "x~Uniform#114"]
    num_traces = max(2 * BATCH, int(NUM_ARRAY_TRACES * scale))
    store = TraceStore.create(tmp_path / "store")
    rng = np.random.default_rng(2)
    with store.writer(segment_bytes=SEGMENT_BYTES) as writer:
        for start in range(0, num_traces, APPENDED):
            writer.append(make_batch(layouts, min(APPENDED, num_traces - start), rng, start))
    first = cpu_seconds(lambda: TraceStore.open(store.path).as_arrays(names))
    later = min(cpu_seconds(lambda: store.as_arrays(names)) for _ in range(3))
    num_looped = num_traces // 10
    loop = cpu_seconds(lambda: loop_over_traces(store, names, num_looped)) * num_traces / num_looped
    expected = loop_over_traces(store, names, num_looped)
    assert all(map(np.array_equal, store.as_arrays(names, indices=range(num_looped)), expected))
    report(
        f"arrays of 2 sites and 2 observations, {case}, {num_traces:,} traces in {len(store.segments)} segments: "
        f"loop/as_arrays = {loop / first:.0f} at first, {loop / later:.0f} later; {first:.3f} s at first, {later:.3f} "
        f"s later, {loop:.1f} s in a loop (measured on a tenth)"
    )
