"""Prior generation as tasks: any executor makes the same traces, counted once, whatever happens to a task."""

import importlib
import signal
import sys
import threading
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import tracestore as ts
from tracestore import TraceStore
from tracestore.errors import ExecutorError, InvalidInputError, SimulatorError, StoreExistsError
from tracestore.events import Event, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.execution import plan_chunks
from tracestore.execution import tasks as module
from tracestore.execution.prior_draws import PriorDraws
from tracestore.execution.tasks import (
    ImportableSimulator,
    StretchTask,
    plan_stretches,
    run_stretches,
)
from tracestore.executors import ProcessExecutor, SerialExecutor
from tracestore.simulators import toys
from tracestore.store import Job, compact, quarantine
from tracestore.store.commit import commit_segment
from tracestore.traces import TraceBatch

Process = get_context("fork").Process

EXECUTORS = [
    pytest.param(SerialExecutor(), id="serial"),
    pytest.param(ProcessExecutor(2), id="fork", marks=pytest.mark.processes),
    pytest.param(ProcessExecutor(2, start_method="spawn"), id="spawn", marks=pytest.mark.processes),
]

MODULE = """
import os, signal
import tracestore as ts

@ts.simulator
def coin():
    if os.path.exists({flag!r}) and ts.sample(ts.Uniform(0.0, 1.0), name="u") > 0.95:
        os.unlink({flag!r})
        os.kill(os.getpid(), signal.SIGKILL)
    x = ts.sample(ts.Bernoulli({probability}), name="heads")
    if x == 1:
        raise ValueError("heads")
    return x

def plain():
    return ts.sample(ts.Normal(0.0, 1.0), name="x")

def make(scale):
    def inner():
        return ts.sample(ts.Normal(0.0, scale), name="x")
    return inner

one, two = ts.simulator(make(1.0)), ts.simulator(make(2.0))
named = ts.simulator(name="own_simulators:named")(make(3.0))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of simulators that processes started from here can import."""
    folder = tmp_path / "modules"
    folder.mkdir()
    text = MODULE.format(flag=str(tmp_path / "die"), probability=0.25)
    (folder / "own_simulators.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = importlib.import_module("own_simulators")
    yield module
    del sys.modules["own_simulators"]


def by_stream(store: TraceStore) -> dict[int, float]:
    values, indices = store.values("result")
    return dict(zip(store.column("stream")[indices].tolist(), values.tolist(), strict=True))


def ids(store: TraceStore) -> list[str]:
    return [entry.id for entry in store.segments]


def first_chunks(store: TraceStore) -> list[int]:
    return [int(identity.split("-")[1]) for identity in ids(store)]


RECIPE = PriorDraws(3, "simulate", 1000)


def make_task(store: TraceStore, *, segment_bytes: int = 2**30, identity: str = "") -> StretchTask:
    program = ImportableSimulator.of(toys.gum_marsaglia)
    return StretchTask.into(store, program, RECIPE, segment_bytes=segment_bytes, identity=identity)


class Gone:
    """A simulator that is an object of a class."""

    def __call__(self) -> float:
        return 0.0


class Again(SerialExecutor):
    """Runs every task twice, the first ones once more at the end."""

    def run(self, function, tasks, *, label="task"):
        for task in tasks:
            function(task)
            yield function(task)
        function(tasks[0])


class Dying(SerialExecutor):
    """Loses its worker after some tasks."""

    def __init__(self, num_tasks: int) -> None:
        self.num_tasks = num_tasks

    def run(self, function, tasks, *, label="task"):
        yield from map(function, tasks[: self.num_tasks])
        raise ExecutorError("A worker died.")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_executors_make_the_traces_that_workers_make_in_order_of_chunks(tmp_path: Path, executor) -> None:
    call: dict[str, Any] = {"num_traces": 300, "chunk_size": 50, "seed": 3}
    events: list[Event] = []
    expected = ts.simulate(toys.gum_marsaglia, tmp_path / "expected", **call)
    serial = ts.simulate(toys.gum_marsaglia, tmp_path / "serial", executor=SerialExecutor(), **call)
    store = ts.simulate(toys.gum_marsaglia, tmp_path / "s", executor=executor, observer=events.append, **call)
    assert by_stream(store) == by_stream(expected)
    assert ids(store) == ids(serial)
    assert first_chunks(store) == list(range(6))
    assert [int(part.min()) for part in store.column("stream").reshape(6, 50)] == list(range(0, 300, 50))
    assert events[0] == PhaseStarted("simulate", 300, 0)
    assert isinstance(events[-1], PhaseFinished)
    last = [event for event in events if isinstance(event, PhaseAdvanced)][-1]
    assert (last.done, last.nbytes) == (300, sum(entry.nbytes for entry in store.segments))


def test_tasks_are_groups_of_the_job_whatever_is_left() -> None:
    chunks = plan_chunks(10_000, 10)
    whole = plan_stretches(chunks, set())
    assert [len(stretch) for stretch in whole] == [4] * 250
    assert [chunk for stretch in whole for chunk in stretch] == chunks
    later = plan_stretches(chunks, {0, 1, 2, 9, 996})
    assert [[chunk.index for chunk in stretch] for stretch in later[:4]] == [[3], [4, 5, 6, 7], [8], [10, 11]]
    assert later[4:-1] == whole[3:-1]
    sizes = [len(plan_stretches(plan_chunks(number, 1), set())) for number in (1, 64, 65, 4096, 4097)]
    assert sizes == [1, 64, 33, 1024, 820]
    moved = plan_chunks(100, 1, first=500, first_index=7)
    assert [stretch[0].index for stretch in plan_stretches(moved, set())][:3] == [7, 9, 11]


@pytest.mark.parametrize("first", ["workers", "executor"])
def test_a_job_begun_in_one_way_is_finished_in_the_other(tmp_path: Path, first: str) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, PhaseAdvanced) and event.done >= 150:
            raise KeyboardInterrupt

    def call(how: str, observer) -> TraceStore:
        executor = SerialExecutor() if how == "executor" else None
        path = tmp_path / "s"
        return ts.simulate(
            toys.gum_marsaglia, path, num_traces=600, chunk_size=5, seed=3, executor=executor, observer=observer
        )

    with pytest.raises(KeyboardInterrupt):
        call(first, interrupt)
    assert sorted(TraceStore.open(tmp_path / "s").column("stream").tolist()) == list(range(150))
    events: list[Event] = []
    store = call({"workers": "executor", "executor": "workers"}[first], events.append)
    assert events[0] == PhaseStarted("simulate", 600, 150)
    assert [event.done for event in events if isinstance(event, PhaseAdvanced)][-1] == 600
    assert by_stream(store) == by_stream(ts.simulate(toys.gum_marsaglia, tmp_path / "t", num_traces=600, seed=3))
    assert call("executor", None).version == store.version
    with pytest.raises(StoreExistsError, match="seed"):
        ts.simulate(toys.gum_marsaglia, tmp_path / "s", num_traces=600, chunk_size=5, seed=4, executor=SerialExecutor())


