"""Pythia under control: every draw is a site, events are pure functions of their draws, trouble does not linger."""

import ctypes
import importlib
import math
import subprocess
import sys

import numpy as np
import pytest

from tracestore.errors import MissingExtraError, SimulatorError
from tracestore.native import place_names
from tracestore.simulators import PriorController, ReplayController, Simulator, run_trace
from tracestore.simulators.recorder import Value
from tracestore.traces import Site, SiteKind, Trace, TraceStatus
from tracestore.traces.distributions import Distribution

pytest.importorskip("pythia8mc")

from tracestore.simulators import pythia as module
from tracestore.simulators import pythia_library
from tracestore.simulators.tau_detector import OTHER

NUM_TAUS = 200
NUM_EVENTS = 60
MAX_SITES = 3_000
"""Enough for nine in ten events; the longest have fifty thousand sites."""
TAU_MASS = 1.777
WITH_THREE_BODIES = 2057
"""Seed of a tau whose decay has another decay into three particles in it, which is rare."""


def simulate(program: Simulator, seed: int, **options: object) -> Trace:
    return run_trace(program, PriorController(), np.random.default_rng(seed), **options)  # type: ignore[arg-type]


class Strict(ReplayController):
    """A replay in which every draw must have been recorded."""

    def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
        assert site.id in self.values, site.address
        return super().draw(site, prior, rng)


def replay(program: Simulator, trace: Trace, **options: object) -> Trace:
    return run_trace(
        program,
        Strict(trace),
        np.random.default_rng(99),
        observations=trace.observations,
        **options,  # type: ignore[arg-type]
    )


def some(program: Simulator, number: int, **options: object) -> list[Trace]:
    traces = [simulate(program, seed, max_sites=MAX_SITES, **options) for seed in range(number)]
    assert {trace.status for trace in traces} <= {TraceStatus.OK, TraceStatus.CAPPED}, {t.failure for t in traces}
    return [trace for trace in traces if trace.status is TraceStatus.OK]


@pytest.fixture(scope="module")
def taus() -> list[Trace]:
    return some(module.pythia_tau, 60)


@pytest.fixture(scope="module")
def events() -> list[Trace]:
    return some(module.pythia_ee, 20)


def require_replay(program: Simulator, traces: list[Trace]) -> None:
    for index in np.random.default_rng(0).permutation(len(traces)):
        trace, again = traces[index], replay(program, traces[index])
        assert again.layout == trace.layout
        np.testing.assert_array_equal(again.values, trace.values)
        assert again.log_joint == trace.log_joint


def test_recorded_draws_replayed_in_another_order_reproduce_everything(taus: list[Trace], events: list[Trace]) -> None:
    require_replay(module.pythia_tau, taus)
    require_replay(module.pythia_ee, events)


@pytest.mark.slow
@pytest.mark.parametrize(("program", "number"), [(module.pythia_tau, NUM_TAUS), (module.pythia_ee, NUM_EVENTS)])
def test_long_events_too_replay_in_another_order(program: Simulator, number: int) -> None:
    require_replay(program, [simulate(program, seed) for seed in range(number)])


def test_addresses_are_the_calls_of_the_library(taus: list[Trace], events: list[Trace]) -> None:
    places = {site.address.partition("~")[0] for trace in (*taus, *events) for site in trace.sites}
    names = {place_names(place.removeprefix("[rejection]")) for place in places if " | " in place}
    assert all(name.startswith("Pythia::next | ") for name in names)
    assert not any("Rndm::flat" in name or "?" in name or "RndmEngine" in name for name in names)
    assert any(
        name.endswith("TauDecays::decay | TauDecays::createChildren | ParticleDataEntry::pickChannel") for name in names
    )
    assert any("ProcessLevel::nextOne" in name for name in names)


def test_a_place_is_either_in_a_loop_or_not(taus: list[Trace], events: list[Trace]) -> None:
    places = {site.address.partition("~")[0] for trace in (*taus, *events) for site in trace.sites}
    marked = {place for place in places if place.startswith("[rejection]")}
    both = {place for place in places if f"[rejection]{place}" in marked}
    # the weight of the first decay of the Z, which is made elsewhere, is drawn where later ones are
    assert {place_names(place).rpartition(" | ")[2] for place in both} <= {"PhaseSpace::decayKinematics"}
    assert marked


