"""Sorting beside the predecessor, pyprob 1.5.0, as ratios inside one run.

    OMP_NUM_THREADS=1 python -m benchmarks.pyprob_sort --pyprob-python PATH [--scale S] [--repeats R]

PATH is the interpreter of an environment of its own, see `pyprob_peer.py`. Both sides sort prior traces of the same
model, as many and in as many files, one process and one thread each, in turns. pyprob sorts by a hash that its first
open computes from every trace, so that opening counts; generating does not. A store is opened and sorted into a new one
of 64 MiB segments, forced to the disk, which pyprob does not do. Its files are imported, too: read, converted, written
and forced to the disk, beside its own reading of them, which only hashes what it reads. The first sort of this process
does not count. Every ratio is the best of all repeats over the best, in brackets the range of single repeats.
"""

import argparse
import os
import platform
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import tracestore as ts
from benchmarks.pyprob_peer import Line, Peer, Timing, shower, timed, tree_bytes
from tracestore import TraceStore
from tracestore.simulators.toys import gum_marsaglia

MODELS = {"marsaglia": (8_000, 1_000), "shower": (2_048, 256)}
"""Traces at scale 1, and traces of a file of pyprob, or of a segment here."""
GOAL = 50
SEGMENT_BYTES = 2**26


def make(model, path, num_traces, per_segment):
    """Prior traces in a store of as many segments as pyprob has files."""
    simulator = {"marsaglia": gum_marsaglia, "shower": shower}[model]
    store = ts.simulate(simulator, path.with_name("whole"), num_traces=num_traces, seed=1)
    split = TraceStore.create(path)
    with split.writer() as writer:
        for low in range(0, num_traces, per_segment):
            writer.append(store.take(range(low, low + per_segment)))
            writer.seal()
    shutil.rmtree(store.path)


def sort(source, result):
    """Open and sort, as the peer does; how many traces."""
    return len(ts.sort_store(TraceStore.open(source), result, segment_bytes=SEGMENT_BYTES))


def compare(peer, folder, model, scale, repeats):
    """Sort on both sides in turns: one line for the whole, one without the peer's first open."""
    num_traces, per_file = MODELS[model]
    num_traces = max(1, round(num_traces * scale / per_file)) * per_file
    whole = Line(f"{model}, sort_store", "first open + save_sorted", GOAL)
    saving = Line(f"{model}, sort_store", "save_sorted alone", None)
    importing = Line(f"{model}, import_pyprob", "first open, which reads each trace once", None)
    make(model, folder / "ours", num_traces, per_file)
    sort(folder / "ours", folder / "warm")
    for repeat in range(repeats):
        ours = timed(lambda: sort(folder / "ours", folder / f"sorted-{repeat}"))  # noqa: B023  # called at once
        theirs = folder / f"peer-{repeat}"
        theirs.mkdir()
        options = {"model": model, "num_traces": num_traces, "per_file": per_file, "seed": repeat + 1}
        found = peer.run("sort", theirs, **options)
        opened, saved = Timing(**found["open"]), Timing(**found["save"])
        both = {"num_traces": num_traces, "wall": opened.wall + saved.wall, "cpu": opened.cpu + saved.cpu}
        whole.add(ours, both)
        saving.add(ours, found["save"])
        imported = timed(lambda: ts.import_pyprob(theirs / "traces", folder / f"imported-{repeat}").num_traces_out)  # noqa: B023
        importing.add(imported, found["open"])
        shutil.rmtree(theirs)
    sizes = [tree_bytes(folder / "sorted-0") / num_traces, found["num_bytes"] / num_traces]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    fact = f"{model}: {num_traces:,} traces, {sizes[0]:,.0f} bytes of a sorted one against {sizes[1]:,.0f}."
    return versions, fact, [whole, saving, importing]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pyprob-python", required=True, help="interpreter of an environment with pyprob 1.5.0")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the numbers of traces")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    peer = Peer(arguments.pyprob_python, timeout=600 * max(1.0, arguments.scale))
    facts, lines = [], []
    with tempfile.TemporaryDirectory(prefix="tracestore-peer-sort-") as folder:
        for model in MODELS:
            (Path(folder) / model).mkdir()
            versions, fact, found = compare(peer, Path(folder) / model, model, arguments.scale, arguments.repeats)
            facts.append(fact)
            lines += found
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; peer: {versions}.")
    print(*facts)
    print("\n| this library / pyprob | traces/s | pyprob | ratio of wall time | of CPU time | goal |")
    print("|---|---|---|---|---|---|")
    print(*(line.render() for line in lines), sep="\n")


if __name__ == "__main__":
    main()
