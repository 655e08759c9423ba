"""Many processes write to one store, fold, compact and collect; some are killed."""

import contextlib
import multiprocessing
import signal
import time
from collections import Counter

import numpy as np
import pytest

from tests.store.stores import JOB, by_stream, expected_batch, make_chunk
from tests.suites.batches import assert_same
from tracestore.store import TraceStore, compact, gc, recover, verify

pytestmark = pytest.mark.processes

BACKENDS = ["arrow", "zarr"]
METHODS = ["fork", "spawn", "forkserver"]
NUM_KILLS = 12
"""For each backend."""
NUM_WRITERS, UNITS_OF_EACH = 8, 14
KEPT_SECONDS = 4.0
"""Collectors leave alone what is younger; far above what any process here needs between two operations."""


def write_chunks(path, numbers, per_seal):
    store = TraceStore.open(path)
    with store.writer() as writer:
        for place, number in enumerate(numbers):
            writer.append(make_chunk(number), work=[number], state=number)
            if place % per_seal == 0:
                writer.seal()
                store.fold()


def write_forever(path):
    store = TraceStore.open_or_create(path, JOB)
    done = store.completed_work()
    with store.writer() as writer:
        for number in range(10_000):
            if number not in done:
                writer.append(make_chunk(number), work=[number], state=number)
                writer.seal()
                if number % 4 == 0:
                    store.fold()


def compact_forever(path):
    store = TraceStore.open(path)
    while True:
        compact(store)
        time.sleep(0.001)


def write_slowly(path, first):
    """Units of one of `NUM_WRITERS` writers, each sealed for itself."""
    rng = np.random.default_rng(first)
    with TraceStore.open(path).writer() as writer:
        for number in range(first, NUM_WRITERS * UNITS_OF_EACH, NUM_WRITERS):
            writer.append(make_chunk(number), work=[number], state=number)
            writer.seal()
            time.sleep(float(rng.uniform(0.4, 0.8)))


def repeat(action, path, is_over, results):
    """Do something to a store until the writers are done."""
    store = TraceStore.open(path)
    num_done = 0
    while not is_over.wait(0.05):
        num_done += action(store)
    results.put((action.__name__, num_done))


def fold_once(store):
    before = store.version
    return store.fold() - before


def compact_once(store):
    before = store.fold()
    return compact(store) - before


def collect_once(store):
    return len(gc(store, older_than=KEPT_SECONDS).segments)


def read_sum(store):
    everything = store.take(range(len(store)))
    return float(everything.log_probs.sum() + everything.observations["dense"].sum() + store.values("mu")[0].sum())


def num_receipts(path):
    return sum(1 for file in path.glob("receipts/*.json") if not file.name.startswith("."))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_concurrent_writers_and_folders(tmp_path, method):
    TraceStore.create(tmp_path / "store", job=JOB)
    context = multiprocessing.get_context(method)
    num_writers, per_writer = (6, 5) if method == "fork" else (2, 3)
    processes = [
        context.Process(
            target=write_chunks, args=(tmp_path / "store", range(w, num_writers * per_writer, num_writers), 2)
        )
        for w in range(num_writers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    store = TraceStore.open(tmp_path / "store")
    everything = range(num_writers * per_writer)
    assert store.stats().num_pending == 0
    assert store.completed_work() == set(everything)
    assert_same(by_stream(store), expected_batch(everything))
    assert sorted(unit for units, _ in store.work_states() for unit in units) == list(everything)
    assert verify(store, deep=True, log_probs=False) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_killed_processes_lose_only_what_was_not_sealed(tmp_path, backend):
    path = tmp_path / "store"
    TraceStore.create(path, job=JOB, backend=backend, codec="lz4")
    context = multiprocessing.get_context("fork")
    rng = np.random.default_rng(1)
    sealed: set[int] = set()
    for number in range(NUM_KILLS):
        targets = [write_forever, compact_forever] if number % 2 else [write_forever]
        processes = [context.Process(target=target, args=(path,)) for target in targets]
        before = num_receipts(path)
        for process in processes:
            process.start()
        deadline = time.monotonic() + 60
        # let it seal a little, then kill it at a random moment
        while num_receipts(path) < before + 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(float(rng.uniform(0, 0.05)))
        for process in processes:
            process.kill()
        for process in processes:
            process.join(60)
            assert process.exitcode == -signal.SIGKILL
        store = TraceStore.open_or_create(path, JOB)
        recover(store)
        done = store.completed_work()
        assert sealed < done
        sealed = done
        assert len(store) == 40 * len(done)
        assert_same(by_stream(store), expected_batch(sorted(done)))
        assert sorted(unit for units, _ in store.work_states() for unit in units) == sorted(done)
        assert verify(store, deep=True, log_probs=False) == []
    gc(store, older_than=0)
    assert list((path / "staging").iterdir()) == []
    assert verify(store, deep=True, log_probs=False) == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize("backend", BACKENDS)
def test_writers_among_a_folder_a_compactor_and_collectors(tmp_path, backend):
    path = tmp_path / "store"
    TraceStore.create(path, job=JOB, backend=backend)
    context = multiprocessing.get_context("fork")
    is_over, results = context.Event(), context.SimpleQueue()
    helpers = [
        context.Process(target=repeat, args=(action, path, is_over, results))
        for action in (fold_once, compact_once, collect_once, collect_once)
    ]
    writers = [context.Process(target=write_slowly, args=(path, first)) for first in range(NUM_WRITERS)]
    with contextlib.ExitStack() as stack:
        for process in [*helpers, *writers]:
            process.start()
            stack.callback(process.kill)
        for process in writers:
            process.join(120)
        is_over.set()
        for process in helpers:
            process.join(60)
        assert [process.exitcode for process in [*helpers, *writers]] == [0] * (len(helpers) + NUM_WRITERS)
    num_done = Counter(dict.fromkeys(("fold_once", "compact_once", "collect_once"), 0))
    for _ in helpers:
        num_done.update(dict([results.get()]))
    # each of them had something to do
    assert min(num_done.values()) > 0
    store = TraceStore.open(path)
    everything = range(NUM_WRITERS * UNITS_OF_EACH)
    assert store.stats().num_pending == 0
    assert store.completed_work() == set(everything)
    assert_same(by_stream(store), expected_batch(everything))
    assert verify(store, deep=True, log_probs=False) == []
    gc(store, older_than=0)
    assert {folder.name for folder in (path / "segments").iterdir()} == {entry.id for entry in store.segments}
    assert verify(TraceStore.open(path), deep=True, log_probs=False) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", METHODS)
def test_store_that_was_read_is_read_in_other_processes(tmp_path, method, backend):
    store = TraceStore.create(tmp_path / "store", job=JOB, backend=backend, codec="lz4")
    with store.writer() as writer:
        writer.append(make_chunk(1))
        writer.seal()
        writer.append(make_chunk(2))
    wanted = read_sum(store)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map_async(read_sum, [store] * 4).get(60) == [wanted] * 4
