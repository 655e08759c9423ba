"""A sampling profiler of the main thread: a timer interrupts it, and the stack of that moment is kept.

The timer runs on wall time, so waiting counts. Python hands a signal to the program between two of its own steps: one
that comes during a call into a library is handled when the call returns, and a sample therefore counts for all the time
since the one before. A stack whose innermost function has only just begun belongs to its caller: what the signal
interrupted was the caller's last step, such as native code that calls back.

Threads that the program starts, and other processes, are not seen.
"""

import dis
import signal
import threading
import time
from functools import lru_cache
from types import CodeType, FrameType, TracebackType
from typing import NamedTuple, Self

from tracestore.errors import InvalidInputError
from tracestore.profiling.categories import Frame

__all__ = ["INTERVAL_SECONDS", "StackSample", "StackSampler"]

INTERVAL_SECONDS = 0.000_97
"""Just off a thousandth of a second, so as not to keep step with a program."""
RECORDERS = (
    "tracestore.simulators.recorder",
    "tracestore.simulators.batch_recorder",
    "tracestore.simulators.tensor_recorder",
)
ENTRIES = ("sample", "observe", "tag")
"""Functions of recorders whose ``place`` tells which draw is being made."""


class StackSample(NamedTuple):
    """One stack, and how much time was seen in it."""

    frames: tuple[Frame, ...]
    """Outermost first."""
    place: str
    """Of the draw that was being made; empty outside of draws."""
    seconds: float
    num_samples: int
    """Interruptions that found it."""


class _Code(NamedTuple):
    code: CodeType
    module: str
    resume: int
    """Offset of the instruction with which the function begins."""
    is_recorder: bool


class StackSampler:
    """Samples the stack of the main thread while the block lasts.

    Parameters
    ----------
    interval
        Seconds between two samples.

    Raises
    ------
    InvalidInputError
        When the platform has no interval timer, or the block is not entered in the main thread.

    Examples
    --------
    >>> with StackSampler() as sampler:
    ...     total = sum(number * number for number in range(300_000))
    >>> sampler.num_samples > 0
    True
    """

    def __init__(self, interval: float = INTERVAL_SECONDS) -> None:
        self.interval = interval
        self.num_samples = 0
        self.seconds = 0.0
        """Wall time of the block, without that of the sampler."""
        self.own_seconds = 0.0
        """Wall time of the sampler itself."""
        self.squared_seconds = 0.0
        """Sum of the squares of the samples' times."""
        self._stacks: dict[tuple[str, tuple[int, ...]], list[float]] = {}
        self._codes: dict[int, _Code] = {}
        self._is_busy = False
        self._start = self._last = 0.0

    def __enter__(self) -> Self:
        require_timer()
        self._before = signal.signal(signal.SIGALRM, self._take)
        signal.siginterrupt(signal.SIGALRM, False)  # system calls of native code go on
        self._start = self._last = time.perf_counter()
        self._other = signal.setitimer(signal.ITIMER_REAL, self.interval, self.interval)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        elapsed = time.perf_counter() - self._start
        self.seconds = elapsed - self.own_seconds
        signal.signal(signal.SIGALRM, self._before or signal.SIG_DFL)
        left, interval = self._other
        if left:  # an alarm that somebody else has set
            signal.setitimer(signal.ITIMER_REAL, max(left - elapsed, 0.001), interval)

    def samples(self) -> list[StackSample]:
        """Return all stacks, those of the most time first."""
        found = [
            StackSample(tuple(self._frames(stack)), place, seconds, int(number))
            for (place, stack), (seconds, number) in self._stacks.items()
        ]
        return sorted(found, key=lambda sample: -sample.seconds)

    def _take(self, _: int, frame: FrameType | None) -> None:
        if self._is_busy:
            return
        self._is_busy = True
        now = time.perf_counter()
        seconds = now - self._last
        stack: list[int] = []
        place, codes = "", self._codes
        is_innermost = True
        while frame is not None:
            identity = id(frame.f_code)
            known = codes.get(identity) or self._learn(frame)
            if not (is_innermost and frame.f_lasti <= known.resume and frame.f_back is not None):
                stack += (identity, frame.f_lasti)
                if known.is_recorder:
                    place = frame.f_locals.get("place", "")
            is_innermost = False
            frame = frame.f_back
        entry = self._stacks.setdefault((place, tuple(stack)), [0.0, 0])
        entry[0] += seconds
        entry[1] += 1
        self.num_samples += 1
        self.squared_seconds += seconds * seconds
        self._last = time.perf_counter()
        self.own_seconds += self._last - now
        self._is_busy = False

    def _learn(self, frame: FrameType) -> _Code:
        code = frame.f_code  # kept, so that its identity stays its own
        module = str(frame.f_globals.get("__name__", "?"))
        known = _Code(code, module, _resume_offset(code), module in RECORDERS and code.co_name in ENTRIES)
        self._codes[id(code)] = known
        return known

    def _frames(self, stack: tuple[int, ...]) -> list[Frame]:
        frames = []
        for identity, offset in zip(stack[::2], stack[1::2], strict=True):
            code, module, _, _ = self._codes[identity]
            frames.append(Frame(module, code.co_qualname, code.co_filename, _line(code, offset)))
        return frames[::-1]


def require_timer() -> None:
    """Refuse where the timer of the profiler cannot run.

    Raises
    ------
    InvalidInputError
        When the platform has no interval timer, or this is not the main thread.
    """
    if not hasattr(signal, "setitimer"):
        message = "This platform has no interval timer (setitimer), which the profiler needs; run it on Linux or macOS."
        raise InvalidInputError(message)
    if threading.current_thread() is not threading.main_thread():
        raise InvalidInputError("A profile must be made in the main thread, the only one that the timer interrupts.")


def _resume_offset(code: CodeType) -> int:
    instructions = code.co_code[::2]
    position = instructions.find(dis.opmap["RESUME"])
    return 2 * position


@lru_cache(maxsize=65_536)
def _line(code: CodeType, offset: int) -> int:
    for start, end, line in code.co_lines():
        if start <= offset < end and line is not None:
            return line
    return code.co_firstlineno
