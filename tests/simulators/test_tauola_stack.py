"""TAUOLA with addresses from its own calls."""

import subprocess
import sys

import numpy as np
import pytest

from tracestore.native import place_names
from tracestore.simulators import PriorController, ReplayController, run_trace
from tracestore.traces import SiteKind, Trace, TraceStatus

pytest.importorskip("alouette")

from tracestore.simulators import tauola_stack as module
from tracestore.simulators.tau import tau
from tracestore.simulators.tau_detector import CHANNELS

NUM_TAUS = 300
INEXACT = ("pi- pi0 pi0 nu", "pi- pi- pi+ nu")
"""Channels in which TAUOLA keeps something of rejected passes, in the last bits of single precision."""


def simulate(seed: int, **options: object) -> Trace:
    return run_trace(module.tau_stack, PriorController(), np.random.default_rng(seed), **options)  # type: ignore[arg-type]


def replay(trace: Trace, **options: object) -> Trace:
    return run_trace(
        module.tau_stack,
        ReplayController(trace),
        np.random.default_rng(99),
        observations=trace.observations,
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    return [simulate(seed) for seed in range(NUM_TAUS)]


def test_it_is_the_same_simulator_with_other_addresses(traces: list[Trace]) -> None:
    for seed, trace in enumerate(traces):
        other = run_trace(tau, PriorController(), np.random.default_rng(seed))
        np.testing.assert_array_equal(trace.values, other.values)
        np.testing.assert_array_equal(trace.observations["calorimeter"], other.observations["calorimeter"])


def test_recorded_draws_replayed_in_another_order_reproduce_everything(traces: list[Trace]) -> None:
    for index in np.random.default_rng(0).permutation(NUM_TAUS):
        trace, again = traces[index], replay(traces[index])
        assert again.layout == trace.layout
        np.testing.assert_array_equal(again.values, trace.values)
        assert again.log_joint == trace.log_joint


def test_addresses_are_the_calls_of_the_library(traces: list[Trace]) -> None:
    names = {place_names(site.address.partition("~")[0]) for trace in traces for site in trace.sites}
    assert any("tauola_decay | dekay" in name and "dadmro" in name for name in names)
    assert not any("tauola_random" in name or "?" in name for name in names)
    assert len(names) > 20


def test_collapsing_leaves_few_types_and_every_accepted_draw(traces: list[Trace]) -> None:
    collapsed = [simulate(seed, collapse_rejection=True) for seed in range(NUM_TAUS)]
    assert len({trace.layout for trace in collapsed}) < 20 < 50 < len({trace.layout for trace in traces})
    assert max(map(len, collapsed)) < max(map(len, traces)) / 2
    for trace, full in zip(collapsed, traces, strict=True):
        assert trace["channel"] == full["channel"]
        again = replay(trace, collapse_rejection=True)
        assert again.layout == trace.layout
        if CHANNELS[int(trace["channel"])] in INEXACT:
            np.testing.assert_allclose(again.values, trace.values, rtol=1e-6)
        else:
            np.testing.assert_array_equal(again.values, trace.values)


def test_draws_inside_of_loops_are_marked(traces: list[Trace]) -> None:
    sites = [site.address for trace in traces for site in trace.sites if site.kind is SiteKind.SAMPLE]
    marked = {address.partition("~")[0] for address in sites if address.startswith("[rejection]")}
    free = {address.partition("~")[0] for address in sites if not address.startswith("[rejection]")}
    assert {place.split(" | ")[-1].partition("@")[0] for place in free} >= {"px", "py", "pz", "alouette_decay"}
    assert not {f"[rejection]{place}" for place in free} & marked


def test_a_capped_decay_is_recorded_and_the_next_one_is_right(traces: list[Trace]) -> None:
    longest = max(range(NUM_TAUS), key=lambda seed: len(traces[seed]))
    for limit in (4, 5, 40):
        capped = simulate(longest, max_sites=limit)
        assert (capped.status, len(capped)) == (TraceStatus.CAPPED, limit)
        assert simulate(5).log_joint == traces[5].log_joint


PROGRAM = """
import hashlib
import numpy as np
from tracestore.simulators import PriorController, run_trace
from tracestore.simulators.tauola_stack import tau_stack
digest = hashlib.sha256()
for seed in range(40):
    trace = run_trace(tau_stack, PriorController(), np.random.default_rng(seed))
    digest.update(repr([site.address for site in trace.sites]).encode() + trace.values.tobytes())
print(tau_stack.fingerprint, digest.hexdigest())
"""


def fresh(first: str = "") -> str:
    return subprocess.run([sys.executable, "-c", first + PROGRAM], capture_output=True, text=True, check=True).stdout


NO_COMPILER = "import tracestore.native.build as build; build.find_compiler = lambda language='c': None\n"


@pytest.mark.processes
def test_other_processes_give_the_same_addresses_with_and_without_a_compiler() -> None:
    assert fresh() == fresh(NO_COMPILER)


def test_the_build_of_the_library_is_in_the_fingerprint() -> None:
    assert module.tau_stack.build.startswith("alouette ")
    assert module.tau_stack.fingerprint.startswith("build-")
