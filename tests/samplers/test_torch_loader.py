import os
import pickle
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.suites.batches import make_batch, make_layout  # noqa: E402
from tracestore.errors import CheckpointMismatchError, InvalidInputError, PlanError  # noqa: E402
from tracestore.samplers import BatchPolicy, BucketedBatchSampler, CostModel, World, validation_mask  # noqa: E402
from tracestore.samplers.tensor_batch import TensorBatch  # noqa: E402
from tracestore.samplers.torch_loader import TraceLoader, trace_loader  # noqa: E402
from tracestore.samplers.trace_dataset import TraceDataset  # noqa: E402
from tracestore.store import TraceStore  # noqa: E402

NUM_TRACES, NUM_FAILED = 150, 6

# a machine with a single core is no reason to fail
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    opened = TraceStore.create(tmp_path_factory.mktemp("loader") / "traces")
    for seed in range(2):
        with opened.writer() as writer:
            writer.append(
                make_batch(seed, NUM_TRACES // 2, num_failed=NUM_FAILED // 2, first_stream=seed * NUM_TRACES // 2)
            )
    return opened


def indices_of(loader):
    return [batch.trace_index.tolist() for batch in loader]


def test_loader_is_a_data_loader_of_whole_batches(store):
    loader = trace_loader(store, global_batch=32, seed=1)
    assert isinstance(loader, torch.utils.data.DataLoader)
    assert loader.batch_size is None
    batches = list(loader)
    assert [len(batch) for batch in batches] == [32, 32, 32, 32, 16]
    assert all(isinstance(batch, TensorBatch) for batch in batches)


def test_tensors_hold_what_the_store_holds(store):
    for batch in trace_loader(store, global_batch=32, seed=1):
        rows = store.take(batch.trace_index.numpy())
        assert [batch.layouts[index].id for index in batch.layout_index] == [
            rows.layouts[index].id for index in rows.layout_index
        ]
        for name in ("values", "parameters", "log_probs"):
            tensor = getattr(batch, name)
            assert tensor.dtype == torch.float64
            assert np.array_equal(tensor.numpy(), getattr(rows, name))
        assert batch.observations.keys() == rows.observations.keys()
        for name, tensor in batch.observations.items():
            assert tensor.dtype == torch.float32
            assert tensor.shape == rows.observations[name].shape
            assert np.array_equal(tensor.numpy(), rows.observations[name].astype(np.float32))


def test_failed_traces_are_left_out_and_all_others_come_once(store):
    seen = np.concatenate(indices_of(trace_loader(store, global_batch=32)))
    assert np.array_equal(np.sort(seen), np.flatnonzero(store.column("status") == 0))


def test_train_and_validation_divide_the_store(store):
    train, validation = (
        np.concatenate(indices_of(trace_loader(store, global_batch=16, subset=subset, validation_fraction=0.3)))
        for subset in ("train", "validation")
    )
    good = np.flatnonzero(store.column("status") == 0)
    assert np.array_equal(np.sort(np.concatenate([train, validation])), good)
    assert validation_mask(store.column("stream")[validation], 0.3).all()
    assert np.array_equal(validation, np.sort(validation))


def test_small_validation_part_is_one_short_batch(store):
    loader = trace_loader(store, global_batch=128, subset="validation", validation_fraction=0.1)
    first, again = indices_of(loader), indices_of(loader)
    assert first == again
    assert len(first) == 1
    assert 0 < len(first[0]) < 128


@pytest.mark.processes
@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(store, num_workers):
    alone = list(trace_loader(store, global_batch=16, seed=3))
    helped = trace_loader(store, global_batch=16, seed=3, num_workers=num_workers)
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.trace_index, other.trace_index)
        assert torch.equal(one.values, other.values)
        assert [layout.id for layout in one.layouts] == [layout.id for layout in other.layouts]
        assert torch.equal(one.observations["dense"], other.observations["dense"])


@pytest.mark.processes
def test_state_counts_what_was_delivered_not_what_was_prefetched(store):
    loader = trace_loader(store, global_batch=16, seed=3, num_workers=2)
    batches = iter(loader)
    delivered = [next(batches).trace_index.tolist() for _ in range(2)]
    state = loader.state_dict()
    assert (state["epoch"], state["step"]) == (0, 2)
    rest = trace_loader(store, global_batch=16, seed=3)
    rest.load_state_dict(state)
    assert len(rest) == 9
    assert delivered + indices_of(rest) == indices_of(trace_loader(store, global_batch=16, seed=3))