def test_priors_are_those_of_the_hooked_functions(taus: list[Trace]) -> None:
    for trace in taus:
        exponential = [site for site in trace.sites if site.family == "Exponential"]
        assert all("writeDecay" in site.address or "ParticleDecays::decay" in site.address for site in exponential)
        assert len(exponential) >= trace["num_products"]
        uniform = [site for site in trace.sites if site.kind is SiteKind.SAMPLE and site not in exponential]
        assert {site.family for site in uniform} == {"Uniform"}


def test_energy_and_momentum_are_conserved() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        px, py, pz = rng.uniform(-3.0, 3.0), rng.uniform(-3.0, 3.0), rng.uniform(40.0, 50.0)
        products = module._decay(px, py, pz)
        assert np.sum([product[1:4] for product in products], axis=0) == pytest.approx([px, py, pz], abs=1e-6)
        assert sum(product.energy for product in products) == pytest.approx(math.hypot(TAU_MASS, px, py, pz), abs=1e-4)
        assert sum(product.pid == 16 for product in products) == 1


def test_tags_describe_the_taus(taus: list[Trace], events: list[Trace]) -> None:
    channels = [trace["channel"] for trace in taus]
    assert channels.count(OTHER) <= 1 < 5 < len(set(channels))
    for trace in events:
        assert -1.0 <= trace["cos_theta"] <= 1.0
        assert OTHER <= trace["channel_minus"] < len(module.CHANNELS)
        assert OTHER <= trace["channel_plus"] < len(module.CHANNELS)
        visible = trace.observations["visible"]
        assert visible.shape == (2, 4)
        assert visible.dtype == np.float32
        # what is seen and what is not add up to the mass of the Z, up to the noise
        assert visible[:, 3].sum() + trace["unseen"] == pytest.approx(91.19, abs=6.0 * module.MOMENTUM_SD)


def test_collapsing_leaves_few_types_and_every_accepted_draw(taus: list[Trace], events: list[Trace]) -> None:
    for program, full, most in ((module.pythia_tau, taus, 12), (module.pythia_ee, events, 12)):
        traces = some(program, len(full), collapse_rejection=True)
        assert len({trace.layout for trace in traces}) <= most < 15 <= len({trace.layout for trace in full})
        assert max(map(len, traces)) < 100
        for trace in traces:
            again = replay(program, trace, collapse_rejection=True)
            assert again.layout == trace.layout
            np.testing.assert_array_equal(again.values, trace.values)


def test_two_nested_loops_of_one_function_are_collapsed() -> None:
    full, trace = (simulate(module.pythia_tau, WITH_THREE_BODIES, collapse_rejection=flag) for flag in (False, True))
    num_own = [sum("threeBody@" in site.address.split(" | ")[-1] for site in one.sites) for one in (full, trace)]
    assert num_own == [14, 3]
    again = replay(module.pythia_tau, trace, collapse_rejection=True)
    np.testing.assert_array_equal(again.values, trace.values)


def test_a_capped_event_is_recorded_and_the_next_one_is_right(taus: list[Trace]) -> None:
    expected = simulate(module.pythia_tau, 5).log_joint
    for limit in (2, 3, 4, 14, 15, 16):
        capped = simulate(module.pythia_tau, 3, max_sites=limit)
        assert (capped.status, len(capped)) == (TraceStatus.CAPPED, limit)
        assert simulate(module.pythia_tau, 5).log_joint == expected


def test_an_event_inside_an_event_is_refused() -> None:
    class Meddling(PriorController):
        def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
            if "pickChannel" in site.address:
                module._decay(0.0, 0.0, 45.0)
            return super().draw(site, prior, rng)

    with pytest.raises(SimulatorError, match="A run of Pythia is already in flight in this process"):
        run_trace(module.pythia_tau, Meddling(), np.random.default_rng(1))


