"""Run independent tasks on a dask cluster, through nothing but its client: any kind of cluster will do."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, Self, TypeVar
from uuid import uuid4

from tracestore._extras import extra
from tracestore.errors import ExecutorError, InvalidInputError
from tracestore.executors.cluster_check import require_equal_packages, require_worker

with extra("sort"):
    from distributed import CancelledError, Client, Future, KilledWorker, LocalCluster
    from distributed.protocol.pickle import dumps
    from distributed.system import MEMORY_LIMIT

__all__ = ["DaskExecutor"]

logger = logging.getLogger(__name__)

# dask's own signatures carry no types
_start_cluster: Any = LocalCluster
_start_client: Any = Client
_dumps: Any = dumps

Task = TypeVar("Task")
Result = TypeVar("Result")

_MOST_SUBMITTED = 4096
_BATCH = 64
"""Tasks in one message to the scheduler."""

_MOST_GATHERED = 32
"""Results fetched at a time, which is how many this process holds."""

_EMBEDDED_BYTES = 64 * 2**20
"""A function travels with each task when that makes no more bytes altogether."""

_WATCH_SECONDS = 60.0


class DaskExecutor:
    """Runs the tasks as dask tasks, on whatever cluster a client is connected to.

    Clusters of `LocalCluster`, dask-jobqueue, dask-mpi and Kubernetes all do. Workers with one thread each suit best:
    tasks are Python code as well as input and output. At most 4,096 tasks are with the scheduler at a time, which keeps
    a thousand workers busy and lets adaptive clusters grow, while neither scheduler nor this process holds 60,000.

    A task whose worker is lost runs again on another one, others are not touched; the scheduler's setting
    ``distributed.scheduler.allowed-failures`` says how often (3 times, as dask comes).

    Parameters
    ----------
    client
        A client that is not asynchronous. It stays open.
    retries
        How often dask repeats a task that raised, before its exception ends the run.
    wait_seconds
        How long a run waits for the first worker.

    Raises
    ------
    InvalidInputError
        When the client is asynchronous, or a number is negative.

    Examples
    --------
    >>> from distributed import Client
    >>> with Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as client:
    ...     sorted(DaskExecutor(client).run(abs, [-1, 2, -3], label="absolute"))
    [1, 2, 3]
    """

    def __init__(self, client: Client, *, retries: int = 0, wait_seconds: float = 60.0) -> None:
        if client.asynchronous:
            message = "`client` must not be asynchronous; make it with Client(..., asynchronous=False)."
            raise InvalidInputError(message, argument="client")
        for name, value in (("retries", retries), ("wait_seconds", wait_seconds)):
            if value < 0:
                raise InvalidInputError(f"`{name}` must not be negative; got {value}.", argument=name, found=value)
        self.client: Any = client  # its methods carry no types
        self.retries = retries
        self.wait_seconds = wait_seconds

    @classmethod
    @contextmanager
    def local(cls, *, workers: int = 2, memory_limit: int | None = None) -> Iterator[Self]:
        """Start a cluster of processes with one thread each on this machine, and close it at the end.

        A script that does so keeps its own work below ``if __name__ == "__main__":``, since each process imports it.

        Parameters
        ----------
        workers
            Processes.
        memory_limit
            Bytes that each may use; dask ends a process that comes near. None gives each, and this process, an equal
            share of the machine's memory.

        Raises
        ------
        InvalidInputError
            When ``workers`` or ``memory_limit`` is not positive.
        ExecutorError
            When the processes do not start.

        Examples
        --------
        >>> with DaskExecutor.local(workers=1) as executor:  # doctest: +SKIP
        ...     sorted(executor.run(abs, [-1, 2, -3]))
        [1, 2, 3]
        """
        for name, value in (("workers", workers), ("memory_limit", memory_limit)):
            if value is not None and value < 1:
                raise InvalidInputError(f"`{name}` must be at least 1; got {value}.", argument=name, found=value)
        try:
            cluster = _start_cluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=memory_limit or MEMORY_LIMIT // (workers + 1),
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,  # what matters comes as an exception
            )
        except (RuntimeError, OSError) as error:
            message = (
                f"The workers of a local dask cluster did not start: {error}; a script that starts one needs its work "
                'below `if __name__ == "__main__":`.'
            )
            raise ExecutorError(message, workers=workers) from error
        with cluster, _start_client(cluster, set_as_default=False) as client:
            yield cls(client)

    @classmethod
    @contextmanager
    def connect(cls, address: str, *, timeout: float = 30.0, wait_seconds: float = 60.0) -> Iterator[Self]:
        """Connect to a scheduler that runs already, and leave it running at the end.

        Parameters
        ----------
        address
            Of the scheduler, such as ``tcp://node17:8786``.
        timeout
            How long to wait for its answer, in seconds.
        wait_seconds
            How long a run waits for the first worker.

        Raises
        ------
        ExecutorError
            When nothing answers there.

        Examples
        --------
        >>> with DaskExecutor.connect("tcp://node17:8786") as executor:  # doctest: +SKIP
        ...     store = sort_store("traces", "sorted", executor=executor)
        """
        try:
            client = _start_client(address, timeout=timeout, set_as_default=False)
        except (OSError, ValueError) as error:
            message = (
                f"No dask scheduler answers at {address} ({error}); start one with `dask scheduler`, and workers with "
                "`dask worker ADDRESS`."
            )
            raise ExecutorError(message, address=address) from error
        with client:
            yield cls(client, wait_seconds=wait_seconds)

    @property
    def dashboard_link(self) -> str | None:
        """Where the cluster can be watched with a browser; None when it has no dashboard."""
        with suppress(KeyError, ValueError):  # no such service; an address without a host
            link: str | None = self.client.dashboard_link
            return link or None
        return None

    @property
    def memory_limit(self) -> int | None:
        """Bytes of memory that a task may use: the smallest limit of a worker, divided by its threads.

        None when no worker has a limit, or none is there yet.
        """
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return min((one["memory_limit"] // one["nthreads"] for one in workers if one["memory_limit"]), default=None)

    def run(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], *, label: str = "task"
    ) -> Iterator[Result]:
        """Yield results as they come; the first exception ends the run and cancels what has not begun.

        Tasks are begun in their order. An end of the iterator, by an exception, an interruption or `close`, cancels
        likewise; what runs at that moment runs to its end.

        Parameters
        ----------
        function
            What to do with a task. When it is large, each worker gets it once, and not with each task.
        tasks
            The tasks.
        label
            What the dashboard calls them.

        Raises
        ------
        ExecutorError
            Before the first task when no worker comes, versions differ, workers cannot import tracestore, or the
            function cannot be pickled; later when a task has cost several workers their lives, the scheduler is lost,
            or a worker has come that cannot import what it needs.
        """
        if not tasks:
            return
        require_worker(self.client, wait_seconds=self.wait_seconds)
        require_equal_packages(self.client)
        name = f"{label}-0{uuid4().hex}"  # unique, and the digit ends what the dashboard shows
        packed = _pack(function)
        carried: bytes | Future[bytes] = packed
        if len(packed) * len(tasks) > _EMBEDDED_BYTES:
            # as the result of a task and not scattered: it is computed anew when the workers that have it are lost. Not
            # for few tasks, which dask would put where the function is instead of spreading them
            carried = self.client.submit(bytes, packed, key=f"{label}-function-{name[-33:]}", pure=False)
        numbers = iter(range(len(tasks)))
        finished: SimpleQueue[Future[Any]] = SimpleQueue()
        pending: set[Future[Any]] = set()
        try:
            while True:
                while len(pending) <= _MOST_SUBMITTED - _BATCH and (batch := list(islice(numbers, _BATCH))):
                    submitted = self._submit(carried, {(name, number): tasks[number] for number in batch})
                    pending.update(submitted)
                    while submitted:
                        submitted.pop().add_done_callback(finished.put)
                if not pending:
                    return
                yield from self._take(finished, pending)
        finally:
            self._cancel(pending)

    def _submit(self, function: "bytes | Future[bytes]", tasks: dict[tuple[str, int], Any]) -> list[Any]:
        futures: list[Any] = self.client.map(
            _make_call(),
            [_pack(task) for task in tasks.values()],
            [function] * len(tasks),
            key=list(tasks),
            retries=self.retries,
            pure=False,
            fifo_timeout="0ms",  # else dask deals out in turn what came within 100 ms
        )
        return futures

    def _take(self, finished: "SimpleQueue[Future[Any]]", pending: set[Future[Any]]) -> Iterator[Any]:
        """Wait for results, and drop what the cluster holds of them before they are handed out."""
        ready = [self._next(finished, len(pending))]
        with suppress(Empty):
            while len(ready) < _MOST_GATHERED:
                ready.append(finished.get_nowait())
        try:
            results = self.client.gather(ready)
        except (Exception, CancelledError) as error:
            explanation = _explain(error)
            if explanation is None:
                raise
            raise explanation from error
        pending.difference_update(ready)
        ready.clear()
        results.reverse()
        while results:
            yield results.pop()

    def _next(self, finished: "SimpleQueue[Future[Any]]", num_pending: int) -> Future[Any]:
        while True:
            try:
                return finished.get(timeout=_WATCH_SECONDS)
            except Empty:
                # the cluster may have come to its end, or grow again: that is for people to know
                with suppress(OSError):
                    if not self.client.nthreads():
                        logger.warning("The dask cluster has no worker; %d tasks wait for one.", num_pending)

    def _cancel(self, pending: set[Future[Any]]) -> None:
        if pending and self.client.status == "running":
            self.client.cancel(list(pending))
        pending.clear()


def _make_call() -> Callable[[bytes, bytes], object]:
    # a nested function is sent as code: the scheduler needs no tracestore, and a worker without it fails in the task
    # and says so, instead of losing its connection over a message that it cannot read
    def call(task: bytes, function: bytes) -> object:
        from tracestore.executors.packed import call_packed

        return call_packed(task, function)

    return call


def _pack(thing: object) -> bytes:
    try:
        packed: bytes = _dumps(thing)
    except Exception as error:
        message = (
            f"{thing} cannot be pickled for the workers: {error}; functions and tasks must not hold open files, locks "
            "or connections."
        )
        raise ExecutorError(message) from error
    return packed


def _explain(error: BaseException) -> ExecutorError | None:
    """Say what an error of dask means here; None when it is the task's own."""
    if isinstance(error, KilledWorker):
        task = error.task[-1] if isinstance(error.task, tuple) else error.task
        worker = error.last_worker.address
        message = (
            f"Workers died {error.allowed_failures + 1} times while they had task {task}, the last one at {worker}, "
            "perhaps for want of memory: see its log; what others finished is kept: repeat the call to go on."
        )
        return ExecutorError(message, task=task, worker=worker)
    if isinstance(error, CancelledError):
        reason = getattr(error, "reason", None) or "cancelled"
        message = (
            f"The dask scheduler has dropped tasks of this run, or was lost ({reason}); what others finished is kept: "
            "repeat the call to go on."
        )
        return ExecutorError(message, reason=reason)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "tracestore":
        # a worker that came after the check
        message = f"A worker of the dask cluster cannot import tracestore: {error}; install it on all workers."
        return ExecutorError(message)
    return None
