"""TAUOLA under control: every draw is a site, decays are pure functions of their draws, trouble does not linger."""

import ctypes
import importlib
import math
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain, count, repeat

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InferenceError, MissingExtraError, SimulatorError
from tracestore.simulators import PriorController, ReplayController, run_trace
from tracestore.traces import Site, Trace, TraceStatus

pytest.importorskip("alouette")

from tracestore.simulators import tau as module

MOMENTUM = (1.0, -2.0, 45.0)
TAGS = ("channel", "num_products", "energy_1", "energy_2", "met")
TAU_MASS = 1.777


def simulate(seed: int, **options: object) -> Trace:
    return run_trace(module.tau, PriorController(), np.random.default_rng(seed), **options)  # type: ignore[arg-type]


def uniform(seed: int) -> Callable[[], float]:
    rng, unit = np.random.default_rng(seed), module.SinglePrecisionUniform()
    return lambda: unit.sample(rng)


def feed(numbers: Iterator[float]) -> Callable[[], float]:
    return lambda: next(numbers)


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    return [simulate(seed) for seed in range(60)]


def test_a_trace_has_the_promised_sites(traces: list[Trace]) -> None:
    for trace in traces:
        assert trace.status is TraceStatus.OK, trace.failure
        names = [site.name for site in trace.sites]
        assert names[:3] == ["px", "py", "pz"]
        assert names[-6:] == [*TAGS, "calorimeter"]
        draws = trace.sites[3:-6]
        assert draws[0].address == "tauola.channel~Uniform#1"
        assert [site.address for site in draws[1:]] == [
            f"tauola.random~Uniform#{number}" for number in range(1, len(draws))
        ]
        assert all(site.is_controlled and site.num_parameters == 2 for site in trace.sites[:-6])
        image = trace.observations["calorimeter"]
        assert image.shape == (20, 35, 35)
        assert image.dtype == np.float32


def test_the_same_stream_gives_the_same_trace() -> None:
    one, again, other = simulate(3), simulate(3), simulate(4)
    np.testing.assert_array_equal(one.values, again.values)
    np.testing.assert_array_equal(one.observations["calorimeter"], again.observations["calorimeter"])
    assert one.log_joint == again.log_joint != other.log_joint


def test_recorded_draws_replayed_in_another_order_reproduce_everything(traces: list[Trace]) -> None:
    for index in np.random.default_rng(0).permutation(len(traces)):
        trace = traces[index]
        again = run_trace(
            module.tau, ReplayController(trace), np.random.default_rng(99), observations=trace.observations
        )
        assert again.layout == trace.layout
        np.testing.assert_array_equal(again.values, trace.values)
        assert again.log_joint == trace.log_joint


def test_recorded_draws_are_what_the_library_received(traces: list[Trace]) -> None:
    draws = np.concatenate([trace.values[3 : len(trace) - 6] for trace in traces])
    np.testing.assert_array_equal(draws, draws.astype(np.float32))
    assert draws.min() > 0.0
    assert draws.max() < 1.0
    assert len(np.unique(draws)) > 0.99 * len(draws)


def test_no_draw_goes_past_the_hook() -> None:
    """The library's own generator is replaced by one that counts: it is never asked while a decay runs."""
    library = module.library()
    calls = count()
    counting = ctypes.PYFUNCTYPE(ctypes.c_float)(lambda: 0.5 + 0.0 * next(calls))
    native = library._native_address
    try:
        library._native_address = library._pointer.value = ctypes.cast(counting, ctypes.c_void_p).value
        for seed in range(20):
            simulate(seed)
            assert library._pointer.value == library._native_address
    finally:
        library._native_address = library._pointer.value = native
    assert next(calls) == 0


def test_energy_and_momentum_are_conserved() -> None:
    for seed in range(100):
        products = module.library().decay(MOMENTUM, uniform(seed))
        assert np.sum([product[1:4] for product in products], axis=0) == pytest.approx(MOMENTUM, abs=1e-6)
        energy = math.hypot(TAU_MASS, *MOMENTUM)
        assert sum(product.energy for product in products) == pytest.approx(energy, abs=1e-4)
        assert any(product.pid == 16 for product in products)


