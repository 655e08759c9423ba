"""Closed programs as simulators: the functions that draw their random numbers are replaced when they are loaded.

The program is not changed and not rebuilt. A small library, built from `tracestore/native/src` for the functions that
the hooks name, is preloaded into it and makes it a PPX program: each call of such a function becomes a draw, at an
address made of the names of the functions that led to it. One process makes one run, in a folder of its own; what
it printed is then read by a function of the user, which observes it.

Must not know ELF files, nor how processes are started.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracestore.errors import FormatError, InvalidInputError, SimulatorProtocolError
from tracestore.native.build import build_library
from tracestore.native.call_stack import Place
from tracestore.native.hooks import Hook, interposer_source
from tracestore.native.symbols import UNNAMED, describe
from tracestore.ppx.binaries import check_symbols, find_binaries
from tracestore.ppx.build import inputs_of
from tracestore.ppx.direct import DirectLink
from tracestore.ppx.messages import RunResult, Sample, SampleResult
from tracestore.ppx.preloaded import Preloaded, PreloadedPlaces, ProgramOutput
from tracestore.simulators.addresses import mark_root
from tracestore.simulators.base import Simulator
from tracestore.simulators.native_loops import Loop, LoopTracker
from tracestore.simulators.replay_check import require_reproducible
from tracestore.simulators.runtime import current_recorder, fatal, sample
from tracestore.traces.address import address_id

__all__ = ["InterposedProgram", "ProgramOutput", "readable_address"]

SYSTEM_NAME = "tracestore_preload 1"
FRAMES_AT_END = 16
"""Of a chain that is too long for an address, so many frames are kept at each end."""
MAX_REMEMBERED = 64
"""Runs of which the output is compared with that of a run with the same draws."""

MAX_KEPT = 4096
"""Of longer outputs a digest is remembered."""

_SEPARATOR = " | "
_FLAGS = ("-std=gnu11", "-fno-omit-frame-pointer", "-ldl", "-lpthread", "-lm")
_MOST_ADDRESSES = 50_000


class InterposedProgram(Simulator):
    """A program whose random number functions are replaced while it runs, as a simulator.

    Needs Linux, a C compiler, and a program that calls these functions through the dynamic loader: one that is
    dynamically linked, with the functions in a shared library. Names are mangled; ``nm -D --undefined-only PROGRAM``
    lists those that a program looks up.

    Parameters
    ----------
    command
        The program and its arguments. It runs in a folder that is empty at first, so paths among the arguments should
        be absolute. A script is run by its interpreter, which is then the program.
    hooks
        The functions that draw.
    observe
        Called in the same trace after the program has ended well, with its `ProgramOutput`; scores what was printed
        with `observe`, and records numbers with `tag`. What it returns becomes the result of the trace.
    loops
        Rejection loops in functions of the program, so that passes that were not accepted can be left out.
    files
        Files and folders that appear in each run's folder, under their own names, as links.
    libraries
        Libraries that the program opens while it runs, such as plugins, in which hooked functions are called.
    environment
        Variables beside those of this process.
    instances
        Most programs that run at the same time for one process.
    timeout
        Seconds for which the program may compute between two draws.
    compare
        What must be the same when the draws are; by default all of standard output. Give a function that leaves
        out times and the like when the program prints them.
    name
        Identity in jobs; made of the command when not given.

    Raises
    ------
    InvalidInputError
        When there are no hooks, or a file is missing or has the name of another.
    SimulatorError
        When the program cannot be interposed: no such file, statically linked, 32-bit, with rights of its own, a
        library missing, or no call of a hooked function by name.
    CompilerError
        When the preloaded library cannot be built.

    Examples
    --------
    >>> InterposedProgram(["/bin/true"], hooks=[])
    Traceback (most recent call last):
    tracestore.errors.InvalidInputError: Give at least one hook, for a function that draws random numbers.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        hooks: Sequence[Hook],
        observe: Callable[[ProgramOutput], object] | None = None,
        loops: Sequence[Loop] = (),
        files: Iterable[str | Path] = (),
        libraries: Iterable[str | Path] = (),
        environment: Mapping[str, str] | None = None,
        instances: int = 1,
        timeout: float = 30.0,
        compare: Callable[[ProgramOutput], object] | None = None,
        name: str | None = None,
    ) -> None:
        if isinstance(command, str | Path):
            message = f"`command` must be a list of words, such as ['./program', '5']; got {command!r}."
            raise InvalidInputError(message, found=command)
        _check_types(hooks=(hooks, list | tuple), instances=(instances, int), timeout=(timeout, int | float))
        words = [str(word) for word in command]
        _check(words, hooks, instances, timeout)
        self._arguments: dict[str, Any] = {
            "command": words, "hooks": tuple(hooks), "observe": observe, "loops": tuple(loops), "files": tuple(files),
            "libraries": tuple(libraries), "environment": environment, "instances": instances, "timeout": timeout,
            "compare": compare, "name": name,
        }  # fmt: skip
        given = dict(environment or {})
        self.hooks, self.loops = tuple(hooks), tuple(loops)
        self.binaries = find_binaries(words, os.environ | given, opened=map(Path, self._arguments["libraries"]))
        """The files that are loaded."""
        check_symbols([hook.symbol for hook in hooks], self.binaries)
        settings = Preloaded(
            command=(str(self.binaries.start), *words[1:]),
            environment=given | self._preload(given.get("LD_PRELOAD", os.environ.get("LD_PRELOAD", ""))),
            timeout=float(timeout),
            files=_links(self._arguments["files"]),
        )
        self._places = PreloadedPlaces(settings)
        self._compare = compare
        self._outputs: OrderedDict[bytes, object] = OrderedDict()
        self._observe = observe

        def run() -> object:
            return self._run()

        if observe is not None:
            run.__wrapped__ = observe  # type: ignore[attr-defined]  # a part of the fingerprint is its source
        super().__init__(
            run,
            reentrant=True,
            name=name or " ".join(["interposed:" + Path(words[0]).name, *words[1:]]),
            build=" ".join(
                [
                    self.binaries.build,
                    *(f"{hook.symbol}={hook.kind}" for hook in hooks),
                    *map(repr, loops),
                    inputs_of(words[1:], Path(), given, [Path(file) for file in self._arguments["files"]]),
                ]
            ),
            max_in_flight=instances,
        )

    def __repr__(self) -> str:
        return f"InterposedProgram({self.name!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuilt, (type(self), self._arguments)

    def restart(self) -> None:
        """End processes that were loaded ahead of their run."""
        self._places.end()

    def close(self) -> None:
        """End processes that were loaded ahead of their run, and remove their folders; a later run begins anew."""
        self._places.end()

    def require_stable(self, seed: int = 0) -> None:
        """Run twice with the same draws, and refuse a program that does not do the same.

        Raises
        ------
        SimulatorProtocolError
            When the second run makes other draws, or prints something else: the program uses randomness that no hook
            sees, or its addresses change from run to run.
        """
        require_reproducible(self, seed)

    def _preload(self, before: str) -> dict[str, str]:
        """Build the library and return the variables that preload it."""
        library = build_library("tracestore_preload", interposer_source(self.hooks, backend="ppx"), flags=_FLAGS)
        return {
            "LD_PRELOAD": f"{library}:{before}" if before else str(library),
            "TRACESTORE_PPX_PRELOAD": before,
            "TRACESTORE_PPX_SYSTEM": SYSTEM_NAME,
        }

    def _run(self) -> object:
        place = self._places.take()
        tracker = LoopTracker(self.loops)
        try:
            draws = self._answer(place.connect(), tracker)
            tracker.finish()
            output = place.finish()
            self._check_output(draws, output)
            return None if self._observe is None else _call(self._observe, output)
        finally:
            tracker.abandon()
            self._places.give_back(place)

    def _answer(self, link: DirectLink, tracker: LoopTracker) -> bytes:
        """Answer the draws of a run until it ends; returns a digest of them."""
        digest = hashlib.blake2b(digest_size=16)
        program, recorder = str(self.binaries.program), current_recorder()
        link.begin_run()
        while True:
            message = link.receive()
            if isinstance(message, RunResult):
                return digest.digest()
            if not isinstance(message, Sample):
                error = f"A preloaded program sent {type(message).__name__}."
                raise SimulatorProtocolError(error)
            address = readable_address(message.address, program)
            if recorder is not None and self.loops:
                tracker.enter(Place(address_id(address) >> 1, address, ()), recorder)
            value = sample(message.prior, address=address)
            digest.update(f"{message.address}={value!r};".encode())
            link.send(SampleResult(value))

    def _check_output(self, draws: bytes, output: ProgramOutput) -> None:
        """Refuse a program that printed something else when it drew the same before."""
        found = _summary(output.stdout) if self._compare is None else self._compare(output)
        before = self._outputs.setdefault(draws, found)
        while len(self._outputs) > MAX_REMEMBERED:
            self._outputs.popitem(last=False)
        if before != found:
            message = (
                f"The program {self.binaries.program.name!r} printed something else when it was run again with the"
                f" same draws: {_shown(found)} after {_shown(before)}. It uses randomness that no hook sees, or prints"
                " times and the like: hook the other function that draws, or leave such parts out with `compare`."
            )
            raise fatal(SimulatorProtocolError(message))


