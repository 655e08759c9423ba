"""Figures of posteriors as SVG text for a page."""

import textwrap
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tracestore._extras import extra
from tracestore.diagnostics.weights import weighted_quantile
from tracestore.pages.figures import INK, figure_style, to_svg
from tracestore.reports.data import COLORS, Engine, History, Marginal, Variable, top_categories

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator

__all__ = [
    "DASHES", "TRUTH", "TRUTH_DASHES", "WIDTH", "bin_edges", "decade_ticks", "draw_bars", "draw_steps", "is_wide",
    "loss_svg", "marginal_svg", "new_figure", "plain", "wrapped",
]  # fmt: skip

Floats = NDArray[np.float64]

TRUTH = "#111418"
DASHES: dict[str, object] = {
    "solid": "-", "dashed": (0, (5, 1.6)), "dotted": (0, (1.6, 1.4)), "dashdot": (0, (6, 1.4, 1.4, 1.4)),
}  # fmt: skip
TRUTH_DASHES = (0, (4, 2.5))
WIDTH = 11.5
"""Of figures that take the whole page, in inches."""


def plain(text: str) -> str:
    """Return text that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")


def wrapped(text: str, width: int) -> str:
    """Return text broken into lines at spaces, for a narrow axis."""
    return plain("\n".join(textwrap.wrap(text, width, break_long_words=False)) or text)


def new_figure(width: float, height: float, *, space: float = 0.02) -> Figure:
    """Return an empty figure of a size in inches; ``space`` separates its panels, as a share of their size."""
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=space, hspace=space)
    return Figure(figsize=(width, height), layout=layout)


def decade_ticks(axes: Axes, which: Literal["x", "y"]) -> None:
    """Put ticks on a logarithmic axis, few of them over many decades and several within one."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    decades = np.log10(high / low) if low > 0 else 3.0
    subs = (1.0,) if decades > 2.6 else ((1.0, 3.0) if decades > 1.6 else (1.0, 2.0, 5.0))
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(LogLocator(subs=()))
    thousands = EngFormatter(sep="")
    axis.set_major_formatter(FuncFormatter(lambda x, place: f"{x:g}" if x < 1000 else thousands(x, place)))


# ---------------------------------------------------------------------------------------------- marginals


