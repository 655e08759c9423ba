"""Disk and memory with the address dictionary, and with an address at every site instead; and very long addresses.

"Without" are the same traces with the same numbers, and the full address of every site in an Arrow column: as text, or
as text that Arrow encodes with a dictionary of its own. Etalumis reports 40 % less memory with its dictionary.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import tracestore as ts
from benchmarks.test_open import measure_apart
from tracestore import TraceStore
from tracestore.traces import TRACE_COLUMNS, Layout, Site, SiteKind, TraceBatch

NUM_TAU = 5_000
NUM_LONG = 250_000
LONG_BYTES = 1_000
SITES_PER_TRACE = 100
IDENTITY_FILES = ("bases", "sites", "layouts", "layout_sites", "loose", "runs")
OBSERVATION_BYTES = 20 * 35 * 35 * 4

READ_STORE = """
from tracestore.store import TraceStore; import tracestore.formats.arrow, numpy; step("import")
store = TraceStore.open(sys.argv[1])
batches = list(store.batches(256, observations=())); step("read")
"""
READ_TABLES = """
import numpy, pyarrow, tracestore.formats.arrow; step("import")
tables = [pyarrow.ipc.open_file(pyarrow.OSFile(path)).read_all() for path in sys.argv[1:]]; step("read")
"""
OPEN = """
from tracestore.store import TraceStore; import tracestore.formats.arrow, numpy; step("import")
store = TraceStore.open(sys.argv[1]); step("open")
store.addresses.ids; step("ids")
store.addresses[len(store.addresses) // 2]; step("one address")
store.take(numpy.arange(min(64, len(store)))); step("64 traces")
list(store.addresses); step("all addresses")
"""
FOLD = """
from tracestore.store import TraceStore; import tracestore.formats.arrow; step("import")
store = TraceStore.open(sys.argv[1]); store.fold(); step("fold")
"""


def write_table(path, columns):
    """Write columns of one length as an Arrow file; its bytes."""
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path.stat().st_size


def store_bytes(store):
    """Bytes of the dictionary and of the tables that say which site is where; of the numbers; of observations."""
    files: Counter[str] = Counter()
    for place in range(len(store.segments)):
        files.update(store.segment(place).file_sizes())
    identity = sum(size for file, size in files.items() if file.split(".")[0] in IDENTITY_FILES)
    observed = sum(size for file, size in files.items() if file.startswith("obs-"))
    dictionary = sum(path.stat().st_size for path in (store.path / "dict").iterdir())
    return identity + dictionary, sum(files.values()) - identity - observed, observed


def held_by(script, *arguments):
    """Bytes of its own that a fresh process holds after reading."""
    found = measure_apart(script, *arguments)
    return found["read"][3] - found["import"][3]


@pytest.fixture(scope="module")
def tau_traces(tmp_path_factory, request):
    """Prior traces of tau decays."""
    pytest.importorskip("alouette")
    from tracestore.simulators.tau import tau

    num_traces = max(200, int(NUM_TAU * request.config.getoption("--scale")))
    store = ts.simulate(tau, tmp_path_factory.mktemp("tau") / "store", num_traces=num_traces, seed=1)
    return store.take(np.arange(len(store)))


def with_longer_addresses(batch, num_bytes):
    """Put a stack of calls in front of every address, as simulators in C++ have it."""
    stem = ("simulate(std::shared_ptr<Event>)+0x5f; " * num_bytes)[:num_bytes]
    layouts = []
    for layout in batch.layouts:
        fields = [
            (site.kind, site.is_controlled, site.name, site.family, site.shape, site.num_parameters)
            for site in layout.sites
        ]
        layouts.append(
            Layout(tuple(Site(stem + site.address, *rest) for site, rest in zip(layout.sites, fields, strict=True)))
        )
    return replace(batch, layouts=tuple(layouts))


@pytest.mark.parametrize("stack_bytes", [0, 300])
def test_tau(tau_traces, tmp_path, report, stack_bytes):
    store = TraceStore.create(tmp_path / "store", codec="none")
    store.append(with_longer_addresses(tau_traces, stack_bytes))
    identity, numbers, observed = store_bytes(store)
    batch = store.take(np.arange(len(store)), observations=())
    texts = [[site.address for site in layout.sites] for layout in batch.layouts]
    addresses = pa.array([address for index in batch.layout_index for address in texts[index]])
    plain = {name: write_table(tmp_path / name, {name: getattr(batch, name)}) for name in ("values", "log_probs")}
    plain["parameters"] = write_table(tmp_path / "parameters", {"parameters": batch.parameters})
    plain["traces"] = write_table(tmp_path / "traces", {name: getattr(batch, name) for name, _ in TRACE_COLUMNS})
    text = write_table(tmp_path / "text", {"address": addresses})
    encoded = write_table(tmp_path / "encoded", {"address": addresses.dictionary_encode()})
    lengths = np.array([len(address) for address in addresses.to_pylist()])
    report(
        f"dictionary, {len(store):,} tau traces, {len(addresses) / len(store):.0f} sites each, addresses of "
        f"{lengths.mean():.0f} bytes, {len(store.addresses):,} distinct: identities {identity / len(store):,.0f} bytes "
        f"a trace, as text {text / len(store):,.0f}, dictionary-encoded {encoded / len(store):,.0f}; numbers "
        f"{numbers / len(store):,.0f}, observation {observed / len(store):,.0f}"
    )
    for title, more in (("without observation", 0), ("with observation", observed)):
        kept = identity + numbers + more
        report(
            f"    disk, {title}: less than text = {1 - kept / (text + numbers + more):.1%}, less than "
            f"dictionary-encoded = {1 - kept / (encoded + numbers + more):.1%}"
        )
    columns = [tmp_path / name for name in plain]
    with_dictionary = held_by(READ_STORE, store.path)
    with_text = held_by(READ_TABLES, *columns, tmp_path / "text")
    with_encoded = held_by(READ_TABLES, *columns, tmp_path / "encoded")
    for title, more in (("without observation", 0), ("with observation", OBSERVATION_BYTES * len(store))):
        kept = with_dictionary + more
        report(
            f"    memory that holds all, {title}: less than text = {1 - kept / (with_text + more):.1%}, less than "
            f"dictionary-encoded = {1 - kept / (with_encoded + more):.1%} ({with_dictionary / 1e6:.0f} MB, "
            f"{with_text / 1e6:.0f} MB, {with_encoded / 1e6:.0f} MB without observation)"
        )


def long_batch(num_addresses, long_bytes, seed):
    """Pairs of traces whose sites all have long addresses of their own."""
    rng = np.random.default_rng(seed)
    stem = ("simulate/" + "deeply.nested.call/" * long_bytes)[: long_bytes - 24]
    sites = [
        Site(f"{stem}{number:012d}~Uniform#1", SiteKind.SAMPLE, True, "", "Uniform", (), 2)
        for number in range(num_addresses)
    ]
    layouts = tuple(
        Layout(tuple(sites[low : low + SITES_PER_TRACE])) for low in range(0, num_addresses, SITES_PER_TRACE)
    )
    num_traces = 2 * len(layouts)
    columns: dict[str, Any] = {name: np.zeros(num_traces, dtype) for name, dtype in TRACE_COLUMNS}
    columns["stream"] = np.arange(num_traces) + seed * num_traces
    return TraceBatch(
        layouts=layouts,
        layout_index=np.repeat(np.arange(len(layouts), dtype=np.int32), 2),
        values=rng.random(2 * num_addresses),
        log_probs=np.zeros(2 * num_addresses),
        parameters=np.tile([0.0, 1.0], 2 * num_addresses),
        observations={},
        **columns,
    )


@pytest.mark.parametrize("long_bytes", [40, LONG_BYTES])
def test_long_addresses(tmp_path, report, scale, long_bytes):
    num_addresses = max(10 * SITES_PER_TRACE, int(NUM_LONG * scale) // SITES_PER_TRACE * SITES_PER_TRACE)
    store = TraceStore.create(tmp_path / "store")
    folds = []
    for seed in range(2):
        # sealed, not folded: a fresh process does that
        writer = store.writer()
        writer.append(long_batch(num_addresses, long_bytes, seed))
        writer.seal()
        folds.append(measure_apart(FOLD, store.path))
    found = measure_apart(OPEN, store.path)
    base, text = found["import"][2], num_addresses * long_bytes
    opened = TraceStore.open(store.path)
    assert len(opened.addresses) == num_addresses
    fold, again = ((one["fold"][1], one["fold"][2] - base) for one in folds)
    identity, numbers, _ = store_bytes(opened)
    report(
        f"dictionary of {num_addresses:,} addresses of {long_bytes} bytes, {text / 1e6:,.0f} MB of text: fold "
        f"{fold[0]:.2f} s of CPU, peak/text = {fold[1] / text:.1f} ({fold[1] / 1e6:,.0f} MB); fold of a segment "
        f"without new ones {again[0]:.2f} s, {again[1] / 1e6:,.0f} MB; disk {identity / 1e6:,.0f} MB of identities, "
        f"{numbers / 1e6:,.0f} MB of numbers in two segments"
    )
    report(
        "    "
        + "; ".join(
            f"{name} {step[1]:.3f} s, peak {(step[2] - base) / 1e6:,.0f} MB"
            for name, step in found.items()
            if name != "import"
        )
    )
