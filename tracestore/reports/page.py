"""Lay out a report as one HTML page: records and finished figures in, text out. All foreign text is escaped here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from tracestore.diagnostics.weights import weighted_quantile
from tracestore.pages import render_document
from tracestore.reports.data import Engine, Marginal, Variable
from tracestore.reports.numbers import (
    MINUS,
    NONE,
    flatten_fields,
    format_number,
    format_rhat,
    format_seconds,
    format_share,
    format_with_error,
)
from tracestore.reports.verdict import Agreement, Judgement, Verdict, describe_trust

__all__ = ["Page", "render_page"]

CSS_CLASS = {Verdict.GOOD: "good", Verdict.DOUBTFUL: "doubtful", Verdict.BAD: "bad", None: "doubtful"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Everything on the page."""

    title: str = ""
    lead: str
    """One sentence below the title: simulator, engines."""
    engines: Sequence[Engine]
    variables: Sequence[Variable]
    judgements: Mapping[str, Judgement]
    """By engine label."""
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
    weights: str = ""
    loss: str = ""
    loss_words: str = ""
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
    sections = (
        _summary(page), _marginals(page), _pairs(page), _diagnostics(page), _numbers(page), _run(page),
    )  # fmt: skip
    versions = ", ".join(f"{name} {version}" for name, version in page.versions.items())
    body = "\n".join(part for part in sections if part)
    lead = f'<p class="lead">{escape(page.lead)}</p>\n{_key(page)}'
    return render_document(page.title, lead, body, versions)


def _line(engine: Engine) -> str:
    dash = engine.dash.replace("dashdot", "double")  # the nearest that CSS has
    return f'<span class="line" style="border-top:3px {dash} {engine.color}"></span>'


def _engine(engine: Engine) -> str:
    return f'<span class="engine">{_line(engine)}{escape(engine.label)}</span>'


def _key(page: Page) -> str:
    items = [f"<li>{_engine(e)}</li>" for e in page.engines]
    if any(v.truth is not None for v in page.variables):
        items.append('<li><span class="line" style="border-top:2px dashed #111418"></span>truth</li>')
    return f'<ul class="key">{"".join(items)}</ul>'


def _section(title: str, note: str, *parts: str) -> str:
    content = "\n".join(part for part in parts if part)
    if not content:
        return ""
    words = f'<p class="note">{note}</p>' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{words}\n{content}\n</section>"


def _table(caption: str, head: Sequence[str], groups: Iterable[Sequence[str]], num_text: int = 1) -> str:
    """Return a table; rows are finished ``<tr>`` elements, one list of them per group."""
    cells = "".join(f'<th scope="col"{" class=text" if i < num_text else ""}>{h}</th>' for i, h in enumerate(head))
    bodies = "".join(f'<tbody class="group">{"".join(rows)}</tbody>' for rows in groups)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    heads = f"<thead><tr>{cells}</tr></thead>" if cells else ""
    return f'<div class="scroll"><table>{title}{heads}{bodies}</table></div>'


def _badge(verdict: Verdict | None) -> str:
    words = verdict.value if verdict is not None else "not comparable"
    return f'<span class="badge {CSS_CLASS[verdict]}">{words}</span>'


def _summary(page: Page) -> str:
    verdict, words = page.agreement
    trust = describe_trust(page.judgements)
    if trust and verdict is Verdict.GOOD:
        verdict = Verdict.DOUBTFUL
    texts = [*([trust] if trust else []), *page.truth_words]
    more = "".join(f"<p>{escape(text)}</p>" for text in texts)
    banner = f'<div class="verdict {CSS_CLASS[verdict]}"><p><strong>{escape(words)}</strong></p>{more}</div>'
    cards = []
    for engine in page.engines:
        judgement = page.judgements[engine.label]
        reasons = "".join(f"<li>{escape(reason)}</li>" for reason in judgement.reasons)
        head = f"<h3>{_engine(engine)}</h3>{_badge(judgement.verdict)}"
        cards.append(f'<div class="card"><div class="head">{head}</div><ul>{reasons}</ul></div>')
    return _section("Summary", "", banner, f'<div class="grid fit">{"".join(cards)}</div>')


def _marginals(page: Page) -> str:
    cards = []
    for variable in page.variables:
        if variable.name not in page.marginals:
            continue
        lines: list[str] = []
        notes: dict[str, list[str]] = {}
        for engine in page.engines:
            marginal = engine.marginals.get(variable.name)
            if marginal is None or marginal.is_empty:
                lines.append(f"<li>{_engine(engine)}<span class=note>no draws</span><span></span></li>")
                continue
            if marginal.note:
                notes.setdefault(marginal.note, []).append(engine.label)
            value, more = _headline(variable, marginal)
            lines.append(f"<li>{_engine(engine)}<span class=value>{value}</span><span>{more}</span></li>")
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
    return _section("Posterior marginals", note, f'<div class="grid thirds">{"".join(cards)}</div>' if cards else "")


def _headline(variable: Variable, marginal: Marginal) -> tuple[str, str]:
    if not variable.is_discrete:
        return format_with_error(marginal.mean, marginal.mcse), f"sd {format_number(marginal.std)}"
    shares = [
        (float(marginal.weights[marginal.values == value].sum()), label) for value, label in variable.categories or ()
    ]
    share, label = max(shares)
    return escape(label), format_share(share)


