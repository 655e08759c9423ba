"""Checkpoints of a training that is under way: network, optimizer, averages, position in the data.

Nothing random is left to save: initial weights are a function of the seed and the address, and the order of the
traces is a function of the seed and the position. The same step on the same data therefore gives the same bits after
a restart.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic

from safetensors.torch import save
from torch import nn

from tracestore.errors import CheckpointMismatchError
from tracestore.networks.network import ProposalNetwork
from tracestore.networks.persistence import (
    read_json,
    read_tensors,
    remove_folders,
    restore_network,
    to_json,
    write_folder,
    write_network,
)
from tracestore.training.learner import Learner, NetworkT

__all__ = ["CheckpointFolder", "Checkpoints", "Progress"]

CHECKPOINT_VERSION = 2
OPTIMIZER_FILE = "optimizer.safetensors"
AVERAGE_FILE = "average.safetensors"
STATE_FILE = "state.json"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training stands, besides its tensors."""

    step: int = 0
    num_traces: int = 0
    """Traces trained on, repetitions included."""
    num_skipped: int = 0
    """Steps without a finite loss."""
    epoch: int = 0
    """Validated passes over the store."""
    best_loss: float = float("inf")
    """Lowest validation loss."""
    best_step: int = -1
    """Step of the lowest validation loss."""
    stale: int = 0
    """Validations since then."""
    is_done: bool = False
    """No step is left to do."""
    seconds: float = 0.0
    """Wall time of all calls."""
    step_seconds: float = 0.0
    """Time of the steps alone, on rank 0, waiting for data included."""
    read_seconds: float = 0.0
    """Time of it in which rank 0 waited for data."""

    def after_validation(self, loss: float) -> "Progress":
        """Return the progress with one more validation."""
        if loss < self.best_loss:
            return replace(self, epoch=self.epoch + 1, best_loss=loss, best_step=self.step, stale=0)
        return replace(self, epoch=self.epoch + 1, stale=self.stale + 1)


class CheckpointFolder(ABC, Generic[NetworkT]):
    """The folders ``checkpoint-<step>`` and ``best-<step>`` of something that is being trained.

    Subclasses say how it is written and read.

    Parameters
    ----------
    folder
        The network's folder.
    num_kept
        Checkpoints to keep, the newest ones; the best network is kept beside them.
    """

    def __init__(self, folder: Path, num_kept: int = 1) -> None:
        self.folder = folder
        self.num_kept = num_kept

    @abstractmethod
    def write(self, network: NetworkT) -> dict[str, bytes]:
        """Return the files of a network by name; the last one completes it."""

    @abstractmethod
    def restore(self, folder: Path) -> NetworkT:
        """Rebuild a network from a folder with the files of `write`."""

    def save(self, trainer: Learner[NetworkT], progress: Progress, position: Mapping[str, str | int]) -> None:
        """Write a checkpoint and remove the oldest.

        Parameters
        ----------
        trainer
            Its network and optimizer are saved.
        progress
            Where the training stands.
        position
            Position in the data.
        """
        fields = asdict(progress)
        if progress.best_step < 0:
            fields["best_loss"] = None  # JSON has no infinity
        state = {"version": CHECKPOINT_VERSION, "progress": fields, "position": dict(position)}
        files = {
            **self.write(trainer.network),
            OPTIMIZER_FILE: save(trainer.optimizer.state_tensors()),
            STATE_FILE: to_json(state),
        }
        if trainer.average is not None:
            files[AVERAGE_FILE] = save(trainer.average.state_tensors())
        self._keep(f"checkpoint-{progress.step:09d}", files)

    def save_best(self, network: NetworkT, step: int) -> None:
        """Write the network with the lowest validation loss so far.

        The one before is kept until the next checkpoint no longer needs it.
        """
        write_folder(self.folder / f"best-{step:09d}", self.write(network))

    def latest(self) -> Path | None:
        """Return the folder of the newest checkpoint."""
        return max(self._found("checkpoint"), default=None)

    def load(self) -> tuple[NetworkT, Progress, dict[str, Any]]:
        """Return network, progress and position in the data of the newest checkpoint.

        Raises
        ------
        CheckpointMismatchError
            When it cannot be read by this release.
        """
        folder = self._require_latest()
        state = read_json(folder / STATE_FILE)
        if state.get("version") != CHECKPOINT_VERSION:
            message = (
                f"The checkpoint {folder} has version {state.get('version')!r}; this release reads version "
                f"{CHECKPOINT_VERSION}. Finish the training with the release that began it."
            )
            raise CheckpointMismatchError(message, found=state.get("version"), supported=CHECKPOINT_VERSION)
        fields: dict[str, Any] = state["progress"]
        if fields["best_loss"] is None:
            fields["best_loss"] = float("inf")
        return self.restore(folder), Progress(**fields), state["position"]

    def load_optimizer(self, trainer: Learner[NetworkT]) -> None:
        """Give a trainer the state of optimizer and averages of the newest checkpoint."""
        folder = self._require_latest()
        trainer.optimizer.load_state_tensors(read_tensors(folder / OPTIMIZER_FILE))
        if trainer.average is not None:
            trainer.average.load_state_tensors(read_tensors(folder / AVERAGE_FILE))

    def load_best(self, step: int) -> NetworkT:
        """Return the network saved by `save_best`."""
        return self.restore(self.folder / f"best-{step:09d}")

    def remove(self) -> None:
        """Remove all checkpoints."""
        remove_folders(*self._found("checkpoint"), *self._found("best"))

    def forget_best_but(self, step: int) -> None:
        """Remove best networks other than that of a step."""
        remove_folders(*(found for found in self._found("best") if found.name != f"best-{step:09d}"))

    def _keep(self, name: str, files: dict[str, bytes]) -> None:
        write_folder(self.folder / name, files)
        remove_folders(*sorted(self._found("checkpoint"))[: -self.num_kept])

    def _found(self, kind: str) -> list[Path]:
        return [found for found in self.folder.glob(f"{kind}-*") if found.name.removeprefix(f"{kind}-").isdecimal()]

    def _require_latest(self) -> Path:
        folder = self.latest()
        if folder is None:
            message = f"There is no checkpoint in {self.folder}; train from the start."
            raise CheckpointMismatchError(message, path=str(self.folder))
        return folder


class Checkpoints(CheckpointFolder[ProposalNetwork]):
    """Checkpoints of a proposal network.

    Parameters
    ----------
    folder
        The network's folder.
    num_kept
        Checkpoints to keep, the newest ones; the best network is kept beside them.
    modules
        The user's own modules.
    """

    def __init__(self, folder: Path, num_kept: int = 1, modules: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__(folder, num_kept)
        self.modules = modules

    def write(self, network: ProposalNetwork) -> dict[str, bytes]:
        """Return the files of a network by name; the last one completes it."""
        return write_network(network)

    def restore(self, folder: Path) -> ProposalNetwork:
        """Rebuild a network from a folder with the files of `write`."""
        return restore_network(folder, self.modules)
