"""Passes of rejection loops, recognized from the places of draws."""

from collections.abc import Callable

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import SimulatorProtocolError
from tracestore.native.call_stack import Place
from tracestore.simulators import PriorController, run_trace, sample
from tracestore.simulators.native_loops import OWN, Loop, LoopTracker
from tracestore.simulators.recorder import KeepPasses, Recorder
from tracestore.simulators.runtime import activate, current_recorder
from tracestore.traces import Trace

UNIT = ts.Uniform(0.0, 1.0)
DECAY = Loop("decay", ("kinematics",), (OWN,))
MASSES = Loop("kinematics", (OWN,), (OWN,))
TABLE = {
    "channel": "next@1 | decay@10 | choose@5",
    "order": "next@1 | decay@20 | kinematics@31",
    "phase": "next@1 | decay@20 | kinematics@32",
    "angle": "next@1 | decay@20 | kinematics@40 | sphere@7",
    "weight": "next@1 | decay@50",
    "life": "next@1 | decay@60 | write@3",
    "again": "next@1 | decay@70 | kinematics@31",
    "weight_again": "next@1 | decay@80",
    "other": "next@2 | decay@20 | kinematics@31",
}


def place(name: str) -> Place:
    text = TABLE[name]
    return Place(hash(name) >> 1, text, tuple(part.partition("@")[0] for part in text.split(" | ")))


def library(names: str, loops: tuple[Loop, ...]) -> Callable[[], None]:
    tracker = LoopTracker(loops)

    def program() -> None:
        recorder = current_recorder()
        assert recorder is not None
        for name in names.split():
            found = place(name)
            tracker.enter(found, recorder)
            sample(UNIT, address=found.text)
        tracker.finish()
        assert recorder.num_open_loops == 0

    return program


def run(names: str, *loops: Loop, collapse: bool = True) -> Trace:
    rng = np.random.default_rng(1)
    program = ts.simulator(library(names, loops or (DECAY, MASSES)))
    trace = run_trace(program, PriorController(), rng, collapse_rejection=collapse)
    assert not trace.failure
    return trace


def places(trace: Trace) -> list[str]:
    """Return what was drawn where, as names; in capitals inside of a loop."""
    by_text = {text: name for name, text in TABLE.items()}
    found = []
    for site in trace.sites:
        text = site.address.partition("~")[0]
        inner = text.removeprefix("[rejection]")
        found.append(by_text[inner].upper() if inner != text else by_text[text])
    return found


def kept(names: str, *loops: Loop) -> str:
    return " ".join(places(run(names, *loops)))


def test_a_pass_that_begins_again_was_rejected() -> None:
    assert kept("channel order phase weight order phase weight life") == "channel ORDER PHASE WEIGHT life"


def test_several_draws_of_one_step_are_one_pass() -> None:
    assert kept("order order phase weight order order phase weight") == "ORDER ORDER PHASE WEIGHT"


def test_a_loop_inside_a_loop_is_collapsed_too() -> None:
    names = "order phase order phase angle angle weight order phase order phase order phase angle angle weight life"
    assert kept(names) == "ORDER PHASE ANGLE ANGLE WEIGHT life"


def test_what_repeats_without_another_step_in_between_is_kept() -> None:
    assert kept("channel channel channel order weight life life") == "channel channel channel ORDER WEIGHT life life"


def test_the_same_function_called_later_is_another_loop() -> None:
    names = "channel order phase weight life channel order phase weight life"
    assert kept(names) == names.replace("order phase weight", "ORDER PHASE WEIGHT")


def test_a_second_loop_of_the_same_function_is_another_one() -> None:
    names = "order phase weight again weight_again again weight_again"
    assert kept(names, DECAY) == "ORDER PHASE WEIGHT AGAIN WEIGHT_AGAIN"


def test_a_loop_reached_by_another_call_is_another_one() -> None:
    assert kept("order weight other", DECAY) == "ORDER WEIGHT OTHER"


def test_a_draw_of_the_function_outside_of_the_loop_opens_none() -> None:
    assert kept("weight order phase weight") == "weight ORDER PHASE WEIGHT"


def test_a_loop_that_begins_with_a_draw_of_its_own() -> None:
    loop = Loop("decay", (OWN,), (OWN, "write"))
    assert kept("weight life weight_again weight life weight_again", loop) == "WEIGHT LIFE WEIGHT_AGAIN"


def test_without_collapsing_all_passes_are_kept() -> None:
    names = "channel order phase weight order phase weight life"
    trace = run(names, collapse=False)
    assert " ".join(places(trace)).lower() == names
    assert [site.address[-2:] for site in trace.sites if "kinematics@31" in site.address] == ["#1", "#2"]


def test_instances_count_anew_in_every_pass() -> None:
    trace = run("order order phase weight order order phase weight")
    assert [site.address[-2:] for site in trace.sites] == ["#1", "#2", "#1", "#1"]


class AnotherPass(KeepPasses):
    def end_attempt(self, *, is_accepted: bool) -> bool:
        return False


@pytest.mark.parametrize("names", ["order phase weight", "order phase weight life"])
def test_an_engine_that_wants_another_pass_is_refused(names: str) -> None:
    recorder = Recorder(PriorController(), np.random.default_rng(1), None, 100, make_loop=lambda _: AnotherPass())
    previous = activate(recorder)
    try:
        with pytest.raises(SimulatorProtocolError, match=r"cannot be amortized; .*`amortize_rejection=False`"):
            library(names, (DECAY,))()
    finally:
        activate(previous)
    assert isinstance(recorder.fatal, SimulatorProtocolError)


def test_loops_are_left_when_the_run_ends_inside() -> None:
    tracker = LoopTracker([DECAY, MASSES])
    recorder = Recorder(PriorController(), np.random.default_rng(1), None, 100)
    tracker.enter(place("order"), recorder)
    assert recorder.num_open_loops == 2
    tracker.abandon()
    assert recorder.num_open_loops == 0
