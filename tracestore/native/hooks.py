"""Replace the functions with which a native library or program draws random numbers: what the wrappers are.

A hook names a function by its symbol and says what it draws. Wrappers with the same symbols are written in C; what
asks for values is a backend: `tracestore.native.callback_library` in this process, or a PPX session in a program.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal, get_args

from tracestore.errors import InvalidInputError

__all__ = ["KINDS", "MORE_KINDS", "Hook", "Kind", "interposer_source"]

BasicKind = Literal[
    "uniform_double",
    "uniform_float",
    "exponential_double",
    "normal_double",
    "gamma_double",
    "pick_vector",
    "random_int",
    "integer_below",
]
MoreKind = Literal[
    "fill_double",
    "fill_float",
    "random_long",
    "random_word",
    "normal_scaled",
    "exponential_scaled",
    "uniform_between",
    "gamma_scaled",
]
Kind = BasicKind | MoreKind
KINDS: tuple[Kind, ...] = get_args(BasicKind)
"""Kinds of drawing functions; the number of a kind, as callbacks get it, is its position here."""
MORE_KINDS: tuple[Kind, ...] = get_args(MoreKind)
"""Kinds that scale or place what one of the others draws; callbacks get the number of that one."""
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_.$]*")
_BACKENDS: dict[str, tuple[str, ...]] = {
    "callback": ("wrappers.h", "more_wrappers.h", "frames.h", "callback_backend.h"),
    "ppx": ("wrappers.h", "more_wrappers.h", "ppx_wire.h", "ppx_preload.c", "ppx_backend.h"),
}


@dataclass(frozen=True, slots=True)
class Hook:
    """A drawing function to replace.

    Kinds, with the function's form in C and what the callback gets and returns:

    * ``uniform_double``, ``uniform_float``: any integer and pointer arguments; a number in (0, 1).
    * ``exponential_double``, ``normal_double``: the same; a draw of the standard distribution.
    * ``gamma_double``: two numbers, passed to the callback as they are, and over PPX taken for shape and rate; a
      positive number.
    * ``pick_vector``: ``int f(this, const std::vector<double>&)``; the weights; a position in them.
    * ``random_int``: ``int f(...)`` such as ``rand``; ``RAND_MAX``; a whole number from 0 to it.
    * ``integer_below``: ``unsigned long f(state, unsigned long n)``; ``n``; a whole number below it.
    * ``fill_double``, ``fill_float``: ``void f(real *)`` such as ``_gfortran_random_r8``; a number in (0, 1).
    * ``random_long``, ``random_word``: ``long f(...)`` such as ``random``, ``unsigned f(...)`` such as that of
      ``std::random_device``; the largest number; a whole number from 0 to it.
    * ``normal_scaled``, ``exponential_scaled``: ``double f(..., double scale)`` such as ``gsl_ran_gaussian``; a draw
      of the standard distribution.
    * ``uniform_between``, ``gamma_scaled``: ``double f(..., double, double)`` such as ``gsl_ran_flat`` and
      ``gsl_ran_gamma`` (shape, scale); a number in (0, 1), a draw with scale 1.

    Parameters
    ----------
    symbol
        The name in the binary; of a C++ function the mangled one.
    kind
        What the function draws.

    Raises
    ------
    InvalidInputError
        When the symbol cannot be one, or the kind is unknown.

    Examples
    --------
    >>> Hook("_ZN7Pythia84Rndm4flatEv", "uniform_double").code
    0
    """

    symbol: str
    kind: Kind

    def __post_init__(self) -> None:
        if not _SYMBOL.fullmatch(self.symbol):
            message = f"`symbol` must be a name in a binary (of C++ functions the mangled one); got {self.symbol!r}."
            raise InvalidInputError(message, symbol=self.symbol)
        if self.kind not in KINDS + MORE_KINDS:
            message = f"`kind` must be one of {', '.join(KINDS + MORE_KINDS)}; got {self.kind!r}."
            raise InvalidInputError(message, kind=self.kind)

    @property
    def code(self) -> int:
        """Position of the kind in `KINDS`."""
        return KINDS.index(self.kind)


def interposer_source(hooks: Sequence[Hook], backend: Literal["callback", "ppx"] = "callback") -> dict[str, str]:
    """Write the C sources of wrappers for hooks.

    Parameters
    ----------
    hooks
        Functions to replace, each once.
    backend
        ``"callback"`` asks a Python function of this process, ``"ppx"`` a controller outside of the process.

    Returns
    -------
    dict[str, str]
        Text by file name, for `build_library`.

    Raises
    ------
    InvalidInputError
        When two hooks have the same symbol.

    Examples
    --------
    >>> sorted(interposer_source([Hook("flat", "uniform_double")]))
    ['callback_backend.h', 'frames.h', 'hooks.c', 'more_wrappers.h', 'wrappers.h']
    """
    symbols = [hook.symbol for hook in hooks]
    if len(set(symbols)) < len(symbols):
        message = f"Each symbol can be hooked once; got {', '.join(symbols)}."
        raise InvalidInputError(message, symbols=symbols)
    folder = resources.files("tracestore.native") / "src"
    sources = {name: (folder / name).read_text("utf-8") for name in _BACKENDS[backend]}
    lines = [
        "/* Written by tracestore.native.hooks. */",
        f"#define TRACESTORE_NUM_HOOKS {len(hooks)}",
        f'#include "{_BACKENDS[backend][-1]}"',
        '#include "more_wrappers.h"',
        "static const char *const tracestore_symbols[TRACESTORE_NUM_HOOKS + 1] __attribute__((unused)) = {",
        *(f'    "{symbol}",' for symbol in symbols),
        "    0,",
        "};",
        *(f'TRACESTORE_HOOK_{hook.kind}({number}, "{hook.symbol}")' for number, hook in enumerate(hooks)),
    ]
    return {**sources, "hooks.c": "\n".join(lines) + "\n"}
