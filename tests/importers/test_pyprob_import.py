"""Import of pyprob data sets: golden files against what pyprob reads, jobs that resume, damage and hostility."""

import json
import math
import os
import pickle
import shutil
import sqlite3
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import (
    ExecutorError,
    FormatError,
    InsufficientSpaceError,
    InvalidInputError,
    StoreExistsError,
    StoreNotFoundError,
)
from tracestore.events import Event, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.executors import ProcessExecutor, SerialExecutor
from tracestore.importers.pyprob_import import import_pyprob
from tracestore.importers.pyprob_parts import MOST_PROBLEMS
from tracestore.simulators.toys import gum
from tracestore.storage.local import LocalStorage
from tracestore.store import TraceStore, quarantine, verify
from tracestore.traces import SiteKind

GOLDEN = Path(__file__).parent.parent / "golden" / "pyprob"
TRUTH = json.loads((GOLDEN / "truth.json").read_text())
TRUTH = {key: TRUTH[truth] if isinstance(truth, str) else truth for key, truth in TRUTH.items()}
SETS = ["marsaglia", "marsaglia_sorted", "mixed", "mixed_full", "families", "dumb", "gdbm"]
MARSAGLIA = sorted((GOLDEN / "marsaglia").iterdir())


class Evil:
    """Pickles as a call of `print`."""

    def __reduce__(self):
        return print, ("executed",)


HOSTILE = zlib.compress(pickle.dumps(pickle.dumps(Evil())))
DAMAGED = b"x\x9c no zlib stream"


def records(file):
    """Records of a golden file, as bytes."""
    with sqlite3.connect(file) as connection:
        rows = dict(connection.execute("SELECT CAST(key AS TEXT), value FROM unnamed"))
    connection.close()
    return [rows[key] for key in sorted(set(rows) - {"__length"}, key=int)]


GOOD = [record for file in MARSAGLIA for record in records(file)]


def write_shelf(path, values, length=None):
    """Write a shelf as pyprob does; a length of -1 leaves it out."""
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute('CREATE TABLE "unnamed" (key TEXT PRIMARY KEY, value BLOB)')
        rows = [(str(key).encode(), value) for key, value in enumerate(values)]
        if length != -1:
            declared = pickle.dumps(pickle.dumps(len(values) if length is None else length))
            rows.append((b"__length", zlib.compress(declared)))
        connection.executemany("INSERT INTO unnamed VALUES (?, ?)", rows)
    connection.close()


def write_set(folder, *files):
    for number, values in enumerate(files):
        write_shelf(folder / f"pyprob_traces_9_{number}", values)
    return folder


def by_stream(store):
    return {trace.stream: trace for trace in (store[index] for index in range(len(store)))}


def require_reconciled(report):
    assert report.num_traces_in == report.num_traces_out + report.num_reported
    assert report.num_traces_out == len(report.store)
    assert verify(report.store, deep=True) == []


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def same_number(ours, facts):
    np.testing.assert_array_equal(np.ravel(ours), np.array(facts["data"], np.float64).astype(facts.get("dtype", "f4")))


@pytest.mark.parametrize("name", SETS)
def test_golden_sets_are_what_pyprob_reads(tmp_path, name):
    report = import_pyprob(GOLDEN / name, tmp_path / "store")
    require_reconciled(report)
    assert report.problems == ()
    traces = by_stream(report.store)
    dictionary = TRUTH["mixed_addresses"] if name == "mixed" else {}
    files = sorted(key for key in TRUTH if key.startswith(f"{name}/"))
    assert len(traces) == sum(len(TRUTH[file]) for file in files)
    for number, file in enumerate(files):
        for record, truth in enumerate(TRUTH[file]):
            compare(traces[(number << 32) + record], truth, dictionary)


