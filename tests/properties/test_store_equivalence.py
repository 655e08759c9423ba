"""Equal stores by different ways: one writer or many, processes, backends, conversion there and back, sorting."""

import multiprocessing
import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.properties.store_model import make_rows
from tests.store.stores import JOB, by_stream
from tests.suites.batches import assert_same
from tracestore.errors import UnknownAddressError
from tracestore.sorting import sort_store
from tracestore.store import TraceStore, convert, verify
from tracestore.traces import TRACE_COLUMNS

BACKENDS = ["arrow", "zarr"]
NUM_WRITERS = 4
NAMES = ["mu", "vec", "result", "unnamed~Normal#1", "dense", "count"]
THIRD = settings(
    max_examples=max(1, settings.default.max_examples // 3),
    # what the fixtures give does not change from example to example
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
AFTER = st.sampled_from(["", "", "seal", "fold", "seal and fold"])


@st.composite
def schedules(draw):
    """Units in some order, with who writes each of them and what is done afterwards."""
    units = draw(st.permutations(range(draw(st.integers(1, 8)))))
    return [(unit, draw(st.integers(0, NUM_WRITERS - 1)), draw(AFTER)) for unit in units]


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """No test here survives a power failure, and waiting for the disk is most of their time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(params=BACKENDS)
def backend(request, import_or_skip):
    import_or_skip(f"tracestore.formats.{request.param}")
    return request.param


@pytest.fixture
def both(import_or_skip):
    import_or_skip("tracestore.formats.zarr")


def append(writer, unit):
    writer.append(make_rows(unit, unit), work=[unit], state={"unit": unit})


def write_serially(path, units, backend="arrow"):
    store = TraceStore.create(path, job=JOB, backend=backend)
    with store.writer() as writer:
        for unit in units:
            append(writer, unit)
    return store


def write_segments(path, segments, backend, order="sorted"):
    store = TraceStore.create(path, job=JOB, backend=backend)
    with store.writer(order=order) as writer:
        for units in segments:
            for unit in units:
                append(writer, unit)
            writer.seal()
    return store


def write_share(path, share):
    store = TraceStore.open(path)
    with store.writer() as writer:
        for unit, _, after in share:
            append(writer, unit)
            act(writer, store, after)


def act(writer, store, after):
    if "seal" in after:
        writer.seal()
    if "fold" in after:
        store.fold()


def everything(store):
    return store.take(np.arange(len(store)))


def assert_same_store(found, expected):
    """Equal but for the order of traces and numbers."""
    assert_same(by_stream(found), by_stream(expected))
    assert found.completed_work() == expected.completed_work()
    assert sorted(map(repr, found.work_states())) == sorted(map(repr, expected.work_states()))
    assert set(found.addresses) == set(expected.addresses)
    assert found.stats().num_pending == 0
    assert verify(found, deep=True, log_probs=False) == []


def values_of(store, name):
    try:
        values, indices = store.values(name)
    except UnknownAddressError:
        return None
    return values.dtype.str, values.shape, values.tobytes(), indices.tolist()


def assert_reads_alike(found, expected, indices):
    assert_same(everything(found), everything(expected))
    assert_same(found.take(indices), expected.take(indices))
    for name, _ in TRACE_COLUMNS:
        assert found.column(name).tobytes() == expected.column(name).tobytes(), name
    for name in NAMES:
        assert values_of(found, name) == values_of(expected, name), name
    assert found.failures() == expected.failures()
    for name in ("segment", "layout", "trace_type", "first", "num_traces", "num_sites", "seconds"):
        assert np.array_equal(getattr(found.runs, name), getattr(expected.runs, name)), name
    assert found.observation_shapes == expected.observation_shapes
    assert list(found.addresses) == list(expected.addresses)
    assert found.trace_type_book.ids.tolist() == expected.trace_type_book.ids.tolist()


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@THIRD
@given(schedule=schedules())
def test_many_writers_make_the_store_of_one(backend, schedule):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        TraceStore.create(path, job=JOB, backend=backend)
        stores = [TraceStore.open(path) for _ in range(NUM_WRITERS)]
        writers = [store.writer() for store in stores]
        for unit, place, after in schedule:
            append(writers[place], unit)
            act(writers[place], stores[place], after)
        for writer in writers:
            writer.close()
        expected = write_serially(Path(folder) / "serial", range(len(schedule)), backend)
        assert_same_store(TraceStore.open(path), expected)


@pytest.mark.processes
@pytest.mark.parametrize("seed", [1, 2])
def test_many_processes_make_the_store_of_one(backend, seed, tmp_path):
    rng = np.random.default_rng(seed)
    afters = ["", "seal", "fold", "seal and fold"]
    schedule = [(int(unit), int(rng.integers(NUM_WRITERS)), afters[rng.integers(4)]) for unit in rng.permutation(12)]
    TraceStore.create(tmp_path / "store", job=JOB, backend=backend)
    shares = [[step for step in schedule if step[1] == place] for place in range(NUM_WRITERS)]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_share, args=(tmp_path / "store", share)) for share in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    found, expected = TraceStore.open(tmp_path / "store"), write_serially(tmp_path / "serial", range(12), backend)
    assert_same_store(found, expected)
    columns = [everything(sort_store(store, tmp_path / f"sorted-{len(store.segments)}")) for store in (found, expected)]
    # rows of one layout keep the order of their store, which is all that differs
    assert sorted(columns[0].stream.tolist()) == sorted(columns[1].stream.tolist())
    assert np.array_equal(columns[0].num_sites, columns[1].num_sites)
    assert np.array_equal(columns[0].trace_types, columns[1].trace_types)
    assert_same(*(batch.take(np.argsort(batch.stream, kind="stable")) for batch in columns))


@st.composite
def segmentations(draw):
    """Units of work in segments, and traces to ask for."""
    units = draw(st.permutations(range(draw(st.integers(1, 7)))))
    cuts = sorted(draw(st.sets(st.integers(1, 6))))
    parts = [list(part) for part in np.split(np.array(units), [cut for cut in cuts if cut < len(units)])]
    seed, num_asked = draw(st.integers(0, 99)), draw(st.integers(1, 20))
    return [[int(unit) for unit in part] for part in parts], np.random.default_rng(seed).random(num_asked)


@THIRD
@given(case=segmentations(), order=st.sampled_from(["sorted", "written"]))
def test_backends_read_alike(both, case, order):
    segments, asked = case
    with TemporaryDirectory() as folder:
        arrow, zarr = (write_segments(Path(folder) / name, segments, name, order) for name in BACKENDS)
        assert zarr.backend == "zarr"
        assert_reads_alike(zarr, arrow, (asked * len(arrow)).astype(int))


@THIRD
@given(case=segmentations(), order=st.sampled_from(["sorted", "written"]))
def test_conversion_there_and_back_changes_nothing(both, backend, case, order):
    segments, asked = case
    other = BACKENDS[1 - BACKENDS.index(backend)]
    with TemporaryDirectory() as folder:
        source = write_segments(Path(folder) / "source", segments, backend, order)
        there = convert(source, Path(folder) / "there", backend=other)
        back = convert(there, Path(folder) / "back", backend=backend)
        for copy in (there, back):
            assert_reads_alike(copy, source, (asked * len(source)).astype(int))
            assert copy.completed_work() == source.completed_work()
            assert copy.work_states() == source.work_states()
            assert [entry.id for entry in copy.segments] == [entry.id for entry in source.segments]
        for entry in source.segments:
            found, expected = (files_of(store.path / "segments" / entry.id) for store in (back, source))
            # the seal of a writer's segment says where it is from, and so does what lists the seal
            assert found.keys() == expected.keys()
            assert [name for name in found if found[name] != expected[name]] == ["seal.json"]


@THIRD
@given(case=segmentations())
def test_planned_segments_come_back_byte_by_byte(both, backend, case):
    other = BACKENDS[1 - BACKENDS.index(backend)]
    with TemporaryDirectory() as folder:
        source = TraceStore.create(Path(folder) / "source", backend=backend)
        batches = [[make_rows(unit, unit) for unit in units] for units in case[0]]
        source.publish([source.write_segment(f"plan-{number}", rows) for number, rows in enumerate(batches)])
        back = convert(convert(source, Path(folder) / "there", backend=other), Path(folder) / "back", backend=backend)
        found, expected = (files_of(store.path / "segments") for store in (back, source))
        assert found == expected
        assert back.segments == source.segments


@THIRD
@given(case=segmentations(), is_sorted_into_one=st.booleans())
def test_sorting_gives_the_same_traces_in_every_backend(both, case, is_sorted_into_one):
    segment_bytes = 2**30 if is_sorted_into_one else 20_000
    with TemporaryDirectory() as folder:
        stores = [write_segments(Path(folder) / name, case[0], name) for name in BACKENDS]
        sort = partial(sort_store, segment_bytes=segment_bytes)
        arrow, zarr = (sort(store, Path(folder) / f"sorted-{store.backend}") for store in stores)
        crossed = sort(stores[0], Path(folder) / "crossed", backend="zarr")
        assert (zarr.backend, crossed.backend) == ("zarr", "zarr")
        assert_same(everything(zarr), everything(arrow))
        assert_same(everything(crossed), everything(arrow))
        assert_same(by_stream(arrow), by_stream(stores[0]))
