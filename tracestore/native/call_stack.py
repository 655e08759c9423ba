"""Places of native code: the chain of calls in a simulator's own modules that leads to a draw.

Found with ``backtrace`` of the C library through ctypes, so that no compiler is needed; `tracestore.native.hooks` is
the fast way to the same places. Knows no simulators.
"""

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import xxhash

from tracestore.errors import InvalidInputError, SimulatorError
from tracestore.native.symbols import LoadedModule, demangle, describe, elf_file, loaded_module

__all__ = ["MOST_FRAMES", "CallStack", "Place", "place_names"]

MOST_FRAMES = 16384
"""Of longer chains only this many frames, the innermost ones, are looked at."""
_FRAMES_AT_END = 16  # of a chain that is too long for an address, so many frames are kept at each end
_FEWEST_FRAMES = 8
_MOST_CACHED = 50_000
_POINTER_BYTES = ctypes.sizeof(ctypes.c_size_t)
_SEPARATOR = " | "
_OFFSET = re.compile(r"@[0-9a-f]+$")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in native code at which a draw is made."""

    id: int
    """Digest of the text, below 2**63; the same in every process."""
    text: str
    """Function names with the offsets of the return addresses, outermost first, joined by ``|``."""
    functions: tuple[str, ...]
    """Short function names, outermost first; all of them, however long the chain."""


def place_names(text: str) -> str:
    """Strip the offsets of a place's text, for people.

    Examples
    --------
    >>> place_names("Pythia::next@1f03a4 | TauDecays::decay@3f2a10")
    'Pythia::next | TauDecays::decay'
    """
    return _SEPARATOR.join(_OFFSET.sub("", frame) for frame in text.split(_SEPARATOR))


class CallStack:
    """The calls that led from outside of a native module to where it is now.

    A chain of frames begins at the innermost frame of the modules and goes outward to the last one before a frame of
    anything else, such as the interpreter.

    Parameters
    ----------
    module
        Path or name of a shared library that is loaded in this process.
    others
        Further libraries whose frames belong to the chain; their frames are written ``libname:function@offset``.
    outermost
        Short name of the function at which a chain begins; frames outside of it are cut, which removes binding code.
        Chains without it stay whole.
    drawing
        Short names of the functions that make draws; they are cut with everything inward of them.
    drop_namespaces
        Leading namespaces that names are written without.

    Raises
    ------
    InvalidInputError
        When a module is not loaded, or the system is not Linux with glibc.
    FormatError
        When the file of a module is damaged.

    Examples
    --------
    >>> stack = CallStack("libc.so.6")
    >>> len(stack.build) >= 16
    True
    """

    def __init__(
        self,
        module: str | Path,
        *,
        others: Sequence[str | Path] = (),
        outermost: str | None = None,
        drawing: Sequence[str] = (),
        drop_namespaces: Sequence[str] = (),
    ) -> None:
        self.modules: tuple[LoadedModule, ...] = tuple(loaded_module(path) for path in (module, *others))
        """The loaded modules whose frames belong to chains."""
        self._outermost = outermost
        self._drawing = frozenset(drawing)
        self._drop_namespaces = tuple(drop_namespaces)
        self._backtrace = _backtrace()
        self._buffers: list[ctypes.Array[ctypes.c_size_t]] = []
        self._num_frames = _FEWEST_FRAMES
        self._by_stack: dict[bytes, Place] = {}
        self._by_chain: dict[tuple[int, ...], Place] = {}

    @property
    def build(self) -> str:
        """Build-ids of the modules, joined by ``+``: what texts of places are valid for."""
        return "+".join(elf_file(module.path).build_id for module in self.modules)

    def place(self) -> Place:
        """Find the place at which the modules called back into Python.

        Raises
        ------
        SimulatorError
            When no frame of the modules is on the stack.
        """
        stack = self._stack(self._num_frames)
        place = self._by_stack.get(stack)
        if place is None:
            place = self.place_of(self._whole_chain(stack))
            if len(self._by_stack) >= _MOST_CACHED:
                self._by_stack.clear()
            self._by_stack[stack] = place
        return place

    def place_of(self, chain: Sequence[int]) -> Place:
        """Describe a chain of return addresses.

        Parameters
        ----------
        chain
            Innermost first; all in the modules, at least one.

        Raises
        ------
        SimulatorError
            When the chain is empty, or an address lies outside of the modules.
        """
        key = tuple(chain)
        place = self._by_chain.get(key)
        if place is None:
            place = self._describe(key[:MOST_FRAMES])
            if len(self._by_chain) >= _MOST_CACHED:
                self._by_chain.clear()
            self._by_chain[key] = place
        return place

    def forget(self) -> None:
        """Forget all places and names found so far; for measurements."""
        self._by_stack.clear()
        self._by_chain.clear()
        describe.cache_clear()
        demangle.cache_clear()

    def module_of(self, address: int) -> LoadedModule | None:
        """Find the module of the chain that holds a machine address."""
        for module in self.modules:
            if module.base <= address < module.end:
                return module
        return None

    def _stack(self, num_frames: int) -> bytes:
        """Return so many return addresses, innermost first; as bytes, which are hashed in less time than a tuple."""
        try:
            buffer = self._buffers.pop()  # another thread may come in here, and finds another one
        except IndexError:
            buffer = (ctypes.c_size_t * num_frames)()
        if len(buffer) < num_frames:
            buffer = (ctypes.c_size_t * num_frames)()
        stack = ctypes.string_at(buffer, _POINTER_BYTES * self._backtrace(buffer, num_frames))
        self._buffers.append(buffer)
        return stack

    def _whole_chain(self, stack: bytes) -> list[int]:
        """Cut the inner frames that are not of the modules, and everything outward of the next such frame.

        Each frame costs time, so later calls look at no more frames than the longest chain so far needed.
        """
        num_frames = self._num_frames
        while True:
            addresses = memoryview(stack).cast("L").tolist()
            is_inside = [self.module_of(address) is not None for address in addresses]
            start = is_inside.index(True) if True in is_inside else len(addresses)
            is_complete = False in is_inside[start:]
            if is_complete or len(addresses) < num_frames or num_frames > 2 * MOST_FRAMES:
                stop = is_inside.index(False, start) if is_complete else len(addresses)
                self._num_frames = max(self._num_frames, stop + 1)
                return addresses[start:stop]
            num_frames *= 2
            stack = self._stack(num_frames)

    def _describe(self, chain: tuple[int, ...]) -> Place:
        if not chain:
            names = ", ".join(Path(module.path).name for module in self.modules)
            message = (
                f"A draw came from outside of {names}; name the library that makes it as a module of the call stack."
            )
            raise SimulatorError(message)
        frames = [self._frame(address) for address in chain]
        functions = [_OFFSET.sub("", frame) for frame in frames]
        start = self._first_after_drawing(functions)
        stop = len(functions)
        if self._outermost in functions[start:]:
            stop -= functions[::-1].index(self._outermost)
        frames, functions = frames[start:stop][::-1], functions[start:stop][::-1]
        text = _SEPARATOR.join(_bounded(frames))
        return Place(xxhash.xxh3_64_intdigest(text.encode()) >> 1, text, tuple(functions))

    def _frame(self, address: int) -> str:
        module = self.module_of(address)
        if module is None:
            message = f"The address {address:#x} lies outside of the modules of the call stack."
            raise SimulatorError(message, address=address)
        frame = describe(module.path, address - module.base, self._drop_namespaces)
        return frame if module is self.modules[0] else f"{Path(module.path).name}:{frame}"

    def _first_after_drawing(self, functions: list[str]) -> int:
        for position, function in enumerate(functions):
            if function in self._drawing:
                while position < len(functions) and functions[position] in self._drawing:
                    position += 1
                return min(position, len(functions) - 1)
        return 0


def _bounded(frames: list[str]) -> list[str]:
    """Replace the middle of a long chain, as recursion makes it, by its length and digest."""
    if len(frames) <= 2 * _FRAMES_AT_END:
        return frames
    middle = frames[_FRAMES_AT_END:-_FRAMES_AT_END]
    digest = xxhash.xxh3_64_hexdigest(_SEPARATOR.join(middle).encode())
    return [*frames[:_FRAMES_AT_END], f"[{len(middle)} frames {digest}]", *frames[-_FRAMES_AT_END:]]


@lru_cache(maxsize=1)
def _backtrace() -> "ctypes._NamedFuncPointer":
    try:
        function = ctypes.PyDLL(
            None
        ).backtrace  # without giving up the interpreter lock, which costs more than the call
    except AttributeError as error:
        message = (
            "Addresses of native code need `backtrace` of the GNU C library, and this system has none; "
            "run the simulator as a program that speaks PPX instead."
        )
        raise InvalidInputError(message) from error
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_int), ctypes.c_int
    return function
