# ruff: noqa: NPY002  # the legacy functions are what is tested

import ctypes
import gc
import os
import random
import secrets
import sys
import threading
import types
import uuid
import warnings
from random import SystemRandom
from typing import Any

import numpy as np
import pytest
from scipy.stats import sampling

import tracestore as ts
from tracestore.errors import SimulatorProtocolError, TracestoreWarning
from tracestore.hijacking import hijack
from tracestore.hijacking.leaks import FIRST_RUNS, RARELY
from tracestore.hijacking.numpy_source import NumpySource
from tracestore.hijacking.numpy_watch import NUMBA_SIZE, _taps
from tracestore.simulators import PriorController, Simulator, run_trace

EARLY = np.random.default_rng(3)
LEGACY = np.random.RandomState(3)
UNBOUND = np.random.Generator.normal  # not an instance's, so no reference to redirect
UNBOUND_LEGACY = np.random.RandomState.normal
EARLY_LEGACY_INTERFACE = LEGACY._bit_generator.ctypes
EARLY_INTERFACE = EARLY.bit_generator.ctypes
SYSTEM = SystemRandom()
BITS: Any = EARLY.bit_generator


@pytest.fixture(autouse=True)
def _first_runs(monkeypatch):
    monkeypatch.setattr("tracestore.hijacking.leaks._num_runs", {})


def run(function, leaks="raise", seed=1):
    def program():
        with hijack("numpy", leaks=leaks):
            return function()

    return run_trace(Simulator(program), PriorController(), np.random.default_rng(seed))


def unbound():
    return UNBOUND(EARLY, 0.0, 1.0)


def unbound_array():
    return UNBOUND(EARLY, size=500).sum()


def unbound_of_a_new_one():
    return UNBOUND(np.random.default_rng(1), 0.0, 1.0)


def unbound_legacy():
    return UNBOUND_LEGACY(LEGACY, 0.0, 1.0, 2).sum()  # one may be kept from before, two cannot


def raw_bits():
    return EARLY.bit_generator.random_raw()


def raw_bits_of_a_new_one():
    return np.random.PCG64(1).random_raw(2)


def new_interface():
    interface = np.random.PCG64(1).ctypes
    return interface.next_double(interface.state)


def system_bytes():
    return len(os.urandom(4))


def system_random():
    return SYSTEM.random()


def system_token():
    return secrets.randbelow(10)


def random_uuid():
    return uuid.uuid4().int % 7


LEAKS = [
    (unbound, "bits of PCG64 that compiled code draws"),
    (unbound_array, "bits of PCG64 that compiled code draws"),
    (unbound_of_a_new_one, "bits of PCG64 that compiled code draws"),
    (unbound_legacy, "bits of MT19937 that compiled code draws"),
    (raw_bits, "raw bits of PCG64"),
    (raw_bits_of_a_new_one, "raw bits of PCG64"),
    (new_interface, "raw bits of PCG64 by its `ctypes` interface"),
    (system_bytes, "randomness of the operating system"),
    (system_random, "randomness of the operating system"),
    (system_token, "randomness of the operating system"),
    (random_uuid, "randomness of the operating system"),
]


@pytest.mark.parametrize(("leak", "what"), LEAKS, ids=[leak.__name__ for leak, _ in LEAKS])
def test_leaks_are_errors_that_name_the_place(leak, what):
    with pytest.raises(SimulatorProtocolError, match=f"not recorded: {what}") as found:
        run(leak)
    first = leak.__code__.co_firstlineno
    lines = [f"in {leak.__name__} ({__file__}:{line})" for line in (first + 1, first + 2)]
    assert any(line in str(found.value) for line in lines)
    assert "It was used here:" in found.value.__notes__[0]
    assert f"in {leak.__name__}\n" in found.value.__notes__[0]
    assert "run_trace" not in found.value.__notes__[0]
    assert "and 1 more" not in str(found.value)


@pytest.mark.parametrize("leak", [leak for leak, _ in LEAKS])
def test_leaks_can_be_warnings(leak):
    with pytest.warns(TracestoreWarning, match="randomness that was not recorded"):
        run(leak, leaks="warn")


