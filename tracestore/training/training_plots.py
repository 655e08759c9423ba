"""Figures of a training as SVG text for its page; knows neither the page nor where the numbers come from."""

import numpy as np

from tracestore._extras import extra
from tracestore.pages.figures import figure_style, to_svg
from tracestore.training.curves import PARTS, Balance, Floats, TrainingCurves, binned, smoothed

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

__all__ = [
    "draw_balance",
    "draw_bytes",
    "draw_gradient_norm",
    "draw_learning_rate",
    "draw_loss",
    "draw_parts",
    "draw_speed",
]

OWN = "#1f6f8b"
PALE = "#b9d3dc"
OTHER = "#b6c0c8"
WARM = "#d9822b"
MUTED_LINE = "#8a949d"
PART_COLORS = {"read": WARM, "forward": OWN, "backward": "#5b9db3", "optimize": "#a9c9a4", "sync": "#d0d5da"}
NUM_BINS = 400
MOST_RANKS = 24
"""Ranks with a bar of their own."""


def draw_loss(curves: TrainingCurves) -> str:
    """Draw training and validation loss against the traces trained on.

    Parameters
    ----------
    curves
        The training.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with figure_style():
        figure = Figure(figsize=(10.5, 4.0), layout="constrained")
        axes = figure.subplots()
        place, low, _, high = binned(curves.num_traces, curves.loss, NUM_BINS)
        if len(curves.loss) > NUM_BINS:
            axes.fill_between(place, low, high, color=PALE, linewidth=0, label="training, 10 to 90 % of the steps")
        else:
            axes.plot(curves.num_traces, curves.loss, color=PALE, linewidth=1.0, label="training, each step")
        place, _, smooth, _ = binned(curves.num_traces, smoothed(curves.loss, len(curves.loss) / 100), NUM_BINS)
        axes.plot(place, smooth, color=OWN, linewidth=1.8, label="training, smoothed")
        is_validated = np.isfinite(curves.validation_loss)
        validated = curves.validation_loss[is_validated]
        if len(validated):
            traces = curves.num_traces[is_validated]
            marker = "o" if len(validated) <= 60 else ""
            axes.plot(
                traces,
                validated,
                color=WARM,
                marker=marker,
                markersize=4,
                linewidth=1.4,
                label="validation",
                clip_on=False,
            )
            best = int(np.argmin(validated))
            axes.plot(
                traces[best], validated[best], "o", color=WARM, markersize=8, markerfacecolor="none", clip_on=False
            )
        shown = np.concatenate([low, high, smooth, validated])
        if len(shown):
            _fit_height(axes, shown)
        axes.set_ylabel("loss: mean of -log q per trace")
        _count_traces(axes, curves.num_traces)
        axes.legend(loc="upper right", frameon=False)
        return to_svg(figure, "Training and validation loss against traces")


def draw_learning_rate(curves: TrainingCurves) -> str:
    """Draw the learning rate against the traces trained on.

    Parameters
    ----------
    curves
        The training.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with figure_style():
        figure, axes = _small()
        place, _, mean, _ = binned(curves.num_traces, curves.learning_rate, NUM_BINS)
        axes.plot(place, mean, color=OWN, linewidth=1.6)
        axes.set_ylim(0, 1.1 * max(float(curves.learning_rate.max()), 1e-12))
        axes.set_ylabel("learning rate")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        _count_traces(axes, curves.num_traces)
        return to_svg(figure, "Learning rate against traces")


