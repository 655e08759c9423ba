"""Sorting on a dask cluster: the bytes of a serial sort, whatever happens to workers."""

import os
import signal

import pytest

from tests.sorting.test_execute import files_of, make_store, small_segments
from tracestore.events import PhaseAdvanced
from tracestore.sorting import sort_store

dask = pytest.importorskip("tracestore.executors.dask")
pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def executor():
    with dask.DaskExecutor.local(workers=2) as executor:
        yield executor


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("dask") / "source", num_failed=3)


@pytest.fixture(scope="module")
def expected(source):
    sort_store(source, source.path.parent / "serial", segment_bytes=small_segments(source) // 8)
    return files_of(source.path.parent / "serial")


def test_bytes_are_those_of_a_serial_sort(source, expected, executor, tmp_path):
    sort_store(source, tmp_path / "sorted", segment_bytes=small_segments(source) // 8, executor=executor)
    assert files_of(tmp_path / "sorted") == expected


def test_lost_worker_costs_nothing_but_its_tasks(source, expected, executor, tmp_path):
    killed: list[int] = []

    def kill_one(event):
        if isinstance(event, PhaseAdvanced) and not killed:
            killed.extend(executor.client.run(os.getpid).values())
            os.kill(killed[0], signal.SIGKILL)

    size = small_segments(source) // 8
    sort_store(source, tmp_path / "sorted", segment_bytes=size, executor=executor, observer=kill_one)
    assert killed
    found = {name: data for name, data in files_of(tmp_path / "sorted").items() if not name.startswith("staging")}
    assert found == expected


def test_tasks_have_a_name_on_the_dashboard(source, executor, tmp_path):
    sort_store(source, tmp_path / "sorted", executor=executor)
    names = executor.client.run_on_scheduler(lambda dask_scheduler: sorted(dask_scheduler.task_prefixes))
    assert "sort" in names
