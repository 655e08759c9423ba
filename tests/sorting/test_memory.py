"""A copy task stays within the memory that its plan states, whatever the size of the store."""

import subprocess
import sys

import pytest

from benchmarks import synthetic
from tests.suites.batches import make_batch, make_layout
from tracestore.store import TraceStore

# in a process of its own: this one is large already, and a maximum is never forgotten
COPY_ONE = """
import sys
from tracestore import TraceStore
from tracestore.sorting import plan_store
from tracestore.sorting.execute import CopySegment

def kilobytes(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))

store = TraceStore.open(sys.argv[1])
plan = plan_store(store, segment_bytes=int(sys.argv[3]))
copy = CopySegment(store, TraceStore.create(sys.argv[2]))
before = kilobytes("VmRSS")
copy(plan.tasks[len(plan.tasks) // 2])
print(len(plan.tasks), plan.peak_memory, 1000 * (kilobytes("VmHWM") - before))
"""
LIBRARIES = 40_000_000
"""What the first use of libraries takes."""


def sites(seed):
    return make_batch(seed, 1500, [make_layout(150 + number) for number in range(12)])


def images(seed):
    return synthetic.make_batch(200, seed)


@pytest.mark.processes
@pytest.mark.parametrize("make", [sites, images])
def test_task_stays_within_the_stated_memory(tmp_path, make, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    store = TraceStore.create(tmp_path / "source", codec="none")
    with store.writer() as writer:
        for seed in range(8):
            writer.append(make(seed))
            writer.seal()
    size = sum(entry.nbytes for entry in store.segments) // 6
    words = [sys.executable, "-c", COPY_ONE, str(store.path), str(tmp_path / "sorted"), str(size)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    num_tasks, stated, used = map(int, done.stdout.split())
    assert num_tasks >= 6
    assert used < stated + LIBRARIES
    assert stated < 6 * size
