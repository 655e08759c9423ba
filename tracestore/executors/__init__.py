"""Where independent tasks run: in this process, in others, on a dask cluster, under MPI; one protocol."""

from tracestore.executors.base import Executor, SerialExecutor
from tracestore.executors.processes import ProcessExecutor

__all__ = ["Executor", "ProcessExecutor", "SerialExecutor"]
