"""Simulators in C++, as PPX programs: whole conversations, one message at a time."""

import math
import signal
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import tracestore as ts

pytest.importorskip("zmq")
from tests.cpp.front_end import EXTENDED, PLAIN, driven
from tracestore.ppx.messages import (
    Handshake,
    HandshakeResult,
    Observe,
    ObserveResult,
    Reset,
    Run,
    RunResult,
    Sample,
    SampleResult,
    Tag,
    TagResult,
    encode,
)

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("cpp")]


def addresses(asked):
    return [message.address for message in asked]


# ------------------------------------------------------------------------------------------------------ conversations


def test_handshake_tells_who_is_there(examples):
    with driven(examples / "gum", system_name=None) as controller:
        assert controller.handshake() == HandshakeResult(f"tracestore_cpp {version('tracestore')}", "gum")


def test_a_whole_run(examples):
    with driven(examples / "gum") as controller:
        (mu, first, second), end = controller.run()
    assert mu == Sample(mu.address, "mu", ts.Normal(1.0, math.sqrt(5.0)))
    assert [first.name, second.name] == ["obs0", "obs1"]
    assert first == Observe(first.address, "obs0", ts.Normal(0.75, math.sqrt(2.0)))
    assert end.result == 0.75


def test_every_family_arrives(models):
    priors = [
        ts.Normal(0.5, 2.0),
        ts.Uniform(-1.0, 3.0),
        ts.Categorical([0.2, 0.3, 0.5]),
        ts.Poisson(2.5),
        ts.Bernoulli(0.25),
        ts.Beta(2.0, 3.0),
        ts.Exponential(4.0),
        ts.Gamma(2.0, 0.5),
        ts.LogNormal(0.25, 0.5),
        ts.Binomial(7, 0.5),
        ts.Weibull(2.0, 1.5),
    ]
    with driven(models, "every_family") as controller:
        asked, end = controller.run(lambda message: SampleResult(float(message.prior.is_discrete)))
    assert [message.prior for message in asked] == priors
    assert len(set(addresses(asked))) == len(asked)
    assert end.result.tolist() == [float(prior.is_discrete) for prior in priors]


def test_arrays_keep_their_shape(models):
    drawn = np.array([[0.5, 1.5], [2.5, 3.5]])
    with driven(models, "tensors") as controller:
        (x, y, tag), end = controller.run(lambda m: SampleResult(drawn) if isinstance(m, Sample) else plain(m))
    assert x.prior == ts.Normal(np.arange(4.0).reshape(2, 2), np.full((2, 2), 0.5))
    assert y.value.tolist() == [[4.0, 5.0], [6.0, 7.0]]
    np.testing.assert_array_equal(tag.value, drawn)
    np.testing.assert_array_equal(end.result, drawn)


def plain(message):
    return ObserveResult() if isinstance(message, Observe) else TagResult()


def test_names_addresses_and_control_are_chosen(models):
    with driven(models, "options") as controller:
        (noise, placed, known, unknown, tag), _ = controller.run()
    assert not noise.control
    assert placed.control
    assert [placed.address, known.address, tag.address] == ["my place", "seen", "tagged"]
    assert (known.value, unknown.value, tag.value) == (0.25, None, 3.0)


def test_the_scored_value_comes_back(models):
    scored = {"y": 2.0, "z": 4.0}
    answers = {
        Sample: lambda _: SampleResult(0.5),
        Observe: lambda message: ObserveResult(scored[message.name]),
        Tag: lambda _: TagResult(),
    }
    with driven(models, "options") as controller:
        _, told = controller.run(lambda message: answers[type(message)](message))
        _, untold = controller.run()
    assert told.result == 0.5 + 2.0 + 4.0
    assert untold.result == 0.75 + 0.25 - 1.0


def test_a_run_may_have_no_result(models):
    with driven(models, "no_result") as controller:
        assert controller.run()[1] == RunResult(None)