def marginal_svg(variable: Variable, engines: Sequence[Engine]) -> str:
    """Draw the marginals of one variable for all engines over each other.

    Parameters
    ----------
    variable
        What to draw; its truth is marked when known.
    engines
        Those without draws of the variable are left out.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with figure_style():
        figure = new_figure(8.1 if is_wide(variable) else 3.9, 2.6)
        axes = figure.subplots()
        if variable.is_discrete:
            draw_bars(axes, variable, engines)
        else:
            edges = bin_edges(variable, engines)
            for engine in engines:
                draw_steps(axes, engine, engine.marginals.get(variable.name), edges)
            mark_truth(axes, variable, labelled=True)
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_xlim(edges[0], edges[-1])
            axes.set_xlabel(plain(variable.label))
            axes.set_ylabel("density")
        labels = ", ".join(e.label for e in engines)
        return to_svg(figure, f"Marginal posterior of {variable.label}: {labels}")


def is_wide(variable: Variable) -> bool:
    """Tell whether the marginal of a variable needs twice the width: many categories with long labels."""
    return len(variable.categories or ()) > 6 and any(len(label) > 4 for _, label in variable.categories or ())


def bin_edges(variable: Variable, engines: Sequence[Engine]) -> Floats:
    """Choose common histogram bins for all engines: as fine as the effective number of draws allows."""
    found = [m for e in engines if (m := e.marginals.get(variable.name)) is not None and not m.is_empty]
    if not found:
        center = variable.truth or 0.0
        return np.linspace(center - 1, center + 1, 3)
    tails = np.array([weighted_quantile(m.values, m.weights, (0.002, 0.998)) for m in found])
    low, high = float(tails[:, 0].min()), float(tails[:, 1].max())
    pad = 0.04 * (high - low)
    low = max(low - pad, min(float(m.values.min()) for m in found))
    high = min(high + pad, max(float(m.values.max()) for m in found))
    if variable.truth is not None:
        room = 0.03 * (high - low)
        low, high = min(low, variable.truth - room), max(high, variable.truth + room)
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-300):
        room = 0.05 * abs(low) or 0.5
        return np.linspace(low - room, high + room, 12)
    sizes = [m.ess if np.isfinite(m.ess) else len(m.values) for m in found]
    typical = min((size for size in sizes if size >= 100), default=max(sizes))
    number = int(np.clip(3.0 * float(typical) ** (1 / 3), 14, 50))
    return np.linspace(low, high, number + 1)


def draw_steps(axes: Axes, engine: Engine, marginal: Marginal | None, edges: Floats) -> None:
    """Draw the histogram of one engine as steps; nothing without draws."""
    if marginal is None or marginal.is_empty:
        return
    heights, _ = np.histogram(marginal.values, bins=edges, weights=marginal.weights)
    heights = heights / np.diff(edges)
    axes.stairs(heights, edges, fill=True, color=engine.color, alpha=0.07, linewidth=0)
    axes.stairs(heights, edges, color=engine.color, linewidth=1.5, linestyle=DASHES[engine.dash])


def draw_bars(
    axes: Axes, variable: Variable, engines: Sequence[Engine], most: int = 10, *, small: bool = False
) -> None:
    """Draw the probabilities of the most probable categories as bars, engines side by side."""
    shown = [(e, m) for e in engines if (m := e.marginals.get(variable.name)) is not None and not m.is_empty]
    categories = top_categories(variable, engines, most)
    height = 0.8 / max(len(shown), 1)
    for index, (engine, marginal) in enumerate(shown):
        shares = np.array([marginal.weights[marginal.values == value].sum() for value, _ in categories])
        places = np.arange(len(categories)) - 0.4 + (index + 0.5) * height
        axes.barh(places, shares, height=0.86 * height, color=engine.color, alpha=0.85)
    labels = [plain(label) for _, label in categories]
    for place, (value, _) in enumerate(categories):
        if variable.truth is not None and value == variable.truth:
            axes.axhspan(place - 0.47, place + 0.47, color=TRUTH, alpha=0.07, linewidth=0)
            labels[place] = f"{labels[place]} (truth)" if not small else labels[place]
    axes.set_yticks(range(len(categories)), labels)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(len(categories) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(3 if small else 5))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("probability")


def mark_truth(axes: Axes, variable: Variable, *, labelled: bool = False) -> None:
    if variable.truth is None:
        return
    axes.axvline(variable.truth, color=TRUTH, linewidth=1.0, linestyle=TRUTH_DASHES, zorder=3)
    if labelled:
        axes.annotate(
            "truth", (variable.truth, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 2),
            textcoords="offset points", ha="center", va="bottom", color=TRUTH, fontsize=8.5,
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------- loss


def loss_svg(history: History) -> str:
    """Draw the training and validation loss against traces seen.

    Parameters
    ----------
    history
        At least one finite loss.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with figure_style():
        figure = new_figure(5.4, 2.8)
        axes = figure.subplots()
        window = max(len(history.loss) // 40, 1)
        is_long = window > 1
        axes.plot(
            history.traces,
            history.loss,
            color=COLORS[0],
            linewidth=0.6 if is_long else 1.2,
            alpha=0.3 if is_long else 1,
        )
        if is_long:
            smooth = np.convolve(history.loss, np.ones(window) / window, mode="valid")
            axes.plot(history.traces[window - 1 :], smooth, color=COLORS[0], linewidth=1.6)
        ends = [("training", COLORS[0], history.traces[-1], float(np.mean(history.loss[-window:])))]
        if len(history.validation_loss):
            seen = history.validation_traces
            axes.plot(seen, history.validation_loss, "o-", color=COLORS[1], linewidth=1.2, markersize=3.4)
            ends.append(("validation", COLORS[1], history.validation_traces[-1], float(history.validation_loss[-1])))
        low, high = _loss_limits(history)
        axes.set_ylim(low, high)
        _label_ends(axes, ends, 0.075 * (high - low))
        axes.set_xlabel("traces seen")
        axes.set_ylabel("loss: mean of -log q per trace [nat]")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        return to_svg(figure, "Training and validation loss against traces seen")


def _loss_limits(history: History) -> tuple[float, float]:
    # the first steps can be tens of nats higher and would flatten everything else
    settled = np.concatenate([history.loss[len(history.loss) // 12 :], history.validation_loss])
    low, high = np.quantile(settled, (0.0, 0.995))
    pad = 0.06 * (high - low) or 0.5
    return float(low - pad), float(high + pad)


def _label_ends(axes: Axes, ends: Sequence[tuple[str, str, float, float]], gap: float) -> None:
    place = -np.inf
    for text, color, x, y in sorted(ends, key=lambda end: end[3]):
        place = max(y, place + gap)
        axes.annotate(
            f"{text} {y:.2f}", (x, place), xytext=(6, 0), textcoords="offset points", color=color, va="center",
            fontsize=9, annotation_clip=False,
        )  # fmt: skip
