"""Pythia 8 under control: every random number that it draws while it makes an event comes from `sample`.

The Python package of Pythia is one extension module that calls its own generator through slots of its global offset
table. While an event is made these slots lead to us, and afterwards back again, so other code in the process may use
Pythia, before and after. Hooked are ``Rndm::flat``, and one level up ``Rndm::exp`` (the prior is Exponential(1)),
``Rndm::gamma`` and ``Rndm::pick`` (Categorical over the weights); ``Rndm::gauss`` is compiled into its callers and
shows up as two uniform numbers.

Addresses are the calls inside Pythia that lead to the draw, with offsets from where the module is loaded. They hold for
one build of the module; its build-id is in `build`. They and the priors are the same with and without a compiler on the
machine. Numbers that Pythia draws while it starts are not part of an event: a fixed seed gives them.

Pythia's state is one object per process here, so one event is made at a time.
"""

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tracestore._extras import extra
from tracestore.errors import SimulatorError
from tracestore.native import CallStack, Place
from tracestore.native.symbols import elf_file
from tracestore.simulators.native_draws import (
    ExponentialDraw,
    GammaDraw,
    NativeDraw,
    NativeDraws,
    PickDraw,
    UniformDraw,
    compiled_draws,
)
from tracestore.simulators.native_loops import OWN, Loop
from tracestore.simulators.native_slots import CallSlots
from tracestore.simulators.tau_detector import KINDS, Product

with extra("pythia"):
    import pythia8mc

__all__ = ["DRAWS", "LOOPS", "SETTINGS", "PythiaEvents", "build", "module_path", "product"]

SEED = 1
"""Of the numbers that Pythia draws while it starts."""
SETTINGS = (
    "Print:quiet = on",
    "Random:setSeed = on",
    f"Random:seed = {SEED}",
    # what the detector sees as one particle does not decay: the same list as for TAUOLA
    *(f"{number}:mayDecay = off" for number in sorted(KINDS)),
)
"""Settings that all simulators of this module have in common."""
FLAT = "_ZN7Pythia84Rndm4flatEv"
DRAWS: dict[str, NativeDraw] = {
    FLAT: UniformDraw(),
    "_ZN7Pythia84Rndm3expEv": ExponentialDraw(),
    "_ZN7Pythia84Rndm5gammaEdd": GammaDraw(),
    "_ZN7Pythia84Rndm4pickERKSt6vectorIdSaIdEE": PickDraw(),
}
"""The hooked functions, as the linker knows them, and what they draw."""
LOOPS = (
    # a decay of given masses, until its weight under the matrix element is accepted
    Loop("TauDecays::decay", ("TauDecays::isotropicDecay",), (OWN,)),
    # ordered masses of the intermediate systems, until their phase space weight is accepted
    Loop("TauDecays::isotropicDecay", (OWN,), (OWN,)),
    # the same two for other decays into three particles, in one function
    Loop("ParticleDecays::threeBody", (OWN,), (OWN, "Rndm::phaseSpace2")),
    # the hard process
    Loop("ProcessLevel::nextOne", (OWN,), ("ProcessContainer::trialProcess",)),
    # the decay of the Z with correlations; the first weight is that of a decay made elsewhere
    Loop("PhaseSpace::decayKinematics", ("PhaseSpace::decayKinematicsStep",), (OWN,)),
)
"""Rejection loops of Pythia 8.317, from its source and from traces: with these, collapsed traces replay. Masses of
broad resonances (``ParticleDataEntry::mSel``) are not among them: two such masses in a row look like one that was drawn
twice."""


class _Vector(ctypes.Structure):
    """``std::vector<double>``."""

    _fields_ = (("begin", ctypes.c_void_p), ("end", ctypes.c_void_p), ("capacity", ctypes.c_void_p))


_VECTOR = ctypes.POINTER(_Vector)
_MOST_WEIGHTS = 1_000_000


def module_path() -> Path:
    """Return the file of the extension module with Pythia in it."""
    return Path(pythia8mc.__file__)


@lru_cache(maxsize=1)
def build_id() -> str:
    """Return the build-id of the extension module."""
    return elf_file(module_path()).build_id


def build(settings: Sequence[str]) -> str:
    """Return what fixes the addresses of a simulator: the build of Pythia and its settings."""
    return "; ".join([f"pythia8mc {build_id()}", *SETTINGS, *settings])


def product(particle: Any) -> Product:  # noqa: ANN401  # pythia8mc ships no types
    """Describe a particle of the event record."""
    return Product(particle.id(), particle.px(), particle.py(), particle.pz(), particle.e())


@dataclass(frozen=True)
class _Hooks:
    """The redirected calls of the process."""

    slots: CallSlots
    draws: NativeDraws
    targets: dict[str, int]
    kept: object
    """What the addresses belong to; it must not be collected."""


