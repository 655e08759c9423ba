"""Draws of a native library become draws of a trace: what is drawn, at which address, and what the library is given.

A library that is called by a simulator asks for random numbers by calling a function; hooks lead those calls here. No
exception may cross the library. One that comes up in a draw (the length cap of a trace is one) is kept, the library is
given valid numbers from a source of our own until it returns, and then the exception goes on.

Must not know which library draws, nor how its calls were led here.
"""

import ctypes
import logging
import math
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from tracestore.errors import CompilerError, SimulatorError
from tracestore.native.build import find_compiler
from tracestore.native.callback_library import CallbackLibrary, load_callback_library, read_arguments
from tracestore.native.hooks import KINDS, Hook, Kind
from tracestore.simulators.native_loops import Loop, LoopTracker
from tracestore.simulators.runtime import current_recorder, sample
from tracestore.traces.distributions import Categorical, Distribution, Exponential, Gamma, Uniform

if TYPE_CHECKING:
    from tracestore.native.call_stack import CallStack, Place

__all__ = [
    "ExponentialDraw",
    "GammaDraw",
    "NativeDraw",
    "NativeDraws",
    "PickDraw",
    "SingleUniformDraw",
    "UniformDraw",
    "compiled_draws",
]

logger = logging.getLogger(__name__)

SPARE_SEED = 1
SMALLEST = 2.0**-53
"""Smallest number that a library gets for a draw from (0, 1); the largest is one minus it."""
LARGEST_EXPONENTIAL = 700.0
"""Largest number that a library gets for an exponential draw: its `exp` is still finite."""
Result = TypeVar("Result")
Arguments = tuple[float, ...]


class NativeDraw(ABC):
    """A kind of draw: its prior, given what the library passed, and the number that the library gets."""

    kind: ClassVar[Kind]
    """Name of the signature of the hooked function."""

    @abstractmethod
    def prior(self, arguments: Arguments) -> Distribution:
        """Return the distribution that the library draws from.

        Parameters
        ----------
        arguments
            Numbers that the library passed: parameters of the distribution.
        """

    @abstractmethod
    def number(self, value: float) -> float:
        """Return what the library gets for a value: one inside of what its own generator could give."""

    @abstractmethod
    def spare(self, rng: random.Random, arguments: Arguments) -> float:
        """Return a valid number for a run that has ended already."""


class UniformDraw(NativeDraw):
    """A number between 0 and 1, ends excluded, in double precision."""

    kind: ClassVar[Kind] = "uniform_double"
    _prior: Distribution = Uniform(0.0, 1.0)
    _low, _high = SMALLEST, 1.0 - SMALLEST

    def prior(self, arguments: Arguments) -> Distribution:
        """Return the uniform distribution."""
        return self._prior

    def number(self, value: float) -> float:
        """Move the ends inside."""
        return min(max(float(value), self._low), self._high)

    def spare(self, rng: random.Random, arguments: Arguments) -> float:
        """Draw from the same interval."""
        return self.number(rng.random())


class SingleUniformDraw(UniformDraw):
    """The same in single precision.

    Parameters
    ----------
    prior
        A uniform distribution whose draws single precision represents exactly.
    step
        Distance of the smallest and largest number from the ends.
    """

    kind: ClassVar[Kind] = "uniform_float"

    def __init__(self, prior: Distribution, step: float) -> None:
        self._prior = prior
        self._low, self._high = step, 1.0 - step

    def number(self, value: float) -> float:
        """Round to single precision, ends inside."""
        return super().number(ctypes.c_float(value).value)


class ExponentialDraw(NativeDraw):
    """A number of the exponential distribution with mean 1."""

    kind = "exponential_double"
    _prior = Exponential(1.0)

    def prior(self, arguments: Arguments) -> Distribution:
        """Return the exponential distribution."""
        return self._prior

    def number(self, value: float) -> float:
        """Keep it positive and finite."""
        return min(max(float(value), SMALLEST), LARGEST_EXPONENTIAL)

    def spare(self, rng: random.Random, arguments: Arguments) -> float:
        """Draw from the same distribution."""
        return self.number(rng.expovariate(1.0))


class GammaDraw(NativeDraw):
    """A number of a gamma distribution; the arguments are its shape and scale."""

    kind = "gamma_double"

    def prior(self, arguments: Arguments) -> Distribution:
        """Return the gamma distribution."""
        shape, scale = arguments
        return Gamma(shape, 1.0 / scale)

    def number(self, value: float) -> float:
        """Keep it positive."""
        return max(float(value), sys.float_info.min)

    def spare(self, rng: random.Random, arguments: Arguments) -> float:
        """Draw from the same distribution."""
        return self.number(rng.gammavariate(*arguments))


