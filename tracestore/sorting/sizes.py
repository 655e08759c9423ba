"""Bytes of a trace of each run, estimated from the run directory and the sizes of segments alone."""

import numpy as np

from tracestore.sorting.plan import TraceSizes
from tracestore.store.trace_store import TraceStore

__all__ = ["estimate_sizes"]

_TRACE_BYTES = 64
_SITE_BYTES = 32
"""Raw size of a trace's own columns, and of a site: a value, a log probability and two parameters."""

_FLAT_COPIES = 4.0
"""Copies of the columns of traces and sites that a task holds at once; 3.0 were measured."""
_OBSERVATION_COPIES = 2.2
"""Likewise of observations: themselves, and pages of the files that are written; 1.9 were measured."""


def estimate_sizes(source: TraceStore) -> TraceSizes:
    """Estimate the bytes of a trace of each run of a store.

    Parameters
    ----------
    source
        The store.
    """
    runs = source.runs
    observed = np.array([entry.observation_bytes for entry in source.segments], np.float64)
    flat = _TRACE_BYTES + _SITE_BYTES * runs.num_sites.astype(np.float64)
    estimated = np.bincount(runs.segment, flat * runs.num_traces, minlength=len(observed))
    on_disk = np.array([entry.nbytes for entry in source.segments], np.float64)
    num_traces = np.array([entry.num_traces for entry in source.segments])
    # vector-valued draws make sites larger than that; never believe in less, since what is constant takes memory, too
    factor = np.maximum(1.0, (on_disk - observed * num_traces) / np.maximum(estimated, 1.0))
    flat = flat * factor[runs.segment]
    raw = flat + observed[runs.segment]
    whole = np.bincount(runs.segment, raw * runs.num_traces, minlength=len(observed))
    return TraceSizes(
        raw=raw,
        memory=_FLAT_COPIES * flat + _OBSERVATION_COPIES * observed[runs.segment],
        stored=raw * (on_disk / np.maximum(whole, 1.0))[runs.segment],
    )
