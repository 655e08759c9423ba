"""Draws as a tree of xarray datasets that ArviZ takes."""
# a member of a tree is a group or an array, and the test knows which
# mypy: disable-error-code="index, arg-type, operator, union-attr"

import math
from pathlib import Path

import numpy as np
import pytest

from tests.posteriors.programs import conditioned, mixed, windows, write
from tracestore.diagnostics import chains as diagnostics
from tracestore.errors import InvalidInputError
from tracestore.inference import Posterior, RMHConfig, importance, prior, rmh
from tracestore.traces.trace import TraceStatus

xarray = pytest.importorskip("xarray")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trees")


@pytest.fixture(scope="module")
def weighted(folder: Path) -> Posterior:
    return importance(mixed, {"y": 1.0}, folder / "is", num_draws=500, seed=1)


@pytest.fixture(scope="module")
def chained(folder: Path) -> Posterior:
    return rmh(mixed, {"y": 1.0}, folder / "rmh", num_draws=600, chains=2, seed=1, config=RMHConfig(warmup=100))


class TestChains:
    def test_draws_stand_in_their_chain(self, chained: Posterior) -> None:
        tree = chained.to_datatree()
        assert dict(tree["posterior"].sizes) == {"chain": 2, "draw": 300, "place_dim_0": 2, "moved_dim_0": 2}
        assert tree["posterior/place"].dims == ("chain", "draw", "place_dim_0")
        draws = chained.values("x")
        np.testing.assert_array_equal(tree["posterior/x"].values[1], draws.values[draws.chain == 1])
        assert tree["posterior"].coords["draw"].values.tolist() == list(range(300))

    def test_rare_variables_have_values_and_presence(self, chained: Posterior) -> None:
        group = chained.to_datatree()["posterior"]
        np.testing.assert_array_equal(np.isnan(group["shift"].values), group["shift__present"].values == 0)
        assert int(group["shift__present"].sum()) == len(chained.values("shift").values)
        assert "x__present" not in group

    def test_statistics(self, chained: Posterior) -> None:
        stats = chained.to_datatree()["sample_stats"]
        assert {"lp", "log_prior", "log_likelihood_total", "accepted", "trace_type", "trace_length", "trace_id"} <= set(
            stats
        )
        assert "log_weight" not in stats
        trace = chained.store[int(stats["trace_id"].values[1, 17])]
        assert stats["lp"].values[1, 17] == trace.log_joint
        assert stats["trace_length"].values[1, 17] == len(trace)
        assert stats["trace_type"].values[1, 17] == trace.layout.trace_type
        assert (trace.chain, trace.draw) == (1, 17)

    def test_attributes_and_observations(self, chained: Posterior) -> None:
        tree = chained.to_datatree()
        for group in ("posterior", "sample_stats", "observed_data"):
            attributes = tree[group].attrs
            assert {"created_at", "inference_library", "inference_library_version", "sampling_time"} <= set(attributes)
            assert attributes["is_weighted"] == 0
        assert float(tree["observed_data/y"]) == 1.0

    def test_of_different_lengths(self, chained: Posterior) -> None:
        kept = chained.condition({"x": (0.0, None)})
        with pytest.raises(InvalidInputError, match="The chains have different lengths"):
            kept.to_datatree()
        assert kept.to_datatree(resample="stratified", num_draws=50)["posterior"].sizes["draw"] == 50

    def test_only_some_names(self, chained: Posterior) -> None:
        assert list(chained.to_datatree(["three"])["posterior"].data_vars) == ["three"]


