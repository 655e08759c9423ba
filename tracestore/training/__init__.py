"""The proposal network of inference compilation and its training; torch lives in this room.

A network is trained on prior traces of one simulator and then, given an observation, proposes a value for every
random draw of that simulator. It satisfies `tracestore.execution.provider.ProposalProvider`, so that the inference
engines use it without knowing torch.
"""

from tracestore._extras import extra

with extra("train"):
    import safetensors.torch  # noqa: F401  # the one place that names the extra when it is absent
    import torch  # noqa: F401

from tracestore.training.config import NETWORKS, NetworkConfig, TrainConfig
from tracestore.training.network import ProposalNetwork
from tracestore.training.persistence import load_network
from tracestore.training.run import train
from tracestore.training.trainer import Trainer

__all__ = [
    "NETWORKS",
    "NetworkConfig",
    "ProposalNetwork",
    "TrainConfig",
    "Trainer",
    "load_network",
    "train",
]
