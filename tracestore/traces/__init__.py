"""What a trace is: addresses, distributions, sites, layouts, traces and batches of them (numpy only, no files)."""

from tracestore.traces.address import address_id, base_address, format_address, split_address, trace_type_id
from tracestore.traces.batch import TRACE_COLUMNS, TraceBatch
from tracestore.traces.layout import Layout, Site, SiteKind
from tracestore.traces.trace import Trace, TraceStatus

__all__ = [
    "TRACE_COLUMNS",
    "Layout",
    "Site",
    "SiteKind",
    "Trace",
    "TraceBatch",
    "TraceStatus",
    "address_id",
    "base_address",
    "format_address",
    "split_address",
    "trace_type_id",
]