def compare(trace, truth, dictionary):
    """Compare a trace with what pyprob says of it."""
    samples = [site for site in trace.sites if site.is_controlled]
    assert len(samples) == len(truth["controlled"])
    names = {place: name for name, place in truth["named"].items() if isinstance(place, int)}
    for place, site in zip(truth["controlled"], samples, strict=True):
        variable = truth["variables"][place]
        base, instance = variable["address"].rsplit("__", 1)
        assert site.instance == int(instance)
        assert site.base.split("~")[0] == dictionary.get(base, base).rsplit("__", 1)[0]
        assert site.name == names.get(place, "")
        same_number(trace.value(trace.sites.index(site)), variable["value"])
        if "log_prob" in variable:
            # pyprob forgets that a Beta distribution from -1 to 2 is three times as wide
            forgotten = math.log(3.0) if site.family == "Beta" else 0.0
            ours = trace.log_probs[trace.sites.index(site)] + forgotten
            assert ours == pytest.approx(variable["log_prob"], rel=1e-5, abs=1e-6)
    named = {name: one for name, one in truth["named"].items() if name not in names.values()}
    named |= {
        names[place]: one for place, one in enumerate(truth["variables"]) if one.get("observed") and place in names
    }
    for name, variable in named.items():
        if "unread" in (variable.get("value") or {}):
            continue
        same_number(trace[name], variable["value"])
        is_observed = variable.get("log_importance_weight") is not None
        assert (name in trace.observations) == is_observed
    assert trace.log_likelihood == pytest.approx(truth["log_importance_weight"], rel=1e-6)


def test_traces_without_pruning_have_their_joint_and_time(tmp_path):
    store = import_pyprob(GOLDEN / "mixed_full", tmp_path / "store").store
    [truths] = [TRUTH[key] for key in TRUTH if key.startswith("mixed_full/")]
    for record, truth in enumerate(truths):
        trace = by_stream(store)[record]
        is_free = [site.kind is SiteKind.SAMPLE and not site.is_controlled for site in trace.sites]
        assert trace.log_joint - trace.log_probs[is_free].sum() == pytest.approx(truth["log_prob"], rel=1e-5)
        assert trace.seconds == pytest.approx(truth["execution_time_sec"], rel=1e-6)


def test_sorted_files_are_preferred_and_unsorted_ones_can_be_asked_for(tmp_path):
    both = write_set(tmp_path / "data", GOOD[:3])
    write_shelf(both / "pyprob_traces_sorted_2_0", GOOD[:2])
    chosen = import_pyprob(both, tmp_path / "auto")
    assert (len(chosen.store), chosen.files_passed_over) == (2, 1)
    assert "1 unsorted files of the directory are left out" in str(chosen)
    unsorted = import_pyprob(both, tmp_path / "unsorted", which="unsorted")
    assert (len(unsorted.store), unsorted.which) == (3, "unsorted")


def test_segment_bytes_cut_files_into_parts_and_change_no_trace(tmp_path):
    whole = import_pyprob(GOLDEN / "marsaglia", tmp_path / "whole").store
    parts = import_pyprob(GOLDEN / "marsaglia", tmp_path / "parts", segment_bytes=300).store
    assert (len(whole.segments), len(parts.segments)) == (2, 8)
    ours, theirs = by_stream(whole), by_stream(parts)
    assert all(np.array_equal(ours[stream].values, theirs[stream].values) for stream in ours)


@pytest.mark.processes
def test_processes_write_the_same_store_byte_by_byte(tmp_path):
    data = write_set(tmp_path / "data", GOOD[:4], [*GOOD[4:6], DAMAGED], GOOD[:3])
    import_pyprob(data, tmp_path / "serial", segment_bytes=500)
    import_pyprob(data, tmp_path / "processes", segment_bytes=500, executor=ProcessExecutor(workers=2))
    serial = contents(tmp_path / "serial")
    assert len(serial) > 25
    assert contents(tmp_path / "processes") == serial


@dataclass
class StopsAfter:
    """Runs some tasks and is then interrupted."""

    num_tasks: int
    memory_limit = None

    def run(self, function, tasks, *, label="task"):
        for number, task in enumerate(tasks):
            if number == self.num_tasks:
                raise KeyboardInterrupt
            yield function(task)


@pytest.mark.parametrize("num_tasks", [0, 1, 3])
def test_an_interrupted_import_is_continued_by_the_same_call(tmp_path, num_tasks):
    data = write_set(tmp_path / "data", GOOD[:4], [DAMAGED, *GOOD[4:]])
    expected = import_pyprob(data, tmp_path / "once", segment_bytes=500)
    with pytest.raises(KeyboardInterrupt):
        import_pyprob(data, tmp_path / "twice", segment_bytes=500, executor=StopsAfter(num_tasks))
    report = import_pyprob(data, tmp_path / "twice", segment_bytes=500)
    require_reconciled(report)
    assert report.problems == expected.problems
    assert by_stream(report.store).keys() == by_stream(expected.store).keys()


