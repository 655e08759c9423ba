import itertools
import json

import pytest

pytest.importorskip("torch")  # the room needs it

from tracestore.errors import InvalidInputError
from tracestore.training.schedules import Schedule, learning_rate

SHAPES = ("constant", "multi_step", "polynomial", "cosine")


def rates(num_steps=10, steps=range(11), **fields):
    schedule = Schedule(**{"learning_rate": 1.0, "final_learning_rate": 0.1, "warmup_fraction": 0.0, **fields})
    return [learning_rate(schedule, step, num_steps) for step in steps]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schedule": "constant"}, [1.0, 1.0, 1.0, 1.0]),
        ({"schedule": "multi_step"}, [1.0, 1.0, 0.1, 0.1]),
        ({"schedule": "polynomial", "polynomial_order": 1}, [1.0, 0.64, 0.55, 0.1]),
        ({"schedule": "polynomial"}, [1.0, 0.424, 0.325, 0.1]),
        ({"schedule": "cosine"}, [1.0, 0.689058, 0.55, 0.1]),
    ],
    ids=["constant", "multi_step", "line", "square", "cosine"],
)
def test_the_rate_follows_the_curve(fields, expected):
    assert rates(steps=(0, 4, 5, 10), **fields) == pytest.approx(expected)


@pytest.mark.parametrize("warmup_fraction", [0.0, 0.3])
@pytest.mark.parametrize("schedule", SHAPES)
def test_past_the_end_the_rate_stays(schedule, warmup_fraction):
    found = rates(steps=(10, 11, 15, 1000), schedule=schedule, warmup_fraction=warmup_fraction)
    assert found == [found[0]] * 4


@pytest.mark.parametrize("schedule", SHAPES)
def test_after_the_warm_up_the_rate_never_rises(schedule):
    found = rates(40, range(60), schedule=schedule, warmup_fraction=0.25)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10] == pytest.approx(1.0)
    assert all(late <= early for early, late in itertools.pairwise(found[10:]))


def test_every_milestone_lowers_the_rate_at_its_own_step():
    found = rates(100, range(100), schedule="multi_step", milestones=(0.1, 0.55), milestone_factor=0.5)
    assert found == [1.0] * 10 + [0.5] * 45 + [0.25] * 45  # 0.55 * 100 is more than 55 in floating point


@pytest.mark.parametrize(("power", "expected"), [(0.0, 1.0), (0.5, 2.0), (1.0, 4.0), (0.25, 2**0.5)])
@pytest.mark.parametrize("step", [0, 5, 20])
def test_the_whole_curve_scales_with_a_power_of_the_batch_size(power, expected, step):
    schedule = Schedule(warmup_fraction=0.2, batch_scaling=power, reference_batch_size=64)
    plain = learning_rate(schedule, step, 10)
    assert learning_rate(schedule, step, 10, batch_size=256) == pytest.approx(expected * plain)


def test_a_schedule_survives_a_file():
    schedule = Schedule(schedule="multi_step", milestones=(0.25, 0.5))
    assert Schedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"schedule": "step"}, "`schedule` must be one of"),
        ({"polynomial_order": 3}, "`polynomial_order` must be one of 1, 2"),
        ({"milestones": (0.5, 0.25)}, "`milestones` must rise"),
        ({"milestones": (1.5,)}, "`milestones` must rise"),
        ({"warmup_fraction": 1.0}, "`warmup_fraction` must lie in"),
        ({"batch_scaling": 2.0}, "`batch_scaling` must lie in"),
    ],
    ids=["rate", "shape", "order", "unordered", "beyond", "warmup", "scaling"],
)
def test_a_schedule_checks_itself(fields, words):
    with pytest.raises(InvalidInputError, match=words):
        Schedule(**fields)
