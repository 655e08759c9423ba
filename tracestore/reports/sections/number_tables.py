"""Numbers behind the figures: agreement of engines, moments, quantiles, probabilities."""

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from tracestore.diagnostics.weights import weighted_quantile
from tracestore.reports.elements import badge, engine_label, section, table
from tracestore.reports.numbers import MINUS, NONE, format_number, format_rhat, format_share, format_with_error

if TYPE_CHECKING:
    from tracestore.reports.page import Page

__all__ = ["number_tables"]


def number_tables(page: "Page") -> str:
    """Return the tables of numbers."""
    return section("numbers", "Numbers", "", _agreement_table(page), _moments_table(page), *_probability_tables(page))


def _agreement_table(page: "Page") -> str:
    if len(page.engines) < 2:
        return ""
    rows = []
    for a in page.agreements:
        pair = f" {MINUS} ".join(a.engines) if any(a.engines) else NONE
        what = f"probability of {a.category}" if a.category else "mean"
        cells = (what if any(a.engines) else NONE, pair)
        numbers = (format_number(a.difference, 2), format_number(a.num_errors, 2))
        rows.append(
            f'<tr><th scope="row">{escape(a.variable.label)}</th>'
            + "".join(f'<td class="text">{escape(cell)}</td>' for cell in cells)
            + "".join(f"<td>{number}</td>" for number in numbers)
            + f"<td>{badge(a.verdict)}</td></tr>"
        )
    head = ("variable", "largest difference of", "between", "difference", "in combined standard errors", "verdict")
    return table("Agreement of engines", head, [rows], num_text=3)


def _moments_table(page: "Page") -> str:
    groups = []
    for variable in page.variables:
        rows: list[str] = []
        for engine in page.engines:
            m = engine.marginals.get(variable.name)
            if m is None or m.is_empty or variable.is_discrete:
                continue
            name = f'<th scope="row">{escape(variable.label)}</th>' if not rows else "<td></td>"
            quantiles = [format_number(q) for q in weighted_quantile(m.values, m.weights, (0.05, 0.5, 0.95))]
            below = NONE
            if variable.truth is not None:
                at = (m.values < variable.truth) + 0.5 * (m.values == variable.truth)
                below = format_share(float(m.weights @ at))
            cells = (format_with_error(m.mean, m.mcse), format_number(m.std), *quantiles, format_number(m.ess),
                     format_rhat(m.rhat), below)  # fmt: skip
            engine_cell = f'<td class="text">{engine_label(engine)}</td>'
            rows.append(f"<tr>{name}{engine_cell}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
        if rows and variable.truth is not None:
            truth = f'<td class="text note">truth</td><td>{format_number(variable.truth, 4)}</td>'
            rows.append(f"<tr><td></td>{truth}{'<td></td>' * 7}</tr>")
        groups.append(rows)
    head = ("variable", "engine", "mean ± MCSE", "sd", "5 %", "median", "95 %", "ESS", "R-hat", "posterior below truth")
    return table("Continuous variables", head, groups, num_text=2) if any(groups) else ""


def _probability_tables(page: "Page") -> list[str]:
    tables = []
    for variable in page.variables:
        if not variable.is_discrete:
            continue
        shown = [(e, m) for e in page.engines if (m := e.marginals.get(variable.name)) is not None and not m.is_empty]
        rows = []
        for value, label in variable.categories or ():
            shares = [float(m.weights[m.values == value].sum()) for _, m in shown]
            if max(shares, default=0.0) < 0.002 and value != variable.truth:
                continue
            cells = []
            for (engine, m), share in zip(shown, shares, strict=True):
                size = m.ess if np.isfinite(m.ess) else engine.ess
                error = float(np.sqrt(share * (1 - share) / size)) if size > 0 else float("nan")
                cells.append(f"<td>{format_with_error(share, error) if share > 0 else '0'}</td>")
            mark = ' <span class="note">truth</span>' if value == variable.truth else ""
            rows.append(f'<tr><th scope="row">{escape(label)}{mark}</th>{"".join(cells)}</tr>')
        if rows:
            head = ("category", *(engine_label(e) for e, _ in shown))
            tables.append(table(f"Probabilities of {variable.label}", head, [rows]))
    return tables
