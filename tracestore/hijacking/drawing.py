"""From a method of a random number library to a recorded draw.

Replaced methods call `recording` first. Where it says no, they do what they always did: outside of a run, inside of
another draw (methods call each other, and priors draw by them), and where it is the engine of this library that draws.
Where it says yes, they make the prior and call `draw`, once or more.

Runs may be suspended inside a draw while others go on, in greenlets; a program may draw in threads of its own. What a
run is in the middle of is therefore kept in a context variable, of which each greenlet and each thread has its own.
Must not know which libraries are rerouted.
"""

import sys
import threading
import traceback
from contextvars import ContextVar
from dataclasses import dataclass
from types import CodeType, FrameType
from weakref import WeakKeyDictionary, ref

from greenlet import getcurrent, greenlet

from tracestore.simulators import runtime
from tracestore.simulators.addresses import describe_chain, roots
from tracestore.simulators.recorder import Recorder, Value
from tracestore.traces.distributions import Distribution

__all__ = ["Leak", "Present", "Run", "begin_run", "draw", "end_run", "native", "note_leak", "recording"]

LEFT_OUT = (
    "tracestore.hijacking.",
    "numpy.",
    "random.",
    "torch.",
    "concurrent.futures.",
    "threading.",
    "networkx.utils.decorators.",
)
"""Packages whose frames are no places of a program: they depend on the interpreter's version, or, as functions that
networkx compiles, are numbered as they come."""
MAX_LEAKS = 8
"""Leaks of one run that are kept."""


@dataclass(frozen=True, slots=True)
class Leak:
    """Randomness that was not recorded."""

    what: str
    """What drew, as part of a sentence: ``os.urandom``, ``PCG64 of a Generator``."""
    place: str = ""
    """Where in the program, as ``function (file:line)``; empty when not known."""
    stack: str = ""
    """The call stack, as Python prints it; empty when not known."""


class Run:
    """What is known of one run of a program whose random numbers are rerouted."""

    __slots__ = ("__weakref__", "hubs", "leaks", "lock", "recorder", "thread")

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = ref(recorder)
        self.lock = threading.RLock()
        """Held while a draw is recorded: the recorder is not made for several threads."""
        self.thread = threading.get_ident()
        self.hubs = _ancestors(getcurrent())
        """Greenlets that schedule this one; what they draw is not the program's."""
        self.leaks: list[Leak] = []

    @property
    def is_over(self) -> bool:
        """Whether the run has ended; a generator that outlives it may have left a block open."""
        recorder = self.recorder()
        return recorder is None or getattr(recorder, "is_over", False)


class _Drawing:
    """Stands in the context variable while a draw is made."""


_DRAWING = _Drawing()
Present = Run | _Drawing | None
_present: ContextVar[Present] = ContextVar("tracestore_hijacked_run", default=None)
_runs: WeakKeyDictionary[Recorder, Run] = WeakKeyDictionary()
_engine: dict[int, bool] = {}
_places: dict[tuple[object, ...], str | None] = {}
_kept: list[CodeType] = []  # keeps the ids in these valid; code objects themselves are slow to hash


def recording(depth: int = 1) -> bool:
    """Whether a draw made now belongs to a trace.

    Parameters
    ----------
    depth
        Number of frames between the program and this function: 1 when the replaced method calls it.

    Examples
    --------
    >>> recording()
    False
    """
    if runtime._current is None:
        return False
    present = _present.get()
    if isinstance(present, _Drawing):
        return False
    if not _is_inside(runtime._current) if present is None else present.is_over:
        return False
    frame = sys._getframe(depth).f_back
    if frame is None:  # the method itself is what a greenlet runs
        return True
    is_engine = _engine.get(id(frame.f_code))
    if is_engine is None:
        is_engine = _engine[id(frame.f_code)] = _belongs_to_engine(frame)
        _kept.append(frame.f_code)
    return not is_engine


def draw(prior: Distribution, method: str, depth: int = 1) -> Value:
    """Record a draw of the present run; only after `recording` said yes.

    Parameters
    ----------
    prior
        Distribution of the draw.
    method
        What the program called, such as ``normal``; the last link of the address.
    depth
        Number of frames between the program and this function: 1 when the replaced method calls it. Frames of
        `tracestore.hijacking` and of numpy are left out in any case, so that a smaller number does no harm.

    Returns
    -------
    float, int or ndarray
        A Python number when the prior is scalar, else a float64 array of its shape.
    """
    recorder = runtime._current
    frame = sys._getframe(depth)
    place = _place(frame.f_back or frame, method)
    # a thread of the program may outlive the run; a module is imported in the first run only
    if recorder is None or place is None:
        with native():
            return prior.sample(runtime._plain_rng())
    present = _present.get()
    run = present if isinstance(present, Run) else _run_of(recorder)
    token = _present.set(_DRAWING)
    try:
        with run.lock:
            return recorder.sample(prior, "", place, True)
    finally:
        _present.reset(token)


