"""The verb `train`: one call that starts, resumes or returns a training."""

import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError, StoreExistsError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.samplers.selection import Subset, select_traces
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.samplers.torch_loader import TraceLoader, trace_loader
from tracestore.store.job import Job
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore
from tracestore.training.checkpoint import Checkpoints, Progress
from tracestore.training.config import TrainConfig
from tracestore.training.gains import measure_gains
from tracestore.training.network import ProposalNetwork
from tracestore.training.persistence import (
    JOB_FILE,
    NETWORK_FILE,
    load_network,
    read_json,
    to_json,
    write_file,
    write_network,
)
from tracestore.training.trainer import StepRecord, Trainer

__all__ = ["HISTORY_FILE", "resolve_config", "train"]

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
HISTORY_FILE = "history.jsonl"
NUM_FIT_TRACES = 1024
"""Traces from which inputs are standardized."""
DEFAULT_TRAINING_TRACES = 160_000
"""Traces that the default number of epochs amounts to."""
FEW_VALIDATION_TRACES = 500
"""Small stores give a larger share to validation, to have at least this many."""
LARGEST_VALIDATION_SHARE = 0.2


def train(
    store: TraceStore | StorePath,
    path: str | Path,
    *,
    config: TrainConfig | None = None,
    observer: Observer | None = None,
) -> ProposalNetwork:
    """Train a proposal network on a store of prior traces.

    The same call on the same path continues an interrupted training, with the same result to the last bit on one
    machine, or returns the finished network. Traces whose simulator failed are not trained on; the network's
    ``summary`` counts them.

    Parameters
    ----------
    store
        A store or its path.
    path
        Folder for the network; it is created.
    config
        What to train and how; sizes that are not set are chosen by the size of the store.
    observer
        Told of progress.

    Returns
    -------
    ProposalNetwork
        The network with the lowest validation loss, on the CPU. Where a proposal does not beat the prior on validation
        traces, the network leaves the draw to the prior.

    Raises
    ------
    StoreExistsError
        When the path holds another job's output; names the field that differs.
    InvalidInputError
        When the store has too few good traces or no named observation.
    NonFiniteLossError
        When the loss stops being finite.

    Examples
    --------
    >>> import tempfile, tracestore as ts
    >>> from tracestore.simulators import toys
    >>> folder = tempfile.mkdtemp()
    >>> store = ts.simulate(toys.gum, folder + "/traces", num_traces=200, seed=1)
    >>> network = train(store, folder + "/network", config=TrainConfig(epochs=1))
    >>> len(network.base_addresses), network.summary["num_traces"]
    (1, 200)
    """
    opened = store if isinstance(store, TraceStore) else TraceStore.open(store)
    config = resolve_config(TrainConfig() if config is None else config, opened)
    folder, job = Path(path), training_job(opened, config)
    _claim(folder, job, config)
    if not (folder / NETWORK_FILE).is_file():
        started = time.perf_counter()
        _Training(opened, folder, config, observer).finish()
        if observer is not None:
            observer(PhaseFinished("train", time.perf_counter() - started))
    return load_network(folder)


