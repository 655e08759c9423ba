"""Inference engines: from a simulator and an observation to a store of weighted draws or of Markov chains."""

from tracestore.inference.batched_rmh import batched_rmh
from tracestore.inference.calibration import calibrate
from tracestore.inference.calibration_result import Calibration, open_calibration
from tracestore.inference.gradient_config import HMCConfig, MALAConfig
from tracestore.inference.hmc import hmc, mala
from tracestore.inference.ic import ic, ic_many
from tracestore.inference.importance import importance, prior
from tracestore.inference.rmh import lmh, rmh
from tracestore.inference.rmh_config import RMHConfig
from tracestore.posteriors.posterior import Posterior, open_posterior
from tracestore.posteriors.posterior_set import PosteriorSet, open_posterior_set

__all__ = [
    "Calibration",
    "HMCConfig",
    "MALAConfig",
    "Posterior",
    "PosteriorSet",
    "RMHConfig",
    "batched_rmh",
    "calibrate",
    "hmc",
    "ic",
    "ic_many",
    "importance",
    "lmh",
    "mala",
    "open_calibration",
    "open_posterior",
    "open_posterior_set",
    "prior",
    "rmh",
]