def test_what_the_first_traces_told_is_remembered(tmp_path):
    data = write_set(tmp_path / "data", GOOD[:4], GOOD[4:])
    with pytest.raises(KeyboardInterrupt):
        import_pyprob(data, tmp_path / "store", segment_bytes=500, executor=StopsAfter(3))
    write_shelf(data / "pyprob_traces_9_0", [DAMAGED, DAMAGED, DAMAGED, GOOD[3]])
    report = import_pyprob(data, tmp_path / "store", segment_bytes=500)
    require_reconciled(report)
    assert report.num_traces_out == 8


@dataclass
class DiesAfter:
    """A task function whose process ends by itself after one task, done but not told of."""

    function: Callable[..., object]
    unit: int

    def __call__(self, task):
        result = self.function(task)
        if task.unit == self.unit:
            os._exit(9)
        return result


@dataclass
class KillsOne:
    """An executor that loses one process."""

    unit: int
    memory_limit = None

    def run(self, function, tasks, *, label="task"):
        return ProcessExecutor(workers=1).run(DiesAfter(function, self.unit), tasks, label=label)


@pytest.mark.processes
def test_what_a_killed_process_committed_counts_once(tmp_path):
    data = write_set(tmp_path / "data", GOOD[:4], GOOD[4:])
    with pytest.raises(ExecutorError):
        import_pyprob(data, tmp_path / "store", executor=KillsOne(0))
    report = import_pyprob(data, tmp_path / "store")
    require_reconciled(report)
    assert sorted(by_stream(report.store)) == [*range(4), *range(1 << 32, (1 << 32) + 4)]


def test_a_task_that_runs_twice_counts_once(tmp_path):
    class Twice(SerialExecutor):
        def run(self, function, tasks, *, label="task"):
            for task in tasks:
                function(task)
                yield function(task)

    report = import_pyprob(GOLDEN / "marsaglia", tmp_path / "store", executor=Twice())
    require_reconciled(report)
    assert len(report.store) == 8


def test_a_complete_import_is_returned_without_work(tmp_path):
    import_pyprob(GOLDEN / "marsaglia", tmp_path / "store")
    before = contents(tmp_path / "store")
    report = import_pyprob(GOLDEN / "marsaglia", tmp_path / "store", executor=StopsAfter(0))
    assert (report.num_traces_out, contents(tmp_path / "store")) == (8, before)


def test_the_part_of_a_quarantined_segment_is_converted_again(tmp_path):
    store = import_pyprob(GOLDEN / "marsaglia", tmp_path / "store").store
    quarantine(store, store.segments[0].id, reason="a test")
    assert len(store) == 4
    report = import_pyprob(GOLDEN / "marsaglia", tmp_path / "store")
    require_reconciled(report)
    assert sorted(by_stream(report.store)) == [*range(4), *range(1 << 32, (1 << 32) + 4)]


def test_the_directory_may_have_moved_before_it_is_continued(tmp_path):
    data = write_set(tmp_path / "data", GOOD[:4], GOOD[4:])
    with pytest.raises(KeyboardInterrupt):
        import_pyprob(data, tmp_path / "store", executor=StopsAfter(1))
    shutil.move(data, tmp_path / "elsewhere")
    assert import_pyprob(tmp_path / "elsewhere", tmp_path / "store").num_traces_out == 8


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tags": ["obs0"]}, "tags"),
        ({"observations": ["z"]}, "observations"),
        ({"segment_bytes": 5000}, "segment_bytes"),
    ],
)
def test_another_import_does_not_continue_this_one(tmp_path, change, field):
    import_pyprob(GOLDEN / "marsaglia", tmp_path / "store")
    with pytest.raises(StoreExistsError, match=f"`{field}` is"):
        import_pyprob(GOLDEN / "marsaglia", tmp_path / "store", **change)


def test_another_data_set_does_not_continue_this_one(tmp_path):
    import_pyprob(GOLDEN / "marsaglia", tmp_path / "store")
    with pytest.raises(StoreExistsError, match="`num_files` is 2 there and 1 in this call"):
        import_pyprob(GOLDEN / "mixed", tmp_path / "store")


