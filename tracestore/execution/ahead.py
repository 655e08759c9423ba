"""Forked workers that make things in the order in which they are asked for, a bounded number of them ahead of time.

What is made does not depend on how many workers there are. Nothing that a worker holds needs to be kept: workers end
when they are told to, when their parent ends, however it ends, and in the middle of their work if they take too long.
"""

import itertools
import multiprocessing
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from ctypes import c_bool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from tracestore.errors import InvalidInputError, SimulatorError
from tracestore.execution.pool import to_worker_error

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

__all__ = ["AheadWorkers"]

Item = TypeVar("Item")
Made = TypeVar("Made")

GRACE_SECONDS = 2.0
"""How long workers may go on with what they are doing after they were told to end."""


@dataclass(frozen=True, slots=True)
class _Worker:
    process: "BaseProcess"
    connection: Connection


class AheadWorkers(Generic[Item, Made]):
    """Make things of items, in worker processes or, without workers, in this one.

    Use it as a context manager; workers are forked on entering. Enter it before threads are started, such as those of
    a message passing library.

    Parameters
    ----------
    make
        Makes a thing of an item; a function of the item alone.
    workers
        Processes; 0 makes each thing in this process, when it is taken.
    ahead
        Things that may be under way or waiting to be taken; by default two for each worker.

    Raises
    ------
    InvalidInputError
        When a number is out of range.

    Examples
    --------
    >>> with AheadWorkers(lambda number: number * number, workers=2) as crew:
    ...     list(crew.results([1, 2, 3]))
    [1, 4, 9]
    """

    def __init__(self, make: Callable[[Item], Made], *, workers: int, ahead: int | None = None) -> None:
        if workers < 0 or (ahead is not None and ahead < 1):
            message = f"`workers` must be at least 0 and `ahead` at least 1; got {workers} and {ahead}."
            raise InvalidInputError(message, argument="workers", found=workers)
        self._make = make
        self._num_workers = workers
        self._ahead = 2 * workers if ahead is None else ahead
        self._workers: list[_Worker] = []
        self._is_ending = c_bool(False)
        self._expected: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        """Who sends the next result, in order."""
        self._received: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._receiver: threading.Thread | None = None
        self._num_asked = 0
        self._num_taken = 0

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("fork")
        self._is_ending = context.RawValue(c_bool, False)
        for _ in range(self._num_workers):
            ours, theirs = context.Pipe()
            inherited = [*(worker.connection for worker in self._workers), ours]
            process = context.Process(target=_serve, args=(self._make, theirs, inherited, self._is_ending))
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours))
        if self._workers:
            self._receiver = threading.Thread(target=self._receive, name="receive results", daemon=True)
            self._receiver.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def results(self, items: Iterable[Item]) -> Iterator[Made]:
        """Yield what is made of each item, in order.

        Take all of it, or close the workers, before the next call.

        Parameters
        ----------
        items
            May be endless; is read as far ahead as things are made.

        Raises
        ------
        SimulatorError
            When a worker dies or fails.
        """
        if not self._workers:
            yield from map(self._make, items)
            return
        waiting = iter(items)
        for item in itertools.islice(waiting, self._ahead):
            self._ask(item)
        while self._num_taken < self._num_asked:
            made = self._take()
            for item in itertools.islice(waiting, 1):
                self._ask(item)
            yield made

    def close(self) -> None:
        """End the workers; what they have made and nobody took is lost. Closing twice does nothing."""
        if not self._workers:
            return
        self._is_ending.value = True
        for worker in self._workers:
            _try_to_send(worker.connection, None)
        end = time.monotonic() + GRACE_SECONDS
        for worker in self._workers:
            worker.process.join(max(end - time.monotonic(), 0.0))
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
        self._expected.put(None)
        if self._receiver is not None:
            self._receiver.join()  # all it may wait for has ended
        for worker in self._workers:
            worker.connection.close()
        self._workers = []

    def _ask(self, item: Item) -> None:
        worker = self._workers[self._num_asked % len(self._workers)]
        _try_to_send(worker.connection, (item,))  # when it is dead, its end of the pipe tells the rest
        self._expected.put(worker)
        self._num_asked += 1

    def _take(self) -> Made:
        kind, payload = self._received.get()
        self._num_taken += 1
        if kind == "made":
            made: Made = payload
            return made
        if kind == "error":
            raise payload
        payload.process.join()
        exitcode = payload.process.exitcode
        message = f"A worker process died with exit code {exitcode}; run the same call again to continue."
        raise SimulatorError(message, exitcode=exitcode)

    def _receive(self) -> None:
        """Empty the pipes as they fill, so that no worker waits while there is room."""
        while (worker := self._expected.get()) is not None:
            try:
                self._received.put(worker.connection.recv())
            except (EOFError, OSError):  # the second when it died in the middle of a message
                self._received.put(("death", worker))
            except Exception as error:  # noqa: BLE001  # raised again where the result is taken
                self._received.put(("error", to_worker_error(error)))


def _serve(
    make: Callable[[Any], object], connection: Connection, inherited: Sequence[Connection], is_ending: c_bool
) -> None:
    """Worker side: work until told to end or until the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a whole group of processes gets them: the parent decides
    for other in inherited:
        other.close()  # else this worker would keep a dead parent's pipe ends open
    while True:
        try:
            message = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        if message is None or is_ending.value:
            return
        try:
            result = ("made", make(*message))
        except Exception as error:  # noqa: BLE001  # raised again in the parent
            result = ("error", to_worker_error(error))
        if not _try_to_send(connection, result):
            return


def _try_to_send(connection: Connection, message: object) -> bool:
    """Send a message, unless the other side is gone."""
    try:
        connection.send(message)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True
