"""Many segments make a store: snapshots, writers that never coordinate, jobs that resume."""

from tracestore.store.compaction import compact
from tracestore.store.conversion import convert
from tracestore.store.damage import quarantine
from tracestore.store.garbage import Garbage, gc
from tracestore.store.job import Job
from tracestore.store.location import StoreLocation, StorePath
from tracestore.store.recovery import recover
from tracestore.store.runs import RunDirectory, TraceTypeInfo
from tracestore.store.stats import StoreStats
from tracestore.store.trace_store import TraceStore
from tracestore.store.verification import Problem, verify
from tracestore.store.writer import StoreWriter

__all__ = [
    "Garbage",
    "Job",
    "Problem",
    "RunDirectory",
    "StoreLocation",
    "StorePath",
    "StoreStats",
    "StoreWriter",
    "TraceStore",
    "TraceTypeInfo",
    "compact",
    "convert",
    "gc",
    "quarantine",
    "recover",
    "verify",
]
