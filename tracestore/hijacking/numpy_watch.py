"""Watches every bit generator of the process during one run: who draws bits that are not recorded."""

import ctypes
import functools
import gc
import sys
from collections.abc import Iterable, Sequence

import numpy as np

from tracestore.hijacking.bits import Taps, structure_of, structures_within
from tracestore.hijacking.drawing import Leak, native, note_leak, recording
from tracestore.hijacking.numpy_results import Argument
from tracestore.simulators import runtime

__all__ = ["NumpyWatch", "guarded_bits", "subclasses"]

NUMBA_SIZE = 2512
"""Bytes of the state that numba keeps: a position, 624 words, whether a normal deviate is kept, and that one."""

_capsule = np.random.BitGenerator.__dict__["capsule"].__get__
_taps = Taps(lambda name: note_leak(f"bits of {name} that compiled code draws", 2))
_handed_out: list[Argument] = []
"""Bit generators made in a run that is watched, which are tapped before anybody gets at their structure."""


class NumpyWatch:
    """Bit generators tapped, and their states remembered.

    Parameters
    ----------
    objects
        Generators and bit generators, among others.
    scratch
        Generators that answer calls whose numbers are replaced.
    """

    def __init__(self, objects: Iterable[object], scratch: Sequence[Argument]) -> None:
        own = [] if runtime._current is None else [runtime._current.rng]
        skipped = [bits for generator in (*own, *scratch) for bits in (generator, generator._bit_generator)]
        bit_generators: dict[int, Argument] = {}
        generators: list[Argument] = []
        for found in objects:
            if any(found is one for one in skipped):
                continue
            if isinstance(found, np.random.Generator | np.random.RandomState):
                generators.append(found)
            elif isinstance(found, np.random.BitGenerator):
                bit_generators[id(found)] = found
        self._states = [(bits, structure_of(_capsule(bits)).state, _state(bits)) for bits in bit_generators.values()]
        self._legacy = [(found, _spare(found)) for found in generators if isinstance(found, np.random.RandomState)]
        self._numba = _numba_states()
        _taps.begin()
        for generator in generators:
            bits = bit_generators.get(id(generator._bit_generator))
            if bits is not None:
                for copy in structures_within(generator, structure_of(_capsule(bits))):
                    _taps.tap(copy, type(bits).__name__, generator)
        for bits in bit_generators.values():
            _taps.tap(structure_of(_capsule(bits)), type(bits).__name__, bits)

    def finish(self) -> list[Leak]:
        """Put the bit generators back, and tell which of them have moved unseen."""
        moved = [
            type(bits).__name__
            for bits, address, state in self._states
            if address not in _taps.used and _state(bits) != state
        ]
        moved += [
            type(found).__name__
            for found, spare in self._legacy
            if structure_of(_capsule(found._bit_generator)).state not in _taps.used and _spare(found) != spare
        ]
        moved += [name for name, state in _numba_states().items() if self._numba.get(name, state) != state]
        for generator in _generators_of(_handed_out):
            _taps.restore_copy(generator, structure_of(_capsule(generator._bit_generator)))
        _handed_out.clear()
        _taps.end()
        return [Leak(f"{name}, whose state has changed although no recorded draw touches it") for name in {*moved}]


def guarded_bits() -> dict[str, object]:
    """Make what stands in for the attributes of bit generators by which programs and compiled code get at raw bits."""
    own = np.random.BitGenerator.__dict__
    random_raw = own["random_raw"]

    @functools.wraps(random_raw)
    def guarded_raw(self: Argument, /, *args: Argument, **options: Argument) -> Argument:
        if recording():
            note_leak(f"raw bits of {type(self).__name__}")
        with native():
            return random_raw(self, *args, **options)

    def guarded_capsule(self: Argument) -> object:
        capsule = _capsule(self)
        if _taps.is_watching and recording():
            _handed_out.append(self)
            _taps.tap(structure_of(capsule), type(self).__name__, self)
        return capsule

    def guarded_interface(name: str) -> property:
        interface = own[name].__get__

        def guarded(self: Argument) -> object:
            if recording():
                note_leak(f"raw bits of {type(self).__name__} by its `{name}` interface")
            return interface(self)

        return property(guarded)

    return {
        "random_raw": guarded_raw,
        "capsule": property(guarded_capsule),
        "ctypes": guarded_interface("ctypes"),
        "cffi": guarded_interface("cffi"),
    }


def subclasses(kind: type) -> set[type]:
    """Return a class and everything that is derived from it."""
    below: list[type] = kind.__subclasses__()
    return {kind}.union(*[subclasses(derived) for derived in below])


def _generators_of(bit_generators: list[Argument]) -> list[Argument]:
    """Find the generators that draw from given bit generators, among all objects of the process."""
    if not bit_generators:
        return []
    wanted = {id(bits) for bits in bit_generators}
    kinds = subclasses(np.random.Generator) | subclasses(np.random.RandomState)
    return [found for found in gc.get_objects() if type(found) in kinds and id(found._bit_generator) in wanted]


def _state(bits: Argument) -> object:
    """State of a bit generator, as something to compare."""
    return _comparable(bits.state)


def _spare(legacy: np.random.RandomState) -> object:
    """Return the second normal deviate that a legacy generator keeps: it is used without drawing bits."""
    state: Argument = legacy.get_state(legacy=False)
    return state["has_gauss"], state["gauss"]


def _comparable(state: Argument) -> object:
    if isinstance(state, dict):
        return tuple([(key, _comparable(value)) for key, value in state.items()])
    return state.tobytes() if isinstance(state, np.ndarray) else state


def _numba_states() -> dict[str, object]:
    """States of the generators that numba keeps for compiled functions, where it is loaded."""
    helper: Argument = sys.modules.get("numba._helperlib")
    found: dict[str, object] = {}
    for name in ("np", "py") if helper is not None else ():
        with native():  # numba seeds them now, unless it has
            address = getattr(helper, f"rnd_get_{name}_state_ptr")()
        found[f"the generator that numba has for compiled functions ({name})"] = ctypes.string_at(address, NUMBA_SIZE)
    return found
