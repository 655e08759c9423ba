import contextlib
import errno
import importlib
import os
import resource
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.store.stores import make_store
from tests.suites.batches import assert_same, make_batch, make_layout
from tracestore.errors import InsufficientSpaceError, InvalidInputError, MissingExtraError, StoreExistsError
from tracestore.events import Event, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.store import TraceStore
from tracestore.store.export import EXPORTERS, export
from tracestore.traces import TraceBatch

KINDS = sorted(EXPORTERS)
SMALL = 4_000
"""Batch size that cuts the store into several batches."""


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """No test here survives a power failure, and waiting for the disk is most of their time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("export") / "store").path


@pytest.fixture
def store(path):
    return TraceStore.open(path)


@pytest.fixture(params=KINDS)
def kind(request, import_or_skip):
    import_or_skip(EXPORTERS[request.param])
    return request.param


@pytest.fixture
def collector(monkeypatch):
    """A kind of export that keeps the batches and what it is told of them."""
    kept = SimpleNamespace(batches=[], source=None)

    def write_file(path, batches, source):
        kept.source = source
        for batch in batches:
            kept.batches.append(batch)
        path.write_text("done")

    monkeypatch.setitem(sys.modules, "tests.store.collector", SimpleNamespace(write_file=write_file))
    monkeypatch.setitem(EXPORTERS, "collect", "tests.store.collector")
    return kept


def collect(store, path, **options):
    return export(store, path, to="collect", **options)  # type: ignore[arg-type]  # known while the fixture lives


@contextlib.contextmanager
def largest_file(num_bytes):
    """Let the operating system refuse to write further than this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def read_log_priors(path, kind):
    if kind == "hdf5":
        with importlib.import_module("h5py").File(path) as file:
            return file["traces/log_prior"][:]
    if kind == "awkward":
        awkward = importlib.import_module("awkward")
        return awkward.to_numpy(awkward.from_parquet(path).log_prior)
    return pq.read_table(path)["log_prior"].to_numpy()


def test_all_segments_are_written_in_order(store, tmp_path, kind):
    target = export(store, tmp_path / "traces.parquet", to=kind, batch_bytes=SMALL)
    assert len(store.segments) > 1
    assert read_log_priors(target, kind).tobytes() == store.column("log_prior").tobytes()


def test_exporter_gets_all_traces_of_the_store(store, tmp_path, collector):
    collect(store, tmp_path / "out", batch_bytes=SMALL)
    assert len(collector.batches) > 10
    assert_same(TraceBatch.concatenate(collector.batches), store.take(range(len(store))))


def test_exporter_is_told_what_the_batches_have_in_common(store, tmp_path, collector):
    collect(store, tmp_path / "out")
    source = collector.source
    assert list(source.addresses) == list(store.addresses)
    assert {info.name: info.shape for info in source.observations} == store.observation_shapes
    assert source.snapshot == store.snapshot_id


def test_exporter_is_told_which_observations_every_trace_has(store, tmp_path, collector):
    collect(store, tmp_path / "out")
    assert set(store.observation_shapes) == {"dense", "count"}
    assert collector.source.everywhere == {"dense"}


def test_only_the_observations_asked_for_are_read(store, tmp_path, collector):
    collect(store, tmp_path / "out", observations=["count"])
    assert [info.name for info in collector.source.observations] == ["count"]
    assert all(set(batch.observations) == {"count"} for batch in collector.batches)


def test_batches_are_bounded_by_bytes_although_traces_differ_in_length(tmp_path, collector):
    store = TraceStore.create(tmp_path / "skewed")
    with store.writer() as writer:
        writer.append(make_batch(1, 500, [make_layout(1, observed=())]))
        writer.append(make_batch(2, 5, [make_layout(400, observed=())]))
    collect(store, tmp_path / "out", batch_bytes=50_000)
    sizes = [batch.nbytes for batch in collector.batches]
    assert max(sizes) < 50_000 + max(store.take([place]).nbytes for place in range(len(store)))
    assert len(collector.batches[0]) > 100
    assert len(collector.batches[-1]) <= 2


