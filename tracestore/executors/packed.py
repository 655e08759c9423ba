"""What travels to another machine: a function and a task as bytes, and the call that puts them together there.

Bytes pass through schedulers and queues untouched; only the worker that runs the task needs what they refer to. Knows
nothing of who carries them.
"""

import pickle
import platform
import threading
from typing import Any

from tracestore.errors import ExecutorError, TracestoreError

__all__ = ["call_packed"]


class _LastFunction(threading.local):
    """The function that a thread called last: stores keep what they have read, so it is not made anew for each task."""

    packed: bytes = b""
    function: Any = None


_last = _LastFunction()


def call_packed(task: bytes, function: bytes) -> object:
    """Call a pickled function with a pickled task, which the same user has pickled.

    Parameters
    ----------
    task
        The task.
    function
        The function.

    Raises
    ------
    ExecutorError
        When this machine has no such function, or lacks a module for it.

    Examples
    --------
    >>> import pickle
    >>> call_packed(pickle.dumps(-3), pickle.dumps(abs))
    3
    """
    try:
        if _last.packed != function:
            _last.function, _last.packed = pickle.loads(function), function
        argument = pickle.loads(task)
    except TracestoreError:
        raise
    except (ImportError, AttributeError) as error:
        message = (
            f"A worker on {platform.node()} cannot load its task: {error}; install the same packages on all workers, "
            "or put the folder of your own module on their PYTHONPATH."
        )
        raise ExecutorError(message, host=platform.node()) from None
    try:
        result: object = _last.function(argument)
    except Exception as error:
        error.add_note(f"on {platform.node()} for {argument}")
        raise
    return result
