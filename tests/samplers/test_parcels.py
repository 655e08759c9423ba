import gc

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataclasses import fields, replace  # noqa: E402

from tests.suites.batches import make_batch  # noqa: E402
from tracestore.errors import InvalidInputError  # noqa: E402
from tracestore.samplers import parcels  # noqa: E402
from tracestore.samplers.parcels import ParcelDataset  # noqa: E402
from tracestore.samplers.torch_loader import trace_loader  # noqa: E402
from tracestore.samplers.trace_dataset import TraceDataset  # noqa: E402
from tracestore.store import TraceStore  # noqa: E402


@pytest.fixture(params=[False, True], ids=["varying", "constant"])
def store(tmp_path, request):
    opened = TraceStore.create(tmp_path / "store")
    opened.append(make_batch(1, 60, constant_observations=request.param))
    return opened


def assert_equal(batch, expected):
    for field in fields(expected):
        found, wanted = getattr(batch, field.name), getattr(expected, field.name)
        if isinstance(wanted, torch.Tensor):
            assert found.dtype == wanted.dtype
            assert torch.equal(found, wanted)
        elif field.name == "observations":
            assert list(found) == list(wanted)
            assert all(torch.equal(found[name], wanted[name]) for name in wanted)
            assert all(found[name].dtype == wanted[name].dtype for name in wanted)
        else:
            assert found == wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("is_own", [False, True])
def test_what_is_unpacked_was_packed(store, dtype, is_own):
    plain = TraceDataset(store, observation_dtype=dtype)
    dataset = ParcelDataset(plain, 1)
    # of growing, shrinking and no size: slabs are used again
    for indices in ([3], [], [*range(40)], [5, 4], [*range(59, 0, -1)], [], [7, 7, 8]):
        parcel = replace(dataset[indices], is_own=is_own)
        assert_equal(parcel.unpack(store.layouts), plain[indices])


def test_slabs_are_used_by_turns(store):
    dataset = ParcelDataset(TraceDataset(store), 1)
    dataset[np.arange(20)], dataset[np.arange(20)], dataset[np.arange(20)]
    places = [dataset[np.arange(10)].slab.data_ptr() for _ in range(6)]
    assert len(set(places)) == 3
    assert places[:3] == places[3:]


def test_parcels_stay_whole_while_the_others_are_written(store):
    plain = TraceDataset(store)
    dataset = ParcelDataset(plain, 1)
    batches = [np.arange(start, start + 10) for start in range(0, 30, 10)]
    sent = [dataset[indices] for indices in batches]
    for parcel, indices in zip(sent, batches, strict=True):
        assert parcel.slab.is_shared()
        assert_equal(parcel.unpack(store.layouts), plain[indices])


def test_unpacked_batches_do_not_change_with_the_slab(store):
    dataset = ParcelDataset(TraceDataset(store), 0)
    batch = dataset[np.arange(10)].unpack(store.layouts)
    before = batch.values.clone()
    for _ in range(3):
        dataset[np.arange(30, 40)]
    assert torch.equal(batch.values, before)


@pytest.mark.processes
def test_each_slab_is_sent_once_and_unmapped_with_its_loader(store):
    loader = trace_loader(store, global_batch=4, num_workers=2, prefetch=1)
    list(loader), list(loader)
    token = getattr(loader.dataset, "token")  # noqa: B009  # of the data set that the loader made
    mine = [name for name in parcels._received if name.dataset == token]
    assert len(mine) == len({name.process for name in mine}) * 3 == 6
    loader._iterator._shutdown_workers()
    del loader
    gc.collect()
    assert not [name for name in parcels._received if name.dataset == token]


def test_only_new_slabs_travel(store):
    dataset = ParcelDataset(TraceDataset(store), 0)
    news = [dataset[indices].is_new for indices in ([1], [2], [3], [*range(50)], [*range(50)], [4])]
    assert news == [True, True, False, True, True, False]


def test_an_observation_that_all_traces_share_travels_as_one_row(store):
    is_constant = all(info.constant for info in store.segments[0].observations)
    parcel = ParcelDataset(TraceDataset(store), 0)[np.arange(10)]
    assert parcel.observations["dense"].repeats == (10 if is_constant else None)


def test_a_slab_travels_although_the_batch_before_failed(store):
    dataset = ParcelDataset(TraceDataset(store), 0)
    with pytest.raises(InvalidInputError):
        dataset[[*range(50), 1_000]]
    assert [dataset[[1]].is_new, dataset[[1, 2]].is_new] == [True, True]
