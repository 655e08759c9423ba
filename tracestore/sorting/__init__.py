"""The global order of a store by trace type: a pure plan and executors that carry it out."""

from tracestore.sorting.execute import plan_store, sort_store
from tracestore.sorting.executors import Executor, ProcessExecutor, SerialExecutor
from tracestore.sorting.plan import SortPlan, SortTask, plan_sort

__all__ = [
    "Executor",
    "ProcessExecutor",
    "SerialExecutor",
    "SortPlan",
    "SortTask",
    "plan_sort",
    "plan_store",
    "sort_store",
]
