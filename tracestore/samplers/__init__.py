"""Which traces, in which order, on which rank: deterministic, elastic, bucketed batches (the loader needs torch)."""

from tracestore.samplers.cost_fit import CostFit, CostRecorder, fit_costs
from tracestore.samplers.plan import BatchPlan
from tracestore.samplers.plan_report import PlanReport, examine_plan
from tracestore.samplers.policy import BatchPolicy, CostModel
from tracestore.samplers.sampler import BucketedBatchSampler
from tracestore.samplers.selection import select_traces, validation_mask
from tracestore.samplers.world import World

__all__ = [
    "BatchPlan",
    "BatchPolicy",
    "BucketedBatchSampler",
    "CostFit",
    "CostModel",
    "CostRecorder",
    "PlanReport",
    "World",
    "examine_plan",
    "fit_costs",
    "select_traces",
    "validation_mask",
]
