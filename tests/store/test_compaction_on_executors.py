"""Compaction as tasks: any executor gives the same store, in few snapshots, with every trace at its index."""

from pathlib import Path

import numpy as np
import pytest

from tests.store.stores import make_chunk, make_store
from tracestore.errors import ExecutorError, InvalidInputError, PublishConflictError
from tracestore.events import Event, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.executors import ProcessExecutor, SerialExecutor
from tracestore.store import TraceStore, compact, compaction, quarantine
from tracestore.store.compaction import plan_compaction
from tracestore.store.writer import place_segment

EXECUTORS = [
    pytest.param(None, id="none"),
    pytest.param(SerialExecutor(), id="serial"),
    pytest.param(ProcessExecutor(2), id="fork", marks=pytest.mark.processes),
    pytest.param(ProcessExecutor(2, start_method="spawn"), id="spawn", marks=pytest.mark.processes),
]


class Backwards(SerialExecutor):
    """Results arrive in the opposite order, each made twice."""

    def run(self, function, tasks, *, label="task"):
        for task in reversed(tasks):
            function(task)
            yield function(task)


class Losing(SerialExecutor):
    """Loses its workers after some tasks."""

    def __init__(self, num_tasks: int) -> None:
        self.num_tasks = num_tasks

    def run(self, function, tasks, *, label="task"):
        yield from map(function, tasks[: self.num_tasks])
        raise ExecutorError("A worker died.")


@pytest.fixture
def small(tmp_path) -> TraceStore:
    """Many small segments; a few of them too large to be joined with anything."""
    store = TraceStore.create(tmp_path / "small")
    with store.writer() as writer:
        for number in range(24):
            writer.append(make_chunk(number, 100 if number % 9 == 4 else 4), work=[number])
            writer.seal()
    return store


def copy_of(store: TraceStore, path: Path) -> TraceStore:
    path.mkdir()
    for file in store.path.rglob("*"):
        target = path / file.relative_to(store.path)
        if file.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return TraceStore.open(path)


def contents(store: TraceStore) -> dict[str, bytes]:
    files = (file for file in store.path.rglob("*") if file.is_file())
    return {str(file.relative_to(store.path)): file.read_bytes() for file in files}


def pair_bytes(store: TraceStore) -> int:
    """Room for two or three small segments."""
    sizes = sorted(entry.raw_bytes for entry in store.segments)
    return int(2.5 * sizes[len(sizes) // 2])


@pytest.mark.parametrize("executor", [*EXECUTORS, pytest.param(Backwards(), id="backwards")])
def test_executors_give_the_same_store_byte_by_byte(tmp_path, small, executor):
    limit = pair_bytes(small)
    expected = copy_of(small, tmp_path / "expected")
    compact(expected, segment_bytes=limit)
    store = copy_of(small, tmp_path / "other")
    compact(store, segment_bytes=limit, executor=executor)
    assert contents(store) == contents(expected)


def test_traces_keep_their_indices_and_groups_are_published_together(small):
    before, streams = small.take(np.arange(len(small))), small.column("stream")
    limit, version = pair_bytes(small), small.version
    segments, groups = small.segments, plan_compaction(small.segments, limit)
    assert sum(map(len, groups)) < len(segments), "some stay as they are"
    compact(small, segment_bytes=limit, executor=Backwards())
    assert small.version - version == len(groups) <= 16
    np.testing.assert_array_equal(small.column("stream"), streams)
    np.testing.assert_array_equal(small.take(np.arange(len(small))).values, before.values)


def test_many_groups_are_published_in_at_most_sixteen_snapshots(tmp_path):
    store = make_store(tmp_path / "s", range(80), per_segment=1)
    streams, version = store.column("stream"), store.version
    limit = 2 * max(entry.raw_bytes for entry in store.segments)
    groups = plan_compaction(store.segments, limit)
    assert len(groups) == 40
    compact(store, segment_bytes=limit, executor=Backwards())
    assert store.version - version == 14  # three groups each
    assert len(store.segments) == 40
    np.testing.assert_array_equal(store.column("stream"), streams)


def test_each_commit_knows_the_segment_that_its_traces_are_in(tmp_path):
    store = make_store(tmp_path / "s", range(80), per_segment=1)
    compact(store, segment_bytes=2 * max(entry.raw_bytes for entry in store.segments))
    quarantine(store, store.segments[3].id, reason="a test")
    assert set(range(80)) - store.completed_work() == {6, 7}


def test_an_interrupted_call_is_repeated_and_finds_what_was_written(tmp_path, monkeypatch):
    store = make_store(tmp_path / "s", range(80), per_segment=1)
    streams, version = store.column("stream"), store.version
    limit = 2 * max(entry.raw_bytes for entry in store.segments)
    with pytest.raises(ExecutorError):
        compact(store, segment_bytes=limit, executor=Losing(2))
    assert store.version == version, "the first snapshot is due after three groups"
    written: list[str] = []

    def note(storage, backend, identity, batches, **options):
        written.append(identity)
        return place_segment(storage, backend, identity, batches, **options)

    monkeypatch.setattr(compaction, "place_segment", note)
    compact(store, segment_bytes=limit)
    assert (len(written), len(store.segments)) == (38, 40)
    np.testing.assert_array_equal(store.column("stream"), streams)


def test_a_lost_race_says_to_plan_again(small):
    other = TraceStore.open(small.path)

    class Overtaken(SerialExecutor):
        """Somebody takes a segment out while others are joined."""

        def run(self, function, tasks, *, label="task"):
            quarantine(other, tasks[0].ids[0], reason="a test")
            return map(function, tasks)

    with pytest.raises(PublishConflictError, match="plan again"):
        compact(small, segment_bytes=pair_bytes(small), executor=Overtaken())


def test_somebody_who_joined_the_same_segments_is_no_conflict(small):
    limit, other = pair_bytes(small), TraceStore.open(small.path)

    class Overtaken(SerialExecutor):
        """Somebody does the same before."""

        def run(self, function, tasks, *, label="task"):
            compact(other, segment_bytes=limit)
            return map(function, tasks)

    compact(small, segment_bytes=limit, executor=Overtaken())
    assert small.version == other.version


def test_progress_counts_the_traces_that_are_joined(small):
    events: list[Event] = []
    limit = pair_bytes(small)
    total = sum(entry.num_traces for group in plan_compaction(small.segments, limit) for entry in group)
    compact(small, segment_bytes=limit, executor=Backwards(), observer=events.append)
    assert events[0] == PhaseStarted("compact", total)
    assert [event.done for event in events if isinstance(event, PhaseAdvanced)][-1] == total
    assert events[-2].nbytes > 0
    assert isinstance(events[-1], PhaseFinished)


def test_workers_with_too_little_memory_are_refused(small):
    executor = SerialExecutor()
    executor.memory_limit = 1000
    with pytest.raises(InvalidInputError, match="smaller `segment_bytes`"):
        compact(small, executor=executor)
    assert small.version == TraceStore.open(small.path).version


@pytest.mark.processes
def test_dask_gives_the_same_store_byte_by_byte(tmp_path, small):
    dask = pytest.importorskip("tracestore.executors.dask")
    limit = pair_bytes(small)
    expected = copy_of(small, tmp_path / "expected")
    compact(expected, segment_bytes=limit)
    with dask.DaskExecutor.local(workers=2) as executor:
        compact(small, segment_bytes=limit, executor=executor)
    assert contents(small) == contents(expected)
