"""Marginals of all variables, engines over each other, and the pair plot."""

from html import escape
from typing import TYPE_CHECKING

from tracestore.reports.data import Marginal, Variable
from tracestore.reports.elements import engine_label, section
from tracestore.reports.numbers import format_number, format_share, format_with_error

if TYPE_CHECKING:
    from tracestore.reports.page import Page

__all__ = ["marginals", "pairs"]


def marginals(page: "Page") -> str:
    """Return the marginals of all variables."""
    cards = []
    for variable in page.variables:
        if variable.name not in page.marginals:
            continue
        lines: list[str] = []
        notes: dict[str, list[str]] = {}
        for engine in page.engines:
            marginal = engine.marginals.get(variable.name)
            if marginal is None or marginal.is_empty:
                lines.append(f"<li>{engine_label(engine)}<span class=note>no draws</span><span></span></li>")
                continue
            if marginal.note:
                notes.setdefault(marginal.note, []).append(engine.label)
            value, more = _headline(variable, marginal)
            lines.append(f"<li>{engine_label(engine)}<span class=value>{value}</span><span>{more}</span></li>")
        remarks = "".join(
            f"<figcaption>{escape(', '.join(labels))}: {escape(note)}.</figcaption>" for note, labels in notes.items()
        )
        width = " broad" if variable.name in page.wide else ""
        cards.append(
            f'<figure class="card{width}"><h3>{escape(variable.label)}</h3><ul class="key">{"".join(lines)}</ul>'
            f"{page.marginals[variable.name]}{remarks}</figure>"
        )
    note = (
        "Mean ± Monte Carlo standard error and standard deviation (sd) beside each engine; "
        "the likeliest category and its probability for discrete variables."
    )
    return section(
        "marginals", "Posterior marginals", note, f'<div class="grid thirds">{"".join(cards)}</div>' if cards else ""
    )


def _headline(variable: Variable, marginal: Marginal) -> tuple[str, str]:
    if not variable.is_discrete:
        return format_with_error(marginal.mean, marginal.mcse), f"sd {format_number(marginal.std)}"
    shares = [
        (float(marginal.weights[marginal.values == value].sum()), label) for value, label in variable.categories or ()
    ]
    share, label = max(shares)
    return escape(label), format_share(share)


def pairs(page: "Page") -> str:
    """Return the pair plot."""
    note = (
        "Contours hold 50 % and 90 % of the probability; points replace them where an engine has few effective draws. "
        "Rows of a discrete variable show the median, central 50 % and central 90 % in each category. "
        "Above the diagonal: correlations in the color of the engine. Dashed lines cross at the truth."
    )
    return section(
        "correlations", "Correlations", note, f'<figure class="wide">{page.pairs}</figure>' if page.pairs else ""
    )
