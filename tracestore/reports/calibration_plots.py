"""Figures of calibration: ranks of the truth against uniform ones, and coverage against credibility."""

from collections.abc import Sequence

import numpy as np

from tracestore._extras import extra
from tracestore.diagnostics.calibration import central_coverage, ecdf_band
from tracestore.inference.calibration_ranks import JOINT
from tracestore.inference.calibration_result import CalibrationQuantity
from tracestore.pages.figures import INK, MUTED, figure_style, to_svg
from tracestore.posteriors.findings import Verdict
from tracestore.reports.data import COLORS
from tracestore.reports.plots import WIDTH, new_figure, plain

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator

__all__ = ["MAX_PANELS", "coverage_svg", "ranks_svg"]

MAX_PANELS = 12
"""Quantities with a panel of their own."""
COLUMNS = 4
VERDICT_COLORS = {Verdict.GOOD: COLORS[0], Verdict.DOUBTFUL: "#b07a10", Verdict.BAD: "#a4201a"}


def ranks_svg(quantities: Sequence[CalibrationQuantity], verdicts: Sequence[Verdict]) -> str:
    """Draw, for each quantity, the empirical distribution function of the ranks minus the uniform one.

    Parameters
    ----------
    quantities
        Those with ranks, at most `MAX_PANELS` of them are drawn.
    verdicts
        One a quantity; decides the color.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    shown = list(zip(quantities, verdicts, strict=True))[:MAX_PANELS]
    columns = COLUMNS if len(shown) > 3 else 3
    rows = -(-len(shown) // columns)
    with figure_style():
        figure = new_figure(WIDTH, 0.4 + 7.8 / columns * rows, space=0.04)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, (quantity, verdict) in zip(grid.flat, shown, strict=False):
            _difference(axes, quantity, VERDICT_COLORS[verdict])
        for axes in grid.flat[len(shown) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel("ECDF \N{MINUS SIGN} uniform")
        for axes in grid[-1]:
            axes.set_xlabel("rank of the truth")
        return to_svg(figure, "Ranks of the truth: " + ", ".join(quantity.name for quantity, _ in shown))


def _difference(axes: Axes, quantity: CalibrationQuantity, color: str) -> None:
    ranks = np.sort(np.asarray(quantity.pit))
    band = ecdf_band(len(ranks))
    points = np.concatenate([[0.0], band.points, [1.0]])
    lower = np.concatenate([[0.0], band.lower, [1.0]]) - points
    upper = np.concatenate([[0.0], band.upper, [1.0]]) - points
    axes.fill_between(points, lower, upper, color=MUTED, alpha=0.14, linewidth=0)
    axes.axhline(0.0, color=MUTED, linewidth=0.7)
    shown = np.linspace(0.0, 1.0, 201)
    reached = np.searchsorted(ranks, shown, side="right") / len(ranks)
    axes.plot(shown, reached - shown, color=color, linewidth=1.5)
    axes.set_title(plain(quantity.name), loc="left", fontsize=9, color=INK, pad=4)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def coverage_svg(quantities: Sequence[CalibrationQuantity], verdicts: Sequence[Verdict]) -> str:
    """Draw how often intervals hold the truth against how often they should.

    Left, for each variable: central intervals. Right, for all variables together: regions around random points (TARP).

    Parameters
    ----------
    quantities
        Those with ranks; the joint one is drawn at the right.
    verdicts
        One a quantity; well calibrated ones are drawn alike, the others are named.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with figure_style():
        joint = [pair for pair in zip(quantities, verdicts, strict=True) if pair[0].name == JOINT]
        single = [pair for pair in zip(quantities, verdicts, strict=True) if pair[0].name != JOINT]
        number = bool(joint) + bool(single)
        figure = new_figure(WIDTH * number / 2, 3.7, space=0.05)
        grid = list(figure.subplots(1, number, squeeze=False)[0])
        if single:
            _central(grid[0], single)
        if joint:
            _expected(grid[-1], *joint[0])
        for axes in grid:
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.02)
            axes.set_xlabel("credibility level")
            axes.set_ylabel("share of trials that hold the truth")
            axes.set_aspect("equal")
        return to_svg(figure, "Coverage of credible regions against their level")


def _central(axes: Axes, quantities: Sequence[tuple[CalibrationQuantity, Verdict]]) -> None:
    levels = np.linspace(0.0, 1.0, 101)
    named = []
    fewest = min(len(quantity.pit) for quantity, _ in quantities)
    _band(axes, fewest)
    for index, (quantity, verdict) in enumerate(quantities):
        color = COLORS[index % len(COLORS)]
        found = central_coverage(quantity.pit, levels.tolist())
        axes.plot(levels, found, color=color, linewidth=1.4, alpha=0.55 if verdict is Verdict.GOOD else 1.0)
        named.append((quantity.name, color))
    axes.set_title("Central intervals", loc="left", fontsize=9.5, color=INK, pad=6)
    for index, (name, color) in enumerate(named[:MAX_PANELS]):
        axes.text(0.04, 0.95 - 0.055 * index, plain(name), transform=axes.transAxes, color=color, fontsize=8.5)


def _expected(axes: Axes, quantity: CalibrationQuantity, verdict: Verdict) -> None:
    levels = np.linspace(0.0, 1.0, 201)
    ranks = np.sort(np.asarray(quantity.pit))
    _band(axes, len(ranks))
    found = np.searchsorted(ranks, levels, side="right") / len(ranks)
    axes.plot(levels, found, color=VERDICT_COLORS[verdict], linewidth=1.6)
    axes.set_title("All variables together, TARP", loc="left", fontsize=9.5, color=INK, pad=6)


def _band(axes: Axes, num_trials: int) -> None:
    """Shade where the coverage of calibrated posteriors lies, at all levels together, with 95 %."""
    band = ecdf_band(num_trials)
    points = np.concatenate([[0.0], band.points, [1.0]])
    lower, upper = np.concatenate([[0.0], band.lower, [1.0]]), np.concatenate([[0.0], band.upper, [1.0]])
    axes.fill_between(points, lower, upper, color=MUTED, alpha=0.14, linewidth=0)
