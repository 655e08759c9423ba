"""What every sort plan guarantees, over run directories and segment sizes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.samplers.runs import make_runs
from tracestore.sorting.plan import plan_sort

RUN = st.tuples(st.integers(0, 6), st.integers(1, 30))


@given(st.lists(RUN, min_size=1, max_size=20), st.integers(1, 4), st.integers(20, 2_000))
def test_plan_is_a_sorted_permutation_in_segments_of_bounded_size(parts, num_segments, segment_bytes):
    runs = make_runs(*((kind, 1 + kind // 2, traces) for kind, traces in parts), num_segments=num_segments)
    trace_bytes = 10 + 7 * runs.num_sites
    plan = plan_sort(runs, trace_bytes, segment_bytes=segment_bytes)
    order = np.concatenate([task.indices() for task in plan.tasks])
    kind, segment = np.repeat(runs.trace_type, runs.num_traces), np.repeat(runs.segment, runs.num_traces)
    assert np.array_equal(np.sort(order), np.arange(plan.num_traces))
    assert np.array_equal(order, np.lexsort((np.arange(plan.num_traces), kind, 1 + kind // 2)))
    size = np.repeat(trace_bytes, runs.num_traces)
    for task in plan.tasks:
        assert task.total > 0
        assert task.nbytes == size[task.indices()].sum()
        assert task.nbytes <= segment_bytes + size.max()
        assert np.array_equal(np.repeat(task.segment, task.num_traces), segment[task.indices()])
    changes = sum(1 + np.count_nonzero(np.diff(kind[task.indices()].astype(int))) for task in plan.tasks)
    assert plan.after.num_runs == changes