def test_iterating_goes_on_and_then_begins_the_next_epoch(store):
    loader = trace_loader(store, global_batch=64, seed=3)
    first = next(iter(loader)).trace_index.tolist()
    assert (loader.epoch, loader.step) == (0, 1)
    assert [first, *indices_of(loader)] == [loader.plan.step(0, step).tolist() for step in range(3)]
    assert (loader.epoch, loader.step) == (1, 0)
    assert indices_of(loader) == [loader.plan.step(1, step).tolist() for step in range(3)]


def test_start_and_seek(store):
    loader = trace_loader(store, global_batch=64, seed=3, start=(2, 1))
    assert indices_of(loader) == [loader.plan.step(2, step).tolist() for step in (1, 2)]
    loader.seek(2, 2)
    assert indices_of(loader) == [loader.plan.step(2, 2).tolist()]


@pytest.mark.parametrize("change", [{"seed": 2}, {"global_batch": 16}, {"subset": "train"}])
def test_state_of_another_loader_is_refused(store, change):
    state = trace_loader(store, global_batch=32, seed=1).state_dict()
    with pytest.raises(CheckpointMismatchError, match="was saved with"):
        trace_loader(store, **{"global_batch": 32, "seed": 1, **change}).load_state_dict(state)


def test_ranks_share_the_batches(store):
    loaders = [trace_loader(store, global_batch=32, world=World(rank, 2)) for rank in range(2)]
    alone = indices_of(trace_loader(store, global_batch=32, world=World()))
    together = [sorted(one + other) for one, other in zip(*map(indices_of, loaders), strict=True)]
    assert together == alone


def test_ranks_are_read_from_the_launcher(store, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert sum(map(len, indices_of(trace_loader(store, global_batch=32)))) < NUM_TRACES / 3


def test_empty_share_of_the_last_step_is_an_empty_batch(store):
    policy = BatchPolicy(global_batch=140, micro=70)
    lasts = [list(trace_loader(store, policy=policy, world=World(rank, 2)))[-1] for rank in range(2)]
    assert sorted(map(len, lasts)) == [0, 4]
    empty = min(lasts, key=len)
    assert empty.values.shape == (0,)
    assert empty.observations["dense"].shape == (0, 4, 3)


def test_plain_data_loader_works_with_our_parts(store):
    plan = trace_loader(store, global_batch=32, seed=1).plan
    loader = torch.utils.data.DataLoader(TraceDataset(store), sampler=BucketedBatchSampler(plan), batch_size=None)
    assert indices_of(loader) == indices_of(trace_loader(store, global_batch=32, seed=1))


def test_dataset_can_be_sent_to_spawned_workers(store):
    dataset = pickle.loads(pickle.dumps(TraceDataset(store)))
    assert torch.equal(dataset[[3, 1]].values, TraceDataset(store)[[3, 1]].values)
    assert len(dataset) == NUM_TRACES


def test_loader_with_another_sampler_is_refused(store):
    with pytest.raises(InvalidInputError, match="An item is a whole batch, for an array of trace indices; got 0"):
        next(iter(torch.utils.data.DataLoader(TraceDataset(store), batch_size=None)))


@pytest.mark.processes
def test_workers_read_in_their_own_processes(store):
    class Telling(TraceDataset):
        def __getitem__(self, indices):
            return os.getpid()

    loader = torch.utils.data.DataLoader(Telling(store), sampler=[[0], [1]], batch_size=None, num_workers=2)
    assert len({*loader, os.getpid()}) == 3


def test_constant_observation_is_not_multiplied():
    batch = TensorBatch.from_batch(make_batch(1, 20, constant_observations=True), np.arange(20))
    dense = batch.observations["dense"]
    assert dense.shape == (20, 4, 3)
    assert dense.stride(0) == 0


def test_tensors_own_their_memory(store):
    batch = store.take(np.arange(5))
    batch.values.flags.writeable = False
    tensors = TensorBatch.from_batch(batch, np.arange(5))
    tensors.values[0] = 12.0
    assert batch.values[0] != 12.0


def test_moving_keeps_every_field(store):
    batch = TraceDataset(store)[[1, 2]].to("cpu")
    assert isinstance(batch, TensorBatch)
    assert len(batch.to("meta")) == 2
    assert {batch.to("meta").values.device.type, batch.to("meta").observations["dense"].device.type} == {"meta"}


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, InvalidInputError, "`global_batch` is missing"),
        ({"global_batch": 0}, InvalidInputError, "`global_batch` must be a whole number of at least 1; got 0"),
        ({"global_batch": 8, "policy": BatchPolicy(global_batch=16)}, InvalidInputError, "is 8, but the policy has 16"),
        ({"global_batch": 8, "policy": BatchPolicy(budget=1e4)}, InvalidInputError, "the policy has a budget of 10000"),
        ({"global_batch": 1000}, PlanError, "batch of 1000 is larger than the 144 selected traces"),
        ({"global_batch": 32, "world": World(0, 3)}, PlanError, r"got 3\. Allowed: 1, 2, 4"),
        ({"global_batch": 32, "subset": "test"}, InvalidInputError, "got 'test'"),
        ({"global_batch": 32, "subset": "validation", "validation_fraction": 0.0}, PlanError, "No trace is selected"),
    ],
)
def test_impossible_loaders_are_refused(store, options, error, text):
    with pytest.raises(error, match=text):
        trace_loader(store, **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"observations": ["dense", "none"]}, r"has no observation 'none'; it has dense, count"),
        (
            {"observation_dtype": torch.float64},
            r"one of torch.float32, torch.bfloat16, torch.float16; got torch.float64",
        ),
        ({"num_workers": -1}, "`num_workers` must be a whole number of at least 0; got -1"),
        ({"prefetch": 1.5}, "`prefetch` must be a whole number of at least 0; got 1.5"),
        ({"prefetch": 0, "num_workers": 2}, "`prefetch` must be at least 1 with workers"),
        ({"start_method": "thread", "num_workers": 2}, "one of fork, spawn, forkserver; got 'thread'"),
        ({"start_method": "fork"}, "`num_workers` is 0"),
    ],
)
def test_impossible_options_are_refused(store, options, text):
    with pytest.raises(InvalidInputError, match=text):
        trace_loader(store, global_batch=32, **options)


