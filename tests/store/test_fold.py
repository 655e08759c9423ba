import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.store.stores import JOB, by_stream, expected_batch, make_chunk, make_store
from tests.suites.batches import assert_same
from tracestore.errors import PublishConflictError, TracestoreWarning
from tracestore.formats import SegmentEntry
from tracestore.store import Job, TraceStore
from tracestore.store.fold import completed_units, plan_fold
from tracestore.store.manifest import Manifest
from tracestore.store.receipt import Receipt, WorkCommit, to_ranges

RECEIPT = st.tuples(st.sets(st.integers(0, 12), max_size=3), st.booleans())


def make_receipts(parts):
    receipts = []
    for number, (units, has_job) in enumerate(parts):
        entry = SegmentEntry(f"s{number}", "arrow/1", 1, 0, 1, "", "")
        commit = WorkCommit(to_ranges(units))
        receipts.append((Receipt(f"w{number:02}", 0, JOB if has_job else None, entry, (commit,)), "sum"))
    return receipts


@given(st.lists(RECEIPT, max_size=12), st.integers(0, 12))
def test_folding_in_two_steps_is_folding_at_once(parts, split):
    receipts = make_receipts(parts)
    once = plan_fold(Manifest(), receipts)
    first = plan_fold(Manifest(), receipts[:split])
    second = plan_fold(Manifest(1, first.segments, first.commits, first.jobs), receipts[split:])
    assert first.segments + second.segments == once.segments
    assert first.commits + second.commits == once.commits


@given(st.lists(RECEIPT, max_size=12))
def test_every_unit_is_committed_at_most_once_per_job(parts):
    receipts = make_receipts(parts)
    plan = plan_fold(Manifest(), receipts)
    taken = {commit.receipt for commit in plan.commits if not commit.set_aside}
    for job in (JOB, None):
        units = [
            unit for receipt, _ in receipts if receipt.name in taken and receipt.job == job for unit in receipt.work
        ]
        assert len(units) == len(set(units))
        assert completed_units(Manifest(), plan, job) == set(units)
    assert len(plan.segments) == len(taken)


def test_fold_is_idempotent(tmp_path):
    store = make_store(tmp_path / "store")
    version, identity = store.version, store.snapshot_id
    assert store.fold() == version
    assert store.snapshot_id == identity
    assert not (tmp_path / "store" / "manifests" / f"v{version + 1:020d}.json").exists()


def test_sealed_segments_are_visible_after_a_fold_only(tmp_path):
    store = TraceStore.create(tmp_path / "store", job=JOB)
    writer = store.writer()
    writer.append(make_chunk(0), work=[0])
    writer.seal()
    assert len(TraceStore.open(tmp_path / "store")) == 0
    assert store.stats().num_pending == 1
    assert store.completed_work() == {0}
    store.fold()
    assert len(store) == len(TraceStore.open(tmp_path / "store")) == 40
    assert store.stats().num_pending == 0


def test_repeated_work_is_set_aside_with_a_warning(tmp_path):
    store = TraceStore.create(tmp_path / "store", job=JOB)
    writers = [store.writer() for _ in range(2)]
    for writer, numbers in zip(writers, ([0, 1], [1, 2]), strict=True):
        for number in numbers:
            writer.append(make_chunk(number), work=[number])
        writer.seal()
    with pytest.warns(TracestoreWarning, match="1 receipts repeat work"):
        store.fold()
    assert store.completed_work() == {0, 1}
    assert_same(by_stream(store), expected_batch([0, 1]))
    with store.writer() as writer:  # what the second writer did besides is done again
        writer.append(make_chunk(2), work=[2])
    assert_same(by_stream(store), expected_batch([0, 1, 2]))


def test_work_of_different_jobs_does_not_collide(tmp_path):
    first = make_store(tmp_path / "store", [0, 1])
    other = Job("simulate", {"simulator": "fake", "seed": 2})
    second = TraceStore.open_or_create(tmp_path / "store", other, append=True)
    assert second.job == other
    assert second.completed_work() == set()
    with second.writer() as writer:
        writer.append(make_chunk(5), work=[0])
    first.refresh()
    assert len(first) == len(second) == 120
    assert first.completed_work() == {0, 1}
    assert second.completed_work() == {0}
    # and it may be continued without saying again that it adds
    assert TraceStore.open_or_create(tmp_path / "store", other).completed_work() == {0}


def test_replace_segments(tmp_path):
    store = make_store(tmp_path / "store")
    old = [entry.id for entry in store.segments]
    before = by_stream(store)
    entry = store.write_segment("joined", [store.take(range(len(store)))])
    store.publish([entry], replaces=old)
    assert [entry.id for entry in store.segments] == ["joined"]
    assert_same(by_stream(store), before)
    assert store.completed_work() == {0, 1, 2, 3}
    again = store.write_segment("again", [store.take([0])])
    with pytest.raises(PublishConflictError, match=old[0]):
        store.publish([again], replaces=old)
    assert len(TraceStore.open(tmp_path / "store", version=1)) == len(before)
