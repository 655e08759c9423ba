"""Decays of tau leptons by Pythia 8, bundled simulators that nobody here wrote.

* `pythia_tau`: one tau of unknown momentum, seen in a calorimeter, as `tracestore.simulators.tau.tau` with another
  library for the decay;
* `pythia_ee`: electron and positron annihilate into a Z that decays into two taus, whose spins are correlated; what is
  measured are the momenta of what can be seen of each tau.

How the draws of Pythia become draws of a trace is in `tracestore.simulators.pythia_library`.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracestore.simulators.base import PriorController, run_trace, simulator
from tracestore.simulators.pythia_library import PythiaEvents, build, product
from tracestore.simulators.runtime import observe, sample, tag
from tracestore.simulators.tau_detector import (
    CHANNELS,
    PX,
    PY,
    PZ,
    TAU_MINUS,
    Product,
    channel_code,
    observe_products,
)
from tracestore.traces.distributions import Normal

__all__ = ["CHANNELS", "MOMENTUM_SD", "pythia_ee", "pythia_tau", "test_event"]

MOMENTUM_SD = 1.0
"""Standard deviation in GeV with which `pythia_ee` measures each component of a visible momentum, and its energy."""
TEST_EVENT_SEED = 32
"""Seed of the default `test_event`, a decay to pi- pi0. Chosen among fourteen of them for being within reach of prior
importance sampling (ESS/N about 0.012), so its truth says nothing about calibration."""

_TAU_SETTINGS = (
    "ProcessLevel:all = off",
    # left-handed, as what TAUOLA decays
    "TauDecays:mode = 3",
    "TauDecays:tauPolarization = -1",
)
_EE_SETTINGS = (
    "Beams:idA = 11",
    "Beams:idB = -11",
    "Beams:eCM = 91.1876",
    "PDF:lepton = off",
    "PartonLevel:ISR = off",
    "PartonLevel:FSR = off",
    "WeakSingleBoson:ffbar2gmZ = on",
    "23:onMode = off",
    "23:onIfAny = 15",
)
_STATUS_OF_INPUT = 1
_UNKNOWN_POLARIZATION = 9.0


@lru_cache(maxsize=2)
def _events(settings: tuple[str, ...]) -> PythiaEvents:
    return PythiaEvents(settings)


@simulator(build=build(_TAU_SETTINGS))
def pythia_tau() -> None:
    """Decay a tau of unknown momentum with Pythia and observe the calorimeter.

    Named draws: ``px``, ``py``, ``pz`` in GeV. Observation and tags as in
    `tracestore.simulators.tau_detector.observe_products`.
    """
    px = sample(PX, name="px", address="px")
    py = sample(PY, name="py", address="py")
    pz = sample(PZ, name="pz", address="pz")
    observe_products(_decay(float(px), float(py), float(pz)))


def _decay(px: float, py: float, pz: float) -> list[Product]:
    events = _events(_TAU_SETTINGS)
    record, mass = events.event, events.mass(TAU_MINUS)
    energy = math.hypot(px, py, pz, mass)
    record.reset()
    record.append(TAU_MINUS, _STATUS_OF_INPUT, 0, 0, px, py, pz, energy, mass, 0.0, _UNKNOWN_POLARIZATION)
    events.next()
    return [product(particle) for particle in record if particle.isFinal()]


@simulator(build=build(_EE_SETTINGS))
def pythia_ee() -> None:
    """Make two taus at the mass of the Z, without radiation, and measure what is visible of each.

    Observation: ``visible``, float32 of shape (2, 4): px, py, pz and energy in GeV of everything that can be seen of
    the negative and of the positive tau, each number with independent Normal noise of `MOMENTUM_SD`. It is a
    measurement that we made up, not a detector. Tags: ``channel_minus`` and ``channel_plus`` (see `CHANNELS`),
    ``cos_theta`` (of the negative tau against the electron) and ``unseen`` (energy of all neutrinos in GeV).
    """
    events = _events(_EE_SETTINGS)
    events.next()
    particles = list(events.event)
    of_minus, of_plus = (_descendants(particles, number) for number in (TAU_MINUS, -TAU_MINUS))
    # the channels of a positive tau are those of a negative one with all charges changed
    mirrored = [one._replace(pid=_mirror(one.pid)) for one in of_plus]
    tag(channel_code(of_minus), name="channel_minus", address="channel_minus")
    tag(channel_code(mirrored), name="channel_plus", address="channel_plus")
    tau = next(particle for particle in particles if particle.id() == TAU_MINUS)
    tag(math.cos(tau.theta()), name="cos_theta", address="cos_theta")
    unseen = sum(one.energy for one in (*of_minus, *of_plus) if not one.is_visible)
    tag(unseen, name="unseen", address="unseen")
    visible = np.array([_total(of_minus), _total(of_plus)])
    observe(Normal(visible, MOMENTUM_SD), name="visible", address="visible", dtype=np.float32)


def _descendants(particles: Sequence[Any], number: int) -> list[Product]:
    """Return the final particles that come from a tau of this number."""
    found = []
    for particle in particles:
        ancestor = particle
        while abs(ancestor.id()) != TAU_MINUS and ancestor.mother1() > 0:
            ancestor = particles[ancestor.mother1()]
        if particle.isFinal() and ancestor.id() == number:
            found.append(product(particle))
    return found


def _mirror(number: int) -> int:
    return number if number in _SELF_CONJUGATE else -number


_SELF_CONJUGATE = frozenset({22, 111, 130, 221, 310})


def _total(products: Sequence[Product]) -> NDArray[np.float64]:
    seen = [one[1:] for one in products if one.is_visible]
    return np.sum(seen, axis=0) if seen else np.zeros(4)


def test_event(  # an event to test with, not a test
    seed: int = TEST_EVENT_SEED,  # noqa: PT028
) -> tuple[dict[str, NDArray[np.float32]], dict[str, float]]:
    """Simulate one event of `pythia_tau` whose truth is known.

    Parameters
    ----------
    seed
        Which event.

    Returns
    -------
    observation
        ``{"calorimeter": image}``, to condition on.
    truth
        The values of px, py, pz, channel, energy_1, energy_2 and met that made it.

    Examples
    --------
    >>> observation, truth = test_event()
    >>> observation["calorimeter"].shape, CHANNELS[int(truth["channel"])] in CHANNELS
    ((20, 35, 35), True)
    """
    trace = run_trace(pythia_tau, PriorController(), np.random.default_rng(seed))
    names = ("px", "py", "pz", "channel", "energy_1", "energy_2", "met")
    observation = {"calorimeter": np.asarray(trace.observations["calorimeter"], np.float32)}
    return observation, {name: float(trace[name]) for name in names}
