"""Work that must be done in order, side by side: lanes of batches, spread over processes, written as they come.

A chunk of independent traces may run anywhere; a Markov chain is a lane, each of whose batches starts where the one
before it ended. Each process runs one lane at a time and seals what it has when it is interrupted.
"""

from collections.abc import Callable, Iterator, Sequence

from tracestore.execution.pieces import Piece, write_pieces
from tracestore.execution.pool import Report
from tracestore.store.trace_store import TraceStore

__all__ = ["SEAL_SECONDS", "run_lanes"]

SEAL_SECONDS = 60.0
"""Age at which a segment is sealed: what a killed machine loses at most."""

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

    def produce(mine: Iterator[Lane]) -> Iterator[Piece]:
        for lane in mine:
            yield from lane()

    write_pieces(store, lanes, produce, workers=workers, segment_seconds=SEAL_SECONDS, report=report)
