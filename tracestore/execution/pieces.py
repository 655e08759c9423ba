"""Pieces of work, made in worker processes and written into one store as they come.

On a file system each worker writes segments of its own. The client of an object store does not survive a fork, so
there the pieces come back to this process, which writes them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tracestore.execution.pool import Report, share_out
from tracestore.formats.document import JSON
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch

__all__ = ["Piece", "write_pieces"]

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Piece:
    """Traces that are committed as a whole."""

    batch: TraceBatch
    work: int
    """Number of this unit of work."""
    state: JSON = None
    """What its maker needs to go on after this piece."""
    num_failed: int = 0
    """Runs behind the batch that the simulator failed."""


def write_pieces(
    store: TraceStore,
    items: Sequence[Item],
    produce: Callable[[Iterator[Item]], Iterator[Piece]],
    *,
    workers: int,
    segment_seconds: float,
    report: Report,
) -> None:
    """Make pieces of items and write them; what is finished is kept when the work is interrupted.

    Parameters
    ----------
    store
        Destination; nothing is folded.
    items
        What the pieces are made of.
    produce
        Called once in each worker: makes pieces of the items that fall to it. Must not use the store.
    workers
        Processes; 1 runs in this one.
    segment_seconds
        Age at which a segment is sealed: what a killed machine loses at most.
    report
        Called in this process with the traces and failed runs of each piece.

    Raises
    ------
    InvalidInputError
        When ``workers`` is not positive.
    SimulatorError
        When a worker process dies.
    """

    def write(pieces: Iterator[Piece], report: Report) -> None:
        with store.writer(segment_seconds=segment_seconds) as writer:
            try:
                for piece in pieces:
                    writer.append(piece.batch, work=[piece.work], state=piece.state)
                    report(len(piece.batch), piece.num_failed)
            except BaseException:
                writer.close()  # only whole pieces were appended, and readers may see them
                raise

    if store.storage.is_local or workers == 1:
        share_out(items, lambda mine, tell: write(produce(mine), tell), workers=workers, report=report)
        return

    with store.writer(segment_seconds=segment_seconds) as writer:

        def keep(piece: Piece) -> None:
            writer.append(piece.batch, work=[piece.work], state=piece.state)
            report(len(piece.batch), piece.num_failed)

        def send(mine: Iterator[Item], tell: Report) -> None:
            for piece in produce(mine):
                tell(piece)

        try:
            share_out(items, send, workers=workers, report=keep)
        except BaseException:
            writer.close()
            raise
