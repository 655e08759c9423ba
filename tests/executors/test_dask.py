"""The dask executor on real local clusters; faked answers only where a real machine would be needed."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("distributed")

from dask.utils import key_split
from distributed import Client, Future, LocalCluster

import tracestore
from tracestore.errors import ChecksumError, ExecutorError, InvalidInputError
from tracestore.executors import dask as module
from tracestore.executors.cluster_check import require_equal_packages
from tracestore.executors.dask import DaskExecutor
from tracestore.executors.packed import call_packed

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 120


@pytest.fixture(scope="module")
def executor():
    with DaskExecutor.local(workers=2) as opened:
        yield opened


@contextmanager
def cluster_in_process(**options):
    """Scheduler and workers as threads of this process: cheap, and enough where no process must die."""
    with (
        LocalCluster(processes=False, threads_per_worker=1, dashboard_address=":0", **options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def until(condition):
    while not condition():
        time.sleep(0.01)


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def tasks_on_scheduler(executor, label):
    """How many tasks of a label the scheduler knows."""
    keys = executor.client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))
    return sum(key_split(key) == label for key in keys)


# --------------------------------------------------------------------------------------------------------- results


def test_every_task_gives_its_result(executor):
    assert sorted(executor.run(lambda number: 2 * number, [3, 1, 2, 5])) == [2, 4, 6, 10]


def test_no_tasks_give_no_results_and_ask_nobody():
    client: Any = SimpleNamespace(asynchronous=False)
    assert list(DaskExecutor(client).run(abs, [])) == []


def test_tasks_are_shown_by_their_label(executor):
    def labels(_):
        from distributed import get_worker

        return key_split(get_worker().get_current_task())

    assert list(executor.run(labels, [1], label="sort")) == ["sort"]


def test_runs_with_one_label_do_not_answer_each_other(executor):
    first = executor.run(lambda task: ("first", task), range(20), label="same")
    done = [next(first)]
    assert sorted(executor.run(lambda task: ("second", task), range(20), label="same")) == [
        ("second", task) for task in range(20)
    ]
    assert sorted([*done, *first]) == [("first", task) for task in range(20)]


def test_tasks_begin_in_their_order(tmp_path):
    def leave_mark(task):
        with (tmp_path / "marks").open("a") as file:
            file.write(f"{task} ")

    with cluster_in_process(n_workers=1) as client:
        list(DaskExecutor(client).run(leave_mark, range(200)))
    assert (tmp_path / "marks").read_text().split() == [str(task) for task in range(200)]


def test_number_of_submitted_tasks_is_bounded_and_results_are_dropped(executor, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 4)
    monkeypatch.setattr(module, "_MOST_SUBMITTED", 8)
    known, results = [], []
    for result in executor.run(abs, range(100)):
        known.append(len(executor.client.futures))
        results.append(result)
    assert sorted(results) == list(range(100))
    assert max(known) <= 8
    until(lambda: tasks_on_scheduler(executor, "task") == 0)


@pytest.mark.parametrize("embedded_bytes", [0, 2**40], ids=["as a task's result", "with each task"])
def test_large_functions_work(executor, monkeypatch, embedded_bytes):
    monkeypatch.setattr(module, "_EMBEDDED_BYTES", embedded_bytes)
    table = os.urandom(300_000)
    assert sorted(executor.run(lambda index: table[index], range(100))) == sorted(table[:100])


# ---------------------------------------------------------------------------------------------------------- errors


def test_errors_of_tasks_arrive_with_their_fields_and_end_the_run(executor, tmp_path):
    def fail_or_count(task):
        if task == 0:
            raise ChecksumError("Block 3 changed.", block=7)
        time.sleep(0.05)
        (tmp_path / str(task)).touch()

    with pytest.raises(ChecksumError, match="Block 3 changed") as caught:
        list(executor.run(fail_or_count, range(600), label="failing"))
    assert caught.value.fields == {"block": 7}
    assert "for 0" in caught.value.__notes__[0]
    until(lambda: tasks_on_scheduler(executor, "failing") == 0)
    assert len(list(tmp_path.iterdir())) < 599


def test_errors_of_the_system_arrive_as_such(executor):
    def fail(task):
        raise FileNotFoundError(2, "gone", "file")

    with pytest.raises(FileNotFoundError) as caught:
        list(executor.run(fail, [1]))
    assert (caught.value.errno, caught.value.filename) == (2, "file")


def test_retries_repeat_a_task_that_raised(executor, tmp_path):
    def fail_once(task):
        if not (tmp_path / "failed").exists():
            (tmp_path / "failed").touch()
            raise OSError("busy")
        return task

    assert list(DaskExecutor(executor.client, retries=1).run(fail_once, [5])) == [5]


def test_closing_the_iterator_cancels_what_has_not_begun(executor, tmp_path):
    def count(task):
        time.sleep(0.05)
        (tmp_path / str(task)).touch()

    results = executor.run(count, range(600), label="closing")
    next(results)
    results.close()
    until(lambda: tasks_on_scheduler(executor, "closing") == 0)
    assert len(list(tmp_path.iterdir())) < 600


def test_unpicklable_functions_are_refused(executor):
    lock = threading.Lock()

    def use_lock(task):
        lock.acquire()

    with pytest.raises(ExecutorError, match=r"use_lock.* cannot be pickled for the workers"):
        list(executor.run(use_lock, [1]))


def test_function_of_a_module_that_workers_lack_is_refused():
    packed = b"cmy_simulation\nfunction\n."  # what pickle writes for `my_simulation.function`
    with pytest.raises(ExecutorError, match="No module named 'my_simulation'; install the same packages"):
        call_packed(pickle.dumps(1), packed)


def test_function_that_the_workers_do_not_have_is_refused():
    packed = b"ctracestore.executors.packed\nfunction_of_tomorrow\n."
    with pytest.raises(ExecutorError, match=r"function_of_tomorrow.*; install the same packages"):
        call_packed(pickle.dumps(1), packed)


def test_tasks_that_the_scheduler_drops_are_an_error(executor):
    results = executor.run(lambda task: time.sleep(0.05), range(200), label="dropped")
    next(results)
    executor.client.cancel([Future(key, executor.client) for key in executor.client.futures])
    with pytest.raises(ExecutorError, match="has dropped tasks of this run, or was lost"):
        list(results)


# ------------------------------------------------------------------------------------------------------ lost workers


def test_loss_of_a_worker_costs_its_task_only(executor, tmp_path):
    def count(task):
        with (tmp_path / f"{task}.runs").open("a") as file:
            file.write("x")
        if task == 3:
            (tmp_path / "pid.new").write_text(str(os.getpid()))
            (tmp_path / "pid.new").rename(tmp_path / "pid")
            until_exists(tmp_path / "released")
        return task

    def until_exists(path):
        while not path.exists():
            time.sleep(0.01)

    results = executor.run(count, range(20))
    done = [next(results) for _ in range(19)]
    victim = int((tmp_path / "pid").read_text())
    assert victim in executor.client.run(os.getpid).values()
    os.kill(victim, signal.SIGKILL)
    (tmp_path / "released").touch()
    done += results
    assert sorted(done) == list(range(20))
    runs = {task: len((tmp_path / f"{task}.runs").read_text()) for task in range(20)}
    assert runs == {task: 2 if task == 3 else 1 for task in range(20)}


def test_a_large_function_survives_the_loss_of_all_workers(executor, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_EMBEDDED_BYTES", 0)

    def meet(task):
        (tmp_path / f"{task}.begun").touch()
        while not (tmp_path / "released").exists():
            time.sleep(0.01)
        return task

    def kill_all():
        until(lambda: len(list(tmp_path.glob("*.begun"))) == 2)
        for process in pids:
            os.kill(process, signal.SIGKILL)
        (tmp_path / "released").touch()

    until(lambda: len(executor.client.nthreads()) == 2)
    pids = list(executor.client.run(os.getpid).values())
    killer = threading.Thread(target=kill_all)
    killer.start()
    results = list(executor.run(meet, range(20)))
    killer.join()
    assert sorted(results) == list(range(20))
    assert not set(pids) & set(executor.client.run(os.getpid).values())


def test_a_task_that_always_kills_its_worker_is_an_error(executor):
    with pytest.raises(
        ExecutorError, match=r"Workers died 4 times while they had task 0.*repeat the call to go on"
    ) as caught:
        list(executor.run(lambda task: os.kill(os.getpid(), signal.SIGKILL), [1]))
    assert caught.value.fields["task"] == 0


def test_workers_that_are_all_gone_are_reported(monkeypatch, caplog):
    def nthreads():
        finished.put(future)
        return {}

    monkeypatch.setattr(module, "_WATCH_SECONDS", 0.01)
    finished: SimpleQueue[Any] = SimpleQueue()
    future = object()
    client: Any = SimpleNamespace(asynchronous=False, nthreads=nthreads)
    assert DaskExecutor(client)._next(finished, 3) is future
    assert "The dask cluster has no worker; 3 tasks wait for one." in caplog.text


# ------------------------------------------------------------------------------------------------- what is refused


def test_a_cluster_without_workers_is_refused():
    with cluster_in_process(n_workers=0) as client:
        results = DaskExecutor(client, wait_seconds=0.2).run(abs, [1])
        with pytest.raises(ExecutorError, match=r"has had no worker for 0\.2 s; start some") as caught:
            next(results)
        assert caught.value.fields["address"] == client.scheduler.address


def test_an_adaptive_cluster_starts_its_first_worker():
    with cluster_in_process(n_workers=0) as client:
        client.cluster.adapt(minimum=0, maximum=1, interval="50ms")
        assert list(DaskExecutor(client).run(abs, [-1])) == [1]


MINE = {"python": "3.11.7.final.0", "dask": "2026.1.0", "distributed": "2026.1.0"}


class FakeClient:
    """Answers of a cluster with one worker, as a client passes them on."""

    def __init__(self, *, scheduler=(), worker=(), imports=(tracestore.__version__, "")):
        self.versions = {
            "client": {"packages": MINE},
            "scheduler": {"packages": MINE | dict(scheduler)},
            "workers": {"tcp://node2:1": {"packages": MINE | dict(worker)}},
        }
        self.imports = imports

    def get_versions(self):
        return self.versions

    def run(self, function, *, on_error):
        return {"tcp://node2:1": self.imports}


REFUSED = [
    pytest.param(
        FakeClient(worker={"python": "3.12.1.final.0"}),
        r"Python 3\.12 on worker tcp://node2:1 \(here 3\.11\)",
        id="python",
    ),
    pytest.param(
        FakeClient(scheduler={"distributed": "2025.1.0"}),
        r"distributed 2025\.1\.0 on the scheduler \(here 2026\.1\.0\)",
        id="scheduler",
    ),
    pytest.param(
        FakeClient(scheduler={"dask": "2025.1.0"}, worker={"dask": "2025.1.0"}),
        r"dask 2025\.1\.0 on the scheduler, worker tcp://node2:1 \(here",
        id="both",
    ),
    pytest.param(
        FakeClient(imports=("0.0.1", "")), r"tracestore 0\.0\.1 on worker tcp://node2:1 \(here", id="tracestore"
    ),
    pytest.param(
        FakeClient(imports=("", "No module named 'pyarrow'")),
        "cannot be imported on worker tcp://node2:1: No module named 'pyarrow'; install",
        id="broken worker",
    ),
]


@pytest.mark.parametrize(("client", "message"), REFUSED)
def test_clusters_with_other_packages_are_refused(client, message):
    with pytest.raises(ExecutorError, match=message):
        require_equal_packages(client)


ACCEPTED = [
    pytest.param(FakeClient(), id="equal"),
    pytest.param(FakeClient(worker={"python": "3.11.9.final.0"}), id="patch of Python"),
    pytest.param(FakeClient(imports=("0+unknown", "")), id="not installed there, but on the path"),
    pytest.param(FakeClient(imports=OSError("left")), id="a worker that has left"),
]


@pytest.mark.parametrize("client", ACCEPTED)
def test_clusters_with_the_same_packages_are_accepted(client):
    require_equal_packages(client)


@contextmanager
def worker_without_tracestore(client, tmp_path):
    """A worker process that joins the cluster and cannot import tracestore."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['tracestore'] = None\n")
    words = ["--no-nanny", "--no-dashboard", "--nthreads", "1", "--death-timeout", "60"]
    address = client.scheduler.address
    process = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", address, *words],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_a_worker_that_cannot_import_tracestore_is_refused(tmp_path):
    with cluster_in_process(n_workers=0, protocol="tcp") as client, worker_without_tracestore(client, tmp_path):
        results = DaskExecutor(client).run(abs, [1])
        with pytest.raises(ExecutorError, match=r"tracestore cannot be imported on worker tcp://.*install it there"):
            next(results)


