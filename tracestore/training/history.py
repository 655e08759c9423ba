"""The files in which a training writes what each step did: one JSON object per line."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tracestore.training.records import StepRecord

__all__ = ["HISTORY_FILE", "History", "rank_file", "read_history"]

HISTORY_FILE = "history.jsonl"


def rank_file(folder: Path, rank: int) -> Path:
    """Return the file of a rank: rank 0 writes the history of the training, others their own times."""
    return folder / HISTORY_FILE if rank == 0 else folder / "ranks" / f"rank-{rank:05d}.jsonl"


class History:
    """A file of step records that is continued after an interruption.

    Parameters
    ----------
    path
        The file; it is created.
    last_step
        Steps that are done: lines of later ones belong to work that was lost, and are removed.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._file = path.open("r+b")
        kept = 0
        for line in self._file:
            if not line.endswith(b"\n") or json.loads(line)["step"] > last_step:
                break
            kept += len(line)
        self._file.truncate(kept)
        self._file.seek(kept)

    def write(self, record: StepRecord, *, total_traces: int, seconds: float, validation_loss: float | None) -> None:
        """Append a step.

        Parameters
        ----------
        record
            What the step did.
        total_traces
            Traces trained on so far.
        seconds
            Wall time so far.
        validation_loss
            Measured after the step, if it was.
        """
        line: dict[str, object] = {
            "step": record.step,
            "num_traces": total_traces,
            "loss": _finite(record.loss),
            "validation_loss": validation_loss,
            "learning_rate": record.learning_rate,
            "gradient_norm": None if record.is_skipped else record.gradient_norm,
            "seconds": round(seconds, 3),
            "times": {name: round(value, 6) for name, value in asdict(record.times).items()},
            "reduced_bytes": record.reduced_bytes,
            "dense_bytes": record.dense_bytes,
        }
        if record.terms:
            line["terms"] = {name: _finite(value) for name, value in record.terms.items()}
        if record.is_skipped:
            line["bad_traces"] = list(record.bad_traces)
        self._file.write((json.dumps(line) + "\n").encode())

    def flush(self) -> None:
        """Hand what was written to the system."""
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def read_history(folder: str | Path, rank: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the steps of a training as dictionaries, in order; nothing where there is no history.

    Parameters
    ----------
    folder
        The network's folder.
    rank
        Whose times to read; all other values are the same on all ranks.
    """
    path = rank_file(Path(folder), rank)
    if path.is_file():
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):  # a last line without an end is being written
                    yield json.loads(line)


def _finite(value: float) -> float | None:
    """Return what JSON can write of a number."""
    return value if math.isfinite(value) else None
