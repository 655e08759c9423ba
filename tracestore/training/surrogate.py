"""The verb `train_surrogate`: one call that starts, resumes or returns a training, on one rank or many."""

import copy
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from tracestore.errors import InvalidInputError, MissingLabelsError
from tracestore.events import Observer, PhaseFinished
from tracestore.formats.document import digest
from tracestore.networks.persistence import write_file
from tracestore.samplers.policy import BatchPolicy
from tracestore.samplers.selection import Subset
from tracestore.samplers.torch_loader import TraceLoader, trace_loader
from tracestore.store.job import Job
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore
from tracestore.surrogates.persistence import load_surrogate, restore_surrogate
from tracestore.surrogates.surrogate import SURROGATE_FILE, Surrogate, new_surrogate, require_geometry
from tracestore.training.checkpoint import CheckpointFolder
from tracestore.training.communicator import Communicator, CommunicatorKind, local_device, open_communicator
from tracestore.training.job import count_traces, describe_store, training_job
from tracestore.training.loop import TrainingLoop
from tracestore.training.sources import StoreSource
from tracestore.training.stages import claim_together, go_on
from tracestore.training.surrogate_config import RECIPES, SurrogateTrainConfig
from tracestore.training.surrogate_data import ImageSet, find_images
from tracestore.training.surrogate_trainer import SurrogateTrainer
from tracestore.training.time_budget import TimeBudget, TimedSource

__all__ = ["resolve_surrogate_config", "train_surrogate"]

DEFAULT_TRAINING_TRACES = 400_000
"""Traces that the default number of epochs amounts to."""
LEAST_VALIDATION_TRACES = 32
"""A score compares moments in four bands of the first label, and a band needs eight traces."""


def train_surrogate(
    store: TraceStore | StorePath,
    path: str | Path,
    *,
    config: SurrogateTrainConfig | None = None,
    start: Surrogate | None = None,
    observer: Observer | None = None,
    communicator: Communicator | None = None,
    ranks_by: CommunicatorKind = "auto",
) -> Surrogate:
    """Train a conditional generator of an observation on a store of prior traces.

    The same call on the same path continues an interrupted training, with the same result to the last bit on the same
    number of ranks of one kind of machine (unless it goes by time), or returns the finished surrogate. Traces whose
    simulator failed are not trained on; the surrogate's ``summary`` counts them.

    Started by torchrun, mpiexec or srun, all ranks make this call together and train one surrogate; the losses are
    those of one rank up to rounding.

    Parameters
    ----------
    store
        A store or its path.
    path
        Folder for the surrogate; it is created.
    config
        What to train and how; by default the recipe of ``flow``, see `RECIPES`.
    start
        A surrogate to go on from, perhaps trained on a narrower store; ``config.surrogate`` then means nothing. Its
        weights are kept, its scalings are set anew unless ``config.start_scaling`` says otherwise, and its ranges of
        labels are widened by those of this store. It is not changed.
    observer
        Told of progress, on rank 0.
    communicator
        The ranks; None opens the launcher's.
    ranks_by
        How ranks talk when they are opened here: ``torch`` or ``mpi``, by the launcher with ``auto``, or ``none``.

    Returns
    -------
    Surrogate
        That with the lowest validation loss, on the CPU.

    Raises
    ------
    MissingLabelsError
        When the store, or a trace, lacks a label; or ``start`` has other labels than are asked for.
    GeometryMismatchError
        When ``start`` makes images of another shape.
    InvalidInputError
        When the store has no such images, too few traces, or values that are not finite.
    StoreExistsError
        When the path holds another job's output; names the field that differs.
    RankMismatchError
        When ranks differ in code, configuration or data.
    NonFiniteLossError
        When the loss stops being finite.
    TrainingStoppedError
        When the system asked to stop; the same call continues.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.shower import ShowerBox, ShowerConfig, shower_simulator
    >>> small = shower_simulator(ShowerConfig(box=ShowerBox(shape=(8, 8, 8))))
    >>> store = ts.simulate(small, "showers", num_traces=300, seed=1)
    >>> config = RECIPES["gan"]
    >>> surrogate = train_surrogate(store, "surrogate", config=replace(config, epochs=1))
    >>> surrogate.labels, surrogate.generate([[100.0]], seed=1).shape
    (('energy',), (1, 8, 8, 8))
    """
    opened = store if isinstance(store, TraceStore) else TraceStore.open(store)
    folder, config = Path(path), RECIPES["flow"] if config is None else config
    ranks = open_communicator(ranks_by, device=config.device) if communicator is None else nullcontext(communicator)
    with ranks as communicator:
        images, config = _resolve(opened, config, start)
        begun = {} if start is None else {"start": digest(b"".join(start.files().values()))}
        job = training_job({**describe_store(opened), **begun}, config, "train-surrogate")
        if not claim_together(folder, job, config, communicator, finished=SURROGATE_FILE, what="surrogate"):
            started = time.perf_counter()
            _Training(images, folder, config, start, job, observer, communicator).finish()
            if observer is not None and communicator.rank == 0:
                observer(PhaseFinished("train", time.perf_counter() - started))
        communicator.barrier()
    return load_surrogate(folder)