def test_a_worker_that_comes_later_and_cannot_import_tracestore_is_an_error(tmp_path):
    def wait(task):
        while task > 0 and not (tmp_path / "released").exists():
            time.sleep(0.01)

    with cluster_in_process(n_workers=1, protocol="tcp") as client:
        results = DaskExecutor(client).run(wait, range(50))
        next(results)
        with worker_without_tracestore(client, tmp_path):
            with pytest.raises(ExecutorError, match="A worker of the dask cluster cannot import tracestore"):
                list(results)
            (tmp_path / "released").touch()


def test_asynchronous_clients_are_refused():
    client: Any = SimpleNamespace(asynchronous=True)
    with pytest.raises(InvalidInputError, match="`client` must not be asynchronous"):
        DaskExecutor(client)


@pytest.mark.parametrize("option", ["retries", "wait_seconds"])
def test_negative_numbers_are_refused(option):
    client: Any = SimpleNamespace(asynchronous=False)
    options: Any = {option: -1}
    with pytest.raises(InvalidInputError, match=f"`{option}` must not be negative; got -1"):
        DaskExecutor(client, **options)


# ----------------------------------------------------------------------------------------------- opening and closing


INTERRUPTED = """
import os, signal, time
from tracestore.executors.dask import DaskExecutor

if __name__ == "__main__":
    with DaskExecutor.local(workers=1) as executor:
        print(*executor.client.run(os.getpid).values(), flush=True)
        for _ in executor.run(lambda task: time.sleep(0.05), range(2000)):
            print("result", flush=True)
"""