@pytest.mark.parametrize("leak", [leak for leak, _ in LEAKS])
def test_leaks_can_be_ignored(leak):
    assert run(leak, leaks="ignore").failure == ""


def test_a_swallowed_draw_is_an_error_all_the_same():
    def program():
        try:
            with hijack("numpy"):
                unbound()
        except SimulatorProtocolError:
            return 1.0

    with pytest.raises(SimulatorProtocolError, match="not recorded"):
        run_trace(Simulator(program), PriorController(), np.random.default_rng(1))


def test_a_leak_of_a_failed_run_is_an_error():
    def fail():
        unbound()
        raise ValueError("too hot")

    with pytest.raises(SimulatorProtocolError, match="not recorded"):
        run(fail)


def test_bits_taken_through_old_pointers_are_noticed_without_a_place():
    with pytest.raises(SimulatorProtocolError, match="PCG64, whose state has changed"):
        run(lambda: EARLY_INTERFACE.next_uint64(EARLY_INTERFACE.state))


def test_a_changed_state_is_noticed():
    def jump():
        BITS.advance(3)

    with pytest.raises(SimulatorProtocolError, match="PCG64, whose state has changed"):
        run(jump)


def test_the_kept_deviate_of_a_legacy_generator_is_noticed():
    UNBOUND_LEGACY(LEGACY)
    if not LEGACY.get_state(legacy=False)["has_gauss"]:
        UNBOUND_LEGACY(LEGACY)
    with pytest.raises(SimulatorProtocolError, match="RandomState, whose state has changed"):
        run(lambda: UNBOUND_LEGACY(LEGACY))


def clean():
    rng = np.random.default_rng()
    children = rng.spawn(2)
    seeded = np.random.Generator(np.random.MT19937(3))
    return float(
        rng.normal()
        + np.random.poisson(3)
        + children[0].random()
        + seeded.normal()
        + EARLY.random()
        + np.random.RandomState(2).normal()
    )


def test_a_program_without_leaks_is_left_alone():
    trace = run(clean)
    assert trace.failure == ""
    assert [site.family for site in trace.sites] == ["Normal", "Poisson", "Uniform", "Normal", "Uniform", "Normal", ""]


def test_priors_drawn_directly_are_no_leaks():
    import tracestore as ts

    trace = run(lambda: ts.sample(ts.TruncatedNormal(0.0, 1.0, -1.0, 1.0)) + ts.observe(ts.Normal(0.0, 1.0), name="y"))
    assert [site.family for site in trace.sites] == ["TruncatedNormal", "Normal", ""]


def test_leaks_of_the_first_runs_and_rarely_later_are_looked_for(monkeypatch):
    looked = []
    found: list[float] = []

    def watch(self, *, is_first):
        looked.append(len(found))
        return list

    monkeypatch.setattr(NumpySource, "watch", watch)

    @hijack("numpy")
    def program():
        found.append(np.random.default_rng(1).random())

    for _ in range(2 * RARELY):
        run_trace(Simulator(program), PriorController(), np.random.default_rng(1))
    numbers = range(1, 2 * RARELY + 1)
    powers = {2**k for k in range(20)}
    assert looked == [n - 1 for n in numbers if n <= FIRST_RUNS or n in powers or n % RARELY == 0]


def test_bit_generators_are_as_before_after_a_run():
    before = bytes(_structure(EARLY)), EARLY.bit_generator.state, np.random.get_state(legacy=False)
    made = []
    run(lambda: made.append(np.random.default_rng(1)))
    after = bytes(_structure(EARLY)), EARLY.bit_generator.state, np.random.get_state(legacy=False)
    assert before[:2] == after[:2]
    assert before[2]["state"]["key"].tolist() == after[2]["state"]["key"].tolist()
    expected = np.random.default_rng(1)
    assert made[0].random(3).tolist() == expected.random(3).tolist()
    _taps._notice, notice = (lambda name: pytest.fail(f"{name} is still tapped")), _taps._notice
    UNBOUND(made[0])
    UNBOUND(EARLY)
    _taps._notice = notice


