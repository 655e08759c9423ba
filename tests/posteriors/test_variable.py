"""One variable: moments and diagnostics of weighted draws and of chains."""

import math

import numpy as np
import pytest

from tracestore.diagnostics import chains as diagnostics
from tracestore.errors import DegenerateWeightsError, DiagnosticError, InvalidInputError
from tracestore.posteriors.summary import Summary
from tracestore.posteriors.variable import Draws, Variable, by_chain


def weighted(values: object, weights: list[float]) -> Variable:
    count = len(weights)
    draws = Draws(np.asarray(values), np.asarray(weights), np.zeros(count, np.int64), np.arange(count))
    return Variable("x", draws, has_chains=False)


def chains(values: np.ndarray, presence: float = 1.0) -> Variable:
    """Draws of shape ``(chains, draws, *shape)``."""
    count = values.shape[0] * values.shape[1]
    draws = Draws(
        values.reshape(count, *values.shape[2:]),
        np.full(count, presence / count),
        np.repeat(np.arange(values.shape[0]), values.shape[1]),
        np.tile(np.arange(values.shape[1]), values.shape[0]),
    )
    return Variable("x", draws, has_chains=True)


class TestMoments:
    def test_are_those_of_the_weighted_draws(self) -> None:
        x = weighted([1.0, 2.0, 4.0], [0.5, 0.25, 0.25])
        assert x.mean() == 2.0
        assert x.var() == 1.5
        assert x.std() == math.sqrt(1.5)
        assert x.quantile(0.5) == 1.0
        np.testing.assert_array_equal(x.quantile([0.0, 0.6, 1.0]), [1.0, 2.0, 4.0])

    def test_are_given_that_the_variable_is_present(self) -> None:
        x = weighted([1.0, 3.0], [0.1, 0.3])
        assert x.presence == pytest.approx(0.4)
        assert x.mean() == pytest.approx(2.5)

    def test_of_vectors_keep_the_shape(self) -> None:
        x = weighted([[[1.0, 2.0]], [[3.0, 6.0]]], [0.5, 0.5])
        np.testing.assert_array_equal(x.mean(), [[2.0, 4.0]])
        assert np.shape(x.quantile([0.1, 0.5, 0.9])) == (3, 1, 2)
        assert np.shape(x.mcse()) == (1, 2)

    def test_without_weight_do_not_exist(self) -> None:
        with pytest.raises(DegenerateWeightsError, match="'x' is present only in draws of weight zero"):
            weighted([1.0], [0.0]).mean()

    def test_draws_without_weight_do_not_count(self) -> None:
        x = weighted([2.0, np.nan, 2.0], [0.5, 0.0, 0.5])
        assert x.mean() == 2.0
        assert x.is_constant()

    @pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
    def test_impossible_probabilities(self, probability: float) -> None:
        with pytest.raises(InvalidInputError, match="between 0 and 1"):
            weighted([1.0, 2.0], [0.5, 0.5]).quantile(probability)


class TestDistributions:
    def test_probabilities_sum_to_one(self) -> None:
        found = weighted([3, 1, 3], [0.2, 0.2, 0.1]).probabilities()
        assert found == pytest.approx({1: 0.4, 3: 0.6})
        assert list(found) == [1, 3]

    @pytest.mark.parametrize("values", [[1.5, 2.0], [[1, 2], [3, 4]]], ids=["fraction", "vector"])
    def test_probabilities_need_whole_numbers(self, values: object) -> None:
        with pytest.raises(InvalidInputError, match="no scalar of whole numbers"):
            weighted(values, [0.5, 0.5]).probabilities()

    def test_histogram_is_a_density(self) -> None:
        density, edges = weighted([0.0, 1.0, 50.0], [0.25, 0.75, 0.0]).histogram(4)
        assert (edges[0], edges[-1]) == (0.0, 1.0)
        assert float(density @ np.diff(edges)) == pytest.approx(1.0)
        assert density[-1] == 3 * density[0]

    def test_histogram_of_a_vector(self) -> None:
        with pytest.raises(InvalidInputError, match=r"shape \(2,\)"):
            weighted([[1, 2], [3, 4]], [0.5, 0.5]).histogram(4)