def draw_gradient_norm(curves: TrainingCurves, *, limit: float | None = None) -> str:
    """Draw the length of the gradient before clipping against the traces trained on.

    Parameters
    ----------
    curves
        The training.
    limit
        Longer ones were clipped.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with figure_style():
        figure, axes = _small()
        place, low, mean, high = binned(curves.num_traces, curves.gradient_norm, 120)
        axes.fill_between(place, low, high, color=PALE, linewidth=0, label="10 to 90 % of the steps")
        axes.plot(place, mean, color=OWN, linewidth=1.4, label="mean")
        if limit is not None and len(high) and high.max() > limit / 3:
            axes.axhline(limit, color=WARM, linewidth=1.0, linestyle=(0, (4, 3)), label=f"clipped to {limit:g}")
        if len(low) and high.max() / 30 > low.min() > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.6g}"))
        else:
            axes.set_ylim(0, None)
        axes.set_ylabel("length of the gradient")
        _count_traces(axes, curves.num_traces)
        axes.legend(loc="best", frameon=False)
        return to_svg(figure, "Length of the gradient against traces")


def draw_speed(curves: TrainingCurves) -> str:
    """Draw the traces per second of wall time against the traces trained on.

    Parameters
    ----------
    curves
        The training.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    num_bins = max(1, min(60, len(curves.step) // 5))
    ends = np.unique(np.linspace(0, len(curves.step), num_bins + 1).astype(int)[1:]) - 1
    seconds = np.diff(curves.seconds[ends], prepend=0.0)
    speed = np.diff(curves.num_traces[ends], prepend=0.0) / np.maximum(seconds, 1e-3)
    with figure_style():
        figure, axes = _small()
        axes.stairs(speed, np.concatenate([[0.0], curves.num_traces[ends]]), color=OWN, linewidth=1.6)
        mean = float(curves.num_traces[-1] / max(float(curves.seconds[-1]), 1e-3))
        axes.axhline(mean, color=MUTED_LINE, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set_ylim(0, 1.15 * float(speed.max()))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.6g}"))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_ylabel("traces/s of wall time")
        _count_traces(axes, curves.num_traces)
        return to_svg(figure, "Traces per second against traces")


def draw_parts(balance: Balance) -> str:
    """Draw where the time of each rank went, as stacked bars.

    Parameters
    ----------
    balance
        Times of all ranks.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    ranks = np.arange(balance.num_ranks)
    if len(ranks) > MOST_RANKS:
        ranks = np.unique(np.linspace(0, len(ranks) - 1, MOST_RANKS).round().astype(int))
    with figure_style():
        figure = Figure(figsize=(5.1, max(3.0, 1.35 + 0.26 * len(ranks))), layout="constrained")
        axes = figure.subplots()
        left = np.zeros(len(ranks))
        for part, seconds in zip(PARTS, balance.part_seconds[ranks].T, strict=True):
            axes.barh(
                np.arange(len(ranks)),
                seconds,
                left=left,
                height=min(0.72, 0.25 + 0.15 * len(ranks)),
                color=PART_COLORS[part],
                label=part,
            )
            left += seconds
        axes.set_yticks(np.arange(len(ranks)), [f"rank {rank}" for rank in ranks])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(ranks) - 0.4, -0.6)
        axes.set_xlim(0, 1.02 * max(float(left.max()), 1e-9))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("seconds, all steps together")
        figure.legend(loc="outside upper center", ncols=len(PARTS), frameon=False, columnspacing=1.2, handlelength=1.2)
        return to_svg(figure, "Seconds of each part of the steps, rank by rank")


def draw_balance(balance: Balance) -> str:
    """Draw the time of the slowest ranks against that of perfectly balanced ones.

    Parameters
    ----------
    balance
        Times of all ranks.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with figure_style():
        figure = Figure(figsize=(10.5, 4.4), layout="constrained")
        total, ratio = figure.subplots(2, sharex=True, height_ratios=(3, 2))
        thin = np.unique(np.linspace(0, len(balance.mean) - 1, NUM_BINS).round().astype(int))
        places = balance.num_traces[thin]
        actual, best = np.cumsum(balance.slowest)[thin], np.cumsum(balance.mean)[thin]
        total.fill_between(places, best, actual, color=WARM, alpha=0.25, linewidth=0)
        total.plot(places, actual, color=WARM, linewidth=1.6, label="actual: the slowest rank of each step")
        total.plot(places, best, color=OWN, linewidth=1.6, label="best: all ranks alike")
        total.set_ylabel("busy seconds so far")
        total.set_ylim(0, None)
        total.legend(loc="upper left", frameon=False)
        place, low, mean, high = binned(balance.num_traces, balance.slowest / np.maximum(balance.mean, 1e-9), 120)
        ratio.fill_between(place, low, high, color=PALE, linewidth=0)
        ratio.plot(place, mean, color=OWN, linewidth=1.4)
        ratio.set_ylabel("slowest / mean")
        ratio.set_ylim(1.0, max(1.05, float(np.quantile(high, 0.99)) * 1.02))
        ratio.yaxis.set_major_locator(MaxNLocator(4))
        _count_traces(ratio, balance.num_traces)
        figure.align_ylabels()
        return to_svg(figure, "Actual time against best time without imbalance")


def draw_bytes(curves: TrainingCurves) -> str:
    """Draw the bytes that a rank gave to sums in a step, beside those of whole tables.

    Parameters
    ----------
    curves
        The training.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with figure_style():
        figure, axes = _small()
        place, low, mean, high = binned(curves.num_traces, curves.reduced_bytes, 120)
        axes.fill_between(place, low, high, color=PALE, linewidth=0)
        axes.plot(place, mean, color=OWN, linewidth=1.6, label="touched rows only")
        place, _, dense, _ = binned(curves.num_traces, curves.dense_bytes, 120)
        axes.plot(place, dense, color=OTHER, linewidth=1.6, label="whole tables")
        axes.set_ylim(0, 1.25 * max(1.0, float(dense.max())))
        axes.yaxis.set_major_formatter(EngFormatter("B"))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_ylabel("bytes of a step")
        _count_traces(axes, curves.num_traces)
        axes.legend(loc="upper right", frameon=False, ncols=2)
        return to_svg(figure, "Bytes that a rank gave to sums in a step")


def _small() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.1, 3.0), layout="constrained")
    return figure, figure.subplots()


def _count_traces(axes: Axes, num_traces: Floats) -> None:
    axes.set_xlim(0, max(float(num_traces[-1]), 1.0) if len(num_traces) else 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("traces trained on")


def _fit_height(axes: Axes, shown: Floats) -> None:
    """Leave out the first few steps when they are far above all others."""
    low, high = float(shown.min()), float(shown.max())
    usual = float(np.quantile(shown, 0.98))
    top = high if high - low < 4 * (usual - low) else low + 1.5 * (usual - low)
    room = 0.06 * max(top - low, 1e-6)
    axes.set_ylim(low - room, top + room)
