"""The history of a training for TensorBoard; knows only the lines of the history file, no network.

Event files can only grow. A training that goes on after an interruption repeats the steps since its checkpoint;
TensorBoard is told to forget what an earlier call has written of them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tracestore._extras import extra
from tracestore.events import Event, Observer, PhaseAdvanced, PhaseFinished
from tracestore.training.history import rank_file

with extra("tensorboard"):
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["TENSORBOARD_FOLDER", "HistoryToTensorBoard", "TensorBoardWriter"]

TENSORBOARD_FOLDER = "tensorboard"
"""Where the event files of a network are, within its folder."""
LAST_STEP_FILE = "last_step.txt"


class TensorBoardWriter:
    """Write the steps of a training as scalars; use it as a context manager.

    Parameters
    ----------
    folder
        For the event files; it is created.

    Examples
    --------
    >>> times = {"read": 0.01, "forward": 0.1, "backward": 0.2, "optimize": 0.05, "sync": 0.0}
    >>> line = {"step": 1, "num_traces": 64, "loss": 3.5, "validation_loss": None, "learning_rate": 0.001,
    ...         "gradient_norm": 2.0, "times": times, "reduced_bytes": 0, "dense_bytes": 0}
    >>> with TensorBoardWriter("events") as writer:
    ...     writer.write(line)
    >>> TensorBoardWriter("events").last_step
    1
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._note = self.folder / LAST_STEP_FILE
        self._writer: SummaryWriter | None = None
        self._num_traces = 0
        self.last_step = int(self._note.read_text()) if self._note.is_file() else 0
        """Last step that is written; those of earlier calls included."""

    def write(self, line: Mapping[str, Any]) -> None:
        """Write one step.

        Parameters
        ----------
        line
            As `tracestore.training.history.read_history` gives it. After a step that is written already, the first
            line makes TensorBoard forget that step and later ones of earlier calls.
        """
        step = int(line["step"])
        if self._writer is None:
            self._writer = SummaryWriter(str(self.folder), purge_step=step)
        for name, value in self._scalars(line).items():
            self._writer.add_scalar(name, value, step)
        self._num_traces = int(line["num_traces"])
        self.last_step = step

    def pass_over(self, line: Mapping[str, Any]) -> None:
        """Note a step that an earlier call has written.

        Parameters
        ----------
        line
            The step.
        """
        self._num_traces = int(line["num_traces"])

    def flush(self) -> None:
        """Hand what was written to the system."""
        if self._writer is not None:
            self._writer.flush()
            # after the events: should this be lost, they are written and purged once more
            self._note.write_text(str(self.last_step))

    def close(self) -> None:
        """Finish the event file."""
        self.flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _scalars(self, line: Mapping[str, Any]) -> dict[str, float]:
        times: Mapping[str, float] = line["times"]
        seconds = max(sum(times.values()), 1e-9)
        found = {
            "loss/training": line["loss"],
            "loss/validation": line["validation_loss"],
            "learning_rate": line["learning_rate"],
            "gradient_norm": line["gradient_norm"],
            "speed/traces_per_second": (line["num_traces"] - self._num_traces) / seconds,
            "speed/share_waiting_for_data": times["read"] / seconds,
            "speed/share_waiting_for_ranks": times["sync"] / seconds,
            "bytes/reduced": line["reduced_bytes"],
            "bytes/dense": line["dense_bytes"],
        }
        return {name: float(value) for name, value in found.items() if value is not None}


class HistoryToTensorBoard:
    """An observer that carries a training's history to TensorBoard as it grows; use it as a context manager.

    Steps appear when the training hands them to the system: a few dozen at a time, or with a checkpoint. All of the
    history is carried, also what was trained without this observer.

    Parameters
    ----------
    network_folder
        The network's folder.
    observer
        Is told all events, too.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators import toys
    >>> store = ts.simulate(toys.gum, "traces", num_traces=100, seed=1)
    >>> with HistoryToTensorBoard("network") as observer:
    ...     network = ts.training.train(store, "network", config=ts.training.TrainConfig(epochs=1), observer=observer)
    >>> TensorBoardWriter("network/tensorboard").last_step == network.summary["num_steps"]
    True
    """

    def __init__(self, network_folder: str | Path, observer: Observer | None = None) -> None:
        self._folder = Path(network_folder)
        self._observer = observer
        self._writer = TensorBoardWriter(self._folder / TENSORBOARD_FOLDER)
        self._num_bytes = 0
        self._last_kept: int | None = None

    def __call__(self, event: Event) -> None:
        """Carry what is new, then hand on the event."""
        # the training has cut off what it will repeat before it tells of its first step, not before it tells of itself
        if isinstance(event, PhaseAdvanced | PhaseFinished):
            self._carry()
        if self._observer is not None:
            self._observer(event)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or self._last_kept is not None:  # else the folder may be another job's
            self._carry()
        self._writer.close()

    def _carry(self) -> None:
        """Write the steps that have been added to the history."""
        lines = self._new_lines()
        if self._last_kept is None:
            kept = int(lines[-1]["step"]) if lines else 0
            self._last_kept = min(kept, self._writer.last_step)
        for line in lines:
            if line["step"] > self._last_kept:
                self._writer.write(line)
            else:
                self._writer.pass_over(line)
        if lines:
            self._writer.flush()

    def _new_lines(self) -> list[dict[str, Any]]:
        path = rank_file(self._folder, 0)
        if not path.is_file() or path.stat().st_size == self._num_bytes:
            return []
        lines = []
        with path.open("rb") as file:
            file.seek(self._num_bytes)
            for line in file:
                if line.endswith(b"\n"):  # a last line without an end is being written
                    lines.append(json.loads(line))
                    self._num_bytes += len(line)
        return lines
