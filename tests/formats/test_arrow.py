"""The ``arrow/2`` encoding: the conformance suite, and what docs/format_spec.md says of its files."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tests.suites.batches import make_batch, make_layout, make_site, with_observation
from tests.suites.segment_suite import SegmentSuite
from tracestore.errors import ChecksumError, InvalidInputError
from tracestore.formats import open_format
from tracestore.formats.segment_writer import BLOCK_BYTES
from tracestore.storage import LocalStorage
from tracestore.traces import Layout, Site, SiteKind

arrow = open_format("arrow")


class TestArrow(SegmentSuite):
    backend = "arrow"
    column_file = "{}.arrow"


@pytest.fixture
def big(tmp_path):
    """A segment with several blocks in each site column."""
    batch = make_batch(1, 30_000, [make_layout(20, observed=("dense",)), make_layout(3, observed=("dense",))])
    directory = tmp_path / "big"
    directory.mkdir()
    entry = arrow.write_segment(directory, [batch], segment_id="big", flush=False)
    return directory, entry, json.loads((directory / "seal.json").read_bytes())


def test_files_are_plain_arrow_files(big):  # 3.1
    directory, _, seal = big
    for name, record in seal["files"].items():
        reader = pa.ipc.open_file(directory / name)
        rows = record.get("rows")
        assert rows is None or rows == [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]
        assert not any(field.nullable for field in reader.schema)


def test_ranges_tile_each_file_and_data_is_where_the_seal_says(big):  # 3.3, 3.4, 3.5
    directory, _, seal = big
    for name, record in seal["files"].items():
        data = (directory / name).read_bytes()
        assert record["ends"] == sorted(record["ends"])
        assert record["ends"][-1] == record["size"] == len(data)
        assert len(record["checksums"]) == len(record["ends"])
        if "rows" not in record:
            continue
        assert len(record["ends"]) == len(record["rows"]) + 1
        reader = pa.ipc.open_file(directory / name)
        for index, offsets in enumerate(record["data"]):
            batch = reader.get_batch(index)
            for column, offset in zip(batch.columns, offsets, strict=True):
                assert offset % 8 == 0
                stored = column.to_numpy()
                assert data[offset : offset + stored.nbytes] == stored.tobytes()


def test_tiles_are_site_major_and_do_not_straddle_blocks(big):  # 3.16.1, 3.16.2
    directory, entry, seal = big
    flat = np.concatenate([batch.column(0).to_numpy() for batch in batches_of(directory / "log_probs.arrow")])
    runs = pa.ipc.open_file(directory / "runs.arrow").read_all().to_pylist()
    constants = pa.ipc.open_file(directory / "constants.arrow").read_all().to_pylist()
    bounds = set(np.cumsum(seal["files"]["log_probs.arrow"]["rows"]).tolist())
    batch = arrow.open_segment(LocalStorage(directory), entry).read(slice(None), observations=())
    row = 0
    for run in runs:
        shared = [one for one in constants if one["column"] == 1 and one["layout"] == run["layout"]]
        num_stored = run["num_sites"] - len(shared)
        place = run["log_probs_start"]
        for first in range(0, run["num_traces"], run["tile_traces"]):
            num = min(run["tile_traces"], run["num_traces"] - first)
            tile = flat[place : place + num_stored * num].reshape(num_stored, num)
            assert not any(place < bound < place + tile.size for bound in bounds)
            assert tile.nbytes <= BLOCK_BYTES
            start, stop = batch.site_offsets[row + first], batch.site_offsets[row + first + num]
            assert np.array_equal(batch.log_probs[start:stop].reshape(num, -1).T, tile)
            place += tile.size
        row += run["num_traces"]
    assert row == entry.num_traces


def test_blocks_are_about_one_mebibyte(big):  # 3.8
    _, _, seal = big
    sizes = np.diff([0, *seal["files"]["log_probs.arrow"]["ends"][:-1]])
    assert len(sizes) > 2
    assert (sizes[:-1] > BLOCK_BYTES // 2).all()
    assert (sizes < 1.01 * BLOCK_BYTES).all()


def test_every_trace_column_is_stored_or_constant(big):  # 3.13, 3.14
    directory, _, seal = big
    stored = pa.ipc.open_file(directory / "traces.arrow").schema.names
    assert not set(stored) & set(seal["constants"])
    assert {"log_proposal", "log_weight", "status", "chain"} <= set(seal["constants"])
    assert seal["constants"]["chain"] == "00000000"
    assert len(stored) + len(seal["constants"]) == 10


def test_address_columns_are_not_stored_with_traces(big):
    directory, entry, _ = big
    assert (directory / "layout_sites.arrow").stat().st_size < 2_000
    assert entry.num_traces == 30_000


def test_values_touch_only_their_column(big):
    directory, entry, _ = big
    for name in ("log_probs.arrow", "parameters.arrow", "obs-0.arrow", "traces.arrow"):
        (directory / name).unlink()
    reader = arrow.open_segment(LocalStorage(directory), entry)
    found = reader.values("loop~Normal#5")
    assert found is not None
    values, rows = found
    assert len(values) == len(rows) == (reader.runs.num_traces[reader.runs.num_sites > 10]).sum()


@pytest.mark.parametrize(("slot", "is_read"), [(5, True), (6, False)])
def test_values_touch_and_check_their_own_slots_only(big, slot, is_read):  # 3.16.4
    """The fifth draw of the long layout is damaged in a tile in the middle, or the one after it is."""
    directory, entry, seal = big
    record = seal["files"]["values.arrow"]
    runs = arrow.open_segment(LocalStorage(directory), entry).runs
    num_slots = make_layout(20, observed=("dense",)).num_values  # none of them is constant
    start = int(runs.starts[0][1]) + 5 * num_slots * int(runs.tile_states[1]) + slot * int(runs.tile_states[1]) + 7
    block = int(np.searchsorted(np.cumsum(record["rows"]), start, "right"))
    first = int(np.cumsum([0, *record["rows"]])[block])
    with (directory / "values.arrow").open("r+b") as file:
        file.seek(record["data"][block][0] + 8 * (start - first))
        file.write(b"\xff" * 8)
    reader = arrow.open_segment(LocalStorage(directory), entry)
    reader.read(slice(0, 100))
    if is_read:
        with pytest.raises(ChecksumError, match=rf"values\.arrow, block {block}"):
            reader.values("loop~Normal#5")
    else:
        found = reader.values("loop~Normal#5")
        assert found is not None
        assert len(found[0]) == runs.num_traces[1]
    with pytest.raises(ChecksumError, match=rf"values\.arrow, block {block}"):
        reader.read(slice(None))


def test_names_of_observations_are_never_file_names(tmp_path):
    site = Site("x~Normal#1", SiteKind.OBSERVE, False, "../../a b\n", "Normal", (), 2)
    batch = make_batch(1, 3, [Layout((make_site("mu", 1, SiteKind.SAMPLE),))])
    batch = replace(batch, observations={site.name: np.arange(3.0)})
    entry = arrow.write_segment(tmp_path, [batch], segment_id="odd", flush=False)
    assert arrow.open_segment(LocalStorage(tmp_path), entry).read(slice(0, 3)).observations[site.name].tolist() == [
        0.0,
        1.0,
        2.0,
    ]
    assert (tmp_path / "obs-0.arrow").exists()


def test_integers_beyond_exact_floats_are_refused(tmp_path):  # 3.16.3
    sites = (Site("n~Poisson#1", SiteKind.SAMPLE, True, "n", "Poisson", (), 1), make_site("x", 1, SiteKind.SAMPLE))
    batch = make_batch(1, 3, [Layout(sites)])
    batch.values[1::2] = 1e300  # a large Normal draw is fine
    batch.values[4] = 2.0**53
    arrow.write_segment(tmp_path, [batch], segment_id="fits", flush=False)
    batch.values[4] = 2.0**53 + 2
    with pytest.raises(InvalidInputError, match="n~Poisson#1"):
        arrow.write_segment(tmp_path, [batch], segment_id="large", flush=False)


def test_columns_of_wrong_length_are_refused(tmp_path):
    batch = make_batch(1, 3)
    batch = replace(batch, log_probs=batch.log_probs[:-1])
    with pytest.raises(InvalidInputError, match="log_probs"):
        arrow.write_segment(tmp_path, [batch], segment_id="short", flush=False)


def test_observations_that_are_not_numbers_are_refused(tmp_path):
    batch = with_observation(make_batch(1, 3, [make_layout(1)]), "dense", np.array(["a", "b", "c"]))
    with pytest.raises(InvalidInputError, match="'dense' must have numbers"):
        arrow.write_segment(tmp_path, [batch], segment_id="words", flush=False)


def batches_of(path):
    reader = pa.ipc.open_file(path)
    return [reader.get_batch(index) for index in range(reader.num_record_batches)]