@mark_root
def _call(observe: Callable[[ProgramOutput], object], output: ProgramOutput) -> object:
    return observe(output)


def readable_address(raw: str, program: str) -> str:
    """Name the functions of a chain of return addresses.

    Parameters
    ----------
    raw
        ``module@offset`` joined by ``|``, outermost first; modules are paths of ELF files, offsets are in hexadecimal
        and count from where the module is loaded.
    program
        The module whose functions are written without its name.

    Returns
    -------
    str
        ``function@offset``, for other modules ``library:function@offset``, joined by ``|``. The middle of a long
        chain, as recursion makes it, is replaced by its length and digest.

    Examples
    --------
    >>> readable_address("?@0 | /nowhere/libgone.so@1a", "/bin/true")
    '?:?@0 | libgone.so:?@1a'
    """
    known = _addresses.get((raw, program))
    if known is None:
        if len(_addresses) >= _MOST_ADDRESSES:
            _addresses.clear()
        frames = [_frame(text, program) for text in raw.split(_SEPARATOR)] if raw else [UNNAMED]
        if len(frames) > 2 * FRAMES_AT_END:
            middle = frames[FRAMES_AT_END:-FRAMES_AT_END]
            digest = hashlib.blake2b(_SEPARATOR.join(middle).encode(), digest_size=8).hexdigest()
            frames[FRAMES_AT_END:-FRAMES_AT_END] = [f"[{len(middle)} frames {digest}]"]
        known = _addresses[raw, program] = _SEPARATOR.join(frames)
    return known


