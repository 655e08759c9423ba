"""What the history of a training says about it, as arrays: losses, speed, and who waited for whom.

Reads files, draws nothing. Shapes: S steps, R ranks, P parts of a step.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import StoreNotFoundError
from tracestore.training.history import rank_file, read_history
from tracestore.training.records import StepTimes

__all__ = ["PARTS", "Balance", "TrainingCurves", "binned", "read_curves", "smoothed"]

Floats = NDArray[np.float64]

PARTS = tuple(field.name for field in fields(StepTimes))
"""Parts of a step, as the history names them."""


@dataclass(frozen=True, slots=True)
class Balance:
    """How evenly ranks were busy, step by step; of the steps that all ranks have written."""

    num_traces: Floats
    """Traces trained on after each step, shape (S,)."""
    slowest: Floats
    """Seconds in which the busiest rank did not wait, shape (S,): the step takes at least as long."""
    mean: Floats
    """The same of the mean rank, shape (S,): what the step would take with perfect balance."""
    part_seconds: Floats
    """Seconds of each part on each rank, all steps together, shape (R, P)."""

    @property
    def num_ranks(self) -> int:
        """Ranks."""
        return len(self.part_seconds)

    @property
    def imbalance(self) -> float:
        """Actual over best time; 1 is perfect."""
        return float(self.slowest.sum() / self.mean.sum()) if len(self.mean) and self.mean.sum() > 0 else 1.0


@dataclass(frozen=True, slots=True)
class TrainingCurves:
    """The steps of a training, shape (S,) each; what a skipped step does not have is NaN."""

    step: Floats
    num_traces: Floats
    """Traces trained on after the step."""
    loss: Floats
    validation_loss: Floats
    """NaN where it was not measured."""
    learning_rate: Floats
    gradient_norm: Floats
    seconds: Floats
    """Wall time after the step."""
    reduced_bytes: Floats
    dense_bytes: Floats
    balance: Balance

    @property
    def step_traces(self) -> Floats:
        """Traces of each step."""
        return np.diff(self.num_traces, prepend=0.0)

    @property
    def num_skipped(self) -> int:
        """Steps without a finite loss."""
        return int(np.isnan(self.loss).sum())


def read_curves(folder: str | Path) -> TrainingCurves:
    """Read the history of a training, finished or not.

    Parameters
    ----------
    folder
        The network's folder.

    Raises
    ------
    StoreNotFoundError
        When there is no history, or it has no step yet.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators import toys
    >>> store = ts.simulate(toys.gum, "traces", num_traces=100, seed=1)
    >>> network = ts.training.train(store, "network", config=ts.training.TrainConfig(epochs=2))
    >>> curves = read_curves("network")
    >>> int(curves.step[-1]) == network.summary["num_steps"], int(np.isfinite(curves.validation_loss).sum())
    (True, 2)
    """
    lines = list(read_history(folder))
    if not lines:
        message = f"There is no training at {str(folder)!r}, or it has not done a step; give the folder of a network."
        raise StoreNotFoundError(message, path=str(folder))

    def column(name: str) -> Floats:
        return np.array([np.nan if line[name] is None else line[name] for line in lines], np.float64)

    names = [field.name for field in fields(TrainingCurves) if field.name != "balance"]
    columns = {name: column(name) for name in names}
    return TrainingCurves(**columns, balance=_balance(Path(folder), lines, columns["num_traces"]))


def smoothed(values: Floats, span: float) -> Floats:
    """Average over about the last so many values, exponentially, from the first one on; NaN values do not count.

    Parameters
    ----------
    values
        Values, shape (S,).
    span
        How many.

    Examples
    --------
    >>> smoothed(np.array([1.0, np.nan, 1.0, 4.0]), 2.0).round(2).tolist()
    [1.0, 1.0, 1.0, 2.52]
    """
    keep = np.exp(-1.0 / max(span, 1e-9))
    result = np.empty(len(values))
    total = weight = 0.0
    for place, value in enumerate(values.tolist()):
        if not math.isnan(value):
            total, weight = keep * total + value, keep * weight + 1.0
        result[place] = total / weight if weight else np.nan
    return result


def binned(places: Floats, values: Floats, num_bins: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Make many values few: the last place, and the 10 % quantile, mean and 90 % quantile, of consecutive values.

    Parameters
    ----------
    places, values
        Values and where they are, shape (S,). NaN values do not count.
    num_bins
        Most bins.

    Examples
    --------
    >>> place, low, mean, high = binned(np.arange(1.0, 7.0), np.array([1.0, 3.0, 5.0, 5.0, np.nan, 2.0]), 3)
    >>> place.tolist(), mean.tolist()
    ([2.0, 4.0, 6.0], [2.0, 5.0, 2.0])
    """
    is_kept = np.isfinite(values)
    places, values = places[is_kept], values[is_kept]
    parts = np.array_split(np.arange(len(values)), max(1, min(num_bins, len(values))))
    rows = [
        (places[part[-1]], np.quantile(values[part], 0.1), values[part].mean(), np.quantile(values[part], 0.9))
        for part in parts
        if len(part)
    ]
    place, low, mean, high = np.array(rows, np.float64).reshape(-1, 4).T
    return place, low, mean, high


def _balance(folder: Path, lines: Sequence[dict[str, Any]], num_traces: Floats) -> Balance:
    """Add up the times of all ranks; they are read one after another, since they may be many."""
    last = int(lines[-1]["step"])
    slowest, total, count = np.zeros(last + 1), np.zeros(last + 1), np.zeros(last + 1, np.int64)
    part_seconds = []
    for rank in range(_num_ranks(folder)):
        parts = np.zeros(len(PARTS))
        for step, seconds in _times(lines if rank == 0 else read_history(folder, rank), last):
            parts += seconds
            busy = seconds.sum() - seconds[PARTS.index("sync")]
            slowest[step] = max(slowest[step], busy)
            total[step] += busy
            count[step] += 1
        part_seconds.append(parts)
    # after a change of the number of ranks, some files lack steps
    steps = np.array([line["step"] for line in lines], np.int64)
    is_whole = count[steps] == len(part_seconds)
    chosen = steps[is_whole]
    return Balance(
        num_traces=num_traces[is_whole],
        slowest=slowest[chosen],
        mean=total[chosen] / len(part_seconds),
        part_seconds=np.array(part_seconds),
    )


def _times(lines: Iterable[dict[str, Any]], last: int) -> Iterator[tuple[int, Floats]]:
    for line in lines:
        if line["step"] <= last:
            yield int(line["step"]), np.array([line["times"][part] for part in PARTS], np.float64)


def _num_ranks(folder: Path) -> int:
    number = 1
    while rank_file(folder, number).is_file():
        number += 1
    return number