def test_a_draw_that_goes_past_the_hooks_is_an_error() -> None:
    events = module._events(module._TAU_SETTINGS)
    targets = dict(events._hooks.targets)
    try:
        del events._hooks.targets[pythia_library.FLAT]
        trace = simulate(module.pythia_tau, 1)
    finally:
        events._hooks.targets.update(targets)
    assert trace.status is TraceStatus.FAILED
    assert "random numbers that did not go through the hooks" in trace.failure
    assert simulate(module.pythia_tau, 1).status is TraceStatus.OK


def test_other_code_may_use_the_library_between_events() -> None:
    import pythia8mc

    def draws_of_others() -> list[float]:
        other = pythia8mc.Rndm()
        other.init(7)
        return [other.exp() for _ in range(5)]

    before, expected = draws_of_others(), simulate(module.pythia_tau, 5).log_joint
    assert draws_of_others() == before
    assert simulate(module.pythia_tau, 5).log_joint == expected


def test_a_pick_among_weights_is_categorical() -> None:
    import pythia8mc

    events = module._events(module._TAU_SETTINGS)
    picks = pythia_library._callbacks(events._hooks.draws, lambda: pytest.fail("asked"))
    weights = (ctypes.c_double * 3)(0.0, 2.0, 0.0)
    start = ctypes.addressof(weights)
    vector = pythia_library._Vector(start, start + 24, start + 24)
    pick = list(picks.values())[-1]
    assert events._hooks.draws.run(lambda: [pick(None, vector) for _ in range(5)]) == [1] * 5
    assert pythia8mc.Rndm


def test_settings_that_pythia_refuses_are_named() -> None:
    with pytest.raises(SimulatorError, match="Pythia refuses the setting 'No:such = setting'"):
        pythia_library.PythiaEvents(["No:such = setting"])


PROGRAM = """
import hashlib
import numpy as np
from tracestore.simulators import PriorController, run_trace
from tracestore.simulators.pythia import pythia_ee, pythia_tau
digest = hashlib.sha256()
for program in (pythia_tau, pythia_ee):
    for seed in range(8):
        trace = run_trace(program, PriorController(), np.random.default_rng(seed), max_sites=2_000)
        digest.update(repr([site.address for site in trace.sites]).encode() + trace.values.tobytes())
print(pythia_tau.fingerprint, pythia_ee.fingerprint, digest.hexdigest())
"""


def fresh(first: str = "") -> str:
    return subprocess.run([sys.executable, "-c", first + PROGRAM], capture_output=True, text=True, check=True).stdout


NO_COMPILER = "import tracestore.native.build as build; build.find_compiler = lambda language='c': None\n"
USED_BEFORE = "import pythia8mc; other = pythia8mc.Pythia('', False); other.rndm.flat()\n"


@pytest.mark.processes
@pytest.mark.parametrize("first", [NO_COMPILER, USED_BEFORE], ids=["no compiler", "pythia in use already"])
def test_another_process_gives_the_same_addresses_and_values(first: str) -> None:
    assert fresh(first) == fresh()


def test_the_build_and_the_settings_are_in_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.pythia_tau.fingerprint.startswith("build-")
    assert module.pythia_tau.build != module.pythia_ee.build
    monkeypatch.setattr(pythia_library, "build_id", lambda: "0123456789abcdef")
    other = Simulator(module.pythia_tau.function, build=pythia_library.build(module._TAU_SETTINGS))
    assert other.fingerprint != module.pythia_tau.fingerprint


def test_the_test_event_has_its_truth() -> None:
    observation, truth = module.test_event()
    assert observation["calorimeter"].shape == (20, 35, 35)
    assert list(truth) == ["px", "py", "pz", "channel", "energy_1", "energy_2", "met"]


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pythia", "pythia_library"):
        monkeypatch.delitem(sys.modules, f"tracestore.simulators.{name}")
    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    with pytest.raises(MissingExtraError, match=r"pythia8mc is not installed; run: pip install 'tracestore\[pythia\]'"):
        importlib.import_module("tracestore.simulators.pythia")
