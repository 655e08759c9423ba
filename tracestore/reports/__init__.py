"""Reports for people: posteriors side by side, calibration, the graph of a simulator. Pages need matplotlib.

Names are loaded on first use, so that a graph can be drawn where matplotlib is not installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracestore.reports.calibration_page import write_calibration_page
    from tracestore.reports.report import write_report
    from tracestore.reports.trace_graph import write_trace_graph

__all__ = ["write_calibration_page", "write_report", "write_trace_graph"]

_HOMES = {
    "write_calibration_page": "tracestore.reports.calibration_page",
    "write_report": "tracestore.reports.report",
    "write_trace_graph": "tracestore.reports.trace_graph",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES[name]), name)
