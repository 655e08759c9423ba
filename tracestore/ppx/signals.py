"""SIGINT and SIGTERM as an exception that ends a wait at once."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self

__all__ = ["SignalWatch", "Signaled"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signaled(BaseException):
    """A signal came; not an `Exception`, so that simulators do not swallow it."""


class SignalWatch:
    """Raises `Signaled` at SIGINT and SIGTERM, where signals are handled at all: in the main thread.

    A second signal has its usual effect. Signals that the process ignores stay ignored.

    Examples
    --------
    >>> with SignalWatch() as watch:
    ...     try:
    ...         os.kill(os.getpid(), signal.SIGTERM)
    ...     except Signaled:
    ...         print(watch.number == signal.SIGTERM)
    True
    """

    def __init__(self) -> None:
        self.number = 0
        """Number of the signal that came; 0 for none."""
        self.descriptors: tuple[int, ...] = ()
        """To be waited for, too: readable after a signal, which would go unnoticed just before a wait begins."""
        self._previous: dict[signal.Signals, signal._HANDLER] = {}
        self._previous_descriptor = -1
        self._ends: tuple[int, ...] = ()

    def __enter__(self) -> Self:
        self.number = 0
        if threading.current_thread() is threading.main_thread():
            self._ends = os.pipe()
            for descriptor in self._ends:
                os.set_blocking(descriptor, False)
            self.descriptors = self._ends[:1]
            self._previous_descriptor = signal.set_wakeup_fd(self._ends[1], warn_on_full_buffer=False)
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()
        if self._ends:
            signal.set_wakeup_fd(self._previous_descriptor)
            for descriptor in self._ends:
                os.close(descriptor)
        self._ends = self.descriptors = ()

    def drain(self) -> None:
        """Forget signals that others handle."""
        for descriptor in self.descriptors:
            with suppress(BlockingIOError):
                os.read(descriptor, 4096)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()
        raise Signaled