class TestChains:
    def test_diagnostics_see_the_chains(self) -> None:
        values = np.random.default_rng(1).normal(size=(4, 200))
        x = chains(values)
        assert x.rhat() == diagnostics.rhat(values)
        assert x.ess() == diagnostics.ess(values)
        assert x.mcse() == diagnostics.mcse(values)

    def test_vectors_element_by_element(self) -> None:
        values = np.random.default_rng(2).normal(size=(3, 50, 2))
        found = chains(values).rhat()
        assert np.shape(found) == (2,)
        assert found[1] == diagnostics.rhat(values[:, :, 1])  # type: ignore[index]

    def test_uneven_chains_are_cut_to_the_shortest(self) -> None:
        column, chain = np.arange(9.0), np.array([0, 0, 0, 0, 2, 2, 2, 5, 5])
        np.testing.assert_array_equal(by_chain(column, chain), [[0, 1], [4, 5], [7, 8]])

    def test_too_few_draws_name_the_variable(self) -> None:
        with pytest.raises(DiagnosticError) as caught:
            chains(np.zeros((2, 3))).rhat()
        assert "for the variable 'x'" in caught.value.__notes__


class TestReweightedChains:
    def test_errors_are_those_of_many_runs(self) -> None:
        # AR(1) chains of unit variance, weighted by exp(x): the weighted mean is 1
        rng = np.random.default_rng(11)
        steps = rng.normal(size=(400, 2, 600)) * math.sqrt(1.0 - 0.7**2)
        steps[:, :, 0] /= math.sqrt(1.0 - 0.7**2)
        for place in range(1, 600):
            steps[:, :, place] += 0.7 * steps[:, :, place - 1]
        means, errors = [], []
        for run in steps:
            flat = run.ravel()
            weights = np.exp(flat)
            draws = Draws(flat, weights / weights.sum(), np.repeat([0, 1], 600), np.tile(np.arange(600), 2))
            variable = Variable("x", draws, has_chains=True, is_reweighted=True)
            means.append(float(variable.mean()))
            errors.append(float(variable.mcse()))
        assert np.mean(means) == pytest.approx(1.0, abs=0.03)
        assert np.mean(errors) == pytest.approx(float(np.std(means)), rel=0.2)

    def test_size_is_that_of_the_error(self) -> None:
        values = np.random.default_rng(12).normal(size=(2, 500))
        plain = chains(values)
        x = Variable("x", plain.draws, has_chains=True, is_reweighted=True)
        assert x.mcse() == pytest.approx(plain.mcse(), rel=1e-2)
        assert x.ess() == pytest.approx(float(x.var()) / float(x.mcse()) ** 2)
        assert x.finite_sizes() == [x.ess()]


class TestSummary:
    def test_constant_variables_say_so(self) -> None:
        (row,) = chains(np.full((2, 50), 7.0)).summary_rows([0.5])
        assert (row.ess, row.mcse, row.rhat) == (None, None, None)
        assert row.note == "constant"

    def test_rare_variables_say_so(self) -> None:
        (row,) = chains(np.random.default_rng(3).normal(size=(2, 50)), presence=0.035).summary_rows([0.5])
        assert row.note == "present in 3.5 % of the posterior"

    def test_variables_too_rare_to_judge_say_so(self) -> None:
        (row,) = chains(np.array([[1.0, 2.0], [3.0, 4.0]]), presence=0.01).summary_rows([0.5])
        assert "present in 1 % of the posterior; chain diagnostics need draws" in row.note

    def test_weighted_variables_have_no_rhat(self) -> None:
        (row,) = weighted([1.0, 2.0], [0.5, 0.5]).summary_rows([0.5])
        assert row.rhat is None
        assert row.ess == pytest.approx(2.0)

    def test_elements_of_vectors_have_a_row_each(self) -> None:
        rows = chains(np.random.default_rng(4).normal(size=(2, 20, 2, 2))).summary_rows([0.1, 0.9])
        assert [row.name for row in rows] == ["x[0, 0]", "x[0, 1]", "x[1, 0]", "x[1, 1]"]
        assert all(len(row.quantiles) == 2 for row in rows)

    def test_prints_as_a_table(self) -> None:
        rows = chains(np.random.default_rng(5).normal(size=(2, 20))).summary_rows([0.05, 0.95])
        table = str(Summary(rows, [0.05, 0.95])).splitlines()
        assert table[0].split() == ["mean", "sd", "5%", "95%", "ess", "mcse", "rhat", "note"]
        assert len(table) == 2
        assert table[1].startswith("x ")
        assert "nan" not in table[1]
