import numpy as np
import pytest

from tests.samplers.runs import make_runs
from tracestore.errors import InvalidInputError, PlanError
from tracestore.sorting.plan import plan_sort
from tracestore.sorting.statistics import RunStatistics

# two segments, each in its own order: types 1 (2 sites) and 2 (5 sites)
RUNS = make_runs((2, 5, 4), (1, 2, 3), (2, 5, 2), (1, 2, 6), num_segments=2)


def order_of(plan):
    return np.concatenate([task.indices() for task in plan.tasks]).tolist()


def test_order_is_length_then_source_place():
    plan = plan_sort(RUNS, 10)
    assert order_of(plan) == [4, 5, 6, 9, 10, 11, 12, 13, 14, 0, 1, 2, 3, 7, 8]


def test_types_of_one_length_stay_together_and_layouts_inside_them():
    runs = make_runs((7, 3, 2), (5, 3, 2), (7, 3, 2), (5, 3, 2))
    runs.layout = np.array([9, 4, 2, 3], np.uint64)
    assert order_of(plan_sort(runs, 1)) == [6, 7, 2, 3, 4, 5, 0, 1]


def test_outputs_are_cut_to_size_inside_runs():
    plan = plan_sort(RUNS, 10, segment_bytes=40)
    assert [task.total for task in plan.tasks] == [4, 4, 4, 3]
    assert [task.nbytes for task in plan.tasks] == [40, 40, 40, 30]
    assert order_of(plan) == order_of(plan_sort(RUNS, 10))
    assert (plan.num_bytes, plan.peak_bytes) == (150, 40)


def test_large_traces_get_segments_of_their_own():
    plan = plan_sort(RUNS, [1000, 1, 1000, 1], segment_bytes=1500)
    assert max(task.nbytes for task in plan.tasks) <= 1500 + 1000
    assert sum(task.total for task in plan.tasks) == 15


def test_stretches_name_their_source_segments():
    (task,) = plan_sort(RUNS, 10).tasks
    assert task.segment.tolist() == [0, 1, 0, 1]
    assert task.first.tolist() == [4, 9, 0, 7]
    assert task.num_traces.tolist() == [3, 6, 4, 2]


def test_digest_follows_order_and_cuts_only():
    digest = plan_sort(RUNS, 10).digest
    assert digest == plan_sort(RUNS, 10, segment_bytes=10_000).digest
    assert digest != plan_sort(RUNS, 10, segment_bytes=40).digest
    assert digest != plan_sort(make_runs((2, 5, 4), (1, 2, 3), (2, 5, 2), (1, 2, 7)), 10).digest


def test_statistics_before_and_after():
    runs = make_runs(*((kind, 3, 16) for kind in (1, 2) * 8))
    plan = plan_sort(runs, 1)
    assert plan.before == RunStatistics(16, 16.0, 16.0, 16, 0.0)
    assert plan.after == RunStatistics(2, 128.0, 128.0, 128, 1.0)
    # a run that spans two outputs counts as two
    assert plan_sort(runs, 1, segment_bytes=64).after.num_runs == 4


def test_plan_explains_itself():
    text = str(plan_sort(make_runs(*((kind, 3, 16) for kind in (1, 2) * 8)), 1_000_000))
    assert "sort 256 of 256 traces into 1 segments" in text
    assert "0.256 GB; that much free space is needed" in text
    assert "16 before            2 after" in text
    assert "0.0% before       100.0% after" in text


def test_empty_store_is_refused():
    with pytest.raises(PlanError, match="no traces"):
        plan_sort(make_runs((1, 1, 0)), 10)


@pytest.mark.parametrize(("trace_bytes", "segment_bytes"), [(10, 0), (0, 10)])
def test_sizes_that_are_not_positive_are_refused(trace_bytes, segment_bytes):
    with pytest.raises(InvalidInputError, match="must be positive"):
        plan_sort(RUNS, trace_bytes, segment_bytes=segment_bytes)
