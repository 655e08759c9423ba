import signal
import threading
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("h5py")
import h5py

from tests.formats.test_parquet import SOURCE, as_rows, make_batches
from tests.suites.batches import SHAPES
from tracestore.formats import hdf5
from tracestore.formats.base import ObservationInfo
from tracestore.formats.hdf5 import link_name, write_file
from tracestore.traces import TRACE_COLUMNS, TraceBatch


@pytest.fixture(scope="module")
def joined():
    return TraceBatch.concatenate(make_batches())


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("hdf5") / "traces.h5"
    write_file(path, make_batches(), SOURCE)
    with h5py.File(path) as file:
        yield file


def rows_of(file):
    """Sites of each trace, put together from the flat columns."""
    sites = {name: file[f"sites/{name}"][:] for name in file["sites"]}
    texts = {name: file[name].asstr()[:] for name in ("addresses", "names", "families")}
    kinds = {number: name for name, number in h5py.check_enum_dtype(file["sites/kind"].dtype).items()}
    values, parameters = file["values"][:], file["parameters"][:]

    def record(place):
        value_start, value_stop = sites["value_offsets"][place : place + 2]
        start, stop = sites["parameter_offsets"][place : place + 2]
        return {
            "address": texts["addresses"][sites["address"][place]],
            "name": texts["names"][sites["name"][place]],
            "kind": kinds[sites["kind"][place]],
            "family": texts["families"][sites["family"][place]],
            "controlled": bool(sites["controlled"][place]),
            "value": values[value_start:value_stop].view(np.uint64).tolist(),
            "log_prob": sites["log_prob"][place],
            "parameters": parameters[start:stop].tolist(),
        }

    offsets = file["traces/site_offsets"][:]
    return [list(map(record, range(first, end))) for first, end in pairwise(offsets)]


@pytest.mark.parametrize("name", [name for name, _ in TRACE_COLUMNS])
def test_trace_columns_are_equal_bit_by_bit(file, joined, name):
    found = file[f"traces/{name}"][:]
    assert found.dtype == getattr(joined, name).dtype
    assert found.tobytes() == getattr(joined, name).tobytes()


def test_trace_type_and_layout_are_content_hashes(file, joined):
    assert file["traces/trace_type"][:].tolist() == [trace.layout.trace_type for trace in joined]
    assert file["traces/layout"][:].tolist() == [trace.layout.id for trace in joined]


def test_failure_is_empty_for_a_trace_that_ended_well(file, joined):
    found = file["traces/failure"].asstr()[:].tolist()
    assert found == [joined.failures.get(row, "") for row in range(len(joined))]


def test_sites_are_those_of_each_trace_in_order_of_execution(file, joined):
    assert rows_of(file) == as_rows(joined)


def test_addresses_have_the_numbers_of_the_source(file):
    assert file["addresses"].asstr()[:].tolist() == list(SOURCE.addresses)


@pytest.mark.parametrize("name", SHAPES)
def test_observation_is_equal_and_says_which_traces_have_it(file, joined, name):
    present = joined.has_observation(name)
    assert file[f"has_observation/{name}"][:].tolist() == present.tolist()
    found, expected = file[f"observations/{name}"][:], joined.observations[name]
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert found[present].tobytes() == np.ascontiguousarray(expected[present]).tobytes()


@pytest.mark.parametrize("name", ["observations/dense", "values", "sites/address"])
def test_numbers_are_compressed_and_guarded_by_checksums(file, name):
    assert file[name].compression == "gzip"
    assert file[name].fletcher32


def test_file_says_what_it_was_made_from(file):
    assert dict(file.attrs) == {
        "format": "tracestore-hdf5",
        "version": "1",
        "tracestore_version": "9.9",
        "snapshot": "3-abc",
    }


def test_no_batch_makes_a_file_with_all_columns_and_no_row(tmp_path, file):
    write_file(tmp_path / "none.h5", [], SOURCE)
    with h5py.File(tmp_path / "none.h5") as empty:
        assert set(empty["traces"]) == set(file["traces"])
        assert empty["observations/dense"].shape == (0, 4, 3)
        assert empty["traces/site_offsets"][:].tolist() == [0]


def test_observation_with_a_slash_in_its_name_is_one_dataset(tmp_path):
    batch = make_batches()[0]
    batch = replace(batch, observations={"near/far": np.arange(len(batch))})
    write_file(tmp_path / "slash.h5", [batch], replace(SOURCE, observations=(ObservationInfo("near/far", "<i8", ()),)))
    with h5py.File(tmp_path / "slash.h5") as file:
        (link,) = file["observations"]
        assert file["observations"][link].attrs["name"] == "near/far"


@pytest.mark.parametrize(("name", "link"), [(".", "%2E"), ("a.b", "a.b"), ("50%", "50%25"), ("%2F", "%252F")])
def test_names_that_hdf5_reserves_are_replaced(name, link):
    assert link_name(name) == link


def test_interruption_in_the_midst_of_hdf5_waits_for_it(tmp_path, monkeypatch):
    # HDF5 crashes the process when an exception cuts it short
    finished: list[int] = []
    main = threading.main_thread().ident or 0

    def interrupted_append(columns, batch):
        signal.pthread_kill(main, signal.SIGINT)
        append(columns, batch)
        finished.append(len(batch))

    append = hdf5._Columns.append
    monkeypatch.setattr(hdf5._Columns, "append", interrupted_append)
    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "traces.h5", make_batches(), SOURCE)
    assert finished == [30]
    with h5py.File(tmp_path / "traces.h5") as file:  # it was closed in good order
        assert len(file["traces/trace_type"]) == 30
