"""`hijack`: record the draws of a program that knows nothing of this library, as a block or as a decorator.

Sources are rerouted while a block is entered, in the whole process, and put back with the last block. Draws of threads
that the program starts belong to its trace; they are recorded one at a time. When several threads draw at the same
place, which draw becomes which instance depends on how they take turns, so that such a program is not reproduced by its
recorded draws; running it twice, with the same draws, shows that.
"""

import functools
import inspect
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Hashable
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Literal, Protocol, Self, TypeVar, cast, overload

from tracestore.errors import InvalidInputError
from tracestore.hijacking.drawing import begin_run, end_run
from tracestore.hijacking.leaks import LeakWatch
from tracestore.simulators import runtime
from tracestore.simulators.addresses import mark_root
from tracestore.simulators.base import Simulator

__all__ = ["SOURCES", "Hijack", "Source", "hijack"]

Leaks = Literal["raise", "warn", "ignore"]
Function = TypeVar("Function", bound=Callable[..., object])

SOURCES: dict[str, str] = {
    "numpy": "tracestore.hijacking.numpy_source:NumpySource",
    "random": "tracestore.hijacking.random_source:RandomSource",
    "torch": "tracestore.hijacking.torch_source:TorchSource",
}
"""What makes each source of random numbers, as ``module:class``; loaded when it is first asked for."""
_TRAPS = {"entropy": "tracestore.hijacking.leaks:EntropyTraps"}


class Source(Protocol):
    """A library of random numbers whose draws can be rerouted.

    It may also have ``watch(is_first=)``, called at the beginning of a run that is checked for leaks, and told whether
    it is the first of its program. It returns a function that is called at the end of that run and returns a list of
    `Leak`: generators, say, that have moved although no draw should have touched them.
    """

    def install(self) -> None:
        """Reroute; called when the first of nested blocks begins."""

    def remove(self) -> None:
        """Put everything back as it was; called when the last of nested blocks ends."""


class _Installed:
    """The sources of this process, and how many blocks want each."""

    def __init__(self) -> None:
        self.known: dict[str, Source] = {}
        self.counts: dict[str, int] = {}
        self.lock = threading.RLock()

    def get(self, name: str) -> Source:
        source = self.known.get(name)
        if source is None:
            module, _, attribute = (SOURCES | _TRAPS)[name].partition(":")
            source = self.known[name] = getattr(import_module(module), attribute)()
        return source

    def install(self, names: tuple[str, ...]) -> list[Source]:
        """Install what is not yet; all or none."""
        done: list[str] = []
        with self.lock:
            try:
                for name in names:
                    source = self.get(name)
                    if not self.counts.get(name):
                        source.install()
                    self.counts[name] = self.counts.get(name, 0) + 1
                    done.append(name)
            except BaseException:
                self.remove(done)
                raise
            return [self.known[name] for name in names]

    def remove(self, names: "list[str] | tuple[str, ...]") -> None:
        with self.lock:
            for name in reversed(names):
                self.counts[name] -= 1
                if not self.counts[name]:
                    self.known[name].remove()


_installed = _Installed()


class Hijack:
    """What `hijack` returns: a block to enter, or a decorator. One object may be entered several times.

    Parameters
    ----------
    sources
        Names of `SOURCES`; none stands for numpy and random, and torch where it is loaded.
    leaks
        What to do about randomness that was not recorded.
    """

    def __init__(self, sources: tuple[str, ...], leaks: Leaks) -> None:
        for name in sources:
            if name not in tuple(SOURCES):  # what is no name may have no hash
                message = f"`sources` of hijack must be among {', '.join(SOURCES)}; got {name!r}."
                raise InvalidInputError(message)
        if leaks not in ("raise", "warn", "ignore"):
            message = f"`leaks` of hijack must be 'raise', 'warn' or 'ignore'; got {leaks!r}."
            raise InvalidInputError(message)
        self.sources = sources
        self.leaks = leaks

    def __enter__(self) -> Self:
        _Entered(self, sys._getframe(1).f_code)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # not always the last: a generator may keep its block open
        entered = next((one for one in reversed(_blocks.get()) if one.block is self), None)
        if entered is None:
            message = "This block of `hijack` ends where it was not entered; enter and leave it in one place."
            raise InvalidInputError(message)
        entered.leave(error)

    def __call__(self, function: Function) -> Function:
        """Decorate a function: it runs inside of the block, and its addresses begin with it.

        Raises
        ------
        InvalidInputError
            When calling it would not run it: a generator or coroutine function, a class, or a simulator, which is
            declared last.
        """
        if isinstance(function, Simulator):
            message = f"`hijack` must decorate the function, below `simulator`; got {function!r}."
            raise InvalidInputError(message)
        if isinstance(function, type) or not callable(function):
            message = f"`hijack` decorates a function; got {function!r}."
            raise InvalidInputError(message)
        called = function if inspect.isroutine(function) else type(function).__call__
        if any(yields(called) for yields in _LATE):
            raise _too_late(function)

        @functools.wraps(function)
        def hijacked(*args: Any, **kwargs: Any) -> object:  # noqa: ANN401  # those of the function
            entered = _Entered(self, getattr(function, "__code__", function))
            error: BaseException | None = None
            try:
                return _finished(function, function(*args, **kwargs))
            except BaseException as raised:
                error = raised
                raise
            finally:
                entered.leave(error)

        mark_root(hijacked)
        vars(hijacked)["is_hijacked"] = True
        return cast("Function", hijacked)


