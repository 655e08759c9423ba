"""Everything on the page of a report, in its order: records and finished figures in, text out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from tracestore.pages import render_document
from tracestore.posteriors.findings import Verdict
from tracestore.reports.data import Engine, Variable
from tracestore.reports.elements import engine_label
from tracestore.reports.program import Program
from tracestore.reports.sections.diagnostics import diagnostics
from tracestore.reports.sections.marginals import marginals, pairs
from tracestore.reports.sections.number_tables import number_tables
from tracestore.reports.sections.program_tables import program_tables
from tracestore.reports.sections.run_facts import run_facts
from tracestore.reports.sections.summary import summary
from tracestore.reports.verdict import Agreement

__all__ = ["Page", "TraceFigure", "render_page"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFigure:
    """The trace graph of one engine."""

    title: str
    svg: str
    note: str
    """What the figure leaves out, as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Everything on the page; empty parts leave their section out."""

    title: str = ""
    lead: str
    """One sentence below the title: simulator, engines."""
    engines: Sequence[Engine]
    variables: Sequence[Variable]
    agreements: Sequence[Agreement]
    agreement: tuple[Verdict | None, str]
    truth_words: Sequence[str] = ()
    marginals: Mapping[str, str] = field(default_factory=dict)
    """SVG by variable name."""
    wide: frozenset[str] = frozenset()
    """Names of variables whose marginal takes two columns."""
    pairs: str = ""
    chains: Mapping[str, str] = field(default_factory=dict)
    """SVG by engine label."""
    running: Mapping[str, str] = field(default_factory=dict)
    """SVG of R-hat and sizes against the length of the chains, by engine label."""
    weights: str = ""
    loss: str = ""
    loss_words: str = ""
    calibration: str = ""
    """Content of the section, as HTML."""
    program: Program | None = None
    graphs: Sequence[TraceFigure] = ()
    """The first one is open."""
    phases: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase, in order."""
    jobs: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Fields of the jobs before the inference, by label."""
    versions: Mapping[str, str] = field(default_factory=dict)


def render_page(page: Page) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    page
        What it shows; empty parts leave their section out.
    """
    sections = {
        "Summary": summary(page),
        "Marginals": marginals(page),
        "Correlations": pairs(page),
        "Diagnostics": diagnostics(page),
        "Calibration": page.calibration,
        "Simulator": program_tables(page),
        "Numbers": number_tables(page),
        "Run": run_facts(page),
    }
    versions = ", ".join(f"{name} {version}" for name, version in page.versions.items())
    body = "\n".join(part for part in sections.values() if part)
    links = "".join(f'<li><a href="#{name.lower()}">{name}</a></li>' for name, part in sections.items() if part)
    lead = (
        f'<p class="lead">{escape(page.lead)}</p>\n{_key(page)}\n'
        f'<nav aria-label="Sections"><ul class="links">{links}</ul></nav>'
    )
    return render_document(page.title, lead, body, versions)


def _key(page: Page) -> str:
    items = [f"<li>{engine_label(e)}</li>" for e in page.engines]
    if any(v.truth is not None for v in page.variables):
        items.append('<li><span class="line" style="border-top:2px dashed #111418"></span>truth</li>')
    return f'<ul class="key">{"".join(items)}</ul>'
