"""The global order of a store by trace type: a pure plan, and copy tasks that carry it out."""

from tracestore.sorting.execute import plan_store, sort_store
from tracestore.sorting.plan import SortPlan, SortTask, plan_sort

__all__ = [
    "SortPlan",
    "SortTask",
    "plan_sort",
    "plan_store",
    "sort_store",
]
