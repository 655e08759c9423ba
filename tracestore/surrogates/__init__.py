"""Generative models that stand in for a simulator's observation: what they compute, and their files.

A surrogate gives images for labels (energy, angle), in place of a simulator that takes longer. How it learns is the
business of `tracestore.training`.
"""

from tracestore._extras import extra

with extra("train"):
    import safetensors.torch  # noqa: F401  # the one place that names the extra when it is absent
    import torch  # noqa: F401

from tracestore.surrogates.config import FlowConfig, GanConfig, SurrogateConfig
from tracestore.surrogates.model import GenerativeModel
from tracestore.surrogates.persistence import load_surrogate
from tracestore.surrogates.stand_in import draw_surrogate, surrogate_simulator
from tracestore.surrogates.surrogate import Surrogate, new_surrogate, require_geometry

__all__ = [
    "FlowConfig",
    "GanConfig",
    "GenerativeModel",
    "Surrogate",
    "SurrogateConfig",
    "draw_surrogate",
    "load_surrogate",
    "new_surrogate",
    "require_geometry",
    "surrogate_simulator",
]
