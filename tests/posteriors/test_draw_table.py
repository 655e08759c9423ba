"""Columns of draws in several stores, and selections that share them."""

from pathlib import Path

import numpy as np
import pytest

from tests.posteriors.programs import conditioned, mixed, write
from tracestore.errors import InvalidInputError, UnknownAddressError
from tracestore.posteriors import draw_table
from tracestore.posteriors.draw_table import DrawTable
from tracestore.posteriors.origin import common_engine
from tracestore.store.trace_store import TraceStore

Stores = tuple[TraceStore, TraceStore]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    folder = tmp_path_factory.mktemp("tables")
    first, second = (conditioned(mixed, {"y": 1.0}, count, seed=count) for count in (60, 25))
    for trace in first:
        trace.chain = trace.draw % 3
    return write(folder / "a", first, engine="rmh"), write(folder / "b", second, engine="rmh")


@pytest.fixture
def table(stores: Stores) -> DrawTable:
    return DrawTable(stores, has_chains=True)


RANGE = slice(10, 70)
NUMBERS = np.array([2, 3, 11, 40, 59, 61, 84])


class TestSelection:
    @pytest.mark.parametrize("rows", [RANGE, NUMBERS], ids=["range", "numbers"])
    def test_is_the_same_rows_of_every_column(self, table: DrawTable, rows: slice | np.ndarray) -> None:
        part = table.select(rows)
        for name in ("chain", "draw", "log_prior", "stream"):
            np.testing.assert_array_equal(part.column(name), table.column(name)[rows])
        np.testing.assert_array_equal(part.per_run("num_sites"), table.per_run("num_sites")[rows])
        np.testing.assert_array_equal(part.take(np.arange(len(part))).stream, part.column("stream"))

    @pytest.mark.parametrize("rows", [RANGE, NUMBERS], ids=["range", "numbers"])
    def test_variables_keep_their_rows(self, table: DrawTable, rows: slice | np.ndarray) -> None:
        part = table.select(rows)
        values, places = part.present("shift")
        whole = np.full(len(table), np.nan)
        whole[table.present("shift").rows] = table.present("shift").values
        expected = whole[rows]
        np.testing.assert_array_equal(places, np.flatnonzero(~np.isnan(expected)))
        np.testing.assert_array_equal(values, expected[places])

    @pytest.mark.parametrize("first", [RANGE, np.arange(10, 70)], ids=["range", "numbers"])
    @pytest.mark.parametrize("second", [slice(5, 20), np.array([0, 7, 59])], ids=["range", "numbers"])
    def test_of_a_selection(self, table: DrawTable, first: slice, second: slice) -> None:
        part = table.select(first).select(second)
        np.testing.assert_array_equal(part.column("stream"), table.column("stream")[first][second])

    def test_of_a_range_copies_nothing(self, table: DrawTable) -> None:
        assert np.shares_memory(table.select(RANGE).present("x").values, table.present("x").values)

    def test_past_the_end_is_empty(self, table: DrawTable) -> None:
        assert len(table.select(slice(90, 100))) == 0

    def test_without_a_variable(self, table: DrawTable) -> None:
        assert "shift" in table.names
        absent = np.flatnonzero(~np.isin(np.arange(len(table)), table.present("shift").rows))
        part = table.select(absent)
        assert "shift" not in part.names
        with pytest.raises(UnknownAddressError, match="No draw has 'shift'; the names are: x, extra, place"):
            part.present("shift")


class TestWholeTraces:
    @pytest.mark.parametrize("size", [1, 7, 4096])
    def test_come_in_parts_with_their_rows(self, table: DrawTable, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(draw_table, "_MOST_READ", size)
        part = table.select(NUMBERS)
        found = np.full(len(part), -1)
        for rows, batch in part.batches():
            assert len(batch) <= size
            found[rows] = batch.stream
        np.testing.assert_array_equal(found, part.column("stream"))

    def test_large_ones_come_one_at_a_time(self, table: DrawTable, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(draw_table, "_READ_BYTES", 10)
        assert table.batch_sizes == (1, 1)

    def test_in_the_order_asked_for(self, table: DrawTable) -> None:
        rows = np.array([84, 0, 40, 0])
        np.testing.assert_array_equal(table.take(rows).stream, table.column("stream")[rows])

    def test_store_rows_find_the_traces(self, table: DrawTable, stores: Stores) -> None:
        place = int(table.store_rows[70])
        trace = stores[1][place - 60] if place >= 60 else stores[0][place]
        assert trace.log_prior == table.column("log_prior")[70]


class TestOrigin:
    def test_joined_engines(self, tmp_path: Path, stores: Stores) -> None:
        other = write(tmp_path / "l", conditioned(mixed, {"y": 1.0}, 3), engine="lmh")
        assert common_engine([stores[0], other]) == "rmh+lmh"

    def test_reweighted_chains_stay_alone(self, tmp_path: Path, stores: Stores) -> None:
        other = write(tmp_path / "r", conditioned(mixed, {"y": 1.0}, 3), engine="rmh", reweighted=True)
        assert common_engine([other]) == "rmh"
        with pytest.raises(InvalidInputError, match="Join the chains, then reweight"):
            common_engine([stores[0], other])

    def test_prior_draws_join_no_others(self, tmp_path: Path) -> None:
        prior, weighted = (
            write(tmp_path / engine, conditioned(mixed, {"y": 1.0}, 3), engine=engine) for engine in ("prior", "is")
        )
        with pytest.raises(InvalidInputError, match="cannot be joined"):
            common_engine([prior, weighted])
