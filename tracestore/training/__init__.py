"""How a proposal network learns: the training step, the loop around it, its checkpoints; torch lives here.

A network is trained on prior traces of one simulator; see `tracestore.networks` for what it computes.
"""

from tracestore._extras import extra

with extra("train"):
    import safetensors.torch  # noqa: F401  # the one place that names the extra when it is absent
    import torch  # noqa: F401

from tracestore.networks import NETWORKS, NetworkConfig, ProposalNetwork, load_network
from tracestore.training.config import TrainConfig
from tracestore.training.online import train_online
from tracestore.training.optimizers import OptimizerConfig
from tracestore.training.run import train
from tracestore.training.trainer import Trainer

__all__ = [
    "NETWORKS",
    "NetworkConfig",
    "OptimizerConfig",
    "ProposalNetwork",
    "TrainConfig",
    "Trainer",
    "load_network",
    "train",
    "train_online",
]
