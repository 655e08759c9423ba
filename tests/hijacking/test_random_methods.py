"""Python's `random` under `hijack`: which prior each method draws from, and that its numbers are still its own."""

import random
import statistics
import sys
from random import expovariate  # names that modules import early
from random import random as random_by_name

import numpy as np
import pytest

from tracestore.hijacking import hijack
from tracestore.simulators import PriorController, ReplayController, Simulator, run_trace

OTHER = random.Random(7)
CALLS = {
    "random": (lambda: random.random(), "Uniform"),
    "random_by_name": (lambda: random_by_name(), "Uniform"),
    "uniform": (lambda: random.uniform(2.0, 5.0), "Uniform"),
    "uniform, bounds the other way round": (lambda: random.uniform(5, 2), "Uniform"),
    "triangular": (lambda: random.triangular(0.0, 1.0, 0.3), "Uniform"),
    "betavariate": (lambda: random.betavariate(2.0, 3.0), "Beta"),
    "expovariate": (lambda: random.expovariate(4.0), "Exponential"),
    "expovariate of a negative rate": (lambda: random.expovariate(-4.0), "Exponential"),
    "expovariate_by_name": (lambda: expovariate(4.0), "Exponential"),
    "gammavariate": (lambda: random.gammavariate(2.0, 3.0), "Gamma"),
    "gauss": (lambda: random.gauss(1.0, 2.0), "Normal"),
    "gauss, scale below zero": (lambda: random.gauss(1.0, -2.0), "Normal"),
    "gauss, scale zero": (lambda: random.gauss(1.0, 0.0), "Normal"),
    "normalvariate": (lambda: random.normalvariate(1, 2), "Normal"),
    "lognormvariate": (lambda: random.lognormvariate(0.0, 0.5), "LogNormal"),
    "vonmisesvariate": (lambda: random.vonmisesvariate(4.0, 6.0), "VonMises"),
    "paretovariate": (lambda: random.paretovariate(4.0), "Exponential"),
    "weibullvariate": (lambda: random.weibullvariate(2.0, 3.0), "Weibull"),
    "randrange": (lambda: random.randrange(10), "Categorical(10)"),
    "randrange with a step": (lambda: random.randrange(50, 5, -7), "Categorical(7)"),
    "randrange of many": (lambda: random.randrange(10**6), "Uniform"),
    "randrange of very many": (lambda: random.randrange(2**70) / 2.0**70, "Uniform[4]"),
    "randint": (lambda: random.randint(1, 6), "Categorical(6)"),
    "choice": (lambda: random.choice([3, 4, 8]), "Categorical(3)"),
    "choices": (lambda: random.choices([3, 4, 8], [1, 2, 1])[0], "Categorical(3)"),
    "choices by cumulative weights": (lambda: random.choices([3, 4, 8], cum_weights=[1, 3, 4])[0], "Categorical(3)"),
    "choices of many": (lambda: random.choices(range(1000))[0], "Uniform"),
    "getrandbits": (lambda: random.getrandbits(3), "Categorical(8)"),
    "randbytes": (lambda: random.randbytes(1)[0], "Uniform[1]"),
    "of another instance": (lambda: OTHER.gauss(1.0, 2.0), "Normal"),
}

if sys.version_info >= (3, 12):
    CALLS["binomialvariate"] = (lambda: random.binomialvariate(10, 0.3), "Binomial")


def record(function, seed=1):
    """Run a function with its draws recorded; return the trace."""

    def program():
        with hijack("random"):
            return function()

    trace = run_trace(Simulator(program), PriorController(), np.random.default_rng(seed))
    assert trace.failure == ""
    return trace


def suffixes(trace):
    """Kinds of the sample sites of a trace."""
    return [site.address.rpartition("~")[2].partition("#")[0] for site in trace.sites if site.name != "result"]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_one_draw_from_the_prior_of_its_method(name):
    call, suffix = CALLS[name]
    assert suffixes(record(call))[:1] == [suffix]
    assert len(suffixes(record(lambda: (call(), None)[1]))) == 1


