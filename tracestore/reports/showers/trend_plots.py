"""Figures of showers against energy or angle: response, resolution, hits, moments; and areas of classifiers."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tracestore._extras import extra
from tracestore.diagnostics.bands import Band
from tracestore.diagnostics.showers import AXES
from tracestore.pages.figures import INK, MUTED, figure_style, to_svg
from tracestore.reports.plots import DASHES, WIDTH, decade_ticks, plain
from tracestore.reports.showers.curve_plots import SetStyle, draw_ratio_axes, panel_grid, set_styles
from tracestore.reports.showers.numbers import ComparisonResult, SetNumbers, Trend, quotient_band
from tracestore.reports.showers.sets import ENERGY, LABEL_UNITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracestore.diagnostics.two_samples import AreaEstimate

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

__all__ = ["areas_svg", "moments_svg", "responses_svg"]

RESPONSES = (
    ("mean", "response", "sampling fraction Ecal / Ep"),
    ("relative", "response", "resolution: spread / mean of Ecal"),
    ("mean", "hits", "mean number of cells hit"),
    ("relative", "hits", "spread / mean of cells hit"),
)
LEAST_SPAN = {("mean", "c"): 1.0, ("mean", "w"): 0.5, ("spread", "c"): 0.1, ("spread", "w"): 0.1}
"""Cells, at least, that panels of centers and of widths show."""


def responses_svg(result: ComparisonResult, label: str) -> str:
    """Draw sampling fraction, resolution and hits against a label, and over the reference.

    Parameters
    ----------
    result
        The comparison.
    label
        ``energy`` or ``angle``.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with figure_style():
        figure, grid = panel_grid((WIDTH, 4.3), (2, len(RESPONSES)), gaps=(0.6, 0.16), heights=(1.3, 0.9), sharex=True)
        for column, (statistic, quantity, words) in enumerate(RESPONSES):
            above, below = grid[:, column]
            above.set_title(words, loc="left", fontsize=9, color=INK, pad=5)
            bands = _draw_trends(result, label, statistic, quantity, above, below)
            draw_ratio_axes([below], bands)
            above.yaxis.set_major_locator(MaxNLocator(5))
            above.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        for axes in grid[1]:
            _label_axis(axes, label)
        grid[1, 0].set_ylabel("model / reference")
        return to_svg(figure, f"Sampling fraction, resolution and hits against {label}, and over the reference")


def moments_svg(result: ComparisonResult, label: str) -> str:
    """Draw means and spreads of centers and widths along each axis against a label.

    Parameters
    ----------
    result
        The comparison.
    label
        ``energy`` or ``angle``.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    names = [f"{kind}_{axis}" for kind in ("center", "width") for axis in AXES]
    with figure_style():
        figure, grid = panel_grid((WIDTH, 4.6), (2, len(names)), gaps=(0.48, 0.16), sharex=True)
        for column, name in enumerate(names):
            for axes, statistic in zip(grid[:, column], ("mean", "spread"), strict=True):
                _draw_trends(result, label, statistic, name, axes, None)
                axes.yaxis.set_major_locator(MaxNLocator(4))
                axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
            kind, axis = name.split("_")
            grid[0, column].set_title(f"{kind} along {axis}", loc="left", fontsize=9.5, color=INK, pad=5)
            _label_axis(grid[1, column], label)
        grid[0, 0].set_ylabel("mean [cells]")
        grid[1, 0].set_ylabel("spread [cells]")
        figure.align_ylabels()
        return to_svg(figure, f"Means and spreads of centers and widths of showers against {label}")


def areas_svg(result: ComparisonResult) -> str:
    """Draw the area of the classifier of each model, in all showers and by bin, above the floor.

    Parameters
    ----------
    result
        The comparison.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    rows = ["all showers", *(one.words for one in result.bins)]
    drawn: list[tuple[Sequence[AreaEstimate | None], SetStyle]] = [
        ((model.auc, *model.auc_by_bin), style)
        for model, style in zip(result.models, set_styles(result)[1:], strict=True)
    ]
    floor = (result.floor.auc, *result.floor.auc_by_bin)
    drawn.append((floor, SetStyle(MUTED, "dotted")))
    with figure_style():
        height = 0.1 * len(drawn) + 0.12
        size = (WIDTH, 0.7 + height * len(rows))
        figure, grid = panel_grid(size, (1, 1), gaps=(0.0, 0.0), margins=(1.5, 0.15, 0.1, 0.55))
        axes = grid[0, 0]
        for place in range(len(rows)):
            for number, (areas, style) in enumerate(drawn):
                area = areas[place]
                if area is not None:
                    at = place + 0.74 * ((number + 0.5) / len(drawn) - 0.5)
                    axes.plot([area.lower, area.upper], [at, at], color=style.color, linewidth=2.0, alpha=0.5)
                    axes.plot([area.value], [at], "o", color=style.color, markersize=4.5)
        for place in range(1, len(rows)):
            axes.axhline(place - 0.5, color=MUTED, linewidth=0.4, alpha=0.4)
        axes.axvline(0.5, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [plain(row) for row in rows])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(min(0.44, axes.get_xlim()[0]), 1.005)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("area under the curve of the classifier (0.5: cannot be told apart)")
        return to_svg(figure, "Area under the curve of a classifier between each model and the reference, by bin")


def _draw_trends(
    result: ComparisonResult, label: str, statistic: str, quantity: str, above: Axes, below: Axes | None
) -> list[Band]:
    """Draw one statistic of all sets, and over the reference; return the ratios."""
    ratios = []
    several: list[SetNumbers] = [result.reference, *(model.numbers for model in result.models)]
    for place, (numbers, style) in enumerate(zip(several, set_styles(result), strict=True)):
        trend = numbers.trends[label]
        band = _band(trend, statistic, quantity)
        middles = (
            np.sqrt(trend.edges[1:] * trend.edges[:-1])
            if label == ENERGY
            else 0.5 * (trend.edges[1:] + trend.edges[:-1])
        )
        _draw_points(above, middles, band, style)
        if place and below is not None:
            reference = _band(result.models[place - 1].against.trends[label], statistic, quantity)
            ratios.append(quotient_band(band, reference))
            _draw_points(below, middles, ratios[-1], style)
    _limit(above, _band(result.reference.trends[label], statistic, quantity), LEAST_SPAN.get((statistic, quantity[0])))
    return ratios


def _limit(axes: Axes, reference: Band, least: float | None) -> None:
    """Keep a panel to what the reference shows and as much again on both sides, at least a tenth of it."""
    low, high = float(np.nanmin(reference.lower)), float(np.nanmax(reference.upper))
    reach = max(high - low, 0.1 * abs(high) if least is None else least)
    lowest, highest = axes.get_ylim()
    axes.set_ylim(max(lowest, low - reach), min(highest, high + reach))


def _band(trend: Trend, statistic: str, quantity: str) -> Band:
    return {"mean": trend.mean, "spread": trend.spread, "relative": trend.relative}[statistic][quantity]


def _draw_points(axes: Axes, middles: NDArray[np.float64], band: Band, style: SetStyle) -> None:
    axes.fill_between(middles, band.lower, band.upper, color=style.color, alpha=0.18, linewidth=0)
    dash = DASHES[style.dash]
    axes.plot(middles, band.mean, "o", markersize=2.6, color=style.color, linewidth=style.width, linestyle=dash)


def _label_axis(axes: Axes, label: str) -> None:
    if label == ENERGY:
        axes.set_xscale("log")
        decade_ticks(axes, "x")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(f"{label} [{LABEL_UNITS[label]}]")
