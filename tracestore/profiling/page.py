"""A profile as one HTML page that opens offline, on light and on dark screens."""

from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from tracestore.pages import render_document, write_page
from tracestore.profiling.categories import CATEGORIES
from tracestore.profiling.kernel_figure import draw_scaling
from tracestore.profiling.source import short_path
from tracestore.profiling.words import describe_counts, describe_sampling, differences

if TYPE_CHECKING:
    from tracestore.profiling.kernel_watch import KernelScaling
    from tracestore.profiling.result import Profile

__all__ = ["write_profile_page"]

MOST_ROWS = 25
STYLE = """<style>
.flame text { font: 11px var(--sans); fill: #10161c; pointer-events: none; }
.flame g:hover rect { stroke: var(--ink); stroke-width: 1.4; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin: 0 7px -1px 0; }
td.code { text-align: left; white-space: normal; overflow-wrap: anywhere; max-width: 70ch; }
.flamebox svg { min-width: 900px; max-width: none; }
@media (prefers-color-scheme: dark) {
  :root {
    color-scheme: dark;
    --ink: #e6eaee; --muted: #9aa5b0; --line: #333c45; --soft: #14191e; --paper: #1c2329;
  }
}
</style>"""


def write_profile_page(profile: "Profile", path: str | PathLike[str]) -> Path:
    """Write the page.

    Parameters
    ----------
    profile
        What was found.
    path
        The file.
    """
    from tracestore import __version__

    sections = [
        f"{STYLE}\n<section>\n<h2>Shares</h2>\n{_shares(profile)}\n</section>",
        f"<section>\n<h2>Whole timings</h2>\n{_timings(profile)}\n</section>",
        f"<section>\n<h2>Flame graph</h2>\n{_flame(profile)}\n</section>",
        f"<section>\n<h2>Slowest lines of the program</h2>\n{_lines(profile)}\n</section>",
        f"<section>\n<h2>Draws by address</h2>\n{_draws(profile)}\n</section>",
    ]
    if profile.kernels:
        cards = "\n".join(_kernel(kernel) for kernel in profile.kernels)
        sections.append(f'<section>\n<h2>Kernels and threads</h2>\n<div class="grid halves">{cards}</div>\n</section>')
    lead = f'<p class="lead">{escape(describe_counts(profile))}.</p>'
    title = f"Where the time of {profile.simulator} goes"
    return write_page(Path(path), render_document(title, lead, "\n".join(sections), f"tracestore {__version__}"))


def _shares(profile: "Profile") -> str:
    known = {category.name: category for category in CATEGORIES}
    largest = max((share.share for share in profile.shares.values()), default=1.0)
    rows = []
    for name, share in profile.shares.items():
        category = known[name]
        per_draw = f"{1e6 * share.seconds / profile.num_draws:.3g}" if profile.num_draws else "-"
        rows.append(
            f'<tr><th scope="row">{_swatch(category.color)}{name}</th><td class="text">{escape(category.meaning)}</td>'
            f"<td>{share.share:.1%}</td><td>{100 * share.low:.1f} to {100 * share.high:.1f}</td>"
            f"<td>{1e6 * share.seconds / profile.num_traces:.4g}</td><td>{per_draw}</td>"
            f'<td style="width: 30%"><span class="bar" style="width: {100 * share.share / largest:.1f}%;'
            f' background: {category.color}"></span></td></tr>'
        )
    head = ("Time spent on", "*", "Share", "95 % interval", "µs a trace", "µs a draw", "*")
    note = (
        f"{describe_sampling(profile)}. The main thread is seen; threads that the program starts are not, and other"
        " processes show as waiting."
    )
    return f'{_table(head, rows)}\n<p class="note">{escape(note)}</p>'


def _timings(profile: "Profile") -> str:
    rows = [
        f'<tr><th scope="row">{escape(words)}</th><td>{"-" if seconds is None else f"{seconds:.3f}"}</td>'
        f'<td class="text">{escape(remark)}</td></tr>'
        for words, seconds, remark in differences(profile)
    ]
    note = (
        "The same number of traces, one way after the other, timed as a whole: a check of the shares that does not rest"
        " on samples. Differences have the noise of the machine in them."
    )
    return f'{_table((f"{profile.num_traces:,} traces", "Seconds", "*"), rows)}\n<p class="note">{escape(note)}</p>'


def _flame(profile: "Profile") -> str:
    items = "".join(
        f"<li>{_swatch(category.color)}{category.name}</li>"
        for category in CATEGORIES
        if category.name in profile.shares
    )
    note = (
        "Width is time, callers are above what they call. A box has the color of what its function is for, a library"
        " that of its caller. Hover over a box for its time; boxes below a thousandth are left out."
    )
    return (
        f'<ul class="key">{items}</ul>\n<figure class="wide flamebox">{profile.flame_graph()}'
        f"<figcaption>{escape(note)}</figcaption></figure>"
    )


def _lines(profile: "Profile") -> str:
    rows = [
        f'<tr><td class="code"><code>{escape(short_path(line.file))}:{line.line}</code></td>'
        f'<td class="code"><code>{escape(line.text)}</code></td>'
        f"<td>{line.share:.1%}</td><td>{line.simulator_share:.1%}</td></tr>"
        for line in profile.lines[:MOST_ROWS]
    ]
    if not rows:
        return '<p class="note">No line of a Python program was seen.</p>'
    note = (
        "“With its draws” counts what recording costs at this line; “by itself” the program and the libraries it calls."
    )
    return f'{_table(("*Line", "*Source", "With its draws", "By itself"), rows)}\n<p class="note">{note}</p>'


def _draws(profile: "Profile") -> str:
    rows = [
        f'<tr><td class="code"><code>{escape(draw.address)}</code></td>'
        f"<td>{draw.share:.1%}</td><td>{draw.count:,}</td><td>{1e6 * draw.seconds / max(draw.count, 1):.3g}</td></tr>"
        for draw in profile.draws[:MOST_ROWS]
    ]
    more = len(profile.draws) - len(rows)
    tail = f" {more:,} further addresses have less." if more > 0 else ""
    note = f"Draws and observations, with their time in the recorder: drawing, scoring, recording.{tail}"
    return f'{_table(("*Base address", "Share", "Number", "µs each"), rows)}\n<p class="note">{note}</p>'


def _kernel(kernel: "KernelScaling") -> str:
    rows = [
        f"<tr><td>{speed.num_threads}</td><td>{1e3 * speed.seconds:.3g}</td><td>{speed.speedup:.2f}</td>"
        f"<td>{speed.efficiency:.0%}</td></tr>"
        for speed in kernel.speeds
    ]
    name = f"{kernel.name}, gradient" if kernel.is_gradient else kernel.name
    points = f", {kernel.num_points:,} points" if kernel.num_points else ""
    note = (
        f"{kernel.num_rows:,} rows of parameters{points} a call{'' if kernel.is_native else '; numpy, not compiled'}."
    )
    return (
        f'<figure class="card"><h3>{escape(name)}</h3>{draw_scaling(kernel)}'
        f"{_table(('Threads', 'ms a call', 'Speed-up', 'Efficiency'), rows)}<figcaption>{note}</figcaption></figure>"
    )


def _table(head: tuple[str, ...], rows: list[str]) -> str:
    """Return a table; headings that begin with a star are of text."""
    cells = "".join(
        f'<th class="text">{escape(word[1:])}</th>' if word.startswith("*") else f"<th>{escape(word)}</th>"
        for word in head
    )
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _swatch(color: str) -> str:
    return f'<span class="swatch" style="background: {color}"></span>'
