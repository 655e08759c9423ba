"""What the methods of `random.Random` do while a run is recorded: each draws from the prior that it stands for.

The methods that others are made of (`random`, `_randbelow`, `getrandbits`) are replaced, too, so a method without a
prior of its own draws through these, and so does one that somebody had kept from before. Must not know how the methods
get into place.
"""

import math
import random
import sys
from collections.abc import Callable, Collection, MutableSequence, Sequence
from functools import lru_cache, wraps
from itertools import pairwise
from operator import index
from types import CodeType, FrameType
from typing import Any, NamedTuple, TypeVar
from weakref import WeakSet

import numpy as np

from tracestore.errors import InvalidInputError
from tracestore.hijacking.drawing import draw, recording
from tracestore.traces.distributions import (
    Beta,
    Binomial,
    Categorical,
    Distribution,
    Exponential,
    Gamma,
    LogNormal,
    Normal,
    Uniform,
    VonMises,
    Weibull,
)

__all__ = ["INFRASTRUCTURE", "METHODS", "NATIVE", "USED_NATIVELY", "draw_below", "is_recorded"]

MAX_CATEGORIES = 256
"""Most equally likely values that are drawn as a `Categorical`; more are cut out of a uniform number."""
KEPT_PRIORS = 256
"""Priors of each method that are kept for the next call with the same parameters."""
BELOW_ONE = math.nextafter(1.0, 0.0)
DIGIT_BITS = 32
"""Bits taken from each uniform number where one number has too few."""
PRIMITIVES = frozenset({"random", "getrandbits"})
"""Methods written in C, through which all others draw."""
INFRASTRUCTURE = frozenset(
    {"email.generator", "email.utils", "imaplib", "multiprocessing.util", "secrets", "tempfile", "uuid"}
)
"""Modules whose random names and tokens are no part of what is simulated."""

Method = Callable[..., Any]
Item = TypeVar("Item")

METHODS: dict[str, Method] = {}
"""What stands in the place of each method of `random.Random`, by name."""
NATIVE: dict[str, Method] = {}
"""The methods themselves."""
USED_NATIVELY: "WeakSet[random.Random]" = WeakSet()
"""Generators that have served infrastructure, and may therefore have moved."""


_UNIT = Uniform(0.0, 1.0)


class Family(NamedTuple):
    """How the draw of a method is made: from which prior, and what becomes of the value."""

    prior: Callable[..., Distribution]
    finish: Callable[..., float] | None = None


def _normal(mu: float = 0.0, sigma: float = 1.0) -> Distribution:
    return Normal(mu, abs(sigma)) if sigma else Normal(0.0, 1.0)


def _around(value: float, mu: float = 0.0, sigma: float = 1.0) -> float:
    return value if sigma else mu


_FAMILIES = {
    "random": Family(lambda: _UNIT, lambda value: min(value, BELOW_ONE)),
    "uniform": Family(lambda a, b: Uniform(min(a, b), max(a, b))),
    "betavariate": Family(lambda alpha, beta: Beta(alpha, beta)),
    "expovariate": Family(
        lambda lambd=1.0: Exponential(abs(lambd)), lambda value, lambd=1.0: math.copysign(value, lambd)
    ),
    "gammavariate": Family(lambda alpha, beta: Gamma(alpha, 1.0 / beta)),
    "gauss": Family(_normal, _around),
    "normalvariate": Family(_normal, _around),
    "lognormvariate": Family(lambda mu=0.0, sigma=1.0: LogNormal(mu, sigma)),
    "vonmisesvariate": Family(lambda mu, kappa: VonMises(mu, kappa), lambda value, mu, kappa: value % math.tau),
    "paretovariate": Family(lambda alpha: Exponential(alpha), lambda value, alpha: math.exp(value)),
    "weibullvariate": Family(lambda alpha, beta: Weibull(alpha, beta)),
    "binomialvariate": Family(lambda n=1, p=0.5: Binomial(n, p), lambda value, n=1, p=0.5: int(value)),
}
"""Methods that draw one number of a known family, with the arguments that the method has."""


