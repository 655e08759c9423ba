"""Work that must be done in order, side by side: lanes of batches, spread over processes, written as they come.

A chunk of independent traces may run anywhere; a Markov chain is a lane, each of whose batches starts where the one
before it ended. Workers are forked and own whole lanes. Each seals what it has when its parent is interrupted or dies.
"""

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from tracestore.errors import InferenceError, TracestoreError
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

__all__ = ["SEAL_SECONDS", "Piece", "run_lanes"]

SEAL_SECONDS = 60.0
"""Age at which a segment is sealed: what a killed process loses at most."""


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
Report = Callable[[int, int], None]


def run_lanes(store: TraceStore, lanes: Sequence[Lane], *, workers: int, report: Report) -> None:
    """Run lanes to their ends, in turn within a process.

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
    InferenceError
        When a worker process dies.
    """
    if workers == 1 or len(lanes) < 2:
        _write(store, lanes, report)
        return
    groups = [lanes[first::workers] for first in range(min(workers, len(lanes)))]
    _Workers(store, groups, report).join()


def _write(store: TraceStore, lanes: Sequence[Lane], report: Report) -> None:
    with store.writer(segment_seconds=SEAL_SECONDS) as writer:
        running = [lane() for lane in lanes]
        try:
            while running:
                for lane in list(running):
                    piece = next(lane, None)
                    if piece is None:
                        running.remove(lane)
                        continue
                    writer.append(piece.batch, work=[piece.work], state=piece.state)
                    report(len(piece.batch), piece.num_failed)
        except BaseException:
            writer.close()  # only whole pieces were appended, and readers may see them
            raise


class _Workers:
    """Parent side: one process for each group of lanes, each with a pipe of its own."""

    def __init__(self, store: TraceStore, groups: Sequence[Sequence[Lane]], report: Report) -> None:
        self.report = report
        self.error: Exception | None = None
        self.processes: dict[Connection, BaseProcess] = {}
        context = multiprocessing.get_context("fork")
        for group in groups:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(store, group, theirs, [*self.processes, ours]))
            process.start()
            theirs.close()
            self.processes[ours] = process

    def join(self) -> None:
        """Pass on progress until all are done."""
        try:
            while self.processes:
                ready = set(wait(list(self.processes)))
                for connection in [one for one in self.processes if one in ready]:
                    self._receive(connection)
        except BaseException:
            for connection in self.processes:
                connection.close()  # the workers notice at their next report, seal and end
            for process in self.processes.values():
                process.join()
            raise
        if self.error is not None:
            raise self.error

    def _receive(self, connection: Connection) -> None:
        try:
            message = connection.recv()
        except EOFError:
            process = self.processes.pop(connection)
            process.join()
            if process.exitcode and self.error is None:
                text = (
                    f"A worker process died with exit code {process.exitcode}; what it had not sealed is lost."
                    " Run the same call again to continue."
                )
                self.error = InferenceError(text, exitcode=process.exitcode)
            return
        if isinstance(message, Exception):
            self.error = self.error or message
        else:
            self.report(*message)


def _work(store: TraceStore, lanes: Sequence[Lane], connection: Connection, inherited: Sequence[Connection]) -> None:
    """Worker side: run the lanes until they end or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; a worker always seals
    for other in inherited:
        other.close()  # else this process would keep a dead parent's pipes open
    try:
        _write(store, lanes, lambda *counts: connection.send(counts))
    except BrokenPipeError:
        pass  # the parent is gone; everything finished is sealed
    except Exception as error:  # noqa: BLE001  # raised again in the parent
        known = isinstance(error, TracestoreError)
        sent = error if known else InferenceError(f"A worker failed with {type(error).__name__}: {error}")
        sent.add_note("in a worker process:\n" + traceback.format_exc())
        connection.send(sent)
    finally:
        connection.close()
