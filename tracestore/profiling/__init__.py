"""Where a simulator's time goes: shares by what the time is spent on, a flame graph, and the scaling of kernels."""

from tracestore.profiling.profiler import profile
from tracestore.profiling.result import Profile

__all__ = ["Profile", "profile"]
