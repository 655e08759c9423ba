"""Write what a plan does as one HTML page that opens offline, without scripts. Measures nothing."""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from html import escape
from importlib.metadata import version
from pathlib import Path

from tracestore.samplers.plan_plots import draw_imbalance, draw_padding, draw_shuffle, draw_steps, draw_types
from tracestore.samplers.plan_report import PlanReport

__all__ = ["write_plan_page"]

STYLE_SHEET = """
:root {
  color-scheme: light;
  --sans: "Inter", "Segoe UI", "Helvetica Neue", "Liberation Sans", Arial, sans-serif;
  --ink: #1c232b; --muted: #5b6670; --line: #dfe3e7; --soft: #f5f7f8;
}
* { box-sizing: border-box; }
html { font: 15px/1.5 var(--sans); color: var(--ink); background: var(--soft); }
body { margin: 0 auto; max-width: 1280px; padding: 32px clamp(16px, 3vw, 40px) 48px; }
h1 { font-size: 28px; line-height: 1.2; font-weight: 650; margin: 0 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 19px; font-weight: 650; margin: 36px 0 10px; }
h3 { font-size: 15px; font-weight: 650; margin: 0 0 8px; }
p { margin: 4px 0; max-width: 96ch; }
.lead { color: var(--muted); font-size: 16px; }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); }
.card {
  background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 16px 18px; margin: 0; min-width: 0;
}
.wide { margin-bottom: 16px; }
.card svg { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; }
figcaption, footer { color: var(--muted); font-size: 13.5px; margin-top: 6px; }
footer { margin-top: 32px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: right; border-top: 1px solid var(--line); vertical-align: top; }
thead th { font-size: 12.5px; font-weight: 600; color: var(--muted); border-top: 0; }
tbody th { font-weight: 500; }
th:first-child { text-align: left; padding-left: 0; }
td:last-child, th:last-child { padding-right: 0; }
tr:first-child > * { border-top: 0; }
thead + tbody tr:first-child > * { border-top: 1px solid var(--line); }
.own > * { font-weight: 650; }
@media print { html { background: #fff; } .card { break-inside: avoid; } }
"""


def write_plan_page(report: PlanReport, path: str | Path, *, title: str = "Batches") -> Path:
    """Write a page about a plan; it is replaced in one step, and is the same for the same report.

    Parameters
    ----------
    report
        What was measured.
    path
        The HTML file.
    title
        Heading of the page.

    Returns
    -------
    Path
        The file.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.samplers import BatchPlan, BatchPolicy
    >>> from tracestore.samplers.plan_report import examine_plan
    >>> from tracestore.simulators.toys import branching
    >>> store = ts.simulate(branching, "traces", num_traces=500, seed=1)
    >>> plan = BatchPlan(store.runs, BatchPolicy(global_batch=80), seed=1)
    >>> write_plan_page(examine_plan(plan, store.runs, num_ranks=5), "plan.html").name
    'plan.html'
    """
    return _write(Path(path), _render(report, title))


def _render(report: PlanReport, title: str) -> str:
    ranks = f"{report.num_ranks:,} rank{'s' if report.num_ranks != 1 else ''}"
    lead = f"{report.num_traces:,} traces, {report.num_steps:,} steps of {report.step_words}, on {ranks}."
    examined = len(report.steps.step)
    if examined < report.num_steps:
        lead += f" Steps are measured on {examined:,} of them, evenly spread."
    allowed = "Any number of ranks can share a step."
    if report.allowed_ranks is not None:
        allowed = f"Ranks that can share a step: {', '.join(map(str, report.allowed_ranks))}."
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE_SHEET}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{lead}</p>\n<p class="lead">{allowed}</p>\n'
        f"{_balance(report, ranks)}\n{_epoch(report)}\n{_numbers(report)}\n"
        f"<footer>tracestore {escape(version('tracestore'))}, epoch {report.epoch}, seed {report.seed}</footer>\n"
        "</body>\n</html>\n"
    )


def _balance(report: PlanReport, ranks: str) -> str:
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("scheme", "max / mean cost", "worst step", "padding", "steps", "traces dropped")
    )
    rows = "".join(
        f'<tr{" class=own" if place == 0 else ""}><th scope="row">{escape(one.name)}</th><td>{one.imbalance:.4f}</td>'
        f"<td>{one.worst:.3f}</td><td>{one.padding:.1%}</td><td>{one.num_steps:,}</td><td>{one.num_dropped:,}</td></tr>"
        for place, one in enumerate(report.schemes)
    )
    table = (
        f'<div class="card wide scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        "<figcaption>The cost of a step is that of its slowest rank. Max / mean adds this up over the epoch, and "
        "divides by the mean over ranks: 1 is perfect. The other schemes deal the same traces.</figcaption></div>"
    )
    figures = (
        _figure(
            "Waiting",
            draw_imbalance(report.schemes),
            "By the cost model, a rank that has finished waits for the slowest one for this share of the epoch.",
        ),
        _figure(
            "Padding",
            draw_padding(report.schemes),
            "If each rank pads its traces to its longest, this share is empty; a network that steps through traces "
            "type by type pads less.",
        ),
    )
    return f'<section>\n<h2>Balance on {ranks}</h2>\n{table}\n<div class="grid">{"".join(figures)}</div>\n</section>'


def _epoch(report: PlanReport) -> str:
    steps = _figure(
        "Steps",
        draw_steps(report.steps),
        "Levels of sites per trace are buckets, which take turns; an orange line above a point is waiting time.",
        wide=True,
    )
    figures = (
        _figure(
            "Purity",
            draw_types(report.steps),
            "Few types make large equal sub-batches, which run fast; many make gradients that vary less.",
        ),
        _figure(
            "Shuffle",
            draw_shuffle(report.shuffle),
            "An even picture is a random order; a diagonal is store order; a column that is dark in one part is a step "
            "from one bucket.",
        ),
    )
    return f'<section>\n<h2>The epoch</h2>\n{steps}\n<div class="grid">{"".join(figures)}</div>\n</section>'


def _numbers(report: PlanReport) -> str:
    policy = asdict(report.policy)
    cost = policy.pop("cost")
    fields = [(name.replace("_", " "), _shown(value)) for name, value in policy.items() if value is not None]
    fields += [(f"cost {name.replace('_', ' ')}", _shown(value)) for name, value in cost.items()]
    cards = (
        _table("Atoms and steps", report.batch_words()),
        _table("Shuffle", report.shuffle_words()),
        _table("Policy", fields),
    )
    return f'<section>\n<h2>Numbers</h2>\n<div class="grid">{"".join(cards)}</div>\n</section>'


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}" if isinstance(value, float) else str(value)


def _figure(title: str, svg: str, caption: str, *, wide: bool = False) -> str:
    kind = "card wide" if wide else "card"
    return f'<figure class="{kind}"><h3>{title}</h3>{svg}<figcaption>{caption}</figcaption></figure>'


def _table(title: str, words: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in words)
    return f'<div class="card"><h3>{title}</h3><table><tbody>{rows}</tbody></table></div>'


def _write(path: Path, text: str) -> Path:
    """Replace a file in one step, so that nobody ever sees half a page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
