"""The ``zarr/1`` encoding: the conformance suite, and what plain zarr-python sees of its segments."""

import json

import numpy as np
import pytest

from tests.suites.batches import make_batch, make_layout
from tests.suites.segment_suite import LocalFormat, SegmentSuite

zarr = pytest.importorskip("zarr")


class TestZarr(SegmentSuite):
    backend = "zarr"
    column_file = "{}/c/0"
    unread = ("zarr.json",)


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_plain_zarr_opens_every_array(tmp_path, codec):
    batch = make_batch(1, 300, [make_layout(1), make_layout(4)], num_failed=2)
    entry = LocalFormat("zarr").write_segment(
        tmp_path, [batch], segment_id="plain", keep_order=True, codec=codec, flush=False
    )
    group = zarr.open_group(tmp_path, mode="r")
    seal = json.loads((tmp_path / "seal.json").read_bytes())
    arrays = dict(group.members(max_depth=None))
    assert {name.split("/c/")[0] for name in seal["files"] if "/c/" in name} <= set(arrays)
    for number, record in enumerate(seal["observations"]):
        found = group[f"obs-{number}"]
        assert found.attrs["name"] == record["name"]
        assert np.array_equal(found[:], batch.observations[record["name"]])
    assert np.array_equal(group["traces/log_prior"][:], batch.log_prior)
    assert group.attrs["tracestore"]["num_traces"] == entry.num_traces == 300
    columns = list(group["runs"].attrs["columns"])
    runs = group["runs"][:]
    assert runs[columns.index("num_traces")].sum() == 300
    text, ends = group["text"][:].tobytes(), group["text_ends"][:].tolist()
    texts = [text[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]
    assert "loop~Normal" in texts


def test_plain_zarr_opens_compressed_columns_and_tables(tmp_path):
    batch = make_batch(1, 6_000, [make_layout(40 + number, observed=()) for number in range(40)])
    batch.parameters[:] = 0.5
    batch.values[:] = np.round(batch.values)
    entry = LocalFormat("zarr").write_segment(tmp_path, [batch], segment_id="small", keep_order=True, flush=False)
    reader = LocalFormat("zarr").open_segment(tmp_path, entry)
    records = reader._files.records
    assert records["constants/c/0/0"]["codec"] == records["values/c/0"]["codec"] == "zstd"
    group = zarr.open_group(tmp_path, mode="r")
    constants = group["constants"][:]
    columns = list(group["constants"].attrs["columns"])
    assert set(constants[columns.index("value")].view(np.float64)) == {0.5}
    values, attributes = group["values"], dict(group["values"].attrs)
    chunks = values[:].reshape(-1, attributes["rows_per_chunk"])
    flat = np.concatenate([chunk[:num] for chunk, num in zip(chunks, attributes["rows"], strict=True)])
    file = reader._files.column("values", "<f8")
    decoded = np.empty(int(file.first[-1]))
    file.copy_to(decoded, 0)
    assert np.array_equal(flat, decoded)
    assert np.array_equal(reader.read(slice(None)).values, batch.values)
