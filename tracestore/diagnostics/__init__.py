"""How far draws can be trusted: Markov chains, importance weights, calibration. Arrays in, numbers out; no traces."""

from tracestore.diagnostics.chains import autocorrelation, ess, is_constant, mcse, rhat
from tracestore.diagnostics.psis import pareto_khat, smooth_log_weights
from tracestore.diagnostics.weights import kish_ess, log_evidence

__all__ = [
    "autocorrelation",
    "ess",
    "is_constant",
    "kish_ess",
    "log_evidence",
    "mcse",
    "pareto_khat",
    "rhat",
    "smooth_log_weights",
]
