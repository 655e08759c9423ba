from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.suites.batches import DTYPES, SHAPES, make_batch, make_layout
from tracestore.errors import InvalidInputError
from tracestore.formats.base import ObservationInfo
from tracestore.formats.parquet import ExportSource, SiteRows, write_file
from tracestore.traces import TRACE_COLUMNS, Layout, Site, SiteKind, TraceBatch

SPECIAL = np.array([np.nan, -0.0, np.inf, -np.inf, 5e-324, 2.0**53])
LAYOUTS = (
    make_layout(2),
    make_layout(0, vectors=2, observed=("dense", "count", "flags", "empty")),
    make_layout(5, observed=("count",), tag=False),
    make_layout(1, observed=()),
)
SOURCE = ExportSource(
    addresses=tuple(dict.fromkeys(site.address for layout in LAYOUTS for site in layout.sites)),
    observations=tuple(ObservationInfo(name, np.dtype(DTYPES[name]).str, shape) for name, shape in SHAPES.items()),
    snapshot="3-abc",
    release="9.9",
)
EVERYWHERE = ExportSource(observations=SOURCE.observations[:1], everywhere=frozenset({"dense"}))


def make_batches() -> list[TraceBatch]:
    """Several layouts, failed traces, numbers that are easily lost; constant observations in the second batch."""
    batches = [
        make_batch(1, 30, LAYOUTS, num_failed=4),
        make_batch(2, 20, LAYOUTS, constant_observations=True),
        make_batch(3, 1, LAYOUTS),
    ]
    return [replace(batch, values=np.resize(SPECIAL, len(batch.values))) for batch in batches]


def as_rows(batch: TraceBatch) -> list[list[dict[str, object]]]:
    """Sites of each trace as plain records, looked up one by one."""
    rows = []
    for trace in batch:
        values, parameters = trace.layout.value_offsets, trace.layout.parameter_offsets
        rows.append(
            [
                {
                    "address": site.address,
                    "name": site.name,
                    "kind": site.kind.name.lower(),
                    "family": site.family,
                    "controlled": site.is_controlled,
                    "value": trace.values[values[place] : values[place + 1]].view(np.uint64).tolist(),
                    "log_prob": trace.log_probs[place],
                    "parameters": trace.parameters[parameters[place] : parameters[place + 1]].tolist(),
                }
                for place, site in enumerate(trace.sites)
            ]
        )
    return rows


def with_value_bits(rows: list[list[dict[str, object]]]) -> list[list[dict[str, object]]]:
    """Values as bits, so that NaN equals itself and zero differs from minus zero."""
    for site in (site for row in rows for site in row):
        site["value"] = np.array(site["value"], np.float64).view(np.uint64).tolist()
    return rows


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("parquet") / "traces.parquet"
    write_file(path, make_batches(), SOURCE)
    return path


@pytest.fixture(scope="module")
def table(path):
    return pq.read_table(path, page_checksum_verification=True)


@pytest.fixture(scope="module")
def joined():
    return TraceBatch.concatenate(make_batches())


@pytest.mark.parametrize("name", [name for name, _ in TRACE_COLUMNS])
def test_trace_columns_are_equal_bit_by_bit(table, joined, name):
    found = table[name].to_numpy()
    assert found.dtype == getattr(joined, name).dtype
    assert found.tobytes() == getattr(joined, name).tobytes()


def test_traces_are_numbered_on_from_batch_to_batch(table, joined):
    assert table["trace"].to_pylist() == list(range(len(joined)))


def test_trace_type_and_layout_are_content_hashes(table, joined):
    assert table["trace_type"].to_pylist() == [trace.layout.trace_type for trace in joined]
    assert table["layout"].to_pylist() == [trace.layout.id for trace in joined]


def test_failure_is_null_for_a_trace_that_ended_well(table, joined):
    assert table["failure"].to_pylist() == [joined.failures.get(row) for row in range(len(joined))]
    assert table["failure"].null_count == len(joined) - 4


def test_sites_are_those_of_each_trace_in_order_of_execution(table, joined):
    assert with_value_bits(table["sites"].to_pylist()) == as_rows(joined)


@pytest.mark.parametrize("name", SHAPES)
def test_observation_is_equal_where_the_trace_has_it_and_null_elsewhere(table, joined, name):
    rows = table[f"observation.{name}"].to_pylist()
    present = joined.has_observation(name)
    assert [row is not None for row in rows] == present.tolist()
    elements = [row for row in rows if row is not None]
    found: np.ndarray = np.array(elements, DTYPES[name]).reshape(present.sum(), *SHAPES[name])
    assert found.tobytes() == np.ascontiguousarray(joined.observations[name][present]).tobytes()


