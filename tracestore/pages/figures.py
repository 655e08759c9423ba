"""Figures as SVG text for a page; knows nothing of what they show.

Figures are built on `Figure` objects without pyplot, so nothing global is opened or left behind. Text stays text:
the page's own fonts are used, and every figure is sharp at any size.
"""

import io
import re
import warnings
from contextlib import AbstractContextManager
from html import escape
from typing import Any

from tracestore._extras import extra

with extra("report"):
    import matplotlib as mpl
    from matplotlib.figure import Figure

__all__ = ["GRID", "INK", "MUTED", "figure_style", "to_svg"]

INK = "#1c232b"
MUTED = "#5b6670"
GRID = "#e6e9ec"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tracestore",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.edgecolor": "#aab2ba",
    "axes.linewidth": 0.7,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": "#aab2ba",
    "ytick.color": "#aab2ba",
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.solid_capstyle": "round",
    "path.simplify_threshold": 0.3,
}


def figure_style(*, grid: bool = True) -> AbstractContextManager[None]:
    """Return a context in which figures get the look of the pages; outside it nothing changes.

    Parameters
    ----------
    grid
        Whether axes have grid lines.
    """
    return mpl.rc_context({**STYLE, "axes.grid": grid})


def to_svg(figure: Figure, description: str) -> str:
    """Render a figure as an SVG element for inclusion in a page; closes nothing, keeps nothing.

    Parameters
    ----------
    figure
        The figure.
    description
        What it shows, for those who do not see it.

    Examples
    --------
    >>> to_svg(Figure(), "Nothing")[:4]
    '<svg'
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # a name in a script that the measuring font lacks; the reader's browser has its own fonts
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    head, body = text.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    # group names repeat from figure to figure, and nothing refers to them
    body = re.sub(r'<g id="[^"]*"', "<g", body.replace("xlink:href", "href"))
    body = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", body)
    # matplotlib writes the font as one shorthand as well
    body = re.sub(r"font: ([\d.]+px) '[^\"]*?(;|\")", r"font: \1 var(--sans)\2", body)
    return f'<svg {view.group(0) if view else ""} role="img" aria-label="{escape(description)}">{body.strip()}'
