"""The global sort at size, as ratios inside one run.

    OMP_NUM_THREADS=1 python -m benchmarks.sort_scale copy    [--scale S]    against `cp` and `fsync` of the same bytes
    OMP_NUM_THREADS=1 python -m benchmarks.sort_scale growth  [--scale S]    seconds per trace of ever larger stores
    OMP_NUM_THREADS=1 python -m benchmarks.sort_scale memory  [--scale S]    peaks of all processes against the plan
    OMP_NUM_THREADS=1 python -m benchmarks.sort_scale sources [--scale S]    what a task pays for each source segment

Sorts run in fresh processes, whose imports and clusters are up before time is taken; CPU time and memory are those of
the process and all below it. Stores are written to a temporary folder (choose the disk with `--folder`), which is
removed at the end, also after Ctrl-C. A half to three minutes each at scale 1, 2 to 9 GB of disk.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import tracestore as ts
from benchmarks.process_tree import Watch, cpu_seconds, status_bytes
from benchmarks.sort_stores import (
    SEGMENT_BYTES,
    drawn_batch,
    link_store,
    make_draws,
    make_layouts,
    observed_batch,
    repeated,
    tree_bytes,
    write_store,
)
from tracestore import TraceStore
from tracestore.executors import ProcessExecutor, SerialExecutor
from tracestore.simulators.toys import gum_marsaglia
from tracestore.sorting import plan_store
from tracestore.sorting.execute import sort_store
from tracestore.sorting.gather import gather

WAYS = {"serial": ("serial", 1), "two processes": ("processes", 2), "dask, two workers": ("dask", 2)}


def run_step(step, *arguments, **options):
    """Run a step in a fresh process; what it printed, and the processes that were seen."""
    words = [sys.executable, "-m", "benchmarks.sort_scale", step, *map(str, arguments)]
    for name, value in options.items():
        words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1], text=True) as process:
        try:
            with Watch(process.pid) as watch:
                output, _ = process.communicate()
        except BaseException:
            process.send_signal(signal.SIGINT)
            raise
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return json.loads(output.splitlines()[-1]), watch


def step_sort(arguments):
    """Sort in this process: seconds, CPU seconds of the whole tree, what the plan said."""
    store = TraceStore.open(arguments.source)
    store.runs  # noqa: B018  # part of planning, which has a time of its own
    start = time.perf_counter()
    plan = plan_store(store, segment_bytes=arguments.segment_bytes)
    planning = time.perf_counter() - start
    if arguments.data_limit:
        resource.setrlimit(resource.RLIMIT_DATA, (arguments.data_limit, arguments.data_limit))
    with executor_of(arguments) as executor:
        rest = min(executor.run(own_memory, range(4 * arguments.workers)))
        os.sync()
        cpu, start = cpu_seconds(os.getpid()), time.perf_counter()
        result = sort_store(
            arguments.source, arguments.destination, executor=executor, segment_bytes=arguments.segment_bytes
        )
        wall, cpu = time.perf_counter() - start, cpu_seconds(os.getpid()) - cpu
    return {
        "wall": wall,
        "cpu": cpu,
        "planning": planning,
        "num_traces": len(result),
        "segments": len(result.segments),
        "purity": [plan.before.atom_purity, plan.after.atom_purity],
        "peak_memory": plan.peak_memory,
        "rest": rest,
    }


def own_memory(_task):
    """What a worker takes before its first task."""
    import tracestore.sorting.execute  # noqa: F401  # as a task would

    return status_bytes("self", "RssAnon")


def executor_of(arguments):
    if arguments.executor == "serial":
        return contextlib.nullcontext(SerialExecutor())
    if arguments.executor == "processes":
        return contextlib.nullcontext(ProcessExecutor(arguments.workers))
    from tracestore.executors.dask import DaskExecutor

    return DaskExecutor.local(workers=arguments.workers, memory_limit=arguments.memory_limit)


def step_copy(arguments):
    """Copy files and force them to the disk, one after another as a sort does."""
    os.sync()
    cpu, start = cpu_seconds(os.getpid()), time.perf_counter()
    subprocess.run(["cp", "-r", arguments.source, arguments.destination], check=True)
    for path in Path(arguments.destination).rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return {"wall": time.perf_counter() - start, "cpu": cpu_seconds(os.getpid()) - cpu}


def copy(arguments, folder):
    """Sort and copy in turns; best of all rounds on either side."""
    num_segments = max(2, round(16 * arguments.scale))
    print("| store | way | traces/s | GB/s | wall / copy (rounds) | CPU / copy | goal |\n|---|---|---|---|---|---|---|")
    for name, make in (("observations", observed_batch), ("draws", drawn_batch)):
        store = write_store(folder / "source", (make(seed) for seed in range(num_segments)))
        nbytes = tree_bytes(folder / "source")
        found = {way: [] for way in ("copy", *WAYS)}
        for _ in range(arguments.rounds):
            for way, rows in found.items():
                if way == "copy":
                    row, _ = run_step("step-copy", folder / "source", folder / "result")
                else:
                    executor, workers = WAYS[way]
                    options = {"executor": executor, "workers": workers, "segment_bytes": SEGMENT_BYTES}
                    row, _ = run_step("step-sort", folder / "source", folder / "result", **options)
                rows.append(row)
                shutil.rmtree(folder / "result")
        print_against_copy(f"{name}, {nbytes / 1e9:.2f} GB, {num_segments} segments", found, len(store), nbytes)
        shutil.rmtree(folder / "source")


def print_against_copy(name, found, num_traces, nbytes):
    best = {way: {clock: min(row[clock] for row in rows) for clock in ("wall", "cpu")} for way, rows in found.items()}
    for way, times in best.items():
        each = [row["wall"] / base["wall"] for row, base in zip(found[way], found["copy"], strict=True)]
        ratios = [times[clock] / best["copy"][clock] for clock in ("wall", "cpu")]
        print(
            f"| {name} | {way} | {num_traces / times['wall']:,.0f} | {nbytes / times['wall'] / 1e9:.2f} | "
            f"{ratios[0]:.2f} ({min(each):.2f}-{max(each):.2f}) | {ratios[1]:.2f} | "
            f"{'-' if way == 'copy' else '<= 3'} |"
        )


def growth(arguments, folder):
    """Small traces, ever more of them: seconds per trace stay the same when the work is linear."""
    real = ts.simulate(gum_marsaglia, folder / "real", num_traces=4_000, seed=1)
    few = real.take(np.arange(len(real)))
    per_segment = 50_000
    print("| traces | segments | planning s | us/trace, planning | us/trace, wall | CPU | against the row above |")
    print("|---|---|---|---|---|---|---|")
    before = None
    for num_traces in (round(arguments.scale * 10**power) for power in (4, 5, 6)):
        sizes = np.diff([*range(0, num_traces, per_segment), num_traces])
        write_store(folder / "source", (repeated(few, int(size), seed) for seed, size in enumerate(sizes)))
        rows = []
        for _ in range(arguments.rounds):
            row, _ = run_step("step-sort", folder / "source", folder / "result", segment_bytes=2**24)
            rows.append(row)
            shutil.rmtree(folder / "result")
        shutil.rmtree(folder / "source")
        planning, wall, cpu = (
            min(row[name] for row in rows) / num_traces * 1e6 for name in ("planning", "wall", "cpu")
        )
        ratio = "-" if before is None else f"{cpu / before:.2f}"
        print(
            f"| {num_traces:,} | {len(sizes)} into {rows[0]['segments']} | {planning * num_traces / 1e6:.4f} | "
            f"{planning:.2f} | {wall:.2f} | {cpu:.2f} | {ratio} |"
        )
        before = cpu


def memory(arguments, folder):
    """Sort a store that is many times larger than what a worker may use."""
    num_segments = max(2, round(64 * arguments.scale))
    write_store(folder / "source", map(observed_batch, range(num_segments)))
    nbytes = tree_bytes(folder / "source")
    limit = arguments.memory_limit or 512 * 2**20
    print(f"{nbytes / 1e9:.2f} GB in {num_segments} segments; limit of a worker {limit / 1e6:.0f} MB\n")
    print(
        "| way | s | CPU s | driver, MB | worker: own | mapped | both | of the limit | beyond rest / plan | processes |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    times = {}
    for name, executor, workers, limits in (
        ("serial", "serial", 1, {}),
        ("serial, RLIMIT_DATA", "serial", 1, {"data_limit": limit}),
        ("2 processes, RLIMIT_DATA", "processes", 2, {"data_limit": limit}),
        ("dask, 1 worker", "dask", 1, {"memory_limit": limit}),
        ("dask, 2 workers", "dask", 2, {"memory_limit": limit}),
    ):
        options = {"executor": executor, "workers": workers, "segment_bytes": SEGMENT_BYTES, **limits}
        row, watch = run_step("step-sort", folder / "source", folder / "result", **options)
        shutil.rmtree(folder / "result")
        driver = watch.peaks[watch.root]
        # a process that only watches others stays small
        workers_seen = [peak for pid, peak in watch.peaks.items() if pid != watch.root and peak.own > 5e7] or [driver]
        own, mapped, both = (max(getattr(peak, part) for peak in workers_seen) for part in ("own", "mapped", "both"))
        times[name] = row["wall"]
        print(
            f"| {name} | {row['wall']:.1f} | {row['cpu']:.1f} | {driver.high_water / 1e6:.0f} | {own / 1e6:.0f} | "
            f"{mapped / 1e6:.0f} | {both / 1e6:.0f} | {both / limit:.2f} | "
            f"{(own - row['rest']) / row['peak_memory']:.2f} of {row['peak_memory'] / 1e6:.0f} | {len(watch.peaks)} |",
            flush=True,
        )
    print(f"\n1 worker / 2 workers, wall: {times['dask, 1 worker'] / times['dask, 2 workers']:.2f}")
    print("single-type atoms before and after: {:.3f}, {:.3f}".format(*row["purity"]))


def sources(arguments, folder):
    """Tasks that take an equal share of every source segment."""
    num_runs, per_run = 500, 4
    layouts = make_layouts(num_runs, 20, 1, most=70)
    index = np.repeat(np.arange(num_runs), per_run)
    real = write_store(folder / "real", (make_draws(layouts, index, seed) for seed in range(8)))
    print("| segments | task s | CPU s | ms/segment | read, checked KB/segment | mapped MB | opened s | planned s |")
    print("|---|---|---|---|---|---|---|---|")
    for num_segments in (64, 256, 1024):
        path = folder / f"linked-{num_segments}"
        link_store(real, path, max(8, round(num_segments * arguments.scale)))
        row, _ = run_step("step-gather", path, profile=arguments.profile if num_segments == 256 else None)
        print(
            f"| {row['segments']:,} | {row['wall']:.2f} | {row['cpu']:.2f} | "
            f"{row['wall'] / row['touched'] * 1e3:.2f} | {row['checked'] / row['touched'] / 1e3:.0f} | "
            f"{row['mapped'] / 1e6:.0f} | {row['opening']:.2f} | "
            f"{row['planning']:.2f} |",
            flush=True,
        )
    if arguments.profile:
        subprocess.run([sys.executable, "-m", "pstats", arguments.profile], input="sort tottime\nstats 25\n", text=True)


def step_gather(arguments):
    """Gather the traces of one output among as many as there are segments."""
    start = time.perf_counter()
    store = TraceStore.open(arguments.source)
    store.runs  # noqa: B018  # read for its time
    opening = time.perf_counter() - start
    start = time.perf_counter()
    nbytes = sum(entry.nbytes for entry in store.segments)
    plan = plan_store(store, segment_bytes=nbytes // len(store.segments))
    planning = time.perf_counter() - start
    task = plan.tasks[len(plan.tasks) // 2]
    mapped = status_bytes("self", "RssFile")
    cpu, start = time.process_time(), time.perf_counter()
    gather(store, task)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    mapped = status_bytes("self", "RssFile") - mapped
    if arguments.profile:
        import cProfile

        with cProfile.Profile() as profile:
            gather(store, task)
        profile.dump_stats(arguments.profile)
    return {
        "wall": wall,
        "cpu": cpu,
        "opening": opening,
        "planning": planning,
        "mapped": mapped,
        "checked": checked_bytes(store, task),
        "segments": len(store.segments),
        "touched": len(np.unique(task.segment)),
    }


def checked_bytes(store, task):
    """Bytes whose checksums a task compares, which are those that it reads."""
    import xxhash

    counted = 0

    def counting(function):
        def call(data, *rest, **named):
            nonlocal counted
            counted += memoryview(data).nbytes
            return function(data, *rest, **named)

        return call

    names = [name for name in dir(xxhash) if name.startswith("xxh3_") and name.endswith("digest")]
    kept = {name: getattr(xxhash, name) for name in names}
    for name, function in kept.items():
        setattr(xxhash, name, counting(function))
    try:
        gather(store, task)
    finally:
        for name, function in kept.items():
            setattr(xxhash, name, function)
    return counted


STEPS = {"step-sort": step_sort, "step-copy": step_copy, "step-gather": step_gather}
COMMANDS = {"copy": copy, "growth": growth, "memory": memory, "sources": sources}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=[*COMMANDS, *STEPS], help="those with a dash are used by the others")
    parser.add_argument("source", nargs="?", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("destination", nargs="?", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the sizes")
    parser.add_argument("--rounds", type=int, default=3, help="of copy and growth")
    parser.add_argument("--folder", type=Path, help="where the temporary folder shall be")
    parser.add_argument("--profile", type=Path, help="file for a profile of a task of sources")
    parser.add_argument("--executor", default="serial", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--segment-bytes", type=int, default=SEGMENT_BYTES, help=argparse.SUPPRESS)
    parser.add_argument("--memory-limit", type=int, help="bytes of a worker in memory")
    parser.add_argument("--data-limit", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    if arguments.command in STEPS:
        print(json.dumps(STEPS[arguments.command](arguments)))
        return
    with tempfile.TemporaryDirectory(prefix="tracestore-sort-", dir=arguments.folder) as folder:
        COMMANDS[arguments.command](arguments, Path(folder))


if __name__ == "__main__":
    main()
