"""Opening a store of 15 million traces: time and memory of what every planner and reader begins with.

The store has run directories, a manifest and a dictionary as the library writes them, but no columns: opening must not
touch those.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tracestore import TraceStore
from tracestore.formats.base import SegmentEntry
from tracestore.formats.blocks import checksums
from tracestore.formats.document import decode_document, encode_document
from tracestore.formats.ipc import write_table
from tracestore.formats.zarr_tables import TextTable, encode_table
from tracestore.store.dictionary_file import publish_piece
from tracestore.store.manifest import Manifest, publish_manifest

NUM_TRACES = 15_000_000
NUM_SEGMENTS = 1_400
NUM_TYPES = 25_000
NUM_ADDRESSES = 24_000
NUM_PIECES = 20
FRESH_RUNS = 3_000
ENCODINGS = {"arrow": ("arrow/2", "runs.arrow"), "zarr": ("zarr/1", "runs/c/0/0")}

STEPS = """
store = TraceStore.open(sys.argv[1]); step("open")
len(store); step("len")
store.runs; step("runs")
store.addresses.ids; step("ids")
list(store.addresses); step("addresses")
store.trace_types; step("types")
"""

# The peak is asked of /proc: `ru_maxrss` of a process also counts the memory of the one that started it.
MEASURE = """
import json, sys, time
def memory():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return [int(lines[name].split()[0]) * 1024 for name in ("VmHWM", "RssAnon", "RssFile")]
def step(name):
    global at, cpu
    found.append((name, time.perf_counter() - at, time.process_time() - cpu, *memory()))
    at, cpu = time.perf_counter(), time.process_time()
found = []
at, cpu = time.perf_counter(), time.process_time()
"""


def measure_apart(script, *arguments):
    """Run a script in a fresh process; by name of `step`: seconds, seconds of CPU, and peak, own and mapped bytes."""
    code = f"{MEASURE}\n{script}\nprint(json.dumps(found))"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    return {name: tuple(rest) for name, *rest in json.loads(done.stdout)}


def run_table(rng, num_runs, num_traces, kinds):
    """Columns of a run directory: traces of `kinds`, in runs of random lengths."""
    cuts = np.sort(rng.choice(np.arange(1, num_traces), num_runs - 1, replace=False))
    sizes = np.diff(cuts, prepend=0, append=num_traces)
    num_sites = (50 + kinds % 200).astype(np.int32)
    starts = np.cumsum(sizes * num_sites) - sizes * num_sites
    identities = (kinds.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    columns = {
        "layout": np.arange(num_runs, dtype=np.int32),
        "layout_id": identities,
        "trace_type": identities,
        "num_traces": sizes,
        "num_states": sizes,
        "num_sites": num_sites,
        "tile_traces": np.full(num_runs, 512, np.int32),
        **{f"{name}_start": starts for name in ("values", "log_probs", "parameters")},
        "seconds": sizes * 1e-3,
    }
    return {name: pa.array(column) for name, column in columns.items()}


def write_runs(folder, backend, columns):
    """Write a run directory and a seal that lists it; bytes and checksums of both."""
    encoding, file = ENCODINGS[backend]
    path = folder / file
    path.parent.mkdir(parents=True)
    if backend == "arrow":
        record = write_table(path, columns)
    else:
        data = encode_table("runs", columns, TextTable()).view(np.uint8).reshape(-1)
        path.write_bytes(data)
        record = {"size": len(data), "ends": [len(data)], "checksums": checksums(data, [len(data)])}
    num_traces = int(columns["num_traces"].to_numpy().sum())
    members = {"format": "tracestore-segment", "encoding": encoding, "num_traces": num_traces, "files": {file: record}}
    seal = encode_document(members)
    (folder / "seal.json").write_bytes(seal)
    return SegmentEntry(
        id=folder.name,
        encoding=encoding,
        num_traces=num_traces,
        num_failed=0,
        nbytes=record["size"],
        seal=decode_document(seal, "seal.json")["checksum"],
        runs=record["checksums"][0],
    )


def write_store(path, backend, case, scale):
    """Write a store without columns; the number of its runs."""
    rng = np.random.default_rng(1)
    store = TraceStore.create(path, backend=backend)
    num_segments = max(2, int(NUM_SEGMENTS * scale))
    per_segment = NUM_TRACES // NUM_SEGMENTS
    entries, num_runs = [], 0
    for number in range(num_segments):
        if case == "sorted":
            # the last type of a segment goes on in the next
            kinds = np.arange(number * NUM_TYPES // NUM_SEGMENTS, (number + 1) * NUM_TYPES // NUM_SEGMENTS + 1)
        else:
            kinds = np.sort(rng.choice(NUM_TYPES, FRESH_RUNS, replace=False))
        columns = run_table(rng, len(kinds), per_segment, kinds)
        entries.append(write_runs(path / "segments" / f"{number:032x}", backend, columns))
        num_runs += len(kinds)
    pieces = []
    for low in range(0, NUM_ADDRESSES, NUM_ADDRESSES // NUM_PIECES):
        numbers = np.arange(low, low + NUM_ADDRESSES // NUM_PIECES)
        columns = {
            "id": pa.array((numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)),
            "base": pa.array([f"simulate:{'deep.' * 20}line_{number // 8}~Normal" for number in numbers]),
            "instance": pa.array((numbers % 8 + 1).astype(np.int32)),
        }
        pieces.append(publish_piece(store.storage, columns))
    publish_manifest(store.storage, Manifest(version=1, segments=tuple(entries), pieces=tuple(pieces)))
    return num_runs


@pytest.mark.parametrize("backend", ["arrow", "zarr"])
@pytest.mark.parametrize("case", ["sorted", "fresh"])
def test_open(tmp_path, report, scale, backend, case):
    num_runs = write_store(tmp_path / "store", backend, case, scale)
    script = f"from tracestore.store import TraceStore; import tracestore.formats.{backend}; step('import')\n{STEPS}"
    tries = [measure_apart(script, tmp_path / "store") for _ in range(3)]
    base = min(one["import"][2] for one in tries)
    wall, cpu = ({name: min(one[name][place] for one in tries) for name in tries[0]} for place in (0, 1))
    peak, own, mapped = (max(one["addresses"][place] for one in tries) for place in (2, 3, 4))
    target = sum(wall[name] for name in ("open", "len", "runs", "ids", "addresses"))
    store = TraceStore.open(tmp_path / "store")
    assert (len(store.runs), len(store.addresses)) == (num_runs, NUM_ADDRESSES)
    lengths = "; ".join(f"{name} {wall[name]:.3f} s (CPU {cpu[name]:.3f})" for name in wall if name != "len")
    report(
        f"open {len(store) / 1e6:.1f} M traces, {backend}, {case}, {num_runs:,} runs: time/target of 2 s = "
        f"{target / 2:.2f}, peak/target of 500 MB = {(peak - base) / 5e8:.2f} with runs and addresses; "
        f"{target:.2f} s, {(peak - base) / 1e6:.0f} MB above the {base / 1e6:.0f} of the import, "
        f"{48 * num_runs / 1e6:.0f} of them the run directory"
    )
    report(
        f"    {lengths}; with trace types {(max(one['types'][2] for one in tries) - base) / 1e6:.0f} MB; after the "
        f"addresses {own / 1e6:.0f} MB own, {mapped / 1e6:.0f} MB mapped"
    )
