"""A batched run records what runs of single traces record."""

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InvalidInputError, SimulatorProtocolError
from tracestore.simulators import MAX_SITES, PriorController, ReplayController, Simulator, run_trace
from tracestore.simulators.batch_recorder import BatchReplay
from tracestore.simulators.batched import BatchedSimulator, batched_simulator, num_traces, run_batch
from tracestore.traces import SiteKind, TraceStatus
from tracestore.traces.distributions.row_categorical import CategoricalRows
from tracestore.traces.rescore import disagreements

N = 7


def column(number):
    """A last axis of one, for a number and for a vector of them."""
    return np.expand_dims(np.asarray(number), -1)


PRIORS = {
    "normal": lambda a: ts.Normal(a, 2.0 * a),
    "uniform": lambda a: ts.Uniform(-a, a),
    "beta": lambda a: ts.Beta(a, 2.0, 0.0, a),
    "exponential": lambda a: ts.Exponential(a),
    "gamma": lambda a: ts.Gamma(a, 2.0),
    "lognormal": lambda a: ts.LogNormal(a, 0.5),
    "weibull": lambda a: ts.Weibull(a, 1.5),
    "truncated": lambda a: ts.TruncatedNormal(a, 1.0, 0.0, 4.0),
    "vonmises": lambda a: ts.VonMises(a, 2.0),
    "poisson": lambda a: ts.Poisson(a),
    "bernoulli": lambda a: ts.Bernoulli(a / 4.0),
    "binomial": lambda a: ts.Binomial(9, a / 4.0),
    "mixture": lambda a: ts.Mixture([ts.Normal(a, 1.0), ts.Uniform(-a, a)], [0.3, 0.7]),
    "normal-vector": lambda a: ts.Normal(column(a) * np.ones(3), [1.0, 2.0, 3.0]),
    "gamma-vector": lambda a: ts.Gamma(column(a) * np.ones(3), 1.0),
    "poisson-vector": lambda a: ts.Poisson(column(a) * np.ones(3)),
    "constant": lambda _: ts.Normal(0.0, 1.0),
    "categorical": lambda _: ts.Categorical([0.2, 0.5, 0.3]),
    "histogram": lambda _: ts.PiecewiseUniform([0.0, 1.0, 4.0], [0.5, 0.5]),
    "multivariate": lambda _: ts.MultivariateNormal([1.0, -1.0], [[1.0, 0.6], [0.6, 2.0]]),
}


def drawn(batch, name):
    """Values of a name, one a trace."""
    return batch.named(name)[0]


def program_of(make_prior):
    """One source for one trace and for many: it computes with numbers as with vectors."""

    def program():
        a = ts.sample(ts.Uniform(0.5, 3.0), name="a")
        x = ts.sample(make_prior(a), name="x")
        y = ts.sample(ts.Normal(a, 1.0))
        ts.sample(ts.Normal(0.0, 1.0), name="loose", control=False)
        ts.tag(a * 2.0, name="double")
        ts.observe(make_prior(a), name="seen")
        ts.observe(ts.Normal(y, 1.0), 0.5)
        for _ in range(2):
            ts.observe(ts.Normal(y, a), 1.5, address="noted")
        return x + 1.0

    return program


def assert_equal_traces(found, expected):
    assert found.layout == expected.layout
    assert np.array_equal(found.values, expected.values)
    assert np.array_equal(found.parameters, expected.parameters)
    assert list(found.observations) == list(expected.observations)
    for name, value in expected.observations.items():
        assert np.array_equal(found.observations[name], value)
        assert found.observations[name].dtype == value.dtype
    np.testing.assert_allclose(found.log_probs, expected.log_probs, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.log_joint, expected.log_joint, rtol=1e-12)
    assert (found.status, found.failure) == (expected.status, expected.failure)


def replayed(program, trace):
    return run_trace(program, ReplayController(trace), np.random.default_rng(99), observations=trace.observations)


@pytest.fixture(scope="module", params=PRIORS)
def family(request):
    program = program_of(PRIORS[request.param])
    return program, run_batch(BatchedSimulator(program), N, np.random.default_rng(3))