def _structure(generator):
    from tracestore.hijacking.bits import structure_of

    return structure_of(generator.bit_generator.capsule)


def test_taps_are_put_back_after_an_error():
    with pytest.raises(SimulatorProtocolError):
        run(unbound)
    assert not _taps.is_watching
    assert EARLY.normal() != EARLY.normal()


def test_operating_system_randomness_is_put_back():
    natives = os.urandom, vars(random)["_urandom"]
    run(lambda: None)
    assert (os.urandom, vars(random)["_urandom"]) == natives


def test_outside_of_a_run_nothing_is_a_leak():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with hijack("numpy"):
            unbound()
            system_bytes()
            raw_bits()


def test_watching_does_not_keep_generators_alive():
    run(lambda: [np.random.default_rng(number).random() for number in range(5)])
    gc.collect()
    alive = [found for found in gc.get_objects() if type(found) is np.random.Generator]
    run(lambda: [np.random.default_rng(number).random() for number in range(5)])
    gc.collect()
    assert len([found for found in gc.get_objects() if type(found) is np.random.Generator]) == len(alive)


class Normal:
    """A density as scipy's compiled samplers want it."""

    def pdf(self, x):
        return np.exp(-0.5 * x * x)

    def dpdf(self, x):
        return -x * np.exp(-0.5 * x * x)


def test_compiled_samplers_of_scipy_are_noticed():
    def draw():
        return sampling.TransformedDensityRejection(Normal(), random_state=np.random.default_rng(2)).rvs()

    with pytest.raises(SimulatorProtocolError, match=r"bits of PCG64 that compiled code draws in .*draw"):
        run(draw)


def test_compiled_samplers_made_before_are_noticed():
    sampler = sampling.TransformedDensityRejection(Normal(), random_state=np.random.default_rng(2))
    with pytest.raises(SimulatorProtocolError, match="PCG64"):
        run(sampler.rvs)


def test_generators_inside_of_numba_are_watched(monkeypatch):
    memory = ctypes.create_string_buffer(NUMBA_SIZE)
    helper = types.ModuleType("numba._helperlib")
    vars(helper).update(
        rnd_get_np_state_ptr=lambda: ctypes.addressof(memory), rnd_get_py_state_ptr=lambda: ctypes.addressof(memory)
    )
    monkeypatch.setitem(sys.modules, "numba._helperlib", helper)
    assert run(lambda: 1.0).failure == ""

    def compiled():
        memory[0] = b"\x05"

    with pytest.raises(SimulatorProtocolError, match="the generator that numba has for compiled functions"):
        run(compiled)


def test_leaks_in_threads_are_noticed():
    def program():
        thread = threading.Thread(target=unbound)
        thread.start()
        thread.join()

    with pytest.raises(SimulatorProtocolError, match=r"in unbound \("):
        run(program)


class Walker:
    """Keeps a method for speed."""

    def __init__(self):
        self.draw = np.random.default_rng(1).normal


def test_a_method_bound_anew_outside_of_the_block_is_a_leak():
    def program():
        walker = Walker()
        with hijack("numpy"):
            x = walker.draw(0.0, 1.0)
        ts.tag(x, name="x")

    simulator = Simulator(program)
    run_trace(simulator, PriorController(), np.random.default_rng(1))  # found, and recorded
    with pytest.raises(SimulatorProtocolError, match=r"bits of PCG64 .* in .*program \(.*test_numpy_leaks"):
        run_trace(simulator, PriorController(), np.random.default_rng(1))


def test_a_helper_with_a_block_is_watched_for_each_simulator():
    kept = np.random.Generator.normal

    def model(draw):
        def program():
            with hijack("numpy"):
                return draw()

        return Simulator(program)

    clean, leaky = model(lambda: np.random.default_rng(1).normal()), model(lambda: kept(np.random.default_rng(1)))
    for _ in range(FIRST_RUNS + 2):
        run_trace(clean, PriorController(), np.random.default_rng(1))
    with pytest.raises(SimulatorProtocolError, match="that compiled code draws"):
        run_trace(leaky, PriorController(), np.random.default_rng(1))
