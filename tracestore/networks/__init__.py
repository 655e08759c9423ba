"""The proposal network of inference compilation: what it computes, and its files.

Given an observation, a network proposes a value for every random draw of one simulator. It satisfies
`tracestore.execution.provider.ProposalProvider`, so that the inference engines use it without knowing torch. How it
learns is the business of `tracestore.training`.
"""

from tracestore._extras import extra

with extra("train"):
    import safetensors.torch  # noqa: F401  # the one place that names the extra when it is absent
    import torch  # noqa: F401

from tracestore.networks.config import NETWORKS, NetworkConfig
from tracestore.networks.network import ProposalNetwork
from tracestore.networks.persistence import load_network

__all__ = [
    "NETWORKS",
    "NetworkConfig",
    "ProposalNetwork",
    "load_network",
]
