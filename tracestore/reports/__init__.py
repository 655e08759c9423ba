"""Reports for people: posteriors side by side, calibration, models of showers, the graph of a simulator.

Pages need matplotlib; names are loaded on first use, so that numbers and graphs can be had where it is not installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracestore.reports.calibration_page import write_calibration_page
    from tracestore.reports.report import write_report
    from tracestore.reports.showers.measurement import measure_showers
    from tracestore.reports.showers.page import compare_showers
    from tracestore.reports.trace_graph import write_trace_graph

__all__ = ["compare_showers", "measure_showers", "write_calibration_page", "write_report", "write_trace_graph"]

_HOMES = {
    "compare_showers": "tracestore.reports.showers.page",
    "measure_showers": "tracestore.reports.showers.measurement",
    "write_calibration_page": "tracestore.reports.calibration_page",
    "write_report": "tracestore.reports.report",
    "write_trace_graph": "tracestore.reports.trace_graph",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES[name]), name)
