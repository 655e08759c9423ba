"""The global sort against `cp` and `sync` of the same bytes, small; `sort_scale.py` does it at size.

Two output segments, so that two processes have work; small ones make the fixed cost of a segment (about fifteen files
forced to disk) show.
"""

import os
import subprocess
import time

import pytest

from benchmarks.process_tree import cpu_seconds
from benchmarks.sort_stores import make_draws, make_layouts, tree_bytes, write_store
from benchmarks.synthetic import NUM_LAYOUTS, make_batch
from tracestore import sort_store
from tracestore.executors import ProcessExecutor, SerialExecutor


def observed(num_traces, seed):
    return make_batch(num_traces, seed)


def drawn(num_traces, seed):
    """As many bytes, in 200 to 590 draws of each trace."""
    layouts = make_layouts(NUM_LAYOUTS, 200, 10)
    return make_draws(layouts, [row * 7 % NUM_LAYOUTS for row in range(15 * num_traces)], seed)


def timed(call):
    """Seconds and CPU seconds until everything is on the disk."""
    os.sync()
    cpu, start = cpu_seconds(os.getpid()), time.perf_counter()
    call()
    os.sync()
    return time.perf_counter() - start, cpu_seconds(os.getpid()) - cpu


@pytest.mark.parametrize("make", [observed, drawn], ids=["observations", "draws"])
def test_sort(tmp_path, report, scale, make):
    per_segment = max(64, int(256 * scale))
    store = write_store(tmp_path / "source", (make(per_segment, seed) for seed in range(8)))
    num_bytes = tree_bytes(tmp_path / "source")
    copying = timed(lambda: subprocess.run(["cp", "-r", tmp_path / "source", tmp_path / "copy"], check=True))
    for name, executor in (("serial", SerialExecutor()), ("two processes", ProcessExecutor(2))):
        options = {"executor": executor, "segment_bytes": num_bytes // 2}
        wall, cpu = timed(lambda: sort_store(store, tmp_path / name, **options))  # noqa: B023  # called at once
        report(
            f"sort, {make.__name__}, {name}: {wall / copying[0]:.2f} times cp + sync, "
            f"{cpu / max(copying[1], 0.01):.1f} times its CPU time; {len(store) / wall:,.0f} traces/s, "
            f"{num_bytes / wall / 1e9:.2f} GB/s"
        )
