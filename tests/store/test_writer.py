import os
import time

import numpy as np
import pytest

from tests.store.stores import JOB, by_stream, expected_batch, make_chunk, make_store
from tests.suites.batches import assert_same, make_batch, make_layout, with_observation
from tracestore.errors import InvalidInputError, StoreError
from tracestore.store import TraceStore
from tracestore.store import writer as writer_module
from tracestore.traces import TraceBatch


@pytest.fixture
def store(tmp_path):
    return TraceStore.create(tmp_path / "store", job=JOB)


def test_what_is_appended_comes_back(store):
    with store.writer() as writer:
        for number in range(5):
            writer.append(make_chunk(number), work=[number])
    assert len(store.segments) == 1
    assert_same(by_stream(store), expected_batch(range(5)))


def test_segment_is_sealed_when_large(store):
    with store.writer(segment_bytes=2 * make_chunk(0).nbytes) as writer:
        for number in range(6):
            writer.append(make_chunk(number), work=[number])
            assert writer.buffered_bytes < 3 * make_chunk(0).nbytes
    assert len(store.segments) == 3
    assert_same(by_stream(store), expected_batch(range(6)))


def test_segment_is_sealed_when_old(store, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with store.writer(segment_seconds=10) as writer:
        for number in range(4):
            writer.append(make_chunk(number))
            now[0] += 6
    assert [entry.num_traces for entry in store.segments] == [120, 40]


def test_written_order_is_kept(store):
    with store.writer(order="written") as writer:
        for number in (2, 0, 1):
            writer.append(make_chunk(number))
    assert_same(store.take(range(len(store))), expected_batch([2, 0, 1]))


def test_many_single_traces(store, monkeypatch):
    monkeypatch.setattr(writer_module, "_LUMP_BYTES", 5_000)
    batch = make_chunk(1)
    with store.writer() as writer:
        for trace in batch:
            writer.append(TraceBatch.from_traces([trace]))
    found = by_stream(store)
    assert found.log_probs.tobytes() == batch.log_probs.tobytes()
    assert np.array_equal(found.observations["dense"], batch.observations["dense"])
    assert dict(found.failures) == dict(batch.failures)


def test_leaving_by_an_exception_discards_what_is_not_sealed(store):
    def stop_midway():
        with store.writer() as writer:
            writer.append(make_chunk(0), work=[0])
            writer.seal()
            writer.append(make_chunk(1), work=[1])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_midway()
    store.fold()
    assert store.completed_work() == {0}
    assert_same(by_stream(store), expected_batch([0]))
    assert list((store.path / "staging").iterdir()) == []


def test_work_and_states(store):
    with store.writer() as writer:
        writer.append(make_chunk(0), work=[3, 4], state={"step": 1})
        writer.append(make_chunk(1), work=[7])
        writer.seal()
        writer.append(make_batch(0, 0, [make_layout(1)]), work=[9], state=[None, "no traces"])
    assert store.completed_work() == {3, 4, 7, 9}
    assert store.work_states() == [([3, 4], {"step": 1}), ([9], [None, "no traces"])]
    assert len(store.segments) == 1


def test_states_of_pending_receipts_are_seen(store):
    writer = store.writer()
    writer.append(make_chunk(0), work=[0], state=1)
    writer.seal()
    assert store.work_states() == [([0], 1)]


def test_completed_work_is_refused(store):
    with store.writer() as writer:
        writer.append(make_chunk(0), work=[0])
        with pytest.raises(InvalidInputError, match=r"\[0\] are complete"):
            writer.append(make_chunk(1), work=[0, 1])
    with store.writer() as writer, pytest.raises(InvalidInputError, match=r"\[0\] are complete"):
        writer.append(make_chunk(1), work=[0])


def test_state_that_is_not_json_is_refused_at_once(store):
    with store.writer() as writer:
        with pytest.raises(InvalidInputError, match="`state` must be JSON"):
            writer.append(make_chunk(0), state={"x": float("nan")})
        assert writer.buffered_bytes == 0


def test_observation_of_another_shape_is_refused_at_once(store):
    with store.writer() as writer:
        writer.append(make_chunk(0))
        other = with_observation(make_chunk(1), "dense", np.zeros((40, 5)))
        with pytest.raises(InvalidInputError, match="'dense' has shape"):
            writer.append(other)
    assert len(store) == 40


def test_nothing_written_makes_no_version(store):
    with store.writer():
        pass
    assert store.version == 0


def test_closed_writer_is_refused(store):
    writer = store.writer()
    writer.close()
    writer.close()
    with pytest.raises(StoreError, match="closed"):
        writer.append(make_chunk(0))


def test_writer_of_another_process_is_refused(store, monkeypatch):
    writer = store.writer()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(StoreError, match="belongs to the process"):
        writer.append(make_chunk(0))


@pytest.mark.parametrize("options", [{"segment_bytes": 0}, {"segment_seconds": 0}, {"order": "random"}], ids=str)
def test_bad_options_are_refused(store, options):
    with pytest.raises(InvalidInputError, match="A writer needs"):
        store.writer(**options)


def test_prescribed_segments_depend_on_traces_alone(tmp_path):
    source = make_store(tmp_path / "source")
    outputs = []
    for name, order in (("a", [0, 1]), ("b", [1, 0])):
        target = TraceStore.create(tmp_path / name, uuid="fixed")
        entries = {k: target.write_segment(f"out-{k}", [source.take(range(80 * k, 80 * k + 80))]) for k in order}
        assert target.write_segment("out-0", [source.take(range(80))]) == entries[0]  # a second time changes nothing
        assert target.find_segment("out-1") == entries[1]
        assert target.find_segment("out-2") is None
        assert len(target) == 0
        target.publish([entries[0], entries[1]])
        assert target.publish([entries[0]]) == 1
        outputs.append(
            {str(path.relative_to(target.path)): path.read_bytes() for path in target.path.rglob("*") if path.is_file()}
        )
    assert outputs[0] == outputs[1]


def test_prescribed_segment_with_other_content_is_refused(tmp_path):
    store = make_store(tmp_path / "source")
    store.write_segment("out", [store.take([0])])
    with pytest.raises(StoreError, match="other content"):
        store.write_segment("out", [store.take([1])])
    assert list((store.path / "staging").iterdir()) == []