@pytest.mark.parametrize("name", CALLS)
def test_recorded_numbers_are_distributed_as_those_of_the_method(name):
    call, _ = CALLS[name]
    number = 2000
    found: list[float] = []
    record(lambda: found.extend(call() for _ in range(number)))
    random.seed(3)
    expected = [call() for _ in range(number)]
    spread = (statistics.pstdev(found) + statistics.pstdev(expected)) / number**0.5
    assert abs(statistics.fmean(found) - statistics.fmean(expected)) <= 4.0 * spread
    assert statistics.pstdev(found) == pytest.approx(statistics.pstdev(expected), rel=0.15)


def test_shuffle_gives_every_order_as_often():
    counts: dict[tuple[int, ...], int] = {}

    def program():
        for _ in range(3000):
            items = [1, 2, 3]
            random.shuffle(items)
            counts[tuple(items)] = counts.get(tuple(items), 0) + 1

    record(program)
    assert len(counts) == 6
    assert max(abs(count - 500) for count in counts.values()) < 100


def test_shuffle_is_one_category_less_from_draw_to_draw():
    assert suffixes(record(lambda: random.shuffle([1, 2, 3, 4]))) == [
        "Categorical(4)",
        "Categorical(3)",
        "Categorical(2)",
    ]


def test_sample_never_takes_an_item_twice_and_all_as_often():
    found: list[list[str]] = []
    record(lambda: found.extend(random.sample("abcde", 3) for _ in range(2000)))
    assert all(len(set(items)) == 3 for items in found)
    assert all(1050 < sum(letter in items for items in found) < 1350 for letter in "abcde")


def test_sample_of_very_many_has_a_draw_for_each_item():
    assert suffixes(record(lambda: random.sample(range(10**9), 3))) == ["Uniform"] * 3


def test_sample_by_counts_is_recorded():
    found = []
    trace = record(lambda: found.extend(random.sample(["a", "b"], 3, counts=[2, 1])))
    assert sorted(found) == ["a", "a", "b"]
    assert suffixes(trace) == ["Categorical(3)", "Categorical(2)"]


def test_what_is_certain_is_no_draw():
    assert (
        suffixes(
            record(lambda: (random.choice("a"), random.randrange(1), random.getrandbits(0), random.randbytes(0))[0:0])
        )
        == []
    )


WRONG = {
    "choice of nothing": lambda: random.choice([]),
    "randrange of nothing": lambda: random.randrange(0),
    "randrange without a step": lambda: random.randrange(1, 5, 0),
    "randint of nothing": lambda: random.randint(2, 1),
    "sample of too few": lambda: random.sample([1], 2),
    "sample of a set": lambda: random.sample({1, 2}, 1),  # type: ignore[arg-type]
    "choices of nothing": lambda: random.choices([], k=1),
    "choices of other length": lambda: random.choices([1, 2], [1]),
    "choices without weight": lambda: random.choices([1, 2], [0, 0]),
    "gammavariate": lambda: random.gammavariate(0.0, 1.0),
    "expovariate": lambda: random.expovariate(0.0),
    "getrandbits": lambda: random.getrandbits(-1),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_raise_what_they_always_did(name):
    raised: list[tuple[type, str]] = []
    guarded(WRONG[name], raised)
    record(lambda: guarded(WRONG[name], raised))
    assert len(raised) == 2
    assert raised[0] == raised[1]


def guarded(call, raised):
    """Call, and note which error it raises, in the words that it has."""
    try:
        call()
    except Exception as error:  # noqa: BLE001  # compared with another
        raised.append((type(error), str(error)))


def test_gauss_keeps_nothing_for_the_next_run():
    first, again = record(lambda: random.gauss(0.0, 1.0)), record(lambda: random.gauss(0.0, 1.0))
    assert suffixes(first) == suffixes(again) == ["Normal"]
    assert first.values.tolist() == again.values.tolist()


def test_gauss_that_was_kept_from_before_keeps_nothing_either():
    kept = [random.Random.gauss]  # draws two uniform numbers at every other call

    def program():
        return kept[0](random._inst, 0.0, 1.0)

    assert suffixes(record(program)) == suffixes(record(program)) == ["Uniform", "Uniform"]


def test_a_replay_gives_the_same_numbers():
    calls = [call for call, _ in CALLS.values()]
    found = []

    def program():
        with hijack("random"):
            found.append([call() for call in calls])

    trace = run_trace(Simulator(program), PriorController(), np.random.default_rng(1))
    run_trace(Simulator(program), ReplayController(trace), np.random.default_rng(2))
    assert found[0] == found[1]
