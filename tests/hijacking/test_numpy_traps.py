"""The traps that existing programs set, one by one."""

# ruff: noqa: NPY002  # the legacy functions are what is tested

import copy
import pickle
import sys
import time
import types
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng, normal
from scipy import stats

import tracestore as ts
from tracestore.errors import SimulatorProtocolError
from tracestore.hijacking import hijack
from tracestore.simulators import PriorController, ReplayController, Simulator, run_trace

MADE_BEFORE = np.random.default_rng(11)
BOUND_BEFORE: Any = MADE_BEFORE.normal
FUNCTION: Any = np.random.normal
LEGACY_BEFORE = np.random.RandomState(11)


class Holder:
    draw = staticmethod(np.random.poisson)

    def __init__(self, source=np.random.exponential):
        self.source = source


@pytest.fixture(autouse=True)
def _first_runs(monkeypatch):
    monkeypatch.setattr("tracestore.hijacking.leaks._num_runs", {})


def run(function, controller=None, seed=1, **options):
    @hijack("numpy", **options)
    def program():
        return function()

    return run_trace(Simulator(program), controller or PriorController(), np.random.default_rng(seed))


def families(trace):
    assert trace.failure == ""
    return [site.family for site in trace.sites if site.family]


@pytest.mark.parametrize(
    ("what", "draw", "family"),
    [
        ("generator", lambda: MADE_BEFORE.normal(), "Normal"),
        ("bound method", lambda: BOUND_BEFORE(0.0, 2.0), "Normal"),
        ("legacy generator", lambda: LEGACY_BEFORE.poisson(3.0), "Poisson"),
        ("imported function", lambda: normal(), "Normal"),
        ("imported default_rng", lambda: default_rng(1).random(), "Uniform"),
        ("class attribute", lambda: Holder.draw(3.0), "Poisson"),
        ("default argument", lambda: Holder().source(2.0), "Exponential"),
        ("mtrand", lambda: np.random.mtrand.normal(), "Normal"),
        ("sample", lambda: np.random.sample(), "Uniform"),
        ("ranf", lambda: np.random.ranf(), "Uniform"),
        ("own bit generator", lambda: np.random.Generator(np.random.SFC64(1)).gamma(2.0), "Gamma"),
        ("unseeded bit generator", lambda: np.random.Generator(np.random.PCG64DXSM()).beta(1.0, 2.0), "Beta"),
        ("new legacy generator", lambda: np.random.RandomState().rand(), "Uniform"),
        ("default_rng of a generator", lambda: np.random.default_rng(MADE_BEFORE).random(), "Uniform"),
    ],
)
def test_generators_and_names_made_before_are_recorded(what, draw, family):
    assert families(run(draw)) == [family]


def test_methods_that_call_each_other_count_once():
    rng = np.random.default_rng(1)
    assert families(run(lambda: rng.choice(5))) == ["Categorical"]
    assert families(run(lambda: rng.choice([1.0, 2.0], 3, p=[0.5, 0.5]).sum())) == ["Uniform"]
    assert families(run(lambda: rng.multivariate_normal([0.0, 1.0], np.eye(2)).sum())) == ["MultivariateNormal"]
    assert families(run(lambda: rng.multivariate_normal([0.0, 1.0], np.eye(2), 4).sum())) == ["Normal"]
    assert families(run(lambda: np.random.multivariate_normal([0.0, 1.0], np.eye(2), 4).sum())) == ["Normal"]


@pytest.mark.parametrize(
    ("what", "draw", "expected"),
    [
        ("norm", lambda rng: stats.norm.rvs(1.0, 2.0, random_state=rng), ["Normal"]),
        ("gamma", lambda rng: stats.gamma.rvs(2.0, size=3, random_state=rng).sum(), ["Gamma"]),
        ("poisson", lambda rng: stats.poisson.rvs(3.0, random_state=rng), ["Poisson"]),
        (
            "multivariate_normal",
            lambda rng: stats.multivariate_normal.rvs([0.0, 1.0], np.eye(2), random_state=rng).sum(),
            ["Normal"],
        ),
        ("cauchy", lambda rng: stats.cauchy.rvs(random_state=rng), ["Uniform"]),
    ],
)
@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState])
def test_scipy_draws_by_the_methods(what, draw, expected, make):
    assert families(run(lambda: draw(make(1)))) == expected


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, through_pickle])
@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState])
def test_copies_are_recorded_too(again, make):
    assert families(run(lambda: again(make(1)).normal() + again(make(1)).normal())) == ["Normal", "Normal"]


