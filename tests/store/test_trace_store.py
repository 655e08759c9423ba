import pickle
import shutil
import sys

import numpy as np
import pytest

from tests.store.stores import JOB, by_stream, expected_batch, make_chunk, make_store
from tests.suites.batches import assert_same, make_batch, make_layout, with_observation
from tracestore.errors import (
    InvalidInputError,
    MissingExtraError,
    StoreExistsError,
    StoreNotFoundError,
    UnknownAddressError,
    UnsupportedVersionError,
)
from tracestore.formats.document import encode_document
from tracestore.store import Job, TraceStore, snapshot
from tracestore.traces import TRACE_COLUMNS, address_id


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "store", range(6))


@pytest.fixture(scope="module")
def everything(store):
    return store.take(range(len(store)))


def test_all_traces_are_there(store):
    assert len(store) == 240
    assert len(store.segments) == 3
    assert_same(by_stream(store), expected_batch(range(6)))


@pytest.mark.parametrize("seed", range(4))
def test_take_keeps_the_order(store, everything, seed):
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(240), rng.integers(80, 160, 30), rng.integers(0, 240, 50), np.arange(70, 200)][seed]
    found, wanted = store.take(rows), everything.take(rows)
    assert found.log_probs.tobytes() == wanted.log_probs.tobytes()
    assert found.parameters.tobytes() == wanted.parameters.tobytes()
    assert np.array_equal(found.stream, wanted.stream)
    for name in wanted.observations:
        assert np.array_equal(found.observations[name], wanted.observations[name])


def test_indices(store):
    assert store.take([-1]).stream[0] == store[-1].stream == store[239].stream
    assert len(store.take(np.arange(240) % 2 == 0)) == 120
    assert len(store.take([])) == 0
    assert set(store.take([]).observations) == {"dense", "count"}
    with pytest.raises(InvalidInputError, match="below 240"):
        store.take([240])
    with pytest.raises(InvalidInputError, match="array of integers"):
        store.take([0.5])
    with pytest.raises(IndexError, match="240 traces"):
        store[240]


def test_batches_cover_the_store(store, everything):
    sizes = [len(batch) for batch in store.batches(100)]
    assert sizes == [100, 100, 40]
    assert np.array_equal(np.concatenate([batch.values for batch in store.batches(7)]), everything.values)
    assert sum(1 for _ in store) == 240
    with pytest.raises(InvalidInputError, match="`size`"):
        store.batches(0)


def test_columns(store, everything):
    for name, dtype in TRACE_COLUMNS:
        assert store.column(name).dtype == dtype
        assert store.column(name).tobytes() == getattr(everything, name).tobytes()
    with pytest.raises(InvalidInputError, match="log_wait"):
        store.column("log_wait")


@pytest.mark.parametrize("name", ["mu", "vec", "count", "dense", "loop~Normal#4"])
def test_values(store, everything, name):
    values, indices = store.values(name)
    wanted, present = everything.named(name)
    assert indices.tolist() == np.flatnonzero(present).tolist()
    assert np.array_equal(values, wanted[present])


def test_unknown_name(store):
    with pytest.raises(UnknownAddressError, match="'nu'"):
        store.values("nu")


def test_failures(store, everything):
    assert store.failures() == dict(everything.failures)
    assert len(store.failures()) == 2 * (0 + 1 + 2)


def test_addresses_are_numbered_once(store, everything):
    addresses = list(store.addresses)
    assert len(set(addresses)) == len(addresses) == len(store.addresses)
    assert store.addresses[2:4] == addresses[2:4]
    assert {site.address for layout in everything.layouts for site in layout.sites} == set(addresses)
    assert store.addresses.ids.tolist() == [address_id(address) for address in addresses]


def test_numbers_of_addresses_never_change(tmp_path):
    store = make_store(tmp_path / "store", [0])
    before = list(store.addresses)
    with store.writer() as writer:
        writer.append(make_batch(1, 30, [make_layout(9), make_layout(1)]))
    assert list(store.addresses)[: len(before)] == before
    assert len(store.addresses) > len(before)
    assert list(TraceStore.open(store.path, version=1).addresses) == before


def test_runs_and_trace_types(store, everything):
    runs = store.runs
    assert np.array_equal(np.repeat(runs.trace_type, runs.num_traces), everything.trace_types)
    assert np.array_equal(np.repeat(runs.num_sites, runs.num_traces), everything.num_sites)
    assert runs.first.tolist() == (np.cumsum(runs.num_traces) - runs.num_traces).tolist()
    bounds = np.cumsum([entry.num_traces for entry in store.segments])
    assert np.array_equal(runs.segment, np.searchsorted(bounds, runs.first, "right"))
    types = store.trace_types
    assert sum(info.num_traces for info in types) == 240
    assert [info.num_traces for info in types] == sorted((info.num_traces for info in types), reverse=True)
    assert set(store.layouts) == {int(layout) for layout in runs.layout}
    assert all(store.layouts[layout].id == layout for layout in store.layouts)


