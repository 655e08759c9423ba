import pickle
import sys
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from tests.store.stores import make_chunk, make_store
from tests.suites.batches import make_batch, make_layout
from tests.suites.object_server import SERVER_WARNINGS, object_server, object_url
from tracestore.errors import (
    ChecksumError,
    InvalidInputError,
    MissingExtraError,
    StoreError,
    TraceTypeMismatchError,
    UnknownAddressError,
)
from tracestore.storage.local import LocalStorage
from tracestore.store import TraceStore
from tracestore.traces import TRACE_COLUMNS

pytest.importorskip("dask")

import dask
from dask.base import compute, tokenize
from dask.utils import key_split

__all__ = ["object_server", "object_url"]

NAMES = ["mu", "vec", "result", "loop~Normal#2", "dense", "count", "stream", "accepted"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "store", range(6))


@pytest.fixture(autouse=True)
def in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def with_gaps(store, name):
    """Values of a store as an array with a row for each trace."""
    values, indices = store.values(name)
    out = np.full((len(store), *values.shape[1:]), np.nan)
    out[indices] = values
    return out


def test_by_default_all_columns_and_observations(store):
    arrays = store.to_dask()
    assert list(arrays) == [*(name for name, _ in TRACE_COLUMNS), "dense", "count"]
    for name, _ in TRACE_COLUMNS:
        assert arrays[name].compute().tobytes() == store.column(name).tobytes()
        assert arrays[name].dtype == store.column(name).dtype
    batch = store.take(range(len(store)))
    for name in ("dense", "count"):
        found = arrays[name].compute()
        assert found.dtype == arrays[name].dtype == batch.observations[name].dtype
        assert np.array_equal(found, batch.observations[name])


@pytest.mark.parametrize("name", ["mu", "vec", "result", "loop~Normal#2", "unnamed~Normal#1"])
def test_values_have_a_row_for_each_trace(store, name):
    array = store.to_dask([name])[name]
    found = array.compute()
    assert found.shape == array.shape
    assert found.dtype == array.dtype == np.float64
    assert np.array_equal(found, with_gaps(store, name), equal_nan=True)


def test_the_address_of_an_observe_has_gaps_where_its_name_has_zeros(store):
    address = "see-count~Normal#1"
    arrays = store.to_dask([address, "count"])
    assert np.array_equal(arrays[address].compute(), with_gaps(store, "count"), equal_nan=True)
    assert np.array_equal(np.nan_to_num(arrays[address].compute()), arrays["count"].compute())


def test_chunks_of_all_arrays_are_the_segments(store):
    assert {array.chunks[0] for array in store.to_dask(NAMES).values()} == {(80, 80, 80)}
    assert store.to_dask(["dense"])["dense"].chunks == ((80, 80, 80), (4,), (3,))


def test_arrays_are_aligned(store):
    arrays = store.to_dask(["mu", "accepted", "stream"])
    found = arrays["mu"][arrays["accepted"] & (arrays["stream"] > 100)].compute()
    assert np.array_equal(found, store.values("mu")[0][store.column("accepted") & (store.column("stream") > 100)])


@pytest.mark.processes
@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_every_scheduler_gives_the_same(store, scheduler):
    here = compute(store.to_dask(NAMES))[0]
    there = compute(store.to_dask(NAMES), scheduler=scheduler, num_workers=2)[0]
    for name in NAMES:
        assert here[name].tobytes() == there[name].tobytes()


