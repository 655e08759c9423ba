import multiprocessing
import os
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from tests.suites.batches import make_batch
from tracestore.errors import (
    ChecksumError,
    ExecutorError,
    InsufficientSpaceError,
    InvalidInputError,
    PlanError,
    StoreError,
    StoreExistsError,
)
from tracestore.events import Event, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.executors import ProcessExecutor, SerialExecutor
from tracestore.sorting import plan_store, sort_store
from tracestore.sorting.execute import CopySegment
from tracestore.storage import LocalStorage
from tracestore.store import Job, TraceStore, quarantine, verify
from tracestore.traces import TRACE_COLUMNS

NUM_SEGMENTS, PER_SEGMENT = 3, 40
JOB = Job("simulate", {"simulator": "tests:loop", "fingerprint": "f0", "seed": 1})


def make_store(path, **options):
    store = TraceStore.create(path, job=JOB, attributes={"for": "tests"})
    with store.writer() as writer:
        for seed in range(NUM_SEGMENTS):
            batch = make_batch(seed, PER_SEGMENT, first_stream=seed * PER_SEGMENT, **options)
            writer.append(batch, work=[seed])
            writer.seal()
    return store


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """No test here survives a power failure, and waiting for the disk is most of their time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("original") / "source", num_failed=3).path


@pytest.fixture
def source(original, tmp_path):
    return TraceStore.open(shutil.copytree(original, tmp_path / "source"))


def small_segments(source):
    """Size that cuts the sorted store into three segments."""
    return -(-plan_store(source).num_bytes // 3)


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def content(trace):
    numbers = [trace.values, trace.log_probs, trace.parameters]
    columns = [getattr(trace, name) for name, _ in TRACE_COLUMNS]
    return (
        trace.layout.id,
        trace.failure,
        *(array.tobytes() for array in numbers),
        *(str(value) for value in columns),
        *((name, value.dtype.str, value.tobytes()) for name, value in sorted(trace.observations.items())),
    )


def test_every_trace_is_copied_bit_by_bit(source, tmp_path):
    result = sort_store(source, tmp_path / "sorted", segment_bytes=small_segments(source))
    assert len(result.segments) == 3
    before, after = (sorted(map(content, store)) for store in (source, result))
    assert before == after
    assert len(result.failures()) == 3 * NUM_SEGMENTS
    assert not verify(TraceStore.open(tmp_path / "sorted"), deep=True, log_probs=False)


def test_order_is_global_and_stable(source, tmp_path):
    result = sort_store(source, tmp_path / "sorted", segment_bytes=small_segments(source))
    runs = source.runs
    layout = np.repeat(runs.layout, runs.num_traces)
    trace_type, sites = (np.repeat(column, runs.num_traces) for column in (runs.trace_type, runs.num_sites))
    expected = np.lexsort((np.arange(len(layout)), layout, trace_type, sites))
    assert np.array_equal(result.column("stream"), source.column("stream")[expected])


def test_result_says_what_it_was_made_from(source, tmp_path):
    result = sort_store(source.path, tmp_path / "sorted")
    assert result.job is not None
    assert result.job.verb == "sort"
    assert {"simulator": "tests:loop", "fingerprint": "f0", "source": source.uuid}.items() <= result.job.fields.items()
    assert result.attributes == {"for": "tests"}


def test_source_is_left_alone(source, tmp_path):
    before = files_of(source.path)
    sort_store(source, tmp_path / "sorted")
    assert files_of(source.path) == before


@pytest.mark.parametrize("executor", [SerialExecutor(), ProcessExecutor(2)], ids=["serial", "processes"])
def test_all_executors_give_the_same_bytes(source, tmp_path, executor):
    size = small_segments(source)
    sort_store(source, tmp_path / "one", segment_bytes=size)
    sort_store(source, tmp_path / "two", segment_bytes=size, executor=executor)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_copied_source_gives_the_same_bytes(source, tmp_path):
    shutil.copytree(source.path, tmp_path / "elsewhere")
    sort_store(source, tmp_path / "one")
    sort_store(tmp_path / "elsewhere", tmp_path / "two")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_shared_observations_stay_shared(tmp_path):
    source = TraceStore.create(tmp_path / "source")
    batch = make_batch(1, 60, constant_observations=True)
    for rows in (np.arange(30), np.arange(30, 60)):
        with source.writer() as writer:
            writer.append(batch.take(rows))
    result = sort_store(source, tmp_path / "sorted")
    stored = [info for entry in result.segments for info in entry.observations]
    assert stored
    assert all(info.constant for info in stored)


@pytest.mark.parametrize("shared_first", [True, False])
def test_observation_that_only_one_segment_shares_is_kept_row_by_row(tmp_path, shared_first):
    source = TraceStore.create(tmp_path / "source")
    for seed in (1, 2):
        is_shared = (seed == 1) == shared_first
        source.append(make_batch(seed, 30, constant_observations=is_shared, first_stream=30 * seed))
    result = sort_store(source, tmp_path / "sorted")
    before, after = (sorted(map(content, store)) for store in (source, result))
    assert before == after


class Stopping(SerialExecutor):
    """Runs some tasks, then stops as if interrupted."""

    def __init__(self, num_tasks):
        self.num_tasks = num_tasks

    def run(self, function, tasks, *, label="task"):
        yield from map(function, tasks[: self.num_tasks])
        raise KeyboardInterrupt


class Counting(SerialExecutor):
    """Notes which tasks were asked for."""

    def run(self, function, tasks, *, label="task"):
        self.asked = [task.index for task in tasks]
        return map(function, tasks)


def test_interrupted_sort_does_only_what_is_missing(source, tmp_path):
    size = small_segments(source)
    with pytest.raises(KeyboardInterrupt):
        sort_store(source, tmp_path / "sorted", segment_bytes=size, executor=Stopping(1))
    assert len(TraceStore.open(tmp_path / "sorted")) == 0
    again = Counting()
    events: list[Event] = []
    sort_store(source, tmp_path / "sorted", segment_bytes=size, executor=again, observer=events.append)
    assert again.asked == [1, 2]
    assert isinstance(events[0], PhaseStarted)
    assert 0 < events[0].done < events[0].total
    sort_store(source, tmp_path / "straight", segment_bytes=size)
    assert files_of(tmp_path / "sorted") == files_of(tmp_path / "straight")


def test_finished_sort_is_returned(source, tmp_path):
    once = sort_store(source, tmp_path / "sorted")
    before = files_of(tmp_path / "sorted")
    again = Counting()
    twice = sort_store(source, tmp_path / "sorted", executor=again)
    assert again.asked == []
    assert twice.snapshot_id == once.snapshot_id
    assert files_of(tmp_path / "sorted") == before


def test_copy_is_idempotent(source, tmp_path):
    destination = TraceStore.create(tmp_path / "sorted")
    copy = CopySegment(source, destination)
    task = plan_store(source).tasks[0]
    assert copy(task) == copy(task)


@pytest.mark.processes
def test_killed_worker_costs_its_own_output(source, tmp_path):
    class Deadly(CopySegment):
        def __call__(self, task):
            if task.index == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(task)

    class Executor(ProcessExecutor):
        def run(self, function, tasks, *, label="task"):
            return super().run(Deadly(function.source, function.destination), tasks)

    size = small_segments(source)
    with pytest.raises(ExecutorError, match="exit code -9"):
        sort_store(source, tmp_path / "sorted", segment_bytes=size, executor=Executor(1))
    again = Counting()
    sort_store(source, tmp_path / "sorted", segment_bytes=size, executor=again)
    assert again.asked == [1, 2]


@pytest.mark.processes
def test_driver_killed_in_the_middle_of_an_output_goes_on(source, tmp_path, monkeypatch):
    def sort_and_die():
        place = LocalStorage.place
        placed: list[str] = []

        def place_one(storage, directory, folder):
            if placed:  # all of the second output is written, but not where it belongs
                os.kill(os.getpid(), signal.SIGKILL)
            placed.append(folder)
            return place(storage, directory, folder)

        monkeypatch.setattr(LocalStorage, "place", place_one)
        sort_store(source, tmp_path / "sorted", segment_bytes=size)

    size = small_segments(source)
    driver = multiprocessing.get_context("fork").Process(target=sort_and_die)
    driver.start()
    driver.join()
    assert driver.exitcode == -signal.SIGKILL
    again = Counting()
    sort_store(source, tmp_path / "sorted", segment_bytes=size, executor=again)
    assert again.asked == [1, 2]
    sort_store(source, tmp_path / "straight", segment_bytes=size)
    straight, resumed = (files_of(tmp_path / name) for name in ("straight", "sorted"))
    assert {name: data for name, data in resumed.items() if not name.startswith("staging")} == straight


def test_progress_counts_traces(source, tmp_path):
    events: list[Event] = []
    sort_store(source, tmp_path / "sorted", segment_bytes=small_segments(source), observer=events.append)
    assert events[0] == PhaseStarted("sort", 120)
    advanced = [event.done for event in events if isinstance(event, PhaseAdvanced)]
    assert len(advanced) == 3
    assert advanced == sorted(advanced)
    assert advanced[-1] == 120
    assert isinstance(events[-1], PhaseFinished)


def test_sorted_store_is_sorted_already(source, tmp_path):
    sort_store(source, tmp_path / "sorted")
    plan = plan_store(TraceStore.open(tmp_path / "sorted"))
    assert plan.before == plan.after
    assert plan.before.num_runs == 3


def test_plan_allows_for_what_it_holds_in_memory(source):
    raw = source.take(np.arange(len(source))).nbytes
    plan = plan_store(source)
    assert 0.5 * raw < plan.num_bytes < 3 * raw
    assert plan.peak_bytes == plan.num_bytes


def test_destination_of_another_sort_is_refused(source, tmp_path):
    sort_store(source, tmp_path / "sorted")
    with pytest.raises(StoreExistsError, match="`segment_bytes` is 1073741824 there and 2000 in this call"):
        sort_store(source, tmp_path / "sorted", segment_bytes=2000)


def test_grown_source_is_another_job(source, tmp_path):
    sort_store(source, tmp_path / "sorted")
    with source.writer() as writer:
        writer.append(make_batch(9, 5))
    with pytest.raises(StoreExistsError, match="`snapshot` is"):
        sort_store(source, tmp_path / "sorted")


def test_destination_with_other_files_is_refused(source, tmp_path):
    (tmp_path / "sorted").mkdir()
    (tmp_path / "sorted" / "notes.txt").write_text("mine")
    with pytest.raises(StoreExistsError, match="not a store"):
        sort_store(source, tmp_path / "sorted")


@pytest.mark.parametrize("place", ["source", "source/sorted", "sorted/../source", "."])
def test_overlap_is_refused(source, tmp_path, place):
    with pytest.raises(InvalidInputError, match="would overlap its source"):
        sort_store(source, tmp_path / place)


def test_lack_of_space_is_told_before_anything_is_copied(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(
        InsufficientSpaceError, match=r"only 1e-06 GB are free there; make room for .* GB more"
    ) as caught:
        sort_store(source, tmp_path / "sorted")
    assert caught.value.fields["needed"] == sum(entry.nbytes for entry in source.segments)
    assert not list((tmp_path / "sorted").glob("segments/*"))


def test_receipts_that_are_not_folded_are_refused(source, tmp_path):
    writer = source.writer()
    writer.append(make_batch(9, 5), work=[9])
    writer.seal()
    with pytest.raises(StoreError, match=r"1 sealed segments of .* are not part of its newest snapshot"):
        sort_store(source, tmp_path / "sorted")
    source.fold()
    assert len(sort_store(source, tmp_path / "sorted")) == 125


def test_mixed_simulators_are_refused(source, tmp_path):
    other = TraceStore.open_or_create(source.path, Job("simulate", {"simulator": "tests:other"}), append=True)
    with other.writer() as writer:
        writer.append(make_batch(9, 5), work=[0])
    with pytest.raises(PlanError, match=r"several simulators .tests:loop, tests:other"):
        sort_store(source.path, tmp_path / "sorted")


class Limited(SerialExecutor):
    """Says that its workers have some memory."""

    def __init__(self, memory_limit):
        self.memory_limit = memory_limit


def test_memory_of_workers_is_looked_at_before_anything_is_copied(source, tmp_path):
    needed = plan_store(source).peak_memory
    # a worker takes 180 MB itself, and a fifth of its limit stays free
    just_enough = 1.25 * (needed + 180_000_000) + 1
    with pytest.raises(PlanError, match=r"use segments of at most [\d,]+ bytes, or workers with more") as caught:
        sort_store(source, tmp_path / "sorted", executor=Limited(int(just_enough - needed / 2)))
    assert caught.value.fields["needed"] == needed
    with pytest.raises(PlanError, match="is kept free; use workers with more"):
        sort_store(source, tmp_path / "sorted", executor=Limited(200_000_000))
    assert not (tmp_path / "sorted").exists()
    assert len(sort_store(source, tmp_path / "sorted", executor=Limited(int(just_enough)))) == len(source)


def test_empty_source_is_refused(tmp_path):
    with pytest.raises(PlanError, match="holds no traces"):
        sort_store(TraceStore.create(tmp_path / "source"), tmp_path / "sorted")


@pytest.mark.parametrize("executor", [SerialExecutor(), ProcessExecutor(2)], ids=["serial", "processes"])
def test_damage_in_the_source_is_told_and_not_copied(source, tmp_path, executor):
    path = source.path / "segments" / source.segments[1].id / "values.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumError, match=source.segments[1].id):
        sort_store(source.path, tmp_path / "sorted", executor=executor)
    assert len(TraceStore.open(tmp_path / "sorted")) == 0


def test_quarantined_output_is_made_again_in_its_place(source, tmp_path):
    size = small_segments(source)
    result = sort_store(source, tmp_path / "sorted", segment_bytes=size)
    expected = result.column("stream")
    victim = result.segments[1].id
    damage = result.path / "segments" / victim / "values.arrow"
    data = bytearray(damage.read_bytes())
    data[len(data) // 2] ^= 1
    damage.write_bytes(data)
    quarantine(result, victim, reason="a flipped bit")
    assert len(result) < len(source)
    again = Counting()
    repaired = sort_store(source, tmp_path / "sorted", segment_bytes=size, executor=again)
    assert again.asked == [1]
    assert np.array_equal(repaired.column("stream"), expected)
    assert not verify(TraceStore.open(tmp_path / "sorted"), deep=True, log_probs=False)