def test_shape_of_an_observation_is_in_the_metadata_of_its_field(table):
    assert table.schema.field("observation.dense").metadata[b"shape"] == b"[4, 3]"


def test_observation_that_every_trace_has_is_a_list_of_fixed_size(tmp_path):
    batch = make_batch(1, 9, [make_layout(1), make_layout(2)])
    write_file(tmp_path / "fixed.parquet", [batch], EVERYWHERE)
    found = pq.read_table(tmp_path / "fixed.parquet")["observation.dense"]
    assert found.type == pa.list_(pa.field("element", pa.float32(), nullable=False), 12)
    elements = found.combine_chunks().flatten().to_numpy()
    assert elements.tobytes() == batch.observations["dense"].tobytes()


def test_observation_that_a_trace_lacks_unexpectedly_is_an_error(tmp_path):
    batch = make_batch(1, 9, [make_layout(1), make_layout(2, observed=())])
    with pytest.raises(InvalidInputError, match="'dense' is said to be in every trace"):
        write_file(tmp_path / "fixed.parquet", [batch], EVERYWHERE)


def test_file_says_what_it_was_made_from(path):
    metadata = pq.read_schema(path).metadata
    assert metadata[b"tracestore.format"] == b"tracestore-parquet"
    assert metadata[b"tracestore.snapshot"] == b"3-abc"
    assert metadata[b"tracestore.tracestore_version"] == b"9.9"


def test_a_batch_is_a_row_group(path):
    metadata = pq.ParquetFile(path).metadata
    assert [metadata.row_group(place).num_rows for place in range(metadata.num_row_groups)] == [30, 20, 1]


def test_a_flipped_bit_is_an_error(path, tmp_path):
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)  # log_prior
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    (tmp_path / "flipped.parquet").write_bytes(data)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(tmp_path / "flipped.parquet", columns=["log_prior"], page_checksum_verification=True)


def test_no_batch_makes_a_file_with_all_columns_and_no_row(tmp_path, table):
    write_file(tmp_path / "none.parquet", [], SOURCE)
    empty = pq.read_table(tmp_path / "none.parquet")
    assert empty.num_rows == 0
    assert empty.schema == table.schema


def test_an_observation_without_traces_keeps_its_type(tmp_path, table):
    write_file(tmp_path / "empty.parquet", [SOURCE.empty_batch()], SOURCE)
    assert pq.read_table(tmp_path / "empty.parquet").schema == table.schema


def test_observations_that_the_source_does_not_list_are_left_out(tmp_path):
    write_file(tmp_path / "some.parquet", make_batches(), replace(SOURCE, observations=SOURCE.observations[:1]))
    names = pq.read_schema(tmp_path / "some.parquet").names
    assert [name for name in names if name.startswith("observation")] == ["observation.dense"]


def test_one_address_may_carry_two_names(tmp_path):
    sites = [Site("x~Normal#1", SiteKind.SAMPLE, True, name, "Normal", (), 2) for name in ("a", "b")]
    batch = make_batch(1, 12, [Layout((site,)) for site in sites])
    write_file(tmp_path / "names.parquet", [batch], ExportSource())
    rows = pq.read_table(tmp_path / "names.parquet")["sites"].to_pylist()
    assert [(row[0]["address"], row[0]["name"]) for row in rows] == [
        ("x~Normal#1", trace.sites[0].name) for trace in batch
    ]


@pytest.mark.parametrize("dtype", ["<f2", "<f8", "|u1", "<i2", "<u8"])
def test_types_of_observations_are_kept(tmp_path, dtype):
    batch = make_batch(1, 10, [make_layout(1, observed=("count",))])
    column = np.arange(10).astype(dtype)
    batch = replace(batch, observations={"count": column})
    write_file(tmp_path / "typed.parquet", [batch], ExportSource(observations=(ObservationInfo("count", dtype, ()),)))
    found = pq.read_table(tmp_path / "typed.parquet")["observation.count"]
    assert found.type == pa.from_numpy_dtype(np.dtype(dtype))
    assert found.to_numpy().tolist() == column.tolist()


def test_site_rows_of_a_batch_without_traces():
    rows = SiteRows.from_batch(SOURCE.empty_batch())
    assert len(rows.kind) == 0
    assert rows.value_offsets.tolist() == [0]


def test_texts_that_sites_share_are_kept_once():
    rows = SiteRows.from_batch(make_batch(1, 5, LAYOUTS))
    assert sorted(rows.family.table) == ["", "Normal"]


def test_site_rows_ignore_layouts_that_no_trace_has():
    batch = make_batch(1, 5, LAYOUTS)
    used = replace(batch, layouts=(*LAYOUTS, make_layout(50)))
    assert len(SiteRows.from_batch(used).address.table) == len(SiteRows.from_batch(batch).address.table)