def test_tasks_that_run_again_count_once(tmp_path: Path) -> None:
    store = ts.simulate(toys.gum_marsaglia, tmp_path / "s", num_traces=300, seed=3, executor=Again())
    expected = ts.simulate(toys.gum_marsaglia, tmp_path / "t", num_traces=300, seed=3, executor=SerialExecutor())
    assert sorted(store.column("stream").tolist()) == list(range(300))
    assert ids(store) == ids(expected)


def test_a_task_that_runs_again_makes_only_what_was_not_committed(tmp_path: Path, monkeypatch) -> None:
    store = TraceStore.create(tmp_path / "s", job=Job("simulate", {"seed": 3}))
    stretch = tuple(plan_chunks(100, 10))
    task = make_task(store, segment_bytes=1)
    committed: list[str] = []
    simulated: list[int] = []

    def die_at_the_fourth(*args, **options):
        if len(committed) == 3:
            raise MemoryError("the worker dies")
        committed.append(args[3])
        return commit_segment(*args, **options)

    def note(recipe, program, chunk):
        simulated.append(chunk.index)
        return TraceBatch.from_traces(recipe.traces(program, chunk))

    monkeypatch.setattr(module, "commit_segment", die_at_the_fourth)
    with pytest.raises(MemoryError):
        task(stretch)
    monkeypatch.setattr(module, "commit_segment", commit_segment)
    monkeypatch.setattr(PriorDraws, "make", note)
    assert task(stretch)[0] == 100
    assert simulated == list(range(3, 10))
    store.fold()
    assert sorted(store.column("stream").tolist()) == list(range(100))
    assert first_chunks(store) == list(range(10))


