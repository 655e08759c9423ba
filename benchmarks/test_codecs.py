"""Minibatches of 64 traces with 20x35x35 observations: each backend and codec against memcpy of the same bytes.

The physical limit is a copy of 64 rows from a memory map of the plain numbers into one buffer; stores read into the
same one. "fresh": both make a new array for each minibatch, as a plain `take` does. Observations are sparse
(about 5 % of the voxels, a calorimeter's) or noisy (every voxel). Ratios of CPU time, least of several passes: what
others do on the machine only adds.
"""

import time
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.synthetic import SHAPE, make_batch
from tracestore import TraceStore

BATCH = 64
PASSES = 9


def observations_of(kind: str, num_traces: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    voxels = np.zeros((num_traces, *SHAPE), np.float32)
    for image in voxels:
        for _ in range(3):
            corner = [int(rng.integers(0, length - 8)) for length in SHAPE]
            block = image[tuple(slice(start, start + 8) for start in corner)]
            block += rng.gamma(1.0, 1.0, block.shape) * (rng.random(block.shape) < 0.8)
    if kind == "noisy":
        voxels += rng.normal(0.0, 0.01, voxels.shape).astype(np.float32)
    return voxels


@pytest.fixture(scope="module", params=["sparse", "noisy"])
def batch(request):
    num_traces = max(BATCH, int(1024 * request.config.getoption("--scale")))
    plain = make_batch(num_traces, 1)
    return request.param, replace(plain, observations={"detector": observations_of(request.param, num_traces)})


def cpu_seconds(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("backend", ["arrow", "zarr"])
def test_minibatches(batch, tmp_path, report, backend, codec):
    kind, traces = batch
    store = TraceStore.create(tmp_path / "store", backend=backend, codec=codec)
    store.append(traces)
    stored = store.take(np.arange(len(store)))
    stored.observations["detector"].tofile(tmp_path / "plain")
    plain = np.memmap(tmp_path / "plain", np.float32, "r").reshape(-1, *SHAPE)
    rng = np.random.default_rng(2)
    consecutive = [np.arange(start, start + BATCH) for start in range(0, len(store) - BATCH + 1, BATCH)]
    random = [rng.permutation(len(store))[:BATCH] for _ in consecutive]
    out = np.empty((BATCH, *SHAPE), np.float32)

    def copy_consecutive():
        for rows in consecutive:
            np.copyto(out, plain[rows[0] : rows[-1] + 1])

    def copy_fresh():
        for rows in consecutive:
            np.array(plain[rows[0] : rows[-1] + 1])

    def copy_random():
        for rows in random:
            for place, row in enumerate(rows.tolist()):
                out[place] = plain[row]

    def read(store, batches):
        for rows in batches:
            store.take(rows, out={"detector": out})

    def take_fresh():
        for rows in consecutive:
            store.take(rows)

    def first_touch():
        fresh = TraceStore.open(tmp_path / "store")
        list(fresh.layouts.values())  # built once per store, whatever is verified
        return cpu_seconds(lambda: read(fresh, consecutive))

    calls = {
        "memcpy": lambda: cpu_seconds(copy_consecutive),
        "memcpy fresh": lambda: cpu_seconds(copy_fresh),
        "take fresh": lambda: cpu_seconds(take_fresh),
        "memcpy random": lambda: cpu_seconds(copy_random),
        "first": first_touch,
        "again": lambda: cpu_seconds(lambda: read(store, consecutive)),
        "random": lambda: cpu_seconds(lambda: read(store, random)),
    }
    passes = [{name: call() for name, call in calls.items()} for _ in range(PASSES)]
    best = {name: min(times[name] for times in passes) for name in calls}
    size = store.stats().observation_bytes / traces.observations["detector"].nbytes
    report(
        f"{kind:6} {backend:5} {codec:4}: memcpy/take = {best['memcpy'] / best['again']:.2f} consecutive "
        f"({best['memcpy fresh'] / best['take fresh']:.2f} fresh), "
        f"{best['memcpy'] / best['first']:.2f} while verifying, {best['memcpy random'] / best['random']:.2f} random; "
        f"{1 / size:.1f} times smaller; {len(consecutive) * BATCH / best['again']:,.0f} traces/s"
    )
