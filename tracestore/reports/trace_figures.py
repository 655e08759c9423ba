"""The trace graphs of a report: one an engine, the most trusted first, and that of the prior where draws show it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from tracestore.errors import InvalidInputError
from tracestore.posteriors.posterior import Posterior
from tracestore.reports.data import Engine
from tracestore.reports.graph_drawing import draw_graph
from tracestore.reports.layout_shares import LayoutShares, layout_shares
from tracestore.reports.numbers import format_share
from tracestore.reports.page import TraceFigure
from tracestore.reports.program import Address, collect_addresses
from tracestore.reports.trace_graph import TraceGraph, trace_graph

__all__ = ["trace_figures"]

PRIOR_ENGINES = {"is", "prior"}
"""Engines whose draws come from the prior."""


def trace_figures(
    engines: Sequence[Engine], posteriors: Mapping[str, Posterior], found: Mapping[str, LayoutShares]
) -> list[TraceFigure]:
    """Draw the trace graph of each engine; equal addresses have equal short ids in all of them.

    Parameters
    ----------
    engines
        Those of the report.
    posteriors
        By the labels of the engines.
    found
        Layouts of those that have any weight.
    """
    addresses = collect_addresses(list(found.values()))
    shown = [engine for engine in engines if engine.label in found]
    # the engine that its own diagnostics trust most stands open on the page
    shown.sort(key=lambda engine: engine.verdict.rank)
    figures = [
        _figure(
            "Prior" if posteriors[e.label].engine == "prior" else f"Posterior, {e.label}", found[e.label], addresses
        )
        for e in shown
    ]
    prior = next((p for p in posteriors.values() if set(p.engine.split("+")) <= PRIOR_ENGINES), None)
    if prior is not None and prior.engine != "prior":
        with suppress(InvalidInputError):  # every draw failed
            figures.append(_figure("Prior", layout_shares(prior, weighted=False), addresses))
    return figures


def _figure(title: str, shares: LayoutShares, addresses: Sequence[Address]) -> TraceFigure:
    graph = trace_graph(shares, addresses=addresses)
    svg, num_rare = draw_graph(graph)
    return TraceFigure(title=title, svg=svg, note=_left_out(graph, num_rare))


def _left_out(graph: TraceGraph, num_rare: int) -> str:
    parts = []
    if graph.num_left_out:
        parts.append(f"{graph.num_left_out:,} addresses that few traces visit are skipped.")
    if num_rare:
        parts.append(f"{num_rare:,} transitions that less than one trace in 500 makes are not drawn.")
    if graph.covered < 0.9995:
        parts.append(f"The most frequent paths were looked at: {format_share(graph.covered)} of the traces.")
    return " ".join(parts)
