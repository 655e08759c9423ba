"""Bytes of one segment: the contract of readers and writers, and the backends behind it."""

from tracestore.formats.base import (
    FORMATS,
    ObservationInfo,
    SegmentEntry,
    SegmentFormat,
    SegmentReader,
    SegmentRuns,
    Verify,
    open_format,
)
from tracestore.formats.document import JSON

__all__ = [
    "FORMATS",
    "JSON",
    "ObservationInfo",
    "SegmentEntry",
    "SegmentFormat",
    "SegmentReader",
    "SegmentRuns",
    "Verify",
    "open_format",
]
