"""Surrogates from disk: tensors in safetensors, everything else in JSON, nothing pickled."""

from pathlib import Path

from tracestore.errors import CheckpointMismatchError, InvalidInputError, StoreNotFoundError
from tracestore.formats.document import digest
from tracestore.networks.persistence import JOB_FILE, read_json, read_tensors
from tracestore.store.job import Job
from tracestore.surrogates.config import SurrogateConfig
from tracestore.surrogates.surrogate import (
    SURROGATE_FILE,
    SURROGATE_VERSION,
    WEIGHTS_FILE,
    Surrogate,
    new_surrogate,
)

__all__ = ["load_surrogate", "restore_surrogate"]


def load_surrogate(path: str | Path) -> Surrogate:
    """Load a trained surrogate to the CPU.

    Parameters
    ----------
    path
        Where training or `Surrogate.save` wrote it.

    Raises
    ------
    StoreNotFoundError
        When there is no surrogate, or its training has not finished.
    CheckpointMismatchError
        When the files are damaged, or do not fit each other or this release.

    Examples
    --------
    >>> from tracestore.surrogates import new_surrogate
    >>> new_surrogate((8, 8, 8), ["energy"], "shower").save("surrogate")
    >>> load_surrogate("surrogate").labels
    ('energy',)
    """
    folder = Path(path)
    if not (folder / SURROGATE_FILE).is_file():
        if (folder / JOB_FILE).is_file():
            message = (
                f"The training of the surrogate at {folder} has not finished; run the same training again to finish it."
            )
        else:
            message = f"There is no surrogate at {folder}; train one with `training.train_surrogate`."
        raise StoreNotFoundError(message, path=str(folder))
    return restore_surrogate(folder)


def restore_surrogate(folder: Path) -> Surrogate:
    """Rebuild a surrogate from a folder with the files of `Surrogate.files`.

    Parameters
    ----------
    folder
        The folder.

    Raises
    ------
    CheckpointMismatchError
        When the files are damaged, or do not fit each other or this release.
    """
    record = read_json(folder / SURROGATE_FILE)
    if record.get("version") != SURROGATE_VERSION:
        message = (
            f"The surrogate at {folder} has version {record.get('version')!r}; this release reads version "
            f"{SURROGATE_VERSION}. Use the release that wrote it."
        )
        raise CheckpointMismatchError(message, found=record.get("version"), supported=SURROGATE_VERSION)
    try:
        config = SurrogateConfig.from_dict(record["config"])
        surrogate = new_surrogate(record["shape"], record["labels"], record["observation"], config)
        surrogate.label_ranges = tuple((float(low), float(high)) for low, high in record["label_ranges"])
        surrogate.summary = dict(record["summary"])
        surrogate.job = Job(record["job"]["verb"], record["job"]["fields"])
    except (AttributeError, KeyError, TypeError, ValueError, InvalidInputError) as error:
        message = f"The record {folder / SURROGATE_FILE} is damaged ({error!r}); restore the file or train again."
        raise CheckpointMismatchError(message, path=str(folder)) from error
    _load_tensors(surrogate, folder / WEIGHTS_FILE)
    _require_intact(folder / WEIGHTS_FILE, record.get("weights"))
    surrogate.model.eval()
    return surrogate


def _load_tensors(surrogate: Surrogate, path: Path) -> None:
    found, expected = read_tensors(path), surrogate.model.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not part of the model" for name in found if name not in expected]
    problems += [
        f"{name} has shape {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    problems += [
        f"{name} has values that are not finite"
        for name, tensor in found.items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if problems:
        message = (
            f"The weights in {path} do not fit the surrogate: {'; '.join(problems[:5])}. Restore both files together."
        )
        raise CheckpointMismatchError(message, problems=tuple(problems))
    surrogate.model.load_state_dict(found)


def _require_intact(path: Path, expected: str | None) -> None:
    """Refuse weights that changed on the disk; a changed bit would make other images, and no error."""
    if expected is not None and digest(path.read_bytes()) != expected:
        message = f"The weights in {path} are not those that were written; restore both files together or train again."
        raise CheckpointMismatchError(message, path=str(path))