def test_a_lambda_may_be_the_model(models):
    with driven(models, "lambda") as controller:
        (x,), end = controller.run()
    assert x.name == "x"
    assert end.result == 1.5


def test_draws_of_other_threads_belong_to_the_run(models):
    with driven(models, "other_threads") as controller:
        asked, end = controller.run()
    assert [message.name for message in asked] == ["worker", "own"]
    assert end.result == 1.5
    assert "libc" not in asked[0].address
    assert "libstdc" not in asked[0].address


# ---------------------------------------------------------------------------------------------------------- addresses


def test_addresses_name_the_chain_of_calls(examples):
    with driven(examples / "gum_marsaglia", system_name=PLAIN) as controller:
        asked, _ = controller.run(lambda m: SampleResult(0.25) if isinstance(m, Sample) else plain(m))
    names = [[link.partition("@")[0] for link in address.split(" | ")] for address in addresses(asked)]
    loop = ["[rejection]marked", "marked_loop", "draw_point"]
    assert names == [loop, loop, ["marked", "observe_twice"], ["marked", "observe_twice"]]
    assert len(set(addresses(asked))) == 4


def test_addresses_do_not_depend_on_where_the_program_is_loaded(examples):
    found = []
    for _ in range(2):
        with driven(examples / "detector") as controller:
            found.append(addresses(controller.run()[0]))
            maps = Path(f"/proc/{controller.process.pid}/maps").read_text("utf-8")
            found.append(maps.partition("-")[0])  # where the program is loaded
    assert found[0] == found[2]
    if found[1] == found[3]:
        pytest.skip("programs are loaded at the same place each time here")


def test_a_loop_visits_one_address(examples):
    with driven(examples / "hmm") as controller:
        asked, _ = controller.run(lambda m: SampleResult(1.0) if isinstance(m, Sample) else plain(m))
    states = [message.address for message in asked if isinstance(message, Sample)]
    assert len(states) == 17
    assert len(set(states)) == 2  # the first, and those of the loop


# ------------------------------------------------------------------------------------------------------ runs that end


@pytest.mark.parametrize("system_name", [EXTENDED, PLAIN])
def test_reset_aborts_a_run(models, system_name):
    with driven(models, "draws_twice", system_name=system_name) as controller:
        controller.ask(Run())
        assert controller.ask(Reset()) == Reset()
        controller.ask(Run())
        controller.ask(SampleResult(0.5))
        assert controller.ask(Reset()) == Reset()
        assert controller.run()[1].result == 1.5
        controller.process.terminate()
        assert controller.process.communicate(timeout=20)[1] == b"released\n" * 3


def test_an_idle_program_answers_reset(models):
    with driven(models, "draws_twice") as controller:
        assert controller.ask(SampleResult(0.5)) == Reset()
        assert controller.ask(Reset()) == Reset()
        assert controller.run()[1].result == 1.5


def test_a_new_controller_takes_over_a_run(models):
    with driven(models, "draws_twice") as controller:
        controller.ask(Run())
        assert isinstance(controller.ask(Handshake(PLAIN)), HandshakeResult)
        assert controller.run()[1].result == 1.5


@pytest.mark.parametrize(
    "frames",
    [[b""], [b"nonsense"], [encode(Run())[:-6]], [b"\xff" * 64], [encode(SampleResult(0.5)), b"more"], [encode(Run())]],
    ids=["empty", "text", "truncated", "hostile", "two parts", "another run"],
)
def test_what_makes_no_sense_ends_the_run(models, frames):
    with driven(models, "draws_twice") as controller:
        controller.ask(Run())
        assert controller.ask_frames(*frames) == Reset()
        assert controller.run()[1].result == 1.5


@pytest.mark.parametrize("value", [np.array([0.5, 0.5]), math.nan])
def test_a_value_that_does_not_fit_fails_the_run(examples, value):
    with driven(examples / "branching") as controller:
        controller.ask(Run())
        failure = controller.ask(SampleResult(value))
        assert failure.address == "[failure]"
        assert "Poisson must be" in failure.name
        assert controller.ask(TagResult()) == Reset()


