"""What a training is to be, before it begins: settings for the size of its store, its job, its folder."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError, StoreExistsError
from tracestore.networks.config import Config
from tracestore.networks.persistence import JOB_FILE, read_json, to_json, write_file
from tracestore.samplers.selection import select_traces
from tracestore.store.job import Job
from tracestore.store.trace_store import TraceStore
from tracestore.training.config import TrainConfig

__all__ = [
    "CONFIG_FILE",
    "claim_folder",
    "count_traces",
    "describe_store",
    "resolve_config",
    "split_columns",
    "training_job",
]

CONFIG_FILE = "config.json"
DEFAULT_TRAINING_TRACES = 160_000
"""Traces that the default number of epochs amounts to."""
FEW_VALIDATION_TRACES = 500
"""Small stores give a larger share to validation, to have at least this many."""
LARGEST_VALIDATION_SHARE = 0.2
NOT_OF_THE_JOB = ("checkpoint_seconds", "keep_checkpoints", "prefetch", "workers", "compile", "device")
"""Settings that may change between the calls of one training."""


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
    share, num_good, num_training = count_traces(store, config.validation_fraction, config.max_validation_traces)
    # about a hundred steps in a pass, by a power of two
    batch_size = config.batch_size or min(256, max(16, 1 << (num_good // 100).bit_length() >> 1), num_training)
    epochs = config.epochs or min(max(round(DEFAULT_TRAINING_TRACES / num_good), 2), 30)
    return replace(config, validation_fraction=share, batch_size=batch_size, epochs=epochs)


def count_traces(store: TraceStore, fraction: float, most: int) -> tuple[float, int, int]:
    """Decide how large the validation part of a store is.

    Parameters
    ----------
    store
        The training data.
    fraction
        Share that is asked for; small stores give a larger one.
    most
        Validation traces that are enough.

    Returns
    -------
    share : float
        Share of the validation part.
    num_good : int
        Traces that did not fail.
    num_training : int
        Those of them that are trained on.

    Raises
    ------
    InvalidInputError
        When the store has too few good traces.
    """
    status, stream = split_columns(store)
    num_good = int(select_traces(status, stream, "all", 0.0).sum())
    if num_good < 2:
        message = f"Training needs at least two traces that did not fail; the store {store.storage.url} has {num_good}."
        raise InvalidInputError(message, found=num_good)
    share = max(fraction, min(FEW_VALIDATION_TRACES / num_good, LARGEST_VALIDATION_SHARE))
    share = min(share, most / num_good)
    num_training = int(select_traces(status, stream, "train", share).sum())
    if not 0 < num_training < num_good:
        message = (
            f"The {num_good} good traces of the store {store.storage.url} are too few to set some aside for "
            "validation; simulate more."
        )
        raise InvalidInputError(message, found=num_good)
    return share, num_good, num_training


def split_columns(store: TraceStore) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the columns that decide which traces are trained on: status and stream."""
    return store.column("status").astype(np.uint8), store.column("stream").astype(np.int64)


def describe_store(store: TraceStore) -> dict[str, object]:
    """Return what identifies the traces of a store, for a job.

    Parameters
    ----------
    store
        The store.
    """
    source = store.job.fields if store.job is not None else {}
    special = {name: source[name] for name in ("build", "collapse_rejection") if source.get(name)}
    return {
        "simulator": source.get("simulator"),
        "fingerprint": source.get("fingerprint"),
        "snapshot": store.snapshot_id,
        "num_traces": len(store),
        **special,
    }


def training_job(source: Mapping[str, object], config: Config, verb: str = "train") -> Job:
    """Describe a training: where its traces come from, and every setting that shapes the network.

    Parameters
    ----------
    source
        Simulator, snapshot and number of traces, or whatever else identifies the data.
    config
        Settings.
    verb
        What the job is called.
    """
    settings = _flatten(config.to_dict())
    return Job(
        verb,
        {
            **source,
            **{f"config.{name}": value for name, value in settings.items() if name not in NOT_OF_THE_JOB},
        },
    )


def claim_folder(folder: Path, job: Job, config: Config, *, what: str = "network") -> None:
    """Make a folder this job's.

    Raises
    ------
    StoreExistsError
        When it is another job's, or holds something else.
    """
    found = folder / JOB_FILE
    if found.is_file():
        job.require_same(Job.from_json(read_json(found)), folder)
    elif folder.exists() and any(entry.name != CONFIG_FILE for entry in folder.iterdir()):
        message = f"The folder {folder} exists and holds no {what}; choose another path or empty it."
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
