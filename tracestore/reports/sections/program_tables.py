"""The simulator as its traces show it: trace graph, addresses with their source, trace types."""

from html import escape
from typing import TYPE_CHECKING

from tracestore.reports.data import Engine
from tracestore.reports.elements import engine_label, section, table
from tracestore.reports.graph_drawing import ROLE_COLORS
from tracestore.reports.numbers import NONE, format_number, format_share
from tracestore.reports.program import Address, Program, Role, Use
from tracestore.reports.source_lines import SourceLine

if TYPE_CHECKING:
    from tracestore.reports.page import Page

__all__ = ["program_tables"]

FEW_ADDRESSES = 25
"""More of them are folded away."""


def program_tables(page: "Page") -> str:
    """Return what is known of the simulator."""
    note = (
        "An address is one place in the program where something random happens; a trace type is one sequence of "
        "sampled addresses. Numbers are shares of the posterior of each engine."
    )
    if page.program is None:
        return ""
    parts = (_graphs(page), _addresses(page, page.program), _trace_types(page, page.program))
    return section("simulator", "Simulator", note, *parts)


def _graphs(page: "Page") -> str:
    if not page.graphs:
        return ""
    roles = dict.fromkeys(address.role for address in page.program.addresses) if page.program is not None else {}
    dots = "".join(
        f'<li><span class="dot" style="background:{ROLE_COLORS[role]}"></span>{role.value}</li>'
        for role in ROLE_COLORS
        if role in roles and role is not Role.TAGGED
    )
    words = (
        "Boxes hold addresses that always follow each other. On an edge: the share of the visits that go on this way; "
        "nothing where all do. In a box: the share of the traces with the address, or how often a trace visits it. "
        "Thick edges are taken often, dashed ones lead back. Tags are left out."
    )
    figures = "".join(
        f"<details{' open' if number == 0 else ''}><summary>{escape(figure.title)}</summary>"
        f'<div class="graph">{figure.svg}</div>{f"<p class=note>{escape(figure.note)}</p>" if figure.note else ""}'
        "</details>"
        for number, figure in enumerate(page.graphs)
    )
    return (
        f'<figure class="wide"><h3>Trace graph</h3><ul class="key">{dots}</ul>{figures}'
        f"<figcaption>{words}</figcaption></figure>"
    )


def _addresses(page: "Page", program: Program) -> str:
    engines = [engine for engine in page.engines if engine.label in program.uses]
    groups = [_address_rows(address, engines, program) for address in program.addresses]
    head = ("", "address", "role", "family", "engine", "present in", "visits", "mean", "sd")
    shown = table("Addresses", head, groups, num_text=5)
    notes = ["Visits: on average in a trace that has it. Mean and sd: of the first visit, where it is a scalar."]
    if program.num_addresses > len(program.addresses):
        notes.append(
            f"{program.num_addresses - len(program.addresses):,} addresses of the smallest share are left out."
        )
    notes += [
        f"Of {label}, the paths of {format_share(covered)} of the posterior were looked at."
        for label, covered in program.covered.items()
        if covered < 0.9995
    ]
    words = f'<p class="note">{escape(" ".join(notes))}</p>'
    if len(program.addresses) <= FEW_ADDRESSES:
        return shown + words
    return f"<details><summary>{len(program.addresses):,} addresses</summary>{shown}</details>{words}"


def _address_rows(address: Address, engines: list[Engine], program: Program) -> list[str]:
    rows: list[str] = []
    color = ROLE_COLORS[address.role]
    size = f"[{', '.join(map(str, address.shape))}]" if address.shape else ""
    for engine in engines:
        use = program.uses[engine.label].get(address.base)
        first = ""
        if not rows:
            span = f'rowspan="{len(engines)}"'
            family = f"{address.family}{size}" if address.family else NONE
            first = (
                f'<th scope="row" class="short" style="color:{color}" {span}>{address.id}</th>'
                f'<td class="place" {span}>{_place(address)}</td>'
                f'<td class="text" {span}>{address.role.value}</td><td class="text" {span}>{escape(family)}</td>'
            )
        rows.append(f'<tr>{first}<td class="text">{engine_label(engine)}</td>{_use_cells(use)}</tr>')
    if address.source is not None:
        rows.append(f'<tr><td></td><td class="source" colspan="8">{_source(address.source)}</td></tr>')
    return rows


def _use_cells(use: Use | None) -> str:
    if use is None:
        return f"<td>{format_share(0.0)}</td>" + f"<td>{NONE}</td>" * 3
    visits = format_number(use.mean_visits) if use.most_visits > 1 else "1"
    cells = (format_share(use.share), visits, format_number(use.mean), format_number(use.sd))
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _place(address: Address) -> str:
    names = f"<strong>{escape(', '.join(address.names[:4]))}{' ...' if len(address.names) > 4 else ''}</strong> "
    base = f"<code>{escape(address.base)}</code>"
    return f"{names if address.names else ''}{base}"


def _source(source: SourceLine) -> str:
    indent = min((len(text) - len(text.lstrip()) for _, text in source.excerpt if text.strip()), default=0)
    lines = []
    for number, text in source.excerpt:
        mark = ' class="marked"' if source.line <= number <= source.last_line else ""
        lines.append(f"<span{mark}>{number:>5}  {escape(text[indent:])}\n</span>")
    return f"<details><summary>{escape(source.where)}</summary><pre>{''.join(lines)}</pre></details>"


def _trace_types(page: "Page", program: Program) -> str:
    engines = [engine for engine in page.engines if engine.label in program.uses]
    rows = []
    for row in program.trace_types:
        shares = "".join(f"<td>{format_share(row.shares.get(e.label, 0.0))}</td>" for e in engines)
        counts = f"{sum(row.counts.values()):,}"
        rows.append(
            f'<tr><td class="sequence"><code>{escape(row.sequence)}</code></td><td>{row.num_sites:,}</td>'
            f"<td>{counts}</td>{shares}</tr>"
        )
    left = program.num_types - len(program.trace_types)
    if left > 0:
        shares = "".join(f"<td>{format_share(program.rest.get(e.label, 0.0))}</td>" for e in engines)
        rows.append(f'<tr><td class="text note">{left:,} more</td><td></td><td></td>{shares}</tr>')
    head = ("sequence of sampled addresses", "draws", "traces", *map(engine_label, engines))
    return table(f"Trace types: {program.num_types:,}", head, [rows])
