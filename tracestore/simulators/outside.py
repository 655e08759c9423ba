"""Runs that wait for something outside of this process, such as a program at the end of a socket.

A simulator calls `wait_for`. Where one run is made after the other it blocks; where a scheduler keeps several in
flight, the run is suspended and others go on. Must not know what is waited for, nor who schedules.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol, Self

__all__ = ["Outside", "suspend_by", "wait_for"]


class Outside(Protocol):
    """What a run waits for."""

    @property
    def deadline(self) -> float:
        """When waiting is given up, on the clock of `time.monotonic`; infinite for never."""

    def is_ready(self) -> bool:
        """Whether there is something to go on with; does not block."""

    @classmethod
    def wait_any(cls, several: Sequence[Self], timeout: float | None) -> None:
        """Block until one of several is ready.

        Parameters
        ----------
        several
            What is waited for, at least one; all of this class.
        timeout
            Seconds to wait at most; None waits as long as it takes. May return early.
        """


Suspend = Callable[[Outside], None]

_suspend: Suspend | None = None


def wait_for(outside: Outside) -> bool:
    """Wait until something outside is ready.

    Parameters
    ----------
    outside
        What to wait for.

    Returns
    -------
    bool
        False when its deadline has passed and it is still not ready.

    Examples
    --------
    >>> class Bell:
    ...     deadline = 0.0
    ...     def is_ready(self):
    ...         return True
    >>> wait_for(Bell())
    True
    """
    if outside.is_ready():
        return True
    if _suspend is not None:
        _suspend(outside)
        return outside.is_ready()
    while (left := outside.deadline - time.monotonic()) > 0.0:
        outside.wait_any([outside], None if left == math.inf else left)
        if outside.is_ready():
            return True
    return False


def suspend_by(suspend: Suspend | None) -> Suspend | None:
    """Say how runs are suspended that wait from now on; returns how they were.

    Parameters
    ----------
    suspend
        Called with what the present run waits for; returns when that is ready or its deadline has passed. None blocks.
    """
    global _suspend  # belongs to the current run, as the current recorder does
    previous, _suspend = _suspend, suspend
    return previous
