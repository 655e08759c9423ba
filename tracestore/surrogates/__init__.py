"""Generative models that stand in for a simulator's observation: what they compute, and their files.

A surrogate gives images for labels (energy, angle) many times faster than the simulator it was trained on. How it
learns is the business of `tracestore.training`.
"""

from tracestore._extras import extra

with extra("train"):
    import safetensors.torch  # noqa: F401  # the one place that names the extra when it is absent
    import torch  # noqa: F401

from tracestore.surrogates.config import FlowConfig, GanConfig, SurrogateConfig
from tracestore.surrogates.model import GenerativeModel
from tracestore.surrogates.persistence import load_surrogate
from tracestore.surrogates.surrogate import Surrogate, new_surrogate, require_geometry

__all__ = [
    "FlowConfig",
    "GanConfig",
    "GenerativeModel",
    "Surrogate",
    "SurrogateConfig",
    "load_surrogate",
    "new_surrogate",
    "require_geometry",
]