def test_the_store_of_another_job_is_refused(tmp_path):
    ts.simulate(gum, tmp_path / "store", num_traces=3, seed=1)
    with pytest.raises(StoreExistsError, match="import-pyprob"):
        import_pyprob(GOLDEN / "marsaglia", tmp_path / "store")


def test_damaged_records_are_reported_and_the_others_converted(tmp_path):
    data = write_set(tmp_path / "data", [GOOD[0], DAMAGED, GOOD[1]], GOOD[:2])
    report = import_pyprob(data, tmp_path / "store")
    require_reconciled(report)
    assert sorted(by_stream(report.store)) == [0, 2, 1 << 32, (1 << 32) + 1]
    [(file, record, reason)] = report.problems
    assert (file, record) == ("pyprob_traces_9_0", 1)
    assert "Record 1" in reason
    assert "record 1: " in str(report)


def test_many_damaged_records_are_all_counted_and_some_shown(tmp_path):
    data = write_set(tmp_path / "data", [GOOD[0], *[DAMAGED] * (MOST_PROBLEMS + 5)])
    report = import_pyprob(data, tmp_path / "store")
    require_reconciled(report)
    assert (report.num_reported, len(report.problems)) == (MOST_PROBLEMS + 5, MOST_PROBLEMS)


def test_records_that_are_missing_are_reported(tmp_path):
    data = write_set(tmp_path / "data", GOOD[:2])
    write_shelf(data / "pyprob_traces_9_1", GOOD[:2], length=4)
    report = import_pyprob(data, tmp_path / "store")
    require_reconciled(report)
    assert [(file, record) for file, record, _ in report.problems] == [
        ("pyprob_traces_9_1", 2),
        ("pyprob_traces_9_1", 3),
    ]


def test_records_that_are_gone_when_their_part_is_converted_are_reported(tmp_path):
    class Shrinks(SerialExecutor):
        def run(self, function, tasks, *, label="task"):
            write_shelf(data / "pyprob_traces_9_0", GOOD[:2])
            return super().run(function, tasks, label=label)

    data = write_set(tmp_path / "data", GOOD[:5])
    report = import_pyprob(data, tmp_path / "store", executor=Shrinks())
    require_reconciled(report)
    assert (report.num_traces_out, report.num_reported) == (2, 3)
    assert "3 records" in report.problems[0][2]


def test_a_file_that_does_not_say_its_length_is_converted_and_told_of(tmp_path):
    data = write_set(tmp_path / "data", GOOD[:2])
    write_shelf(data / "pyprob_traces_9_1", GOOD[:3], length=-1)
    report = import_pyprob(data, tmp_path / "store")
    require_reconciled(report)
    assert (report.num_traces_out, report.files_of_unknown_length, report.files_converted) == (5, 1, 2)


def test_a_hostile_file_is_refused_whole_and_nothing_of_it_is_executed(tmp_path, capfd):
    data = write_set(tmp_path / "data", GOOD[:2], [*GOOD[:3], HOSTILE], GOOD[2:4])
    report = import_pyprob(data, tmp_path / "store")
    require_reconciled(report)
    assert sorted(by_stream(report.store)) == [0, 1, 2 << 32, (2 << 32) + 1]
    [(file, record, reason)] = report.problems
    assert (file, record) == ("pyprob_traces_9_1", None)
    assert "builtins.print" in reason
    assert (report.num_reported, report.files_converted) == (4, 2)
    assert "executed" not in "".join(capfd.readouterr())


def test_a_hostile_part_commits_nothing_and_other_parts_count(tmp_path):
    data = write_set(tmp_path / "data", [*GOOD[:2], HOSTILE])
    report = import_pyprob(data, tmp_path / "store", segment_bytes=1)
    require_reconciled(report)
    assert (sorted(by_stream(report.store)), report.num_reported, report.files_converted) == ([0, 1], 1, 0)


