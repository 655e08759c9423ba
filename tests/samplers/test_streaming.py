"""Training goes on while the store grows: from simulated traces to the batches of the next snapshot."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tracestore.errors import CheckpointMismatchError  # noqa: E402
from tracestore.execution.generate import simulate  # noqa: E402
from tracestore.samplers import BatchPolicy, World  # noqa: E402
from tracestore.samplers.torch_loader import trace_loader  # noqa: E402
from tracestore.simulators import toys  # noqa: E402

BATCH = 16


@pytest.fixture
def store(tmp_path):
    return simulate(toys.gum_marsaglia, tmp_path / "traces", num_traces=80, seed=1)


def grow(store, tmp_path):
    """Add the traces of a second simulation to the store, as a writer, and pin the new snapshot."""
    more = simulate(toys.gum_marsaglia, tmp_path / "more", num_traces=70, seed=2)
    with store.writer() as writer:
        writer.append(more.take(np.arange(len(more))))
    store.refresh()


def position_after(store, num_steps):
    """Take some steps as a training does, and save the position as a checkpoint does."""
    loader = trace_loader(store, global_batch=BATCH, seed=3)
    for _, _ in zip(range(num_steps), loader, strict=False):
        pass
    return json.loads(json.dumps(loader.state_dict()))


def continued(store, state, world=None):
    """A loader over the store as it is now, where the saved training goes on."""
    loader = trace_loader(store, global_batch=BATCH, seed=3, world=world)
    loader.continue_from(state)
    return loader


@pytest.mark.parametrize(("num_steps", "epoch"), [(0, 0), (3, 1), (5, 1)])
def test_next_epoch_covers_the_grown_store_once(store, tmp_path, num_steps, epoch):
    state = position_after(store, num_steps)
    grow(store, tmp_path)
    assert len(store) == 150
    loader = continued(store, state)
    assert (loader.epoch, loader.step, len(loader)) == (epoch, 0, 10)
    seen = np.concatenate([batch.trace_index.numpy() for batch in loader])
    assert np.array_equal(np.sort(seen), np.arange(150))


def test_ranks_continue_with_the_same_batches(store, tmp_path):
    state = position_after(store, 2)
    grow(store, tmp_path)
    alone = [batch.trace_index.tolist() for batch in continued(store, state)]
    ranks = [continued(store, state, World(rank, 2)) for rank in range(2)]
    together = [
        sorted(index for batch in step for index in batch.trace_index.tolist()) for step in zip(*ranks, strict=True)
    ]
    assert together == alone


def test_old_state_is_refused_on_the_grown_store(store, tmp_path):
    state = position_after(store, 2)
    grow(store, tmp_path)
    with pytest.raises(
        CheckpointMismatchError, match=r"snapshot .* begin the next epoch on the new one with `continue_from`"
    ):
        trace_loader(store, global_batch=BATCH, seed=3).load_state_dict(state)


def test_state_of_the_same_snapshot_gives_nothing_up(store):
    state = position_after(store, 2)
    resumed = trace_loader(store, global_batch=BATCH, seed=3)
    resumed.load_state_dict(state)
    rest = [batch.trace_index.tolist() for batch in continued(store, state)]
    assert rest == [batch.trace_index.tolist() for batch in resumed]
    assert len(rest) == 3


@pytest.mark.parametrize(
    ("changed", "options"), [("seed", {"seed": 4}), ("policy", {"global_batch": 8}), ("policy", {"subset": "train"})]
)
def test_another_seed_or_policy_is_not_continued(store, tmp_path, changed, options):
    state = position_after(store, 2)
    grow(store, tmp_path)
    loader = trace_loader(store, **{"global_batch": BATCH, "seed": 3, **options})
    with pytest.raises(CheckpointMismatchError, match=f"saved with {changed}"):
        loader.continue_from(state)
    assert (loader.epoch, loader.step) == (0, 0)


def test_budget_is_continued_with_another_number_of_steps(store, tmp_path):
    policy = BatchPolicy(budget=400.0, micro=2)
    before = trace_loader(store, policy=policy, seed=3)
    next(iter(before))
    grow(store, tmp_path)
    after = trace_loader(store, policy=policy, seed=3)
    after.continue_from(before.state_dict())
    assert after.plan.num_steps > before.plan.num_steps
    assert np.array_equal(np.sort(np.concatenate([batch.trace_index.numpy() for batch in after])), np.arange(150))