def test_tracestore_is_told_why_a_run_failed(models):
    with driven(models, "throws_late") as controller:
        (_, failure), end = controller.run()
        assert failure == Tag("[failure]", "std::domain_error: x is beyond one half", None)
        assert end == Reset()
        assert controller.run(lambda m: SampleResult(0.25))[1].result == 0.25


def test_others_see_a_failed_run_without_result(models):
    with driven(models, "throws_late", system_name=PLAIN) as controller:
        asked, end = controller.run()
    assert [type(message) for message in asked] == [Sample]
    assert end == RunResult(None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("in_run", [False, True])
def test_signals_end_a_program(models, number, in_run):
    with driven(models, "draws_twice") as controller:
        if in_run:
            controller.ask(Run())
        controller.process.send_signal(number)
        assert controller.process.wait(20) == 0
        assert controller.process.stderr.read() == b"released\n" * in_run


def test_an_endpoint_in_use_is_an_error(models):
    with driven(models, "draws_twice") as controller:
        found = subprocess.run([models, controller.endpoint, "draws_twice"], capture_output=True, check=False)
    assert found.returncode == 1
    assert b"cannot be bound: Address already in use." in found.stderr


def test_usage_is_told(examples):
    found = subprocess.run([examples / "gum", "--help"], capture_output=True, check=False)
    assert found.returncode == 2
    assert b"gum --alone RUNS SEED" in found.stderr


# ---------------------------------------------------------------------------------------------------------- rejection


def loop_answers(values, accept):
    remaining, verdicts = iter(values), iter(accept)

    def answer(message):
        if isinstance(message, Sample):
            return SampleResult(next(remaining))
        return TagResult(next(verdicts)) if message.name == "accepted" else TagResult()

    return answer


def test_passes_are_told(models):
    with driven(models, "loops") as controller:
        asked, end = controller.run(loop_answers([0.0, 0.5, 0.25, 0.75, 0.5], [1.0, 1.0]))
    told = [message.name for message in asked]
    inner = ["open", "start", "inner", "rejected", "start", "inner", "accepted", "leave"]
    assert told == ["plain", "plain", "open", "start", *inner, "accepted", "leave", "open", "start", "leave", "outside"]
    marks = [message.address.startswith("[rejection]") for message in asked]
    assert marks == [True] * (len(asked) - 1) + [False]
    assert end.result == 1.25


def test_an_engine_may_want_another_pass(models):
    with driven(models, "loops") as controller:
        asked, end = controller.run(loop_answers([0.5, 0.75, 0.625, 0.5], [0.0, 1.0, 1.0]))
    assert [message.name for message in asked].count("accepted") == 3
    assert end.result == 0.625 + 0.5


def test_a_loop_left_by_an_exception_is_left(models):
    with driven(models, "leaves_loop") as controller:
        asked, _ = controller.run()
    assert [message.name for message in asked] == ["open", "start", "inside", "leave", "outside"]
    assert not asked[-1].address.startswith("[rejection]")


@pytest.mark.parametrize("place", range(6))
def test_a_loop_may_be_aborted_anywhere(models, place):
    with driven(models, "leaves_loop") as controller:
        message = controller.ask(Run())
        for _ in range(place):
            message = controller.ask(SampleResult(0.5) if isinstance(message, Sample) else TagResult())
        if not isinstance(message, RunResult):
            assert controller.ask(Reset()) == Reset()
        assert controller.run()[1].result == 0.75


def test_others_get_no_extension(models):
    with driven(models, "loops", system_name=PLAIN) as controller:
        asked, end = controller.run(loop_answers([[0.5], [0.25], [0.75], [0.5]], []))
    assert [message.name for message in asked] == ["plain", "inner", "inner", "outside"]
    assert end.result == 1.25