def test_generators_stay_what_they_are():
    def look():
        rng = np.random.default_rng(1)
        same: Any = default_rng(rng)
        return all([isinstance(same, np.random.Generator), type(same).__name__ == "Generator", same is rng])

    assert run(look)["result"] == 1.0


def test_children_of_a_generator_are_recorded():
    assert families(run(lambda: sum(child.random() for child in np.random.default_rng(1).spawn(3)))) == ["Uniform"] * 3


def test_seeds_are_ignored_inside_a_run():
    def program():
        np.random.seed(1)
        first = np.random.normal()
        np.random.seed(1)
        return first != np.random.normal() and np.random.default_rng(7).random() != np.random.default_rng(7).random()

    assert run(program)["result"] == 1.0


def test_seeds_count_outside_of_a_run():
    with hijack("numpy"):
        np.random.seed(1)
        first = np.random.normal(), np.random.default_rng(7).random()
        np.random.seed(1)
        assert first == (np.random.normal(), np.random.default_rng(7).random())
    np.random.seed(1)
    assert first == (np.random.normal(), np.random.default_rng(7).random())


def test_states_are_not_set_inside_a_run():
    np.random.seed(5)
    state = np.random.get_state()
    np.random.normal()
    before = np.random.get_state()

    def program():
        np.random.set_state(state)
        return np.random.normal()

    assert families(run(program)) == ["Normal"]
    assert all(np.array_equal(*pair) for pair in zip(before, np.random.get_state(), strict=True))


def test_the_second_legacy_deviate_does_not_leak_between_runs():
    np.random.seed(5)
    np.random.normal()  # keeps one
    traces = [run(lambda: np.random.normal(), seed=seed) for seed in (1, 2, 1)]
    assert traces[0]["result"] == traces[2]["result"] != traces[1]["result"]
    assert np.random.get_state(legacy=False)["has_gauss"] == 1


def test_generators_without_a_seed_are_the_same_at_every_run():
    entropies = [run(lambda: float(np.random.SeedSequence().generate_state(1)[0]))["result"] for _ in range(2)]
    assert entropies[0] == entropies[1]


def pieces():
    kinds = (np.random.Generator, np.random.RandomState, np.random.BitGenerator)
    methods = [(kind, name, value) for kind in kinds for name, value in vars(kind).items()]
    functions = [(name, value, getattr(value, "__func__", None)) for name, value in vars(np.random).items()]
    return methods, functions, BOUND_BEFORE.__func__, vars(np.random.bit_generator)["randbits"]


def test_everything_is_put_back():
    before = pieces()
    run(lambda: np.random.normal() + BOUND_BEFORE())
    assert pieces() == before
    assert {type(np.random.Generator.normal), type(FUNCTION.__func__)} == {type(np.random.Generator.poisson)}


def test_reference_counts_of_redirected_methods_do_not_fall():
    counts = sys.getrefcount(FUNCTION.__func__)
    for _ in range(50):
        run(lambda: np.random.normal())
    assert sys.getrefcount(FUNCTION.__func__) >= counts


def test_modules_that_are_imported_inside_are_recorded():
    source = "from numpy.random import normal, default_rng\nvalue = normal() + default_rng(3).normal()\n"

    def program():
        module = types.ModuleType("late")
        exec(compile(source, "late.py", "exec"), module.__dict__)
        return module.value

    assert families(run(program)) == ["Normal", "Normal"]


def test_subclasses_of_generator_are_recorded():
    class Mine(np.random.Generator):
        def twice(self):
            return self.normal() + self.normal()

    assert families(run(lambda: Mine(np.random.PCG64(1)).twice())) == ["Normal", "Normal"]