class TestWeighted:
    def test_weights_are_with_the_draws(self, weighted: Posterior) -> None:
        tree = weighted.to_datatree()
        assert tree["posterior"].attrs["is_weighted"] == 1
        np.testing.assert_array_equal(tree["sample_stats/log_weight"].values[0], weighted.log_weights)
        assert float(np.exp(tree["sample_stats/log_weight_psis"]).sum()) == pytest.approx(1.0)
        weights = np.exp(tree["sample_stats/log_weight"] - float(tree["sample_stats/log_weight"].max()))
        assert float((tree["posterior/x"] * weights).sum() / weights.sum()) == pytest.approx(weighted.mean("x"))
        assert tree["posterior"].attrs["log_evidence"] == weighted.log_evidence

    def test_stratified_draws_follow_the_weights(self, weighted: Posterior) -> None:
        tree = weighted.to_datatree(resample="stratified", num_draws=20_000, seed=3)
        assert tree["posterior"].attrs["is_resampled"] == 1
        assert tree["posterior"].attrs["is_weighted"] == 0
        assert float(tree["posterior/x"].mean()) == pytest.approx(weighted.mean("x"), abs=0.01)
        assert weighted.to_datatree(resample="stratified")["posterior"].sizes["draw"] == int(weighted.ess)

    def test_draws_without_replacement_do_not_repeat(self, weighted: Posterior) -> None:
        tree = weighted.to_datatree(resample="without_replacement", seed=3)
        ids = tree["sample_stats/trace_id"].values[0]
        assert len(np.unique(ids)) == len(ids) == int(weighted.ess / 10)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_draws": 3}, "`num_draws` belongs to `resample`"),
            ({"resample": "some"}, "must be None, 'stratified' or 'without_replacement'; got 'some'"),
            ({"resample": "stratified", "num_draws": 0}, "must be at least 1; got 0"),
            ({"resample": "without_replacement", "num_draws": 501}, "from 1 to 500, the draws that have weight"),
        ],
    )
    def test_refusals(self, weighted: Posterior, options: dict[str, object], message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            weighted.to_datatree(**options)

    def test_stores_of_one_size_are_chains_others_are_not(self, weighted: Posterior, folder: Path) -> None:
        alike = importance(mixed, {"y": 1.0}, folder / "is2", num_draws=500, seed=2)
        small = importance(mixed, {"y": 1.0}, folder / "is3", num_draws=100, seed=3)
        assert Posterior(weighted.store, alike.store).to_datatree()["posterior"].sizes["chain"] == 2
        tree = Posterior(weighted.store, small.store).to_datatree()
        assert dict(tree["posterior"]["x"].sizes) == {"chain": 1, "draw": 600}
        assert tree["sample_stats/store"].values[0, -1] == 1
        assert tree["sample_stats/trace_id"].values[0, -1] < 100

    def test_failed_runs_are_left_out_and_counted(self, tmp_path: Path) -> None:
        traces = conditioned(windows, {"seen": 2.5, "y": 2.0}, 40)
        traces[3].status, traces[3].failure, traces[3].log_weight = TraceStatus.FAILED, "it fell over", -math.inf
        tree = Posterior(write(tmp_path / "failed", traces, engine="is")).to_datatree()
        assert tree["posterior"].sizes["draw"] == 39
        assert tree["posterior"].attrs["num_failed"] == 1

    def test_reobserved_values_are_shown(self, weighted: Posterior) -> None:
        assert float(weighted.reobserve({"y": 0.5}).to_datatree()["observed_data/y"]) == 0.5

    def test_prior_draws_are_called_so(self, folder: Path) -> None:
        tree = prior(mixed, folder / "prior", num_draws=50, seed=1).to_datatree()
        assert list(tree.children) == ["prior", "sample_stats_prior"]


class TestArviz:
    def test_takes_the_tree(self, weighted: Posterior) -> None:
        arviz_base = pytest.importorskip("arviz_base")
        tree = weighted.to_datatree()
        options = {"weights": weighted.weights, "num_samples": 4000, "resampling_method": "multinomial"}
        draws = arviz_base.extract(tree, var_names=["x"], random_seed=1, **options)
        assert draws.sizes["sample"] == 4000
        assert float(draws.mean()) == pytest.approx(weighted.mean("x"), abs=0.04)
        table = arviz_base.dataset_to_dataframe(arviz_base.extract(tree, combined=False), sample_dims=["chain", "draw"])
        assert len(table) == 500

    def test_agrees_on_the_chains(self, chained: Posterior) -> None:
        arviz_stats = pytest.importorskip("arviz_stats.base").array_stats
        x = chained.to_datatree()["posterior/x"].values
        assert float(arviz_stats.rhat(x, chain_axis=0, draw_axis=1)) == pytest.approx(chained.rhat("x"), rel=1e-6)
        assert diagnostics.ess(x) == chained.ess_of("x")

    def test_summarizes_the_tree(self, chained: Posterior) -> None:
        pytest.importorskip("xarray_einstats")
        arviz_stats = pytest.importorskip("arviz_stats")
        table = arviz_stats.summary(chained.to_datatree(), var_names=["x", "shift__present"], round_to="none")
        assert float(table.loc["x", "r_hat"]) == pytest.approx(chained.rhat("x"), rel=1e-6)
        assert float(table.loc["shift__present", "mean"]) == pytest.approx(chained.presence("shift"))


def test_names_that_a_tree_refuses(tmp_path: Path) -> None:
    from tracestore.posteriors.datatree import to_datatree

    posterior = Posterior(write(tmp_path / "w", conditioned(windows, {"seen": 2.5, "y": 2.0}, 20), engine="is"))
    address = next(site.address for site in posterior.store[0].sites if site.name == "x")
    tree = to_datatree(posterior, [address])
    (name,) = tree["posterior"].data_vars
    assert name == address.replace("/", "_")
