from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("awkward")
import awkward as ak

from tests.formats.test_parquet import EVERYWHERE, SOURCE, as_rows, make_batches, with_value_bits
from tests.suites.batches import DTYPES, SHAPES, make_batch, make_layout
from tracestore.formats.awkward import to_awkward, write_file
from tracestore.traces import TRACE_COLUMNS, TraceBatch


@pytest.fixture(scope="module")
def joined():
    return TraceBatch.concatenate(make_batches())


@pytest.fixture(scope="module")
def from_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("awkward") / "traces.parquet"
    write_file(path, make_batches(), SOURCE)
    return ak.from_parquet(path)


@pytest.fixture(params=["memory", "file"])
def array(request, joined):
    return to_awkward(joined) if request.param == "memory" else request.getfixturevalue("from_file")


@pytest.mark.parametrize("name", [name for name, _ in TRACE_COLUMNS])
def test_trace_columns_are_equal_bit_by_bit(array, joined, name):
    found = ak.to_numpy(array[name])
    assert found.dtype == getattr(joined, name).dtype
    assert found.tobytes() == getattr(joined, name).tobytes()


def test_numbers_and_hashes_of_traces(array, joined):
    assert array.trace.to_list() == list(range(len(joined)))
    assert array.trace_type.to_list() == [trace.layout.trace_type for trace in joined]
    assert array["layout"].to_list() == [trace.layout.id for trace in joined]


def test_failure_is_none_for_a_trace_that_ended_well(array, joined):
    assert array.failure.to_list() == [joined.failures.get(row) for row in range(len(joined))]


def test_sites_are_those_of_each_trace_in_order_of_execution(array, joined):
    assert with_value_bits(array.sites.to_list()) == as_rows(joined)


@pytest.mark.parametrize("name", SHAPES)
def test_observation_is_equal_where_the_trace_has_it_and_none_elsewhere(array, joined, name):
    column = array.observations[name]
    present = joined.has_observation(name)
    assert (~ak.is_none(column)).to_list() == present.tolist()
    elements = ak.drop_none(column, axis=0).to_list()
    found: np.ndarray = np.array(elements, DTYPES[name]).reshape(present.sum(), *SHAPES[name])
    assert found.tobytes() == np.ascontiguousarray(joined.observations[name][present]).tobytes()


def test_observation_that_every_trace_has_is_a_regular_array(tmp_path):
    batch = make_batch(1, 9, [make_layout(1), make_layout(2)])
    write_file(tmp_path / "regular.parquet", [batch], EVERYWHERE)
    for array in (to_awkward(batch), ak.from_parquet(tmp_path / "regular.parquet")):
        assert str(array.observations.dense.type) == "9 * 4 * 3 * float32"
        assert ak.to_numpy(array.observations.dense).tobytes() == batch.observations["dense"].tobytes()


def test_observation_that_a_trace_lacks_is_regular_in_memory_and_but_for_the_first_axis_in_a_file(joined, from_file):
    assert str(to_awkward(joined).observations.dense.type) == f"{len(joined)} * option[4 * 3 * float32]"
    assert str(from_file.observations.dense.type) == f"{len(joined)} * option[var * 3 * float32]"


def test_columns_of_a_batch_are_shared_with_the_array(joined):
    array = to_awkward(joined)
    assert np.shares_memory(ak.to_numpy(ak.flatten(array.sites.log_prob)), joined.log_probs)
    assert np.shares_memory(ak.to_numpy(array.log_prior), joined.log_prior)


def test_wide_observation_is_shared_with_the_array(joined):
    dense = to_awkward(joined).observations.dense.layout
    assert np.shares_memory(dense.content.content.content.data, joined.observations["dense"])


def test_several_batches_make_one_array():
    batches = make_batches()
    array = to_awkward(iter(batches))
    assert array.log_prior.to_list() == [float(number) for batch in batches for number in batch.log_prior]


def test_numbers_of_traces_may_begin_anywhere():
    assert to_awkward(make_batches()[0], first=100).trace.to_list() == list(range(100, 130))


def test_batch_without_a_failed_trace_converts_to_arrow():
    # Awkward itself cannot convert options of texts when there is no text at all
    batch = make_batches()[1]
    assert ak.to_arrow_table(to_awkward(batch)).num_rows == len(batch)


def test_no_batch_makes_a_file_with_all_fields_and_no_record(tmp_path, from_file):
    write_file(tmp_path / "none.parquet", [], SOURCE)
    empty = ak.from_parquet(tmp_path / "none.parquet")
    assert len(empty) == 0
    assert empty.type.content == from_file.type.content


def test_traces_without_observations_make_a_file(tmp_path):
    write_file(tmp_path / "bare.parquet", make_batches(), replace(SOURCE, observations=()))
    assert "observations" not in ak.from_parquet(tmp_path / "bare.parquet").fields
