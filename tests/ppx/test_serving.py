"""Serving a simulator over PPX, seen from the controller."""

import contextlib
import re
import threading

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InvalidInputError
from tracestore.simulators import PriorController, run_trace, toys
from tracestore.traces.address import REJECTION

pytest.importorskip("zmq")
from tests.ppx.controllers import OTHER, OURS, Controller, plain_answer, served
from tracestore.ppx.messages import (
    Handshake,
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
from tracestore.ppx.serving import SimulatorServer, serve


def returning(function, value=0.5, system_name=OURS, answer=None):
    """Serve one run of a function; return what it returned."""
    found = []
    with served(lambda: found.append(function()), 1) as controller:
        controller.handshake(system_name)
        controller.run(answer or (lambda message: plain_answer(message, value)))
    return found[0] if found else None


# ---------------------------------------------------------------------------------------------- whole conversations


@pytest.mark.parametrize("program", [toys.gum, toys.gum_marsaglia, toys.branching, toys.hmm, toys.geometric])
def test_a_run_over_the_wire_is_the_run_here(program):
    local = run_trace(program, PriorController(), np.random.default_rng(7))
    rng = np.random.default_rng(7)
    values = []

    def answer(message):
        if isinstance(message, Sample):
            values.append(message.prior.sample(rng))
            return SampleResult(values[-1])
        values.append(message.likelihood.sample(rng))
        return ObserveResult(values[-1])

    with served(program, 1) as controller:
        controller.handshake()
        asked, end = controller.run(answer)
    sites = local.sites[:-1]  # the last is the result
    assert [message.address for message in asked] == [site.address.rpartition("~")[0] for site in sites]
    assert [message.name for message in asked] == [site.name for site in sites]
    assert end.result == local.result


def test_the_handshake_tells_who_answers():
    with served(toys.gum, 1) as controller:
        found = controller.handshake()
        again = controller.handshake(OTHER)
        controller.run_with()
    assert found.system_name == f"tracestore {ts.__version__}"
    assert found.model_name == again.model_name == "tracestore.simulators.toys:gum"


def test_a_run_needs_no_handshake():
    with served(toys.gum, 1) as controller:
        asked, end = controller.run_with(2.0)
    assert [type(message) for message in asked] == [Sample, Observe, Observe]
    assert end == RunResult(np.array(2.0))


def test_control_and_name_are_sent():
    def program():
        ts.sample(ts.Normal(0.0, 1.0), name="x", address="here", control=False)

    with served(program, 1) as controller:
        asked, _ = controller.run_with()
    assert asked == [Sample("here", "x", ts.Normal(0.0, 1.0), control=False)]


def test_runs_are_counted():
    with served(toys.gum, 3) as controller:
        for _ in range(3):
            controller.run_with()
    assert controller.results[0].num_runs == 3


@pytest.mark.parametrize(
    ("result", "sent"),
    [(None, None), ("text", None), (3, np.array(3.0)), (True, np.array(1.0)), (np.eye(2), np.eye(2)), ([], None)],
)
def test_results_are_sent_where_they_are_numbers(result, sent):
    with served(lambda: result, 1) as controller:
        _, end = controller.run_with()
    assert end == RunResult(sent)


# --------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("value", [3.0, np.array([3.0]), np.array([[3.0]])])
def test_a_discrete_draw_is_an_int_whatever_its_shape(value):
    found = returning(lambda: ts.sample(ts.Poisson(4.0)), value)
    assert (found, type(found)) == (3, int)


def test_a_continuous_draw_is_a_float():
    assert type(returning(lambda: ts.sample(ts.Normal(0.0, 1.0)), np.array([3.0]))) is float


@pytest.mark.parametrize("prior", [ts.Normal(np.zeros((2, 2)), 1.0), ts.Poisson([[1.0, 1.0], [1.0, 1.0]])])
def test_a_vector_valued_draw_has_the_shape_of_its_prior(prior):
    found = returning(lambda: ts.sample(prior), np.arange(4.0))
    np.testing.assert_array_equal(found, [[0.0, 1.0], [2.0, 3.0]])


def test_a_vector_of_one_element_stays_a_vector():
    assert returning(lambda: ts.sample(ts.Normal([0.0], 1.0)), 3.0).shape == (1,)


@pytest.mark.parametrize(
    ("prior", "value", "words"),
    [
        (ts.Poisson(4.0), 0.5, "sent 0.5 for Poisson at 'here'"),
        (ts.Poisson(4.0), float("nan"), "sent nan for Poisson"),
        (ts.Normal(0.0, 1.0), np.zeros(2), "sent 2 numbers for Normal"),
        (ts.Normal(np.zeros(3), 1.0), np.zeros(2), r"sent 2 numbers for Normal\[3\]"),
    ],
)
def test_a_value_that_does_not_fit_ends_the_run(prior, value, words, caplog):
    def program():
        ts.sample(prior, address="here")

    with served(program, 1) as controller:
        controller.ask(Run())
        assert controller.ask(SampleResult(value)) == Reset()
        controller.run_with(0.0 if not prior.shape else np.zeros(3))
    assert re.search(words, caplog.text)
    assert controller.results[0].num_abandoned == 1


def observing(value=None, dtype=None, answer=None, likelihood=None):
    likelihood = likelihood or ts.Normal(0.0, 1.0)
    return returning(
        lambda: ts.observe(likelihood, value, name="y", dtype=dtype), answer=lambda message: ObserveResult(answer)
    )


def test_an_observation_is_what_the_controller_says():
    assert observing(1.0, answer=8.0) == 8.0


def test_an_observation_is_what_the_program_says_when_the_controller_says_nothing():
    assert observing(1.0) == 1.0


def test_an_observation_that_nobody_knows_is_none():
    assert observing() is None


def test_an_observed_array_keeps_shape_and_type():
    likelihood = ts.Normal(np.zeros((2, 2)), 1.0)
    found = observing(dtype=np.float32, answer=np.arange(4.0), likelihood=likelihood)
    assert (found.shape, found.dtype) == ((2, 2), np.float32)


def test_the_value_that_the_program_knows_is_sent():
    with served(lambda: ts.observe(ts.Poisson(4.0), 3, name="y", address="here"), 1) as controller:
        asked, _ = controller.run_with()
    assert asked == [Observe("here", "y", ts.Poisson(4.0), 3.0)]


def test_tags_are_sent():
    with served(lambda: ts.tag([1, 2], name="t", address="here"), 1) as controller:
        asked, _ = controller.run_with()
    assert asked == [Tag("here", "t", np.array([1.0, 2.0]))]


def test_draws_of_worker_threads_are_asked_one_at_a_time():
    prior = ts.Normal(0.0, 1.0)

    def program():
        threads = [threading.Thread(target=ts.sample, args=[prior], kwargs={"address": "here"}) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with served(program, 1) as controller:
        asked, end = controller.run_with()
    assert len(asked) == 4
    assert end == RunResult(None)


# ------------------------------------------------------------------------------------------------------ rejection


def beta():
    for attempt in ts.rejection():
        x = ts.sample(ts.Uniform(0.0, 1.0), address="x")
        if x > 0.5:
            attempt.accept()
    return x


def described(asked):
    return [message.name if isinstance(message, Tag) else message.address for message in asked]


def one_by_one(*values, accepted=()):
    """Answers draws with these values, and passes that are accepted with those."""
    left, verdicts = iter(values), iter(accepted)

    def answer(message):
        if isinstance(message, Tag) and message.name == "accepted":
            return TagResult(next(verdicts, 1.0))
        return plain_answer(message, next(left, 0.0) if isinstance(message, Sample) else None)

    return answer


X = f"{REJECTION}x"


def test_a_rejection_loop_is_told_to_a_tracestore_controller():
    with served(beta, 1) as controller:
        controller.handshake()
        asked, end = controller.run(one_by_one(0.25, 0.75))
    assert described(asked) == ["open", "start", X, "rejected", "start", X, "accepted", "leave"]
    assert {message.address for message in asked if isinstance(message, Tag)} == {REJECTION}
    assert end == RunResult(np.array(0.75))


def test_an_accepted_pass_may_be_followed_by_another():
    with served(beta, 1) as controller:
        controller.handshake()
        asked, end = controller.run(one_by_one(0.75, 0.8, accepted=[0.0, 1.0]))
    assert described(asked) == ["open", "start", X, "accepted", "start", X, "accepted", "leave"]
    assert end.result == 0.8


def test_a_rejection_loop_is_not_told_to_others():
    with served(beta, 1) as controller:
        controller.handshake(OTHER)
        asked, _ = controller.run(one_by_one(0.25, 0.75))
    assert described(asked) == [X, X]


def test_a_loop_that_is_broken_off_is_left():
    def program():
        for _ in ts.rejection():
            break
        ts.sample(ts.Normal(0.0, 1.0), address="after")

    with served(program, 1) as controller:
        controller.handshake()
        asked, _ = controller.run_with()
    assert described(asked) == ["open", "start", "leave", "after"]


def test_a_marked_loop_gives_its_draws_the_prefix():
    def program():
        with ts.rejection():
            ts.sample(ts.Normal(0.0, 1.0), address="x")
        ts.sample(ts.Normal(0.0, 1.0), address="x")

    with served(program, 1) as controller:
        controller.handshake()
        asked, _ = controller.run_with()
    assert described(asked) == [X, "x"]


def test_a_run_that_is_reset_inside_a_loop_sends_nothing_more():
    with served(beta, 1) as controller:
        controller.handshake()
        for request in (Run(), TagResult(), TagResult()):
            controller.ask(request)
        assert controller.ask(Reset()) == Reset()
        _, end = controller.run(one_by_one(0.75))
    assert end.result == 0.75


def test_a_loop_that_outlives_its_run_is_silent_in_the_next():
    kept: list[object] = []

    def program():
        kept.clear()  # closes the loop of the run before
        ts.sample(ts.Normal(0.0, 1.0), address="x")
        loop = iter(ts.rejection())
        next(loop)
        kept.append(loop)

    with served(program, 2) as controller:
        controller.handshake()
        runs = [described(controller.run_with()[0]) for _ in range(2)]
    assert runs == [["x", "open", "start"]] * 2


# ------------------------------------------------------------------------------------------------------- failures


def failing():
    ts.sample(ts.Normal(0.0, 1.0))
    raise ValueError("no such particle")


def test_a_failure_is_told_to_a_tracestore_controller():
    with served(failing, 2) as controller:
        controller.handshake()
        asked, end = controller.run_with()
        controller.run_with()
    assert asked[1:] == [Tag("[failure]", "ValueError: no such particle", None)]
    assert end == Reset()
    assert (controller.results[0].num_runs, controller.results[0].num_failed) == (2, 2)


def test_a_failure_is_no_result_for_others(caplog):
    with served(failing, 1) as controller:
        controller.handshake(OTHER)
        asked, end = controller.run_with()
    assert (len(asked), end) == (1, RunResult(None))
    assert "The simulator failed: ValueError: no such particle" in caplog.text


def test_a_failure_inside_a_loop_leaves_it_first():
    def program():
        for _ in ts.rejection():
            raise ValueError("no such particle")

    with served(program, 1) as controller:
        controller.handshake()
        asked, end = controller.run_with()
    assert (described(asked), end) == (["open", "start", "leave", "ValueError: no such particle"], Reset())


def test_a_failure_that_is_not_unicode_is_told():
    def program():
        raise ValueError("\ud800")

    with served(program, 1) as controller:
        controller.handshake()
        asked, _ = controller.run_with()
    assert described(asked) == ["ValueError: ?"]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (lambda: ts.sample(ts.VonMises(0.0, 1.0)), "it is of the family VonMises, but PPX has Normal"),
        (lambda: ts.observe(ts.Normal(0.0, 1.0), "text"), "must be numeric"),
        (lambda: ts.tag("text"), "A tag must be a number"),
        (lambda: ts.tag([]), "of at least one number to be sent over PPX"),
    ],
)
def test_what_cannot_be_sent_is_a_failure(program, words):
    with served(program, 1) as controller:
        controller.handshake()
        asked, end = controller.run_with()
    assert words in asked[-1].name
    assert end == Reset()