def test_observations_are_refused_where_there_are_none(tmp_path):
    bare = TraceStore.create(tmp_path / "bare")
    bare.append(make_batch(1, 20, [make_layout(2, observed=())]))
    assert next(iter(trace_loader(bare, global_batch=4))).observations == {}
    with pytest.raises(InvalidInputError, match="it has no observations; leave `observations` out"):
        trace_loader(bare, global_batch=4, observations=["dense"])


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.processes)])
@pytest.mark.parametrize("observations", [[], ["dense"]], ids=str)
def test_only_the_observations_asked_for_are_read(store, observations, num_workers):
    loader = trace_loader(store, global_batch=72, observations=observations, num_workers=num_workers)
    assert all(list(batch.observations) == observations for batch in loader)


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.processes)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_observations_come_in_half_precision(store, dtype, num_workers):
    halves = trace_loader(store, global_batch=32, seed=1, observation_dtype=dtype, num_workers=num_workers)
    for half, single in zip(halves, trace_loader(store, global_batch=32, seed=1), strict=True):
        assert half.values.dtype == torch.float64
        for name, tensor in half.observations.items():
            assert torch.equal(tensor, single.observations[name].to(dtype))


def test_numbers_beyond_half_precision_are_refused():
    batch = make_batch(1, 4)
    batch.observations["dense"][2, 1, 0] = 1e5
    TensorBatch.from_batch(batch, np.arange(4), observation_dtype=torch.bfloat16)
    with pytest.raises(InvalidInputError, match=r"'dense' has values up to 100000, float16 holds 65504; use bfloat16"):
        TensorBatch.from_batch(batch, np.arange(4), observation_dtype=torch.float16)


@pytest.mark.parametrize("options", [{}, {"num_workers": 1}, {"prefetch": 2}], ids=str)
@pytest.mark.processes
def test_batches_know_the_size_of_the_global_step(store, options):
    policy = BatchPolicy(global_batch=140, micro=70)
    sizes = [
        [batch.step_size for batch in trace_loader(store, policy=policy, world=World(rank, 2), **options)]
        for rank in range(2)
    ]
    assert sizes == [[140, 4], [140, 4]]


