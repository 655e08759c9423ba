"""Counts of transitions against those of the traces one by one, and the pictures."""

from collections import defaultdict
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InvalidInputError
from tracestore.reports.graph_drawing import draw_graph
from tracestore.reports.layout_shares import layout_shares
from tracestore.reports.program import collect_addresses
from tracestore.reports.trace_graph import trace_graph, write_trace_graph
from tracestore.simulators.toys import branching, geometric, gum_marsaglia
from tracestore.traces.layout import SiteKind


@ts.simulator
def crowded():
    which = ts.sample(ts.Categorical([1 / 30] * 30), name="which")
    x = ts.sample(ts.Normal(0.0, 1.0), address=f"case <{which}> & more")
    ts.tag(x, name="x")
    ts.observe(ts.Normal(x, 1.0), name="obs")


@ts.simulator
def failing():
    if ts.sample(ts.Bernoulli(0.5), name="bad"):
        ts.sample(ts.Normal(0.0, 1.0), name="last words")
        raise ValueError("no")
    ts.observe(ts.Normal(0.0, 1.0), name="obs")


def counted(traces, weights, with_tags=False):
    """Transitions by base address, one trace at a time."""
    found: dict[tuple[str, str], float] = defaultdict(float)
    for trace, weight in zip(traces, weights, strict=True):
        bases = [site.base for site in trace.sites if with_tags or site.kind is not SiteKind.TAG]
        for pair in zip(["start", *bases], [*bases, "end"], strict=True):
            found[pair] += float(weight)
    return found


def of_graph(graph):
    names = ["start", *(node.base for node in graph.nodes[1:-1]), "end"]
    return {(names[edge.source], names[edge.target]): edge.visits for edge in graph.edges}


@pytest.mark.parametrize("simulator", [gum_marsaglia, branching, geometric], ids=lambda s: s.__name__)
@pytest.mark.parametrize("with_tags", [False, True])
def test_transitions_are_those_of_the_traces(simulator, with_tags, tmp_path):
    store = ts.simulate(simulator, tmp_path / "traces", num_traces=60, seed=1)
    graph = trace_graph(store, with_tags=with_tags)
    expected = counted(store, np.full(60, 1 / 60), with_tags)
    assert of_graph(graph) == pytest.approx(dict(expected))
    assert graph.num_traces == 60


def test_weights_of_a_posterior_count_unless_told_otherwise(tmp_path):
    posterior = ts.inference.importance(geometric, {"obs": 3.0}, tmp_path / "post", num_draws=80, seed=1)
    traces = [posterior.store[int(row)] for row in posterior.table.store_rows]
    assert of_graph(trace_graph(posterior)) == pytest.approx(dict(counted(traces, posterior.weights)))
    prior = of_graph(trace_graph(posterior, weighted=False))
    assert prior == pytest.approx(dict(counted(traces, np.full(80, 1 / 80))))


def test_views_of_a_posterior_count_their_draws_only(tmp_path):
    posterior = ts.inference.importance(branching, {"obs": 6}, tmp_path / "post", num_draws=80, seed=1)
    part = posterior.condition({"r": (5, None)})
    graph = trace_graph(part)
    assert [node.label for node in graph.nodes[1:-1]] == ["r", "obs"]


def test_probabilities_leaving_a_node_sum_to_one(tmp_path):
    graph = trace_graph(ts.simulate(geometric, tmp_path / "traces", num_traces=60, seed=1), instances=3)
    assert [node.id for node in graph.nodes[1:-1]] == ["A1#1", "A1#2", "A1#3+", "O1#1"]
    for source in range(len(graph.nodes) - 1):
        assert sum(e.probability for e in graph.edges if e.source == source) == pytest.approx(1.0)


def test_failed_traces_do_not_count(tmp_path):
    store = ts.simulate(failing, tmp_path / "traces", num_traces=40, seed=1)
    assert "last words" not in [node.label for node in trace_graph(store).nodes]


def test_the_least_visited_addresses_are_left_out_and_their_visits_skipped(tmp_path):
    store = ts.simulate(crowded, tmp_path / "traces", num_traces=400, seed=1)
    graph = trace_graph(store, max_nodes=12)
    assert len(graph.nodes) == 14
    assert graph.num_left_out == 20
    which = next(n for n, node in enumerate(graph.nodes) if node.label == "which")
    seen = next(n for n, node in enumerate(graph.nodes) if node.label == "obs")
    assert any(e.source == which and e.target == seen for e in graph.edges)
    assert sum(e.visits for e in graph.edges if e.target == seen) == pytest.approx(1.0)


@pytest.mark.parametrize(("simulator", "number"), [(gum_marsaglia, 2), (branching, 3)], ids=["joined", "apart"])
def test_addresses_share_a_box_where_nothing_else_leads_to_the_second(simulator, number, tmp_path):
    store = ts.simulate(simulator, tmp_path / "traces", num_traces=60, seed=1)
    root = ET.fromstring(trace_graph(store).to_svg())
    boxes = [node for node in root.iter() if node.tag.endswith("rect") and node.get("rx") == "5"]
    assert len(boxes) == number


def test_pictures_are_well_formed_whatever_the_addresses(tmp_path):
    store = ts.simulate(crowded, tmp_path / "traces", num_traces=400, seed=1)
    graph = trace_graph(store)
    svg, _ = draw_graph(graph)
    titles = [node.text for node in ET.fromstring(svg).iter() if node.tag.endswith("title")]
    assert any("case <7> & more" in (title or "") for title in titles)
    assert svg == draw_graph(graph)[0]
    assert graph.to_dot().count(" -> ") == len(graph.edges)


def test_files_are_svg_or_dot(tmp_path):
    store = ts.simulate(branching, tmp_path / "traces", num_traces=40, seed=1)
    assert write_trace_graph(store, tmp_path / "graph.svg").read_text().startswith("<svg")
    assert write_trace_graph(store, tmp_path / "graph.dot").read_text().startswith("digraph")
    with pytest.raises(InvalidInputError, match=r"\.svg, \.dot or \.gv"):
        write_trace_graph(store, tmp_path / "graph.png")


def test_impossible_requests_are_refused(tmp_path):
    store = ts.simulate(branching, tmp_path / "traces", num_traces=4, seed=1)
    with pytest.raises(InvalidInputError, match="at least 1"):
        trace_graph(store, max_nodes=0)
    with pytest.raises(InvalidInputError, match="no trace"):
        trace_graph(ts.TraceStore.create(tmp_path / "empty"))


def test_numbers_follow_the_order_of_the_program(tmp_path):
    store = ts.simulate(branching, tmp_path / "traces", num_traces=60, seed=1)
    found = collect_addresses([layout_shares(store)])
    assert [(a.id, a.label) for a in found] == [("A1", "r"), ("A2", "extra"), ("O1", "obs"), ("T1", "result")]
