import multiprocessing
import os
import signal
import time

import pytest

from tracestore.errors import ChecksumError, ExecutorError, InvalidInputError
from tracestore.executors import ProcessExecutor, SerialExecutor

EXECUTORS = [pytest.param(SerialExecutor(), id="serial"), pytest.param(ProcessExecutor(2), id="processes")]


def double(number):
    return 2 * number


@pytest.mark.parametrize("executor", EXECUTORS)
def test_every_task_gives_its_result(executor):
    assert sorted(executor.run(double, [3, 1, 2, 5])) == [2, 4, 6, 10]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_no_tasks_give_no_results(executor):
    assert list(executor.run(double, [])) == []


@pytest.mark.parametrize("executor", EXECUTORS)
def test_errors_of_tasks_arrive_with_their_fields(executor):
    def fail(task):
        raise ChecksumError("Block 3 changed.", block=task)

    with pytest.raises(ChecksumError, match="Block 3 changed") as caught:
        list(executor.run(fail, [7]))
    assert caught.value.fields == {"block": 7}


@pytest.mark.processes
def test_any_exception_of_a_task_arrives():
    def fail(task):
        raise KeyError("mu")

    with pytest.raises(KeyError, match="mu") as caught:
        list(ProcessExecutor(1).run(fail, [7]))
    assert caught.value.__notes__ == ["in a process for 7"]


@pytest.mark.processes
@pytest.mark.parametrize("task", ["exception", "result"])
def test_what_cannot_be_sent_back_is_told(task):
    def fail(task):
        error = OSError("the disk is on fire")
        error.lamp = lambda: None  # type: ignore[attr-defined]
        if task == "exception":
            raise error
        return error

    with pytest.raises(ExecutorError if task == "exception" else AttributeError, match=r"lambda|the disk is on fire"):
        list(ProcessExecutor(1).run(fail, [task]))


@pytest.mark.processes
def test_tasks_run_in_other_processes_several_at_a_time():
    def meet(task):
        # each waits until the other is there, too
        read, write = pipes[task]
        os.write(pipes[1 - task][1], b"x")
        os.read(read, 1)
        os.write(write, b"y")
        return os.getpid()

    pipes = [os.pipe(), os.pipe()]
    ids = list(ProcessExecutor(2).run(meet, [0, 1]))
    assert len({*ids, os.getpid()}) == 3


@pytest.mark.processes
def test_death_of_a_worker_is_an_error_and_stops_the_others(tmp_path):
    def die_or_wait(task):
        if task == 0:
            while not (tmp_path / "started").exists():
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGKILL)
        (tmp_path / "started").touch()
        time.sleep(60)
        (tmp_path / "survived").touch()

    with pytest.raises(ExecutorError, match="exit code -9 before its task was done"):
        list(ProcessExecutor(2).run(die_or_wait, [0, 1]))
    assert not multiprocessing.active_children()
    assert not (tmp_path / "survived").exists()


def test_number_of_workers_must_be_positive():
    with pytest.raises(InvalidInputError, match="`workers` must be at least 1; got 0"):
        ProcessExecutor(0)


@pytest.mark.processes
def test_tasks_run_in_spawned_processes():
    assert sorted(ProcessExecutor(2, start_method="spawn").run(abs, [-1, 2])) == [1, 2]


def test_unknown_start_method_is_refused():
    with pytest.raises(InvalidInputError, match="'fork' or 'spawn'; got 'thread'"):
        ProcessExecutor(2, start_method="thread")  # type: ignore[arg-type]
