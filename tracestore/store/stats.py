"""Counts and sizes of a snapshot, for people and for `tracestore info`."""

from dataclasses import dataclass

import numpy as np

from tracestore.formats.columns import SITE_COLUMNS
from tracestore.store.snapshot import Snapshot

__all__ = ["StoreStats", "measure"]


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store holds."""

    num_traces: int
    num_failed: int
    num_segments: int
    num_runs: int
    num_layouts: int
    num_trace_types: int
    num_addresses: int
    num_states: int
    """Traces whose sites are stored; rejected Markov moves share those of the trace before."""
    num_sites: int
    """Sites of all traces."""
    max_sites: int
    """Sites of the longest trace."""
    seconds: float
    """Wall time of the simulator, summed."""
    nbytes: int
    """Bytes of all segments on disk."""
    observation_bytes: int
    site_bytes: int
    """Values, log probabilities, parameters."""
    num_pending: int
    """Receipts that no snapshot includes yet; `fold` does."""


def measure(snapshot: Snapshot, *, num_pending: int) -> StoreStats:
    """Count and measure a snapshot."""
    runs = snapshot.runs
    sizes = [reader.file_sizes() for reader in snapshot.segments()]
    site_files = tuple(f"{name}{mark}" for name in SITE_COLUMNS for mark in "./")
    return StoreStats(
        num_traces=snapshot.num_traces,
        num_failed=sum(entry.num_failed for entry in snapshot.manifest.segments),
        num_segments=len(snapshot.manifest.segments),
        num_runs=len(runs),
        num_layouts=len(np.unique(runs.layout)),
        num_trace_types=len(np.unique(runs.trace_type)),
        num_addresses=len(snapshot.addresses),
        num_states=sum(int(runs.num_states.sum()) for runs in snapshot.runs_by_segment()),
        num_sites=int((runs.num_traces * runs.num_sites).sum()),
        max_sites=int(runs.num_sites.max(initial=0)),
        seconds=float(runs.seconds.sum()),
        nbytes=sum(entry.nbytes for entry in snapshot.manifest.segments),
        observation_bytes=sum(size for files in sizes for name, size in files.items() if name.startswith("obs-")),
        site_bytes=sum(size for files in sizes for name, size in files.items() if name.startswith(site_files)),
        num_pending=num_pending,
    )
