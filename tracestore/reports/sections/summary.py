"""The summary: whether the engines agree, and how far each can be trusted."""

from html import escape
from typing import TYPE_CHECKING

from tracestore.posteriors.findings import Verdict
from tracestore.reports.elements import CSS_CLASS, badge, engine_label, findings_list, section
from tracestore.reports.verdict import describe_trust

if TYPE_CHECKING:
    from tracestore.reports.page import Page

__all__ = ["summary"]

MAX_FINDINGS = 6


def summary(page: "Page") -> str:
    """Return the summary."""
    verdict, words = page.agreement
    trust = describe_trust(page.engines)
    if trust and verdict is Verdict.GOOD:
        verdict = Verdict.DOUBTFUL
    texts = [*([trust] if trust else []), *page.truth_words]
    more = "".join(f"<p>{escape(text)}</p>" for text in texts)
    banner = f'<div class="verdict {CSS_CLASS[verdict]}"><p><strong>{escape(words)}</strong></p>{more}</div>'
    cards = []
    for engine in page.engines:
        found = findings_list(engine.diagnosis.findings, MAX_FINDINGS)
        head = f"<h3>{engine_label(engine)}</h3>{badge(engine.verdict)}"
        cards.append(f'<div class="card"><div class="head">{head}</div>{found}</div>')
    return section("summary", "Summary", "", banner, f'<div class="grid fit">{"".join(cards)}</div>')
