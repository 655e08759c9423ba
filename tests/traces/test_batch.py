"""Batches of traces: every way of cutting and joining keeps every trace as it was."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracestore.errors import InvalidInputError, UnknownAddressError
from tracestore.traces import Layout, Site, SiteKind, Trace, TraceBatch, TraceStatus
from tracestore.traces.batch import TRACE_COLUMNS, is_constant

IMAGE = np.arange(6, dtype=np.float32).reshape(2, 3)


def make_layout(num_draws: int, *, vector: bool, observed: bool) -> Layout:
    sites = [Site(f"p:x~Normal#{i + 1}", SiteKind.SAMPLE, True, "x", "Normal", (), 2) for i in range(num_draws)]
    if vector:
        sites.append(Site("p:v~Normal[3]#1", SiteKind.SAMPLE, True, "v", "Normal", (3,), 6))
    if observed:
        sites.append(Site("p:image~Normal[2,3]#1", SiteKind.OBSERVE, False, "image", "Normal", (2, 3), 12))
    sites.append(Site("p:t~Tag#1", SiteKind.TAG, False, "t", "", (), 0))
    return Layout(tuple(sites))


def make_trace(layout: Layout, rng: np.random.Generator, *, failed: bool = False) -> Trace:
    return Trace(
        layout=layout,
        values=rng.normal(size=layout.num_values),
        log_probs=rng.normal(size=layout.num_sites),
        parameters=rng.normal(size=layout.num_parameters),
        observations={"image": rng.normal(size=(2, 3)).astype(np.float32)} if layout.observed_names else {},
        log_prior=rng.normal(),
        log_likelihood=rng.normal(),
        stream=int(rng.integers(1000)),
        status=TraceStatus.FAILED if failed else TraceStatus.OK,
        failure="ValueError: no" if failed else "",
        chain=int(rng.integers(4)),
        draw=int(rng.integers(1000)),
        accepted=bool(rng.integers(2)),
    )


def assert_same(a: Trace, b: Trace) -> None:
    assert a.layout == b.layout
    for column in ("values", "log_probs", "parameters"):
        np.testing.assert_array_equal(getattr(a, column), getattr(b, column))
    for name, dtype in TRACE_COLUMNS:
        np.testing.assert_array_equal(np.array(getattr(a, name), dtype), np.array(getattr(b, name), dtype))
    assert a.failure == b.failure
    assert a.observations.keys() == b.observations.keys()
    for name, value in a.observations.items():
        np.testing.assert_array_equal(value, b.observations[name])
        assert value.dtype == b.observations[name].dtype


shapes = st.tuples(st.integers(0, 4), st.booleans(), st.booleans(), st.booleans())


@settings(max_examples=60)
@given(st.lists(shapes, min_size=1, max_size=12), st.integers(0, 2**32 - 1), st.data())
def test_rows_survive_gathering_taking_and_joining(
    kinds: list[tuple[int, bool, bool, bool]], seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    traces = [make_trace(make_layout(n, vector=v, observed=o), rng, failed=f) for n, v, o, f in kinds]
    batch = TraceBatch.from_traces(traces)
    for trace, row in zip(traces, batch, strict=True):
        assert_same(trace, row)
    order = data.draw(st.permutations(range(len(traces))))
    for index, row in zip(order, batch.take(order), strict=True):
        assert_same(traces[index], row)
    cut = data.draw(st.integers(1, len(traces)))
    parts = [part for part in (batch.take(np.arange(cut)), batch.take(np.arange(cut, len(traces)))) if len(part)]
    for trace, row in zip(traces, TraceBatch.concatenate(parts), strict=True):
        assert_same(trace, row)


def test_a_mask_takes_the_marked_rows() -> None:
    rng = np.random.default_rng(1)
    layout = make_layout(1, vector=False, observed=True)
    traces = [make_trace(layout, rng) for _ in range(3)]
    chosen = TraceBatch.from_traces(traces).take(np.array([True, False, True]))
    assert len(chosen) == 2
    assert_same(chosen[1], traces[2])


def test_repeated_and_negative_rows_keep_their_failures() -> None:
    rng = np.random.default_rng(1)
    layout = make_layout(1, vector=False, observed=False)
    batch = TraceBatch.from_traces([make_trace(layout, rng, failed=failed) for failed in (False, True)])
    assert batch.take([1, 0, 1, -1]).failures == dict.fromkeys((0, 2, 3), "ValueError: no")


def test_mixed_precision_widens() -> None:
    rng = np.random.default_rng(1)
    layout = make_layout(1, vector=False, observed=True)
    narrow, wide = make_trace(layout, rng), make_trace(layout, rng)
    wide.observations = {"image": rng.normal(size=(2, 3))}
    parts = [TraceBatch.from_traces([trace]) for trace in (narrow, wide)]
    for batch in (TraceBatch.from_traces([narrow, wide]), TraceBatch.concatenate(parts)):
        np.testing.assert_array_equal(batch.observations["image"][1], wide.observations["image"])


def test_a_shared_observation_stays_one_row() -> None:
    rng = np.random.default_rng(1)
    layout = make_layout(1, vector=False, observed=True)
    traces = [make_trace(layout, rng) for _ in range(4)]
    for trace in traces:
        trace.observations = {"image": IMAGE}
    batch = TraceBatch.from_traces(traces)
    joined = TraceBatch.concatenate([batch, batch.take([2, 0])])
    assert is_constant(batch.observations["image"])
    assert is_constant(joined.observations["image"])
    assert joined.observations["image"].shape == (6, 2, 3)
    assert joined.nbytes < 6 * IMAGE.nbytes + 6 * 200


def test_different_constants_do_not_merge() -> None:
    layout = make_layout(1, vector=False, observed=True)
    rng = np.random.default_rng(1)
    batches = []
    for image in (IMAGE, IMAGE + 1):
        traces = [make_trace(layout, rng) for _ in range(2)]
        for trace in traces:
            trace.observations = {"image": image}
        batches.append(TraceBatch.from_traces(traces))
    joined = TraceBatch.concatenate(batches).observations["image"]
    np.testing.assert_array_equal(joined[1], IMAGE)
    np.testing.assert_array_equal(joined[2], IMAGE + 1)


def test_named_values_tell_where_they_are_absent() -> None:
    rng = np.random.default_rng(1)
    traces = [make_trace(make_layout(n, vector=True, observed=o), rng) for n, o in ((2, True), (0, False), (1, True))]
    batch = TraceBatch.from_traces(traces)
    values, present = batch.named("x")
    assert present.tolist() == [True, False, True]
    assert values[0] == traces[0].value(1)  # the last of two sites named x wins
    np.testing.assert_array_equal(batch.named("v")[0][1], traces[1]["v"])
    assert batch.named("image")[1].tolist() == [True, False, True]
    assert batch.named("p:x~Normal#1")[0][0] == traces[0].value(0)
    with pytest.raises(UnknownAddressError, match="'nothing'"):
        batch.named("nothing")


def test_one_observation_name_has_one_shape() -> None:
    rng = np.random.default_rng(1)
    traces = [make_trace(make_layout(1, vector=False, observed=True), rng) for _ in range(2)]
    traces[1].observations = {"image": np.zeros((3, 3))}
    with pytest.raises(InvalidInputError, match=r"'image' has shape \(3, 3\) .* \(2, 3\)"):
        TraceBatch.from_traces(traces)


def test_empty_input_is_refused() -> None:
    for make in (TraceBatch.from_traces, TraceBatch.concatenate):
        with pytest.raises(InvalidInputError, match="at least one"):
            make([])


def test_trace_types_ignore_what_inference_cannot_choose() -> None:
    with_image, without = make_layout(2, vector=False, observed=True), make_layout(2, vector=False, observed=False)
    assert with_image.trace_type == without.trace_type
    assert with_image != without
    assert make_layout(3, vector=False, observed=True).trace_type != with_image.trace_type


def test_unknown_names_list_the_known_ones() -> None:
    trace = make_trace(make_layout(1, vector=False, observed=True), np.random.default_rng(1))
    with pytest.raises(UnknownAddressError, match="image, t, x"):
        trace["nothing"]
