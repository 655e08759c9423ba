"""Networks on disk: tensors in safetensors, everything else in JSON, nothing pickled.

A folder becomes visible only when it is complete: it is written under a temporary name and renamed.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tracestore.errors import CheckpointMismatchError, StoreNotFoundError
from tracestore.networks.config import NetworkConfig
from tracestore.networks.network import ProposalNetwork
from tracestore.networks.sites import AddressRow
from tracestore.networks.user_modules import require_modules
from tracestore.store.job import Job

__all__ = [
    "JOB_FILE",
    "NETWORK_FILE",
    "load_network",
    "read_json",
    "read_tensors",
    "remove_folders",
    "restore_network",
    "write_file",
    "write_folder",
    "write_network",
]

NETWORK_VERSION = 2
"""Version of what `write_network` writes."""
JOB_FILE = "job.json"
NETWORK_FILE = "network.json"
WEIGHTS_FILE = "weights.safetensors"


def load_network(path: str | Path, *, modules: Mapping[str, nn.Module] | None = None) -> ProposalNetwork:
    """Load a trained network.

    Parameters
    ----------
    path
        Where `train` wrote it.
    modules
        The modules of your own that it was trained with, built as they were then; their weights are loaded into them.

    Raises
    ------
    StoreNotFoundError
        When there is no network, or its training has not finished.
    CheckpointMismatchError
        When the files do not fit each other or this release.
    """
    folder = Path(path)
    if not (folder / NETWORK_FILE).is_file():
        if (folder / JOB_FILE).is_file():
            message = (
                f"The training of the network at {folder} has not finished; run the same training again to finish it."
            )
        else:
            message = f"There is no network at {folder}; train one with `tracestore train` or `training.train`."
        raise StoreNotFoundError(message, path=str(folder))
    network = restore_network(folder, modules)
    job = read_json(folder / JOB_FILE)
    network.job = Job(job["verb"], job["fields"])
    return network.eval()


def restore_network(folder: Path, modules: Mapping[str, nn.Module] | None = None) -> ProposalNetwork:
    """Rebuild a network from a folder that `write_network` filled.

    Parameters
    ----------
    folder
        The folder.
    modules
        The user's own modules.

    Raises
    ------
    CheckpointMismatchError
        When the files do not fit each other or this release.
    """
    record = read_json(folder / NETWORK_FILE)
    if record.get("version") != NETWORK_VERSION:
        message = (
            f"The network at {folder} has version {record.get('version')!r}; this release reads version "
            f"{NETWORK_VERSION}. Use the release that wrote it."
        )
        raise CheckpointMismatchError(message, found=record.get("version"), supported=NETWORK_VERSION)
    shapes = {name: tuple(shape) for name, shape in record["observation_shapes"].items()}
    require_modules(record["modules"], modules, shapes)
    network = ProposalNetwork(
        shapes,
        NetworkConfig.from_dict(record["config"]),
        rows=[AddressRow(**row) for row in record["rows"]],
        modules=modules,
    )
    network.summary = record["summary"]
    load_tensors(network, folder / WEIGHTS_FILE)
    return network


def load_tensors(network: ProposalNetwork, path: Path) -> None:
    """Fill a network with saved tensors.

    Raises
    ------
    CheckpointMismatchError
        When a tensor is missing, left over, or of another shape.
    """
    found = read_tensors(path)
    expected = network.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not part of the network" for name in found if name not in expected]
    problems += [
        f"{name} has shape {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if problems:
        message = (
            f"The weights in {path} do not fit the network: {'; '.join(problems[:5])}. Restore both files together."
        )
        raise CheckpointMismatchError(message, problems=tuple(problems))
    network.load_state_dict(found)


def write_network(network: ProposalNetwork) -> dict[str, bytes]:
    """Return the files of a network by name; the last one completes it."""
    record = {
        "version": NETWORK_VERSION,
        "config": network.config.to_dict(),
        "observation_shapes": {name: list(shape) for name, shape in network.observation.shapes.items()},
        "modules": {name: module.to_json() for name, module in network.observation.module_records.items()},
        "rows": network.vocabulary.to_dicts(),
        "summary": network.summary,
    }
    tensors: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in network.state_dict().items():
        found = tensor.detach().cpu().contiguous()
        # the format knows no tensors that share memory, as tied weights of a user's module do
        tensors[name] = found.clone() if found.numel() and found.data_ptr() in places else found
        places.add(found.data_ptr())
    return {WEIGHTS_FILE: save(tensors), NETWORK_FILE: to_json(record)}


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files that appears at once or not at all; an earlier one of that name goes first."""
    temporary = path.with_name(path.name + ".tmp")
    remove_folders(temporary)
    temporary.mkdir(parents=True)
    for name, content in files.items():
        _write(temporary / name, content)
    _sync(temporary)
    remove_folders(path)
    temporary.rename(path)
    _sync(path.parent)


def write_file(path: Path, content: bytes) -> None:
    """Write a file that appears at once or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    _write(temporary, content)
    temporary.replace(path)
    _sync(path.parent)


def remove_folders(*paths: Path) -> None:
    """Remove folders that exist."""
    for path in paths:
        if path.exists():
            shutil.rmtree(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors to the CPU.

    Raises
    ------
    CheckpointMismatchError
        When the file is missing or damaged.
    """
    try:
        return load_file(path, device=str(torch.device("cpu")))
    except (OSError, SafetensorError) as error:
        message = f"The tensors in {path} cannot be read ({error}); restore the file or train again."
        raise CheckpointMismatchError(message, path=str(path)) from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    CheckpointMismatchError
        When the file is missing or is not JSON.
    """
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        message = f"The record {path} cannot be read ({error}); restore the file or train again."
        raise CheckpointMismatchError(message, path=str(path)) from error
    if not isinstance(record, dict):
        message = (
            f"The record {path} holds {type(record).__name__} instead of an object; restore the file or train again."
        )
        raise CheckpointMismatchError(message, path=str(path))
    return record


def to_json(record: Mapping[str, Any]) -> bytes:
    """Return a record as JSON text."""
    return (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