def test_observations(store, everything):
    assert store.observation_shapes == {"dense": (4, 3), "count": ()}
    assert np.array_equal(store.observation("dense", 200), everything.observations["dense"][200])
    assert list(store.take([1], observations=["count"]).observations) == ["count"]
    with pytest.raises(InvalidInputError, match="no observation voxels"):
        store.take([1], observations=["voxels"])


def test_segments_that_lack_an_observation_give_zeros(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    for observed in (("dense",), ("count",), ()):
        with store.writer() as writer:
            writer.append(make_batch(1, 10, [make_layout(1, observed=observed)]))
    batch = store.take(range(30))
    assert not batch.observations["dense"][10:].any()
    assert batch.observations["dense"][:10].any()
    assert not np.delete(batch.observations["count"], range(10, 20)).any()
    assert store.take(range(20, 30)).observations["dense"].shape == (10, 4, 3)


def test_observation_shared_by_several_segments_is_one_row(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    for seed in (1, 1, 2):
        batch = make_batch(seed, 10, [make_layout(1)], constant_observations=True)
        with store.writer() as writer:
            writer.append(batch)
    assert store.take(range(20)).observations["dense"].strides[0] == 0
    mixed = store.take(range(30)).observations["dense"]
    assert mixed.strides[0] > 0
    assert len(np.unique(mixed[:, 0, 0])) == 2


def test_types_of_an_observation_are_widened_over_segments(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    for dtype in (np.float32, np.float64):
        batch = with_observation(make_batch(1, 10, [make_layout(1)]), "dense", np.full((10, 4, 3), 1 / 3, dtype))
        with store.writer() as writer:
            writer.append(batch)
    for rows in (range(20), range(10), [15, 3]):
        assert store.take(rows).observations["dense"].dtype == np.float64


def test_shapes_of_an_observation_that_differ_between_segments_are_refused(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    for shape in ((2,), (3,)):
        batch = with_observation(make_batch(1, 10, [make_layout(1)]), "dense", np.zeros((10, *shape)))
        with store.writer() as writer:
            writer.append(batch)
    with pytest.raises(InvalidInputError, match=r"\(2,\) in one segment .* \(3,\)"):
        store.take([0])
    assert len(store.column("draw")) == 20


def test_snapshot_stays_until_refresh(tmp_path):
    store = make_store(tmp_path / "store", [0, 1])
    other = TraceStore.open(tmp_path / "store")
    identity = other.snapshot_id
    with store.writer() as writer:
        writer.append(make_chunk(2), work=[2])
    assert (len(other), len(store)) == (80, 120)
    assert other.snapshot_id == identity
    other.refresh()
    assert len(other) == 120
    assert other.snapshot_id == store.snapshot_id != identity
    assert len(TraceStore.open(tmp_path / "store", version=1)) == 80
    assert len(TraceStore.open(tmp_path / "store", version=0)) == 0


def test_store_survives_pickling(store, everything):
    again = pickle.loads(pickle.dumps(store))
    assert again.snapshot_id == store.snapshot_id
    assert again.job == store.job
    assert_same(again.take(range(240)), everything)


def test_copied_store_opens_after_the_original_is_gone(tmp_path):
    make_store(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    assert_same(by_stream(TraceStore.open(tmp_path / "there")), expected_batch(range(4)))


def test_stats(store, everything):
    stats = store.stats()
    assert (stats.num_traces, stats.num_segments, stats.num_layouts, stats.num_trace_types) == (240, 3, 3, 3)
    assert stats.num_sites == everything.num_sites.sum()
    assert stats.max_sites == everything.num_sites.max()
    assert stats.num_failed == len(everything.failures)
    assert stats.num_addresses == len(store.addresses)
    assert stats.nbytes > stats.site_bytes + stats.observation_bytes > everything.log_probs.nbytes


def test_attributes_and_identity(tmp_path):
    store = TraceStore.create(tmp_path / "store", job=JOB, attributes={"note": "first"})
    again = TraceStore.open(str(tmp_path / "store"))
    assert again.attributes == {"note": "first"}
    assert again.job == JOB
    assert again.uuid == store.uuid
    assert again.backend == "arrow"
    assert repr(again).startswith("TraceStore('")


class TestOpening:
    @pytest.mark.parametrize("kind", ["missing", "directory", "file"])
    def test_what_is_no_store(self, tmp_path, kind):
        path = tmp_path / "thing"
        if kind == "directory":
            path.mkdir()
        elif kind == "file":
            path.write_text("")
        with pytest.raises(StoreNotFoundError, match="is not a trace store"):
            TraceStore.open(path)

    def test_creating_twice(self, tmp_path):
        TraceStore.create(tmp_path / "store")
        with pytest.raises(StoreExistsError, match="is a store already"):
            TraceStore.create(tmp_path / "store")

    @pytest.mark.parametrize("kind", ["file", "directory"])
    def test_creating_over_something_else(self, tmp_path, kind):
        (tmp_path / "store").mkdir() if kind == "directory" else (tmp_path / "store").write_text("")
        if kind == "directory":
            (tmp_path / "store" / "thesis.tex").write_text("")
        with pytest.raises(StoreExistsError, match="is not a store"):
            TraceStore.create(tmp_path / "store")

    def test_same_job_continues(self, tmp_path):
        make_store(tmp_path / "store", [0, 1])
        store = TraceStore.open_or_create(tmp_path / "store", JOB)
        assert store.completed_work() == {0, 1}

    def test_continuing_folds_what_an_interrupted_call_sealed(self, tmp_path):
        store = TraceStore.open_or_create(tmp_path / "store", JOB)
        writer = store.writer()
        writer.append(make_chunk(0), work=[0])
        writer.seal()
        again = TraceStore.open_or_create(tmp_path / "store", JOB)
        assert again.completed_work() == {0}
        assert len(again) == 40

    def test_another_job_is_refused(self, tmp_path):
        make_store(tmp_path / "store")
        other = Job("simulate", {"simulator": "fake", "seed": 2})
        with pytest.raises(StoreExistsError, match="`seed` is 1 there and 2 in this call"):
            TraceStore.open_or_create(tmp_path / "store", other)

    def test_store_without_a_job_is_refused(self, tmp_path):
        make_store(tmp_path / "store", job=None)
        with pytest.raises(StoreExistsError, match="records no job"):
            TraceStore.open_or_create(tmp_path / "store", JOB)

    @pytest.mark.parametrize(
        "change", [{"min_reader": 2}, {"features": ["time-travel"]}, {"backend": "zarr9"}], ids=str
    )
    def test_newer_stores_are_refused(self, tmp_path, change):  # 2.2
        TraceStore.create(tmp_path / "store")
        members = {
            "format": "tracestore", "version": 1, "min_reader": 1, "features": [], "backend": "arrow", "uuid": "u",
            "job": None, "attributes": {}, **change,
        }  # fmt: skip
        (tmp_path / "store" / "TRACESTORE.json").write_bytes(encode_document(members))
        with pytest.raises(UnsupportedVersionError, match="Update tracestore"):
            TraceStore.open(tmp_path / "store")

    def test_unknown_members_are_ignored(self, tmp_path):  # 1.7
        TraceStore.create(tmp_path / "store")
        members = {
            "format": "tracestore", "version": 1, "min_reader": 1, "features": [], "backend": "arrow", "uuid": "u",
            "job": None, "attributes": {}, "color": "blue",
        }  # fmt: skip
        (tmp_path / "store" / "TRACESTORE.json").write_bytes(encode_document(members))
        assert len(TraceStore.open(tmp_path / "store")) == 0

    def test_unknown_options(self, tmp_path):
        with pytest.raises(InvalidInputError, match="backend 'tape'"):
            TraceStore.create(tmp_path / "store", backend="tape")
        TraceStore.create(tmp_path / "store")
        with pytest.raises(InvalidInputError, match="`verify`"):
            TraceStore.open(tmp_path / "store", verify="sometimes")  # type: ignore[arg-type]  # the point of the test


def test_backend_whose_package_is_missing_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    for name in [name for name in sys.modules if name.startswith("tracestore.formats.zarr")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=r"tracestore\[zarr\]"):
        TraceStore.create(tmp_path / "store", backend="zarr")
    assert not (tmp_path / "store").exists()


def test_what_decoded_segments_keep_in_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, "_MOST_KEPT_BYTES", 2_000_000)
    path = tmp_path / "store"
    store = TraceStore.create(path)
    batch = make_batch(1, 6_000, [make_layout(27, observed=())])
    batch.values[:] = np.round(batch.values)  # compresses well, so that it is decoded into memory
    for _ in range(5):
        store.append(batch)
    again = TraceStore.open(path)
    for _ in range(2):
        for number in range(5):
            found = again.take(np.arange(number * 6_000, (number + 1) * 6_000))
            assert np.array_equal(found.values, batch.take(np.argsort(batch.stream, kind="stable")).values)
    again.segment(0)
    kept = [again.segment(number).kept_bytes for number in range(5)]
    assert max(kept) == batch.values.nbytes  # 1.4 MB each
    assert sum(kept) < 2_000_000 + batch.values.nbytes