def test_a_file_that_cannot_be_opened_is_converted_once_it_is_repaired(tmp_path):
    data = write_set(tmp_path / "data", GOOD[:2], GOOD[2:4], GOOD[4:6])
    broken = data / "pyprob_traces_9_0"
    whole = broken.read_bytes()
    broken.write_bytes(b"not a database at all")
    report = import_pyprob(data, tmp_path / "store")
    require_reconciled(report)
    assert [(file, record) for file, record, _ in report.problems] == [("pyprob_traces_9_0", None)]
    assert (report.files_of_unknown_length, report.num_traces_out) == (1, 4)
    broken.write_bytes(whole)
    report = import_pyprob(data, tmp_path / "store")
    require_reconciled(report)
    assert (report.problems, report.num_traces_out, report.files_converted) == ((), 6, 3)
    assert sorted(by_stream(report.store)) == [0, 1, 1 << 32, (1 << 32) + 1, 2 << 32, (2 << 32) + 1]


def test_a_file_that_grew_after_its_conversion_is_told_of(tmp_path):
    data = write_set(tmp_path / "data", GOOD[:2])
    import_pyprob(data, tmp_path / "store")
    write_shelf(data / "pyprob_traces_9_0", GOOD[:3])
    report = import_pyprob(data, tmp_path / "store")
    assert report.problems[0][:2] == ("pyprob_traces_9_0", None)
    assert "had 2 traces when it was converted and has 3 now" in report.problems[0][2]


@pytest.mark.parametrize("files", [[[HOSTILE]], [[DAMAGED] * 3], [[]]], ids=["hostile", "damaged", "empty"])
def test_a_set_without_any_trace_is_one_sentence_and_no_store(tmp_path, files):
    data = write_set(tmp_path / "data", *files)
    with pytest.raises(FormatError, match="No trace at the beginning of the 1 unsorted files"):
        import_pyprob(data, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(StoreNotFoundError, match="no data set files of pyprob"):
        import_pyprob(tmp_path, tmp_path / "store")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"which": "both"}, "`which` must be"),
        ({"segment_bytes": 0}, "`segment_bytes` must be positive; got 0"),
        ({"tags": "obs0"}, "must be lists of names"),
        ({"tags": ["a"], "observations": ["a"]}, r"\['a'\] are"),
    ],
)
def test_arguments_that_are_not_allowed(tmp_path, options, reason):
    with pytest.raises(InvalidInputError, match=reason):
        import_pyprob(GOLDEN / "marsaglia", tmp_path / "store", **options)


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(LocalStorage, "free_bytes", lambda self: 1000)
    with pytest.raises(InsufficientSpaceError, match="make room for"):
        import_pyprob(GOLDEN / "marsaglia", tmp_path / "store")


def copy_mixed(tmp_path):
    shutil.copytree(GOLDEN / "mixed", tmp_path / "parent" / "mixed")
    return tmp_path / "parent" / "mixed"


@pytest.mark.parametrize("place", ["mixed", "."])
def test_a_dictionary_in_or_beside_the_directory_is_found(tmp_path, place):
    data = copy_mixed(tmp_path)
    shutil.copy(GOLDEN / "mixed_addresses", tmp_path / "parent" / place / "addresses")
    report = import_pyprob(data, tmp_path / "store")
    assert report.dictionary == str(tmp_path / "parent" / place / "addresses")
    assert "170__forward__rate~Uniform#1" in [site.address for site in report.store[0].sites]
    assert not report.has_unresolved_addresses


def test_without_a_dictionary_addresses_stay_in_its_form(tmp_path):
    report = import_pyprob(copy_mixed(tmp_path), tmp_path / "store")
    require_reconciled(report)
    assert "__A2~Uniform#1" in [site.address for site in report.store[0].sites]
    assert report.has_unresolved_addresses
    assert "like __A12" in str(report)


def test_of_several_dictionaries_one_must_be_named(tmp_path):
    data = copy_mixed(tmp_path)
    for name in ("one", "two"):
        shutil.copy(GOLDEN / "mixed_addresses", data / name)
    with pytest.raises(InvalidInputError, match="several address dictionaries"):
        import_pyprob(data, tmp_path / "store")
    report = import_pyprob(data, tmp_path / "store", address_dictionary=data / "two")
    assert report.dictionary == str(data / "two")


