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
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracestore._extras import extra
from tracestore.errors import SimulatorError
from tracestore.simulators.base import PriorController, run_trace, simulator
from tracestore.simulators.calorimeter import Calorimeter, CalorimeterConfig, Deposit, ShowerKind
from tracestore.simulators.runtime import observe, sample, tag
from tracestore.traces.distributions import Normal, Uniform

with extra("sims"):
    import alouette

__all__ = [
    "CHANNELS",
    "DETECTOR",
    "POLARIZATION",
    "Product",
    "SinglePrecisionUniform",
    "Tauola",
    "channel_code",
    "library",
    "tau",
    "test_event",
]

DETECTOR = CalorimeterConfig()
"""Geometry, shower template and noise with which the decays are seen."""
POLARIZATION = (0.0, 0.0, -1.0)
"""Spin of the tau in its rest frame: left-handed for one that flies along the detector's axis."""
TEST_EVENT_SEED = 308
"""Seed of the default `test_event`, a decay to pi- pi0. Chosen among many for a posterior that is narrower than the
prior and within reach of prior importance sampling (ESS/N about 0.009), so its truth says nothing about calibration."""

TAU_MINUS = 15
INITIALIZATION_SEED = 1
"""Seed of TAUOLA's own stream for finding the largest weights when it starts; no draw of a decay comes from it."""
STEP = 2.0**-24
LARGEST = 1.0 - STEP
"""Largest number below one in single precision; TAUOLA takes logarithms of both ends."""

_NEUTRINOS = frozenset({12, 14, 16})
_KINDS = {
    11: ShowerKind.ELECTROMAGNETIC,
    13: ShowerKind.MUON,
    22: ShowerKind.ELECTROMAGNETIC,
    111: ShowerKind.ELECTROMAGNETIC,  # neutral pions and etas reach the detector as photons
    130: ShowerKind.HADRONIC,
    211: ShowerKind.HADRONIC,
    221: ShowerKind.ELECTROMAGNETIC,
    310: ShowerKind.HADRONIC,
    321: ShowerKind.HADRONIC,
}
_SYMBOLS = {
    -321: "K-", -211: "pi-", 11: "e-", 13: "mu-", 22: "gamma", 111: "pi0", 130: "KL", 211: "pi+", 221: "eta",
    310: "KS", 321: "K+",
}  # fmt: skip
# Visible products of every channel that TAUOLA makes, most frequent first. A code is a position in this list plus one:
# append, never reorder.
_CHANNELS: tuple[tuple[int, ...], ...] = (
    (-211, 111), (13,), (11,), (-211,), (-211, -211, 211), (-211, 111, 111), (-211, -211, 111, 211), (11, 22),
    (-211, 111, 111, 111), (-321,), (13, 22), (-321, -211, 211), (-211, 130), (-321, 111), (-211, 310),
    (-211, 111, 130), (-211, 111, 310), (-211, 111, 221), (-321, -211, 321), (-211, 22, 111),
    (-211, -211, 111, 111, 211), (-211, 130, 310), (-321, 111, 310), (-321, 111, 130), (-321, 130), (-321, 111, 111),
    (-321, 310), (-211, -211, 111, 111, 111, 211), (-211, 130, 130), (-211, -211, -211, 211, 211), (-211, 310, 310),
    (-211, -211, -211, 111, 211, 211),
)  # fmt: skip
_CODES = {products: code for code, products in enumerate(_CHANNELS, start=1)}
OTHER = 0
"""Code of a channel that is not in `CHANNELS`."""


def _label(products: tuple[int, ...]) -> str:
    neutrinos = ["nu", "nu"] if products[0] in (11, 13) else ["nu"]
    return " ".join([_SYMBOLS[pid] for pid in products] + neutrinos)


CHANNELS: tuple[str, ...] = ("other", *map(_label, _CHANNELS))
"""Name of every decay channel, by the code that the tag ``channel`` records."""


class Product(NamedTuple):
    """One decay product in the laboratory frame."""

    pid: int
    """Particle number of the Particle Data Group."""
    px: float
    """Momentum along x in GeV."""
    py: float
    """Momentum along y in GeV."""
    pz: float
    """Momentum along the detector's axis in GeV."""
    energy: float
    """Energy in GeV."""

    @property
    def is_visible(self) -> bool:
        """Whether the particle can be detected, that is, it is no neutrino."""
        return abs(self.pid) not in _NEUTRINOS


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
        folder = Path(alouette.__file__).parent / "lib"
        # PyDLL keeps the interpreter lock: the library calls back at every draw
        self._library = ctypes.PyDLL(str(next(folder.glob("libalouette.*"))))
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

    def decay(self, momentum: tuple[float, float, float], draw: Callable[[], float]) -> list[Product]:
        """Decay a negative tau.

        Parameters
        ----------
        momentum
            Momentum of the tau (px, py, pz) in GeV.
        draw
            Returns the next number of the uniform distribution on (0, 1). It is rounded to single precision. An
            exception from it ends the decay and leaves this function.

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
            self._pointer.value = self._callback_address
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


_library: Tauola | None = None


def library() -> Tauola:
    """Return the library of this process, starting it at the first call."""
    global _library  # TAUOLA is one per process by construction
    if _library is None:
        _library = Tauola()
    return _library


def channel_code(products: list[Product]) -> int:
    """Return the position in `CHANNELS` of the channel that made these products."""
    return _CODES.get(tuple(sorted(product.pid for product in products if product.is_visible)), OTHER)


_PX = Uniform(-3.0, 3.0)
_PY = Uniform(-3.0, 3.0)
_PZ = Uniform(40.0, 50.0)
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


def _deposit(product: Product) -> Deposit:
    slope_x, slope_y = product.px / product.pz, product.py / product.pz
    return Deposit(product.energy, slope_x, slope_y, _KINDS[abs(product.pid)])


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