@pytest.mark.parametrize("where", [threading.Thread, pytest.param(Process, marks=pytest.mark.processes)])
def test_a_task_that_runs_twice_at_once_counts_once(tmp_path: Path, where) -> None:
    store = TraceStore.create(tmp_path / "s", job=Job("simulate", {}))
    task, stretch = make_task(store, segment_bytes=3000), tuple(plan_chunks(200, 10))
    both = [where(target=task, args=(stretch,)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    store.fold()
    assert sorted(store.column("stream").tolist()) == list(range(200))
    assert not any(commit.set_aside for commit in store.manifest.commits)


def test_a_resumed_call_and_a_zombie_of_the_first_one_make_the_same_segments(tmp_path: Path, monkeypatch) -> None:
    store = TraceStore.create(tmp_path / "s", job=Job("simulate", {}))
    task, chunks = make_task(store, segment_bytes=3000), plan_chunks(200, 10)
    committed: list[str] = []

    def commit(*args, **options):
        committed.append(args[3])
        if len(committed) == 3:  # the zombie holds its third piece when the resumed call does everything
            store.fold()
            assert len(store.completed_work()) > 1
            run_stretches(store, chunks, task, executor=SerialExecutor())
        return commit_segment(*args, **options)

    monkeypatch.setattr(module, "commit_segment", commit)
    monkeypatch.setattr(module, "plan_stretches", lambda chunks, completed: [tuple(chunks[len(completed) :])])
    task(tuple(chunks))
    store.fold()
    assert sorted(store.column("stream").tolist()) == list(range(200))
    assert not any(commit.set_aside for commit in store.manifest.commits)


def test_pieces_are_cut_by_bytes_at_the_same_places_from_wherever_one_begins(tmp_path: Path) -> None:
    stretch = tuple(plan_chunks(400, 10))
    whole, resumed = (TraceStore.create(tmp_path / name, job=Job("simulate", {})) for name in "ab")
    make_task(whole, segment_bytes=5000)(stretch)
    whole.fold()
    assert 3 < len(whole.segments) < 40
    make_task(resumed, segment_bytes=5000)(stretch[first_chunks(whole)[1] :])
    resumed.fold()
    assert ids(resumed) == ids(whole)[1:]


def test_overlapping_work_of_another_call_is_done_again_under_other_ids(tmp_path: Path) -> None:
    store = TraceStore.create(tmp_path / "s", job=Job("simulate", {}))
    chunks = plan_chunks(1200, 10)

    class Meddling(SerialExecutor):
        """Another call takes a chunk in the middle of the first task while that one runs."""

        rounds = 0

        def run(self, function, tasks, *, label="task"):
            self.rounds += 1
            if self.rounds == 1:
                with store.writer() as writer:
                    writer.append(RECIPE.make(toys.gum_marsaglia, chunks[1]), work=[1])
            return map(function, tasks)

    executor = Meddling()
    with pytest.warns(ts.errors.TracestoreWarning, match="repeat work"):
        run_stretches(store, chunks, make_task(store), executor=executor)
    assert executor.rounds == 2
    assert sorted(store.column("stream").tolist()) == list(range(1200))


def test_traces_of_a_quarantined_segment_are_made_again(tmp_path: Path) -> None:
    def call() -> TraceStore:
        return ts.simulate(toys.gum, tmp_path / "s", num_traces=100, seed=1, executor=SerialExecutor())

    store = call()
    quarantine(store, ids(store)[3], reason="a test")
    assert len(store) == 98
    assert sorted(call().column("stream").tolist()) == list(range(100))


def test_traces_of_a_quarantined_segment_that_was_compacted_are_made_again(tmp_path: Path) -> None:
    def call() -> TraceStore:
        return ts.simulate(toys.gum, tmp_path / "s", num_traces=100, seed=1, executor=SerialExecutor())

    store = call()
    compact(store)
    quarantine(store, ids(store)[0], reason="a test")
    assert len(store) == 0
    assert sorted(call().column("stream").tolist()) == list(range(100))


def test_appended_jobs_have_ids_of_their_own(tmp_path: Path) -> None:
    executor = SerialExecutor()
    ts.simulate(toys.gum, tmp_path / "s", num_traces=50, seed=1, executor=executor)
    store = ts.simulate(toys.gum, tmp_path / "s", num_traces=30, seed=1, append=True, executor=executor)
    assert sorted(store.column("stream").tolist()) == list(range(80))
    assert by_stream(store) == by_stream(ts.simulate(toys.gum, tmp_path / "t", num_traces=80, seed=1))
    prefixes = [make_task(store, identity=identity).prefix for identity in ("a", "b")]
    assert len(set(prefixes)) == 2
    assert len({one.split("-")[0] for one in ids(store)}) == 2


def test_a_lost_worker_leaves_what_was_finished(tmp_path: Path) -> None:
    with pytest.raises(ExecutorError):
        ts.simulate(toys.gum, tmp_path / "s", num_traces=100, seed=1, executor=Dying(30))
    assert sorted(TraceStore.open(tmp_path / "s").column("stream").tolist()) == list(range(60))


@pytest.mark.processes
def test_a_killed_worker_is_an_error_and_the_call_is_repeated(tmp_path: Path, own) -> None:
    (tmp_path / "die").touch()
    with pytest.raises(ExecutorError, match=f"exit code -{signal.SIGKILL.value}"):
        ts.simulate(own.coin, tmp_path / "s", num_traces=200, seed=1, executor=ProcessExecutor(2))
    assert not (tmp_path / "die").exists()
    store = ts.simulate(own.coin, tmp_path / "s", num_traces=200, seed=1, executor=ProcessExecutor(2))
    assert sorted(store.column("stream").tolist()) == list(range(200))


def test_failures_are_counted(tmp_path: Path, own) -> None:
    events: list[Event] = []
    store = ts.simulate(
        own.coin, tmp_path / "s", num_traces=100, seed=1, executor=SerialExecutor(), observer=events.append
    )
    failed = store.failures()
    assert set(failed.values()) == {"ValueError: heads"}
    assert [event.failed for event in events if isinstance(event, PhaseAdvanced)][-1] == len(failed) > 5


def test_simulators_of_modules_are_sent_by_name(tmp_path: Path, own) -> None:
    assert ImportableSimulator.of(ts.simulators.as_simulator(own.plain)).spec == "own_simulators:plain"
    assert ImportableSimulator.of(own.named).spec == "own_simulators:named"
    executor = ProcessExecutor(1, start_method="spawn")
    store = ts.simulate(own.named, tmp_path / "s", num_traces=3, seed=1, chunk_size=3, executor=executor)
    assert by_stream(store) == by_stream(ts.simulate(own.named, tmp_path / "t", num_traces=3, seed=1))


def test_simulators_without_an_importable_name_are_refused_before_anything_is_written(
    tmp_path: Path, own, monkeypatch
) -> None:
    def nested() -> float:
        return 0.0

    def in_main() -> float:
        return 0.0

    in_main.__module__, in_main.__qualname__ = "__main__", "in_main"
    other = ts.simulators.Simulator(own.make(4.0), name="own_simulators:named")
    cases = [
        (nested, "inside another function"),
        (lambda: 0.0, "a lambda"),
        (in_main, "defined in __main__"),
        (own.one, "inside another function"),
        (other, "inside another function"),
        (ts.simulators.Simulator(Gone(), name="gone:object"), "not what its name imports"),
    ]
    for program, reason in cases:
        with pytest.raises(InvalidInputError, match=reason) as caught:
            ts.simulate(program, tmp_path / "s", num_traces=10, executor=SerialExecutor())
        assert "`workers=`" in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_workers_and_executor_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="not both"):
        ts.simulate(toys.gum, tmp_path / "s", num_traces=10, workers=2, executor=SerialExecutor())
    assert not (tmp_path / "s").exists()


@pytest.mark.processes
def test_a_worker_with_other_code_is_an_error_that_names_both(tmp_path: Path, own) -> None:
    source = Path(own.__file__)

    class Edited(ProcessExecutor):
        """The file changes between call and worker."""

        def run(self, function, tasks, *, label="task"):
            source.write_text(MODULE.format(flag=str(tmp_path / "die"), probability=0.75))
            return super().run(function, tasks, label=label)

    with pytest.raises(SimulatorError, match="other code") as caught:
        ts.simulate(own.coin, tmp_path / "s", num_traces=10, executor=Edited(1, start_method="spawn"))
    assert caught.value.fields["found"] != caught.value.fields["expected"]
    assert str(caught.value.fields["found"]) in str(caught.value)
    assert str(caught.value.fields["expected"]) in str(caught.value)


def test_a_worker_that_imported_the_module_before_it_was_edited_is_found_out(tmp_path: Path, own) -> None:
    call: dict[str, Any] = {"num_traces": 10, "executor": SerialExecutor()}
    ts.simulate(own.coin, tmp_path / "s", **call)
    Path(own.__file__).write_text(MODULE.format(flag=str(tmp_path / "die"), probability=0.75))
    with pytest.raises(SimulatorError, match="restart those that imported it earlier"):
        ts.simulate(own.coin, tmp_path / "t", **call)


@pytest.mark.processes
def test_a_worker_without_the_module_is_an_error_that_names_it(tmp_path: Path, own) -> None:
    class Removed(ProcessExecutor):
        """The module is not where the worker is."""

        def run(self, function, tasks, *, label="task"):
            Path(own.__file__).unlink()
            return super().run(function, tasks, label=label)

    with pytest.raises(SimulatorError, match="cannot import the simulator 'own_simulators:coin'"):
        ts.simulate(own.coin, tmp_path / "s", num_traces=10, executor=Removed(1, start_method="spawn"))


@pytest.mark.processes
def test_dask_makes_the_same_traces_in_the_same_order(tmp_path: Path) -> None:
    dask = pytest.importorskip("tracestore.executors.dask")
    serial = ts.simulate(toys.gum_marsaglia, tmp_path / "t", num_traces=300, seed=3, executor=SerialExecutor())
    with dask.DaskExecutor.local(workers=2) as executor:
        store = ts.simulate(toys.gum_marsaglia, tmp_path / "s", num_traces=300, seed=3, executor=executor)
    assert by_stream(store) == by_stream(serial)
    # ids tell how much memory workers have: it says where segments end
    assert first_chunks(store) == first_chunks(serial)
