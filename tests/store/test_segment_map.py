import gc
import pickle
import threading
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.store.stores import make_chunk, make_store
from tests.suites.batches import assert_same, make_batch, make_layout
from tests.suites.object_server import SERVER_WARNINGS, object_server, object_url
from tracestore.errors import ChecksumError, InvalidInputError, TracestoreError, UnknownAddressError
from tracestore.events import Event, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.executors import ProcessExecutor, SerialExecutor
from tracestore.store import TraceStore
from tracestore.store.segment_map import SegmentSource, SegmentTask
from tracestore.traces import TRACE_COLUMNS

__all__ = ["object_server", "object_url"]

DENSE, BOTH = make_layout(1), make_layout(2, observed=("dense", "count"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "store", range(6))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """The second segment lacks the observation `count`."""
    store = TraceStore.create(tmp_path_factory.mktemp("stores") / "uneven")
    store.append(make_batch(1, 30, [BOTH]))
    store.append(make_batch(2, 20, [DENSE]))
    return store


def facts(part):
    values, rows = part.values("mu")
    return part.position, part.first_trace, part.id, len(part), values.sum(), rows.tolist()


def number_below_zero(part):
    return 1 / (1 - part.position)


class RecordingExecutor(SerialExecutor):
    """Gives results from the last to the first, and remembers what it was given."""

    def run(self, function, tasks, *, label="task"):
        self.label, self.function, self.tasks = label, function, tasks
        return iter([function(task) for task in reversed(tasks)])


def mapped_files():
    return {
        line.split()[-1] for line in Path("/proc/self/maps").read_text("ascii").splitlines() if "/segments/" in line
    }


def test_parts_hold_the_traces_of_their_segments(store):
    whole = store.take(range(len(store)))
    parts = store.map_segments(lambda part: (part.first_trace, part.take(range(len(part)))))
    assert [first for first, _ in parts] == [0, 80, 160]
    for first, batch in parts:
        assert_same(batch, whole.take(range(first, first + 80)))


def test_columns_of_parts_join_to_those_of_the_store(store):
    for name, _ in TRACE_COLUMNS:
        parts = store.map_segments(lambda part, name=name: part.column(name))
        assert np.concatenate(parts).tobytes() == store.column(name).tobytes()


def test_values_of_parts_have_indices_of_their_own(store):
    values, indices = store.values("vec")
    parts = store.map_segments(lambda part: (part.first_trace, *part.values("vec")))
    assert np.array_equal(np.concatenate([found for _, found, _ in parts]), values)
    assert np.array_equal(np.concatenate([first + rows for first, _, rows in parts]), indices)


def test_parts_know_failures_runs_and_addresses(store):
    failures = store.map_segments(lambda part: {part.first_trace + row: why for row, why in part.failures().items()})
    assert {index: why for found in failures for index, why in found.items()} == store.failures()
    runs = store.map_segments(lambda part: part.runs.first + part.first_trace)
    assert np.array_equal(np.concatenate(runs), store.runs.first)
    assert store.map_segments(lambda part: list(part.addresses)) == [list(store.addresses)] * 3
    assert set().union(*store.map_segments(lambda part: set(part.layouts))) == set(store.layouts)


def test_observations_of_a_part_are_those_of_the_store(uneven):
    assert uneven.map_segments(lambda part: part.observation_shapes) == [{"dense": (4, 3), "count": ()}] * 2
    counts = uneven.map_segments(lambda part: next(part.batches(100)).observations["count"])
    whole = uneven.take(range(50)).observations["count"]
    assert np.array_equal(np.concatenate(counts), whole)
    assert counts[1].dtype == whole.dtype


def test_a_name_that_one_segment_lacks(uneven):
    found = uneven.map_segments(lambda part: [rows.tolist() for _, rows in part.values_by_segment("loop~Normal#2")])
    assert found == [[list(range(30))], []]
    with pytest.raises(UnknownAddressError, match="loop~Normal#2") as caught:
        uneven.map_segments(lambda part: part.values("loop~Normal#2"))
    assert "number 1, traces 30 to 49" in caught.value.__notes__[0]


def test_an_empty_store_gives_nothing(tmp_path):
    assert TraceStore.create(tmp_path / "store").map_segments(facts) == []


def test_results_are_in_order_of_segments_however_they_come(store):
    executor = RecordingExecutor()
    assert store.map_segments(facts, executor=executor) == store.map_segments(facts)
    assert executor.label == "map facts"


@pytest.mark.parametrize(
    ("function", "label"),
    [(lambda part: 0, "map lambda"), (partial(facts), "map facts"), (RecordingExecutor, "map RecordingExecutor")],
    ids=["lambda", "partial", "class"],
)
def test_label_names_the_function(tmp_path, function, label):
    executor = RecordingExecutor()
    TraceStore.create(tmp_path / "store").map_segments(function, executor=executor)
    assert executor.label == label


@pytest.mark.processes
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_processes_give_the_same_results(store, start_method):
    executor = ProcessExecutor(2, start_method=start_method)
    assert store.map_segments(facts, executor=executor) == store.map_segments(facts)


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("distributed")
    from tracestore.executors.dask import DaskExecutor

    with DaskExecutor.local(workers=2) as executor:
        yield executor


@pytest.mark.processes
def test_a_dask_cluster_gives_the_same_results(store, cluster):
    offset = 0.5
    found = store.map_segments(lambda part: part.values("mu")[0].sum() + offset, executor=cluster)
    assert found == store.map_segments(lambda part: part.values("mu")[0].sum() + offset)


@pytest.mark.processes
def test_errors_on_a_dask_cluster_name_the_segment(store, cluster):
    with pytest.raises(ZeroDivisionError) as caught:
        store.map_segments(number_below_zero, executor=cluster)
    assert f"with segment {store.segments[1].id} of " in caught.value.__notes__[0]


@pytest.mark.processes
def test_a_function_that_no_worker_can_get_is_refused(store, cluster):
    with pytest.raises(TracestoreError, match="The function 'facts' cannot be"):
        store.map_segments(partial(facts, threading.Lock()), executor=cluster)


def test_a_store_that_grew_is_read_as_it_was_pinned(tmp_path):
    make_store(tmp_path / "store", range(2))
    pinned = TraceStore.open(tmp_path / "store")
    TraceStore.open(tmp_path / "store").append(make_chunk(9))
    assert len(pinned.map_segments(len)) == 1


def test_a_store_at_a_relative_path_is_found_from_another_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_store("store", range(2))
    executor = RecordingExecutor()
    store = TraceStore.open("store")
    store.map_segments(len, executor=executor)
    monkeypatch.chdir("/")
    assert executor.function(executor.tasks[0]) == (0, 80)


EXECUTORS = [
    pytest.param(None, id="serial"),
    pytest.param(ProcessExecutor(2), id="processes", marks=pytest.mark.processes),
]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_errors_of_the_function_name_the_segment(store, executor):
    with pytest.raises(ZeroDivisionError) as caught:
        store.map_segments(number_below_zero, executor=executor)
    (note,) = caught.value.__notes__
    assert note.startswith(
        f"with segment {store.segments[1].id} of {store.path}: number 1, traces 80 to 159; raised in"
    )
    assert f"number_below_zero, {__file__}, line " in note


def test_errors_keep_their_own_cause(store):
    def fail(part):
        raise RuntimeError("no sum") from KeyError("reason")

    with pytest.raises(RuntimeError, match="no sum") as caught:
        store.map_segments(fail)
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("executor", EXECUTORS)
def test_damage_is_told_with_the_segment(tmp_path, executor):
    store = make_store(tmp_path / "store", range(4))
    values = tmp_path / "store" / "segments" / store.segments[1].id / "values.arrow"
    data = bytearray(values.read_bytes())
    place = len(data) // 2
    data[place] ^= 1
    values.chmod(0o644)
    values.write_bytes(data)
    with pytest.raises(ChecksumError, match=f"segments/{store.segments[1].id}/values") as caught:
        TraceStore.open(tmp_path / "store").map_segments(lambda part: part.take(range(len(part))), executor=executor)
    assert "number 1, traces 80 to 159" in caught.value.__notes__[0]


@pytest.mark.processes
def test_a_function_that_spawned_processes_cannot_get_is_refused(store):
    with pytest.raises(InvalidInputError, match="'lambda' cannot be sent to the workers of ProcessExecutor"):
        store.map_segments(lambda part: len(part), executor=ProcessExecutor(2, start_method="spawn"))


def test_errors_of_the_executor_itself_are_left_alone(store):
    class Broken(SerialExecutor):
        def run(self, function, tasks, *, label="task"):
            raise TypeError("broken executor")

    with pytest.raises(TypeError, match="broken executor"):
        store.map_segments(facts, executor=Broken())


def test_progress_counts_traces_and_bytes(store):
    events: list[Event] = []
    store.map_segments(len, observer=events.append)
    assert events[0] == PhaseStarted("map", 240)
    assert [event.done for event in events[1:-1]] == [80, 160, 240]
    assert all(isinstance(event, PhaseAdvanced) and event.total == 240 for event in events[1:-1])
    assert events[-2].nbytes == sum(entry.nbytes for entry in store.segments)
    assert isinstance(events[-1], PhaseFinished)


def test_segments_are_closed_one_by_one(tmp_path):
    """Without the collector of cycles, which mapped bytes do not call."""
    store = TraceStore.open(make_store(tmp_path / "store", range(6), per_segment=1).path)
    seen = []

    def look(part):
        part.take(range(len(part)))
        part.runs, list(part.layouts.values()), part.values("mu"), part.failures()
        seen.append((weakref.ref(part), len({Path(name).parent for name in mapped_files()})))

    before = mapped_files()
    gc.disable()
    try:
        store.map_segments(look)
        assert mapped_files() == before
    finally:
        gc.enable()
    assert [num for _, num in seen] == [len({Path(name).parent for name in before}) + 1] * 6
    assert [part() for part, _ in seen] == [None] * 6


def test_a_task_does_not_carry_the_manifest(tmp_path):
    small, large = (make_store(tmp_path / name, range(count), per_segment=1) for name, count in (("1", 1), ("20", 20)))
    sizes = []
    for store in (small, large):
        executor = RecordingExecutor()
        store.map_segments(len, executor=executor)
        sizes.append(len(pickle.dumps((executor.function, executor.tasks[0]))))
    assert sizes[1] < sizes[0] + 1000


def test_a_part_reads_no_manifest(store, monkeypatch):
    source = SegmentSource.of(store._snapshot, "first")
    monkeypatch.setattr("tracestore.store.workplace.read_manifest", None)
    monkeypatch.setattr("tracestore.store.manifest.read_document", None)
    part = pickle.loads(pickle.dumps(source)).open(SegmentTask(1, 80, store.segments[1]))
    assert repr(part) == f"SegmentTraces({store.segments[1].id!r}, first_trace=80, num_traces=80)"
    assert part[0].stream == store[80].stream


@pytest.mark.parametrize("backend", ["arrow", "zarr"])
def test_segments_of_object_stores(import_or_skip, backend):
    import_or_skip("tracestore.storage.objects")
    import_or_skip(f"tracestore.formats.{backend}")
    store = TraceStore.create(f"memory://map-{backend}", backend=backend)
    store.append(make_chunk(1))
    store.append(make_chunk(2))
    sums = store.map_segments(lambda part: part.values("mu")[0].sum())
    assert sum(sums) == pytest.approx(store.values("mu")[0].sum())


@SERVER_WARNINGS
@pytest.mark.processes
def test_segments_on_a_server_in_spawned_processes(import_or_skip, object_url):
    import_or_skip("tracestore.storage.objects")
    url, options = object_url()
    store = TraceStore.create(url, storage_options=options)
    store.append(make_chunk(1))
    store.append(make_chunk(2))
    executor = ProcessExecutor(2, start_method="spawn")
    assert store.map_segments(facts, executor=executor) == store.map_segments(facts)
