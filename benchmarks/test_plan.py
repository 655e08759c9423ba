"""Planning the batches of 15 million traces: start-up, memory and time of a step, each in a process of its own.

Only run directories are made, no traces: a plan reads nothing else. Types are as frequent as words are (Zipf, exponent
1.2). A sorted store has one run of each of them; an unsorted one has 1,370 segments that are sorted within themselves;
in a scattered one nearly every trace is its own run. The least work is to sort one number for each atom; the usual way
is torch's DistributedSampler, which gives indices to one rank and forms no buckets.
"""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.test_open import measure_apart
from benchmarks.test_plan_sort import EXPONENT, MULTIPLIER, NUM_TRACES, NUM_TYPES

SEGMENT_TRACES = 10_956
GOAL_SECONDS = 1.0
GOAL_BYTES = 5e8
MICRO = 8
BATCHES = {1_024: 128, 131_072: 1_024}
"""Ranks that share a batch."""
NUM_STEPS = 20

# the peak is that of the plan: the kernel forgets the older one
STEPS = """
from pathlib import Path
import numpy as np
from benchmarks.test_plan import NUM_STEPS, load
from tracestore.samplers import BatchPlan, BatchPolicy, World
path, batch, micro, num_ranks, order, share = sys.argv[1:]
runs = load(path)
selected = np.random.default_rng(1).random(int(runs.num_traces.sum()), np.float32) < float(share)
policy = BatchPolicy(global_batch=int(batch), micro=int(micro), order=order)
steps = [1 + step % max(1, int(runs.num_traces.sum()) // int(batch) - 2) for step in range(NUM_STEPS)]
Path("/proc/self/clear_refs").write_text("5")
step("load")
plan = BatchPlan(runs, policy, seed=1, selected=None if selected.all() else selected)
plan.step(0, 0)
step("start")
for place in steps:
    plan.step(0, place)
step("global")
for place in steps:
    plan.step(0, place, World(1, int(num_ranks)))
step("rank")
atoms = np.random.default_rng(1).integers(0, 2**63, plan.num_traces // int(micro)).astype(np.uint64)
at = time.perf_counter()
np.argsort(atoms)
step("argsort")
"""

PEER_STEPS = """
from pathlib import Path
from torch.utils.data import DistributedSampler
sampler = DistributedSampler(range(int(sys.argv[1])), num_replicas=int(sys.argv[2]), rank=1)
Path("/proc/self/clear_refs").write_text("5")
step("load")
next(iter(sampler))
step("start")
"""


def make_runs(path, kind, scale):
    """Write the run directory of a store that is sorted, segmented or scattered."""
    rng = np.random.default_rng(1)
    share = np.cumsum(np.arange(1.0, NUM_TYPES + 1) ** -EXPONENT)
    num_sites = np.sort(rng.integers(40, 1_000, NUM_TYPES)).astype(np.int32)
    frequent = rng.permutation(NUM_TYPES)
    kinds = frequent[np.searchsorted(share / share[-1], rng.random(int(NUM_TRACES * scale)), "right")]
    length = {"sorted": len(kinds), "segmented": SEGMENT_TRACES, "scattered": 1}[kind]
    if length > 1:
        kinds = np.concatenate([np.sort(kinds[at : at + length]) for at in range(0, len(kinds), length)])
    first = np.flatnonzero(np.diff(kinds, prepend=-1))
    identities = np.arange(1, NUM_TYPES + 1, dtype=np.uint64) * MULTIPLIER
    np.savez(
        path,
        first=first,
        num_traces=np.diff(first, append=len(kinds)),
        num_sites=num_sites[kinds[first]],
        trace_type=identities[kinds[first]],
    )


def load(path):
    with np.load(path) as columns:
        return SimpleNamespace(**columns)


def has_torch():
    return subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, check=False).returncode == 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["sorted", "segmented", "scattered"])
def test_start(kind, tmp_path, report, scale):
    path = tmp_path / "runs.npz"
    make_runs(path, kind, scale)
    num_traces, num_runs = int(load(path).num_traces.sum()), len(load(path).first)
    report(f"batches of {num_traces / 1e6:.1f} M traces in {num_runs:,} runs ({kind})")
    cases = [(131_072, MICRO, order, share) for order in ("deck", "random") for share in (1.0, 0.95)]
    cases += [(1_024, MICRO, "deck", 1.0), (131_072, 64, "deck", 1.0)]
    for batch, micro, order, share in cases:
        if batch > num_traces // 4:
            continue
        num_ranks = min(BATCHES[batch], batch // micro)
        tries = [measure_apart(STEPS, path, batch, micro, num_ranks, order, share) for _ in range(3)]
        start, whole, rank, argsort = (
            min(one[name][0] for one in tries) for name in ("start", "global", "rank", "argsort")
        )
        peak = max(one["start"][2] - one["load"][2] for one in tries)
        report(
            f"    batch {batch:,}, micro {micro}, {order}, {share:.0%} selected: start/goal of {GOAL_SECONDS:.0f} s = "
            f"{start / GOAL_SECONDS:.2f}, peak/goal of 500 MB = {peak / GOAL_BYTES:.2f}, start/argsort of one number "
            f"per atom = {start / argsort:.1f}; a step {whole / NUM_STEPS * 1e3:.2f} ms, "
            f"of one of {num_ranks:,} ranks {rank / NUM_STEPS * 1e3:.2f} ms"
        )


@pytest.mark.timeout(600)
def test_peer(report, scale):
    if not has_torch():
        pytest.skip("torch is not installed")
    num_traces = int(NUM_TRACES * scale)
    tries = [measure_apart(PEER_STEPS, num_traces, 1_024) for _ in range(3)]
    start = min(one["start"][0] for one in tries)
    peak = max(one["start"][2] - one["load"][2] for one in tries)
    report(
        f"torch's DistributedSampler over {num_traces / 1e6:.1f} M: start/goal = {start / GOAL_SECONDS:.2f}, "
        f"peak/goal = {peak / GOAL_BYTES:.2f}"
    )
