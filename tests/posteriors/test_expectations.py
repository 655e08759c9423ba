"""Expectations of functions of traces and of columns, joint tables, and modes by name."""

import math
from pathlib import Path

import numpy as np
import pytest

from tests.posteriors.programs import mixed
from tracestore.errors import InvalidInputError, UnknownAddressError
from tracestore.inference import Posterior, RMHConfig, importance, rmh
from tracestore.posteriors import draw_table, expectations

OBSERVED = {"y": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("expectations")


@pytest.fixture(scope="module")
def weighted(folder: Path) -> Posterior:
    return importance(mixed, OBSERVED, folder / "is", num_draws=1200, seed=1)


@pytest.fixture(scope="module")
def chained(folder: Path) -> Posterior:
    return rmh(mixed, OBSERVED, folder / "rmh", num_draws=1200, chains=2, seed=1, config=RMHConfig(warmup=200))


@pytest.fixture(scope="module")
def reweighted(chained: Posterior) -> Posterior:
    return chained.reweight(chained.values("x").values)


@pytest.fixture(params=["weighted", "chained", "reweighted"])
def posterior(request: pytest.FixtureRequest) -> Posterior:
    return request.getfixturevalue(request.param)


class TestOfTraces:
    def test_is_the_mean_of_a_variable(self, posterior: Posterior) -> None:
        found = posterior.expectation(lambda trace: trace["x"])
        assert found.value == pytest.approx(posterior.mean("x"))
        assert found.mcse == pytest.approx(posterior.mcse("x"), rel=1e-6)

    def test_of_an_array(self, posterior: Posterior) -> None:
        found = posterior.expectation(lambda trace: trace["place"])
        np.testing.assert_allclose(found.value, posterior.mean("place"))
        np.testing.assert_allclose(found.mcse, posterior.mcse("place"), rtol=1e-6)

    def test_of_a_truth_is_a_probability(self, posterior: Posterior) -> None:
        assert posterior.expectation(lambda trace: "shift" in trace).value == pytest.approx(posterior.presence("shift"))

    def test_far_from_zero_keeps_its_error(self, weighted: Posterior) -> None:
        far = weighted.expectation(lambda trace: 1e9 + trace["x"])
        assert far.mcse == pytest.approx(weighted.mcse("x"), rel=1e-4)

    def test_reads_a_part_at_a_time(self, weighted: Posterior, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = weighted.expectation(lambda trace: trace["x"])
        monkeypatch.setattr(draw_table, "_MOST_READ", 100)
        sizes = [len(batch) for _, batch in weighted.table.batches()]
        assert max(sizes) == 100
        assert weighted.expectation(lambda trace: trace["x"]).value == pytest.approx(whole.value)

    def test_different_shapes(self, posterior: Posterior) -> None:
        with pytest.raises(InvalidInputError, match="must return one shape for all traces"):
            posterior.expectation(lambda trace: np.zeros(1 + ("shift" in trace)))

    def test_too_many_numbers_of_chains(self, chained: Posterior, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(expectations, "_MOST_KEPT", 1000)
        with pytest.raises(InvalidInputError, match=r"1200 draws of shape \(2,\) are too many to keep"):
            chained.expectation(lambda trace: trace["place"])


class TestOfColumns:
    def test_is_the_mean_over_draws_that_have_all(self, posterior: Posterior) -> None:
        found = posterior.expectation(lambda shift, x: shift * x, ["shift", "x"])
        kept = posterior.condition({"extra": 1})
        by_trace = kept.expectation(lambda trace: trace["shift"] * trace["x"])
        assert found.value == pytest.approx(by_trace.value)
        assert found.mcse == pytest.approx(by_trace.mcse, rel=1e-6)

    def test_one_row_a_draw(self, weighted: Posterior) -> None:
        with pytest.raises(
            InvalidInputError, match=r"of 'x' must return one row for each of 1200 draws; got shape \(\)"
        ):
            weighted.expectation(np.sum, ["x"])


class TestJoint:
    def test_rows_are_the_same_draws(self, posterior: Posterior) -> None:
        table = posterior.joint(["shift", "moved", "place", "result"])
        assert len(table) == len(posterior.values("shift").values)
        np.testing.assert_allclose(table["moved"][:, 0] - table["place"][:, 0], table["result"])
        assert table.presence == pytest.approx(posterior.presence("shift"))
        np.testing.assert_array_equal(table.draw, posterior.values("shift").draw)

    def test_labels_name_the_columns_of_the_matrix(self, weighted: Posterior) -> None:
        table = weighted.joint(["x", "place"])
        assert table.labels == ("x", "place[0]", "place[1]")
        np.testing.assert_array_equal(table.matrix[:, 2], table["place"][:, 1])

    def test_covariance_is_that_of_the_weighted_draws(self, weighted: Posterior) -> None:
        found = weighted.covariance(["x", "place"])
        matrix = weighted.joint(["x", "place"]).matrix
        np.testing.assert_allclose(found, np.cov(matrix.T, aweights=weighted.weights, ddof=0))
        assert found[0, 0] == pytest.approx(weighted.var("x"))

    def test_correlation(self, posterior: Posterior) -> None:
        found = posterior.correlation(["x", "result", "three"])
        np.testing.assert_allclose(np.diag(found)[:2], 1.0)
        assert found[0, 1] > 0.9
        assert np.isnan(found[2]).all()

    def test_of_draws_that_exclude_each_other(self, weighted: Posterior) -> None:
        with pytest.raises(UnknownAddressError, match="No draw has 'shift'"):
            weighted.condition({"extra": 0}).joint(["x", "shift"])

    @pytest.mark.parametrize("names", ["x", [], ["x", "x"]], ids=["text", "none", "twice"])
    def test_names_must_be_a_list(self, weighted: Posterior, names: list[str]) -> None:
        with pytest.raises(InvalidInputError, match="must be a list of different names"):
            weighted.joint(names)


class TestByName:
    def test_median_is_the_quantile(self, posterior: Posterior) -> None:
        assert posterior.median("x") == posterior.quantile("x", 0.5)

    def test_mode_of_a_discrete_draw(self, posterior: Posterior) -> None:
        assert posterior.mode("extra") == 0.0

    def test_mode_of_a_continuous_one(self, posterior: Posterior) -> None:
        assert abs(float(posterior.mode("x")) - float(posterior.mean("x"))) < 0.5
        assert np.shape(posterior.mode("place")) == (2,)

    def test_skewness_and_kurtosis_of_a_normal_are_small(self, weighted: Posterior) -> None:
        assert abs(float(weighted.skewness("x"))) < 0.3
        assert abs(float(weighted.kurtosis("x"))) < 0.6
        assert math.isnan(float(weighted.skewness("three")))
