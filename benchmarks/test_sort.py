"""The global sort against `cp` and `sync` of the same bytes.

Two output segments, so that two processes have work; small ones make the fixed cost of a segment (about fifteen files
forced to disk) show.
"""

import os
import shutil
import time

import pytest

from benchmarks.synthetic import make_batch
from tracestore import TraceStore, sort_store
from tracestore.executors import ProcessExecutor, SerialExecutor


@pytest.mark.parametrize("executor", [SerialExecutor(), ProcessExecutor(2)], ids=["serial", "two processes"])
def test_sort(tmp_path, report, scale, executor):
    per_segment = max(64, int(256 * scale))
    store = TraceStore.create(tmp_path / "source")
    with store.writer() as writer:
        for seed in range(8):
            writer.append(make_batch(per_segment, seed))
            writer.seal()
    store.refresh()
    num_bytes = sum(entry.nbytes for entry in store.segments)
    os.sync()

    start = time.perf_counter()
    shutil.copytree(tmp_path / "source", tmp_path / "copy")
    os.sync()
    copying = time.perf_counter() - start

    start = time.perf_counter()
    sort_store(tmp_path / "source", tmp_path / "sorted", executor=executor, segment_bytes=num_bytes // 2)
    os.sync()
    sorting = time.perf_counter() - start
    report(
        f"sort, {type(executor).__name__}: {sorting / copying:.2f} times cp + sync; "
        f"{len(store) / sorting:,.0f} traces/s, {num_bytes / sorting / 1e9:.2f} GB/s"
    )
