"""Randomness of a rerouted program that could not be recorded: how it is found, and what is said about it.

Operating system randomness is trapped at every run. Generators are watched at some runs only, because finding them
means looking at every object there is: at the first ones of a program in a process, then ever more rarely.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from tracestore.errors import SimulatorProtocolError, TracestoreWarning
from tracestore.hijacking.drawing import Leak, Run, note_leak

__all__ = ["FIRST_RUNS", "RARELY", "EntropyTraps", "LeakWatch"]

FIRST_RUNS = 3
"""Generators are watched at this many first runs of a program in a process."""
RARELY = 1000
"""Later, they are watched at runs whose number is a power of two or a multiple of this."""

_num_runs: dict[object, int] = {}


class LeakWatch:
    """Looks for leaks during one run.

    Parameters
    ----------
    run
        The run.
    program
        Stands for the block and the simulator, which are watched more closely at their first runs.
    sources
        What is rerouted; those that have a ``watch`` method are asked to watch.
    raises
        Whether leaks are errors or warnings.
    """

    def __init__(self, run: Run, program: object, sources: Iterable[object], *, raises: bool) -> None:
        self._run = run
        self._raises = raises
        count = _num_runs[program] = _num_runs.get(program, 0) + 1
        self._ends: list[Callable[[], list[Leak]]] = []
        if count <= FIRST_RUNS or count % RARELY == 0 or count.bit_count() == 1:
            self._ends = [source.watch(is_first=count == 1) for source in sources if hasattr(source, "watch")]

    def finish(self) -> SimulatorProtocolError | None:
        """Stop looking, and return what is to be raised."""
        ended = [leak for end in self._ends for leak in end()]
        found = self._run.leaks + ended
        self._run.leaks = []
        if not found:
            return None
        error = _error(found)
        if self._raises:
            return error
        warnings.warn(str(error), TracestoreWarning, stacklevel=4)
        return None


def _error(leaks: list[Leak]) -> SimulatorProtocolError:
    first = next((leak for leak in leaks if leak.place), leaks[0])
    where = f" in {first.place}" if first.place else ""
    more = f", and {len(leaks) - 1} more" if len(leaks) > 1 else ""
    message = (
        f"The program used randomness that was not recorded: {first.what}{where}{more}; draw by methods of numpy's or "
        "Python's generators there or by `tracestore.sample`, or accept it with hijack(leaks='ignore')."
    )
    error = SimulatorProtocolError(message, leaks=leaks)
    if first.stack:
        error.add_note(f"It was used here:\n{first.stack}")
    return error


class EntropyTraps:
    """Notices the use of operating system randomness; a source like those of `tracestore.hijacking`."""

    def __init__(self) -> None:
        self._traps: dict[int, Callable[..., bytes]] = {id(_native_urandom): _urandom}
        if _native_getrandom is not None:
            self._traps[id(_native_getrandom)] = _getrandom
        self._places: list[tuple[ModuleType, str, Any]] = []
        self._num_modules = 0

    def install(self) -> None:
        """Replace ``os.urandom`` and ``os.getrandom``, wherever modules hold them by name."""
        if len(sys.modules) != self._num_modules:
            self._num_modules = len(sys.modules)
            self._places = [
                (module, name, vars(module)[name])
                for module in [found for found in list(sys.modules.values()) if type(found) is ModuleType]
                for name in ("urandom", "_urandom", "getrandom")
                if id(vars(module).get(name)) in self._traps
            ]
        for module, name, value in self._places:
            setattr(module, name, self._traps[id(value)])

    def remove(self) -> None:
        """Put them back."""
        for module, name, value in self._places:
            setattr(module, name, value)


_native_urandom = os.urandom
_native_getrandom: Callable[..., bytes] | None = getattr(os, "getrandom", None)


def _urandom(size: int, /) -> bytes:
    note_leak("randomness of the operating system (os.urandom; secrets, SystemRandom and uuid4 use it, too)")
    return _native_urandom(size)


def _getrandom(size: int, flags: int = 0) -> bytes:
    note_leak("randomness of the operating system (os.getrandom)")
    return _native_urandom(size) if _native_getrandom is None else _native_getrandom(size, flags)