def test_the_dictionary_counts_by_its_content(tmp_path):
    data = copy_mixed(tmp_path)
    import_pyprob(data, tmp_path / "store", address_dictionary=GOLDEN / "mixed_addresses")
    shutil.copy(GOLDEN / "mixed_addresses", data / "copy")
    assert import_pyprob(data, tmp_path / "store").num_traces_out == 5
    (data / "copy").unlink()
    with pytest.raises(StoreExistsError, match="`dictionary` is"):
        import_pyprob(data, tmp_path / "store")


def test_progress_counts_traces(tmp_path):
    data = write_set(tmp_path / "data", GOOD[:4], GOOD[4:])
    with pytest.raises(KeyboardInterrupt):
        import_pyprob(data, tmp_path / "store", executor=StopsAfter(1))
    events: list[Event] = []
    import_pyprob(data, tmp_path / "store", observer=events.append)
    assert events[0] == PhaseStarted("import", 8, 4)
    [advanced] = [event for event in events if isinstance(event, PhaseAdvanced)]
    assert (advanced.done, advanced.total) == (8, 8)
    assert advanced.nbytes > 0
    assert isinstance(events[-1], PhaseFinished)


def test_an_imported_store_is_sorted(tmp_path):
    data = write_set(tmp_path / "data", GOOD * 5, GOOD * 5)
    store = import_pyprob(data, tmp_path / "store").store
    ordered = ts.sort_store(store, tmp_path / "sorted")
    assert bool((np.diff(ordered.runs.num_sites) >= 0).all())
    assert sorted(by_stream(ordered)) == sorted(by_stream(store))
    assert verify(ordered, deep=True) == []


def test_an_imported_store_is_trained_on(tmp_path, import_or_skip):
    training = import_or_skip("tracestore.training")
    data = write_set(tmp_path / "data", GOOD * 15)
    import_pyprob(data, tmp_path / "store")
    programs = import_or_skip("tests.networks.family_programs")
    config = training.TrainConfig(network=programs.TINY, epochs=1, batch_size=16)
    network = training.train(tmp_path / "store", tmp_path / "network", config=config)
    assert np.isfinite(network.summary["validation_loss"])


def test_an_unknown_likelihood_is_nan_and_no_problem(tmp_path):
    report = import_pyprob(GOLDEN / "mixed", tmp_path / "store", observations=["list_tag"])
    require_reconciled(report)
    trace = report.store[0]
    assert trace.observations["list_tag"].tolist() == [1.0, 2.0]
    assert math.isnan(trace.log_likelihood)
    assert math.isfinite(trace.log_prior)


def test_a_zarr_store_holds_the_same(tmp_path, import_or_skip):
    import_or_skip("tracestore.formats.zarr_arrays")
    place = ts.StoreLocation(tmp_path / "zarr", backend="zarr")
    report = import_pyprob(GOLDEN / "mixed", place)
    require_reconciled(report)
    ours = by_stream(import_pyprob(GOLDEN / "mixed", tmp_path / "arrow").store)
    theirs = by_stream(TraceStore.open(tmp_path / "zarr"))
    assert all(np.array_equal(ours[stream].values, theirs[stream].values) for stream in ours)


def test_relative_paths_are_found_by_workers_elsewhere(tmp_path, monkeypatch):
    write_set(tmp_path / "data", GOOD[:3], [GOOD[3], DAMAGED])

    class Elsewhere(SerialExecutor):
        """Its tasks come out of a pickle in another directory."""

        def run(self, function, tasks, *, label="task"):
            packed = pickle.dumps((function, tasks))
            monkeypatch.chdir("/")
            function, tasks = pickle.loads(packed)
            yield from map(function, tasks)
            monkeypatch.chdir(tmp_path)

    monkeypatch.chdir(tmp_path)
    report = import_pyprob("data", "traces", executor=Elsewhere())
    assert (report.num_traces_out, report.num_reported) == (4, 1)
    assert str(tmp_path) not in str(report.problems)


def test_memory_of_workers_is_looked_at_before_anything_is_written(tmp_path):
    class Small(SerialExecutor):
        memory_limit = 100

    write_set(tmp_path / "data", GOOD[:3])
    with pytest.raises(InvalidInputError, match=r"give `segment_bytes` of at most 12, or workers with more"):
        import_pyprob(tmp_path / "data", tmp_path / "traces", executor=Small())
    assert not (tmp_path / "traces").exists()