def test_sites_are_counted_per_trace(store):
    batch = next(iter(trace_loader(store, global_batch=32)))
    assert np.array_equal(batch.num_sites, store.take(batch.trace_index.numpy()).num_sites)


@pytest.mark.parametrize("depth", [1, 3, 50])
def test_reading_ahead_in_a_thread_changes_nothing(store, depth):
    loader = trace_loader(store, global_batch=16, seed=3, prefetch=depth)
    alone = trace_loader(store, global_batch=16, seed=3)
    for _ in range(2):
        for one, other in zip(loader, alone, strict=True):
            assert torch.equal(one.trace_index, other.trace_index)
            assert torch.equal(one.observations["dense"], other.observations["dense"])
            assert loader.state_dict() == alone.state_dict()


def test_leaving_early_stops_the_thread_and_keeps_the_place(store):
    loader = trace_loader(store, global_batch=16, seed=3, prefetch=3)
    batches = iter(loader)
    first = next(batches).trace_index.tolist()
    assert any(thread.name.startswith("read-ahead") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())
    assert [first, *indices_of(loader)] == [loader.plan.step(0, step).tolist() for step in range(9)]


@pytest.mark.processes
@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_workers_start_in_every_way(store, start_method):
    loader = trace_loader(store, global_batch=72, seed=3, num_workers=1, start_method=start_method)
    alone = trace_loader(store, global_batch=72, seed=3)
    # a second epoch goes to the same workers
    assert [indices_of(loader), indices_of(loader)] == [indices_of(alone), indices_of(alone)]


@pytest.mark.processes
@pytest.mark.parametrize("prefetch", [1, 3])
def test_batches_of_workers_stay_as_they_are(store, prefetch):
    loader = trace_loader(store, global_batch=8, seed=3, num_workers=2, prefetch=prefetch)
    kept = [*loader, *loader]
    for epoch, step, batch in zip([0] * 18 + [1] * 18, [*range(18)] * 2, kept, strict=True):
        expected = TraceDataset(store)[loader.plan.step(epoch, step)]
        assert torch.equal(batch.trace_index, expected.trace_index)
        assert torch.equal(batch.values, expected.values)
        assert torch.equal(batch.observations["dense"], expected.observations["dense"])


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 3, 9])
def test_stateful_data_loader_resumes_exactly(store, num_workers, stop):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    plan = trace_loader(store, global_batch=16, seed=3).plan

    def make():
        sampler = BucketedBatchSampler(plan, snapshot="one")
        return stateful.StatefulDataLoader(
            TraceDataset(store), sampler=sampler, batch_size=None, num_workers=num_workers
        )

    interrupted, resumed = make(), make()
    batches = iter(interrupted)
    done = [next(batches).trace_index.tolist() for _ in range(stop)]
    resumed.load_state_dict(interrupted.state_dict())
    done += indices_of(resumed)
    assert done == [plan.step(0, step).tolist() for step in range(9)]
    assert indices_of(resumed) == [plan.step(1, step).tolist() for step in range(9)]


def test_grown_store_is_read_from_the_next_epoch_on(tmp_path):
    store = TraceStore.create(tmp_path / "growing")
    store.append(make_batch(1, 40))
    small = trace_loader(store, global_batch=8, seed=3)
    next(iter(small))
    store.append(make_batch(2, 30, first_stream=40))
    grown = trace_loader(store, global_batch=8, seed=3)
    with pytest.raises(CheckpointMismatchError, match="continue_from"):
        grown.load_state_dict(small.state_dict())
    grown.continue_from(small.state_dict())
    assert (grown.epoch, grown.step) == (1, 0)
    assert sorted(index for indices in indices_of(grown) for index in indices) == list(range(70))


def test_costs_of_observations_reach_the_plan(store):
    cost = CostModel(per_trace=0.0, per_site=0.0, per_observation_byte=1.0)
    loader = trace_loader(store, policy=BatchPolicy(global_batch=16, cost=cost), world=World())
    assert loader.plan.rank_costs(0, 0, 1)[0] == 16 * store.segments[0].observation_bytes > 0


def test_loader_type_is_public(store):
    assert isinstance(trace_loader(store.path, global_batch=32), TraceLoader)
