"""Write what a plan does as one HTML page that opens offline, without scripts. Measures nothing."""

from collections.abc import Iterable
from dataclasses import asdict
from html import escape
from importlib.metadata import version
from pathlib import Path

from tracestore.pages import render_document, write_page
from tracestore.samplers.plan_plots import draw_imbalance, draw_padding, draw_shuffle, draw_steps, draw_types
from tracestore.samplers.plan_report import PlanReport

__all__ = ["write_plan_page"]


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
    return write_page(path, _render(report, title))


def _render(report: PlanReport, title: str) -> str:
    ranks = f"{report.num_ranks:,} rank{'s' if report.num_ranks != 1 else ''}"
    lead = f"{report.num_traces:,} traces, {report.num_steps:,} steps of {report.step_words}, on {ranks}."
    examined = len(report.steps.step)
    if examined < report.num_steps:
        lead += f" Steps are measured on {examined:,} of them, evenly spread."
    allowed = "Any number of ranks can share a step."
    if report.allowed_ranks is not None:
        allowed = f"Ranks that can share a step: {', '.join(map(str, report.allowed_ranks))}."
    body = f"{_balance(report, ranks)}\n{_epoch(report)}\n{_numbers(report)}"
    footer = f"tracestore {version('tracestore')}, epoch {report.epoch}, seed {report.seed}"
    return render_document(title, f'<p class="lead">{lead}</p>\n<p class="lead">{allowed}</p>', body, footer)


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
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        '<p class="note">The cost of a step is that of its slowest rank. Max / mean adds this up over the epoch, and '
        "divides by the mean over ranks: 1 is perfect. The other schemes deal the same traces.</p>"
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
    grid = f'<div class="grid halves">{"".join(figures)}</div>'
    return f"<section>\n<h2>Balance on {ranks}</h2>\n{table}\n{grid}\n</section>"


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
    return f'<section>\n<h2>The epoch</h2>\n{steps}\n<div class="grid halves">{"".join(figures)}</div>\n</section>'


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
    return f'<section>\n<h2>Numbers</h2>\n<div class="grid halves">{"".join(cards)}</div>\n</section>'


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}" if isinstance(value, float) else str(value)


def _figure(title: str, svg: str, caption: str, *, wide: bool = False) -> str:
    kind = "card broad" if wide else "card"
    return f'<figure class="{kind}"><h3>{title}</h3>{svg}<figcaption>{caption}</figcaption></figure>'


def _table(title: str, words: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in words)
    return f'<div class="card"><h3>{title}</h3><table><tbody>{rows}</tbody></table></div>'