def test_each_row_is_the_trace_of_a_program_for_one(family):
    program, batch = family
    for trace in batch:
        assert_equal_traces(replayed(Simulator(program), trace), trace)


def test_each_row_is_the_trace_of_the_batched_program_run_alone(family):
    program, batch = family
    for trace in batch:
        assert_equal_traces(replayed(BatchedSimulator(program), trace), trace)


def test_stored_scores_follow_from_values_and_parameters(family):
    assert disagreements(family[1]) == []


def test_a_replayed_batch_is_the_same(family):
    program, batch = family
    replay = BatchReplay.of(batch)
    again = run_batch(BatchedSimulator(program), N, np.random.default_rng(5), controller=replay)
    sampled = [site.kind is not SiteKind.OBSERVE for site in batch.layouts[0].sites]
    assert np.array_equal(again.log_probs.reshape(N, -1)[:, sampled], batch.log_probs.reshape(N, -1)[:, sampled])


def test_rows_are_independent_draws(family):
    values = family[1].named("a")[0]
    assert len(set(values.tolist())) == N


def test_categories_with_probabilities_of_their_own():
    table = np.array([[0.9, 0.1, 0.0], [0.1, 0.0, 0.9]])

    def program():
        state = ts.sample(ts.Bernoulli(0.5), name="state")
        rows = table[state]
        return ts.sample(ts.Categorical(rows) if rows.ndim == 1 else CategoricalRows(rows), name="next")

    batch = run_batch(BatchedSimulator(program), 50, np.random.default_rng(1))
    for trace in batch:
        assert_equal_traces(replayed(Simulator(program), trace), trace)
        assert trace["next"] != (2 if trace["state"] == 0 else 1)


def gum(n):
    mu = ts.sample(ts.Normal(np.ones(n), 5.0**0.5), name="mu")
    for name in ("obs0", "obs1"):
        ts.observe(ts.Normal(mu, 2.0**0.5), name=name)
    return mu


def test_observations_are_given_to_all_rows_and_held_once():
    batch = run_batch(BatchedSimulator(gum), 4, np.random.default_rng(1), observations={"obs0": 8.0, "obs1": 9.0})
    assert batch.observations["obs0"].tolist() == [8.0] * 4
    assert batch.observations["obs0"].strides == (0,)
    assert len(set(batch.log_likelihood.tolist())) == 4


def test_an_observation_fixes_a_named_draw():
    batch = run_batch(
        BatchedSimulator(gum), 4, np.random.default_rng(1), observations={"mu": 2.0, "obs0": 0.0, "obs1": 0.0}
    )
    assert [site.kind for site in batch.layouts[0].sites[:2]] == [SiteKind.OBSERVE, SiteKind.OBSERVE]
    assert not batch.log_prior.any()


def test_a_missing_observation_is_refused():
    with pytest.raises(InvalidInputError, match="observes 'obs1' but no value was given"):
        run_batch(BatchedSimulator(gum), 4, np.random.default_rng(1), observations={"obs0": 8.0})


def test_the_number_of_traces_is_told_anywhere():
    seen = []
    run_batch(BatchedSimulator(lambda: seen.append(num_traces())), 9, np.random.default_rng(1))
    assert seen == [9]
    assert num_traces() == 1


def test_a_batched_program_is_called_outside_of_a_recording():
    assert np.shape(BatchedSimulator(gum)(5)) == (5,)  # type: ignore[call-overload]


def test_values_changed_in_place_are_recorded_as_drawn():
    def program():
        x = ts.sample(ts.Uniform(0.0, 1.0), name="x")
        x += 10.0
        return x

    batch = run_batch(BatchedSimulator(program), 5, np.random.default_rng(1))
    assert (drawn(batch, "x") < 1.0).all()
    assert np.array_equal(drawn(batch, "result"), drawn(batch, "x") + 10.0)


