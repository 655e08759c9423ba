"""Run directories made by hand: what the planners read of a store, without a store."""

from types import SimpleNamespace

import numpy as np

__all__ = ["make_runs"]


def make_runs(*parts, num_segments=1):
    """Build a run directory from (trace type, sites, traces) of each run, dealt evenly to segments in order."""
    types, sites, traces = (np.array(column) for column in zip(*parts, strict=True))
    first = np.cumsum(traces) - traces
    return SimpleNamespace(
        segment=(np.arange(len(parts)) * num_segments // len(parts)).astype(np.int32),
        layout=(types + 1000).astype(np.uint64),
        trace_type=types.astype(np.uint64),
        first=first.astype(np.int64),
        num_traces=traces.astype(np.int64),
        num_sites=sites.astype(np.int32),
    )
