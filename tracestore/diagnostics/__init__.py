"""How far draws can be trusted: chains, weights, calibration, two sets compared. Arrays in, numbers out; no traces."""

from tracestore.diagnostics.bands import bin_values, bootstrap_band, correlation_matrix, ratio_band
from tracestore.diagnostics.calibration import central_coverage, ecdf_band, randomized_pit, uniformity_pvalue
from tracestore.diagnostics.chains import autocorrelation, ess, is_constant, mcse, rhat, rhat_nested
from tracestore.diagnostics.psis import pareto_khat, smooth_log_weights
from tracestore.diagnostics.showers import join_summaries, shower_features, summarize_showers
from tracestore.diagnostics.tarp import tarp_pit
from tracestore.diagnostics.two_samples import area_under_curve, chi_square, classifier_area
from tracestore.diagnostics.weights import kish_ess, log_evidence, weighted_ess

__all__ = [
    "area_under_curve",
    "autocorrelation",
    "bin_values",
    "bootstrap_band",
    "central_coverage",
    "chi_square",
    "classifier_area",
    "correlation_matrix",
    "ecdf_band",
    "ess",
    "is_constant",
    "join_summaries",
    "kish_ess",
    "log_evidence",
    "mcse",
    "pareto_khat",
    "randomized_pit",
    "ratio_band",
    "rhat",
    "rhat_nested",
    "shower_features",
    "smooth_log_weights",
    "summarize_showers",
    "tarp_pit",
    "uniformity_pvalue",
    "weighted_ess",
]
