"""How far draws can be trusted: Markov chains, importance weights, calibration. Arrays in, numbers out; no traces."""

from tracestore.diagnostics.calibration import central_coverage, ecdf_band, randomized_pit, uniformity_pvalue
from tracestore.diagnostics.chains import autocorrelation, ess, is_constant, mcse, rhat, rhat_nested
from tracestore.diagnostics.psis import pareto_khat, smooth_log_weights
from tracestore.diagnostics.tarp import tarp_pit
from tracestore.diagnostics.weights import kish_ess, log_evidence, weighted_ess

__all__ = [
    "autocorrelation",
    "central_coverage",
    "ecdf_band",
    "ess",
    "is_constant",
    "kish_ess",
    "log_evidence",
    "mcse",
    "pareto_khat",
    "randomized_pit",
    "rhat",
    "rhat_nested",
    "smooth_log_weights",
    "tarp_pit",
    "uniformity_pvalue",
    "weighted_ess",
]
