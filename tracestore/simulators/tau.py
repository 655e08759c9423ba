"""Decays of the tau lepton by TAUOLA, seen in a calorimeter: the bundled simulator that nobody here wrote.

The momentum of the tau is drawn from uniform priors, TAUOLA (through the package alouette) decays it, and the visible
products fill a 3D calorimeter with independent Normal noise in every voxel. TAUOLA draws all its random numbers
through one exported function pointer; here that pointer leads to `sample`, so every draw is a site: the first one,
which chooses the decay mode, at address ``tauola.channel``, all others at ``tauola.random``.

TAUOLA computes in single precision and keeps its state in global variables. So the numbers drawn from the prior are
ones that single precision represents exactly, and one decay is in flight at a time in a process.
"""

import ctypes
import random
from collections.abc import Callable, Generator
from itertools import chain, repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tracestore._extras import extra
from tracestore.errors import SimulatorError
from tracestore.simulators.base import PriorController, run_trace, simulator
from tracestore.simulators.calorimeter import Calorimeter
from tracestore.simulators.runtime import observe, sample, tag
from tracestore.simulators.tau_detector import (
    CHANNELS,
    DETECTOR,
    OTHER,
    POLARIZATION,
    TAU_MINUS,
    Product,
    channel_code,
)
from tracestore.simulators.tau_detector import PX as _PX
from tracestore.simulators.tau_detector import PY as _PY
from tracestore.simulators.tau_detector import PZ as _PZ
from tracestore.simulators.tau_detector import deposit as _deposit
from tracestore.traces.distributions import Normal, Uniform

with extra("sims"):
    import alouette

__all__ = [
    "CHANNELS",
    "DETECTOR",
    "OTHER",
    "POLARIZATION",
    "Product",
    "SinglePrecisionUniform",
    "Tauola",
    "channel_code",
    "library",
    "library_path",
    "tau",
    "test_event",
]

TEST_EVENT_SEED = 308
"""Seed of the default `test_event`, a decay to pi- pi0. Chosen among many for a posterior that is narrower than the
prior and within reach of prior importance sampling (ESS/N about 0.009), so its truth says nothing about calibration."""

INITIALIZATION_SEED = 1
"""Seed of TAUOLA's own stream for finding the largest weights when it starts; no draw of a decay comes from it."""
STEP = 2.0**-24
LARGEST = 1.0 - STEP
"""Largest number below one in single precision; TAUOLA takes logarithms of both ends."""


class SinglePrecisionUniform(Uniform):
    """`Uniform(0, 1)` whose draws are single-precision numbers strictly inside the interval.

    Examples
    --------
    >>> value = SinglePrecisionUniform().sample(np.random.default_rng(1))
    >>> value == np.float32(value)
    np.True_
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(0.0, 1.0)

    def sample(self, rng: np.random.Generator) -> float:
        """Draw an odd multiple of 2**-24."""
        return (2 * int(rng.random() * 8_388_608.0) + 1) * STEP

    @property
    def num_parameters(self) -> int:
        """Length of `parameters`: the bounds are stored as those of any uniform distribution."""
        return 2

    def arguments(self) -> dict[str, object]:
        """Return the constructor's arguments: it has none."""
        return {}


class _Products(ctypes.Structure):
    """``struct alouette_products`` of alouette.h."""

    _fields_ = (
        ("size", ctypes.c_int),
        ("pid", ctypes.c_int * 7),
        ("momentum", (ctypes.c_double * 4) * 7),
        ("polarimeter", ctypes.c_double * 3),
        ("weight", ctypes.c_double),
    )


