"""Checks before an engine runs: what is refused, and in which words."""

import numpy as np
import pytest

from tests.inference.providers import RuleProvider
from tracestore.errors import InvalidInputError, SimulatorError, SimulatorProtocolError
from tracestore.inference.conditioning import condition, require_same_simulator
from tracestore.simulators.base import Simulator, simulator
from tracestore.simulators.runtime import observe, sample
from tracestore.simulators.toys import geometric, gum
from tracestore.traces.distributions import Bernoulli, Normal


@simulator
def image() -> None:
    x = sample(Normal(0.0, 1.0), name="x")
    observe(Normal(np.full((2, 3), x), 1.0), name="pixels", dtype=np.float32)


@simulator
def sometimes() -> None:
    if sample(Bernoulli(0.3), name="b"):
        observe(Normal(0.0, 1.0), name="rare")
    observe(Normal(0.0, 1.0), 0.25, name="fixed")


class TestRefusals:
    def test_unknown_name_lists_the_known_ones(self) -> None:
        with pytest.raises(InvalidInputError, match=r"Unknown observation 'obs2': .* it has 'mu', 'obs0', 'obs1'"):
            condition(gum, {"obs0": 8.0, "obs1": 9.0, "obs2": 1.0}, seed=1)

    def test_missing_name(self) -> None:
        with pytest.raises(InvalidInputError, match=r"observes 'obs1' but no value was given for it; given: 'obs0'"):
            condition(gum, {"obs0": 8.0}, seed=1)

    def test_wrong_shape_gives_both(self) -> None:
        with pytest.raises(
            InvalidInputError, match=r"'pixels' has shape \(3, 2\); the simulator produces shape \(2, 3\)"
        ):
            condition(image, {"pixels": np.zeros((3, 2))}, seed=1)

    def test_a_list_of_one_is_no_number(self) -> None:
        with pytest.raises(InvalidInputError, match=r"'obs0' has shape \(1,\); .* shape \(\)"):
            condition(gum, {"obs0": [8.0], "obs1": 9.0}, seed=1)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_values_that_are_not_finite(self, bad: float) -> None:
        pixels = np.zeros((2, 3))
        pixels[1, 2] = bad
        with pytest.raises(
            InvalidInputError, match=r"1 of its 6 numbers are NaN or infinite, the first at index \[1, 2\]"
        ):
            condition(image, {"pixels": pixels}, seed=1)

    @pytest.mark.parametrize("bad", ["eight", None, [[1.0], [1.0, 2.0]], {"a": 1}], ids=repr)
    def test_values_that_are_no_numbers(self, bad: object) -> None:
        with pytest.raises(InvalidInputError, match="'obs0' must be a number or an array of numbers"):
            condition(gum, {"obs0": bad, "obs1": 9.0}, seed=1)  # type: ignore[dict-item]  # the mistake under test

    def test_observations_must_have_names(self) -> None:
        with pytest.raises(InvalidInputError, match="must map names to values; got list"):
            condition(gum, [8.0, 9.0], seed=1)  # type: ignore[arg-type]  # the mistake under test

    def test_a_simulator_that_always_fails(self) -> None:
        @simulator
        def broken() -> None:
            message = "no detector"
            raise OSError(message)

        with pytest.raises(
            SimulatorError, match=r"failed in all of .* probe runs; the first failure: OSError: no detector"
        ):
            condition(broken, {}, seed=1)


