"""Chunks of traces, made in worker processes and written into one store.

A worker seals what it has when its parent dies or is interrupted: finished chunks are not lost, and the same call goes
on with the others.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from tracestore.errors import InvalidInputError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.execution.pieces import Piece, write_pieces
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch

__all__ = ["MAX_CHUNK", "Chunk", "ChunkProgress", "plan_chunks", "run_chunk_stream", "run_chunks"]

logger = logging.getLogger(__name__)

MAX_CHUNK = 256
"""Traces in a chunk, unless asked otherwise."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive streams of a job: the granule that is done or not done."""

    index: int
    """Number of the chunk within the job, recorded in the store as a unit of work."""
    first: int
    """First stream."""
    num_traces: int


def plan_chunks(
    num_traces: int,
    chunk_size: int | None = None,
    *,
    first: int = 0,
    first_index: int = 0,
    most: int = MAX_CHUNK,
) -> list[Chunk]:
    """Cut a job's streams into chunks.

    Parameters
    ----------
    num_traces
        Traces of the whole job.
    chunk_size
        Traces in a chunk; by default a sixty-fourth of the job, at most ``most``.
    first
        First stream.
    first_index
        Number of the first chunk.
    most
        Most traces in a chunk where no size is given; 256 for a simulator that runs one trace at a time.

    Raises
    ------
    InvalidInputError
        When a number is not positive.

    Examples
    --------
    >>> [(chunk.first, chunk.num_traces) for chunk in plan_chunks(5, 2)]
    [(0, 2), (2, 2), (4, 1)]
    """
    for name, number in (("num_traces", num_traces), ("chunk_size", 1 if chunk_size is None else chunk_size)):
        if number < 1:
            message = f"`{name}` must be at least 1; got {number}."
            raise InvalidInputError(message, argument=name)
    size = chunk_size or min(most, max(1, num_traces // 64))
    starts = range(0, num_traces, size)
    return [
        Chunk(first_index + index, first + start, min(size, num_traces - start)) for index, start in enumerate(starts)
    ]


def run_chunks(
    store: TraceStore,
    chunks: Sequence[Chunk],
    task: Callable[[Chunk], TraceBatch],
    *,
    workers: int = 1,
    segment_seconds: float = 600.0,
    observer: Observer | None = None,
    phase: str = "simulate",
) -> None:
    """Run the chunks that the store does not hold yet, and write their traces into it.

    Parameters
    ----------
    store
        Destination; its completed work says which chunks are left.
    chunks
        All chunks of the job.
    task
        Makes the traces of a chunk.
    workers
        Processes; 1 runs in this one.
    segment_seconds
        Age at which a worker seals what it has: what a killed machine loses at most.
    observer
        Told of progress.
    phase
        Name of the phase in progress events.

    Raises
    ------
    InvalidInputError
        When ``workers`` is not positive.
    SimulatorError
        When a worker process dies.
    """

    def make(mine: Iterator[Chunk]) -> Generator[tuple[Chunk, TraceBatch]]:
        for chunk in mine:
            yield chunk, task(chunk)

    run_chunk_stream(
        store, chunks, make, workers=workers, segment_seconds=segment_seconds, observer=observer, phase=phase
    )


def run_chunk_stream(
    store: TraceStore,
    chunks: Sequence[Chunk],
    make: Callable[[Iterator[Chunk]], Generator[tuple[Chunk, TraceBatch]]],
    *,
    workers: int = 1,
    segment_seconds: float = 600.0,
    observer: Observer | None = None,
    phase: str = "simulate",
) -> None:
    """Run the chunks that the store does not hold yet, several under way in one process.

    Parameters
    ----------
    store, chunks, workers, segment_seconds, observer, phase
        As in `run_chunks`.
    make
        Called once in each worker with an iterator over the chunks that fall to it; yields them with their traces, in
        any order, and is closed in the end.

    Raises
    ------
    InvalidInputError, SimulatorError
        As in `run_chunks`.
    """
    completed = store.completed_work()
    left = [chunk for chunk in chunks if chunk.index not in completed]
    progress = ChunkProgress(phase, chunks, left, observer)

    def produce(mine: Iterator[Chunk]) -> Iterator[Piece]:
        with closing(make(mine)) as made:
            for chunk, batch in made:
                yield Piece(batch, chunk.index, num_failed=len(batch.failures))

    if left:
        write_pieces(store, left, produce, workers=workers, segment_seconds=segment_seconds, report=progress.advance)
    store.fold()
    progress.finish()


class ChunkProgress:
    """Counts the traces of a job and tells an observer.

    Parameters
    ----------
    phase
        Name of the phase in its events.
    chunks
        All chunks of the job.
    left
        Those that are not done yet.
    observer
        Told of progress.
    """

    def __init__(self, phase: str, chunks: Sequence[Chunk], left: Sequence[Chunk], observer: Observer | None) -> None:
        self.phase = phase
        self.total = sum(chunk.num_traces for chunk in chunks)
        self.failed = 0
        self.nbytes = 0
        self.start = time.perf_counter()
        self.observer = observer
        self.restart(left)
        if observer is not None:
            observer(PhaseStarted(phase, self.total, self.done))

    def restart(self, left: Sequence[Chunk]) -> None:
        """Count anew what is done."""
        self.done = self.total - sum(chunk.num_traces for chunk in left)

    def advance(self, num_traces: int, num_failed: int, nbytes: int = 0) -> None:
        """Count some traces more, the failed ones among them, and their bytes."""
        self.done += num_traces
        self.failed += num_failed
        self.nbytes += nbytes
        if self.observer is not None:
            self.observer(PhaseAdvanced(self.phase, self.done, self.total, self.failed, nbytes=self.nbytes))

    def finish(self) -> None:
        """Tell that all is done, and warn of failed traces."""
        if self.failed:
            logger.warning("%s: %d of %d traces are recorded failures", self.phase, self.failed, self.total)
        if self.observer is not None:
            self.observer(PhaseFinished(self.phase, time.perf_counter() - self.start))
