"""Draws of a native library in this process, answered by a Python function, with their places.

Wrappers of the library's drawing functions are compiled into a small library. Loaded before the simulator's own module,
they are what the module calls. They find the place of the draw, and ask Python for the value. Knows no simulators and
no traces: what a value is drawn from is the business of the callback.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tracestore.errors import CompilerError, InvalidInputError, SimulatorError
from tracestore.native.build import build_library
from tracestore.native.call_stack import CallStack, Place
from tracestore.native.frame_rules import FrameRules
from tracestore.native.hooks import Hook, interposer_source
from tracestore.native.symbols import elf_file, module_at, open_module

__all__ = ["CallbackLibrary", "DrawCallback", "load_callback_library", "read_arguments"]

DrawCallback = Callable[[int, int, int, int], float]


def load_callback_library(hooks: Sequence[Hook] = (), *, interpose: bool = True) -> "CallbackLibrary":
    """Compile wrappers, and load them into this process ahead of the libraries that are loaded later.

    Call it before the simulator's module is imported. The same arguments give the same object again.

    Parameters
    ----------
    hooks
        Functions to replace; none for libraries that have a function pointer to set.
    interpose
        Whether the wrappers take the place of the functions in all libraries that are loaded later. Otherwise nothing
        calls them until somebody writes their addresses (`CallbackLibrary.wrapper_pointer`) to where calls are led.

    Raises
    ------
    CompilerError
        When they cannot be compiled.
    InvalidInputError
        When two hooks have the same symbol.
    """
    return _load(tuple(hooks), interpose and bool(hooks))


def read_arguments(pointer: int, num_arguments: int) -> tuple[float, ...]:
    """Read the arguments of a draw, while the callback that was given them has not returned.

    Examples
    --------
    >>> import ctypes
    >>> numbers = (ctypes.c_double * 2)(2.0, 0.5)
    >>> read_arguments(ctypes.addressof(numbers), 2)
    (2.0, 0.5)
    """
    return tuple((ctypes.c_double * num_arguments).from_address(pointer)) if pointer and num_arguments else ()


class CallbackLibrary:
    """Wrappers that are loaded into this process; made by `load_callback_library`.

    Until `attach` and `set_callback` were called the wrappers call the functions that they replace. A wrapper that is
    called from another module than those of the call stack does so, too.

    Parameters
    ----------
    path
        The compiled library.
    hooks
        What it replaces.
    interpose
        Whether its names are visible to libraries that are loaded later.
    """

    def __init__(self, path: Path, hooks: tuple[Hook, ...], *, interpose: bool) -> None:
        self.path = path
        self.hooks = hooks
        self._loaded_before = _loaded_files() if interpose else frozenset()
        try:
            self._library = ctypes.PyDLL(str(path), mode=ctypes.RTLD_GLOBAL if interpose else ctypes.RTLD_LOCAL)
        except OSError as error:
            message = (
                f"The library that was built cannot be loaded: {error}. Set TRACESTORE_CACHE to a folder from which "
                "programs may be run."
            )
            raise CompilerError(message, path=str(path)) from error
        self._declare()
        self._stack: CallStack | None = None
        self._rules: dict[str, FrameRules] = {}
        self._places: dict[int, Place] = {}
        self._errors: list[BaseException] = []
        self._library.tracestore_set_helpers(self._name, self._resolve, self._errors.append)
        self._bypasses_names = False

    @property
    def uniform_double_pointer(self) -> int:
        """Address of a function ``double(void)`` that draws, to assign to a library's function pointer."""
        return _address(self._library.tracestore_uniform_double)

    @property
    def uniform_float_pointer(self) -> int:
        """Address of a function ``float(void)`` that draws, to assign to a library's function pointer."""
        return _address(self._library.tracestore_uniform_float)

    def wrapper_pointer(self, symbol: str) -> int:
        """Return the address of the wrapper of a hooked function."""
        return _address(getattr(self._library, symbol))

    @property
    def num_unusable(self) -> int:
        """How many values of the callback a wrapper could not use; random numbers stood in for them."""
        return int(self._library.tracestore_num_unusable())

    @property
    def num_unwound(self) -> int:
        """How many chains were found by the system's unwinder, which takes longer, for want of simple rules."""
        return int(self._library.tracestore_num_unwound())

    @property
    def num_mismatches(self) -> int:
        """How often the quick way to a chain contradicted the system's unwinder; it is not used afterwards."""
        return int(self._library.tracestore_num_mismatches())

    def attach(self, stack: CallStack) -> None:
        """Say whose draws are replaced: those that come from the modules of a call stack.

        Parameters
        ----------
        stack
            Describes the places of draws; its modules are loaded.

        Raises
        ------
        InvalidInputError
            When no module of the call stack has a hooked function to replace, or one was loaded before the wrappers.
        """
        for number, hook in enumerate(self.hooks):
            self._library.tracestore_set_original(number, self._original(hook, stack))
        ranges = [end for module in stack.modules for end in (module.base, module.end)]
        if self._library.tracestore_set_modules((ctypes.c_uint64 * len(ranges))(*ranges), len(stack.modules)) != 0:
            message = f"A call stack of hooks can have at most 64 modules; got {len(stack.modules)}."
            raise InvalidInputError(message, num_modules=len(stack.modules))
        self._stack = stack
        self._places.clear()

    @contextmanager
    def answered_by(self, function: DrawCallback) -> Iterator[None]:
        """Answer the draws of calls that are made inside the block; then the library draws by itself again.

        Parameters
        ----------
        function
            See `set_callback`. An exception that it raises leaves the block after the library has returned.

        Raises
        ------
        SimulatorError
            When the library got a value that its drawing function cannot return.
        """
        before = self.num_unusable
        self.set_callback(function)
        try:
            yield
        finally:
            self.set_callback(None)
            self.raise_error()
        if self.num_unusable > before:
            message = (
                f"{self.num_unusable - before} values lie outside of what the drawing functions of the library return; "
                "check the prior of each kind of draw."
            )
            raise SimulatorError(message)

    def set_callback(self, function: DrawCallback | None) -> None:
        """Set what gives the values of draws, or with ``None`` let the library draw by itself.

        Parameters
        ----------
        function
            Called with the identity of the place (see `place`), the position of the kind in `KINDS`, and the
            arguments as a pointer and a number (see `read_arguments`); it returns the value. An exception from it
            cannot cross the library, and is kept for `raise_error`. Until that is called random numbers answer, so
            that the loops of the library end.
        """
        if function is None:
            self._library.tracestore_set_callback(None)
        else:
            self._library.tracestore_set_callback(ctypes.py_object(function))

    def raise_error(self) -> None:
        """Raise the exception that was kept, if there is one; to be called when the library has returned."""
        errors = self._errors[:]
        self._errors.clear()
        self._library.tracestore_forget_failure()
        if errors:
            raise errors[0]

    def place(self, place_id: int) -> Place:
        """Return the place that a callback was given.

        Raises
        ------
        SimulatorError
            When no callback was given it.
        """
        try:
            return self._places[place_id]
        except KeyError:
            message = f"No draw was made at a place with identity {place_id} since the call stack was attached."
            raise SimulatorError(message, place_id=place_id) from None

    def configure(self, *, addresses: bool = True, cache: bool = True, rules: bool = True) -> None:
        """Turn parts off, for measurements.

        Parameters
        ----------
        addresses
            Whether places are found; without, all draws come from place 0.
        cache
            Whether places are remembered; without, every draw is named anew.
        rules
            Whether chains are followed by the rules of the binary, not by the system's unwinder.
        """
        self._library.tracestore_configure(addresses, cache, rules)
        self._bypasses_names = not cache

    def _declare(self) -> None:
        library = self._library
        library.tracestore_set_helpers.argtypes = (ctypes.py_object,) * 3
        library.tracestore_set_original.argtypes = (ctypes.c_int32, ctypes.c_void_p)
        library.tracestore_set_modules.argtypes = (ctypes.c_void_p, ctypes.c_int64)
        library.tracestore_configure.argtypes = (ctypes.c_int32,) * 3
        for name in ("helpers", "callback", "original"):
            getattr(library, f"tracestore_set_{name}").restype = None
        library.tracestore_configure.restype = library.tracestore_forget_failure.restype = None
        for name in ("unusable", "unwound", "mismatches"):
            getattr(library, f"tracestore_num_{name}").restype = ctypes.c_int64

    def _original(self, hook: Hook, stack: CallStack) -> int:
        wrapper = _address(getattr(self._library, hook.symbol))
        for module in stack.modules:
            try:
                original = _address(getattr(open_module(module.path), hook.symbol))
            except AttributeError:
                continue
            owner = module_at(original)
            if owner is not None and owner[0] in self._loaded_before:
                message = (
                    f"{hook.symbol!r} is a function of {owner[0]!r}, which was loaded before the hooks, so calls of it "
                    "cannot be replaced; load the hooks first, or run the simulator as a program of its own."
                )
                raise InvalidInputError(message, symbol=hook.symbol, path=owner[0])
            if original != wrapper:
                return original
        names = ", ".join(Path(module.path).name for module in stack.modules)
        message = (
            f"The function {hook.symbol!r} is neither in {names} nor in a library that they load; give the exported "
            "(of C++ functions the mangled) name, as `nm -D` prints it."
        )
        raise InvalidInputError(message, symbol=hook.symbol)

    def _name(self, pointer: int, num_addresses: int) -> int:
        """Name a new chain; called by the wrappers."""
        if self._stack is None:
            return 0
        if self._bypasses_names:
            self._stack.forget()
        place = self._stack.place_of(tuple((ctypes.c_uint64 * num_addresses).from_address(pointer)))
        self._places[place.id] = place
        return place.id

    def _resolve(self, address: int, pointer: int) -> None:
        """Give the rule for a return address; called by the wrappers. Without one they ask the system's unwinder."""
        module = self._stack.module_of(address) if self._stack is not None else None
        if module is None:
            return
        rules = self._rules.get(module.path)
        if rules is None:
            rules = self._rules[module.path] = FrameRules(elf_file(module.path))
        rule = rules.at(address - module.base)
        if rule is not None:
            record = _Rule.from_address(pointer)
            record.kind = _LAST if rule.is_last else rule.base
            record.offset, record.saved, record.saved_offset = rule.offset, rule.saved, rule.saved_offset


_LAST = 3


class _Rule(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int32),
        ("offset", ctypes.c_int32),
        ("saved", ctypes.c_int32),
        ("saved_offset", ctypes.c_int32),
    )


@cache
def _load(hooks: tuple[Hook, ...], interpose: bool) -> CallbackLibrary:  # noqa: FBT001  # a key of the cache
    # two libraries, since one file is loaded once: with and without the names visible to others
    flags = ("-fno-omit-frame-pointer", f"-DTRACESTORE_INTERPOSE={int(interpose)}", "-ldl", "-lpthread", "-lm")
    path = build_library("tracestore_hooks", interposer_source(hooks), flags=flags)
    return CallbackLibrary(path, hooks, interpose=interpose)


def _address(function: "ctypes._FuncPointer") -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _loaded_files() -> frozenset[str]:
    lines = Path("/proc/self/maps").read_text("utf-8", "surrogateescape").splitlines()
    return frozenset(parts[5] for line in lines if len(parts := line.split(maxsplit=5)) == 6)