def test_a_result_that_is_too_large_is_a_failure(monkeypatch):
    monkeypatch.setattr("tracestore.ppx.messages.MAX_FRAME_BYTES", 1000)
    with served(lambda: np.zeros(1000), 1) as controller:
        controller.handshake()
        asked, end = controller.run_with()
    assert "send a smaller array" in asked[-1].name
    assert end == Reset()


def test_a_program_that_swallows_the_end_of_its_run_draws_no_more():
    def program():
        for _ in range(3):
            with contextlib.suppress(BaseException):
                ts.sample(ts.Normal(0.0, 1.0))

    with served(program, 1) as controller:
        controller.ask(Run())
        assert controller.ask(Reset()) == Reset()
        asked, _ = controller.run_with()
    assert len(asked) == 3
    assert controller.results[0].num_abandoned == 1


# --------------------------------------------------------------------------------------- what controllers should not do


@pytest.mark.parametrize("message", [SampleResult(0.5), ObserveResult(), TagResult(), Reset(), RunResult(None)])
def test_an_idle_program_answers_anything_else_with_reset(message):
    with served(toys.gum, 1) as controller:
        assert controller.ask(message) == Reset()
        assert len(controller.run_with()[0]) == 3


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"GET / HTTP/1.1\r\n\r\n"],
        [bytes(range(256)) * 8],
        [encode(Run())[:-1]],
        [encode(Handshake("a")), b"more"],
        [encode(Run()), b"more", b"and more"],
        [b"", encode(Run())],
    ],
)
def test_an_idle_program_answers_what_is_no_message_with_reset(frames):
    with served(toys.gum, 1) as controller:
        assert controller.ask_frames(*frames) == Reset()
        assert len(controller.run_with()[0]) == 3


