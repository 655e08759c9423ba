"""Figures of a plan as SVG text for its page; knows neither the page nor how numbers were measured."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tracestore._extras import extra
from tracestore.pages.figures import figure_style, to_svg
from tracestore.samplers.plan_measures import ShuffleQuality, StepTable
from tracestore.samplers.plan_report import SchemeReport

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, NullFormatter

__all__ = ["draw_imbalance", "draw_padding", "draw_shuffle", "draw_steps", "draw_types"]

OWN = "#1f6f8b"
OTHER = "#b6c0c8"
WAITING = "#d9822b"


def draw_steps(steps: StepTable) -> str:
    """Draw cost, length and bytes of the steps that were looked at, over the epoch.

    Parameters
    ----------
    steps
        What was measured.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with figure_style():
        figure = Figure(figsize=(10.5, 5.4), layout="constrained")
        cost, length, read = figure.subplots(3, sharex=True, height_ratios=(2, 1, 1))
        cost.vlines(
            steps.step, steps.mean_cost, steps.max_cost, color=WAITING, linewidth=1.6, label="mean to slowest rank"
        )
        cost.plot(steps.step, steps.mean_cost, ".", color=OWN, markersize=5, label="mean of the ranks")
        cost.set_ylabel("cost of a rank")
        _scale(cost, steps.max_cost)
        cost.legend(loc="upper right", ncols=2, frameon=False, bbox_to_anchor=(1, 1.16))
        sites = steps.num_sites / steps.num_traces
        length.plot(steps.step, sites, ".", color=OWN, markersize=5)
        length.set_ylabel("sites per trace")
        _scale(length, sites)
        read.plot(steps.step, steps.num_bytes, ".", color=OWN, markersize=5)
        read.set_ylabel("read by all ranks")
        read.set_ylim(0, 1.12 * max(1.0, float(steps.num_bytes.max())))
        read.yaxis.set_major_formatter(EngFormatter("B"))
        read.yaxis.set_major_locator(MaxNLocator(3))
        read.set_xlabel("step of the epoch")
        read.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        figure.align_ylabels()
        return to_svg(figure, "Cost, sites per trace and bytes of each step")


def draw_imbalance(schemes: Sequence[SchemeReport]) -> str:
    """Draw the largest over the mean cost of each scheme as bars.

    Parameters
    ----------
    schemes
        The plan first.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    waiting = [100 * (1 - 1 / scheme.imbalance) for scheme in schemes]
    return _bars(schemes, waiting, "time that a rank waits, % of the epoch", "Waiting time of each scheme")


def draw_padding(schemes: Sequence[SchemeReport]) -> str:
    """Draw the share of padding of each scheme as bars.

    Parameters
    ----------
    schemes
        The plan first.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    shares = [100 * scheme.padding for scheme in schemes]
    return _bars(schemes, shares, "padding, % of the padded sites", "Padding of each scheme")


def draw_types(steps: StepTable) -> str:
    """Draw how many trace types the batches of ranks have, as a histogram.

    Parameters
    ----------
    steps
        What was measured.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    types = steps.types_per_rank
    width = max(1, -(-int(types.max() - types.min() + 1) // 40))
    edges = np.arange(types.min(), types.max() + width + 1, width) - 0.5
    with figure_style():
        figure, axes = _small()
        axes.stairs(np.histogram(types, edges)[0] / len(types) * 100, edges, fill=True, color=OWN, alpha=0.85)
        axes.set_xlabel("trace types in the batch of a rank")
        axes.set_ylabel("batches, %")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.grid(visible=False, axis="x")
        return to_svg(figure, "Trace types in the batch of a rank")


def draw_shuffle(shuffle: ShuffleQuality) -> str:
    """Draw which part of the store is read when, as a picture of counts.

    Parameters
    ----------
    shuffle
        What was measured.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    grid = shuffle.grid.astype(float)
    # relative to what a random order would have there
    expected = grid.sum(axis=1, keepdims=True) * grid.sum(axis=0, keepdims=True) / grid.sum()
    relative = np.divide(grid, expected, out=np.zeros_like(grid), where=expected > 0)
    with figure_style(grid=False):
        figure, axes = _small()
        image = axes.pcolormesh(
            np.linspace(0, 100, grid.shape[1] + 1),
            np.linspace(0, 100, grid.shape[0] + 1),
            relative,
            cmap="Blues",
            vmin=0,
            vmax=max(2.0, float(np.quantile(relative, 0.99))),
            rasterized=True,
        )
        axes.set_xlabel("place in the epoch, %")
        axes.set_ylabel("place in the store, %")
        bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
        bar.set_label("traces, over those of a random order")
        bar.outline.set_visible(False)
        return to_svg(figure, "Place in the store against place in the epoch")


def _scale(axes: Axes, numbers: NDArray[np.float64]) -> None:
    """Begin an axis at zero, or make it logarithmic when the numbers are of very different size."""
    least, most = float(numbers.min()), max(float(numbers.max()), 1e-300)
    if 0 < least < most / 30:
        axes.set_yscale("log")
        axes.set_ylim(least / 1.5, most * 1.5)
    else:
        axes.set_ylim(0, 1.12 * most)
        axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.6g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _small() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.1, 3.0), layout="constrained")
    return figure, figure.subplots()


def _bars(schemes: Sequence[SchemeReport], lengths: Sequence[float], unit: str, description: str) -> str:
    with figure_style():
        figure, axes = _small()
        places = np.arange(len(schemes))
        axes.barh(places, lengths, color=[OWN, *[OTHER] * (len(schemes) - 1)], height=0.68)
        for place, length in zip(places, lengths, strict=True):
            axes.annotate(f"{length:.1f}", (length, place), (3, 0), textcoords="offset points", va="center")
        axes.set_yticks(places, [scheme.name for scheme in schemes])
        axes.tick_params(axis="y", length=0, labelcolor="#1c232b")
        axes.invert_yaxis()
        axes.set_xlim(0, max(1.0, 1.12 * max(lengths)))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(unit)
        return to_svg(figure, description)