class TestAccepted:
    def test_a_simulator_with_randomness_of_its_own(self) -> None:
        hidden = np.random.default_rng(1)

        def impure() -> None:
            observe(Normal(sample(Normal(0.0, 1.0), name="x") + hidden.random(), 1.0), name="y")

        with pytest.raises(SimulatorProtocolError, match=r"the likelihood of the observe 'y' .* had the parameters"):
            condition(Simulator(impure), {"y": 0.0}, seed=1)

    def test_values_have_the_type_of_the_simulator_and_are_read_only(self) -> None:
        found = condition(image, {"pixels": [[1, 2, 3], [4, 5, 6]]}, seed=1).observations["pixels"]
        assert found.dtype == np.float32
        assert not found.flags.writeable

    def test_the_callers_array_is_left_alone(self) -> None:
        pixels = np.zeros((2, 3), np.float32)
        condition(image, {"pixels": pixels}, seed=1)
        assert pixels.flags.writeable

    def test_an_observe_with_a_value_of_its_own_may_be_left_out(self) -> None:
        assert set(condition(sometimes, {"rare": 1.0}, seed=1).observations) == {"rare"}

    def test_a_rare_name_is_found_by_further_probes(self) -> None:
        for seed in range(5):
            condition(sometimes, {"rare": 1.0, "fixed": 0.5}, seed=seed)

    def test_a_named_draw_can_be_observed(self) -> None:
        probes = condition(gum, {"mu": 2.0, "obs0": 8.0, "obs1": 9.0}, seed=1).probes
        assert all(trace["mu"] == 2.0 for trace in probes)
        assert all(trace.log_prior == 0.0 for trace in probes)

    def test_digest_depends_on_names_shapes_and_values_only(self) -> None:
        base = condition(gum, {"obs0": 8.0, "obs1": 9.0}, seed=1).digest
        assert condition(gum, {"obs1": 9, "obs0": np.float32(8.0)}, seed=2).digest == base
        assert condition(gum, {"obs0": 9.0, "obs1": 8.0}, seed=1).digest != base


class TestNetworks:
    @staticmethod
    def network(program: Simulator, bases: set[str]) -> RuleProvider:
        return RuleProvider(program, bases, lambda *_: None)

    @staticmethod
    def bases(program: Simulator, observations: dict[str, float]) -> tuple[tuple, set[str]]:
        probes = condition(program, observations, seed=1).probes
        return probes, {site.base for trace in probes for site in trace.sites if site.is_controlled}

    def test_of_another_simulator_is_refused_with_the_addresses(self) -> None:
        probes, bases = self.bases(gum, {"obs0": 8.0, "obs1": 9.0})
        _, other = self.bases(geometric, {"obs": 3.0})
        with pytest.raises(InvalidInputError, match=r"geometric.*does not fit.*gum") as caught:
            require_same_simulator(self.network(geometric, other), gum, probes)
        assert repr(next(iter(bases))) in str(caught.value)
        assert repr(next(iter(other))) in str(caught.value)

    def test_of_the_same_simulator_fits_with_addresses_it_never_met(self) -> None:
        probes, _ = self.bases(gum, {"obs0": 8.0, "obs1": 9.0})
        require_same_simulator(self.network(gum, set()), gum, probes)

    def test_of_an_edited_simulator_fits_while_the_addresses_are_the_same(self) -> None:
        probes, bases = self.bases(gum, {"obs0": 8.0, "obs1": 9.0})
        require_same_simulator(self.network(geometric, bases | {"more"}), gum, probes)

    @pytest.mark.parametrize(("trained", "run"), [("one", "two"), ("one", ""), ("", "two")])
    def test_of_another_build_is_refused_whatever_it_knows(self, trained: str, run: str) -> None:
        probes, bases = self.bases(gum, {"obs0": 8.0, "obs1": 9.0})
        learned, present = (Simulator(gum.function, name="program", build=build) for build in (trained, run))
        with pytest.raises(
            InvalidInputError, match=r"another build of it, in which addresses are other places"
        ) as caught:
            require_same_simulator(self.network(learned, bases), present, probes)
        assert learned.fingerprint in str(caught.value)
        assert present.fingerprint in str(caught.value)

    def test_of_the_same_build_fits(self) -> None:
        probes, bases = self.bases(gum, {"obs0": 8.0, "obs1": 9.0})
        first, second = (Simulator(gum.function, name="program", build="one") for _ in range(2))
        require_same_simulator(self.network(first, bases), second, probes)


def test_a_rerouted_simulator_must_repeat_a_run_after_a_restart() -> None:
    restarts = iter(range(10))

    class Restarted(Simulator):
        number = 0.0

        def restart(self) -> None:
            self.number = 1.0 + next(restarts)

    def drifting() -> None:
        x = sample(Normal(program.number, 1.0), name="x")
        observe(Normal(x, 1.0), name="y")

    program = Restarted(drifting, build="one")
    with pytest.raises(SimulatorProtocolError, match=r"the prior of the sample 'x' at .* had the parameters \[0"):
        condition(program, {"y": 1.0}, seed=1)
    condition(Restarted(drifting), {"y": 1.0}, seed=1)  # not rerouted: its restart is none of the engine's business
