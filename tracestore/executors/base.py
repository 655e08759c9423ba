"""What an executor is, and the one that needs nothing: tasks one after another in this process."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

__all__ = ["Executor", "SerialExecutor"]

Task = TypeVar("Task")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs a function on each of some tasks, anywhere; knows nothing of what they do.

    Tasks are idempotent: an executor may run one twice, for instance after losing a worker. Function, tasks and results
    can be pickled.
    """

    @property
    def memory_limit(self) -> int | None:
        """Bytes of memory that a worker may use; None when the executor knows no limit."""

    def run(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], *, label: str = "task"
    ) -> Iterator[Result]:
        """Yield results as they come, in any order; the first exception ends the run.

        Parameters
        ----------
        function
            What to do with a task.
        tasks
            The tasks, independent of each other.
        label
            What a task is called where people watch: a word or two, such as ``sort``.
        """


class SerialExecutor:
    """Runs the tasks in this process, in order.

    Examples
    --------
    >>> list(SerialExecutor().run(abs, [-1, 2]))
    [1, 2]
    """

    memory_limit: int | None = None

    def run(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], *, label: str = "task"
    ) -> Iterator[Result]:
        """Yield the result of each task.

        Parameters
        ----------
        function
            What to do with a task.
        tasks
            The tasks.
        label
            Not used: nobody watches.
        """
        return map(function, tasks)
