"""Any traces survive a segment, bit by bit: properties over random layouts, sizes and rows."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.suites.batches import SHAPES, assert_same, make_batch, make_layout
from tracestore.formats import columns, open_format
from tracestore.formats.columns import cut_segment
from tracestore.storage import LocalStorage

LAYOUT = st.builds(
    make_layout,
    st.integers(0, 6),
    vectors=st.integers(0, 2),
    observed=st.lists(st.sampled_from(sorted(SHAPES)), max_size=3, unique=True),
    tag=st.booleans(),
)
SPECIAL = np.array([np.nan, -0.0, 0.0, np.inf, -np.inf, 5e-324, 1e300])


@st.composite
def batches(draw):
    layouts = draw(st.lists(LAYOUT, min_size=1, max_size=5, unique_by=lambda layout: layout.id))
    num_traces = draw(st.integers(1, 60))
    batch = make_batch(
        draw(st.integers(0, 2**20)),
        num_traces,
        layouts,
        constant_observations=draw(st.booleans()),
        num_failed=draw(st.integers(0, min(3, num_traces))),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    for column in (batch.values, batch.log_probs, batch.parameters, batch.log_weight):
        if draw(st.booleans()):
            column[:] = rng.choice(SPECIAL, len(column))
        elif draw(st.booleans()):
            column[:] = 1.0
    return batch


@given(batches(), st.booleans(), st.integers(1, 4), st.data())
def test_round_trip(batch, keep_order, num_parts, data):
    bounds = sorted(data.draw(st.lists(st.integers(0, len(batch)), min_size=num_parts - 1, max_size=num_parts - 1)))
    parts = [
        batch.take(np.arange(low, high))
        for low, high in zip([0, *bounds], [*bounds, len(batch)], strict=True)
        if high > low
    ]
    rows = data.draw(st.lists(st.integers(0, len(batch) - 1), max_size=20))
    arrow = open_format("arrow")
    order = np.arange(len(batch)) if keep_order else cut_segment([batch]).order
    expected = batch.take(order)
    with tempfile.TemporaryDirectory() as folder:
        entry = arrow.write_segment(Path(folder), parts, segment_id="x", keep_order=keep_order, flush=False)
        reader = arrow.open_segment(LocalStorage(Path(folder)), entry)
        assert_same(reader.read(slice(None)), expected)
        failures = {place: expected.failures[row] for place, row in enumerate(rows) if row in expected.failures}
        wanted = replace(expected.take(np.array(rows, np.int64)), failures=failures)
        assert_same(reader.read(np.array(rows, np.int64)), wanted)
        for name in ("mu", "vec", "result", "count", "loop~Normal#1"):
            found = reader.values(name)
            if found is not None:
                values, present = expected.named(name)
                assert np.array_equal(found[0], values[present], equal_nan=values.dtype.kind == "f")
                assert found[1].tolist() == np.flatnonzero(present).tolist()


@given(batches(), st.integers(1, 7))
def test_tiles_hold_every_stored_number_once(batch, most_traces):
    tile_size = columns.MAX_TILE_STATES
    columns.MAX_TILE_STATES = most_traces
    try:
        cut = cut_segment([batch], keep_order=True)
    finally:
        columns.MAX_TILE_STATES = tile_size
    assert (cut.runs.tile_states <= most_traces).all()
    for index, name in enumerate(columns.SITE_COLUMNS):
        flat = getattr(cut.states, name)
        stored, shared = sum(len(tile) for _, tile in cut.tiles(index)), cut.constants[index]
        counts = np.bincount(cut.states.layout_index, minlength=len(cut.layouts))
        assert stored + counts[shared.layout].sum() == len(flat)
        # a layout with one trace keeps its numbers, so that the table of constants stays small
        assert not (counts[shared.layout] == 1).any()


@given(batches())
def test_order_is_a_permutation_that_sorts_by_length(batch):
    cut = cut_segment([replace(batch, observations={})])
    assert sorted(cut.order.tolist()) == list(range(len(batch)))
    assert (np.diff(cut.batch.num_sites) >= 0).all()
    assert cut.runs.num_traces.sum() == len(batch)
    assert (cut.runs.layout[1:] != cut.runs.layout[:-1]).all()