def test_tags_describe_the_products(traces: list[Trace]) -> None:
    for trace in traces:
        draws = feed(iter(trace.values[3:].tolist()))
        px, py, pz = trace.values[:3].tolist()
        products = module.library().decay((px, py, pz), draws)
        visible = [product for product in products if abs(product.pid) not in (12, 14, 16)]
        energies = sorted([product.energy for product in visible] + [0.0], reverse=True)
        unseen = np.sum([product[1:3] for product in products if product not in visible], axis=0)
        assert trace["num_products"] == len(products)
        assert (trace["energy_1"], trace["energy_2"]) == (energies[0], energies[1])
        assert trace["met"] == pytest.approx(math.hypot(*unseen))
        assert trace["channel"] == module.channel_code(products)


def test_every_channel_has_a_code_of_its_own() -> None:
    codes = {module.channel_code(module.library().decay(MOMENTUM, uniform(seed))) for seed in range(500)}
    assert module.OTHER not in codes
    assert len(codes) > 15
    assert len(set(module.CHANNELS)) == len(module.CHANNELS) == 33
    assert module.CHANNELS[:5] == ("other", "pi- pi0 nu", "mu- nu nu", "e- nu nu", "pi- nu")
    unheard_of = [module.Product(pid, 0.0, 0.0, 1.0, 1.0) for pid in (16, -211, 22, 22)]
    assert module.channel_code(unheard_of) == module.OTHER


@pytest.mark.parametrize(("draw", "channel"), [(0.3, "mu- nu nu"), (0.45, "pi- nu"), (0.6, "pi- pi0 nu")])
def test_the_first_draw_chooses_the_mode(draw: float, channel: str) -> None:
    for seed in range(20):
        rest = uniform(seed)
        products = module.library().decay(MOMENTUM, feed(chain((draw,), (rest() for _ in repeat(None)))))
        assert module.CHANNELS[module.channel_code(products)] in (channel, channel.replace(" ", " gamma ", 1))


def test_draws_at_or_beyond_the_bounds_are_moved_inside() -> None:
    for seed in range(20):
        rest = uniform(seed)
        products = module.library().decay(MOMENTUM, feed(chain((0.6, 0.0, 1.0, 0.0), (rest() for _ in repeat(None)))))
        assert np.isfinite(products).all()
    single = [float(np.float32(value)) for value in (module.STEP, module.LARGEST)]
    assert 0.0 < single[0] < single[1] < 1.0


def test_a_capped_decay_is_recorded_and_the_next_one_is_right() -> None:
    expected = simulate(5).log_joint
    longest = max(range(30), key=lambda seed: len(simulate(seed)))
    for limit in (4, 5, 10, 40):
        capped = simulate(longest, max_sites=limit)
        assert capped.status is TraceStatus.CAPPED
        assert len(capped) == limit
        assert simulate(5).log_joint == expected


class Failing:
    """A controller that fails at the n-th draw."""

    def __init__(self, number: int) -> None:
        self.left = number

    def draw(self, site: Site, prior: ts.Distribution, rng: np.random.Generator) -> tuple[object, float]:
        self.left -= 1
        if self.left == 0:
            message = f"no value for {site.address}"
            raise InferenceError(message)
        return PriorController().draw(site, prior, rng)


@pytest.mark.parametrize("number", [1, 4, 5, 8])
def test_an_error_of_the_controller_crosses_the_library(number: int) -> None:
    expected = simulate(5).log_joint
    with pytest.raises(InferenceError, match="no value for"):
        run_trace(module.tau, Failing(number), np.random.default_rng(1))  # type: ignore[arg-type]
    assert simulate(5).log_joint == expected


def test_an_interrupt_during_a_decay_is_not_lost() -> None:
    def interrupted() -> float:
        signal.raise_signal(signal.SIGINT)
        return 0.5

    expected = simulate(5).log_joint
    with pytest.raises(KeyboardInterrupt):
        module.library().decay(MOMENTUM, interrupted)
    assert simulate(5).log_joint == expected


