"""What every training does, whatever its traces come from: claim its folder, begin or go on, finish the network."""

import logging
import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from tracestore import __version__
from tracestore.networks.config import Config
from tracestore.networks.network import ProposalNetwork
from tracestore.networks.persistence import NETWORK_FILE, write_file, write_network
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.store.job import Job
from tracestore.training.agreement import require_same
from tracestore.training.checkpoint import CheckpointFolder, Checkpoints, Progress
from tracestore.training.communicator import Communicator
from tracestore.training.config import TrainConfig
from tracestore.training.gains import measure_gains
from tracestore.training.job import claim_folder
from tracestore.training.learner import Learner, NetworkT
from tracestore.training.sources import BatchSource
from tracestore.training.trainer import Trainer

__all__ = ["begin_or_go_on", "claim_together", "finish_network", "go_on"]

logger = logging.getLogger(__name__)
LearnerT = TypeVar("LearnerT", bound=Learner[Any])


def claim_together(
    folder: Path,
    job: Job,
    config: Config,
    communicator: Communicator,
    *,
    finished: str = NETWORK_FILE,
    what: str = "network",
) -> bool:
    """Make a folder this job's, after the ranks have found that they are of one mind.

    Parameters
    ----------
    folder
        The network's folder.
    job
        What is to be trained.
    config
        Settings.
    communicator
        The ranks.
    finished
        File that completes the folder.
    what
        What the folder is for, in a word.

    Returns
    -------
    bool
        Whether the network is finished already.

    Raises
    ------
    RankMismatchError
        When ranks differ in code or job.
    StoreExistsError
        When the folder is another job's, or holds something else.
    """
    facts = {
        "tracestore": __version__,
        "torch": str(torch.__version__),
        "byte order and word size": "-".join(platform.architecture()),
        **{name: repr(value) for name, value in job.fields.items()},
    }
    require_same(communicator, facts)
    if communicator.rank == 0:
        claim_folder(folder, job, config, what=what)
    communicator.barrier()
    return (folder / finished).is_file()


def begin_or_go_on(
    folder: Path,
    config: TrainConfig,
    source: BatchSource,
    make_network: Callable[[], ProposalNetwork],
    *,
    modules: Mapping[str, nn.Module],
    communicator: Communicator,
    grows: bool,
) -> tuple[Trainer, Progress]:
    """Make a trainer of the newest checkpoint in a folder, or of a new proposal network.

    Parameters
    ----------
    folder
        The network's folder.
    config
        Settings.
    source
        Is put where the checkpoint was written.
    make_network
        Called when there is no checkpoint.
    modules
        The user's own modules.
    communicator
        The ranks.
    grows
        Whether minibatches may show new addresses.
    """

    def make_trainer(network: ProposalNetwork) -> Trainer:
        return Trainer(network, config, num_steps=source.num_steps, communicator=communicator, grows=grows)

    return go_on(Checkpoints(folder, modules=modules), source, make_network, make_trainer)


def go_on(
    checkpoints: CheckpointFolder[NetworkT],
    source: BatchSource,
    make_network: Callable[[], NetworkT],
    make_trainer: Callable[[NetworkT], LearnerT],
) -> tuple[LearnerT, Progress]:
    """Make a trainer of the newest checkpoint, or of something new.

    Parameters
    ----------
    checkpoints
        Where checkpoints are.
    source
        Is put where the checkpoint was written.
    make_network
        Called when there is no checkpoint.
    make_trainer
        Called with what is to be trained.
    """
    is_new = checkpoints.latest() is None
    progress = Progress()
    if is_new:
        network = make_network()
    else:
        network, progress, position = checkpoints.load()
        source.load_state_dict(position)
        logger.info("Training at %s goes on from step %d.", checkpoints.folder, progress.step)
    trainer = make_trainer(network)
    trainer.step = progress.step
    if not is_new:
        checkpoints.load_optimizer(trainer)
    return trainer, progress


def finish_network(
    folder: Path,
    config: TrainConfig,
    progress: Progress,
    validation: Callable[[], Iterable[TensorBatch]],
    *,
    modules: Mapping[str, nn.Module],
    communicator: Communicator,
    counts: Mapping[str, float],
) -> None:
    """Take the best network, leave to the prior what does not beat it, and write it as the finished one.

    Parameters
    ----------
    folder
        The network's folder.
    config
        Settings.
    progress
        Where the training ended.
    validation
        Gives this rank's share of the validation traces, anew at each call.
    modules
        The user's own modules.
    communicator
        The ranks.
    counts
        Numbers of traces, which go first into the summary.
    """
    communicator.barrier()
    checkpoints = Checkpoints(folder, modules=modules)
    network = checkpoints.load_best(progress.best_step).eval()
    table = measure_gains(network, validation(), communicator)
    network.active.copy_(torch.from_numpy(table.is_gain()))
    plain = TrainConfig(bad_loss=config.bad_loss)
    trainer = Trainer(network, plain, num_steps=1, communicator=communicator)
    network.summary = {
        **counts,
        "num_steps": progress.step,
        "num_skipped_steps": progress.num_skipped,
        "best_step": progress.best_step,
        "validation_loss": trainer.validate(validation()),
        "num_parameters": network.num_parameters,
        "num_seen": int((table.count > 0).sum()),
        "num_proposing": int(table.is_gain().sum()),
        "seconds": round(progress.seconds, 3),
    }
    if communicator.rank == 0:
        for name, content in write_network(network).items():
            write_file(folder / name, content)
        checkpoints.forget_best_but(-1)
