"""Below the language: methods of compiled types replaced, bound methods redirected, bit generators tapped.

Numpy's generator types are compiled, and Python refuses to set their attributes; what is replaced here is their
dictionary of methods, which every instance uses, whenever it was made. A bound method that a program has kept under a
name of its own holds a function; that reference is redirected. A bit generator is a C structure with pointers to the
functions that make bits; tapped, they lead to functions that take note and then do what the old ones did, so that
compiled code which draws bits is seen with the stack of Python calls that led to it.

Everything is checked before it is touched, and put back exactly. On an interpreter with other object layouts the checks
fail, and nothing is tapped or redirected.
"""

import ctypes
import gc
from collections.abc import Callable, Iterable, Mapping
from types import MethodType
from typing import Any, ClassVar

__all__ = ["BoundMethods", "Taps", "TypeAttributes", "structure_of", "structures_within"]

_POINTER_SIZE = ctypes.sizeof(ctypes.c_void_p)


class TypeAttributes:
    """Attributes of a type that Python takes for immutable.

    Parameters
    ----------
    owner
        The type.
    values
        What its dictionary shall have for a while, by names that it has.
    """

    def __init__(self, owner: type, values: Mapping[str, object]) -> None:
        (self._namespace,) = [found for found in gc.get_referents(owner.__dict__) if type(found) is dict]
        self._owner = ctypes.py_object(owner)
        self._values = dict(values)
        self._before = {name: self._namespace[name] for name in values}

    def replace(self) -> None:
        """Set the attributes."""
        self._namespace.update(self._values)
        _type_modified(self._owner)

    def restore(self) -> None:
        """Put back what was there before."""
        self._namespace.update(self._before)
        _type_modified(self._owner)


_type_modified = ctypes.pythonapi.PyType_Modified
_type_modified.restype = None
_type_modified.argtypes = [ctypes.py_object]


class BoundMethods:
    """Bound methods that lead to other functions for a while.

    Parameters
    ----------
    replacements
        Functions by the ``id`` of the function that they stand in for.
    """

    def __init__(self, replacements: Mapping[int, Callable[..., object]]) -> None:
        self._replacements = replacements
        self._known: dict[int, tuple[MethodType, ctypes.c_void_p, int, int]] = {}

    def learn(self, objects: Iterable[object]) -> None:
        """Find bound methods among objects; they are kept alive."""
        for found in objects:
            if type(found) is MethodType and id(found.__func__) in self._replacements and id(found) not in self._known:
                # where a bound method keeps its function: the first field after the head of every object
                slot = ctypes.c_void_p.from_address(id(found) + object.__basicsize__)
                native = id(found.__func__)
                if slot.value == native:
                    replacement = self._replacements[native]
                    # one reference too many is harmless; while it leads there, it would else be one too few
                    ctypes.pythonapi.Py_IncRef(ctypes.py_object(replacement))
                    self._known[id(found)] = (found, slot, native, id(replacement))

    def redirect(self) -> None:
        """Redirect those that are known."""
        for _, slot, _, replacement in self._known.values():
            slot.value = replacement

    def restore(self) -> None:
        """Put all back; their own functions have been kept alive by their types."""
        for _, slot, native, _ in self._known.values():
            slot.value = native


class Structure(ctypes.Structure):
    """What numpy calls `bitgen_t`: a state, and functions that take it."""

    _fields_: ClassVar = [
        ("state", ctypes.c_void_p),
        ("next_uint64", ctypes.c_void_p),
        ("next_uint32", ctypes.c_void_p),
        ("next_double", ctypes.c_void_p),
        ("next_raw", ctypes.c_void_p),
    ]

    def functions(self) -> tuple[int, int, int, int]:
        """Return the addresses of the functions."""
        return self.next_uint64, self.next_uint32, self.next_double, self.next_raw

    def set_functions(self, addresses: tuple[int, int, int, int]) -> None:
        """Change the addresses of the functions."""
        self.next_uint64, self.next_uint32, self.next_double, self.next_raw = addresses


_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype = ctypes.c_void_p
_get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def structure_of(capsule: object) -> Structure:
    """Return the structure of a bit generator, in place, given its ``capsule``."""
    return Structure.from_address(_get_pointer(capsule, b"BitGenerator"))


def structures_within(generator: object, original: Structure) -> list[Structure]:
    """Find the copies of a structure that a generator object keeps in its own memory."""
    pattern = bytes(original)
    memory = ctypes.string_at(id(generator), type(generator).__basicsize__)
    found = []
    start = memory.find(pattern)
    while start >= 0:
        found.append(Structure.from_address(id(generator) + start))
        start = memory.find(pattern, start + _POINTER_SIZE)
    return found


_KINDS = (ctypes.c_uint64, ctypes.c_uint32, ctypes.c_double, ctypes.c_uint64)
_TYPES = tuple([ctypes.CFUNCTYPE(kind, ctypes.c_void_p) for kind in _KINDS])


class Taps:
    """Bit generators whose every bit is taken note of.

    Parameters
    ----------
    notice
        Called with the description of a bit generator each time bits are drawn from it.
    """

    def __init__(self, notice: Callable[[str], None]) -> None:
        self._notice = notice
        self._functions: dict[int, tuple[Any, ...]] = {}
        self._names: dict[int, str] = {}
        self._tapped: list[tuple[Structure, tuple[int, int, int, int], object]] = []
        self._num_watchers = 0
        self.used: set[int] = set()
        """States from which bits were drawn while tapped."""
        # made once and kept: a structure that could not be put back may lead here for ever
        self._callbacks = tuple([made(self._make(index)) for index, made in enumerate(_TYPES)])
        uint64, uint32, double, raw = [ctypes.cast(one, ctypes.c_void_p).value or 0 for one in self._callbacks]
        self._addresses = (uint64, uint32, double, raw)

    def tap(self, structure: Structure, name: str, owner: object) -> None:
        """Tap a structure; the owner, in whose memory it lies, is kept alive until it is put back."""
        functions = structure.functions()
        if functions == self._addresses:
            return
        self._functions[structure.state] = tuple([made(found) for made, found in zip(_TYPES, functions, strict=True)])
        self._names[structure.state] = name
        self._tapped.append((structure, functions, owner))
        structure.set_functions(self._addresses)

    @property
    def is_watching(self) -> bool:
        """Whether anybody watches."""
        return self._num_watchers > 0

    def restore_copy(self, generator: object, structure: Structure) -> None:
        """Put back what a generator object has copied of a tapped structure."""
        for tapped, functions, _ in self._tapped:
            if tapped.state == structure.state:
                for copy in structures_within(generator, structure):
                    copy.set_functions(functions)
                return

    def begin(self) -> None:
        """Begin to watch; several may, and what one has tapped is tapped for all."""
        self._num_watchers += 1

    def end(self) -> None:
        """End to watch; with the last one, all structures are put back as they were."""
        self._num_watchers -= 1
        if not self._num_watchers:
            for structure, functions, _ in self._tapped:
                structure.set_functions(functions)
            self._tapped = []
            self.used.clear()

    def _make(self, index: int) -> Callable[[int], Any]:
        def draw_bits(state: int) -> Any:  # noqa: ANN401  # an integer or a float
            self.used.add(state)
            self._notice(self._names[state])
            return self._functions[state][index](state)

        return draw_bits
