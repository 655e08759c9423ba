"""The loop around the training step: validation, checkpoints, history, progress, early stop; one per rank."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Generic

from tracestore.errors import TrainingStoppedError
from tracestore.events import Observer, PhaseAdvanced, PhaseStarted
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.training.checkpoint import CheckpointFolder, Progress
from tracestore.training.history import History, rank_file
from tracestore.training.learner import Learner, NetworkT
from tracestore.training.records import StepRecord, StepTimes
from tracestore.training.sources import BatchSource
from tracestore.training.stopping import StopRequest

__all__ = ["TrainingLoop"]

logger = logging.getLogger(__name__)


class TrainingLoop(Generic[NetworkT]):
    """A training under way in its folder; goes on from the newest checkpoint.

    Parameters
    ----------
    checkpoints
        The network's folder; rank 0 writes it, all ranks read it.
    trainer
        A trainer of the network that this folder's newest checkpoint holds, or of a new one.
    progress
        Where the training stands.
    source
        Steps, from there on.
    validation
        Gives this rank's share of the validation traces, anew at each call.
    observer
        Told of progress, on rank 0.
    """

    def __init__(
        self,
        checkpoints: CheckpointFolder[NetworkT],
        trainer: Learner[NetworkT],
        progress: Progress,
        source: BatchSource,
        validation: Callable[[], Iterable[TensorBatch]],
        observer: Observer | None,
    ) -> None:
        self.checkpoints, self.folder = checkpoints, checkpoints.folder
        self.trainer, self.progress, self.source = trainer, progress, source
        self.validation = validation
        self.communicator = trainer.communicator
        self.observer = observer if self.communicator.rank == 0 else None
        self._before = progress.seconds
        self._started = self._saved = time.monotonic()
        self._times = StepTimes()

    def finish(self) -> None:
        """Do the steps that are left.

        Raises
        ------
        NonFiniteLossError
            When the loss stops being finite.
        TrainingStoppedError
            When SIGTERM came; KeyboardInterrupt when it was SIGINT. A checkpoint is written before, on all ranks
            after the same step.
        """
        if self.observer is not None:
            self.observer(PhaseStarted("train", self.source.num_traces, done=self.progress.num_traces))
        history_file = rank_file(self.folder, self.communicator.rank)
        with History(history_file, self.progress.step) as history, StopRequest() as request:
            while not self.progress.is_done:
                for record in self._steps(request):
                    self._advance(record)
                    loss = self._validate() if self.source.is_at_validation else None
                    self._record(history, record, loss)
                    self._tell(record)
                    if loss is not None or record.stops or self._is_time_to_save:
                        history.flush()
                        self._save()
                    if record.stops and not self.progress.is_done:
                        self._stop(request)

    def _steps(self, request: StopRequest) -> Iterator[StepRecord]:
        """Train on what is left before the next validation, with the time that reading took."""
        started = time.perf_counter()
        for batches in self.source:
            read = time.perf_counter() - started
            self.trainer.wants_stop = request.is_made
            record = self.trainer.train_step(*batches)
            yield replace(record, times=replace(record.times, read=read))
            started = time.perf_counter()

    def _advance(self, record: StepRecord) -> None:
        self._times += record.times
        self.progress = replace(
            self.progress,
            step=record.step,
            num_traces=self.progress.num_traces + record.num_traces,
            num_skipped=self.progress.num_skipped + record.is_skipped,
            seconds=self._before + time.monotonic() - self._started,
            step_seconds=self.progress.step_seconds + record.times.total,
            read_seconds=self.progress.read_seconds + record.times.read,
        )

    def _validate(self) -> float:
        """Measure the validation loss, keep the network if it is the best, and decide whether to go on."""
        loss = self.trainer.validate(self.validation())
        self.progress = self.progress.after_validation(loss)
        if self.progress.best_step == self.progress.step and self.communicator.rank == 0:
            with self.trainer.evaluated() as network:
                self.checkpoints.save_best(network, self.progress.step)
        patience = self.trainer.config.patience
        is_stale = patience is not None and self.progress.stale >= patience
        self.progress = replace(self.progress, is_done=is_stale or self.progress.step >= self.source.num_steps)
        return loss

    @property
    def _is_time_to_save(self) -> bool:
        return time.monotonic() - self._saved > self.trainer.config.checkpoint_seconds

    def _save(self) -> None:
        if self.communicator.rank == 0:
            self.checkpoints.save(self.trainer, self.progress, self.source.state_dict())
            self.checkpoints.forget_best_but(self.progress.best_step)
        self._saved = time.monotonic()

    def _stop(self, request: StopRequest) -> None:
        if request.signal is not None and request.signal.name == "SIGINT":
            raise KeyboardInterrupt
        step = self.progress.step
        message = f"The training at {self.folder} was told to stop after step {step}; the same call continues."
        raise TrainingStoppedError(message, step=step)

    def _record(self, history: History, record: StepRecord, validation_loss: float | None) -> None:
        if record.is_skipped:
            logger.warning(
                "Step %d was skipped: its loss is not finite (traces %s).", record.step, list(record.bad_traces)
            )
        history.write(
            record,
            total_traces=self.progress.num_traces,
            seconds=self.progress.seconds,
            validation_loss=validation_loss,
        )

    def _tell(self, record: StepRecord) -> None:
        if self.observer is not None:
            waiting = self._times.read / max(self._times.total, 1e-9)
            note = f"loss {record.loss:.4g}, {waiting:.0%} waiting for data"
            self.observer(PhaseAdvanced("train", self.progress.num_traces, self.source.num_traces, note=note))
