"""How networks learn: the training step, the loop around it, its checkpoints; torch lives here.

A proposal network or a surrogate is trained on prior traces of one simulator; see `tracestore.networks` and
`tracestore.surrogates` for what they compute.
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
from tracestore.training.surrogate import train_surrogate
from tracestore.training.surrogate_config import RECIPES, SurrogateTrainConfig
from tracestore.training.trainer import Trainer

__all__ = [
    "NETWORKS",
    "RECIPES",
    "NetworkConfig",
    "OptimizerConfig",
    "ProposalNetwork",
    "SurrogateTrainConfig",
    "TrainConfig",
    "Trainer",
    "load_network",
    "train",
    "train_online",
    "train_surrogate",
]
