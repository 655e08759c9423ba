"""Other observed values and other likelihoods, from recorded traces."""

import math
from pathlib import Path

import numpy as np
import pytest

from tests.posteriors.programs import conditioned, pixels, windows, write
from tracestore.errors import DegenerateWeightsError, InvalidInputError, UnknownAddressError
from tracestore.inference import Posterior, RMHConfig, importance, prior, rmh
from tracestore.simulators.toys import gum
from tracestore.traces.distributions import Normal, Uniform
from tracestore.traces.trace import TraceStatus

OLD = {"obs0": 8.0, "obs1": 9.0}
NEW = {"obs0": 7.0, "obs1": 8.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reobserved")


@pytest.fixture(scope="module")
def old(folder: Path) -> Posterior:
    return importance(gum, OLD, folder / "old", num_draws=600, seed=1)


class TestNewValues:
    def test_give_the_weights_that_a_run_would_give(self, old: Posterior, folder: Path) -> None:
        new = importance(gum, NEW, folder / "new", num_draws=600, seed=1)
        found = old.reobserve(NEW)
        np.testing.assert_allclose(found.log_weights, new.log_weights)
        assert found.log_evidence == pytest.approx(new.log_evidence)
        assert found.observations["obs0"] == 7.0

    def test_of_one_observe_leave_the_other(self, old: Posterior, folder: Path) -> None:
        new = importance(gum, {**OLD, "obs1": 8.5}, folder / "one", num_draws=600, seed=1)
        found = old.reobserve({"obs1": 8.5})
        np.testing.assert_allclose(found.log_weights, new.log_weights)
        assert {name: float(value) for name, value in found.observations.items()} == {"obs0": 8.0, "obs1": 8.5}

    def test_follow_a_factor(self, old: Posterior) -> None:
        factor = old.values("mu").values
        np.testing.assert_allclose(
            old.reweight(factor).reobserve(NEW).log_weights, old.reobserve(NEW).log_weights + factor
        )

    def test_of_a_view(self, old: Posterior) -> None:
        np.testing.assert_allclose(old.thin(4).reobserve(NEW).log_weights, old.reobserve(NEW).log_weights[::4])

    def test_revive_draws_that_were_impossible(self, folder: Path) -> None:
        before = importance(windows, {"seen": 3.5, "y": 2.0}, folder / "w1", num_draws=400, seed=1)
        after = importance(windows, {"seen": 1.5, "y": 2.0}, folder / "w2", num_draws=400, seed=1)
        assert not (np.isfinite(before.log_weights) & np.isfinite(after.log_weights)).any()
        np.testing.assert_allclose(before.reobserve({"seen": 1.5}).log_weights, after.log_weights)

    def test_keep_the_density_of_the_proposal(self, tmp_path: Path) -> None:
        traces = conditioned(windows, {"seen": 2.5, "y": 2.0}, 200)
        for trace in traces:
            trace.log_proposal = -1.0 - 0.01 * trace.draw
            trace.log_weight = trace.log_likelihood + trace.log_prior - trace.log_proposal
        posterior = Posterior(write(tmp_path / "ic", traces, engine="ic"))
        others = conditioned(windows, {"seen": 1.2, "y": 1.0}, 200)
        expected = [
            other.log_likelihood + trace.log_prior - trace.log_proposal
            for trace, other in zip(traces, others, strict=True)
        ]
        np.testing.assert_allclose(posterior.reobserve({"seen": 1.2, "y": 1.0}).log_weights, expected)

    def test_lost_factors_are_not_guessed(self, folder: Path) -> None:
        before = importance(windows, {"seen": 3.5, "y": 2.0}, folder / "w3", num_draws=100, seed=1)
        with pytest.raises(InvalidInputError, match="Reobserve first, then reweight"):
            before.reweight(np.ones(100)).reobserve({"seen": 1.5})

    def test_of_chains_weight_them(self, folder: Path) -> None:
        chained = rmh(gum, OLD, folder / "rmh", num_draws=4000, chains=2, seed=1, config=RMHConfig(warmup=200))
        found = chained.reobserve(NEW)
        exact = (1.0 / 5.0 + sum(NEW.values()) / 2.0) / (1.0 / 5.0 + 1.0)
        assert found.is_weighted
        assert abs(float(found.mean("mu")) - exact) < 4 * float(found.mcse("mu"))
        assert abs(float(chained.mean("mu")) - exact) > 10 * float(chained.mcse("mu"))

    def test_condition_draws_of_the_prior(self, folder: Path) -> None:
        found = prior(gum, folder / "prior", num_draws=3000, seed=1).reobserve(OLD)
        same = importance(gum, OLD, folder / "same", num_draws=3000, seed=2)
        error = math.hypot(found.log_evidence_se, same.log_evidence_se)
        assert abs(found.log_evidence - same.log_evidence) < 4 * error
        expected = [
            Normal(mu, math.sqrt(2.0)).log_prob(8.0) + Normal(mu, math.sqrt(2.0)).log_prob(9.0)
            for mu in found.values("mu").values[:20]
        ]
        np.testing.assert_allclose(found.log_weights[:20], expected)

    def test_leave_failed_runs_without_weight(self, tmp_path: Path) -> None:
        traces = conditioned(windows, {"seen": 2.5, "y": 2.0}, 50)
        traces[3].status, traces[3].failure, traces[3].log_weight = TraceStatus.FAILED, "it fell over", -math.inf
        posterior = Posterior(write(tmp_path / "failed", traces, engine="is"))
        value = float(traces[3]["x"]) + 0.5
        assert posterior.reobserve({"seen": value}).log_weights[3] == -math.inf


class TestNewLikelihoods:
    def test_score_the_recorded_value(self, old: Posterior) -> None:
        found = old.reobserve({}, {"obs0": lambda trace: Normal(trace["mu"], 1.0)})
        mu = old.values("mu").values
        expected = [Normal(m, 1.0).log_prob(8.0) + Normal(m, math.sqrt(2.0)).log_prob(9.0) for m in mu]
        np.testing.assert_allclose(found.log_weights, expected)

    def test_score_a_new_value(self, old: Posterior) -> None:
        found = old.reobserve({"obs0": 7.0}, {"obs0": lambda trace: Normal(trace["mu"], 1.0)})
        expected = [
            Normal(m, 1.0).log_prob(7.0) + Normal(m, math.sqrt(2.0)).log_prob(9.0) for m in old.values("mu").values
        ]
        np.testing.assert_allclose(found.log_weights, expected)

    def test_are_needed_where_traces_keep_none(self, folder: Path) -> None:
        image = np.linspace(-1.0, 1.0, 40)
        before = importance(pixels, {"image": np.zeros(40)}, folder / "p1", num_draws=50, seed=1)
        after = importance(pixels, {"image": image}, folder / "p2", num_draws=50, seed=1)
        with pytest.raises(InvalidInputError, match=r"more than 64 numbers.*`likelihoods=\{'image': function\}`"):
            before.reobserve({"image": image})
        found = before.reobserve(
            {"image": image}, {"image": lambda trace: Normal(np.full(40, trace["level"]), np.ones(40))}
        )
        np.testing.assert_allclose(found.log_weights, after.log_weights)

    def test_must_be_densities(self, old: Posterior) -> None:
        class Broken(Normal):
            def log_prob(self, value: object) -> float:
                return math.nan

        with pytest.raises(InvalidInputError, match=r"new log probability of 'obs0' is .*nan.* in 600 draws"):
            old.reobserve({}, {"obs0": lambda trace: Broken(0.0, 1.0)})


class TestRefusals:
    def test_unknown_observe(self, old: Posterior) -> None:
        with pytest.raises(UnknownAddressError, match=r"No draw has an observe 'obs9'; the observes are: obs0, obs1"):
            old.reobserve({"obs9": 1.0})

    def test_wrong_shape(self, old: Posterior) -> None:
        with pytest.raises(InvalidInputError, match=r"has shape \(2,\); the simulator observes shape \(\)"):
            old.reobserve({"obs0": [1.0, 2.0]})

    @pytest.mark.parametrize("value", [math.nan, "much"], ids=["nan", "text"])
    def test_no_number(self, old: Posterior, value: object) -> None:
        with pytest.raises(InvalidInputError, match="Observation 'obs0' must be"):
            old.reobserve({"obs0": value})  # type: ignore[dict-item]

    def test_nothing_to_change(self, old: Posterior) -> None:
        with pytest.raises(InvalidInputError, match="got neither"):
            old.reobserve({})

    def test_the_same_observe_twice(self, old: Posterior) -> None:
        with pytest.raises(InvalidInputError, match="'obs0' was reobserved before"):
            old.reobserve({"obs0": 7.0}).reobserve({"obs0": 6.0})

    def test_another_observe_afterwards(self, old: Posterior) -> None:
        step_by_step = old.reobserve({"obs0": 7.0}).reobserve({"obs1": 8.5})
        np.testing.assert_allclose(step_by_step.log_weights, old.reobserve(NEW).log_weights)

    def test_impossible_for_all(self, folder: Path) -> None:
        posterior = importance(windows, {"seen": 2.5, "y": 2.0}, folder / "w4", num_draws=50, seed=1)
        with pytest.raises(DegenerateWeightsError, match="All 50 draws have weight zero under the new observation"):
            posterior.reobserve({}, {"seen": lambda trace: Uniform(10.0, 11.0)})
