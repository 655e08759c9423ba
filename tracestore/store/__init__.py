"""Many segments make a store: snapshots, writers that never coordinate, jobs that resume."""

from tracestore.store.job import Job
from tracestore.store.maintain import Problem, recover, verify
from tracestore.store.runs import RunDirectory, TraceTypeInfo
from tracestore.store.stats import StoreStats
from tracestore.store.trace_store import TraceStore
from tracestore.store.writer import StoreWriter

__all__ = [
    "Job",
    "Problem",
    "RunDirectory",
    "StoreStats",
    "StoreWriter",
    "TraceStore",
    "TraceTypeInfo",
    "recover",
    "verify",
]