def resolve_surrogate_config(
    store: TraceStore, config: SurrogateTrainConfig, start: Surrogate | None = None
) -> SurrogateTrainConfig:
    """Replace what is not set by defaults for a store; refuse what cannot be trained.

    Parameters
    ----------
    store
        The training data.
    config
        Settings of the user.
    start
        The surrogate to go on from.

    Raises
    ------
    InvalidInputError
        When the store cannot be trained on, as said in `train_surrogate`.
    """
    return _resolve(store, config, start)[1]


def _resolve(
    store: TraceStore, config: SurrogateTrainConfig, start: Surrogate | None
) -> tuple[ImageSet, SurrogateTrainConfig]:
    labels, observation = config.labels, config.observation
    if start is not None:
        _require_labels(start, labels)
        labels, observation = start.labels, observation or start.observation
        config = replace(config, surrogate=start.config)
    images = find_images(store, labels, observation)
    if start is not None:
        require_geometry(start, images.shape)
    share, num_good, num_training = count_traces(store, config.validation_fraction, config.max_validation_traces)
    if num_good - num_training < LEAST_VALIDATION_TRACES:
        message = (
            f"The {num_good} good traces of the store {store.storage.url} leave {num_good - num_training} for "
            f"validation, but {LEAST_VALIDATION_TRACES} are needed; simulate more, or raise `validation_fraction` and "
            "`max_validation_traces`."
        )
        raise InvalidInputError(message, found=num_good)
    config = replace(
        config,
        labels=images.labels,
        observation=images.observation,
        validation_fraction=share,
        batch_size=min(config.batch_size, num_training),
    )
    if config.seconds is None:
        epochs = config.epochs or min(max(round(DEFAULT_TRAINING_TRACES / num_good), 2), 30)
        if (config.warmup_epochs or 0.0) >= epochs:
            message = f"`warmup_epochs` is {config.warmup_epochs:g}, but the training has {epochs} epochs; give fewer."
            raise InvalidInputError(message, argument="warmup_epochs")
        warmup = config.warmup_fraction if config.warmup_epochs is None else config.warmup_epochs / epochs
        config = replace(config, epochs=epochs, warmup_fraction=warmup)
    return images, config


def _require_labels(start: Surrogate, labels: tuple[str, ...]) -> None:
    if labels and labels != start.labels:
        message = (
            f"The surrogate to start from is conditioned on {', '.join(start.labels)}, but the labels asked for are "
            f"{', '.join(labels)}; ask for the same ones in the same order, or train from the beginning."
        )
        raise MissingLabelsError(message, found=start.labels, expected=labels)


class _Checkpoints(CheckpointFolder[Surrogate]):
    """Checkpoints of a surrogate."""

    def write(self, network: Surrogate) -> dict[str, bytes]:
        """Return the files of a surrogate."""
        return network.files()

    def restore(self, folder: Path) -> Surrogate:
        """Rebuild a surrogate from its files."""
        return restore_surrogate(folder)


