"""`tracestore sort`: the plan to look at, in place and into a new store, on the executors of the command line."""

import json

import pytest

from tests.cli.test_store_verbs import damage
from tests.sorting.test_execute import files_of
from tracestore import TraceStore


@pytest.fixture
def traces(run):
    """Two segments of 300 traces and many types."""
    words = ["simulate", "geometric", "traces", "--num-traces", 300]
    assert run(*words, "--seed", 1)[0] == 0
    assert run(*words, "--seed", 2, "--append")[0] == 0
    return "traces"


def test_dry_run_says_what_would_be_done_and_does_nothing(run, traces, tmp_path):
    before = files_of(tmp_path)
    status, output, errors = run("sort", traces, "sorted", "--dry-run", "--segment-bytes", "20kB")
    assert status == 0, errors
    assert output.startswith("sort 600 of 600 traces into ")
    for words in ("that much free space is needed", "memory of one task", "median run, traces", "free there"):
        assert words in output
    assert files_of(tmp_path) == before


def test_dry_run_for_programs(run, traces):
    status, output, errors = run("sort", traces, "--dry-run", "--json")
    assert status == 0, errors
    facts = json.loads(output)
    assert (facts["num_traces"], facts["num_moved"], facts["num_tasks"]) == (600, 600, 1)
    assert facts["after"]["num_runs"] < facts["before"]["num_runs"]
    assert 0 < facts["disk_bytes"] <= facts["num_bytes"] < facts["peak_memory"] < facts["free_bytes"]


def test_in_place_and_again(run, traces):
    status, output, errors = run("sort", traces)
    assert (status, output[:17]) == (0, "600 traces of 11 "), errors
    assert len(TraceStore.open(traces).segments) == 1
    version = TraceStore.open(traces).version
    status, output, errors = run("sort", traces, "--dry-run")
    assert output.startswith("nothing to copy: 600 traces in 1 segments are sorted"), errors
    assert run("sort", traces, "--json")[0] == 0
    assert TraceStore.open(traces).version == version


@pytest.mark.processes
@pytest.mark.parametrize("words", [("--workers", 2), ("--executor", "serial")])
def test_executors_give_the_same_bytes(run, traces, tmp_path, words):
    assert run("sort", traces, "one", "--segment-bytes", "20kB")[0] == 0
    status, _, errors = run("sort", traces, "two", "--segment-bytes", "20kB", *words)
    assert status == 0, errors
    assert "600 traces in" in errors
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_format_of_a_new_store(run, traces):
    assert run("sort", traces, "sorted", "--backend", "zarr", "--codec", "zstd")[0] == 0
    store = TraceStore.open("sorted")
    assert (store.backend, store.identity.codec) == ("zarr", "zstd")


def test_format_in_place_is_refused(run, traces):
    status, _, errors = run("sort", traces, "--codec", "zstd")
    assert status == 2
    assert "--backend and --codec need a DST" in errors


def test_damage_is_told_with_what_to_do(run, traces, tmp_path):
    segment = damage(tmp_path / traces)
    status, output, errors = run("sort", traces, "sorted")
    assert (status, output) == (1, "")
    assert segment in errors
    assert "tracestore quarantine traces" in errors
