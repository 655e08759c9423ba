"""What was run: times, jobs and their configuration."""

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from tracestore.reports.elements import bar, engine_label, section, table
from tracestore.reports.numbers import NONE, flatten_fields, format_seconds, format_share

if TYPE_CHECKING:
    from tracestore.reports.page import Page

__all__ = ["run_facts"]


def run_facts(page: "Page") -> str:
    """Return what was run, and how long it took."""
    return section("run", "What was run", "", _phase_table(page), _job_table(page), *map(_facts, page.jobs.items()))


def _facts(job: tuple[str, Mapping[str, object]]) -> str:
    label, fields = job
    flat = flatten_fields(fields)
    # what was done before how it was configured
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(flat[name])}</dd></div>"
        for name in sorted(flat, key=lambda n: "." in n)
    )
    return f'<div class="card facts"><h3>{escape(label)}</h3><dl>{items}</dl></div>'


def _phase_table(page: "Page") -> str:
    total = sum(page.phases.values())
    if not total > 0:
        return ""
    longest = max(page.phases.values())
    rows = [
        f'<tr><th scope="row">{escape(name)}</th><td>{format_seconds(seconds)}</td>'
        f"<td>{format_share(seconds / total)}</td>"
        f'<td class="barcell">{bar(seconds / longest)}</td></tr>'
        for name, seconds in page.phases.items()
    ]
    rows.append(f'<tr><th scope="row">total</th><td>{format_seconds(total)}</td><td></td><td></td></tr>')
    return table("Time", ("phase", "wall time", "share", ""), [rows])


def _job_table(page: "Page") -> str:
    shown = [(e, e.facts) for e in page.engines if e.facts is not None]
    if not shown:
        return ""
    columns = []
    for _, facts in shown:
        column = {"verb": facts.verb, "store": facts.place, **flatten_fields(facts.fields)}
        columns.append(column | {"failed traces": f"{facts.num_failed:,}"})
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f'<td class="wrap">{escape(column.get(name, NONE))}</td>' for column in columns)
        + "</tr>"
        for name in names
        if any(column.get(name, NONE) != NONE for column in columns)
    ]
    head = ("", *(engine_label(e) for e, _ in shown))
    return table("Inference", head, [rows], num_text=len(head))