def test_an_interrupted_script_ends_and_leaves_no_workers(tmp_path):
    (tmp_path / "script.py").write_text(INTERRUPTED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, str(tmp_path / "script.py")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as script:
        worker = int(script.stdout.readline())
        script.stdout.readline()
        script.send_signal(signal.SIGINT)
        output, errors = script.communicate(timeout=TIMEOUT_SECONDS)
    assert "KeyboardInterrupt" in errors
    assert output.count("result") < 1999
    until(lambda: not is_alive(worker))


def test_local_workers_end_with_the_block_even_after_an_error():
    pids = []

    def fail_with_workers():
        with DaskExecutor.local(workers=1) as executor:
            pids.extend(executor.client.run(os.getpid).values())
            assert is_alive(pids[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_with_workers()
    until(lambda: not is_alive(pids[0]))


def test_local_workers_have_the_memory_limit_asked_for():
    with DaskExecutor.local(workers=1, memory_limit=2**30) as executor:
        assert executor.memory_limit == 2**30


@pytest.mark.parametrize("options", [{"workers": 0}, {"memory_limit": 0}])
def test_numbers_for_local_workers_must_be_positive(options):
    with pytest.raises(InvalidInputError, match="must be at least 1; got 0"), DaskExecutor.local(**options):
        pass


def test_local_dashboard_has_a_link(executor):
    assert executor.dashboard_link.startswith("http://127.0.0.1:")


def test_a_running_scheduler_can_be_connected_to_and_stays(executor):
    address = executor.client.scheduler.address
    with DaskExecutor.connect(address) as connected:
        assert list(connected.run(abs, [-1])) == [1]
    assert connected.client.status == "closed"
    assert list(executor.run(abs, [-2])) == [2]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://here"])
def test_a_scheduler_that_does_not_answer_is_an_error(address):
    with (
        pytest.raises(ExecutorError, match=f"No dask scheduler answers at {address} .*`dask scheduler`") as caught,
        DaskExecutor.connect(address, timeout=1),
    ):
        pass
    assert caught.value.fields["address"] == address


WORKERS = [
    pytest.param([(8, 2), (6, 1)], 4, id="smallest per thread"),
    pytest.param([(0, 1)], None, id="no limit"),
    pytest.param([], None, id="no worker"),
]


@pytest.mark.parametrize(("workers", "limit"), WORKERS)
def test_memory_limit_is_that_of_the_smallest_worker_per_thread(workers, limit):
    def scheduler_info(n_workers):
        return {"workers": {str(number): {"memory_limit": m, "nthreads": n} for number, (m, n) in enumerate(workers)}}

    client: Any = SimpleNamespace(asynchronous=False, scheduler_info=scheduler_info)
    assert DaskExecutor(client).memory_limit == limit