class Tauola:
    """The TAUOLA library, with its random numbers taken from outside; `library` returns the one of this process.

    Starting takes a tenth of a second and always ends in the same state. It happens once in a process: when other code
    has started TAUOLA before, its state is unknown and decays would depend on the history.

    Raises
    ------
    SimulatorError
        When TAUOLA was already started in this process.
    """

    def __init__(self) -> None:
        # PyDLL keeps the interpreter lock: the library calls back at every draw
        self._library = ctypes.PyDLL(str(library_path()))
        self._library.alouette_message.restype = ctypes.c_char_p
        self._pointer = ctypes.c_void_p.in_dll(self._library, "alouette_random")
        self._native_address = self._pointer.value
        self._draw: Callable[[], float] = float
        self._is_in_flight = False
        self._error: BaseException | None = None
        numbers = self._numbers()
        next(numbers)  # from here on it is suspended inside its `try`
        self._callback = ctypes.PYFUNCTYPE(ctypes.c_float)(numbers.__next__)
        self._callback_address = ctypes.cast(self._callback, ctypes.c_void_p).value
        self._products = _Products()
        seed = ctypes.c_ulong(INITIALIZATION_SEED)
        if self._library.alouette_initialise(ctypes.byref(seed), None) != 0:
            message = (
                f"TAUOLA did not start: {self._message()}. When other code in this process has used alouette, run the "
                "decays in another process."
            )
            raise SimulatorError(message)

    def decay(
        self, momentum: tuple[float, float, float], draw: Callable[[], float], *, function: int | None = None
    ) -> list[Product]:
        """Decay a negative tau.

        Parameters
        ----------
        momentum
            Momentum of the tau (px, py, pz) in GeV.
        draw
            Returns the next number of the uniform distribution on (0, 1). It is rounded to single precision. An
            exception from it ends the decay and leaves this function.
        function
            Address of a function ``float(void)`` that the library is to call directly, instead of ``draw``.

        Returns
        -------
        list[Product]
            The products, neutrinos included.

        Raises
        ------
        SimulatorError
            When a decay is already in flight in this process, or TAUOLA reports an error.
        """
        if self._is_in_flight:
            message = (
                "A tau decay is already in flight in this process, and TAUOLA keeps its state in global variables; "
                "run other decays in other processes."
            )
            raise SimulatorError(message)
        # no call between the test and `try`, nor in `finally`: an interrupt or another thread cannot come in between
        self._is_in_flight = True
        try:
            self._draw = draw
            self._pointer.value = self._callback_address if function is None else function
            return self._decay(momentum)
        finally:
            self._pointer.value = self._native_address
            self._draw, self._error = float, None
            self._is_in_flight = False

    def _decay(self, momentum: tuple[float, float, float]) -> list[Product]:
        vector = ctypes.c_double * 3
        status = self._library.alouette_decay(
            0, TAU_MINUS, vector(*momentum), vector(*POLARIZATION), ctypes.byref(self._products)
        )
        if self._error is not None:
            raise self._error
        self._check(status)
        found = self._products
        return [Product(found.pid[i], *found.momentum[i]) for i in range(found.size)]

    def _numbers(self) -> Generator[float, None, None]:
        """Yield what TAUOLA receives: the draws, or after an exception safe numbers until the call returns.

        An exception cannot cross the library, and a constant could keep a rejection loop spinning for ever. A
        generator, because a signal is handled when Python code is entered: in a function that would be outside its
        `try`, here it is inside.
        """
        spare = random.Random(INITIALIZATION_SEED)
        while True:
            try:
                while self._error is None:
                    number = self._draw()
                    yield number if STEP <= number <= LARGEST else min(max(number, STEP), LARGEST)
                while self._error is not None:
                    yield (2 * spare.getrandbits(23) + 1) * STEP
            except GeneratorExit:
                return
            except BaseException as error:  # noqa: BLE001  # `decay` raises it again
                self._error = error

    def _check(self, status: int) -> None:
        if status != 0:
            message = f"TAUOLA reported an error: {self._message()} (status {status})."
            raise SimulatorError(message)

    def _message(self) -> str:
        text: bytes = self._library.alouette_message()
        return text.decode(errors="replace").strip() or "no message"


def library_path() -> Path:
    """Return the file of the shared library with TAUOLA in it."""
    return next((Path(alouette.__file__).parent / "lib").glob("libalouette.*"))


_library: Tauola | None = None


def library() -> Tauola:
    """Return the library of this process, starting it at the first call."""
    global _library  # TAUOLA is one per process by construction
    if _library is None:
        _library = Tauola()
    return _library


_UNIT = SinglePrecisionUniform()
_CALORIMETER = Calorimeter(DETECTOR)


@simulator
def tau() -> None:
    """Decay a tau of unknown momentum and observe the calorimeter.

    Named draws: ``px``, ``py``, ``pz`` in GeV. Observation: ``calorimeter``, float32 energies in GeV of shape
    (20, 35, 35). Tags: ``channel`` (see `CHANNELS`), ``num_products``, ``energy_1`` and ``energy_2`` (the two most
    energetic visible products, zero when there is none) and ``met`` (missing transverse energy: the transverse momentum
    of the neutrinos together), in GeV.
    """
    px = sample(_PX, name="px")
    py = sample(_PY, name="py")
    pz = sample(_PZ, name="pz")
    addresses = chain(("tauola.channel",), repeat("tauola.random"))
    products = library().decay((float(px), float(py), float(pz)), lambda: float(sample(_UNIT, address=next(addresses))))
    visible = [product for product in products if product.is_visible]
    unseen = [product for product in products if not product.is_visible]
    energies = sorted((product.energy for product in visible), reverse=True)
    tag(channel_code(products), name="channel")
    tag(len(products), name="num_products")
    tag(energies[0] if energies else 0.0, name="energy_1")
    tag(energies[1] if len(energies) > 1 else 0.0, name="energy_2")
    tag(np.hypot(sum(product.px for product in unseen), sum(product.py for product in unseen)), name="met")
    image = _CALORIMETER.image([_deposit(product) for product in visible if product.pz > 0.0])
    observe(Normal(image, DETECTOR.noise_sd), name="calorimeter", dtype=np.float32)


def test_event(  # an event to test with, not a test
    seed: int = TEST_EVENT_SEED,  # noqa: PT028
) -> tuple[dict[str, NDArray[np.float32]], dict[str, float]]:
    """Simulate one event whose truth is known.

    Parameters
    ----------
    seed
        Which event; the default was chosen, other seeds give unselected events.

    Returns
    -------
    observation
        ``{"calorimeter": image}``, to condition on.
    truth
        The values of px, py, pz, channel, energy_1, energy_2 and met that made it.

    Examples
    --------
    >>> observation, truth = test_event()
    >>> observation["calorimeter"].shape, CHANNELS[int(truth["channel"])]
    ((20, 35, 35), 'pi- pi0 nu')
    """
    trace = run_trace(tau, PriorController(), np.random.default_rng(seed))
    names = ("px", "py", "pz", "channel", "energy_1", "energy_2", "met")
    observation = {"calorimeter": np.asarray(trace.observations["calorimeter"], np.float32)}
    return observation, {name: float(trace[name]) for name in names}