_LATE = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)


def _finished(function: object, result: object) -> object:
    """Return what a decorated function has returned, unless it has yet to run."""
    if isinstance(result, Generator | Coroutine | AsyncGenerator):
        raise runtime.fatal(_too_late(function))
    return result


def _too_late(function: object) -> InvalidInputError:
    message = (
        f"`hijack` cannot decorate what yields or awaits, which runs later; got {function!r}, so use a block in it."
    )
    return InvalidInputError(message)


# of each greenlet and thread its own: runs in flight leave their blocks in another order than they entered them
_blocks: ContextVar[tuple["_Entered", ...]] = ContextVar("tracestore_hijack_blocks", default=())


class _Entered:
    """One block that has been entered."""

    def __init__(self, block: Hijack, program: object) -> None:
        names = block.sources or ("numpy", "random", *(["torch"] if "torch" in sys.modules else []))
        if block.leaks != "ignore":
            names = (*names, "entropy")
        sources = _installed.install(names)
        self.block = block
        self.names = names
        self.recorder = runtime.current_recorder()
        self.run = begin_run()
        self.watch: LeakWatch | None = None
        _blocks.set((*_blocks.get(), self))
        if self.run is not None and block.leaks != "ignore":
            # one helper may open the block of several simulators
            whose = tuple(
                one if isinstance(one, Hashable) else id(one)
                for one in (program, getattr(self.recorder, "program", None))
            )
            self.watch = LeakWatch(self.run, whose, sources, raises=block.leaks == "raise")

    def leave(self, error: BaseException | None) -> None:
        """End the block, whatever ended it."""
        try:
            found = None if self.watch is None else self.watch.finish()
        finally:
            left = tuple(one for one in _blocks.get() if one is not self)
            if self.run is not None and len(left) < len(_blocks.get()):
                end_run(next((one.run for one in reversed(left) if one.run is not None), None))
            _blocks.set(left)
            _installed.remove(self.names)
        if found is None:
            return
        if self.recorder is not None:
            self.recorder.fatal = found  # the run is worth nothing, even if the program swallows the error
        if error is None:
            raise found


@overload
def hijack(function: Function, /) -> Function: ...
@overload
def hijack(*sources: str, leaks: Leaks = "raise") -> Hijack: ...
def hijack(*sources: Any, leaks: Leaks = "raise") -> Any:
    """Record the draws of an unmodified program: ``with hijack(): ...``, or a decorator.

    Inside of a run of a simulator, every call of a random number method becomes a draw from the prior that the method
    stands for, at an address made of the program's own calls. Seeds are ignored then. Outside of a run nothing changes.

    Parameters
    ----------
    *sources
        Which libraries: ``"numpy"``, ``"random"``, ``"torch"``; by default numpy and random, and torch where it is
        loaded. Or the function to decorate, alone.
    leaks
        What to do about random numbers that could not be recorded: ``"raise"`` ends the run with an error that names
        the place, ``"warn"`` warns, ``"ignore"`` does not look. Randomness of the operating system and raw bits are
        noticed at every run; compiled code that draws by itself, at the first three runs of a program in a process and
        at every thousandth.

    Returns
    -------
    Hijack or function
        A context manager that is a decorator, too; the decorated function when one was given.

    Raises
    ------
    InvalidInputError
        When a source is unknown.
    SimulatorProtocolError
        At the end of a run in which random numbers were used that could not be recorded.

    Examples
    --------
    >>> import numpy as np
    >>> import tracestore as ts
    >>> def walk(num_steps):
    ...     rng = np.random.default_rng(1)
    ...     return sum(rng.normal(0.0, 1.0) for _ in range(num_steps))
    >>> @ts.simulator
    ... def model():
    ...     with hijack("numpy"):
    ...         position = walk(3)
    ...     ts.observe(ts.Normal(position, 0.1), name="seen")
    >>> trace = ts.simulators.run_trace(model, ts.simulators.PriorController(), np.random.default_rng(1))
    >>> [site.family for site in trace.sites]
    ['Normal', 'Normal', 'Normal', 'Normal']
    """
    if len(sources) == 1 and callable(sources[0]):
        return Hijack((), leaks)(sources[0])
    return Hijack(sources, leaks)