class _Training:
    """One training under way in its folder, on one rank."""

    def __init__(
        self, images: ImageSet, folder: Path, config: SurrogateTrainConfig, start: Surrogate | None, job: Job,
        observer: Observer | None, communicator: Communicator,
    ) -> None:  # fmt: skip
        self.images, self.config, self.start, self.job = images, config, start, job
        self.communicator = communicator
        loader = self._loader("train")
        self.num_training_traces = loader.plan.num_traces
        budget: TimeBudget | None = None
        source: StoreSource | TimedSource
        if config.seconds is None:
            source = StoreSource(loader, config.epochs or 1, 1)
        else:
            budget = TimeBudget(config.seconds, is_leader=communicator.rank == 0)
            source = TimedSource(loader, budget, config.num_validations)
        self.checkpoints = _Checkpoints(folder, config.keep_checkpoints)

        def make_trainer(surrogate: Surrogate) -> SurrogateTrainer:
            return SurrogateTrainer(
                surrogate, config, num_steps=source.num_steps, communicator=communicator, budget=budget
            )

        trainer, progress = go_on(self.checkpoints, source, self._new_surrogate, make_trainer)
        self.loop = TrainingLoop(
            self.checkpoints, trainer, progress, source, lambda: self._loader("validation"), observer
        )

    def finish(self) -> None:
        """Do the steps that are left, then write the finished surrogate."""
        self.loop.finish()
        progress, num_good = self.loop.progress, len(self.images.values_NL)
        self.communicator.barrier()
        if self.communicator.rank:
            return
        surrogate = self.checkpoints.load_best(progress.best_step)
        surrogate.job = self.job
        surrogate.summary = {
            "num_traces": len(self.images.store),
            "num_failed": len(self.images.store) - num_good,
            "num_training_traces": self.num_training_traces,
            "num_validation_traces": num_good - self.num_training_traces,
            "num_steps": progress.step,
            "best_step": progress.best_step,
            "validation_loss": progress.best_loss,
            "num_parameters": surrogate.num_parameters,
            "num_ranks": self.communicator.num_ranks,
            "seconds": round(progress.seconds, 3),
            "step_seconds": round(progress.step_seconds, 3),
            "waiting_share": round(progress.read_seconds / max(progress.step_seconds, 1e-9), 5),
            "traces_per_second": round(progress.num_traces / max(progress.step_seconds, 1e-9), 3),
        }
        for name, content in surrogate.files().items():
            write_file(self.checkpoints.folder / name, content)
        self.checkpoints.forget_best_but(-1)

    def _new_surrogate(self) -> Surrogate:
        """Copy the surrogate to start from, or set one up whose scalings are those of a part of the store."""
        images_NX, labels_NL = self.images.fit_part(self.config.validation_fraction, self.config.seed)
        if self.start is not None:
            surrogate = copy.deepcopy(self.start)
            surrogate.summary = {}
            fitted = surrogate.model.moments if self.config.start_scaling == "keep" else surrogate.model
            fitted.fit(images_NX, labels_NL)
        else:
            config = self.config
            surrogate = new_surrogate(
                self.images.shape, self.images.labels, self.images.observation, config.surrogate, config.seed
            )
            surrogate.model.fit(images_NX, labels_NL)
        surrogate.observation = self.images.observation
        surrogate.record_labels(np.asarray(self.images.values_NL))
        return surrogate

    def _loader(self, subset: Subset) -> TraceLoader:
        is_cuda = local_device(self.config.device).type == "cuda"
        return trace_loader(
            self.images.store,
            policy=BatchPolicy.local(self.config.batch_size, order="sequential" if subset == "validation" else "deck"),
            seed=self.config.seed,
            subset=subset,
            validation_fraction=self.config.validation_fraction,
            world=self.communicator.world,
            prefetch=self.config.prefetch or None,
            num_workers=0 if subset == "validation" else self.config.workers,
            observations=[self.images.observation],
            pin_memory=is_cuda,
        )