@pytest.mark.processes
def test_a_cluster_gives_the_same(store):
    distributed = pytest.importorskip("distributed")
    arrays = store.to_dask(["mu", "dense"])
    expected = arrays["mu"].sum().compute(), arrays["dense"].sum().compute()
    with distributed.Client(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client:
        found = client.gather(client.compute([arrays["mu"].sum(), arrays["dense"].sum()]))
    assert tuple(found) == expected


def test_segments_that_differ(tmp_path):
    """The second segment lacks an observation and a draw; the third holds one observation in a wider type."""
    store = TraceStore.create(tmp_path / "store")
    both, dense = make_layout(2, observed=("dense", "count")), make_layout(0)
    store.append(make_batch(1, 30, [both]))
    store.append(make_batch(2, 20, [dense]))
    store.append(make_batch(3, 10, [both], constant_observations=True))
    whole = store.take(range(60)).observations
    arrays = store.to_dask(["dense", "count", "loop~Normal#1"])
    assert np.array_equal(arrays["dense"].compute(), whole["dense"])
    assert np.array_equal(arrays["count"].compute(), whole["count"])
    assert np.isnan(arrays["loop~Normal#1"][30:50].compute()).all()
    assert np.array_equal(arrays["loop~Normal#1"].compute(), with_gaps(store, "loop~Normal#1"), equal_nan=True)


def test_a_constant_observation_takes_no_memory(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    store.append(make_batch(1, 1000, [make_layout(1)], constant_observations=True))
    array = store.to_dask(["dense"])["dense"]
    assert np.array_equal(array.compute(), store.take(range(1000)).observations["dense"])
    (chunk,) = compute(*array.to_delayed().ravel())
    assert chunk.strides == (0, 12, 4)


def test_an_empty_store_has_empty_columns(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    arrays = store.to_dask()
    assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == {
        name: ((0,), np.dtype(dtype)) for name, dtype in TRACE_COLUMNS
    }
    assert arrays["seconds"].sum().compute() == 0
    with pytest.raises(UnknownAddressError):
        store.to_dask(["mu"])


def test_a_store_that_grew_is_read_as_it_was_pinned(tmp_path):
    arrays = make_store(tmp_path / "store", range(2)).to_dask(["mu"])
    TraceStore.open(tmp_path / "store").append(make_chunk(9))
    assert len(arrays["mu"].compute()) == 80
    assert len(TraceStore.open(tmp_path / "store").to_dask(["mu"])["mu"].compute()) == 120


def test_another_store_at_the_same_place_is_noticed(tmp_path):
    arrays = make_store(tmp_path / "store", range(2)).to_dask(["mu"])
    (tmp_path / "store").rename(tmp_path / "old")
    make_store(tmp_path / "store", range(3, 5))
    with pytest.raises(StoreError, match="another store at this place") as caught:
        arrays["mu"].compute()
    assert caught.value.__context__ is None


def test_a_store_at_a_relative_path_is_found_from_another_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_store("store", range(2))
    arrays = TraceStore.open("store").to_dask(["stream"])
    monkeypatch.chdir("/")
    assert len(arrays["stream"].compute()) == 80


def test_damage_is_told_with_the_segment(tmp_path):
    store = make_store(tmp_path / "store", range(4))
    path = next((tmp_path / "store" / "segments" / store.segments[1].id).glob("obs-*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    arrays = TraceStore.open(tmp_path / "store").to_dask()
    assert len(arrays["log_prior"].compute()) == 160
    with pytest.raises(ChecksumError) as caught:
        compute(arrays["dense"], arrays["count"])
    assert f"of segment {store.segments[1].id} of {store.path}: number 1" in caught.value.__notes__[0]


@dataclass(frozen=True)
class CountingStorage(LocalStorage):
    """Remembers which files are opened or read."""

    files_read: list[str] = field(default_factory=list)

    def below(self, folder):
        return CountingStorage(self.root / folder, self.files_read)

    def read(self, name):
        self.files_read.append(name)
        return super().read(name)

    def open(self, name):
        self.files_read.append(name)
        return super().open(name)


@pytest.fixture
def files_of(store, monkeypatch):
    storage = CountingStorage(store.path)
    monkeypatch.setattr("tracestore.store.dask_arrays.reachable", lambda _: storage)
    counted = TraceStore.at(storage, store.version)
    counted.to_dask(["stream"])["stream"].compute()  # the manifest is read once in a process

    def find(name):
        array = counted.to_dask([name])[name]
        storage.files_read.clear()
        array.compute()
        return {file.partition(".")[0] for file in storage.files_read}

    return find


def test_a_chunk_reads_only_what_it_needs(files_of):
    assert files_of("dense") == {"seal", "obs-0"}
    assert files_of("stream") == {"seal", "traces"}
    sites = files_of("mu")
    assert "values" in sites
    assert not sites & {"obs-0", "obs-1", "traces", "log_probs", "parameters"}


def test_shapes_are_found_without_reading_values(store):
    storage = CountingStorage(store.path)
    counted = TraceStore.at(storage, store.version)
    storage.files_read.clear()
    counted.to_dask()
    assert storage.files_read == []
    counted.to_dask(["vec", "mu"])
    assert {file.partition(".")[0] for file in storage.files_read} <= {
        "seal", "runs", "bases", "sites", "layouts", "layout_sites", "loose",
    }  # fmt: skip
    assert storage.files_read.count("seal.json") == 1


def test_an_unknown_name_is_refused_at_once(store):
    storage = CountingStorage(store.path)
    with pytest.raises(UnknownAddressError, match=r"site 'nu'; columns and observations: log_prior, .*, dense, count;"):
        TraceStore.at(storage, store.version).to_dask(["mu", "nu"])
    assert not [file for file in storage.files_read if file.startswith(("values", "obs-", "traces"))]


def test_a_name_may_look_like_an_address(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    store.append(make_batch(1, 30, [renamed(make_layout(1), "mu", "particle#2")]))
    found = store.to_dask(["particle#2"])["particle#2"].compute()
    assert np.array_equal(found, store.values("particle#2")[0])


def test_no_names_give_no_arrays(store):
    assert store.to_dask([]) == {}


def test_a_text_is_not_a_list_of_names(store):
    with pytest.raises(InvalidInputError, match=r"Write \['mu'\]"):
        store.to_dask("mu")


def test_shapes_that_differ_between_layouts_are_refused(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    mixed = [make_layout(0, vectors=1), renamed(make_layout(1), "mu", "vec")]
    store.append(make_batch(1, 30, mixed))
    with pytest.raises(TraceTypeMismatchError, match=r"between layouts: \[\(\), \(3,\)\]"):
        store.to_dask(["vec"])


def test_shapes_that_differ_between_segments_are_told_when_computed(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    store.append(make_batch(1, 30, [make_layout(0, vectors=1)]))
    store.append(make_batch(2, 30, [renamed(make_layout(1), "mu", "vec")]))
    array = store.to_dask(["vec"])["vec"]
    with pytest.raises(TraceTypeMismatchError, match=r"between segments: \(3,\) and \(\)") as caught:
        array.compute()
    assert store.segments[1].id in caught.value.__notes__[0]


def renamed(layout, old, new):
    """The layout with a draw under another name."""
    sites = [replace(site, name=new if site.name == old else site.name) for site in layout.sites]
    return type(layout)(tuple(sites))


def test_names_of_tasks_are_for_people_and_repeat(store):
    arrays, again = store.to_dask(NAMES), TraceStore.open(store.path).to_dask(NAMES)
    prefixes = {name: {key_split(key) for key in array.dask} for name, array in arrays.items()}
    assert prefixes["mu"] == {"tracestore_mu"}
    assert prefixes["loop~Normal#2"] == {"tracestore_loop_Normal_2"}
    assert {name: array.name for name, array in arrays.items()} == {name: array.name for name, array in again.items()}
    assert tokenize(arrays) == tokenize(again)


def test_names_of_tasks_differ_between_snapshots(tmp_path):
    store = make_store(tmp_path / "store", range(2))
    before = store.to_dask(["mu"])["mu"].name
    store.append(make_chunk(9))
    assert store.to_dask(["mu"])["mu"].name != before


def test_the_graph_does_not_grow_with_what_the_store_knows(tmp_path):
    small = make_store(tmp_path / "small", range(4), per_segment=2).to_dask(["mu"])["mu"]
    large = make_store(tmp_path / "large", range(24), per_segment=1).to_dask(["mu"])["mu"]
    assert large.npartitions == 24
    assert len(pickle.dumps(large)) < len(pickle.dumps(small)) + 1000
    assert max(len(pickle.dumps(task)) for task in dict(large.dask).values()) < 2000


def test_without_dask_the_extra_is_named(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.array", None)
    monkeypatch.delitem(sys.modules, "tracestore.store.dask_arrays", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'tracestore\[sort\]'"):
        store.to_dask()


@pytest.mark.parametrize("backend", ["arrow", "zarr"])
def test_arrays_of_object_stores_in_threads(import_or_skip, backend):
    import_or_skip("tracestore.storage.objects")
    import_or_skip(f"tracestore.formats.{backend}")
    store = TraceStore.create(f"memory://arrays-{backend}", backend=backend)
    store.append(make_chunk(1))
    store.append(make_chunk(2))
    found = compute(store.to_dask(["mu", "dense"]), scheduler="threads")[0]
    assert np.array_equal(found["mu"], store.values("mu")[0])
    assert np.array_equal(found["dense"], store.take(range(80)).observations["dense"])


@SERVER_WARNINGS
@pytest.mark.processes
def test_arrays_on_a_server_in_other_processes(import_or_skip, object_url):
    import_or_skip("tracestore.storage.objects")
    url, options = object_url()
    store = TraceStore.create(url, storage_options=options)
    store.append(make_chunk(1))
    array = store.to_dask(["mu"])["mu"]
    assert np.array_equal(array.compute(scheduler="processes", num_workers=1), store.values("mu")[0])
