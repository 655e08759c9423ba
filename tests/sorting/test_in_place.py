import numpy as np
import pytest

from tests.samplers.runs import make_runs
from tests.sorting.test_execute import JOB, Counting, Stopping, content, files_of, make_store, small_segments
from tests.suites.batches import make_batch, make_layout
from tracestore.errors import InvalidInputError, PlanError, PublishConflictError, StoreError
from tracestore.sorting import plan_sort, plan_store, sort_store
from tracestore.store import Job, TraceStore, compact, gc, quarantine, verify

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def no_flush(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store")


def is_sorted(store):
    runs = store.runs
    order = np.lexsort((runs.first, runs.layout, runs.trace_type, runs.num_sites))
    return np.array_equal(order, np.arange(len(order)))


def grow(store, seed, num_traces=5, layouts=None):
    with store.writer() as writer:
        writer.append(make_batch(seed, num_traces, layouts, first_stream=1000 * seed), work=[100 + seed])


def test_store_is_replaced_by_its_sorted_self(store):
    before, version = sorted(map(content, store)), store.version
    size = small_segments(store)
    result = sort_store(store, segment_bytes=size)
    assert result is store
    assert is_sorted(store)
    assert store.version == version + 1
    assert sorted(map(content, store)) == before
    assert not verify(TraceStore.open(store.path), deep=True, log_probs=False)


def test_work_stays_done(store):
    work = store.completed_work()
    sort_store(store, segment_bytes=small_segments(store))
    assert store.completed_work() == work
    assert TraceStore.open_or_create(store.path, JOB).completed_work() == work


def test_earlier_snapshot_can_still_be_read_until_collected(store):
    before = store.take(range(len(store)))
    version = store.version
    sort_store(store)
    earlier = TraceStore.open(store.path, version=version)
    assert np.array_equal(earlier.column("stream"), before.stream)
    assert len(gc(store, older_than=0.0).segments) == 3
    assert len(TraceStore.open(store.path)) == len(before)


def test_same_bytes_as_in_a_new_store(store, tmp_path):
    size = small_segments(store)
    copy = sort_store(store, tmp_path / "copy", segment_bytes=size)
    sort_store(store, segment_bytes=size)
    assert [entry.id for entry in store.segments] == [entry.id for entry in copy.segments]
    assert [entry.seal for entry in store.segments] == [entry.seal for entry in copy.segments]


def test_sorted_store_is_left_alone(store):
    sort_store(store, segment_bytes=small_segments(store))
    before = files_of(store.path)
    executor = Counting()
    sort_store(store, segment_bytes=small_segments(store), executor=executor)
    assert executor.asked == []
    assert files_of(store.path) == before


def test_segment_that_is_out_of_order_inside_is_written_anew(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    with store.writer(order="written") as writer:
        for draws in (9, 1, 5):
            writer.append(make_batch(draws, 20, [make_layout(draws)]))
    assert len(store.segments) == 1
    assert not is_sorted(store)
    sort_store(store)
    assert is_sorted(store)


def test_segments_in_the_wrong_order_are_moved_without_copying(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    for draws in (9, 1, 5):
        store.append(make_batch(draws, 20, [make_layout(draws)]))
    entries = list(store.segments)
    executor = Counting()
    sort_store(store, segment_bytes=1, executor=executor)
    assert len(executor.asked) == 60
    store.publish(entries, replaces=[entry.id for entry in store.segments])
    sort_store(store, segment_bytes=max(entry.nbytes for entry in entries), executor=executor)
    assert executor.asked == []
    assert list(store.segments) == [entries[1], entries[2], entries[0]]
    assert is_sorted(store)


def test_only_what_new_traces_touch_is_moved(store):
    size = small_segments(store)
    sort_store(store, segment_bytes=size)
    before = list(store.segments)
    first = store[0].layout
    grow(store, 7, layouts=[first])
    places = {
        segment for segment, layout in zip(store.runs.segment, store.runs.layout, strict=True) if layout == first.id
    }
    last = max(places - {3})
    plan = plan_store(store, segment_bytes=size, in_place=True)
    touched = [place for place in range(3) if place not in [source for _, source in plan.kept]]
    assert touched == [last]
    assert plan.num_moved == before[last].num_traces + 5
    sort_store(store, segment_bytes=size)
    assert set(before) - set(store.segments) == {before[last]}
    assert is_sorted(store)
    assert len(store) == 125


def test_small_segments_at_the_end_are_joined_with_each_other(store):
    size = small_segments(store)
    sort_store(store, segment_bytes=size)
    before = list(store.segments)
    longest = max(store.layouts.values(), key=lambda layout: (layout.num_sites, layout.trace_type, layout.id))
    for seed in (7, 8):
        grow(store, seed, layouts=[longest])
    sort_store(store, segment_bytes=size)
    assert list(store.segments[:3]) == before
    assert [entry.num_traces for entry in store.segments[3:]] == [10]


def test_repeated_after_interruption_does_only_what_is_missing(store):
    size = small_segments(store)
    with pytest.raises(KeyboardInterrupt):
        sort_store(store, segment_bytes=size, executor=Stopping(2))
    executor = Counting()
    sort_store(store, segment_bytes=size, executor=executor)
    assert executor.asked == [2]


def test_traces_that_arrive_meanwhile_stay_behind(store):
    class Growing(Counting):
        def run(self, function, tasks, *, label="task"):
            other = TraceStore.open_or_create(store.path, JOB)
            grow(other, 7)
            return super().run(function, tasks, label=label)

    sort_store(store, executor=Growing())
    assert len(store) == 125
    assert store.column("stream")[-5:].min() >= 7000


def test_compaction_meanwhile_is_a_conflict(store):
    class Compacting(Counting):
        def run(self, function, tasks, *, label="task"):
            compact(TraceStore.open(store.path))
            return super().run(function, tasks, label=label)

    with pytest.raises(PublishConflictError, match="plan again"):
        sort_store(store, executor=Compacting())
    assert len(TraceStore.open(store.path)) == 120


def test_quarantine_of_spread_traces_does_not_bring_back_their_work(store):
    sort_store(store, segment_bytes=small_segments(store))
    work = store.completed_work()
    for entry in list(store.segments)[:2]:
        quarantine(store, entry.id, reason="a flipped bit")
        assert store.completed_work() == work


def test_quarantine_of_the_only_segment_brings_back_all_work(store):
    sort_store(store)
    quarantine(store, store.segments[0].id, reason="a flipped bit")
    assert store.completed_work() == set()


def test_posterior_is_not_reordered(tmp_path):
    posterior = TraceStore.create(tmp_path / "posterior", job=Job("infer", {"simulator": "tests:loop"}))
    grow(posterior, 1)
    with pytest.raises(PlanError, match="is a posterior, whose draws are in order; sort it into a new store"):
        sort_store(posterior)
    assert len(sort_store(posterior, tmp_path / "sorted")) == 5


def test_other_format_needs_a_destination(store):
    with pytest.raises(InvalidInputError, match="keeps its backend and codec; give a destination"):
        sort_store(store, backend="zarr")


def test_observations_of_several_kinds_are_refused(store, tmp_path):
    batch = make_batch(7, 5)
    wide = {**batch.observations, "dense": batch.observations["dense"].astype(np.float64)}
    with store.writer() as writer:
        writer.append(type(batch)(**{**vars(batch), "observations": wide}), work=[9])
    with pytest.raises(PlanError, match=r"'dense' .* is of several kinds: <f4 of shape \(4, 3\) in segment"):
        sort_store(store, tmp_path / "sorted")


def test_missing_files_are_told_before_anything_is_copied(store, tmp_path):
    folder = store.path / "segments" / store.segments[1].id
    (folder / "values.arrow").unlink()
    with pytest.raises(StoreError, match=r"1 segments of .* are damaged .*tracestore quarantine") as caught:
        sort_store(TraceStore.open(store.path), tmp_path / "sorted")
    assert caught.value.fields["segments"] == (store.segments[1].id,)
    assert not list((tmp_path / "sorted").glob("segments/*"))


def test_segments_keep_only_the_observations_that_they_have(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    with store.writer() as writer:
        writer.append(make_batch(1, 20, [make_layout(1)]))
        writer.seal()
        writer.append(make_batch(2, 20, [make_layout(9, observed=("count",))]))
        writer.seal()
    sort_store(store, segment_bytes=plan_store(store).num_bytes // 2 + 100)
    assert [[info.name for info in entry.observations] for entry in store.segments] == [["dense"], ["count"]]


@pytest.mark.parametrize(
    ("parts", "size", "kept"),
    [
        pytest.param([(1, 1, 10), (2, 2, 10), (3, 3, 10)], 10, [0, 1, 2], id="sorted"),
        pytest.param([(3, 3, 10), (1, 1, 10), (2, 2, 10)], 10, [1, 2, 0], id="sorted but for their order"),
        pytest.param([(1, 1, 10), (2, 2, 10), (1, 1, 2)], 10, [0, 2, 1], id="more of the first type"),
        pytest.param([(1, 1, 10), (3, 3, 10), (2, 2, 9)], 10, [0, 2, 1], id="a new type between"),
        pytest.param([(1, 1, 2), (2, 2, 2), (3, 3, 10)], 10, [2], id="small ones are joined"),
        pytest.param([(1, 1, 10), (2, 2, 2), (3, 3, 10)], 10, [0, 1, 2], id="a small one alone stays"),
        pytest.param([(1, 1, 20), (2, 2, 10)], 10, [1], id="a large one is cut"),
        pytest.param([(1, 1, 10), (2, 2, 2), (3, 3, 2), (4, 4, 10)], 10, [0, 3], id="two small ones are joined"),
    ],
)
def test_segments_that_stay(parts, size, kept):
    plan = plan_sort(make_runs(*parts, num_segments=len(parts)), 1, segment_bytes=size, keep_sorted=True)
    assert [source for _, source in plan.kept] == kept
    assert sum(task.total for task in plan.tasks) == sum(part[2] for part in parts) - sum(parts[i][2] for i in kept)
