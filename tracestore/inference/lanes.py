"""Work that must be done in order, side by side: lanes of batches, spread over processes, written as they come.

A chunk of independent traces may run anywhere; a Markov chain is a lane, each of whose batches starts where the one
before it ended. Each process runs one lane at a time and seals what it has when it is interrupted.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tracestore.execution.pool import Report, share_out
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch

__all__ = ["SEAL_SECONDS", "Piece", "run_lanes"]

SEAL_SECONDS = 60.0
"""Age at which a segment is sealed: what a killed machine loses at most."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One step of a lane, committed as a whole."""

    batch: TraceBatch
    work: int
    """Number of this unit of work."""
    state: dict[str, Any]
    """What the lane needs to go on after this piece."""
    num_failed: int = 0
    """Runs behind the batch that the simulator failed."""


Lane = Callable[[], Iterator[Piece]]


def run_lanes(store: TraceStore, lanes: Sequence[Lane], *, workers: int, report: Report) -> None:
    """Run lanes to their ends.

    Parameters
    ----------
    store
        Where the pieces are written.
    lanes
        Each starts an iterator of pieces.
    workers
        Processes; 1 runs in this one.
    report
        Called in this process with the traces and failed runs of each piece.

    Raises
    ------
    InvalidInputError
        When `workers` is not positive.
    SimulatorError
        When a worker process dies.
    """

    def write(mine: Iterator[Lane], report: Report) -> None:
        with store.writer(segment_seconds=SEAL_SECONDS) as writer:
            try:
                for lane in mine:
                    for piece in lane():
                        writer.append(piece.batch, work=[piece.work], state=piece.state)
                        report(len(piece.batch), piece.num_failed)
            except BaseException:
                writer.close()  # only whole pieces were appended, and readers may see them
                raise

    share_out(lanes, write, workers=workers, report=report)