def draw_below(n: int, method: str) -> int:
    """Draw one of the whole numbers from zero below ``n``, all equally likely.

    Parameters
    ----------
    n
        At least one; of one there is nothing to draw.
    method
        Name of the method that draws, for the address.
    """
    if n == 1:
        return 0
    if n <= MAX_CATEGORIES:
        return int(draw(_one_of(n), method))
    if n <= 2**DIGIT_BITS:
        return min(int(draw(_UNIT, method) * n), n - 1)
    # digits enough that the numbers are equally likely but for one part in four billion
    num_digits = -(-n.bit_length() // DIGIT_BITS) + 1
    number = 0
    for digit in np.ravel(draw(_unit_vector(num_digits), method)).tolist():
        number = (number << DIGIT_BITS) + min(int(digit * 2**DIGIT_BITS), 2**DIGIT_BITS - 1)
    return number * n >> DIGIT_BITS * num_digits


@lru_cache(maxsize=MAX_CATEGORIES)
def _one_of(n: int) -> Categorical:
    return Categorical([1.0 / n] * n)


@lru_cache(maxsize=64)
def _unit_vector(n: int) -> Uniform:
    return Uniform([0.0] * n, 1.0)


def is_recorded(self: random.Random, *, is_primitive: bool = False) -> bool:
    """Whether a call that a replaced method has received belongs to the trace.

    Parameters
    ----------
    self
        The generator. A class with a `random` of its own draws through that, and is left alone.
    is_primitive
        Whether the method is one that others draw through: what such a class asks of its base is recorded.
    """
    if not recording(2) or not (is_primitive or type(self).random is METHODS["random"]):
        return False
    frame = sys._getframe(2)
    kind = _kinds.get(frame.f_code) or _kind_of(frame)
    while kind == PASSED_ON and frame.f_back is not None:
        frame = frame.f_back
        kind = _kinds.get(frame.f_code) or _kind_of(frame)
    if kind == SERVING:
        USED_NATIVELY.add(self)
    return kind != SERVING


PROGRAM, PASSED_ON, SERVING = 1, 2, 3
_kinds: dict[CodeType, int] = {}


def _kind_of(frame: FrameType) -> int:
    module = frame.f_globals.get("__name__")
    kind = PASSED_ON if module in ("random", __name__) else SERVING if module in INFRASTRUCTURE else PROGRAM
    _kinds[frame.f_code] = kind
    return kind


def _replace_family(name: str, family: Family) -> None:
    native = getattr(random.Random, name, None)
    if native is None:  # a method of newer interpreters
        return
    # programs draw from few distributions many times
    make, finish = lru_cache(maxsize=KEPT_PRIORS)(family.prior), family.finish
    is_primitive = name in PRIMITIVES

    @wraps(native)
    def replaced(self: random.Random, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if not is_recorded(self, is_primitive=is_primitive):
            return native(self, *args, **kwargs)
        try:
            prior = make(*args, **kwargs)
        except (ArithmeticError, TypeError, InvalidInputError):
            # what is no distribution: the original knows what to do, and draws uniform numbers for it
            return native(self, *args, **kwargs)
        value = draw(prior, name)
        return value if finish is None else finish(value, *args, **kwargs)

    METHODS[name], NATIVE[name] = replaced, native


def _replace(method: Method) -> Method:
    name = method.__name__
    native = getattr(random.Random, name)
    is_primitive = name in PRIMITIVES

    @wraps(native)
    def replaced(self: random.Random, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return (method if is_recorded(self, is_primitive=is_primitive) else native)(self, *args, **kwargs)

    METHODS[name], NATIVE[name] = replaced, native
    return method


for _name, _family in _FAMILIES.items():
    _replace_family(_name, _family)


@_replace
def seed(self: random.Random, a: object = None, version: int = 2) -> None:
    """Ignore seeds: the draws of a run are the recorder's."""


@_replace
def getstate(self: random.Random) -> object:
    return NATIVE["getstate"](self)


@_replace
def setstate(self: random.Random, state: object) -> None:
    """Ignore states, as seeds."""


@_replace
def _randbelow(self: random.Random, n: int) -> int:
    return draw_below(n, "randbelow") if n > 0 else int(NATIVE["_randbelow"](self, n))


@_replace
def getrandbits(self: random.Random, k: int) -> int:
    return draw_below(1 << k, "getrandbits") if k > 0 else int(NATIVE["getrandbits"](self, k))


@_replace
def randbytes(self: random.Random, n: int) -> bytes:
    if n <= 0:
        return bytes(NATIVE["randbytes"](self, n))
    numbers = np.ravel(draw(_unit_vector(n), "randbytes")).tolist()
    return bytes([min(int(256.0 * number), 255) for number in numbers])


@_replace
def randrange(self: random.Random, start: int, stop: int | None = None, step: int = 1) -> int:
    try:
        first, end = (0, index(start)) if stop is None else (index(start), index(stop))
        stride = index(step)
        number = -((first - end) // stride)
    except (TypeError, ZeroDivisionError):
        number = 0
    if number < 1 or (stop is None and step != 1):
        return int(NATIVE["randrange"](self, start, stop, step))  # which says what is wrong
    return first + stride * draw_below(number, "randrange")


@_replace
def randint(self: random.Random, a: int, b: int) -> int:
    number = index(b) - index(a) + 1
    return index(a) + draw_below(number, "randint") if number > 0 else int(NATIVE["randint"](self, a, b))


@_replace
def choice(self: random.Random, seq: Sequence[Any]) -> Any:  # noqa: ANN401  # one of the given
    number = len(seq)
    return seq[draw_below(number, "choice")] if number else NATIVE["choice"](self, seq)


@_replace
def shuffle(self: random.Random, x: MutableSequence[Any]) -> None:
    for last in range(len(x) - 1, 0, -1):
        other = draw_below(last + 1, "shuffle")
        x[last], x[other] = x[other], x[last]


@_replace
def sample(
    self: random.Random, population: Collection[Item], k: int, *, counts: Sequence[int] | None = None
) -> list[Item]:
    if counts is not None or not isinstance(population, Sequence) or not 0 <= k <= len(population):
        sampled: list[Item] = NATIVE["sample"](self, population, k, counts=counts)
        return sampled
    # the first passes of a shuffle, of which only the moved places are kept
    moved: dict[int, int] = {}
    chosen = []
    for place in range(k):
        other = place + draw_below(len(population) - place, "sample")
        chosen.append(population[moved.get(other, other)])
        moved[other] = moved.get(place, place)
    return chosen


@_replace
def choices(
    self: random.Random,
    population: Sequence[Item],
    weights: Sequence[float] | None = None,
    *,
    cum_weights: Sequence[float] | None = None,
    k: int = 1,
) -> list[Item]:
    number = len(population)
    prior = None
    if weights is None and cum_weights is None and 1 <= number <= MAX_CATEGORIES:
        prior = _one_of(number)
    elif (weights is None) != (cum_weights is None) and number <= MAX_CATEGORIES:
        prior = _weighted(number, weights, cum_weights)
    if prior is None:  # too many, or wrong: the original says so, or draws uniform numbers
        chosen: list[Item] = NATIVE["choices"](self, population, weights, cum_weights=cum_weights, k=k)
        return chosen
    if number == 1:
        return [population[0]] * k
    return [population[int(draw(prior, "choices"))] for _ in range(k)]


def _weighted(number: int, weights: Sequence[float] | None, cum_weights: Sequence[float] | None) -> Categorical | None:
    try:
        if weights is None:
            weights = [upper - lower for lower, upper in pairwise([0.0, *(cum_weights or ())])]
        prior = Categorical([float(weight) for weight in weights])
    except (TypeError, ValueError):
        return None
    return prior if prior.num_parameters == number else None