def test_empty_store_makes_a_valid_file(tmp_path, kind):
    store = TraceStore.create(tmp_path / "empty")
    target = export(store, tmp_path / "traces.parquet", to=kind)
    assert len(read_log_priors(target, kind)) == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_export_leaves_nothing(store, tmp_path, kind, error):
    def interrupt(event):
        if isinstance(event, PhaseAdvanced) and event.done > len(store) // 2:
            raise error

    with pytest.raises(error):
        export(store, tmp_path / "traces.parquet", to=kind, batch_bytes=SMALL, observer=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_file_is_hidden_until_it_is_complete(store, tmp_path, kind):
    seen = []

    def look(event):
        if isinstance(event, PhaseAdvanced):
            seen.append([path.name for path in tmp_path.iterdir()])

    export(store, tmp_path / "traces.parquet", to=kind, batch_bytes=SMALL, observer=look)
    assert len(seen) > 1
    assert all(name.startswith(".") for names in seen for name in names)
    assert [path.name for path in tmp_path.iterdir()] == ["traces.parquet"]


@pytest.mark.parametrize("num_bytes", [0, 1_000, 50_000])
def test_write_that_fails_is_an_error_and_leaves_nothing(store, tmp_path, kind, num_bytes):
    # HDF5 for one does not survive this by itself
    with largest_file(num_bytes), pytest.raises(OSError, match="too large"):
        export(store, tmp_path / "traces.parquet", to=kind, batch_bytes=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_reported_and_leaves_nothing(store, tmp_path, collector, monkeypatch):
    def write_file(path, batches, source):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys.modules["tests.store.collector"], "write_file", write_file)
    with pytest.raises(InsufficientSpaceError, match="No space"):
        collect(store, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_existing_file_is_refused_and_kept(store, tmp_path):
    (tmp_path / "traces.parquet").write_text("mine")
    with pytest.raises(StoreExistsError, match=r"traces\.parquet exists"):
        export(store, tmp_path / "traces.parquet", to="parquet")
    assert (tmp_path / "traces.parquet").read_text() == "mine"


def test_file_that_appears_meanwhile_is_kept(store, tmp_path):
    def intrude(event):
        if isinstance(event, PhaseStarted):
            (tmp_path / "traces.parquet").write_text("mine")

    with pytest.raises(StoreExistsError):
        export(store, tmp_path / "traces.parquet", to="parquet", observer=intrude)
    assert (tmp_path / "traces.parquet").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["traces.parquet"]


def test_unknown_format_is_refused(store, tmp_path):
    with pytest.raises(InvalidInputError, match=r"'csv'.*parquet, awkward, hdf5"):
        export(store, tmp_path / "traces.csv", to="csv")  # type: ignore[arg-type]


def test_unknown_observation_is_refused_and_leaves_nothing(store, tmp_path):
    with pytest.raises(InvalidInputError, match="sound"):
        export(store, tmp_path / "traces.parquet", to="parquet", observations=["sound"])
    assert list(tmp_path.iterdir()) == []


def test_batches_without_bytes_are_refused(store, tmp_path):
    with pytest.raises(InvalidInputError, match="batch_bytes"):
        export(store, tmp_path / "traces.parquet", to="parquet", batch_bytes=0)


def test_missing_folder_is_refused(store, tmp_path):
    with pytest.raises(InvalidInputError, match="nowhere"):
        export(store, tmp_path / "nowhere" / "traces.parquet", to="parquet")


def test_name_that_awkward_does_not_open_is_refused(store, tmp_path, import_or_skip):
    import_or_skip(EXPORTERS["awkward"])
    with pytest.raises(InvalidInputError, match=r"\.parquet.*'traces\.ak'"):
        export(store, tmp_path / "traces.ak", to="awkward")


def test_missing_package_names_the_extra(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.delitem(sys.modules, EXPORTERS["hdf5"], raising=False)
    with pytest.raises(MissingExtraError, match=r"tracestore\[hdf5\]"):
        export(store, tmp_path / "traces.h5", to="hdf5")


def test_observer_sees_every_batch(store, tmp_path):
    events: list[Event] = []
    export(store, tmp_path / "traces.parquet", to="parquet", batch_bytes=SMALL, observer=events.append)
    assert events[0] == PhaseStarted("export", len(store))
    assert isinstance(events[-1], PhaseFinished)
    advanced = events[1:-1]
    assert np.all(np.diff([event.done for event in advanced]) > 0)
    assert advanced[-1] == PhaseAdvanced("export", len(store), len(store), failed=len(store.failures()))
