"""Elements that the sections of a report share, as HTML text. All foreign text is escaped where it comes in."""

import re
from collections.abc import Iterable, Sequence
from html import escape

from tracestore.posteriors.findings import Finding, Verdict
from tracestore.reports.data import Engine

__all__ = ["CSS_CLASS", "badge", "bar", "engine_label", "engine_line", "findings_list", "prose", "section", "table"]

CSS_CLASS = {Verdict.GOOD: "good", Verdict.DOUBTFUL: "doubtful", Verdict.BAD: "bad", None: "doubtful"}


def engine_line(engine: Engine) -> str:
    """Return a piece of the line that stands for an engine in the figures."""
    dash = engine.dash.replace("dashdot", "double")  # the nearest that CSS has
    return f'<span class="line" style="border-top:3px {dash} {engine.color}"></span>'


def engine_label(engine: Engine) -> str:
    """Return the line and the name of an engine."""
    return f'<span class="engine">{engine_line(engine)}{escape(engine.label)}</span>'


def section(anchor: str, title: str, note: str, *parts: str) -> str:
    """Return a section with a heading; nothing when no part has content.

    Parameters
    ----------
    anchor
        Id that links of the page lead to.
    title
        Heading, as text.
    note
        Sentence below it, as HTML.
    *parts
        What it holds, as HTML.

    Examples
    --------
    >>> section("a", "Empty", "Nothing.", ""), section("a", "One", "", "<p>1</p>")[:16]
    ('', '<section id="a">')
    """
    content = "\n".join(part for part in parts if part)
    if not content:
        return ""
    words = f'<p class="note">{note}</p>' if note else ""
    return f'<section id="{anchor}">\n<h2>{escape(title)}</h2>\n{words}\n{content}\n</section>'


def table(caption: str, head: Sequence[str], groups: Iterable[Sequence[str]], num_text: int = 1) -> str:
    """Return a table.

    Parameters
    ----------
    caption
        As text; none when empty.
    head
        Headings of the columns, as HTML.
    groups
        Rows as finished ``<tr>`` elements, one list of them per group.
    num_text
        Columns at the left that hold text.
    """
    cells = "".join(f'<th scope="col"{" class=text" if i < num_text else ""}>{h}</th>' for i, h in enumerate(head))
    bodies = "".join(f'<tbody class="group">{"".join(rows)}</tbody>' for rows in groups)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    heads = f"<thead><tr>{cells}</tr></thead>" if cells else ""
    return f'<div class="scroll"><table>{title}{heads}{bodies}</table></div>'


def badge(verdict: Verdict | None) -> str:
    """Return a verdict as a colored word."""
    words = verdict.words if verdict is not None else "not comparable"
    return f'<span class="badge {CSS_CLASS[verdict]}">{words}</span>'


def prose(text: str) -> str:
    """Return text as HTML, with what stands between backquotes as code.

    Examples
    --------
    >>> prose("a < b: use `ic`")
    'a &lt; b: use <code>ic</code>'
    """
    return re.sub(r"`([^`<>]+)`", r"<code>\1</code>", escape(text))


def findings_list(findings: Sequence[Finding], most: int) -> str:
    """Return findings with their advice as a list, those beyond a number folded away.

    Parameters
    ----------
    findings
        The worst first.
    most
        How many are shown at once.
    """
    items = [
        f'<li class="{CSS_CLASS[finding.verdict]}">{prose(finding.text)}'
        + (f' <span class="advice">{prose(finding.advice)}</span>' if finding.advice else "")
        + "</li>"
        for finding in findings
    ]
    shown = f'<ul class="findings">{"".join(items[:most])}</ul>'
    if len(items) <= most:
        return shown
    rest = f'<ul class="findings">{"".join(items[most:])}</ul>'
    return f"{shown}<details><summary>{len(items) - most} more</summary>{rest}</details>"


def bar(share: float, color: str = "") -> str:
    """Return a bar of a length between 0 and 1 of its cell."""
    paint = f";background:{color}" if color else ""
    return f'<span class="bar" style="width:{100 * min(max(share, 0.0), 1.0):.1f}%{paint}"></span>'
