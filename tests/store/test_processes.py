"""Many processes write to one store; some are killed."""

import multiprocessing
import signal
import time

import numpy as np
import pytest

from tests.store.stores import JOB, by_stream, expected_batch, make_chunk
from tests.suites.batches import assert_same
from tracestore.store import TraceStore, recover, verify

pytestmark = pytest.mark.processes


def write_chunks(path, numbers, per_seal):
    store = TraceStore.open(path)
    with store.writer() as writer:
        for place, number in enumerate(numbers):
            writer.append(make_chunk(number), work=[number], state=number)
            if place % per_seal == 0:
                writer.seal()
                store.fold()


def write_forever(path, pace):
    store = TraceStore.open_or_create(path, JOB)
    done = store.completed_work()
    with store.writer() as writer:
        for number in range(200):
            if number not in done:
                writer.append(make_chunk(number), work=[number])
                writer.seal()
                time.sleep(pace)


def read_sum(store):
    return float(store.take(range(len(store))).log_probs.sum())


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


def test_killed_writers_lose_only_what_they_had_not_sealed(tmp_path):
    path = tmp_path / "store"
    TraceStore.create(path, job=JOB)
    context = multiprocessing.get_context("fork")
    rng = np.random.default_rng(1)
    for _ in range(6):
        process = context.Process(target=write_forever, args=(path, 0.0))
        process.start()
        deadline = time.monotonic() + 60
        before = num_receipts(path)
        # let it seal a little, then kill it at a random moment
        while num_receipts(path) < before + 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(float(rng.uniform(0, 0.03)))
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        store = TraceStore.open_or_create(path, JOB)
        recover(store)
        done = store.completed_work()
        assert len(store) == 40 * len(done)
        assert_same(by_stream(store), expected_batch(sorted(done)))
    assert verify(store, deep=True, log_probs=False) == []
    assert len(done) >= 6


def num_receipts(path):
    return sum(1 for file in path.glob("receipts/*.json") if not file.name.startswith("."))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_store_is_read_in_other_processes(tmp_path, method):
    store = TraceStore.create(tmp_path / "store", job=JOB)
    with store.writer() as writer:
        writer.append(make_chunk(1))
    wanted = read_sum(store)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(read_sum, [store] * 4) == [wanted] * 4
