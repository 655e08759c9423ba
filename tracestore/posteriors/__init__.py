"""Posteriors: weighted views of the stores that engines wrote, and what they say about themselves."""

from tracestore.posteriors.diagnosis import Diagnosis, Finding, Verdict, diagnose
from tracestore.posteriors.expectations import Expectation
from tracestore.posteriors.joint_table import JointTable
from tracestore.posteriors.posterior import Draws, Posterior, open_posterior
from tracestore.posteriors.posterior_set import PosteriorSet, open_posterior_set
from tracestore.posteriors.predictive import predictive_check
from tracestore.posteriors.proposal_quality import proposal_quality

__all__ = [
    "Diagnosis",
    "Draws",
    "Expectation",
    "Finding",
    "JointTable",
    "Posterior",
    "PosteriorSet",
    "Verdict",
    "diagnose",
    "open_posterior",
    "open_posterior_set",
    "predictive_check",
    "proposal_quality",
]
