import pytest

from tests.samplers.runs import make_runs
from tracestore.errors import CheckpointMismatchError, InvalidInputError, PlanError
from tracestore.samplers import BatchPlan, BatchPolicy, BucketedBatchSampler, World

RUNS = make_runs((1, 3, 50), (2, 4, 50))


def sampler(*, seed=1, micro=4, snapshot="v1", **options):
    plan = BatchPlan(RUNS, BatchPolicy(global_batch=16, micro=micro), seed)
    return BucketedBatchSampler(plan, snapshot=snapshot, **options)


def test_state_is_five_values():
    walk = sampler()
    walker = iter(walk)
    for _ in range(3):
        next(walker)
    assert walk.state_dict() == {
        "snapshot": "v1",
        "seed": 1,
        "epoch": 0,
        "step": 3,
        "policy": walk.plan.policy.digest,
    }


def test_epochs_follow_each_other():
    walk = sampler()
    first = [indices.tolist() for indices in walk]
    assert (walk.epoch, walk.step, len(walk)) == (1, 0, 7)
    second = [indices.tolist() for indices in walk]
    assert first != second
    assert second == [walk.plan.step(1, step).tolist() for step in range(7)]


def test_state_after_the_last_step_is_the_next_epoch():
    walk = sampler(start=(0, 6))
    next(iter(walk))
    assert (walk.epoch, walk.step) == (1, 0)


def test_iteration_goes_on_where_it_stopped():
    walk = sampler()
    next(iter(walk))
    assert [indices.tolist() for indices in walk] == [walk.plan.step(0, step).tolist() for step in range(1, 7)]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"seed": 2}, "saved with seed 1, this sampler has 2"),
        ({"snapshot": "v2"}, "saved with snapshot 'v1', this sampler has 'v2'; open the store at the version"),
        ({"micro": 8}, "saved with policy"),
    ],
)
def test_state_of_something_else_is_refused(change, text):
    other = sampler(**change)
    with pytest.raises(CheckpointMismatchError, match=text):
        other.load_state_dict(sampler(start=(3, 2)).state_dict())
    assert (other.epoch, other.step) == (0, 0)


def test_incomplete_state_is_refused():
    with pytest.raises(CheckpointMismatchError, match="lacks policy, seed"):
        sampler().load_state_dict({"snapshot": "v1", "epoch": 0, "step": 1})


def test_ranks_that_do_not_divide_are_refused_at_once():
    with pytest.raises(PlanError, match=r"got 3\. Allowed: 1, 2, 4"):
        sampler(world=World(0, 3))


def test_start_outside_the_epoch_is_refused():
    with pytest.raises(InvalidInputError, match="steps 0 to 6; got step 7"):
        sampler(start=(0, 7))
