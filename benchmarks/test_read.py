"""Minibatch reads, observations included, against memcpy of the same bytes from a memory map."""

import time

import numpy as np
import pytest

from benchmarks.synthetic import SHAPE, make_batch
from tracestore import TraceStore, sort_store
from tracestore.samplers import BatchPlan, BatchPolicy

BATCH = 64


@pytest.fixture(scope="module")
def stores(tmp_path_factory, request):
    """An unsorted store in eight segments, the same sorted, and a plain file with the sorted store's bytes."""
    folder = tmp_path_factory.mktemp("read")
    per_segment = max(BATCH, int(256 * request.config.getoption("--scale")))
    unsorted = TraceStore.create(folder / "unsorted")
    with unsorted.writer() as writer:
        for seed in range(8):
            writer.append(make_batch(per_segment, seed))
            writer.seal()
    unsorted.refresh()
    ordered = sort_store(folder / "unsorted", folder / "sorted")
    plain = np.memmap(folder / "plain", np.float32, "w+", shape=(len(ordered), *SHAPE))
    for start in range(0, len(ordered), 256):
        chunk = np.arange(start, min(start + 256, len(ordered)))
        plain[chunk] = ordered.take(chunk).observations["detector"]
    plain.flush()
    return folder


def batches_of(store, policy):
    plan = BatchPlan(store.runs, policy, seed=1)
    return [plan.step(0, step) for step in range(plan.num_steps)]


def consecutive(num_traces):
    return [np.arange(start, start + BATCH) for start in range(0, num_traces - BATCH + 1, BATCH)]


def read(store, batches):
    """Read minibatches one after the other; kept ones would need fresh memory each, which costs as much as reading."""
    for indices in batches:
        store.take(indices)


def gather_rows(plain, batches):
    for indices in batches:
        plain[indices]  # the copy is what is measured


def open_plain(folder):
    return np.memmap(folder / "plain", np.float32, "r").reshape(-1, *SHAPE)


def test_consecutive_minibatches(stores, report, seconds):
    store, plain = TraceStore.open(stores / "sorted"), open_plain(stores)
    batches = consecutive(len(store))
    out = np.empty((BATCH, *SHAPE), np.float32)

    def copy():
        for indices in batches:
            np.copyto(out, plain[indices[0] : indices[-1] + 1])

    def copy_fresh():
        for indices in batches:
            np.array(plain[indices[0] : indices[-1] + 1])

    start = time.perf_counter()
    for indices in batches:
        store.take(indices)
    first = time.perf_counter() - start
    again = seconds(lambda: read(store, batches))
    memcpy, fresh = seconds(copy), seconds(copy_fresh)
    rate = len(batches) * BATCH / again
    report(
        f"read {BATCH} consecutive: memcpy/take = {memcpy / again:.2f} into one buffer, {fresh / again:.2f} into new "
        f"ones, {fresh / first:.2f} while verifying; {rate:,.0f} traces/s, {rate * plain[0].nbytes / 1e9:.2f} GB/s"
    )


@pytest.mark.parametrize("name", ["sorted", "unsorted"])
@pytest.mark.parametrize("micro", [1, 8, 64])
def test_mixed_minibatches(stores, report, seconds, name, micro):
    store, plain = TraceStore.open(stores / name), open_plain(stores)
    mixed = batches_of(store, BatchPolicy(global_batch=BATCH, micro=micro))
    straight = consecutive(len(store))
    time_mixed = seconds(lambda: read(store, mixed)) / len(mixed)
    time_straight = seconds(lambda: read(store, straight)) / len(straight)
    gather = seconds(lambda: gather_rows(plain, mixed)) / len(mixed)
    report(
        f"read mixed batches of {BATCH}, atoms of {micro}, {name}: memcpy/take = {gather / time_mixed:.2f}; "
        f"consecutive/mixed = {time_straight / time_mixed:.2f}; {BATCH / time_mixed:,.0f} traces/s"
    )
