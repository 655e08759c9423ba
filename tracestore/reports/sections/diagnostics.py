"""Diagnostics: one line an engine, weights, chains with their moves, training loss."""

from html import escape
from typing import TYPE_CHECKING

from tracestore.reports.data import Engine
from tracestore.reports.elements import badge, bar, engine_label, engine_line, section, table
from tracestore.reports.numbers import NONE, format_number, format_rhat, format_share, format_with_error

if TYPE_CHECKING:
    from tracestore.reports.page import Page

__all__ = ["diagnostics"]

MAX_ADDRESSES = 20
"""Addresses whose acceptance is shown at once; more can be unfolded."""


def diagnostics(page: "Page") -> str:
    """Return the diagnostics."""
    rows = []
    for e in page.engines:
        evidence = NONE if e.log_evidence is None else format_with_error(e.log_evidence, _nan(e.log_evidence_se))
        cells = (
            f"{e.num_draws:,}", f"{e.num_chains}" if not e.is_weighted else NONE, format_number(e.ess),
            format_number(e.ess / e.num_draws if e.num_draws else None, 2), format_number(e.khat, 2),
            format_share(e.max_weight) if e.is_weighted else NONE,
            format_rhat(e.max_rhat), format_share(e.acceptance), evidence,
        )  # fmt: skip
        label = f'<th scope="row">{engine_label(e)}</th>'
        cell = f"<td>{badge(e.verdict)}</td>"
        rows.append(f"<tr>{label}{''.join(f'<td>{number}</td>' for number in cells)}{cell}</tr>")
    head = ("engine", "draws", "chains", "ESS", "ESS / draw", "k-hat", "largest weight", "largest R-hat", "accepted",
            "log evidence", "verdict")  # fmt: skip
    note = "ESS: Kish, of the weights, for weighted engines; the smallest over the variables for chains."
    chains = [part for e in page.engines for part in (_chains(page, e), _running(page, e), _moves(e), _addresses(e))]
    return section("diagnostics", "Diagnostics", note, table("", head, [rows]), _weights(page), *chains, _loss(page))


def _weights(page: "Page") -> str:
    words = (
        "Upper row, left: how far the weights spread. Middle: the largest weights as points, the generalized Pareto "
        "tail fitted to them as a line; k-hat is its shape. Right: where the curve starts high, few draws carry all. "
        "Lower row, against the number of draws: an effective sample size that falls back, a log evidence that jumps, "
        "or a k-hat above its limit tell of rare draws with large weights."
    )
    return _wide("Importance weights", page.weights, words)


def _chains(page: "Page", engine: Engine) -> str:
    words = (
        "Left: values of each chain, thinned for the figure. Middle: how the ranks of each chain, among those of all "
        "chains, are spread; chains that agree stay in the gray band nine times in ten. Right: autocorrelation of each "
        "chain."
    )
    return _wide(f"Chains of {engine.label}", page.chains.get(engine.label, ""), words, engine)


def _running(page: "Page", engine: Engine) -> str:
    words = (
        "The variables that mix worst. R-hat should come below the dashed line and stay there; the effective sample "
        "size should grow like the dotted line, which is that of independent draws, or parallel to it."
    )
    return _wide(f"Convergence of {engine.label}", page.running.get(engine.label, ""), words, engine)


def _wide(title: str, svg: str, words: str, engine: Engine | None = None) -> str:
    line = engine_line(engine) if engine is not None else ""
    heading = f"<h3>{line}{escape(title)}</h3>"
    return f'<figure class="wide">{heading}{svg}<figcaption>{words}</figcaption></figure>' if svg else ""


def _moves(engine: Engine) -> str:
    """Table of the moves of all chains."""
    by_move: dict[str, list[tuple[int, int, int]]] = {}
    for row in engine.moves:
        by_move.setdefault(row.move, []).append((row.num_proposed, row.num_accepted, row.num_failed))
    rows = []
    for move, counts in by_move.items():
        proposed, accepted, failed = (sum(column) for column in zip(*counts, strict=True))
        rates = [a / p for p, a, _ in counts if p]
        between = f"{format_share(min(rates))} to {format_share(max(rates))}" if len(rates) > 1 else NONE
        rate = accepted / proposed if proposed else None
        numbers = "".join(f"<td>{cell}</td>" for cell in (f"{proposed:,}", f"{failed:,}", between, format_share(rate)))
        cell = f'<td class="barcell">{bar(rate or 0.0, engine.color)}</td>'
        rows.append(f'<tr><th scope="row">{escape(move)}</th>{numbers}{cell}</tr>')
    head = ("move", "proposed", "failed runs", "accepted, by chain", "accepted", "")
    return table(f"Moves of {engine.label}, after warm-up", head, [rows]) if rows else ""


def _addresses(engine: Engine) -> str:
    """Table of the moves of single draws, by address."""
    rows = [
        f'<tr><td class="wrap">{escape(row.address)}</td><td>{row.num_proposed:,}</td>'
        f"<td>{format_share(row.rate)}</td>"
        f'<td class="barcell">{bar(row.rate if row.num_proposed else 0.0, engine.color)}</td></tr>'
        for row in engine.addresses
    ]
    if not rows:
        return ""
    head = ("address", "proposed", "accepted", "")
    shown = table(f"Moves of {engine.label} by address, after warm-up", head, [rows[:MAX_ADDRESSES]])
    if len(rows) <= MAX_ADDRESSES:
        return shown
    rest = table("", head, [rows[MAX_ADDRESSES:]])
    return f"{shown}<details><summary>{len(rows) - MAX_ADDRESSES:,} more addresses</summary>{rest}</details>"


def _loss(page: "Page") -> str:
    if not page.loss:
        return ""
    card = f"<h3>Training loss</h3>{page.loss}<figcaption>{escape(page.loss_words)}</figcaption>"
    return f'<div class="grid halves"><figure class="card">{card}</figure></div>'


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
