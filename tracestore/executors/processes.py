"""Run independent tasks in processes of their own on this machine."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal, TypeVar

from tracestore.errors import ExecutorError, InvalidInputError

__all__ = ["ProcessExecutor"]

Task = TypeVar("Task")
Result = TypeVar("Result")


class ProcessExecutor:
    """Runs each task in a process of its own, several at a time.

    A process ends with its task, so that its memory goes back and nothing is left waiting when this process is killed.

    Parameters
    ----------
    workers
        Processes at a time.
    start_method
        ``fork``; or ``spawn``, for stores on object stores, whose client does not survive a fork.

    Raises
    ------
    InvalidInputError
        When ``workers`` is not positive, or the method is neither.

    Examples
    --------
    >>> sorted(ProcessExecutor(workers=2).run(abs, [-1, 2, -3]))
    [1, 2, 3]
    """

    memory_limit: int | None = None

    def __init__(self, workers: int, *, start_method: Literal["fork", "spawn"] = "fork") -> None:
        if workers < 1:
            message = f"`workers` must be at least 1; got {workers}."
            raise InvalidInputError(message, argument="workers", found=workers)
        if start_method not in ("fork", "spawn"):
            message = f"`start_method` must be 'fork' or 'spawn'; got {start_method!r}."
            raise InvalidInputError(message, argument="start_method", found=start_method)
        self.workers = workers
        self.start_method: Literal["fork", "spawn"] = start_method

    def run(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], *, label: str = "task"
    ) -> Iterator[Result]:
        """Yield results as they come; stop the other processes when one fails.

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
            When a process dies without a result.
        """
        context = (
            multiprocessing.get_context("fork") if self.start_method == "fork" else multiprocessing.get_context("spawn")
        )
        waiting = list(reversed(tasks))
        running: dict[Connection, BaseProcess] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    ours, theirs = context.Pipe(duplex=False)
                    process = context.Process(target=_work, args=(function, waiting.pop(), theirs), daemon=True)
                    process.start()
                    theirs.close()
                    running[ours] = process
                ready = wait(list(running))
                for connection in [one for one in running if one in ready]:
                    result, error = _receive(connection, running.pop(connection))
                    if error is not None:
                        raise error
                    yield result
        finally:
            for left in running.values():
                left.terminate()
            for left in running.values():
                left.join()


def _work(function: Callable[[Task], Result], task: Task, connection: Connection) -> None:
    try:
        connection.send((function(task), None))
    except Exception as error:  # noqa: BLE001  # raised again in the parent
        error.add_note(f"in a process for {task}")
        try:
            connection.send((None, error))
        except Exception:  # noqa: BLE001  # not every exception can be pickled, its text can
            message = f"A task failed with {type(error).__name__}: {error}"
            connection.send((None, ExecutorError(message, exception=type(error).__name__)))


def _receive(connection: Connection, process: BaseProcess) -> tuple[Any, BaseException | None]:
    try:
        outcome: tuple[Any, BaseException | None] = connection.recv()
    except EOFError:
        process.join()
        message = (
            f"A worker process ended with exit code {process.exitcode} before its task was done; "
            "what others finished is kept: repeat the call to go on."
        )
        raise ExecutorError(message, exit_code=process.exitcode) from None
    finally:
        connection.close()
    process.join()
    return outcome
