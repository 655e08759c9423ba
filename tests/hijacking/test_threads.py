"""Draws of threads that a program starts belong to its trace; those that cannot be seen are reported."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tracestore.errors import SimulatorProtocolError
from tracestore.hijacking import hijack, leaks
from tracestore.simulators import PriorController, ReplayController, Simulator, run_trace

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _first_run(monkeypatch):
    """Look for leaks in every test, although all run the same program."""
    monkeypatch.setattr(leaks, "_num_runs", {})


DRAWS = {"random": lambda: random.gauss(0.0, 1.0), "torch": lambda: torch.randn(()).item()}


def run(function, source, controller=None):
    """Run a function with its draws recorded; return the trace."""

    def program():
        with hijack(source):
            function()

    return run_trace(Simulator(program), controller or PriorController(), np.random.default_rng(1))


@pytest.mark.parametrize("source", DRAWS)
def test_draws_of_a_started_thread_are_recorded(source):
    def work():
        thread = threading.Thread(target=DRAWS[source])
        thread.start()
        thread.join()

    trace = run(work, source)
    assert [site.family for site in trace.sites] == ["Normal"]


@pytest.mark.parametrize("source", DRAWS)
def test_draws_of_a_pool_are_recorded_and_replayed(source):
    found = []

    def work():
        with ThreadPoolExecutor(1) as pool:
            found.append(list(pool.map(lambda _: DRAWS[source](), range(5))))

    trace = run(work, source)
    assert [site.instance for site in trace.sites] == [1, 2, 3, 4, 5]
    run(work, source, ReplayController(trace))
    assert found[0] == found[1]


@pytest.mark.parametrize("source", DRAWS)
def test_many_threads_at_once_lose_no_draw(source):
    def work():
        threads = [threading.Thread(target=lambda: [DRAWS[source]() for _ in range(20)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(run(work, source)) == 80


def test_a_thread_with_a_run_of_its_own_is_recorded_in_torch():
    class Worker(threading.Thread):
        def run(self):
            torch.randn(())

    def work():
        worker = Worker()
        worker.start()
        worker.join()
        assert "run" not in vars(worker)

    trace = run(work, "torch")
    assert (len(trace), trace.failure) == (1, "")


def test_an_older_thread_draws_from_random_into_the_trace():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        assert len(run(lambda: pool.submit(random.random).result(), "random")) == 1


def test_an_older_thread_that_draws_from_torch_is_reported():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        with pytest.raises(SimulatorProtocolError, match="running before"):
            run(lambda: pool.submit(torch.rand, 1).result(), "torch")


def test_a_thread_that_outlives_its_run_draws_by_itself():
    go_on, done = threading.Event(), []

    def wait_and_draw():
        go_on.wait()
        done.append(torch.rand(()).item())

    threads = []

    def work():
        threads.append(threading.Thread(target=wait_and_draw))
        threads[0].start()

    trace = run(work, "torch")
    go_on.set()
    threads[0].join()
    assert len(trace) == 0
    assert len(done) == 1


def test_a_thread_that_outlives_its_run_does_not_draw_into_a_later_run_without_torch():
    pools = []

    def work():
        pools.append(ThreadPoolExecutor(1))
        pools[0].submit(torch.rand, 1).result()

    assert len(run(work, "torch")) == 1
    with pools[0]:
        later = run(lambda: pools[0].submit(torch.rand, 1).result(), "random")
    assert len(later) == 0
