"""Simulators that are not functions of their draws are found, and the first thing that differs is named."""

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest

from tracestore.errors import SimulatorProtocolError
from tracestore.inference import rmh
from tracestore.simulators.base import PriorController, Simulator, run_trace, simulator
from tracestore.simulators.replay_check import require_deterministic, require_reproducible
from tracestore.simulators.runtime import observe, sample, tag
from tracestore.simulators.toys import branching, geometric, gum, gum_marsaglia, hmm
from tracestore.traces.distributions import Bernoulli, Normal, Poisson


def hidden() -> Callable[[], float]:
    """A source of numbers that the library does not know of."""
    numbers = count()
    return lambda: float(next(numbers))


def program(function: Callable[[], object]) -> Simulator:
    return simulator(function)


def test_another_prior() -> None:
    number = hidden()

    def drifting() -> None:
        sample(Normal(0.0, 1.0), name="x")
        sample(Normal(number(), 2.0), name="y")

    with pytest.raises(
        SimulatorProtocolError, match=r"the prior of the sample 'y' at .*had the parameters \[0\., 2\.\]"
    ):
        check(program(drifting))


def test_another_likelihood() -> None:
    number = hidden()

    def drifting() -> None:
        x = sample(Normal(0.0, 1.0), name="x")
        observe(Normal(x + number(), 1.0), name="y")

    with pytest.raises(SimulatorProtocolError, match=r"the likelihood of the observe 'y' at "):
        check(program(drifting))


def test_another_observed_value() -> None:
    number = hidden()

    def drifting() -> None:
        sample(Normal(0.0, 1.0))
        observe(Normal(0.0, 1.0), number(), address="seen")

    with pytest.raises(SimulatorProtocolError, match=r"value of the observe at 'seen~Normal#1' was 0\.0, .* is 1\.0"):
        check(program(drifting))


def test_another_tag() -> None:
    number = hidden()

    def drifting() -> None:
        sample(Normal(0.0, 1.0))
        tag([number(), 3.0], name="pair")

    with pytest.raises(
        SimulatorProtocolError, match=r"the tag 'pair' at .* was \[0\., 3\.\], in the .* is \[1\., 3\.\]"
    ):
        check(program(drifting))


def test_another_result() -> None:
    number = hidden()

    def drifting() -> float:
        return float(sample(Normal(0.0, 1.0))) * 0.0 + number()

    with pytest.raises(SimulatorProtocolError, match=r"the value of the returned result was 0\.0, .* it is 1\.0"):
        check(program(drifting))


def test_another_address() -> None:
    number = hidden()

    def drifting() -> None:
        if number() == 0.0:
            sample(Normal(0.0, 1.0), name="first")
        sample(Normal(0.0, 1.0), name="second")

    with pytest.raises(SimulatorProtocolError, match=r"site 0 was the sample 'first' at .*, in the .* 'second'"):
        check(program(drifting))


def test_a_missing_end() -> None:
    number = hidden()

    def drifting() -> None:
        sample(Normal(0.0, 1.0), name="first")
        if number() == 0.0:
            sample(Normal(0.0, 1.0), name="second")

    with pytest.raises(SimulatorProtocolError, match=r"has 2 sites, the replay 1: the sample 'second' .* recorded run"):
        check(program(drifting))


def test_a_failure() -> None:
    number = hidden()

    def drifting() -> None:
        sample(Normal(0.0, 1.0), name="first")
        if number() > 0.0:
            message = "gone"
            raise RuntimeError(message)

    with pytest.raises(SimulatorProtocolError, match=r"the replay with 'RuntimeError: gone' after 1 sites"):
        check(program(drifting))


def test_a_failed_trace_is_not_looked_at() -> None:
    number = hidden()

    def fragile() -> None:
        sample(Normal(number(), 1.0))
        message = "always"
        raise RuntimeError(message)

    check(program(fragile))


@pytest.mark.parametrize("toy", [gum, gum_marsaglia, branching, geometric, hmm], ids=lambda toy: toy.__name__)
def test_deterministic_simulators_pass(toy: Simulator) -> None:
    for seed in range(5):
        check(toy, seed)


def test_conditioned_draws_are_given_again() -> None:
    def counted() -> None:
        n = sample(Poisson(2.0), name="n")
        for _ in range(n):
            sample(Bernoulli(0.5))

    simulated = program(counted)
    given = {"n": np.asarray(3.0)}
    trace = run_trace(simulated, PriorController(), np.random.default_rng(1), observations=given)
    require_deterministic(simulated, trace, given)


def test_chains_refuse_to_start(tmp_path: object) -> None:
    number = hidden()

    def drifting() -> None:
        x = sample(Normal(0.0, 1.0), name="x")
        observe(Normal(x, 1.0 + number()), name="y")

    with pytest.raises(SimulatorProtocolError, match="likelihood of the observe 'y'"):
        rmh(drifting, {"y": 1.0}, f"{tmp_path}/post", num_draws=4)


def check(simulated: Simulator, seed: int = 1) -> None:
    require_deterministic(simulated, run_trace(simulated, PriorController(), np.random.default_rng(seed)))


def test_what_a_rerouted_program_does_once_is_no_difference() -> None:
    done: list[int] = []

    def compiled_at_first() -> None:
        if not done:
            sample(Normal(0.0, 1.0), name="once")
        done.append(1)
        sample(Normal(0.0, 2.0), name="x")

    require_reproducible(Simulator(compiled_at_first, build="one"), seed=1)
    assert len(done) == 3