def _pairs(page: Page) -> str:
    note = (
        "Contours hold 50 % and 90 % of the probability; points replace them where an engine has few effective draws. "
        "Rows of a discrete variable show the median, central 50 % and central 90 % in each category. "
        "Above the diagonal: correlations in the color of the engine. Dashed lines cross at the truth."
    )
    return _section("Correlations", note, f'<figure class="wide">{page.pairs}</figure>' if page.pairs else "")


def _diagnostics(page: Page) -> str:
    rows = []
    for e in page.engines:
        evidence = NONE if e.log_evidence is None else format_with_error(e.log_evidence, _nan(e.log_evidence_se))
        cells = (
            f"{e.num_draws:,}", f"{e.num_chains}" if not e.is_weighted else NONE, format_number(e.ess),
            format_number(e.ess / e.num_draws if e.num_draws else None, 2), format_number(e.khat, 2),
            format_share(e.max_weight) if e.is_weighted else NONE,
            format_rhat(e.max_rhat), format_share(e.acceptance), evidence,
        )  # fmt: skip
        label = f'<th scope="row">{_engine(e)}</th>'
        badge = f"<td>{_badge(page.judgements[e.label].verdict)}</td>"
        rows.append(f"<tr>{label}{''.join(f'<td>{cell}</td>' for cell in cells)}{badge}</tr>")
    head = ("engine", "draws", "chains", "ESS", "ESS / draw", "k-hat", "largest weight", "largest R-hat", "accepted",
            "log evidence", "verdict")  # fmt: skip
    note = "ESS: Kish, of the weights, for weighted engines; the smallest over the variables for chains."
    return _section("Diagnostics", note, _table("", head, [rows]), _diagnostic_figures(page))


def _diagnostic_figures(page: Page) -> str:
    chains = [
        f"<h3>{_line(e)}Chains of {escape(e.label)}</h3>{page.chains[e.label]}"
        for e in page.engines
        if e.label in page.chains
    ]
    others = []
    if page.weights:
        words = "Left: how far the weights spread. Right: a curve that starts high: few draws carry the answer."
        others.append(f"<h3>Importance weights</h3>{page.weights}<figcaption>{words}</figcaption>")
    if page.loss:
        others.append(f"<h3>Training loss</h3>{page.loss}<figcaption>{escape(page.loss_words)}</figcaption>")
    tall = " tall" if chains and len(others) > 1 else ""
    cards = [f'<figure class="card{tall if i == 0 else ""}">{c}</figure>' for i, c in enumerate(chains)]
    cards += [f'<figure class="card">{other}</figure>' for other in others]
    return f'<div class="grid halves">{"".join(cards)}</div>' if cards else ""


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _numbers(page: Page) -> str:
    return _section("Numbers", "", _agreement_table(page), _moments_table(page), *_probability_tables(page))


def _agreement_table(page: Page) -> str:
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
            + f"<td>{_badge(a.verdict)}</td></tr>"
        )
    head = ("variable", "largest difference of", "between", "difference", "in combined standard errors", "verdict")
    return _table("Agreement of engines", head, [rows], num_text=3)


def _moments_table(page: Page) -> str:
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
            engine_cell = f'<td class="text">{_engine(engine)}</td>'
            rows.append(f"<tr>{name}{engine_cell}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
        if rows and variable.truth is not None:
            truth = f'<td class="text note">truth</td><td>{format_number(variable.truth, 4)}</td>'
            rows.append(f"<tr><td></td>{truth}{'<td></td>' * 7}</tr>")
        groups.append(rows)
    head = ("variable", "engine", "mean ± MCSE", "sd", "5 %", "median", "95 %", "ESS", "R-hat", "posterior below truth")
    return _table("Continuous variables", head, groups, num_text=2) if any(groups) else ""


def _probability_tables(page: Page) -> list[str]:
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
            head = ("category", *(_engine(e) for e, _ in shown))
            tables.append(_table(f"Probabilities of {variable.label}", head, [rows]))
    return tables


def _run(page: Page) -> str:
    return _section("What was run", "", _phase_table(page), _job_table(page), *map(_facts, page.jobs.items()))


def _facts(job: tuple[str, Mapping[str, object]]) -> str:
    label, fields = job
    flat = flatten_fields(fields)
    # what was done before how it was configured
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(flat[name])}</dd></div>"
        for name in sorted(flat, key=lambda n: "." in n)
    )
    return f'<div class="card facts"><h3>{escape(label)}</h3><dl>{items}</dl></div>'


def _phase_table(page: Page) -> str:
    total = sum(page.phases.values())
    if not total > 0:
        return ""
    longest = max(page.phases.values())
    rows = [
        f'<tr><th scope="row">{escape(name)}</th><td>{format_seconds(seconds)}</td>'
        f"<td>{format_share(seconds / total)}</td>"
        f'<td class="barcell"><span class="bar" style="width:{100 * seconds / longest:.1f}%"></span></td></tr>'
        for name, seconds in page.phases.items()
    ]
    rows.append(f'<tr><th scope="row">total</th><td>{format_seconds(total)}</td><td></td><td></td></tr>')
    return _table("Time", ("phase", "wall time", "share", ""), [rows])


def _job_table(page: Page) -> str:
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
    head = ("", *(_engine(e) for e, _ in shown))
    return _table("Inference", head, [rows], num_text=len(head))