def resolve_config(config: TrainConfig, store: TraceStore) -> TrainConfig:
    """Replace what is not set by defaults for the size of a store.

    Parameters
    ----------
    config
        Settings of the user.
    store
        The training data.

    Raises
    ------
    InvalidInputError
        When the store has too few good traces.
    """
    status, stream = _split_columns(store)
    num_good = int(select_traces(status, stream, "all", 0.0).sum())
    if num_good < 2:
        message = f"Training needs at least two traces that did not fail; the store {store.storage.url} has {num_good}."
        raise InvalidInputError(message, found=num_good)
    share = max(config.validation_fraction, min(FEW_VALIDATION_TRACES / num_good, LARGEST_VALIDATION_SHARE))
    share = min(share, config.max_validation_traces / num_good)
    num_training = int(select_traces(status, stream, "train", share).sum())
    if not 0 < num_training < num_good:
        message = (
            f"The {num_good} good traces of the store {store.storage.url} are too few to set some aside for "
            "validation; simulate more."
        )
        raise InvalidInputError(message, found=num_good)
    # about a hundred steps in a pass, by a power of two
    batch_size = config.batch_size or min(256, max(16, 1 << (num_good // 100).bit_length() >> 1), num_training)
    epochs = config.epochs or min(max(round(DEFAULT_TRAINING_TRACES / num_good), 2), 30)
    return replace(config, validation_fraction=share, batch_size=batch_size, epochs=epochs)


def training_job(store: TraceStore, config: TrainConfig) -> Job:
    """Describe a training: simulator, data and every setting that shapes the network."""
    settings = _flatten(config.to_dict())
    del settings["checkpoint_seconds"]
    source = store.job.fields if store.job is not None else {}
    return Job(
        "train",
        {
            "simulator": source.get("simulator"),
            "fingerprint": source.get("fingerprint"),
            "snapshot": store.snapshot_id,
            "num_traces": len(store),
            **{f"config.{name}": value for name, value in settings.items()},
        },
    )


class _Training:
    """One training under way in its folder."""

    def __init__(self, store: TraceStore, folder: Path, config: TrainConfig, observer: Observer | None) -> None:
        self.store, self.folder, self.config, self.observer = store, folder, config, observer
        self.checkpoints = Checkpoints(folder)
        self.status, self.stream = _split_columns(store)
        self.loader = self._loader("train")
        self.num_good = int((self.status == 0).sum())
        self.num_steps = (config.epochs or 1) * self.loader.plan.num_steps
        if self.checkpoints.latest() is None:
            self.progress = Progress()
            self.trainer = Trainer(self._new_network(), config, num_steps=self.num_steps)
        else:
            network, self.progress, sampler = self.checkpoints.load()
            self.trainer = Trainer(network, config, num_steps=self.num_steps)
            self.trainer.step = self.progress.step
            self.checkpoints.load_optimizer(self.trainer)
            self.loader.load_state_dict(sampler)
            logger.info("Training at %s goes on from step %d.", folder, self.progress.step)
        self._before = self.progress.seconds
        self._started = self._saved = time.monotonic()

    def finish(self) -> None:
        """Do the steps that are left, then write the finished network."""
        total = (self.config.epochs or 1) * self.loader.plan.num_traces
        if self.observer is not None:
            self.observer(PhaseStarted("train", total, done=self.progress.num_traces))
        history = self.folder / HISTORY_FILE
        history.touch()
        with history.open("r+b") as file:
            file.truncate(self.progress.history_bytes)
            file.seek(0, 2)
            while not self.progress.is_done:
                # an epoch, or what is left of it; validation closes it
                for batch in self.loader:
                    record = self.trainer.train_step(batch)
                    self._advance(record, len(batch))
                    loss = self._validate() if self.loader.step == 0 else None
                    file.write(self._history_line(record, loss))
                    if loss is not None or time.monotonic() - self._saved > self.config.checkpoint_seconds:
                        file.flush()
                        self._save(file.tell())
                    self._tell(total, record)
        self._write_network()

    def _advance(self, record: StepRecord, num_traces: int) -> None:
        self.progress = replace(
            self.progress,
            step=record.step,
            num_traces=self.progress.num_traces + num_traces,
            seconds=self._before + time.monotonic() - self._started,
        )

    def _validate(self) -> float:
        """Measure the validation loss, keep the network if it is the best, and decide whether to go on."""
        loss = self.trainer.validate(self._loader("validation"))
        self.progress = self.progress.after_validation(loss)
        if self.progress.best_step == self.progress.step:
            self.checkpoints.save_best(self.trainer.network, self.progress.step)
        patience = self.config.patience
        stops = patience is not None and self.progress.stale >= patience
        self.progress = replace(self.progress, is_done=stops or self.progress.step >= self.num_steps)
        return loss

    def _save(self, history_bytes: int) -> None:
        self.progress = replace(self.progress, history_bytes=history_bytes)
        self.checkpoints.save(self.trainer, self.progress, dict(self.loader.state_dict()))
        self.checkpoints.forget_best_but(self.progress.best_step)
        self._saved = time.monotonic()

    def _write_network(self) -> None:
        network = self.checkpoints.load_best(self.progress.best_step)
        table = measure_gains(network, self._loader("validation"))
        network.active.copy_(torch.from_numpy(table.is_gain()))
        loss = Trainer(network, replace(self.config, device="cpu"), num_steps=1).validate(self._loader("validation"))
        network.summary = {
            "num_traces": len(self.store),
            "num_failed": len(self.store) - self.num_good,
            "num_training_traces": self.loader.plan.num_traces,
            "num_validation_traces": self.num_good - self.loader.plan.num_traces,
            "num_steps": self.progress.step,
            "best_step": self.progress.best_step,
            "validation_loss": loss,
            "num_parameters": network.num_parameters,
            "num_seen": int((table.count > 0).sum()),
            "num_proposing": int(table.is_gain().sum()),
            "seconds": round(self.progress.seconds, 3),
        }
        for name, content in write_network(network).items():
            write_file(self.folder / name, content)
        self.checkpoints.forget_best_but(-1)

    def _new_network(self) -> ProposalNetwork:
        good = np.flatnonzero(select_traces(self.status, self.stream, "train", self.config.validation_fraction))
        chosen = np.random.default_rng(self.config.seed).choice(good, min(NUM_FIT_TRACES, len(good)), replace=False)
        chosen.sort()
        batch = TensorBatch.from_batch(self.store.take(chosen), chosen)
        for name, values in batch.observations.items():
            bad = chosen[~torch.isfinite(values).reshape(len(values), -1).all(dim=1).numpy()]
            if len(bad):
                message = (
                    f"Observation {name!r} is not finite in traces {', '.join(map(str, bad[:8]))} of the store "
                    f"{self.store.storage.url}; train on a store without them."
                )
                raise InvalidInputError(message, name=name, traces=tuple(bad.tolist()))
        network = ProposalNetwork(self.store.observation_shapes, self.config.network)
        network.observation.fit(batch.observations)
        network.grow(batch)
        return network

    def _loader(self, subset: Subset) -> TraceLoader:
        return trace_loader(
            self.store,
            global_batch=self.config.batch_size,
            seed=self.config.seed,
            subset=subset,
            validation_fraction=self.config.validation_fraction,
        )

    def _history_line(self, record: StepRecord, validation_loss: float | None) -> bytes:
        line = {
            "step": record.step,
            "num_traces": self.progress.num_traces,
            "loss": record.loss,
            "validation_loss": validation_loss,
            "learning_rate": record.learning_rate,
            "gradient_norm": record.gradient_norm,
            "seconds": round(self.progress.seconds, 3),
        }
        return (json.dumps(line) + "\n").encode()

    def _tell(self, total: int, record: StepRecord) -> None:
        if self.observer is not None:
            self.observer(PhaseAdvanced("train", self.progress.num_traces, total, note=f"loss {record.loss:.4g}"))


def _split_columns(store: TraceStore) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the columns that decide which traces are trained on: status and stream."""
    return store.column("status").astype(np.uint8), store.column("stream").astype(np.int64)


def _claim(folder: Path, job: Job, config: TrainConfig) -> None:
    """Make the folder this job's, or refuse."""
    found = folder / JOB_FILE
    if found.is_file():
        record = read_json(found)
        job.require_same(Job.from_json(record), folder)
    elif folder.exists() and any(entry.name != CONFIG_FILE for entry in folder.iterdir()):
        message = f"The folder {folder} exists and holds no network; choose another path or empty it."
        raise StoreExistsError(message, path=str(folder))
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / CONFIG_FILE, to_json(config.to_dict()))
        write_file(found, to_json(job.to_json()))


def _flatten(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