class PickDraw(NativeDraw):
    """A position in a list of weights; the arguments are the weights."""

    kind = "pick_vector"

    def prior(self, arguments: Arguments) -> Distribution:
        """Return the categorical distribution over the weights.

        Raises
        ------
        SimulatorError
            When they are no weights.
        """
        total = _total_weight(arguments)
        if not total:
            message = f"The native library picks among weights that are none: {arguments[:8]!r}."
            raise SimulatorError(message)
        return Categorical([weight / total for weight in arguments])

    def number(self, value: float) -> float:
        """Return the position."""
        return int(value)

    def spare(self, rng: random.Random, arguments: Arguments) -> float:
        """Pick by the same weights."""
        return rng.choices(range(len(arguments)), arguments)[0] if _total_weight(arguments) else 0


def _total_weight(weights: Arguments) -> float:
    """Return the sum of weights; zero when they are none."""
    total = sum(weights, 0.0)
    return total if math.isfinite(total) and total > 0.0 and min(weights) >= 0.0 else 0.0


class NativeDraws:
    """The draws of one native library in this process, one library call after the other.

    Parameters
    ----------
    name
        Of the library, for messages.
    loops
        Its rejection loops.

    Examples
    --------
    >>> draws = NativeDraws("nothing")
    >>> draws.run(lambda: "what the library returned")
    'what the library returned'
    """

    def __init__(self, name: str, loops: Sequence[Loop] = ()) -> None:
        self.name = name
        self._loops = LoopTracker(loops)
        self._spare = random.Random(SPARE_SEED)
        self._is_in_flight = False
        self._error: BaseException | None = None

    def run(self, call: Callable[[], Result]) -> Result:
        """Call the library, with its draws led here.

        Parameters
        ----------
        call
            Calls it.

        Returns
        -------
        Any
            What the call returned.

        Raises
        ------
        SimulatorError
            When a call of this library is in flight already; else whatever a draw raised.
        """
        if self._is_in_flight:
            message = (
                f"A run of {self.name} is already in flight in this process, and the library keeps its state from call "
                "to call; make other runs in other processes."
            )
            raise SimulatorError(message)
        self._is_in_flight = True
        hook = sys.unraisablehook
        try:
            self._error = None
            sys.unraisablehook = partial(self._keep, hook)
            result = call()
            self._raise_kept()
            self._loops.finish()
            return result
        except BaseException:
            self._raise_kept()
            raise
        finally:
            self._is_in_flight = False
            sys.unraisablehook = hook
            self._loops.abandon()

    def number(self, draw: NativeDraw, place: "Callable[[], Place]", arguments: Arguments = ()) -> float:
        """Return what the library gets for one draw; does not raise.

        Parameters
        ----------
        draw
            Kind of the draw.
        place
            Finds the place of the draw; asked in a recorded run only.
        arguments
            Numbers that the library passed.
        """
        try:
            if self._error is None:
                prior = draw.prior(arguments)
                recorder = current_recorder()
                if recorder is None:
                    return draw.number(sample(prior, address=""))
                found = place()
                self._loops.enter(found, recorder)
                return draw.number(sample(prior, address=found.text))
        except BaseException as error:  # noqa: BLE001  # `run` raises it again
            self._error = error
        return draw.spare(self._spare, arguments)

    def _raise_kept(self) -> None:
        if self._error is not None:
            raise self._error from None

    def _keep(self, otherwise: Callable[["sys.UnraisableHookArgs"], Any], found: "sys.UnraisableHookArgs") -> None:
        """Keep what strikes between the library and the first line of `number`, an interrupt that is."""
        if "ctypes" not in (found.err_msg or ""):
            otherwise(found)
        elif self._error is None:
            self._error = found.exc_value


def compiled_draws(
    draws: NativeDraws, stack: "CallStack", kinds: Sequence[NativeDraw], symbols: Mapping[str, NativeDraw]
) -> CallbackLibrary | None:
    """Build and load functions that find the place of a draw faster than Python can.

    Addresses and priors are the same without them.

    Parameters
    ----------
    draws
        What makes the draws.
    stack
        Describes places.
    kinds
        Kinds of draws.
    symbols
        Functions of the library to write replacements of, by the linker's names; nothing calls them yet.

    Returns
    -------
    CallbackLibrary | None
        With the addresses of functions to call, or None where there is no working compiler.
    """
    if find_compiler("c") is None:
        logger.info("there is no C compiler; draws of %s are slower without one", draws.name)
        return None
    hooks = [Hook(symbol, draw.kind) for symbol, draw in symbols.items()]
    try:
        library = load_callback_library(hooks, interpose=False)
    except CompilerError as error:
        logger.warning("draws of %s are slower, since the C compiler fails: %s", draws.name, error)
        return None
    library.attach(stack)
    number, place = draws.number, library.place
    by_code = {KINDS.index(draw.kind): draw for draw in kinds}

    def on_draw(place_id: int, code: int, arguments: int, num_arguments: int) -> float:
        return number(by_code[code], partial(place, place_id), read_arguments(arguments, num_arguments))

    library.set_callback(on_draw)
    return library
