"""Progress for people: an observer that draws a bar on a terminal, or writes a line a second elsewhere."""

import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from tracestore.events import Event, PhaseAdvanced, PhaseFinished, PhaseStarted

__all__ = ["Progress"]

BAR_CELLS = 16
SECONDS_BETWEEN_LINES = 1.0
SECONDS_BETWEEN_REDRAWS = 0.1


class Progress:
    """Show the events of a job; pass it as ``observer=`` to any function that takes one.

    On a terminal one line is redrawn in place, at most ten times a second. Elsewhere (a file, a batch system's log)
    a line is written at most once a second. A finished phase leaves one line with its count and time.

    Parameters
    ----------
    stream
        Where to write; standard error by default.
    clock
        A monotonic clock in seconds; for tests.

    Examples
    --------
    >>> import io
    >>> from tracestore.events import PhaseFinished, PhaseStarted
    >>> text = io.StringIO()
    >>> with Progress(text) as progress:
    ...     progress(PhaseStarted("simulate", total=1000))
    ...     progress(PhaseFinished("simulate", seconds=2.0))
    >>> print(text.getvalue().splitlines()[-1])
    simulate: 1,000 traces in 2.0 s
    """

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._is_terminal = self._stream.isatty()
        self._started = PhaseStarted("", 0)
        self._last = PhaseAdvanced("", 0, 0)
        self._start_time = self._next_time = clock()
        self._line_is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close_line()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case PhaseStarted():
                self._close_line()
                self._started, self._last = event, PhaseAdvanced(event.phase, event.done, event.total)
                self._start_time = self._next_time = self._clock()
                if event.done:
                    self._write_line(f"{event.phase}: continuing after {event.done:,} of {event.total:,} {event.unit}")
            case PhaseAdvanced():
                self._last = event
                now = self._clock()
                if now < self._next_time:
                    return
                self._next_time = now + (SECONDS_BETWEEN_REDRAWS if self._is_terminal else SECONDS_BETWEEN_LINES)
                self._draw(now)
            case PhaseFinished():
                self._finish(event)

    def _draw(self, now: float) -> None:
        event = self._last
        share = min(event.done / event.total, 1.0) if event.total else 1.0
        count = f"{event.done:,}/{event.total:,} {self._started.unit} ({share:.0%})"
        parts = [count, *self._pace(now), *([event.note] if event.note else [])]
        if event.failed:
            parts.append(f"{event.failed:,} failed")
        if not self._is_terminal:
            self._write_line(f"{event.phase}: {', '.join(parts)}")
            return
        filled = round(share * BAR_CELLS)
        line = f"{event.phase:<10} [{'#' * filled}{'.' * (BAR_CELLS - filled)}] {', '.join(parts)}"
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r{line[:width]:<{width}}")
        self._stream.flush()
        self._line_is_open = True

    def _pace(self, now: float) -> list[str]:
        done, seconds = self._last.done - self._started.done, now - self._start_time
        if done <= 0 or seconds <= 0:
            return []
        rate = done / seconds
        left = max(self._last.total - self._last.done, 0) / rate
        moved = [f"{_size(self._last.nbytes / seconds)}/s"] if self._last.nbytes else []
        return [f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s", *moved, f"{_duration(left)} left"]

    def _finish(self, event: PhaseFinished) -> None:
        if self._line_is_open:  # the bar gives way to the summary
            self._stream.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
            self._line_is_open = False
        parts = [f"{event.phase}: {self._last.total:,} {self._started.unit} in {_duration(event.seconds)}"]
        if self._last.nbytes:
            parts.append(_size(self._last.nbytes))
        if self._last.failed:
            parts.append(f"{self._last.failed:,} failed")
        self._write_line(", ".join(parts))

    def _close_line(self) -> None:
        if self._line_is_open:
            self._stream.write("\n")
            self._stream.flush()
            self._line_is_open = False

    def _write_line(self, line: str) -> None:
        self._close_line()
        self._stream.write(line + "\n")
        self._stream.flush()


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} GB"