@lru_cache(maxsize=1)
def _hooks() -> _Hooks:
    path = module_path()
    slots = CallSlots(path, list(DRAWS))
    draws = NativeDraws("Pythia", LOOPS)
    stack = CallStack(path, outermost="Pythia::next", drop_namespaces=("Pythia8",))
    compiled = compiled_draws(draws, stack, list(DRAWS.values()), DRAWS)
    if compiled is not None:
        return _Hooks(slots, draws, {symbol: compiled.wrapper_pointer(symbol) for symbol in DRAWS}, compiled)
    callbacks = _callbacks(draws, stack.place)
    targets = {symbol: ctypes.cast(callback, ctypes.c_void_p).value or 0 for symbol, callback in callbacks.items()}
    return _Hooks(slots, draws, targets, callbacks)


def _callbacks(draws: NativeDraws, place: Callable[[], Place]) -> dict[str, Any]:
    """Return functions that C++ can call instead of those in `DRAWS`, in the same order."""
    uniform, exponential, gamma, pick = DRAWS.values()

    def on_flat(_: int) -> float:
        return draws.number(uniform, place)

    def on_exp(_: int) -> float:
        return draws.number(exponential, place)

    def on_gamma(_: int, shape: float, scale: float) -> float:
        return draws.number(gamma, place, (shape, scale))

    def on_pick(_: int, weights: Any) -> int:  # noqa: ANN401
        vector = weights.contents
        number = min(((vector.end or 0) - (vector.begin or 0)) // 8, _MOST_WEIGHTS)
        values = (ctypes.c_double * number).from_address(vector.begin) if number else ()
        return int(draws.number(pick, place, tuple(values)))

    real, this = ctypes.c_double, ctypes.c_void_p
    # PYFUNCTYPE: Pythia runs with the interpreter lock held
    types: tuple[Any, ...] = (
        ctypes.PYFUNCTYPE(real, this),
        ctypes.PYFUNCTYPE(real, this),
        ctypes.PYFUNCTYPE(real, this, real, real),
        ctypes.PYFUNCTYPE(ctypes.c_int, this, _VECTOR),
    )
    functions = (on_flat, on_exp, on_gamma, on_pick)
    pairs = zip(DRAWS, types, functions, strict=True)
    return {symbol: kind(function) for symbol, kind, function in pairs}


class _Sentinel(pythia8mc.RndmEngine):  # type: ignore[misc]
    """The generator that Pythia has; it is asked only by a call that goes past the hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0

    def flat(self) -> float:
        """Count the call."""
        self.num_calls += 1
        return 0.5 + 0.25 * math.sin(self.num_calls)


class PythiaEvents:
    """Makes events of one kind.

    Parameters
    ----------
    settings
        Lines of settings beyond `SETTINGS`.

    Raises
    ------
    SimulatorError
        When Pythia refuses a setting, or does not start.
    """

    def __init__(self, settings: Sequence[str]) -> None:
        self._hooks = _hooks()
        self._pythia = pythia8mc.Pythia("", False)
        for line in (*SETTINGS, *settings):
            if not self._pythia.readString(line):
                message = f"Pythia refuses the setting {line!r}."
                raise SimulatorError(message)
        if not self._pythia.init():
            message = "Pythia did not start with these settings: " + "; ".join(settings)
            raise SimulatorError(message)
        self._sentinel = _Sentinel()
        self._pythia.setRndmEnginePtr(self._sentinel)

    @property
    def event(self) -> Any:  # noqa: ANN401  # pythia8mc ships no types
        """The event record."""
        return self._pythia.event

    def mass(self, particle: int) -> float:
        """Return the nominal mass in GeV of a particle, by its number."""
        return float(self._pythia.particleData.m0(particle))

    def next(self) -> None:
        """Make one event, or decay what is in the event record where there is no hard process.

        Raises
        ------
        SimulatorError
            When Pythia gives up on the event, an event is in flight already, or Pythia drew past the hooks; else
            whatever a draw raised.
        """
        is_good = self._hooks.draws.run(self._next)
        if self._sentinel.num_calls:
            number, self._sentinel.num_calls = self._sentinel.num_calls, 0
            message = (
                f"Pythia drew {number} random numbers that did not go through the hooks, so the trace lacks them; "
                "this build of pythia8mc needs other hooks."
            )
            raise SimulatorError(message)
        if not is_good:
            message = "Pythia gave up on the event."
            raise SimulatorError(message)

    def _next(self) -> bool:
        try:
            self._hooks.slots.redirect(self._hooks.targets)
            return bool(self._pythia.next())
        finally:
            self._hooks.slots.restore()