_addresses: dict[tuple[str, str], str] = {}


def _frame(text: str, program: str) -> str:
    path, _, offset = text.rpartition("@")
    try:
        frame = describe(path, int(offset, 16))
    except (InvalidInputError, FormatError, ValueError):  # no file, as for code that was made at run time
        frame = f"{UNNAMED}@{offset}"
    return frame if path == program else f"{Path(path).name}:{frame}"


def _rebuilt(kind: type[InterposedProgram], arguments: Mapping[str, Any]) -> InterposedProgram:
    return kind(**arguments)


def _check(words: Sequence[str], hooks: Sequence[Hook], instances: int, timeout: float) -> None:
    if not words:
        message = "`command` must name a program; it is empty."
        raise InvalidInputError(message)
    if not hooks:
        message = "Give at least one hook, for a function that draws random numbers."
        raise InvalidInputError(message)
    if instances < 1 or not timeout > 0.0:
        message = f"`instances` and `timeout` must be positive; got {instances} and {timeout}."
        raise InvalidInputError(message)


def _check_types(**given: tuple[object, Any]) -> None:
    for name, (value, kind) in given.items():
        if not isinstance(value, kind) or (name == "hooks" and not all(isinstance(one, Hook) for one in value)):
            expected = {"hooks": "a list of `Hook`", "instances": "a whole number", "timeout": "a number of seconds"}
            message = f"`{name}` must be {expected[name]}; got {value!r}."
            raise InvalidInputError(message, argument=name)


def _links(files: Iterable[str | Path]) -> dict[str, Path]:
    """Return the files of each run's folder by their names there."""
    found: dict[str, Path] = {}
    for file in files:
        path = Path(file).resolve()
        if not path.exists() or path.name in found:
            what = "is there twice" if path.name in found else "does not exist"
            message = f"`files` must be existing files of different names; {str(file)!r} {what}."
            raise InvalidInputError(message, path=str(file))
        found[path.name] = path
    return found


def _summary(text: str) -> str:
    """Return a text, or of a long one what tells it from others."""
    if len(text) <= MAX_KEPT:
        return text
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{len(text)} characters {digest}: {text[:MAX_KEPT]}"


def _shown(found: object) -> str:
    text = repr(found)
    return text if len(text) <= 200 else f"{text[:200]}..."
