"""Stores that are sorted to measure it: made without a simulator, quickly, and of the size that is asked for."""

import os
import shutil
import statistics
from dataclasses import replace
from functools import cache

import numpy as np

from benchmarks.synthetic import NUM_LAYOUTS, make_batch
from tracestore import TraceStore
from tracestore.traces import TRACE_COLUMNS, Layout, Site, SiteKind, TraceBatch

SEGMENT_BYTES = 2**26


@cache
def make_layouts(num_layouts, least_draws, step, *, most=10_000):
    """Layouts of draws from one loop, from `least_draws` on, and one that is the layout's own."""
    lengths = [least_draws + step * kind % (most - least_draws) for kind in range(num_layouts)]
    draws = [make_draw("loop", number) for number in range(1, max(lengths) + 1)]
    return tuple(Layout((make_draw(f"branch{kind}", 1), *draws[:length])) for kind, length in enumerate(lengths))


def make_draw(place, number):
    return Site(f"simulate:{place}~Normal#{number}", SiteKind.SAMPLE, True, "", "Normal", (), 2)


def make_draws(layouts, index, seed):
    """Traces of given layouts that are nothing but draws: values and log probabilities vary, priors do not."""
    rng = np.random.default_rng(seed)
    num_sites = sum(np.bincount(index, minlength=len(layouts)) * [layout.num_sites for layout in layouts])
    values = rng.normal(size=num_sites)
    columns = {name: np.zeros(len(index), dtype) for name, dtype in TRACE_COLUMNS}
    columns["stream"] = np.arange(len(index)) + seed * len(index)
    return TraceBatch(
        layouts=layouts,
        layout_index=np.asarray(index, np.int32),
        values=values,
        log_probs=-0.5 * values**2 - 0.9189385332046727,
        parameters=np.tile([0.0, 1.0], num_sites),
        observations={},
        **columns,
    )


def observed_batch(seed):
    """Traces with one observation of 20x35x35 single-precision numbers: as many as make a segment."""
    return make_batch(SEGMENT_BYTES // (20 * 35 * 35 * 4), seed)


def drawn_batch(seed):
    """Traces of 200 to 590 draws, as many as make a segment."""
    layouts = make_layouts(NUM_LAYOUTS, 200, 10)
    mean_bytes = 16 * statistics.mean(layout.num_sites for layout in layouts)
    num_traces = int(SEGMENT_BYTES / mean_bytes)
    return make_draws(layouts, np.random.default_rng(seed).integers(0, NUM_LAYOUTS, num_traces), seed)


def repeated(batch, num_traces, seed):
    """Traces of a batch, drawn again and again, with numbers of their own."""
    rows = np.random.default_rng(seed).integers(0, len(batch), num_traces)
    return replace(batch.take(rows), stream=np.arange(num_traces) + seed * 10**7)


def write_store(path, batches):
    """One segment of each batch, sorted within itself as writers do, not compressed."""
    store = TraceStore.create(path, codec="none")
    with store.writer() as writer:
        for batch in batches:
            writer.append(batch)
            writer.seal()
    store.refresh()
    return store


def link_store(real, path, num_segments):
    """A store whose segments are links to those of a smaller one: as many to open, no more bytes on the disk."""
    store = TraceStore.create(path, codec="none")
    entries = []
    for number in range(num_segments):
        entry = replace(real.segments[number % len(real.segments)], id=f"{number:032x}")
        before, after = real.path / "segments" / real.segments[number % len(real.segments)].id, path / "segments"
        shutil.copytree(before, after / entry.id, copy_function=os.link)
        entries.append(entry)
    store.publish(entries)


def tree_bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
