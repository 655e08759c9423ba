"""Forked worker processes that pull items one at a time, and end in good order whatever happens.

Workers are forked, so that simulators defined in a script or notebook need no import path. Each has a pipe of its own,
so no lock can be left behind by one that dies. A worker whose parent is interrupted or dies finishes its item and ends
as if there were no further ones: what it has done is kept.
"""

import logging
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, TypeVar

from tracestore.errors import InvalidInputError, SimulatorError, TracestoreError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

__all__ = ["Report", "share_out", "to_worker_error"]

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Report = Callable[..., None]
"""Tells of what is done: traces and, among them, failed ones, or the traces themselves."""
Work = Callable[[Iterator[Item], Report], None]


def share_out(items: Sequence[Item], work: Work[Item], *, workers: int, report: Report) -> None:
    """Do items in worker processes, each item in one of them.

    Parameters
    ----------
    items
        What is to be done.
    work
        Called once in each worker with an iterator over the items that fall to it.
    workers
        Processes; 1 works in this one.
    report
        Called in this process with what the workers report.

    Raises
    ------
    InvalidInputError
        When ``workers`` is not positive.
    SimulatorError
        When a worker dies.

    Examples
    --------
    >>> def count(items, report):
    ...     for item in items:
    ...         report(item, 0)
    >>> done = []
    >>> share_out([1, 2, 3], count, workers=1, report=lambda number, failed: done.append(number))
    >>> done
    [1, 2, 3]
    """
    if workers < 1:
        message = f"`workers` must be at least 1; got {workers}."
        raise InvalidInputError(message, argument="workers")
    if workers == 1 or len(items) < 2:
        work(iter(items), report)
    else:
        _Pool(len(items), work, min(workers, len(items)), report).run(items)


def to_worker_error(error: Exception) -> Exception:
    """Turn what was raised in a worker, inside the handler, into an error of the library that tells where."""
    is_ours = isinstance(error, TracestoreError)
    sent = error if is_ours else SimulatorError(f"A worker failed with {type(error).__name__}: {error}")
    sent.add_note("in a worker process:\n" + traceback.format_exc())
    return sent


class _Pool:
    """Parent side: hands out the numbers of the items, which forked workers know."""

    def __init__(self, num_items: int, work: Work[Any], workers: int, report: Report) -> None:
        self.pending = iter(range(num_items))
        self.work = work
        self.workers = workers
        self.report = report
        self.processes: dict[Connection, BaseProcess] = {}
        self.error: Exception | None = None

    def run(self, items: Sequence[Any]) -> None:
        """Start the workers and serve them until the last one ends."""
        context = multiprocessing.get_context("fork")
        try:
            for _ in range(self.workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(items, self.work, theirs, [*self.processes, ours]))
                process.start()
                theirs.close()
                self.processes[ours] = process
            while self.processes:
                for connection in wait(list(self.processes)):
                    self._receive(connection)  # type: ignore[arg-type]  # only connections are waited for
        except BaseException:
            self._stop()
            raise
        if self.error is not None:
            raise self.error

    def _receive(self, connection: Connection) -> None:
        try:
            kind, payload = connection.recv()
        except (EOFError, ConnectionResetError):
            self._bury(connection)
            return
        if kind == "error":
            self.error = self.error or payload
        elif kind == "report":
            self.report(*payload)
        else:
            self._hand_out(connection)

    def _hand_out(self, connection: Connection) -> None:
        number = None if self.error else next(self.pending, None)
        try:
            connection.send(number)
        except BrokenPipeError:
            logger.debug("a worker died while waiting")  # its end of the pipe tells the rest

    def _bury(self, connection: Connection) -> None:
        process = self.processes.pop(connection)
        process.join()
        if process.exitcode and self.error is None:
            message = (
                f"A worker process died with exit code {process.exitcode}; its unsealed traces are lost. "
                "Run the same call again to continue."
            )
            self.error = SimulatorError(message, exitcode=process.exitcode)

    def _stop(self) -> None:
        """Interrupted: let every worker end in good order."""
        for connection in self.processes:
            connection.close()
        for process in self.processes.values():
            process.join()


def _serve(items: Sequence[Any], work: Work[Any], connection: Connection, inherited: Sequence[Connection]) -> None:
    """Worker side: work until told to stop or until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    for other in inherited:
        other.close()  # else this worker would keep a dead parent's pipe ends open
    try:
        work(_received(items, connection), lambda *counts: _send(connection, "report", counts))
    except Exception as error:  # noqa: BLE001  # raised again in the parent
        _send(connection, "error", to_worker_error(error))
    finally:
        connection.close()


def _received(items: Sequence[Any], connection: Connection) -> Iterator[Any]:
    """Yield the items that the parent hands out, until it has no more or is gone."""
    while True:
        _send(connection, "ready", None)
        try:
            number = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        if number is None:
            return
        yield items[number]


def _send(connection: Connection, kind: str, payload: object) -> None:
    try:
        connection.send((kind, payload))
    except (BrokenPipeError, ConnectionResetError):
        logger.debug("the parent process is gone")