def test_tensors_are_parameters_values_tags_and_results():
    torch = pytest.importorskip("torch")

    def program(n):
        x = torch.as_tensor(ts.sample(ts.Normal(torch.zeros(n), 1.0), name="x"))
        ts.tag(x, name="tag")
        ts.observe(ts.Normal(x, torch.ones(1)), torch.zeros(n), name="y")
        return x

    batch = run_batch(BatchedSimulator(program), 5, np.random.default_rng(1))
    for name in ("tag", "result"):
        assert np.array_equal(drawn(batch, name), drawn(batch, "x"))
    assert run_trace(BatchedSimulator(program), PriorController(), np.random.default_rng(1)).status is TraceStatus.OK


WRONG = {
    "a prior": (lambda: ts.sample(ts.Normal(np.zeros(3), 1.0)), "first axis of a prior is the trace axis"),
    "a likelihood": (lambda: ts.observe(ts.Normal(np.zeros(3), 1.0), name="y"), "first axis of a prior is the trace"),
    "a tag": (lambda: ts.tag(np.zeros(3), name="t"), "so the tag 't' must have the shape"),
    "a result": (lambda: np.zeros(3), "what the program returns must have the shape"),
    "a value": (lambda: ts.observe(ts.Normal(0.0, 1.0), np.zeros(3), name="y"), "value of the observe 'y' must have"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("number", [1, 4])
def test_another_first_axis_ends_the_job(what, number):
    program, message = WRONG[what]
    with pytest.raises(InvalidInputError, match=message):
        run_batch(BatchedSimulator(program), number, np.random.default_rng(1))


@pytest.mark.parametrize("what", WRONG)
def test_another_first_axis_ends_a_run_for_one_trace(what):
    program, message = WRONG[what]
    with pytest.raises(InvalidInputError, match=message):
        run_trace(BatchedSimulator(program), PriorController(), np.random.default_rng(1))


def marked_loop():
    with ts.rejection():
        ts.sample(ts.Normal(0.0, 1.0))


def loop():
    for attempt in ts.rejection():
        ts.sample(ts.Normal(0.0, 1.0))
        attempt.accept()


@pytest.mark.parametrize("program", [marked_loop, loop])
def test_rejection_loops_are_refused(program):
    with pytest.raises(SimulatorProtocolError, match="cannot have a rejection loop"):
        run_batch(BatchedSimulator(program), 3, np.random.default_rng(1))
    with pytest.raises(SimulatorProtocolError, match="cannot have a rejection loop"):
        run_trace(BatchedSimulator(program), PriorController(), np.random.default_rng(1))


def test_controllers_of_single_traces_are_refused():
    trace = run_trace(BatchedSimulator(gum), PriorController(), np.random.default_rng(1))
    with pytest.raises(InvalidInputError, match="ReplayController decides the draws of one trace at a time"):
        run_batch(BatchedSimulator(gum), 3, np.random.default_rng(1), controller=ReplayController(trace))


def test_the_prior_controller_is_accepted():
    first = run_batch(BatchedSimulator(gum), 3, np.random.default_rng(1), controller=PriorController())
    assert np.array_equal(first.values, run_batch(BatchedSimulator(gum), 3, np.random.default_rng(1)).values)


def test_simulators_of_single_traces_are_refused():
    with pytest.raises(InvalidInputError, match="needs a batched simulator"):
        run_batch(Simulator(lambda: 1.0), 3, np.random.default_rng(1))


@pytest.mark.parametrize("number", [0, -1])
def test_a_batch_needs_traces(number):
    with pytest.raises(InvalidInputError, match="`num_traces` must be at least 1"):
        run_batch(BatchedSimulator(gum), number, np.random.default_rng(1))


def test_functions_of_more_arguments_are_refused():
    with pytest.raises(InvalidInputError, match="takes the number of traces or nothing"):
        batched_simulator(lambda first, second: None)


def breaks_above(n):
    x = ts.sample(ts.Uniform(0.0, 1.0), name="x")
    y = ts.sample(ts.Normal(x, 1.0), name="y")
    seen = ts.observe(ts.Normal(y, 1.0), name="seen")
    if (x > 0.5).any():
        message = "x is too large"
        raise ValueError(message)
    ts.sample(ts.Normal(seen, 1.0), name="last")


def test_traces_that_fail_do_not_take_the_others_along(caplog):
    batch = run_batch(BatchedSimulator(breaks_above), 40, np.random.default_rng(1), stream=100)
    x = drawn(batch, "x")
    assert sorted(batch.failures) == np.flatnonzero(x > 0.5).tolist()
    assert set(batch.failures.values()) == {"ValueError: x is too large"}
    assert (batch.status == np.where(x > 0.5, TraceStatus.FAILED, TraceStatus.OK)).all()
    assert batch.stream.tolist() == list(range(100, 140))
    assert f"{len(batch.failures)} of them failed" in caplog.text


def test_traces_keep_their_draws_when_others_fail():
    alone = run_batch(BatchedSimulator(breaks_above), 40, np.random.default_rng(1), isolate_failures=False)
    batch = run_batch(BatchedSimulator(breaks_above), 40, np.random.default_rng(1))
    assert len(alone.failures) == 40
    for name in ("x", "y", "seen"):
        assert np.array_equal(drawn(batch, name), drawn(alone, name))


def test_a_length_cap_is_a_recorded_failure():
    batch = run_batch(BatchedSimulator(gum), 3, np.random.default_rng(1), max_sites=2)
    assert (batch.status == TraceStatus.CAPPED).all()
    assert batch.failures[2] == "the trace reached 2 sites"
    assert batch.layouts[0].num_sites == 2


class Odd(ts.Normal):
    """A normal distribution that cannot score negative numbers."""

    __slots__ = ()

    def log_prob(self, value):
        return super().log_prob(value) if value >= 0.0 else np.nan


def test_a_score_that_is_no_number_fails_its_trace_only():
    batch = run_batch(BatchedSimulator(lambda: ts.sample(Odd(0.0, 1.0), name="x")), 20, np.random.default_rng(1))
    x = drawn(batch, "x")
    assert 0 < len(batch.failures) < 20
    assert sorted(batch.failures) == np.flatnonzero(x < 0.0).tolist()
    assert all("is NaN" in reason for reason in batch.failures.values())


def test_a_value_outside_of_the_support_has_a_score():
    program = BatchedSimulator(lambda: ts.observe(ts.Uniform(0.0, 1.0), np.array([0.5, 2.0]), name="y"))
    batch = run_batch(program, 2, np.random.default_rng(1))
    assert batch.log_likelihood.tolist() == [0.0, -np.inf]
    assert not batch.failures


def test_the_same_stream_gives_the_same_batch():
    first, again = (run_batch(BatchedSimulator(gum), 100, np.random.default_rng(1)) for _ in range(2))
    assert np.array_equal(first.values, again.values)
    assert np.array_equal(first.observations["obs0"], again.observations["obs0"])


def test_addresses_and_fingerprint_are_those_of_the_function():
    batch = run_batch(BatchedSimulator(gum), 2, np.random.default_rng(1))
    assert batch.layouts[0].sites[0].address == "gum:mu~Normal#1"
    single = Simulator(gum)  # type: ignore[arg-type]  # only looked at
    assert BatchedSimulator(gum).fingerprint == single.fingerprint
    assert BatchedSimulator(gum).name == single.name


def test_single_precision_observations_stay_so():
    def program():
        x = ts.sample(ts.Normal(0.0, 1.0), name="x")
        ts.observe(ts.Normal(column(x) * np.ones(3), 1.0), name="image", dtype=np.float32)
        ts.observe(ts.Normal(x, 1.0), name="number", dtype=np.float32)

    batch = run_batch(BatchedSimulator(program), 4, np.random.default_rng(1))
    assert batch.observations["image"].dtype == batch.observations["number"].dtype == np.float32
    for trace in batch:
        assert_equal_traces(replayed(Simulator(program), trace), trace)


def test_the_length_of_a_batch_does_not_change_its_layout():
    layouts = [run_batch(BatchedSimulator(gum), n, np.random.default_rng(1)).layouts[0] for n in (1, 2, 30)]
    assert layouts[0] is layouts[1] is layouts[2]
    assert layouts[0].num_sites < MAX_SITES
