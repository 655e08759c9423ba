"""torchdata's loader over our data set and sampler: states saved where an epoch ends."""

import pytest

torch = pytest.importorskip("torch")
stateful = pytest.importorskip("torchdata.stateful_dataloader")

from tests.suites.batches import make_batch  # noqa: E402
from tracestore.samplers import BatchPlan, BatchPolicy, BucketedBatchSampler  # noqa: E402
from tracestore.samplers.trace_dataset import TraceDataset  # noqa: E402
from tracestore.store import TraceStore  # noqa: E402

NUM_STEPS = 9

pytestmark = [
    pytest.mark.processes,
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    opened = TraceStore.create(tmp_path_factory.mktemp("stateful") / "traces")
    opened.append(make_batch(1, NUM_STEPS * 16))
    return opened


def make(store, num_workers):
    plan = BatchPlan(store.runs, BatchPolicy(global_batch=16), seed=3)
    return stateful.StatefulDataLoader(
        TraceDataset(store), sampler=BucketedBatchSampler(plan), batch_size=None, num_workers=num_workers
    )


def indices_of(loader):
    return [batch.trace_index.tolist() for batch in loader]


def epoch_of(loader, epoch):
    return [loader.sampler.plan.step(epoch, step).tolist() for step in range(NUM_STEPS)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_state_of_a_finished_epoch_begins_the_next(store, num_workers):
    interrupted, resumed = make(store, num_workers), make(store, num_workers)
    indices_of(interrupted)
    resumed.load_state_dict(interrupted.state_dict())
    assert indices_of(resumed) == epoch_of(resumed, 1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_state_after_the_last_batch_of_an_epoch_has_nothing_left_of_it(store, num_workers):
    interrupted, resumed = make(store, num_workers), make(store, num_workers)
    batches = iter(interrupted)
    for _ in range(NUM_STEPS):
        next(batches)
    resumed.load_state_dict(interrupted.state_dict())
    assert [indices_of(resumed), indices_of(resumed)] == [[], epoch_of(resumed, 1)]
