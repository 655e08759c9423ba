from dataclasses import dataclass, field

import numpy as np
import pytest

from tests.suites.batches import make_batch, make_layout, with_observation
from tracestore.errors import InvalidInputError, TraceTypeMismatchError, UnknownAddressError
from tracestore.store import TraceStore
from tracestore.store import arrays as arrays_module
from tracestore.traces import TraceBatch

LAYOUTS = (
    make_layout(2, vectors=1, observed=("dense", "count")),
    make_layout(0, vectors=1, observed=("count", "dense")),
    make_layout(5, vectors=1, observed=("dense", "count"), tag=False),
)
NUM_TRACES = 120
FAILED = 7


def make_store(path, backend="arrow", layouts=LAYOUTS):
    """Three segments, of several layouts, with failed traces."""
    store = TraceStore.create(path, backend=backend)
    for number in range(3):
        store.append(make_batch(number, 40, layouts, num_failed=(0, 3, 4)[number], first_stream=40 * number))
    return store


@pytest.fixture(scope="module", params=["arrow", "zarr"])
def store(request, tmp_path_factory):
    if request.param == "zarr":
        pytest.importorskip("numcodecs")
    return make_store(tmp_path_factory.mktemp("stores") / "store", request.param)


def expected_theta(store, indices):
    """Row by row, from single traces."""
    return np.array([np.concatenate([store[int(i)]["vec"], [store[int(i)]["mu"]]]) for i in indices])


def good_traces(store):
    return np.flatnonzero(store.column("status") == 0)


def test_theta_and_x_are_those_of_the_traces(store):
    theta, x = store.as_arrays(["vec", "mu"], observations=["count", "dense"])
    index = good_traces(store)
    observed = store.take(index).observations
    assert theta.dtype == x.dtype == np.float32
    assert np.array_equal(theta, expected_theta(store, index).astype(np.float32))
    expected = np.concatenate([observed["count"][:, None], observed["dense"].reshape(len(index), -1)], axis=1)
    assert np.array_equal(x, expected.astype(np.float32))


@pytest.mark.parametrize(
    ("observations", "shape"),
    [(["dense"], (4, 3)), (["count"], (1,)), (None, (13,))],
    ids=["one", "a scalar", "all"],
)
def test_one_observation_keeps_its_shape_and_several_are_joined(store, observations, shape):
    assert store.as_arrays(["mu"], observations=observations).x.shape == (NUM_TRACES - FAILED, *shape)


def test_failed_traces_are_left_out_and_indices_say_which_remain(store):
    assert np.array_equal(store.as_arrays(["mu"]).indices, good_traces(store))


@pytest.mark.parametrize("order", ["shuffled", "repeated", "as many as a segment", "negative", "mask", "a slice"])
def test_indices_are_followed(store, order):
    good = good_traces(store)
    rng = np.random.default_rng(1)
    given = {
        "shuffled": rng.permutation(good),
        "repeated": rng.choice(good, 200),
        "as many as a segment": np.repeat(np.arange(0, 40, 2), 2),
        "negative": good[::3] - len(store),
        "mask": (store.column("status") == 0) & (np.arange(len(store)) % 2 == 0),
        "a slice": good[5:60],
    }[order]
    index = np.flatnonzero(given) if order == "mask" else given % len(store)
    arrays = store.as_arrays(["vec", "mu"], observations=["dense"], indices=given, dtype=np.float64)
    assert np.array_equal(arrays.indices, index)
    assert np.array_equal(arrays.theta, expected_theta(store, index))
    assert np.array_equal(arrays.x, store.take(index).observations["dense"])


def test_large_observations_are_read_in_pieces(store, monkeypatch):
    whole = store.as_arrays(["mu"], observations=["dense", "count"]).x
    order = np.random.default_rng(2).permutation(len(whole))
    monkeypatch.setattr(arrays_module, "_BUFFER_BYTES", 100)
    assert np.array_equal(store.as_arrays(["mu"], observations=["dense", "count"]).x, whole)
    shuffled = store.as_arrays(["mu"], observations=["dense", "count"], indices=good_traces(store)[order])
    assert np.array_equal(shuffled.x, whole[order])


def test_views_by_name(store):
    arrays = store.as_arrays(["vec", "mu"])
    views = arrays.as_dict()
    assert {name: view.shape[1:] for name, view in views.items()} == {
        "vec": (3,),
        "mu": (1,),
        "dense": (4, 3),
        "count": (1,),
    }
    assert all(np.shares_memory(views[name], arrays.theta) for name in ("vec", "mu"))
    assert np.array_equal(views["dense"], store.take(arrays.indices).observations["dense"])
    assert arrays.columns == ("vec[0]", "vec[1]", "vec[2]", "mu")


def test_arrays_in_files_are_those_in_memory(store, tmp_path):
    in_memory = store.as_arrays(["vec", "mu"])
    in_files = store.as_arrays(["vec", "mu"], folder=tmp_path / "arrays")
    assert isinstance(in_files.theta, np.memmap)
    for found, expected, name in zip(in_files, in_memory, ("theta", "x"), strict=True):
        assert np.array_equal(found, expected)
        assert np.array_equal(np.load(tmp_path / "arrays" / f"{name}.npy"), expected)
    assert {path.name for path in (tmp_path / "arrays").iterdir()} == {"theta.npy", "x.npy"}


