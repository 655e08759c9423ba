"""Views of draws: which rows, which weights, which evidence."""

import math
from pathlib import Path

import numpy as np
import pytest

from tests.posteriors.programs import mixed
from tracestore.diagnostics import chains as diagnostics
from tracestore.errors import DegenerateWeightsError, DiagnosticError, InvalidInputError, UnknownAddressError
from tracestore.inference import Posterior, RMHConfig, importance, rmh
from tracestore.posteriors.variable import by_chain

OBSERVED = {"y": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("views")


@pytest.fixture(scope="module")
def weighted(folder: Path) -> Posterior:
    return importance(mixed, OBSERVED, folder / "is", num_draws=1500, seed=1)


@pytest.fixture(scope="module")
def chained(folder: Path) -> Posterior:
    return rmh(mixed, OBSERVED, folder / "rmh", num_draws=2000, chains=2, seed=1, config=RMHConfig(warmup=200))


@pytest.fixture(params=["weighted", "chained"])
def posterior(request: pytest.FixtureRequest) -> Posterior:
    return request.getfixturevalue(request.param)


class TestThin:
    def test_keeps_every_nth_draw_of_each_chain(self, posterior: Posterior) -> None:
        whole, thinned = posterior.values("x"), posterior.thin(7).values("x")
        keep = np.concatenate([np.flatnonzero(whole.chain == chain)[::7] for chain in np.unique(whole.chain)])
        np.testing.assert_array_equal(thinned.values, whole.values[keep])
        np.testing.assert_array_equal(thinned.draw, whole.draw[keep])
        assert thinned.weights.sum() == pytest.approx(1.0)

    def test_of_a_thinned_one_is_the_product(self, posterior: Posterior) -> None:
        twice, once = posterior.thin(3).thin(2), posterior.thin(6)
        np.testing.assert_array_equal(twice.values("shift").values, once.values("shift").values)

    def test_keeps_the_evidence(self, weighted: Posterior) -> None:
        thinned = weighted.thin(2)
        expected = math.log(np.exp(weighted.log_weights[::2]).mean())
        assert thinned.log_evidence == pytest.approx(expected)
        assert thinned.log_evidence_se > weighted.log_evidence_se

    def test_refuses_zero(self, weighted: Posterior) -> None:
        with pytest.raises(InvalidInputError, match="`every` must be at least 1; got 0"):
            weighted.thin(0)

    def test_leaves_the_posterior_as_it_was(self, posterior: Posterior) -> None:
        before = posterior.mean("x"), len(posterior)
        posterior.thin(5).mean("x")
        assert (posterior.mean("x"), len(posterior)) == before


class TestDiscard:
    def test_leaves_out_the_start_of_each_chain(self, chained: Posterior) -> None:
        later = chained.discard(400)
        assert len(later) == 1200
        draws = later.values("x")
        assert draws.draw[draws.chain == 1].min() == 400
        assert later.rhat("x") == diagnostics.rhat(
            by_chain(chained.values("x").values, chained.values("x").chain)[:, 400:]
        )

    def test_leaves_something(self, chained: Posterior) -> None:
        with pytest.raises(InvalidInputError, match="must be from 0 to 999"):
            chained.discard(1000)

    def test_weighted_draws_have_no_beginning(self, weighted: Posterior) -> None:
        with pytest.raises(DiagnosticError, match="Only Markov chains have a beginning to discard"):
            weighted.discard(10)


class TestCondition:
    def test_on_a_value(self, posterior: Posterior) -> None:
        kept = posterior.condition({"extra": 1})
        assert kept.presence("shift") == pytest.approx(1.0)
        assert kept.mean("shift") == pytest.approx(posterior.mean("shift"))

    def test_on_a_range_includes_both_ends(self, posterior: Posterior) -> None:
        values = np.sort(np.unique(posterior.values("x").values))
        kept = posterior.condition({"x": (float(values[3]), float(values[90]))})
        assert np.unique(kept.values("x").values).tolist() == values[3:91].tolist()

    def test_on_an_open_range(self, posterior: Posterior) -> None:
        assert posterior.condition({"x": (None, 0.0)}).quantile("x", 1.0) <= 0.0

    def test_on_an_array(self, posterior: Posterior) -> None:
        wanted = posterior.values("place").values[10]
        assert np.array_equal(posterior.condition({"place": wanted}).values("place").values[0], wanted)

    def test_on_a_function_of_values(self, posterior: Posterior) -> None:
        kept = posterior.condition({"place": lambda place: place[:, 0] > 0.0, "x": (0.0, None)})
        assert kept.values("place").values[:, 0].min() > 0.0
        assert kept.values("x").values.min() >= 0.0

    def test_on_a_function_of_a_trace_is_the_same(self, posterior: Posterior) -> None:
        by_name = posterior.condition({"shift": (0.0, None)})
        by_trace = posterior.condition(lambda trace: "shift" in trace and trace["shift"] >= 0.0)
        np.testing.assert_array_equal(by_trace.values("x").values, by_name.values("x").values)

    def test_draws_without_the_name_do_not_meet_it(self, posterior: Posterior) -> None:
        assert posterior.condition({"shift": lambda shift: shift < 10.0}).mean("extra") == pytest.approx(1.0)

    def test_evidence_is_that_of_observation_and_condition(self, weighted: Posterior) -> None:
        kept, rest = weighted.condition({"extra": 1}), weighted.condition({"extra": 0})
        assert np.logaddexp(kept.log_evidence, rest.log_evidence) == pytest.approx(weighted.log_evidence)
        together = np.where(weighted.values("extra").values == 1, weighted.log_weights, -np.inf)
        mean = np.exp(together).mean()
        assert kept.log_evidence == pytest.approx(math.log(mean))
        error = np.exp(together).std() / math.sqrt(len(together)) / mean
        assert kept.log_evidence_se == pytest.approx(error)

    def test_thinned_afterwards_keeps_the_evidence(self, weighted: Posterior) -> None:
        kept = weighted.condition({"extra": 0})
        assert abs(kept.thin(2).log_evidence - kept.log_evidence) < 4 * kept.thin(2).log_evidence_se

    def test_names_are_those_of_the_kept_draws(self, posterior: Posterior) -> None:
        kept = posterior.condition({"extra": 0})
        assert "shift" not in kept.names
        assert "shift" not in {row.name for row in kept.summary()}
        with pytest.raises(UnknownAddressError, match="No draw has 'shift'"):
            kept.mean("shift")

    def test_that_no_draw_meets(self, posterior: Posterior) -> None:
        with pytest.raises(DegenerateWeightsError, match="meets the condition"):
            posterior.condition({"x": (100.0, None)})

    def test_of_a_wrong_shape(self, posterior: Posterior) -> None:
        with pytest.raises(
            InvalidInputError, match=r"'place' has shape \(2,\); the value to condition on has shape \(\)"
        ):
            posterior.condition({"place": 1.0})

    def test_range_of_a_vector(self, posterior: Posterior) -> None:
        with pytest.raises(InvalidInputError, match=r"A tuple stands for a range \(low, high\) of a scalar"):
            posterior.condition({"place": (0.0, 1.0)})

    def test_function_that_returns_numbers(self, posterior: Posterior) -> None:
        with pytest.raises(InvalidInputError, match="must return one True or False for each"):
            posterior.condition({"x": lambda x: x})

    def test_function_that_raises_names_the_draw(self, weighted: Posterior) -> None:
        with pytest.raises(UnknownAddressError) as caught:
            weighted.condition(lambda trace: trace["shift"] > 0.0)
        assert "in a function of a trace, for draw" in caught.value.__notes__[0]


class TestReweight:
    def test_by_an_array(self, weighted: Posterior) -> None:
        x = weighted.values("x").values
        other = weighted.reweight(x)
        weights = np.exp(weighted.log_weights + x)
        assert other.mean("x") == pytest.approx(float(weights @ x / weights.sum()))
        assert other.log_evidence == pytest.approx(math.log(weights.mean()))

    def test_by_a_function_of_a_trace(self, posterior: Posterior) -> None:
        by_array = posterior.reweight(0.5 * posterior.values("x").values)
        by_trace = posterior.reweight(lambda trace: 0.5 * trace["x"])
        np.testing.assert_allclose(by_trace.log_weights, by_array.log_weights)

    def test_moves_the_posterior_where_it_must_be(self, chained: Posterior) -> None:
        # another prior Normal(1, 1) for x: with y = 1 the posterior of x without the shift is Normal(1, 1/2)
        other = chained.condition({"extra": 0}).reweight(lambda trace: trace["x"] - 0.5)
        assert abs(float(other.mean("x")) - 1.0) < 4 * float(other.mcse("x"))

    def test_twice_multiplies(self, weighted: Posterior) -> None:
        factor = weighted.values("x").values
        np.testing.assert_allclose(
            weighted.reweight(factor).reweight(factor).log_weights, weighted.reweight(2 * factor).log_weights
        )

    def test_survives_other_views(self, posterior: Posterior) -> None:
        factor = posterior.values("x").values
        np.testing.assert_array_equal(
            posterior.reweight(factor).thin(3).log_weights,
            posterior.thin(3).reweight(factor[_thinned(posterior)]).log_weights,
        )

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_by_nothing_to_multiply_with(self, weighted: Posterior, bad: float) -> None:
        factor = np.zeros(len(weighted))
        factor[5] = bad
        with pytest.raises(InvalidInputError, match="the first for draw 5"):
            weighted.reweight(factor)

    def test_by_too_few_numbers(self, weighted: Posterior) -> None:
        with pytest.raises(InvalidInputError, match=r"for each of the 1500 draws; got shape \(3,\)"):
            weighted.reweight(np.zeros(3))


class TestReweightedChains:
    @pytest.fixture
    def reweighted(self, chained: Posterior) -> Posterior:
        return chained.reweight(lambda trace: trace["x"])

    def test_are_weighted(self, reweighted: Posterior) -> None:
        assert reweighted.is_weighted
        assert reweighted.khat < 0.7
        assert "ESS" in repr(reweighted)

    def test_have_no_rhat(self, reweighted: Posterior) -> None:
        with pytest.raises(DiagnosticError, match="these are reweighted chains of the engine 'rmh'"):
            reweighted.rhat("x")

    def test_have_no_evidence(self, reweighted: Posterior) -> None:
        with pytest.raises(DiagnosticError, match="do not estimate the evidence"):
            _ = reweighted.log_evidence

    def test_remember_the_acceptance_of_the_run(self, chained: Posterior, reweighted: Posterior) -> None:
        assert reweighted.acceptance == chained.acceptance

    def test_equal_weights_change_no_error(self, chained: Posterior) -> None:
        same = chained.reweight(np.full(len(chained), 2.0))
        assert same.mean("x") == pytest.approx(chained.mean("x"))
        assert same.mcse("x") == pytest.approx(chained.mcse("x"), rel=1e-3)
        assert same.ess_of("x") == pytest.approx(diagnostics.ess(_matrix(chained), method="mean"), rel=1e-3)

    def test_weights_cost_precision(self, chained: Posterior, reweighted: Posterior) -> None:
        assert reweighted.ess < chained.ess_of("x")
        (row,) = reweighted.summary(["x"])
        assert row.rhat is None
        assert row.mcse == pytest.approx(reweighted.mcse("x"))
        assert row.ess == pytest.approx(reweighted.ess_of("x"))


def _matrix(posterior: Posterior) -> np.ndarray:
    return by_chain(posterior.values("x").values, posterior.values("x").chain)


def _thinned(posterior: Posterior) -> np.ndarray:
    draws = posterior.values("x")
    return np.concatenate([np.flatnonzero(draws.chain == chain)[::3] for chain in np.unique(draws.chain)])
