"""IC: weights of the defensive mixture, failures, resumption; exactness is tested among the statistical tests."""

import math
from pathlib import Path

import numpy as np
import pytest

from tests.inference.providers import RuleProvider
from tracestore.errors import InferenceError, InvalidInputError, StoreExistsError
from tracestore.inference import ic
from tracestore.posteriors.posterior import Posterior
from tracestore.simulators.base import Simulator, simulator
from tracestore.simulators.runtime import observe, sample
from tracestore.simulators.toys import geometric, gum
from tracestore.traces.distributions import Bernoulli, Distribution, Normal, Uniform

OBSERVED = {"obs0": 8.0, "obs1": 9.0}


def near_the_posterior(*_: object) -> Distribution:
    return Normal(7.0, 1.5)


def gum_network(**fields: str) -> RuleProvider:
    return RuleProvider(gum, {"anything"}, near_the_posterior, **fields)


def run(path: Path, network: RuleProvider, **settings: object) -> Posterior:
    return ic(gum, OBSERVED, path, **{"network": network, "num_draws": 400, "seed": 1, **settings})  # type: ignore[arg-type]


class TestWeights:
    @pytest.mark.parametrize("defensive", [0.0, 0.3, 1.0])
    def test_are_those_of_the_mixture(self, tmp_path: Path, defensive: float) -> None:
        store = run(tmp_path / "post", gum_network(), defensive=defensive).store
        for trace in store:
            log_prior, log_network = trace.log_prior, Normal(7.0, 1.5).log_prob(trace["mu"])
            density = defensive * math.exp(log_prior) + (1 - defensive) * math.exp(log_network)
            assert trace.log_proposal == pytest.approx(math.log(density))
            assert trace.log_weight == pytest.approx(trace.log_joint - math.log(density))

    def test_are_bounded_by_the_defensive_share(self, tmp_path: Path) -> None:
        def useless(*_: object) -> Distribution:
            return Normal(-30.0, 0.01)

        store = run(tmp_path / "post", RuleProvider(gum, {"x"}, useless), defensive=0.2).store
        excess = store.column("log_weight").astype(float) - store.column("log_likelihood").astype(float)
        assert excess.max() <= math.log(1 / 0.2) + 1e-9

    def test_share_of_prior_draws(self, tmp_path: Path) -> None:
        network = gum_network()
        run(tmp_path / "post", network, num_draws=3000, defensive=0.25)
        assert network.sessions[0].num_scored == pytest.approx(750, abs=5 * math.sqrt(3000 * 0.25 * 0.75))
        assert sum(network.sessions[0].calls) == 3000 - network.sessions[0].num_scored

    def test_where_the_prior_proposes_it_cancels(self, tmp_path: Path) -> None:
        store = run(tmp_path / "post", RuleProvider(gum, {"x"}, lambda *_: None)).store
        difference = store.column("log_weight").astype(float) - store.column("log_likelihood").astype(float)
        np.testing.assert_allclose(difference, 0.0, atol=1e-12)

    def test_uncontrolled_draws_cancel(self, tmp_path: Path) -> None:
        @simulator
        def noisy() -> None:
            x = sample(Normal(0.0, 1.0), name="x")
            noise = sample(Normal(0.0, 1.0), control=False)
            observe(Normal(x + noise, 1.0), name="y")

        network = RuleProvider(noisy, {"x"}, lambda *_: Normal(0.5, 1.0))
        for trace in ic(noisy, {"y": 1.0}, tmp_path / "post", network=network, num_draws=50, defensive=0.0).store:
            expected = trace.log_likelihood + trace.log_probs[0] - Normal(0.5, 1.0).log_prob(trace["x"])
            assert trace.log_weight == pytest.approx(expected)

    def test_a_value_outside_the_prior_has_weight_zero(self, tmp_path: Path) -> None:
        @simulator
        def bounded() -> None:
            observe(Normal(sample(Uniform(0.0, 1.0), name="x"), 1.0), name="y")

        network = RuleProvider(bounded, {"x"}, lambda *_: Normal(0.5, 1.0))
        store = ic(bounded, {"y": 0.3}, tmp_path / "post", network=network, num_draws=200, defensive=0.1).store
        outside = store.column("log_prior") == -np.inf
        assert 50 < outside.sum() < 180
        assert (store.column("log_weight")[outside] == -np.inf).all()
        assert np.isfinite(store.column("log_weight")[~outside].astype(float)).all()


