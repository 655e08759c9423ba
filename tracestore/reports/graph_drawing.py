"""A trace graph as SVG, in boxes of addresses that always follow each other, and in the language of Graphviz."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape, unescape
from itertools import pairwise
from typing import TYPE_CHECKING

from tracestore.reports.layered import Box, Edge, Placement, place
from tracestore.reports.program import Role

if TYPE_CHECKING:
    from tracestore.reports.trace_graph import GraphEdge, GraphNode, TraceGraph

__all__ = ["ROLE_COLORS", "draw_graph", "write_dot"]

ROLE_COLORS = {
    Role.SAMPLED: "#0b62a8",
    Role.REJECTION: "#8a5fb0",
    Role.FIXED: "#8a6d00",
    Role.OBSERVED: "#c4500a",
    Role.TAGGED: "#5b6670",
}
INK = "#1c232b"
MUTED = "#5b6670"
LINE = "#9aa5af"
EDGE = "#66727e"

ROW = 23.0
CHARACTER = 6.7
"""Width of a character at the font size of the labels, on average."""
MOST_CHARACTERS = 30
PAD = 10.0
LOOP_ROOM = 60.0
MARGIN = 8.0
RARE = 0.002
"""Edges that a trace takes more rarely are left out of the picture, unless a node hangs on them."""
MOST_LABELS = 9
"""Ways out of one node that are labelled; with more of them, the shares in the boxes have to tell."""
CERTAIN = 1.0 - 1e-6


@dataclass(frozen=True, slots=True)
class _Block:
    """Nodes that always follow each other, and the share of the visits to the last that go back to the first."""

    nodes: tuple[int, ...]
    loop: float


def draw_graph(graph: "TraceGraph") -> tuple[str, int]:
    """Draw a trace graph from top to bottom.

    Parameters
    ----------
    graph
        Nodes and edges.

    Returns
    -------
    tuple[str, int]
        An ``<svg>`` element, and the number of rare edges that it leaves out.
    """
    kept = _frequent(graph.edges, len(graph.nodes))
    blocks = _blocks(len(graph.nodes), kept)
    home = {node: number for number, block in enumerate(blocks) for node in block.nodes}
    between = [e for e in kept if home[e.source] != home[e.target]]
    ways = Counter(e.source for e in between)
    texts = [_percent(e.probability) if ways[e.source] <= MOST_LABELS else "" for e in between]
    edges = [
        Edge(home[e.source], home[e.target], len(unescape(text)) * CHARACTER + 6 if text else 0.0)
        for e, text in zip(between, texts, strict=True)
    ]
    boxes = [_box(graph.nodes, block) for block in blocks]
    placement = place(boxes, edges)
    parts = [_way(e, way) for e, way in zip(between, placement.ways, strict=True)]
    parts += [_label(*at, text) for at, text in zip(placement.labels, texts, strict=True) if text]
    for block, box, (x, y) in zip(blocks, boxes, placement.centers, strict=True):
        parts += _draw_block(graph.nodes, block, box, x, y)
    return _frame(graph, placement, parts), len(graph.edges) - len(kept)


def _frame(graph: "TraceGraph", placement: Placement, parts: Sequence[str]) -> str:
    width, height = placement.width + 2 * MARGIN, placement.height + 2 * MARGIN
    description = f"Trace graph: {len(graph.nodes) - 2} addresses, {len(graph.edges)} transitions"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{description}" font-size="12" '
        f'font-family="Inter, Segoe UI, Helvetica Neue, Liberation Sans, Arial, sans-serif">'
        f'<g transform="translate({MARGIN:.0f} {MARGIN:.0f})">{"".join(parts)}</g></svg>'
    )


def _frequent(edges: Sequence["GraphEdge"], num_nodes: int) -> list["GraphEdge"]:
    largest_in: dict[int, float] = {}
    largest_out: dict[int, float] = {}
    for edge in edges:
        if edge.source != edge.target:
            largest_in[edge.target] = max(largest_in.get(edge.target, 0.0), edge.visits)
            largest_out[edge.source] = max(largest_out.get(edge.source, 0.0), edge.visits)
    return [
        e
        for e in edges
        if e.visits >= RARE or e.visits in (largest_in.get(e.target), largest_out.get(e.source)) or num_nodes <= 12
    ]


def _blocks(num_nodes: int, edges: Sequence["GraphEdge"]) -> list[_Block]:
    """Join nodes of which the second always follows the first and nothing else leads to it."""
    leaving: dict[int, list[GraphEdge]] = {}
    entering: dict[int, list[GraphEdge]] = {}
    for edge in edges:
        leaving.setdefault(edge.source, []).append(edge)
        entering.setdefault(edge.target, []).append(edge)
    next_of = {
        e.source: e.target
        for e in edges
        if e.source not in (0, e.target)
        and e.target > e.source
        and e.target != num_nodes - 1
        and e.probability >= CERTAIN
        and len(entering[e.target]) == 1
        and len(leaving[e.source]) == 1
    }
    inner = set(next_of.values())
    blocks = []
    for first in range(num_nodes):
        if first in inner:
            continue
        nodes = [first]
        while nodes[-1] in next_of:
            nodes.append(next_of[nodes[-1]])
        loop = sum(e.probability for e in leaving.get(nodes[-1], []) if e.target == first)
        blocks.append(_Block(tuple(nodes), loop))
    return blocks


def _row_text(node: "GraphNode") -> tuple[str, str, str]:
    """Short id, label and remark of a node."""
    if node.role is None:
        return node.id, "", ""
    label = node.label if len(node.label) <= MOST_CHARACTERS else node.label[: MOST_CHARACTERS - 3] + "..."
    if node.share < 0.9995:
        remark = _percent(node.share) or "100 %"
    else:
        remark = f"\N{MULTIPLICATION SIGN}{node.visits:.3g}" if node.visits > 1.0005 else ""
    return node.id, label, remark


def _box(nodes: Sequence["GraphNode"], block: _Block) -> Box:
    texts = [_row_text(nodes[node]) for node in block.nodes]
    id_width = max(len(short) for short, _, _ in texts)
    characters = max(len(label) + (len(remark) + 2 if remark else 0) for _, label, remark in texts)
    half = ((id_width + 1 + characters) * CHARACTER + 2 * PAD + 5) / 2 if characters else 30.0
    height = ROW * len(texts) + (6 if characters else 2)
    return Box(half, half + (LOOP_ROOM if block.loop > 0 else 0.0), height)


def _draw_block(nodes: Sequence["GraphNode"], block: _Block, box: Box, x: float, y: float) -> list[str]:
    left, width = x - box.left, 2 * box.left
    first = nodes[block.nodes[0]]
    if first.role is None:
        size = f'width="{width:.1f}" height="{box.height:.1f}" rx="{box.height / 2:.1f}"'
        return [
            f'<rect x="{left:.1f}" y="{y:.1f}" {size} fill="{INK}"/>',
            f'<text x="{x:.1f}" y="{y + box.height / 2 + 4:.1f}" text-anchor="middle" fill="#fff">{first.id}</text>',
        ]
    texts = [_row_text(nodes[node]) for node in block.nodes]
    indent = PAD + 5 + (max(len(short) for short, _, _ in texts) + 1) * CHARACTER
    size = f'width="{width:.1f}" height="{box.height:.1f}" rx="5"'
    parts = [f'<rect x="{left:.1f}" y="{y:.1f}" {size} fill="#fff" stroke="{LINE}"/>']
    for row, (node, (short, label, remark)) in enumerate(zip(block.nodes, texts, strict=True)):
        top = y + 3 + row * ROW
        role = nodes[node].role
        color = ROLE_COLORS[role] if role is not None else INK
        share, visits = nodes[node].share, nodes[node].visits
        title = f"{nodes[node].base} ({role}), in {100 * share:.3g} % of the traces, {visits:.3g} visits a trace"
        base = f'y="{top + ROW / 2 + 4:.1f}"'
        right = f'<text x="{left + width - PAD:.1f}" {base} text-anchor="end" fill="{MUTED}">{remark}</text>'
        parts.append(
            f"<g><title>{escape(title)}</title>"
            f'<rect x="{left + 3:.1f}" y="{top + 3:.1f}" width="5" height="{ROW - 6:.1f}" rx="2" fill="{color}"/>'
            f'<text x="{left + PAD + 5:.1f}" {base} font-weight="650" fill="{color}">{escape(short)}</text>'
            f'<text x="{left + indent:.1f}" {base} fill="{INK}">{escape(label)}</text>{right if remark else ""}</g>'
        )
    if block.loop > 0:
        parts += _loop(left + width, y, box.height, block.loop)
    return parts


def _loop(right: float, y: float, height: float, probability: float) -> list[str]:
    """Draw the way back from the bottom of a box to its top, on its right side."""
    low, high = y + height - 7, y + 7
    out = right + 24
    path = f"M{right:.1f} {low:.1f} C{out:.1f} {low + 7:.1f} {out:.1f} {high - 7:.1f} {right + 5:.1f} {high:.1f}"
    tip = f"M{right:.1f} {high:.1f} l7 -3.4 l-0.6 6.6 z"
    return [
        f'<path d="{path}" fill="none" stroke="{EDGE}" stroke-width="{_thickness(probability):.1f}"/>',
        f'<path d="{tip}" fill="{EDGE}"/>',
        _label(right + 41, (low + high) / 2, _percent(probability) or "100 %"),
    ]


def _thickness(visits: float) -> float:
    return 0.8 + 2.2 * math.sqrt(min(max(visits, 0.0), 1.0))


def _way(edge: "GraphEdge", points: Sequence[tuple[float, float]]) -> str:
    goes_down = points[-1][1] > points[0][1]
    (end_x, end_y), sign = points[-1], 1 if goes_down else -1
    shown = [*points[:-1], (end_x, end_y - 6 * sign)]  # the line ends where the arrow head begins
    path = f"M{shown[0][0]:.1f} {shown[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(shown):
        if abs(x1 - x0) < 4.0:
            path += f" L{x1:.1f} {y1:.1f}"
        else:
            middle = (y0 + y1) / 2
            path += f" C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"
    width = _thickness(edge.visits)
    half = 2.6 + 0.6 * width
    head = f"M{end_x:.1f} {end_y:.1f} l{-half:.1f} {-7 * sign} h{2 * half:.1f} z"
    dashes = "" if goes_down else ' stroke-dasharray="5 3"'
    text = f"{100 * edge.probability:.3g} % of the visits to the first, {edge.visits:.3g} times a trace"
    return (
        f'<g><title>{text}</title><path d="{path}" fill="none" stroke="{EDGE}" stroke-width="{width:.1f}"{dashes}/>'
        f'<path d="{head}" fill="{EDGE}"/></g>'
    )


def _label(x: float, y: float, text: str) -> str:
    half = len(unescape(text)) * CHARACTER / 2 + 2
    return (
        f'<rect x="{x - half:.1f}" y="{y - 8:.1f}" width="{2 * half:.1f}" height="16" fill="#fff" opacity="0.92"/>'
        f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" font-size="11.5" fill="{MUTED}">{text}</text>'
    )


def _percent(probability: float) -> str:
    """Text of a share; empty for what always happens."""
    if probability >= 0.9995:
        return ""
    percent = 100 * probability
    if percent >= 99.5:
        return f"{percent:.1f} %"
    return "&lt;0.1 %" if percent < 0.1 else f"{percent:.2g} %"


def write_dot(graph: "TraceGraph") -> str:
    """Write a trace graph in the language of Graphviz.

    Parameters
    ----------
    graph
        Nodes and edges.
    """
    lines = ["digraph traces {", '  node [shape=box, style=rounded, fontname="sans-serif"];']
    for number, node in enumerate(graph.nodes):
        if node.role is None:
            lines.append(f'  n{number} [label="{node.id}", shape=oval];')
            continue
        words = _quoted(f"{node.id} {node.label}\n{node.family}, {100 * node.share:.3g} %")
        lines.append(
            f'  n{number} [label="{words}", tooltip="{_quoted(node.base)}", color="{ROLE_COLORS[node.role]}"];'
        )
    lines += [
        f'  n{e.source} -> n{e.target} [label="{100 * e.probability:.3g} %", penwidth={_thickness(e.visits):.2f}];'
        for e in graph.edges
    ]
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
