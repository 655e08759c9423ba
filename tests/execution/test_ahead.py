"""Workers that make things ahead of time: same results, same order, and an end whatever happens."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tracestore.errors import InvalidInputError, SimulatorError
from tracestore.execution.ahead import AheadWorkers

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.processes


def slow_when_even(number):
    time.sleep(0.02 * (number % 2 == 0))
    return number * number, os.getpid()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_the_order_of_the_items(workers):
    with AheadWorkers(slow_when_even, workers=workers) as crew:
        first = list(crew.results(range(10)))
        second = list(crew.results(range(3)))
    assert [square for square, _ in first] == [number**2 for number in range(10)]
    assert [square for square, _ in second] == [0, 1, 4]
    processes = {process for _, process in first}
    assert len(processes) == max(workers, 1)
    assert (os.getpid() in processes) == (workers == 0)


def test_no_more_is_made_ahead_than_allowed():
    asked = []

    def items():
        for number in range(20):
            asked.append(number)
            yield number

    with AheadWorkers(slow_when_even, workers=2, ahead=3) as crew:
        results = crew.results(items())
        for taken in range(1, 6):
            next(results)
            assert len(asked) == taken + 3


def test_without_workers_nothing_is_made_before_it_is_taken():
    made: list[int] = []
    with AheadWorkers(made.append, workers=0) as crew:
        results = crew.results(range(5))
        next(results)
    assert made == [0]


def test_things_larger_than_a_pipe_arrive():
    def large(number):
        return bytes([number]) * 1_000_000

    with AheadWorkers(large, workers=2) as crew:
        assert [(len(made), made[0]) for made in crew.results(range(5))] == [(1_000_000, number) for number in range(5)]


def test_what_a_worker_raises_is_raised_where_it_is_taken():
    def divide(number):
        return 1 // number

    with AheadWorkers(divide, workers=2) as crew:
        results = crew.results([1, 0, 1])
        assert next(results) == 1
        with pytest.raises(SimulatorError, match="A worker failed with ZeroDivisionError") as caught:
            next(results)
    assert "in a worker process" in caught.value.__notes__[0]


def test_a_worker_that_dies_is_an_error():
    def die(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with AheadWorkers(die, workers=2) as crew:
        results = crew.results(range(9))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(SimulatorError, match="died with exit code -9; run the same call again"):
            next(results)


def test_workers_survive_signals_to_the_whole_group_and_end_with_the_block():
    with AheadWorkers(slow_when_even, workers=2) as crew:
        results = crew.results(range(1, 100))
        workers = {next(results)[1], next(results)[1]}
        for worker in workers:
            os.kill(worker, signal.SIGTERM)
            os.kill(worker, signal.SIGINT)
        assert next(results)[0] == 9
    assert len(workers) == 2
    assert not any(is_alive(worker) for worker in workers)


def test_a_worker_that_hangs_is_killed(monkeypatch):
    monkeypatch.setattr("tracestore.execution.ahead.GRACE_SECONDS", 0.1)

    def hang(number):
        if number:
            signal.pause()
        return os.getpid()

    with AheadWorkers(hang, workers=1) as crew:
        worker = next(crew.results([0, 1]))
    assert not is_alive(worker)


def test_workers_end_when_their_parent_is_killed():
    program = (
        "import os, signal, time\n"
        "from tracestore.execution.ahead import AheadWorkers\n"
        "with AheadWorkers(lambda n: (time.sleep(0.01), os.getpid()), workers=2) as crew:\n"
        "    results = crew.results(iter(int, 1))\n"
        "    print(next(results)[1], next(results)[1], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    workers = [int(word) for word in done.stdout.split()]
    assert len(set(workers)) == 2
    end = time.monotonic() + 30.0
    while any(is_alive(worker) for worker in workers) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(is_alive(worker) for worker in workers)


@pytest.mark.parametrize("numbers", [{"workers": -1}, {"workers": 1, "ahead": 0}])
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(InvalidInputError, match="`workers` must be at least 0"):
        AheadWorkers(slow_when_even, **numbers)


def is_alive(process):
    """Whether a process runs; one that has ended and that nobody has asked about counts as ended."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