class TestScheduling:
    @staticmethod
    def geometric_network() -> RuleProvider:
        return RuleProvider(geometric, {"x"}, lambda *_: Bernoulli(0.3))

    def test_many_runs_share_a_call(self, tmp_path: Path) -> None:
        network = self.geometric_network()
        ic(geometric, {"obs": 3.0}, tmp_path / "post", network=network, num_draws=512, num_slots=16, seed=2)
        calls = network.sessions[0].calls
        assert max(calls) == 16
        assert np.mean(calls) > 9

    def test_repeats_are_equal_whatever_the_workers(self, tmp_path: Path) -> None:
        one, two = (
            ic(
                geometric, {"obs": 3.0}, tmp_path / str(workers), network=self.geometric_network(),
                num_draws=300, num_slots=8, seed=3, workers=workers,
            )
            for workers in (1, 2)
        )  # fmt: skip
        np.testing.assert_array_equal(one.values("result").values, two.values("result").values)
        np.testing.assert_array_equal(np.sort(one.log_weights), np.sort(two.log_weights))

    def test_a_simulator_that_is_not_reentrant_runs_one_by_one(self, tmp_path: Path) -> None:
        lonely = Simulator(gum.function, name=gum.name)
        network = RuleProvider(lonely, {"x"}, near_the_posterior)
        ic(lonely, OBSERVED, tmp_path / "post", network=network, num_draws=60, num_slots=8, seed=4)
        assert set(network.sessions[0].calls) == {1}


class TestFailures:
    def test_are_recorded_whoever_proposed(self, tmp_path: Path) -> None:
        @simulator(reentrant=True)
        def fragile() -> None:
            x = sample(Normal(0.0, 1.0), name="x")
            if x > 0.5:
                message = "too far"
                raise ValueError(message)
            observe(Normal(x, 1.0), name="y")

        network = RuleProvider(fragile, {"x"}, lambda *_: Normal(0.0, 1.0))
        posterior = ic(fragile, {"y": 0.0}, tmp_path / "post", network=network, num_draws=400, defensive=0.5, seed=5)
        assert posterior.num_failed == pytest.approx(400 * 0.309, abs=45)
        failed = posterior.store.column("status") != 0
        assert (posterior.store.column("log_weight")[failed] == -np.inf).all()

    def test_a_proposal_that_cannot_score_its_draw_is_an_error(self, tmp_path: Path) -> None:
        class Broken(Normal):
            __slots__ = ()

            def log_prob(self, value: object) -> float:
                return math.nan

        with pytest.raises(InferenceError, match=r"Normal at .* gives its own draw .* the log density nan"):
            run(tmp_path / "post", RuleProvider(gum, {"x"}, lambda *_: Broken(0.0, 1.0)))


class TestRefusals:
    @pytest.mark.parametrize("defensive", [-0.1, 1.1, math.nan])
    def test_share(self, tmp_path: Path, defensive: float) -> None:
        with pytest.raises(InvalidInputError, match="`defensive` must be between 0 and 1"):
            run(tmp_path / "post", gum_network(), defensive=defensive)

    def test_network_of_another_simulator(self, tmp_path: Path) -> None:
        network = RuleProvider(geometric, {"geometric:something"}, lambda *_: None)
        with pytest.raises(InvalidInputError, match=r"geometric.*does not fit.*gum"):
            run(tmp_path / "post", network)
        assert not (tmp_path / "post").exists()

    def test_another_network_on_the_same_path(self, tmp_path: Path) -> None:
        run(tmp_path / "post", gum_network(seed="1"))
        run(tmp_path / "post", gum_network(seed="1"))
        with pytest.raises(StoreExistsError, match="`network`"):
            run(tmp_path / "post", gum_network(seed="2"))