class native:  # reads as a statement
    """Draws made inside are not recorded: ``with native(): ...``."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = _present.set(_DRAWING)

    def __exit__(self, *exception: object) -> None:
        _present.reset(self._token)


def begin_run() -> Run | None:
    """Begin to record what the program draws that is called next; None outside of a run."""
    recorder = runtime._current
    if recorder is None or _present.get() is _DRAWING:
        return None
    run = _run_of(recorder)
    _present.set(run)
    return run


def end_run(outer: Run | None) -> None:
    """End what `begin_run` has begun; ``outer`` is the run of a block that is still open, if there is one."""
    _present.set(outer)


def note_leak(what: str, depth: int = 1) -> None:
    """Remember that randomness was used which cannot be recorded; does nothing outside of a run or inside a draw.

    Parameters
    ----------
    what
        What drew, as part of a sentence: ``os.urandom``.
    depth
        Number of frames between the program and this function.
    """
    recorder = runtime._current
    present = _present.get()
    if recorder is None or present is _DRAWING or (present is None and not _is_inside(recorder)):
        return
    frame = sys._getframe(depth)
    frame = frame.f_back or frame
    run = present if isinstance(present, Run) else _run_of(recorder)
    if _belongs_to_engine(frame) or len(run.leaks) >= MAX_LEAKS:
        return
    innermost = frame
    while frame.f_back is not None and _is_no_place(frame):
        frame = frame.f_back
    place = f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
    if all((known.what, known.place) != (what, place) for known in run.leaks):
        run.leaks.append(Leak(what, place, _stack(innermost)))


def _stack(frame: FrameType) -> str:
    """Stack as Python prints it, from where the program begins."""
    lines = []
    outer: FrameType | None = frame
    while outer is not None and id(outer.f_code) not in roots:
        lines += traceback.format_stack(outer, 1)
        outer = outer.f_back
    return "".join(reversed(lines))


def _place(frame: FrameType, method: str) -> str | None:
    """Address of a draw: the chain of the program's calls, then the method; None while a module is imported."""
    key: list[object] = [method]
    outer: FrameType | None = frame
    while outer is not None:
        code = id(outer.f_code)
        if code in roots:
            break
        key += (code, outer.f_lasti)
        outer = outer.f_back
    place = _places.get(tuple(key), "")
    if place == "":
        place = _places[tuple(key)] = _describe(frame, outer, method)
    return place


def _describe(frame: FrameType, end: FrameType | None, method: str) -> str | None:
    """Text for a chain of frames up to where it ends; None where a module is being imported on the way."""
    chain = []
    is_import = False
    outer: FrameType | None = frame
    while outer is not None and outer is not end:
        _kept.append(outer.f_code)
        is_import |= outer.f_globals.get("__name__") == "importlib._bootstrap"
        if not _is_left_out(outer):
            chain.append((outer.f_code, outer.f_lasti))
        outer = outer.f_back
    if is_import:
        return None
    return f"{describe_chain(chain)}/{method}" if chain else method


def _is_left_out(frame: FrameType) -> bool:
    module: str = frame.f_globals.get("__name__", "")
    return f"{module}.".startswith(LEFT_OUT)


def _is_no_place(frame: FrameType) -> bool:
    """Whether a frame is of numpy, of this library, or of the standard library; people look for their own code."""
    module: str = frame.f_globals.get("__name__", "")
    return _is_left_out(frame) or module.partition(".")[0] in sys.stdlib_module_names - {"__main__"}


def _belongs_to_engine(frame: FrameType) -> bool:
    """Whether it is this library that draws: priors, proposals and schedulers do, the bundled simulators do not."""
    module: str = frame.f_globals.get("__name__", "")
    return module.startswith("tracestore.") and not module.startswith(
        ("tracestore.simulators.", "tracestore.hijacking.")
    )


def _is_inside(recorder: Recorder) -> bool:
    """Whether a context that knows of no run is the program's: a thread or a greenlet of its own."""
    run = _run_of(recorder)
    return run.thread != threading.get_ident() or getcurrent() not in run.hubs


def _run_of(recorder: Recorder) -> Run:
    run = _runs.get(recorder)
    if run is None:
        run = _runs[recorder] = Run(recorder)
    return run


def _ancestors(current: greenlet) -> list[greenlet]:
    found = []
    parent = current.parent
    while parent is not None:
        found.append(parent)
        parent = parent.parent
    return found
