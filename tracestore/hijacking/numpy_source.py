"""Numpy's random numbers as a source: what is replaced while a program is recorded, and what is watched."""

import functools
import gc
from collections.abc import Callable, Mapping
from types import MethodType

import numpy as np
from numpy.random import bit_generator as numpy_bits
from numpy.random import mtrand

from tracestore.hijacking.bits import BoundMethods, TypeAttributes
from tracestore.hijacking.drawing import Leak, native, recording
from tracestore.hijacking.numpy_choices import CHOICES, LEGACY_CHOICES
from tracestore.hijacking.numpy_counts import COUNTS, LEGACY_COUNTS
from tracestore.hijacking.numpy_families import FAMILIES, LEGACY_FAMILIES, multivariate_normal
from tracestore.hijacking.numpy_results import Argument, Like
from tracestore.hijacking.numpy_transforms import TRANSFORMS
from tracestore.hijacking.numpy_watch import NumpyWatch, guarded_bits, subclasses

__all__ = ["NumpySource"]

SCRATCH_SEED = 0
"""Of the generators that only give shapes, types and errors; no number of theirs is seen."""
FIXED_ENTROPY = 20_261_126
"""Seed of generators that a recorded program makes without one: nothing must come from the operating system."""


class NumpySource:
    """Replaces the methods of `numpy.random.Generator` and `numpy.random.RandomState`, of every instance there is."""

    def __init__(self) -> None:
        generator, legacy = np.random.Generator, np.random.RandomState
        records: Mapping[str, Argument] = FAMILIES | TRANSFORMS | CHOICES | COUNTS
        legacy_records: Mapping[str, Argument] = LEGACY_FAMILIES | TRANSFORMS | LEGACY_CHOICES | LEGACY_COUNTS
        scratch, legacy_scratch = np.random.default_rng(SCRATCH_SEED), np.random.RandomState(SCRATCH_SEED)
        self._scratch = (scratch, legacy_scratch)
        methods: dict[type, dict[str, Argument]] = {
            generator: _replacements(generator, records, scratch),
            legacy: _replacements(legacy, legacy_records, legacy_scratch),
        }
        self._bound = BoundMethods(
            {id(owner.__dict__[name]): new for owner, found in methods.items() for name, new in found.items()}
        )
        self._attributes = [TypeAttributes(owner, found) for owner, found in methods.items()]
        self._attributes.append(TypeAttributes(np.random.BitGenerator, guarded_bits()))
        # numpy's module functions are bound methods, made at import, which programs hold under names of their own
        self._bound.learn([value for module in (np.random, mtrand) for value in vars(module).values()])
        self._randbits: Callable[[int], int] = vars(numpy_bits)["randbits"]

    def install(self) -> None:
        """Replace the methods."""
        for attributes in self._attributes:
            attributes.replace()
        self._bound.redirect()
        vars(numpy_bits)["randbits"] = self._fixed_entropy

    def remove(self) -> None:
        """Put numpy's own methods back."""
        vars(numpy_bits)["randbits"] = self._randbits
        self._bound.restore()
        for attributes in self._attributes:
            attributes.restore()

    def watch(self, *, is_first: bool) -> Callable[[], list[Leak]]:
        """Look at every bit generator there is.

        At the first run of a program the bound methods that it has kept are redirected, once and for all. Those that
        it makes anew outside of the block are not, at later runs: what they draw is seen as a leak.
        """
        generators = subclasses(np.random.Generator) | subclasses(np.random.RandomState)
        kinds = {MethodType} | generators | subclasses(np.random.BitGenerator)
        objects = [found for found in gc.get_objects() if type(found) in kinds]
        if is_first:
            self._bound.learn(objects)
            self._bound.redirect()
        return NumpyWatch(objects, self._scratch).finish

    def _fixed_entropy(self, count: int) -> int:
        if recording():
            return FIXED_ENTROPY & ((1 << count) - 1)
        return self._randbits(count)


def _replacements(
    owner: type, records: Mapping[str, Callable[..., Argument]], scratch: Argument
) -> dict[str, Argument]:
    own = owner.__dict__  # releases of numpy differ in what they have
    found = {name: _recorded(own[name], record, scratch) for name, record in records.items() if name in own}
    found["multivariate_normal"] = _recorded(own["multivariate_normal"], multivariate_normal, scratch, takes_self=True)
    for name in ("seed", "set_state"):
        if name in own:
            found[name] = _ignored(own[name])
    return found


def _recorded(
    method: Callable[..., Argument], record: Callable[..., Argument], scratch: Argument, *, takes_self: bool = False
) -> Callable[..., Argument]:
    """Make what stands in for a method."""
    like = Like(method, scratch)

    @functools.wraps(method)
    def recorded(self: Argument, /, *args: Argument, **options: Argument) -> Argument:
        if not recording():
            return method(self, *args, **options)
        try:
            return record(like, self, *args, **options) if takes_self else record(like, *args, **options)
        except TypeError:
            like(*args, **options)  # where numpy finds the arguments wrong, too, it says so in its own words
            raise

    return recorded


def _ignored(method: Callable[..., Argument]) -> Callable[..., Argument]:
    """Make what stands in for a method that sets the state: checks its arguments on another generator."""

    @functools.wraps(method)
    def ignored(self: Argument, /, *args: Argument, **options: Argument) -> Argument:
        if not recording():
            return method(self, *args, **options)
        with native():
            method(np.random.RandomState(SCRATCH_SEED), *args, **options)
        return None

    return ignored
