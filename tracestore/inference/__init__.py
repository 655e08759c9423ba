"""Posteriors over traces: inference engines, the posterior as a weighted view of stores, diagnostics, reports."""

from tracestore.inference.ic import ic
from tracestore.inference.importance import importance, prior
from tracestore.inference.posterior import Posterior, open_posterior
from tracestore.inference.rmh import lmh, rmh
from tracestore.inference.rmh_config import RMHConfig

__all__ = ["Posterior", "RMHConfig", "ic", "importance", "lmh", "open_posterior", "prior", "rmh"]
