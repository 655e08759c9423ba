"""Draws as a data frame, and whole traces as an Awkward array."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.posteriors.programs import mixed
from tracestore.inference import Posterior, RMHConfig, importance, rmh


@pytest.fixture(scope="module")
def weighted(tmp_path_factory: pytest.TempPathFactory) -> Posterior:
    return importance(mixed, {"y": 1.0}, tmp_path_factory.mktemp("frames") / "is", num_draws=200, seed=1)


class TestPandas:
    @pytest.fixture(autouse=True)
    def _needs_pandas(self, import_or_skip: Callable[[str], ModuleType]) -> None:
        import_or_skip("tracestore.posteriors.data_frame")

    def test_one_row_a_draw(self, weighted: Posterior) -> None:
        frame = weighted.to_pandas()
        assert list(frame.columns[:3]) == ["weight", "log_weight", "x"]
        assert {"extra", "shift", "place[0]", "place[1]", "moved[1]", "three", "result"} <= set(frame.columns)
        assert frame.index.names == ["chain", "draw"]
        assert frame["weight"].sum() == pytest.approx(1.0)
        assert (frame["x"] * frame["weight"]).sum() == pytest.approx(weighted.mean("x"))
        np.testing.assert_array_equal(frame["place[1]"], weighted.values("place").values[:, 1])

    def test_nan_where_absent(self, weighted: Posterior) -> None:
        frame = weighted.to_pandas(["shift", "extra"])
        np.testing.assert_array_equal(frame["shift"].isna(), frame["extra"] == 0)

    def test_chains_are_in_the_index(self, tmp_path: Path) -> None:
        chained = rmh(mixed, {"y": 1.0}, tmp_path / "c", num_draws=200, chains=2, config=RMHConfig(warmup=20))
        frame = chained.thin(10).to_pandas(["x"])
        assert frame.loc[1].index.tolist() == list(range(0, 100, 10))


class TestAwkward:
    @pytest.fixture(autouse=True)
    def _needs_awkward(self, import_or_skip: Callable[[str], ModuleType]) -> None:
        import_or_skip("tracestore.formats.awkward")

    def test_whole_traces_in_the_order_of_the_draws(self, weighted: Posterior) -> None:
        view = weighted.condition({"extra": 1}).reweight(lambda trace: trace["x"])
        array = view.to_awkward()
        assert len(array) == len(view)
        np.testing.assert_array_equal(array.log_weight, view.log_weights)
        np.testing.assert_array_equal(array.weight, view.weights)
        assert array.draw.to_list() == view.values("x").draw.tolist()
        assert array.sites[0].name.to_list() == [site.name for site in weighted.store[int(array.trace[0])].sites]
        shift = [site.value[0] for site in array.sites[5] if site.name == "shift"]
        assert shift == [view.values("shift").values[5]]
