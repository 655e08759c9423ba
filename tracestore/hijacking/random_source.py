"""Python's `random` as a source of recorded draws: the module's functions and every `random.Random`.

The methods of the class are replaced, so instances are covered whoever made them, and when. What was bound to an
instance before (the module's own functions, and those that other modules imported by name) is replaced where it
stands in a module. Kept elsewhere, a method written in Python still draws through the class; one written in C is a
leak, which shows in the state of its generator.
"""

import gc
import random
import sys
from collections.abc import Callable, Iterator
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

from tracestore.hijacking.drawing import Leak, native
from tracestore.hijacking.random_methods import INFRASTRUCTURE, METHODS, NATIVE, USED_NATIVELY, is_recorded

__all__ = ["RandomSource"]

_ABSENT = object()


class RandomSource:
    """Reroutes `random`.

    Examples
    --------
    >>> import random
    >>> source = RandomSource()
    >>> source.install()
    >>> type(random.random).__name__
    'method'
    >>> source.remove()
    >>> type(random.random).__name__
    'builtin_function_or_method'
    """

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, object]] = []
        self._bound: list[tuple[ModuleType, str, object, object]] = []
        self._num_modules = 0

    def install(self) -> None:
        """Replace the methods of the class, and what modules hold of them."""
        if len(sys.modules) != self._num_modules:
            self._bound = list(_bound_methods())
            self._num_modules = len(sys.modules)
        for name, replacement in METHODS.items():
            self._put(random.Random, name, replacement)
        self._put(random.Random, "gauss_next", _NO_SECOND_DEVIATE)
        for module, name, kept, method in self._bound:
            if vars(module).get(name) is kept:
                self._put(module, name, method)

    def remove(self) -> None:
        """Put everything back."""
        for owner, name, kept in reversed(self._replaced):
            if kept is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, kept)
        self._replaced.clear()

    def watch(self, *, is_first: bool) -> Callable[[], list[Leak]]:
        """Remember the state of every generator; what is returned tells which have moved."""
        USED_NATIVELY.clear()
        with native():
            found = [one for one in gc.get_objects() if issubclass(type(one), random.Random)]
            states = [(one, NATIVE["getstate"](one)) for one in found if type(one).getstate is METHODS["getstate"]]

        def end() -> list[Leak]:
            with native():
                moved = [one for one, state in states if NATIVE["getstate"](one) != state and one not in USED_NATIVELY]
            return [
                Leak(f"a method of {_described(one)} that was kept from before the block{_kept_in(one)}")
                for one in moved
            ]

        return end

    def _put(self, owner: Any, name: str, value: object) -> None:  # noqa: ANN401  # a class or a module
        self._replaced.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, value)


class _NoSecondDeviate:
    """Stands for the attribute in which `gauss` keeps a number for the next call: during a run there is none."""

    def __get__(self, instance: random.Random | None, owner: type) -> object:
        if instance is None:
            return self
        return None if is_recorded(instance) else vars(instance).get("gauss_next")

    def __set__(self, instance: random.Random, value: object) -> None:
        if is_recorded(instance):
            vars(instance).setdefault("gauss_next", None)
        else:
            vars(instance)["gauss_next"] = value


_NO_SECOND_DEVIATE = _NoSecondDeviate()


def _bound_methods() -> Iterator[tuple[ModuleType, str, object, object]]:
    """Names in modules that hold a method bound to a generator, and what is to stand there."""
    for module in list(sys.modules.values()):
        if not issubclass(type(module), ModuleType) or getattr(module, "__name__", "") in INFRASTRUCTURE:
            continue
        for name, value in list(vars(module).items()):
            if type(value) not in (BuiltinMethodType, MethodType):
                continue
            method = METHODS.get(value.__name__) if issubclass(type(value.__self__), random.Random) else None
            if method is None or (type(value) is MethodType and value.__func__ is not NATIVE[value.__name__]):
                continue
            yield module, name, value, MethodType(method, value.__self__)


def _described(generator: random.Random) -> str:
    if generator is random._inst:
        return "Python's `random`"
    return f"a `{type(generator).__module__}.{type(generator).__qualname__}`"


def _kept_in(generator: random.Random) -> str:
    """Where methods written in C are kept that are bound to a generator."""
    places = [
        f"{place} ({bound.__name__})"
        for bound in gc.get_referrers(generator)
        if type(bound) is BuiltinMethodType and bound.__self__ is generator
        for holder in gc.get_referrers(bound)
        if (place := _place_of(holder, bound))
    ]
    return f", kept in {', '.join(sorted(set(places)))}" if places else ""


def _place_of(holder: object, value: object) -> str:
    if isinstance(holder, dict):
        key = next((key for key, kept in holder.items() if kept is value), None)
        if isinstance(holder.get("__name__"), str):
            return f"{holder['__name__']}.{key}"
        owner = next((one for one in gc.get_referrers(holder) if isinstance(one, type)), None)
        return f"{owner.__module__}.{owner.__qualname__}.{key}" if owner is not None else ""
    if isinstance(holder, tuple):
        functions = [one for one in gc.get_referrers(holder) if isinstance(one, FunctionType)]
        return f"{functions[0].__module__}.{functions[0].__qualname__}" if functions else ""
    return ""
