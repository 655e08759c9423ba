"""Traces with large observations, made without a simulator: what storage benchmarks read and sort."""

import numpy as np

from tracestore.traces import TRACE_COLUMNS, Layout, Site, SiteKind, TraceBatch

SHAPE = (20, 35, 35)
NUM_LAYOUTS = 40


def make_layout(kind: int) -> Layout:
    draws = [Site(f"loop{kind}~Normal#{i}", SiteKind.SAMPLE, True, "", "Normal", (), 2) for i in range(1, 11 + kind)]
    seen = Site("detector~Normal[20,35,35]#1", SiteKind.OBSERVE, False, "detector", "Normal", SHAPE, 0)
    return Layout((*draws, seen))


def make_batch(num_traces: int, seed: int) -> TraceBatch:
    rng = np.random.default_rng(seed)
    layouts = tuple(map(make_layout, range(NUM_LAYOUTS)))
    index = rng.integers(0, NUM_LAYOUTS, num_traces).astype(np.int32)
    totals = {
        name: sum(getattr(layouts[kind], name) for kind in index)
        for name in ("num_values", "num_sites", "num_parameters")
    }
    columns = {name: np.zeros(num_traces, dtype) for name, dtype in TRACE_COLUMNS}
    columns["stream"] = np.arange(num_traces) + seed * num_traces
    return TraceBatch(
        layouts=layouts,
        layout_index=index,
        values=rng.normal(size=totals["num_values"]),
        log_probs=rng.normal(size=totals["num_sites"]),
        parameters=rng.normal(size=totals["num_parameters"]),
        observations={"detector": rng.random((num_traces, *SHAPE), np.float32)},
        **columns,
    )