def everything():
    rng = np.random.default_rng()
    words = ["a", "b", "c"]
    rng.shuffle(words)
    total = float(sum(rng.permutation(5) * np.arange(5))) + "abc".index(words[0])
    for _ in range(rng.poisson(2.0)):
        total += rng.normal(1.0, 2.0) + rng.wald(1.0, 2.0) + rng.zipf(3.0)
    total += rng.multinomial(5, [0.2, 0.3, 0.5])[1] + rng.dirichlet([1.0, 2.0, 3.0])[0] + rng.integers(2**62) / 2**62
    total += rng.choice(9, 4, replace=False)[0] + np.random.standard_t(4.0) + np.random.logseries(0.5)
    total += rng.hypergeometric(4, 5, 6) + rng.negative_binomial(3, 0.4) + rng.random(4).sum() + rng.bytes(3)[0]
    return total + rng.multivariate_normal([0.0, 1.0], np.eye(2), 2).sum() + rng.vonmises(0.0, 1.0)


def test_recorded_draws_reproduce_the_results_in_any_order():
    traces = [run(everything, seed=seed) for seed in range(40)]
    order = np.random.default_rng(3).permutation(len(traces))
    for index in order:
        again = run(everything, ReplayController(traces[index]), seed=1000 + int(index))
        assert again["result"] == traces[index]["result"]
        assert again.log_prior == traces[index].log_prior
        assert again.sites == traces[index].sites


def test_addresses_do_not_depend_on_the_generator_or_seed():
    first, second = (run(everything, seed=seed) for seed in (1, 1))
    assert [site.address for site in first.sites] == [site.address for site in second.sites]


def test_numpy_frames_are_no_part_of_addresses():
    rng = np.random.default_rng(1)
    trace = run(lambda: np.vectorize(lambda scale: rng.normal(0.0, scale))([1.0, 2.0]).sum())
    assert not [site.address for site in trace.sites if "vectorize." in site.address.partition("/")[2]]
    assert families(trace) == ["Normal"] * 3  # numpy calls once more to find the type of the result


def test_length_cap_ends_the_run_as_a_recorded_failure():
    def program():
        rng = np.random.default_rng(1)
        while True:
            rng.random()

    trace = run_trace(Simulator(hijack("numpy")(program)), PriorController(), np.random.default_rng(1), max_sites=50)
    assert trace.failure == "the trace reached 50 sites"
    assert not isinstance(np.random.Generator.normal, types.FunctionType)


def test_unbounded_parameters_fail_the_run_with_the_reason():
    trace = run(lambda: np.random.default_rng(1).normal(0.0, float("inf")))
    assert trace.failure == "InvalidInputError: `scale` of Normal must be a positive finite number; got inf."


def test_too_long_sequences_are_refused(monkeypatch):
    monkeypatch.setattr("tracestore.hijacking.numpy_choices.MAX_PERMUTED", 10)
    with pytest.raises(SimulatorProtocolError, match="numpy's `permutation` cannot be recorded for more than 10"):
        run(lambda: np.random.default_rng(1).permutation(11))


def test_seeds_from_the_clock_do_not_matter():
    def program():
        return np.random.default_rng(time.time_ns()).normal() + np.random.RandomState(time.time_ns() % 2**32).normal()

    assert run(program, seed=3)["result"] == run(program, seed=3)["result"]


def reject():
    for attempt in ts.rejection():
        share = MADE_BEFORE.random()
        if MADE_BEFORE.random() < share:
            attempt.accept()
    return share


@pytest.mark.parametrize(("collapse", "is_short"), [(True, True), (False, False)])
def test_passes_of_rejection_loops_collapse(collapse, is_short):
    program = Simulator(hijack("numpy")(reject))
    traces = [
        run_trace(program, PriorController(), np.random.default_rng(seed), collapse_rejection=collapse)
        for seed in range(20)
    ]
    assert all(len(families(trace)) == 2 for trace in traces) == is_short
    assert {site.address.startswith("[rejection]") for trace in traces for site in trace.sites if site.family} == {True}
