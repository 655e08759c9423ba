import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest

from tests.store.stores import JOB, by_stream, make_chunk
from tests.suites.batches import assert_same
from tracestore.errors import StoreError
from tracestore.storage.local import LocalStorage
from tracestore.store import Job, TraceStore, gc, quarantine, recover


@pytest.fixture
def store(tmp_path):
    return TraceStore.create(tmp_path / "store", job=JOB)


def slower(batch):
    """The same traces by another run, which took another time."""
    return replace(batch, seconds=batch.seconds + np.float32(1.0))


def test_commit_is_published_by_the_next_fold(store):
    committed = store.commit_segment("piece-0", [make_chunk(0), make_chunk(1)], work=[0, 1], state={"files": 2})
    assert len(store) == 0
    assert store.completed_work() == {0, 1}
    store.fold()
    assert (committed.num_traces, committed.num_failed, committed.state) == (80, 1, {"files": 2})
    assert committed.nbytes == store.segments[0].nbytes
    assert store.work_states() == [([0, 1], {"files": 2})]
    assert len(store) == 80


def test_second_attempt_gives_what_the_first_committed(store):
    first = store.commit_segment("piece-0", [make_chunk(0)], work=[0], state="first")
    again = store.commit_segment("piece-0", [slower(make_chunk(0))], work=[0], state="second")
    store.fold()
    assert again == first
    assert_same(by_stream(store), make_chunk(0))


def test_batches_are_not_touched_when_the_work_is_done(store):
    def touched():
        pytest.fail("traces were made again")
        yield

    store.commit_segment("piece-0", [make_chunk(0)], work=[0])
    store.commit_segment("piece-0", touched(), work=[0])


def test_receipt_that_a_killed_worker_did_not_write_is_made_from_the_seal(store, monkeypatch):
    def die(self, file, data):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "create", die)
        with pytest.raises(KeyboardInterrupt):
            store.commit_segment("piece-0", [make_chunk(0)], work=[0], state="first")
    assert store.committed("piece-0") is None
    store.commit_segment("piece-0", [slower(make_chunk(0))], work=[0], state="second")
    store.fold()
    assert store.work_states() == [([0], "first")]
    assert_same(by_stream(store), make_chunk(0))


def test_sealed_piece_of_a_killed_worker_can_be_recovered(store, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "create", lambda self, file, data: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.commit_segment("piece-0", [make_chunk(0)], work=[0])
    assert recover(store) == ["piece-0"]
    store.commit_segment("piece-0", [slower(make_chunk(0))], work=[0])
    store.fold()
    assert len(store) == 40


@pytest.mark.processes
def test_attempts_at_the_same_time_count_once(store):
    barrier = threading.Barrier(6)

    def attempt(number):
        child = os.fork()
        if not child:
            signal.alarm(60)
            mine = TraceStore.open_or_create(store.path, JOB)
            mine.commit_segment("piece-0", [slower(make_chunk(0)) if number % 2 else make_chunk(0)], work=[0])
            os._exit(0)
        barrier.wait()
        statuses.append(os.waitpid(child, 0)[1])

    statuses: list[int] = []
    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 6
    store.fold()
    assert len(store) == 40
    assert len(list((store.path / "receipts").iterdir())) == 1
    assert not list((store.path / "staging").iterdir())


def test_order_of_segments_is_that_of_ids_whoever_was_first(tmp_path):
    stores = []
    for name, numbers in (("up", (0, 1, 2)), ("down", (2, 1, 0))):
        store = TraceStore.create(tmp_path / name, job=JOB)
        for number in numbers:
            store.commit_segment(f"piece-{number}", [make_chunk(number)], work=[number])
        store.fold()
        stores.append(store)
    assert [entry.id for entry in stores[1].segments] == ["piece-0", "piece-1", "piece-2"]
    assert_same(stores[0].take(range(120)), stores[1].take(range(120)))


def test_work_without_traces_is_recorded(store):
    committed = store.commit_segment("piece-0", [], work=[7], state="nothing")
    store.fold()
    assert (committed.num_traces, committed.nbytes) == (0, 0)
    assert store.completed_work() == {7}
    assert store.committed("piece-0") == committed
    assert not store.segments


def test_id_that_stands_for_other_work_is_refused(store):
    store.commit_segment("piece-0", [make_chunk(0)], work=[0])
    with pytest.raises(StoreError, match=r"piece-0 in .* stands for other work"):
        store.commit_segment("piece-0", [make_chunk(0)], work=[1])
    other = TraceStore.open_or_create(store.path, Job("simulate", {"seed": 2}), append=True)
    with pytest.raises(StoreError, match="stands for other work"):
        other.commit_segment("piece-0", [make_chunk(0)], work=[0])


def test_quarantined_piece_is_made_again(store):
    store.commit_segment("piece-0", [make_chunk(0)], work=[0])
    store.fold()
    quarantine(store, "piece-0", reason="flipped bit")
    assert store.committed("piece-0") is None
    assert store.completed_work() == set()
    store.commit_segment("piece-0", [make_chunk(0)], work=[0])
    store.fold()
    assert_same(by_stream(store), make_chunk(0))
    assert gc(store, older_than=0.0).segments == ()
