"""Draws of a library: priors, numbers that it gets, and what happens to errors."""

import math
import random
import signal
import sys

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import SimulatorError
from tracestore.native.call_stack import Place
from tracestore.simulators import PriorController, native_draws, run_trace
from tracestore.simulators.native_draws import (
    ExponentialDraw,
    GammaDraw,
    NativeDraw,
    NativeDraws,
    PickDraw,
    SingleUniformDraw,
    UniformDraw,
    compiled_draws,
)
from tracestore.traces import TraceStatus

HERE = Place(1, "library@1 | draw@2", ("library", "draw"))
UNIFORM = UniformDraw()


def where() -> Place:
    return HERE


def library(draws: NativeDraws, number: int) -> list[float]:
    """Draw, as a native library would: what comes back is all it learns."""
    return [draws.number(UNIFORM, where) for _ in range(number)]


def test_draws_of_the_library_are_sites_of_the_trace() -> None:
    draws = NativeDraws("library")
    received = []
    program = ts.simulator(lambda: received.extend(draws.run(lambda: library(draws, 3))))
    trace = run_trace(program, PriorController(), np.random.default_rng(1))
    assert [site.address for site in trace.sites] == [f"library@1 | draw@2~Uniform#{number}" for number in (1, 2, 3)]
    assert received == trace.values.tolist()


def test_outside_of_a_recorded_run_the_place_is_not_asked() -> None:
    draws = NativeDraws("library")
    assert 0.0 < draws.run(lambda: draws.number(UNIFORM, lambda: pytest.fail("asked"))) < 1.0


def test_a_run_at_the_length_cap_is_recorded_and_the_next_is_clean() -> None:
    draws = NativeDraws("library")
    received: list[float] = []
    program = ts.simulator(lambda: received.extend(draws.run(lambda: library(draws, 10))))
    capped = run_trace(program, PriorController(), np.random.default_rng(1), max_sites=4)
    assert (capped.status, len(capped)) == (TraceStatus.CAPPED, 4)
    assert not received
    assert len(run_trace(program, PriorController(), np.random.default_rng(1), max_sites=10)) == 10


def test_after_an_error_the_library_gets_numbers_that_vary_and_the_error_goes_on() -> None:
    draws = NativeDraws("library")
    seen: list[float] = []

    def place() -> Place:
        message = "no place"
        raise SimulatorError(message)

    def call() -> None:
        seen.extend(draws.number(UNIFORM, place) for _ in range(20))

    trace = run_trace(ts.simulator(lambda: draws.run(call)), PriorController(), np.random.default_rng(1))
    assert trace.failure == "SimulatorError: no place"
    assert len(set(seen)) == 20
    assert all(0.0 < number < 1.0 for number in seen)


def test_an_interrupt_in_a_draw_leaves_the_library_call() -> None:
    draws = NativeDraws("library")

    def place() -> Place:
        signal.raise_signal(signal.SIGINT)
        return HERE

    program = ts.simulator(lambda: draws.run(lambda: draws.number(UNIFORM, place)))
    with pytest.raises(KeyboardInterrupt):
        run_trace(program, PriorController(), np.random.default_rng(1))
    assert draws.run(lambda: "clean") == "clean"


def unraisable(message: str) -> object:
    return type("Unraisable", (), {"exc_value": KeyboardInterrupt(), "err_msg": message})


def test_an_error_that_ctypes_would_only_print_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = NativeDraws("library")
    hook = sys.unraisablehook
    found = unraisable("Exception ignored on calling ctypes callback function")
    with pytest.raises(KeyboardInterrupt):
        draws.run(lambda: sys.unraisablehook(found))  # type: ignore[arg-type]
    assert sys.unraisablehook is hook


def test_other_errors_that_cannot_be_raised_go_where_they_went(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    found = unraisable("Exception ignored in")
    NativeDraws("library").run(lambda: sys.unraisablehook(found))  # type: ignore[arg-type]
    assert seen == [found]


def test_an_error_of_a_draw_goes_before_one_of_the_library() -> None:
    draws = NativeDraws("library")

    def call() -> None:
        draws.number(PickDraw(), where, ())
        message = "the library gave up"
        raise RuntimeError(message)

    with pytest.raises(SimulatorError, match="weights that are none"):
        draws.run(call)


def test_a_call_inside_a_call_is_refused() -> None:
    draws = NativeDraws("library")
    with pytest.raises(SimulatorError, match="A run of library is already in flight"):
        draws.run(lambda: draws.run(lambda: None))
    assert draws.run(lambda: "clean") == "clean"


SINGLE = SingleUniformDraw(ts.Uniform(0.0, 1.0), 2.0**-24)


@pytest.mark.parametrize(
    ("draw", "value", "expected"),
    [
        (UNIFORM, 0.0, 2.0**-53),
        (UNIFORM, 1.0, 1.0 - 2.0**-53),
        (UNIFORM, 0.25, 0.25),
        (SINGLE, 0.0, 2.0**-24),
        (SINGLE, 1.0 - 2.0**-40, 1.0 - 2.0**-24),
        (SINGLE, 0.1, float(np.float32(0.1))),
        (ExponentialDraw(), 0.0, 2.0**-53),
        (ExponentialDraw(), math.inf, 700.0),
        (GammaDraw(), 0.0, sys.float_info.min),
        (PickDraw(), 2.0, 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, NativeDraw) else str(value),
)
def test_the_library_gets_numbers_that_its_own_generator_could_give(
    draw: NativeDraw, value: float, expected: float
) -> None:
    assert draw.number(value) == expected


@pytest.mark.parametrize(
    ("draw", "arguments", "prior"),
    [
        (UNIFORM, (), ts.Uniform(0.0, 1.0)),
        (ExponentialDraw(), (), ts.Exponential(1.0)),
        (GammaDraw(), (2.0, 4.0), ts.Gamma(2.0, 0.25)),
        (PickDraw(), (1.0, 3.0, 0.0), ts.Categorical([0.25, 0.75, 0.0])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_priors_and_spare_numbers(draw: NativeDraw, arguments: tuple[float, ...], prior: ts.Distribution) -> None:
    assert draw.prior(arguments) == prior
    rng = random.Random(1)
    spare = [draw.spare(rng, arguments) for _ in range(500)]
    assert len(set(spare)) > 1
    assert all(math.isfinite(prior.log_prob(number)) for number in spare)


@pytest.mark.parametrize("weights", [(), (0.0, 0.0), (1.0, -1.0), (math.nan,), (math.inf, 1.0)])
def test_what_is_no_list_of_weights_is_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(SimulatorError, match="picks among weights that are none"):
        PickDraw().prior(weights)
    PickDraw().spare(random.Random(1), weights)


def test_without_a_compiler_there_are_no_compiled_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_draws, "find_compiler", lambda _: None)
    assert compiled_draws(NativeDraws("library"), None, [UNIFORM], {}) is None  # type: ignore[arg-type]