def test_files_that_exist_are_kept(store, tmp_path):
    (tmp_path / "x.npy").write_bytes(b"mine")
    with pytest.raises(InvalidInputError, match=r"x\.npy exists already"):
        store.as_arrays(["mu"], folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]
    assert (tmp_path / "x.npy").read_bytes() == b"mine"


def test_what_is_not_selected_does_not_matter(tmp_path):
    """Failed traces stop early, and others may go another way."""
    store = TraceStore.create(tmp_path / "store")
    store.append(make_batch(1, 30, [LAYOUTS[0]]))
    store.append(make_batch(2, 30, [make_layout(1, vectors=2, observed=())]))
    theta, x = store.as_arrays(["vec", "mu"], indices=range(30))
    assert np.array_equal(theta, expected_theta(store, range(30)).astype(np.float32))
    assert x.shape == (30, 13)


def test_parts_of_a_store_give_arrays_too(store):
    parts = store.map_segments(lambda part: part.as_arrays(["mu"]).theta)
    assert np.array_equal(np.concatenate(parts), store.as_arrays(["mu"]).theta)


@dataclass(frozen=True)
class Refusal:
    id: str
    names: list[str]
    error: type[Exception]
    text: str
    options: dict[str, object] = field(default_factory=dict)


REFUSALS = [
    Refusal("misspelled", ["vek"], UnknownAddressError, "did you mean 'vec'"),
    Refusal("lacking", ["result"], TraceTypeMismatchError, "has no site 'result', which others have"),
    Refusal("observations empty", ["mu"], InvalidInputError, "at least one name", {"observations": []}),
    Refusal("observation unknown", ["mu"], InvalidInputError, "observations: dense, count", {"observations": ["x"]}),
    Refusal("integers", ["mu"], InvalidInputError, "type of floats; got int64", {"dtype": np.int64}),
    Refusal("outside", ["mu"], InvalidInputError, "has 120, but there are 120", {"indices": [3, 120]}),
    Refusal("too negative", ["mu"], InvalidInputError, "has -121", {"indices": [-121]}),
    Refusal("no integers", ["mu"], InvalidInputError, "must be integers", {"indices": [0.5]}),
    Refusal("short mask", ["mu"], InvalidInputError, "or a mask", {"indices": np.ones(3, bool)}),
    Refusal("no traces", ["mu"], InvalidInputError, "no traces to read", {"indices": []}),
    Refusal("failed", ["mu"], InvalidInputError, "failed, as did 6 more", {"indices": np.arange(NUM_TRACES)}),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.id)
def test_refusals(store, case):
    with pytest.raises(case.error, match=case.text):
        store.as_arrays(case.names, **case.options)


def test_the_trace_that_lacks_a_site_is_named(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    store.append(make_batch(1, 10, [LAYOUTS[0]]))
    store.append(make_batch(2, 10, [LAYOUTS[2]]))
    with pytest.raises(TraceTypeMismatchError, match="Trace 10 has no site 'result'") as caught:
        store.as_arrays(["result"])
    assert store[int(str(caught.value.fields["trace"]))].layout == LAYOUTS[2]


@pytest.mark.parametrize("name", ["result", "loop~Normal#5"])
def test_every_layout_of_a_segment_is_checked(tmp_path, name):
    store = TraceStore.create(tmp_path / "store")
    store.append(make_batch(1, 10, [LAYOUTS[0], LAYOUTS[2]]))
    with pytest.raises(TraceTypeMismatchError, match=f"has no site '{name}'"):
        store.as_arrays([name])


def test_an_observation_that_some_traces_lack_is_refused(tmp_path):
    store = make_store(tmp_path / "store", layouts=[make_layout(1), LAYOUTS[0]])
    with pytest.raises(InvalidInputError, match="has no observation 'count'"):
        store.as_arrays(["mu"])
    assert len(store.as_arrays(["mu"], observations=["dense"])) == NUM_TRACES - FAILED


def test_an_observation_of_several_shapes_is_refused(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    store.append(make_batch(1, 10, [make_layout(1)]))
    store.append(with_observation(make_batch(2, 10, [make_layout(1)]), "dense", np.ones((10, 5))))
    with pytest.raises(InvalidInputError, match="write them to different stores"):
        store.as_arrays(["mu"])


def test_a_store_without_observations_is_refused(tmp_path):
    store = TraceStore.create(tmp_path / "store")
    store.append(make_batch(1, 10, [make_layout(1, observed=())]))
    with pytest.raises(InvalidInputError, match="has no observations"):
        store.as_arrays(["mu"])


def test_an_observation_in_another_type_in_one_segment(tmp_path):
    batches = [make_batch(number, 20, [LAYOUTS[0]]) for number in (1, 2)]
    batches[1] = with_observation(batches[1], "dense", batches[1].observations["dense"].astype(np.float64) + 0.5)
    store = TraceStore.create(tmp_path / "store")
    for batch in batches:
        store.append(batch)
    expected = TraceBatch.concatenate(batches).observations["dense"]
    assert np.array_equal(store.as_arrays(["mu"], observations=["dense"], dtype=np.float64).x, expected)
