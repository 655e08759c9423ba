"""Run independent tasks on the ranks of an MPI job, through `mpi4py.futures`."""

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tracestore._extras import extra
from tracestore.errors import ExecutorError
from tracestore.executors.packed import call_packed

with extra("mpi"):
    import mpi4py

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["MPIExecutor"]

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")

_SUBMITTED_PER_WORKER = 4
"""Bounds the results that wait on rank 0, while no worker waits for a task."""

_LAUNCHED = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
"""Where MPICH, and Open MPI, say how many processes they have started."""


class MPIExecutor:
    """Runs the tasks on the ranks of an MPI job; all ranks enter it together.

    Rank 0 gets the executor. The other ranks serve its tasks until rank 0 leaves the block, and only then get None.
    Rank 0 does nothing but hand out tasks and take results, waiting without using its core: ``mpiexec -n 5`` gives
    four workers. A job of one rank runs its tasks in that process, one after another.

    A rank that is killed takes the whole job with it, as MPI has it: repeat the call. For the same to happen when a
    rank fails before it is here, start the job with ``mpiexec -n 5 python -m mpi4py SCRIPT``. A function goes along
    with each of its tasks and must be one that all ranks can import, or that the script defines before the block.

    Examples
    --------
    >>> with MPIExecutor() as executor:
    ...     if executor is not None:
    ...         print(sorted(executor.run(abs, [-1, 2, -3])))
    [1, 2, 3]
    """

    memory_limit: int | None = None

    def __init__(self) -> None:
        self._context: Any = None
        self._pool: Any = None

    def __enter__(self) -> Self | None:
        """Serve until rank 0 leaves the block; on rank 0, return at once.

        Raises
        ------
        ExecutorError
            When there is no MPI library, or mpiexec belongs to another one.
        """
        try:
            from mpi4py import MPI  # starts MPI, which the import of a module must not do
            from mpi4py.futures import MPICommExecutor
        except (ImportError, RuntimeError) as error:
            message = f"mpi4py {mpi4py.__version__} finds no MPI library: {error}; load or install one, such as MPICH."
            raise ExecutorError(message) from error
        if MPI.COMM_WORLD.Get_size() == 1:
            _refuse_foreign_launcher()
            logger.warning("This MPI job has one rank, which runs all tasks itself; `mpiexec -n 5` gives four workers.")
            return self
        self._context = MPICommExecutor(MPI.COMM_WORLD, root=0)
        self._pool = self._context.__enter__()
        return None if self._pool is None else self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let the other ranks go; wait for what they are doing."""
        context, self._context, self._pool = self._context, None, None
        if context is not None:
            context.__exit__(kind, error, traceback)

    def run(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], *, label: str = "task"
    ) -> Iterator[Result]:
        """Yield results as they come; the first exception ends the run and cancels what has not begun.

        Tasks are begun in their order.

        Parameters
        ----------
        function
            What to do with a task.
        tasks
            The tasks.
        label
            Not used: nobody watches.

        Raises
        ------
        ExecutorError
            When the function or a task cannot be pickled, or another rank cannot load it.
        """
        if self._pool is None:
            yield from map(function, tasks)
            return
        packed = _pack(function)
        left = iter(tasks)
        finished: SimpleQueue[Future[Any]] = SimpleQueue()
        pending: set[Future[Any]] = set()
        try:
            while True:
                room = _SUBMITTED_PER_WORKER * self._pool.num_workers - len(pending)
                for task in islice(left, room):
                    future = self._pool.submit(call_packed, _pack(task), packed)
                    pending.add(future)
                    future.add_done_callback(finished.put)
                if not pending:
                    return
                future = finished.get()
                pending.remove(future)
                yield future.result()
        finally:
            for future in pending:
                future.cancel()


def _refuse_foreign_launcher() -> None:
    """Each process would think itself alone, and do all of the work."""
    launched = max(int(os.environ.get(name, "1")) for name in _LAUNCHED)
    if launched > 1:
        message = (
            f"mpiexec started {launched} processes, but each is alone for the MPI library of mpi4py; use the mpiexec "
            "that belongs to this library."
        )
        raise ExecutorError(message, launched=launched)


def _pack(thing: object) -> bytes:
    try:
        return pickle.dumps(thing, pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        message = (
            f"{thing} cannot be pickled for the other ranks: {error}; give a function that can be imported by its "
            "name, and tasks that hold data."
        )
        raise ExecutorError(message) from error