INTERRUPTED = """
import signal
import numpy as np
from tracestore.simulators.tau import SinglePrecisionUniform, library

def decay(seed):
    rng, unit = np.random.default_rng(seed), SinglePrecisionUniform()
    return library().decay((1.0, -2.0, 45.0), lambda: unit.sample(rng))

expected, num_caught = decay(1), 0
signal.signal(signal.SIGALRM, signal.default_int_handler)
for delay in np.linspace(1e-4, 4e-3, 50):
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        for seed in range(20_000):
            decay(seed)
    except KeyboardInterrupt:
        num_caught += 1
print(num_caught, decay(1) == expected)
"""


@pytest.mark.processes
def test_an_interrupt_at_any_moment_is_not_lost() -> None:
    """A timer strikes between any two instructions, in a process without other threads to deliver the signal to."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["50", "True"], done.stderr
    assert not done.stderr


def test_a_decay_inside_a_decay_is_refused() -> None:
    expected = simulate(5).log_joint
    with pytest.raises(SimulatorError, match="already in flight in this process"):
        module.library().decay(MOMENTUM, lambda: module.library().decay(MOMENTUM, uniform(1))[0].energy)
    assert not module.tau.is_reentrant
    assert simulate(5).log_joint == expected


@pytest.mark.processes
@pytest.mark.parametrize("earlier", ["alouette.initialise(seed=99)", "alouette.decay(momentum=(0.0, 0.0, 45.0))"])
def test_a_library_with_a_history_is_refused(earlier: str) -> None:
    program = f"import alouette; {earlier}; from tracestore.simulators.tau import library; library()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "SimulatorError: TAUOLA did not start: TAUOLA already initialised" in done.stderr


@pytest.mark.processes
def test_another_process_gives_the_same_trace() -> None:
    program = (
        "import numpy as np; from tracestore.simulators import PriorController, run_trace\n"
        "from tracestore.simulators.tau import tau\n"
        "print(run_trace(tau, PriorController(), np.random.default_rng(3)).log_prior.hex())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == simulate(3).log_prior.hex()


def test_the_unit_prior_is_a_uniform_distribution_everywhere_else() -> None:
    unit = module.SinglePrecisionUniform()
    assert unit == ts.Uniform(0.0, 1.0)
    assert (unit.family, unit.suffix, unit.support) == ("Uniform", "Uniform", (0.0, 1.0))
    assert unit.num_parameters == len(unit.parameters()) == 2
    assert pickle.loads(pickle.dumps(unit)) == unit
    draws = [unit.sample(np.random.default_rng(seed)) for seed in range(2000)]
    assert np.mean(draws) == pytest.approx(0.5, abs=0.03)
    assert np.var(draws) == pytest.approx(1 / 12, abs=0.01)


def test_the_test_event_is_a_common_decay_with_its_truth() -> None:
    observation, truth = module.test_event()
    again, _ = module.test_event()
    np.testing.assert_array_equal(observation["calorimeter"], again["calorimeter"])
    assert list(truth) == ["px", "py", "pz", "channel", "energy_1", "energy_2", "met"]
    assert module.CHANNELS[int(truth["channel"])] == "pi- pi0 nu"
    assert (truth["px"], truth["py"], truth["pz"]) == pytest.approx((1.118, 0.292, 48.493), abs=1e-3)
    assert (truth["energy_1"], truth["energy_2"], truth["met"]) == pytest.approx((16.318, 5.055, 1.285), abs=1e-3)
    other, other_truth = module.test_event(1)
    assert other_truth != truth
    residual = observation["calorimeter"] - other["calorimeter"]
    assert np.std(residual) == pytest.approx(math.sqrt(2.0) * module.DETECTOR.noise_sd, rel=0.1)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tracestore.simulators.tau")
    monkeypatch.setitem(sys.modules, "alouette", None)
    with pytest.raises(MissingExtraError, match=r"alouette is not installed; run: pip install 'tracestore\[sims\]'"):
        importlib.import_module("tracestore.simulators.tau")
