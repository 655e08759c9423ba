"""The control flow of a simulator as its traces show it: addresses, and how often one follows another."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError
from tracestore.pages import write_page
from tracestore.posteriors.posterior import Posterior
from tracestore.reports.graph_drawing import draw_graph, write_dot
from tracestore.reports.layout_shares import LayoutShares, layout_shares
from tracestore.reports.program import Address, Role, collect_addresses
from tracestore.store.trace_store import TraceStore
from tracestore.traces.layout import Layout, SiteKind

__all__ = ["GraphEdge", "GraphNode", "TraceGraph", "trace_graph", "write_trace_graph"]

MAX_NODES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """One base address, or the start or the end of a trace."""

    id: str
    """Short id of the address (with instances: ``A1#2``, ``A1#3+``), ``start`` or ``end``."""
    label: str
    """Name of the address, or the label of its call."""
    role: Role | None
    """None for start and end."""
    base: str
    """Base address; empty for start and end."""
    family: str
    share: float
    """Share of the traces, by weight, that visit it."""
    visits: float
    """Visits of a trace, on average over all traces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphEdge:
    """One node that follows another."""

    source: int
    """Position among the nodes."""
    target: int
    visits: float
    """How often a trace takes it, on average."""
    probability: float
    """Share of the visits to the source that go on to the target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceGraph:
    """Nodes in the order of the program, the start first and the end last, and the edges between them.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.toys import geometric
    >>> graph = trace_graph(ts.simulate(geometric, "traces", num_traces=100, seed=1))
    >>> [node.id for node in graph.nodes], len(graph.edges)
    (['start', 'A1', 'O1', 'end'], 4)
    >>> graph.to_dot().splitlines()[0], graph.to_svg()[:4]
    ('digraph traces {', '<svg')
    """

    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    num_traces: int
    num_left_out: int
    """Addresses that are not shown, the least visited ones: their visits are skipped."""
    covered: float
    """Share of the weight whose layouts were looked at."""

    def to_dot(self) -> str:
        """Return the graph in the language of Graphviz, every address a node of its own."""
        return write_dot(self)

    def to_svg(self) -> str:
        """Return the graph as an ``<svg>`` element; addresses that always follow each other share a box."""
        return draw_graph(self)[0]


def trace_graph(
    source: Posterior | TraceStore | LayoutShares,
    *,
    weighted: bool = True,
    with_tags: bool = False,
    instances: int = 1,
    max_nodes: int = MAX_NODES,
    addresses: Sequence[Address] | None = None,
) -> TraceGraph:
    """Count which address follows which, over all traces of a store or the weighted ones of a posterior.

    One layout stands for all its traces, so the cost goes with the layouts and not with the traces.

    Parameters
    ----------
    source
        A posterior, a store, or layouts with their shares.
    weighted
        Whether the weights of a posterior count; without them, importance sampling from the prior shows the prior.
    with_tags
        Whether tags are nodes, too.
    instances
        Visits to a base address that have nodes of their own; the last one stands for all further visits.
    max_nodes
        Nodes at most; those that fewest traces visit are left out.
    addresses
        Short ids to use, from `collect_addresses`; by default they are numbered here.

    Raises
    ------
    InvalidInputError
        When there is no trace, or a number is not positive.
    DegenerateWeightsError
        When no draw has weight.
    """
    if instances < 1 or max_nodes < 1:
        message = f"`instances` and `max_nodes` must be at least 1; got {instances} and {max_nodes}."
        raise InvalidInputError(message, argument="instances" if instances < 1 else "max_nodes")
    found = source if isinstance(source, LayoutShares) else layout_shares(source, weighted=weighted)
    numbered = addresses if addresses is not None else collect_addresses([found])
    wanted = {a.base: a for a in numbered if with_tags or a.role is not Role.TAGGED}
    keys = [(base, visit) for base in wanted for visit in range(1, instances + 1)]
    number = {key: place for place, key in enumerate(keys)}
    paths = [_path(layout, number, instances, with_tags=with_tags) for layout in found.layouts]
    presence = np.zeros(len(keys))
    for path, share in zip(paths, found.shares.tolist(), strict=True):
        presence[np.unique(path)] += share
    met = np.flatnonzero(presence > 0.0)
    kept = np.sort(met[np.argsort(-presence[met], kind="stable")][:max_nodes])
    counts = _count(paths, found.shares, kept, len(keys))
    nodes = _nodes([keys[place] for place in kept], wanted, counts, presence[kept], instances)
    return TraceGraph(
        nodes=nodes, edges=tuple(_edges(counts)), num_traces=found.num_traces, num_left_out=len(met) - len(kept),
        covered=found.covered,
    )  # fmt: skip


def _path(layout: Layout, number: dict[tuple[str, int], int], instances: int, *, with_tags: bool) -> NDArray[np.int64]:
    return np.array(
        [
            number[site.base, min(site.instance, instances)]
            for site in layout.sites
            if (with_tags or site.kind is not SiteKind.TAG) and (site.base, 1) in number
        ],
        dtype=np.int64,
    )


def _count(
    paths: Sequence[NDArray[np.int64]], shares: NDArray[np.float64], kept: NDArray[np.int64], num_keys: int
) -> NDArray[np.float64]:
    """Add up transitions: ``counts[i, j]`` from node i to node j, 0 being the start and the last the end."""
    size = len(kept) + 2
    place = np.zeros(num_keys, np.int64)
    place[kept] = np.arange(1, len(kept) + 1)
    counts = np.zeros(size * size)
    for path, share in zip(paths, shares.tolist(), strict=True):
        shown = place[path]
        steps = np.concatenate([[0], shown[shown > 0], [size - 1]])
        pairs, times = np.unique(steps[:-1] * size + steps[1:], return_counts=True)
        counts[pairs] += share * times
    return counts.reshape(size, size) / max(float(shares.sum()), 1e-300)


def _nodes(
    keys: Sequence[tuple[str, int]],
    addresses: dict[str, Address],
    counts: NDArray[np.float64],
    presence: NDArray[np.float64],
    instances: int,
) -> tuple[GraphNode, ...]:
    start = GraphNode(id="start", label="", role=None, base="", family="", share=1.0, visits=1.0)
    end = GraphNode(id="end", label="", role=None, base="", family="", share=1.0, visits=1.0)
    nodes = [start]
    for place, (base, visit) in enumerate(keys, start=1):
        address = addresses[base]
        suffix = "" if instances == 1 else f"#{visit}{'+' if visit == instances else ''}"
        nodes.append(
            GraphNode(
                id=address.id + suffix, label=address.label, role=address.role, base=base, family=address.family,
                share=min(float(presence[place - 1]), 1.0), visits=float(counts[:, place].sum()),
            )
        )  # fmt: skip
    return (*nodes, end)


def _edges(counts: NDArray[np.float64]) -> Iterable[GraphEdge]:
    leaving = counts.sum(axis=1)
    for source, target in np.argwhere(counts > 0.0).tolist():
        visits = float(counts[source, target])
        yield GraphEdge(source=source, target=target, visits=visits, probability=visits / float(leaving[source]))


def write_trace_graph(
    source: Posterior | TraceStore, path: str | Path, *, instances: int = 1, max_nodes: int = MAX_NODES
) -> Path:
    """Write the graph of a simulator's control flow to a file.

    Parameters
    ----------
    source
        A posterior, or a store of traces.
    path
        File that ends in ``.svg``, or in ``.dot`` or ``.gv`` for Graphviz.
    instances, max_nodes
        As in `trace_graph`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InvalidInputError
        When the file has another ending, or there is no trace.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.toys import branching
    >>> store = ts.simulate(branching, "branching", num_traces=100, seed=1)
    >>> write_trace_graph(store, "branching.svg").read_text()[:4]
    '<svg'
    """
    ending = Path(path).suffix.lower()
    if ending not in {".svg", ".dot", ".gv"}:
        message = f"A trace graph is written as .svg, .dot or .gv; got {str(path)!r}."
        raise InvalidInputError(message, argument="path")
    graph = trace_graph(source, instances=instances, max_nodes=max_nodes)
    return write_page(path, graph.to_svg() if ending == ".svg" else graph.to_dot())
