"""Chunks of traces in worker processes, each writing its own segments into one store.

Workers are forked, so that simulators defined in a script or notebook need no import path. A worker seals what it has
when its parent dies or is interrupted: finished chunks are never lost, and the same call goes on with the others.
"""

import logging
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from tracestore.errors import InvalidInputError, SimulatorError, TracestoreError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch

__all__ = ["Chunk", "plan_chunks", "run_chunks"]

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


def plan_chunks(num_traces: int, chunk_size: int | None = None, *, first: int = 0, first_index: int = 0) -> list[Chunk]:
    """Cut a job's streams into chunks.

    Parameters
    ----------
    num_traces
        Traces of the whole job.
    chunk_size
        Traces in a chunk; by default a sixty-fourth of the job, at most 256.
    first
        First stream.
    first_index
        Number of the first chunk.

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
    size = chunk_size or min(MAX_CHUNK, max(1, num_traces // 64))
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
    if workers < 1:
        message = f"`workers` must be at least 1; got {workers}."
        raise InvalidInputError(message, argument="workers")
    completed = store.completed_work()
    left = [chunk for chunk in chunks if chunk.index not in completed]
    progress = _Progress(phase, chunks, left, observer)
    if left and workers == 1:
        _write_chunks(store, left, task, progress.advance)
    elif left:
        _Pool(store, task, min(workers, len(left)), progress).run(left)
    store.refresh()
    progress.finish()


def _write_chunks(
    store: TraceStore, chunks: Iterable[Chunk], task: Callable[[Chunk], TraceBatch], done: Callable[[int, int], None]
) -> None:
    with store.writer() as writer:
        try:
            for chunk in chunks:
                batch = task(chunk)
                writer.append(batch, work=[chunk.index])
                done(len(batch), len(batch.failures))
        except BaseException:
            writer.seal()  # only whole chunks were appended
            raise


class _Progress:
    def __init__(self, phase: str, chunks: Sequence[Chunk], left: Sequence[Chunk], observer: Observer | None) -> None:
        self.phase = phase
        self.total = sum(chunk.num_traces for chunk in chunks)
        self.done = self.total - sum(chunk.num_traces for chunk in left)
        self.failed = 0
        self.start = time.perf_counter()
        self.observer = observer
        if observer is not None:
            observer(PhaseStarted(phase, self.total, self.done))

    def advance(self, num_traces: int, num_failed: int) -> None:
        self.done += num_traces
        self.failed += num_failed
        if self.observer is not None:
            self.observer(PhaseAdvanced(self.phase, self.done, self.total, self.failed))

    def finish(self) -> None:
        if self.failed:
            logger.warning("%s: %d of %d traces are recorded failures", self.phase, self.failed, self.total)
        if self.observer is not None:
            self.observer(PhaseFinished(self.phase, time.perf_counter() - self.start))


class _Pool:
    """Parent side: hands out one chunk at a time to each worker over its own pipe, so no lock can be left behind."""

    def __init__(
        self, store: TraceStore, task: Callable[[Chunk], TraceBatch], workers: int, progress: _Progress
    ) -> None:
        self.progress = progress
        self.processes: dict[Connection, multiprocessing.process.BaseProcess] = {}
        self.error: Exception | None = None
        context = multiprocessing.get_context("fork")
        others: list[Connection] = []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(store, task, theirs, [*others, ours]), daemon=False)
            process.start()
            theirs.close()
            others.append(ours)
            self.processes[ours] = process

    def run(self, chunks: Iterable[Chunk]) -> None:
        pending = iter(chunks)
        try:
            while self.processes:
                for connection in wait(list(self.processes)):
                    self._receive(connection, pending)  # type: ignore[arg-type]  # only connections are waited for
        except BaseException:
            self._stop()
            raise
        if self.error is not None:
            raise self.error

    def _receive(self, connection: Connection, pending: Iterator[Chunk]) -> None:
        try:
            kind, payload = connection.recv()
        except EOFError:
            process = self.processes.pop(connection)
            process.join()
            if process.exitcode and self.error is None:
                self.error = SimulatorError(
                    f"A worker process died with exit code {process.exitcode}; its unsealed traces are lost. "
                    "Run the same call again to continue.",
                    exitcode=process.exitcode,
                )
            return
        if kind == "error":
            self.error = self.error or payload
        elif kind == "done":
            self.progress.advance(*payload)
        if kind in ("ready", "done"):
            chunk = None if self.error else next(pending, None)
            connection.send(chunk)

    def _stop(self) -> None:
        """Interrupted: let every worker seal what it has, then end it."""
        for connection in self.processes:
            connection.close()
        for process in self.processes.values():
            process.join()


def _work(
    store: TraceStore, task: Callable[[Chunk], TraceBatch], connection: Connection, inherited: Sequence[Connection]
) -> None:
    """Worker side: run chunks until told to stop or until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; a worker always seals
    for other in inherited:
        other.close()  # else this worker would keep a dead parent's pipe ends open
    try:
        _send(connection, "ready", None)
        _write_chunks(store, _received(connection), task, lambda *counts: _send(connection, "done", counts))
    except Exception as error:  # noqa: BLE001  # raised again in the parent
        known = isinstance(error, TracestoreError)
        sent = error if known else SimulatorError(f"A worker failed with {type(error).__name__}: {error}")
        sent.add_note("in a worker process:\n" + traceback.format_exc())
        _send(connection, "error", sent)
    finally:
        connection.close()


def _received(connection: Connection) -> Iterator[Chunk]:
    """Chunks handed out by the parent, until it has no more or is gone."""
    while True:
        try:
            chunk = connection.recv()
        except EOFError:
            return
        if chunk is None:
            return
        yield chunk


def _send(connection: Connection, kind: str, payload: object) -> None:
    try:
        connection.send((kind, payload))
    except BrokenPipeError:
        logger.debug("the parent process is gone")
