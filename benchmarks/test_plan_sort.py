"""Planning the sort of 15 million traces of 25,000 types in 1,370 fresh segments: time, memory, what sorting gains.

Only run directories are made, no traces: a plan reads nothing else. Types are as frequent as words are (Zipf, exponent
1.2): a few make up most traces, and most are rare.
"""

import numpy as np
import pytest

from benchmarks.test_open import measure_apart
from tracestore.store.runs import RunDirectory

NUM_TRACES = 15_000_000
NUM_SEGMENTS = 1_370
NUM_TYPES = 25_000
EXPONENT = 1.2
TRACE_BYTES = 64 + 20 * 35 * 35 * 4
SITE_BYTES = 32
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
GOAL_SECONDS = 10
GOAL_BYTES = 5e8

# the peak since `load` is that of planning: the kernel forgets the older one
STEPS = """
from pathlib import Path
from benchmarks.test_plan_sort import load, sizes_of
from tracestore.sorting import plan_sort
runs = load(sys.argv[1])
sizes = sizes_of(runs)
Path("/proc/self/clear_refs").write_text("5")
step("load")
plan = plan_sort(runs, sizes)
step("plan")
del plan
plan_sort(runs, sizes, keep_sorted=True)
step("in place")
"""


def make_runs(path, scale):
    """Write the run directory of segments that are each sorted within themselves."""
    rng = np.random.default_rng(1)
    share = np.cumsum(np.arange(1.0, NUM_TYPES + 1) ** -EXPONENT)
    num_sites = rng.integers(40, 1_000, NUM_TYPES).astype(np.int32)
    identities = np.arange(1, NUM_TYPES + 1, dtype=np.uint64) * MULTIPLIER
    order = np.lexsort((identities, num_sites))
    rank = np.argsort(order)
    num_segments = max(2, int(NUM_SEGMENTS * scale))
    per_segment = NUM_TRACES // NUM_SEGMENTS
    columns = {name: [] for name in ("segment", "kind", "num_traces")}
    for place in range(num_segments):
        kinds = np.searchsorted(share / share[-1], rng.random(per_segment), "right")
        ranks, counts = np.unique(rank[kinds], return_counts=True)
        columns["segment"].append(np.full(len(ranks), place, np.int32))
        columns["kind"].append(order[ranks])
        columns["num_traces"].append(counts)
    segment, kind, counts = (np.concatenate(parts) for parts in columns.values())
    np.savez(path, segment=segment, layout=identities[kind], num_traces=counts, num_sites=num_sites[kind])


def load(path):
    with np.load(path) as arrays:
        columns = dict(arrays)
    counts = columns["num_traces"]
    return RunDirectory(
        trace_type=columns["layout"], first=np.cumsum(counts) - counts, seconds=counts * 1e-3, **columns
    )


def sizes_of(runs):
    return TRACE_BYTES + SITE_BYTES * runs.num_sites.astype(np.float64)


@pytest.mark.timeout(600)
def test_plan(tmp_path, report, scale):
    from tracestore.sorting import plan_sort

    path = tmp_path / "runs.npz"
    make_runs(path, scale)
    tries = [measure_apart(STEPS, path) for _ in range(3)]
    runs = load(path)
    plan = plan_sort(runs, sizes_of(runs))
    seconds = {name: min(one[name][0] for one in tries) for name in ("plan", "in place")}
    peaks = {name: max(one[name][2] - one["load"][2] for one in tries) for name in ("plan", "in place")}
    report(
        f"plan a sort of {plan.num_traces / 1e6:.1f} M traces in {len(runs):,} runs: time/goal of {GOAL_SECONDS} s = "
        f"{seconds['plan'] / GOAL_SECONDS:.2f}, peak/goal of 500 MB = {peaks['plan'] / GOAL_BYTES:.2f}; "
        f"{seconds['plan']:.2f} s, {peaks['plan'] / 1e6:.0f} MB above the run directory of {48 * len(runs) / 1e6:.0f}; "
        f"in place {seconds['in place']:.2f} s, {peaks['in place'] / 1e6:.0f} MB"
    )
    stretches = sum(len(task.first) for task in plan.tasks)
    touched = sum(len(np.unique(task.segment)) for task in plan.tasks) / len(plan.tasks)
    report(
        f"    {len(plan.tasks):,} outputs of {stretches:,} stretches, {touched:,.0f} source segments each; runs "
        f"{plan.before.num_runs:,} before, {plan.after.num_runs:,} after; single-type atoms of 64 "
        f"{plan.before.atom_purity:.3f} before, {plan.after.atom_purity:.3f} after; digest {plan.digest}"
    )