@pytest.mark.parametrize("message", [ObserveResult(), TagResult(), RunResult(None), Reset()])
def test_the_wrong_answer_ends_the_run(message):
    with served(toys.gum, 1) as controller:
        controller.ask(Run())
        assert controller.ask(message) == Reset()
        assert len(controller.run_with()[0]) == 3
    assert controller.results[0].num_abandoned == 1


@pytest.mark.parametrize("frames", [[b"no message"], [encode(SampleResult(0.5)), b"more"]])
def test_an_answer_that_is_no_message_ends_the_run(frames):
    with served(toys.gum, 1) as controller:
        controller.ask(Run())
        assert controller.ask_frames(*frames) == Reset()
        assert len(controller.run_with()[0]) == 3
    assert controller.results[0].num_abandoned == 1


def test_a_controller_may_come_anew_in_the_middle_of_a_run():
    with served(toys.gum, 1) as first, Controller(first.server.endpoint) as second:
        first.ask(Run())
        second.handshake(OTHER)
        asked, _ = second.run_with()
    assert len(asked) == 3
    assert first.results[0].num_abandoned == 1


def test_a_run_may_be_begun_anew():
    with served(toys.gum, 1) as controller:
        controller.ask(Run())
        assert len(controller.run_with()[0]) == 3
    assert (controller.results[0].num_runs, controller.results[0].num_abandoned) == (1, 1)


def test_a_run_without_an_answer_is_abandoned_in_time():
    with served(toys.gum, 1, timeout=0.05) as controller:
        controller.ask(Run())
        while controller.server.current is not None:
            threading.Event().wait(0.01)
        assert controller.ask(SampleResult(0.5)) == Reset()
        controller.run_with()
    assert controller.results[0].num_abandoned == 1


# ------------------------------------------------------------------------------------------------------ endpoints


@pytest.mark.parametrize("endpoint", ["", "gum", "tcp://", "http://localhost:80"])
def test_an_endpoint_that_is_none_is_refused(endpoint):
    with pytest.raises(InvalidInputError, match="Cannot bind to the endpoint"):
        serve(toys.gum, endpoint, max_runs=0)


def test_an_endpoint_in_use_is_refused():
    server = SimulatorServer(toys.gum, "tcp://127.0.0.1:*")
    with server, pytest.raises(InvalidInputError, match="address already in use"):
        serve(toys.gum, server.endpoint, max_runs=0)


@pytest.mark.parametrize("options", [{"timeout": 0.0}, {"timeout": float("nan")}, {"max_runs": -1}])
def test_numbers_that_make_no_sense_are_refused(options):
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        serve(toys.gum, "tcp://127.0.0.1:*", **options)
