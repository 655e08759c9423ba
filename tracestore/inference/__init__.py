"""Inference engines: from a simulator and an observation to a store of weighted draws or of Markov chains."""

from tracestore.inference.ic import ic, ic_many
from tracestore.inference.importance import importance, prior
from tracestore.inference.rmh import lmh, rmh
from tracestore.inference.rmh_config import RMHConfig
from tracestore.posteriors.posterior import Posterior, open_posterior

__all__ = ["Posterior", "RMHConfig", "ic", "ic_many", "importance", "lmh", "open_posterior", "prior", "rmh"]
