"""Figures of importance weights: how far they spread, whether their tail is fit to be used, how estimates settle."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tracestore._extras import extra
from tracestore.diagnostics.psis import khat_threshold, pareto_khat, smooth_log_weights
from tracestore.pages.figures import INK, MUTED, figure_style, to_svg
from tracestore.reports.data import Engine
from tracestore.reports.numbers import format_number
from tracestore.reports.plots import DASHES, WIDTH, decade_ticks, new_figure, plain

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.ticker import AutoMinorLocator, MaxNLocator

__all__ = ["weights_svg"]

Floats = NDArray[np.float64]

NUM_RUNNING = 120
"""Numbers of draws at which running estimates are drawn."""
NUM_KHAT = 18
FEWEST_KHAT = 50
LOWEST = -40.0
"""Powers of ten below the largest weight from which on weights count as one."""


def weights_svg(engines: Sequence[Engine]) -> str:
    """Draw six panels about the weights of weighted engines, over each other.

    Distribution of the log weights; the largest weights with the fitted Pareto tail; how few draws carry how much of
    the weight; and against the number of draws: effective sample size, log evidence with its standard error, k-hat.

    Parameters
    ----------
    engines
        Engines with at least one finite log weight.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with figure_style():
        figure = new_figure(WIDTH, 5.7, space=0.04)
        grid = figure.subplots(2, 3)
        titles = (
            "Distribution of the weights", "Largest weights and Pareto tail", "Share of the weight",
            "Effective sample size", "Log evidence ± 2 standard errors", "Pareto k-hat",
        )  # fmt: skip
        for axes, title in zip(grid.flat, titles, strict=True):
            axes.set_title(title, loc="left", fontsize=9.5, color=INK, pad=6)
        _histogram(grid[0, 0], engines)
        for place, engine in enumerate(engines):
            logs = engine.log_weights
            if logs is None:
                continue
            _tail(grid[0, 1], engine, logs, place)
            _shares(grid[0, 2], engine, logs)
            _running(grid[1, 0], grid[1, 1], engine, logs)
            _running_khat(grid[1, 2], engine, logs)
        _finish(grid[0, 1], "rank of the weight", "weight / largest [power of ten]")
        _finish(grid[0, 2], "largest weights [% of draws]", "share of total weight")
        grid[0, 2].set_ylim(0, 1.02)
        most = max(engine.num_draws for engine in engines)
        _finish_running(grid[1], most)
        return to_svg(figure, "Importance weights of " + ", ".join(e.label for e in engines))


def relative_weights(engine: Engine) -> Floats:
    """Return the finite log weights as powers of ten below the largest."""
    logs = np.zeros(0) if engine.log_weights is None else engine.log_weights
    finite = logs[np.isfinite(logs)]
    return np.asarray((finite - finite.max()) / np.log(10.0))


def _histogram(axes: Axes, engines: Sequence[Engine]) -> None:
    relative = {e.label: relative_weights(e) for e in engines}
    low = min(float(np.quantile(r, 0.02)) for r in relative.values())
    edges = np.linspace(max(low, LOWEST) - 0.5, 0.0, 41)
    for engine in engines:
        logs = relative[engine.label]
        heights, _ = np.histogram(np.clip(logs, edges[0], 0.0), bins=edges)
        shares = heights / max(engine.num_draws, 1)
        axes.stairs(shares, edges, fill=True, color=engine.color, alpha=0.10, linewidth=0)
        axes.stairs(shares, edges, color=engine.color, linewidth=1.4, linestyle=DASHES[engine.dash])
    axes.set_xlabel("weight / largest weight [power of ten]")
    axes.set_ylabel("share of draws")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_minor_locator(AutoMinorLocator(2))


def _tail(axes: Axes, engine: Engine, logs: Floats, place: int) -> None:
    """Draw the sorted weights, and the smoothed ones over those of the tail that was fitted."""
    ordered = np.sort(logs[np.isfinite(logs)])[::-1]
    powers = (ordered - ordered[0]) / np.log(10.0)
    ranks = np.unique(np.geomspace(1, len(powers), 160).astype(int))
    axes.plot(ranks, powers[ranks - 1], ".", color=engine.color, markersize=3.2, alpha=0.55)
    smoothed, khat = smooth_log_weights(logs)
    tail = _tail_powers(logs, smoothed)
    if np.isfinite(khat) and len(tail):
        ranks = np.unique(np.geomspace(1, len(tail), 60).astype(int))
        axes.plot(ranks, tail[ranks - 1], color=engine.color, linewidth=1.5, linestyle=DASHES[engine.dash])
        words, height = f"k-hat {format_number(khat, 2)}", 0.05 + 0.085 * place
        axes.text(0.04, height, words, transform=axes.transAxes, color=engine.color, fontsize=8.5)
    low = max(float(np.quantile(powers, 0.2)), -12.0)
    bottom, _ = axes.get_ylim() if axes.lines[:-2] else (0.0, 0.0)
    axes.set_ylim(min(bottom, low - 0.3), 0.4)


def _tail_powers(logs: Floats, smoothed: Floats) -> Floats:
    """Smoothed weights of the tail, largest first, as powers of ten below the largest raw weight."""
    finite = np.isfinite(logs)
    shift = smoothed[finite] - logs[finite]
    # smoothing only scales what is not in the tail, and that is most of the draws
    scale = float(np.median(shift))
    changed = np.abs(shift - scale) > 1e-9
    found = np.sort(smoothed[finite][changed])[::-1]
    return np.asarray((found - scale - float(logs[finite].max())) / np.log(10.0))


def _shares(axes: Axes, engine: Engine, logs: Floats) -> None:
    weights = np.sort(10.0 ** relative_weights(engine))[::-1]
    share = np.cumsum(weights) / weights.sum()
    ranks = np.unique(np.geomspace(1, len(share), 160).astype(int))
    axes.plot(
        100 * ranks / len(logs), share[ranks - 1], color=engine.color, linewidth=1.6, linestyle=DASHES[engine.dash]
    )  # fmt: skip


def _running(sizes_axes: Axes, evidence_axes: Axes, engine: Engine, logs: Floats) -> None:
    top = float(logs.max())
    weights = np.exp(logs - top)
    first, second = np.cumsum(weights), np.cumsum(weights**2)
    numbers = np.unique(np.geomspace(1, len(logs), NUM_RUNNING).astype(int))
    s1, s2 = first[numbers - 1], second[numbers - 1]
    has = s1 > 0.0
    numbers, s1, s2 = numbers[has], s1[has], s2[has]
    dashes = DASHES[engine.dash]
    sizes_axes.plot(numbers, s1**2 / s2, color=engine.color, linewidth=1.5, linestyle=dashes)
    late = numbers >= min(30, len(logs))
    numbers, s1, s2 = numbers[late], s1[late], s2[late]
    value = np.log(s1 / numbers) + top
    if engine.log_evidence is not None and len(value):
        value += engine.log_evidence - value[-1]  # of a part of the draws the evidence counts those left out, too
    error = np.sqrt(np.maximum(s2 / s1**2 - 1 / numbers, 0.0))
    evidence_axes.fill_between(
        numbers, value - 2 * error, value + 2 * error, color=engine.color, alpha=0.12, linewidth=0
    )
    evidence_axes.plot(numbers, value, color=engine.color, linewidth=1.5, linestyle=dashes)


def _running_khat(axes: Axes, engine: Engine, logs: Floats) -> None:
    if len(logs) < FEWEST_KHAT:
        return
    numbers = np.unique(np.geomspace(FEWEST_KHAT, len(logs), NUM_KHAT).astype(int))
    parts = [logs[:number] for number in numbers]
    found = np.array([pareto_khat(part) if np.isfinite(part).any() else np.nan for part in parts])
    shown = np.isfinite(found)
    dashes = DASHES[engine.dash]
    axes.plot(
        numbers[shown], found[shown], marker="o", color=engine.color, linewidth=1.3, markersize=3, linestyle=dashes,
    )  # fmt: skip


def _finish(axes: Axes, across: str, up: str) -> None:
    axes.set_xscale("log")
    axes.set_xlabel(plain(across))
    axes.set_ylabel(up)
    decade_ticks(axes, "x")


def _finish_running(row: Sequence[Axes], most: int) -> None:
    for axes, up in zip(row, ("ESS", "log evidence", "k-hat"), strict=True):
        _finish(axes, "draws", up)
    sizes, evidence, khats = row
    numbers = np.unique(np.geomspace(1, max(most, 2), 40).astype(int))
    sizes.set_yscale("log")
    sizes.plot(numbers, numbers, color=MUTED, linewidth=0.8, linestyle=":")
    sizes.annotate("all weights equal", (numbers[-1], numbers[-1]), xytext=(-4, -1), textcoords="offset points",
                   ha="right", va="center", fontsize=8, color=MUTED)  # fmt: skip
    decade_ticks(sizes, "y")
    # the first draws say nothing and would flatten the rest
    evidence.set_xlim(30 if most > 60 else 1, most * 1.1)
    decade_ticks(evidence, "x")
    _limit_evidence(evidence)
    numbers = np.unique(np.geomspace(min(FEWEST_KHAT, most), most, 40).astype(int))
    khats.plot(numbers, [khat_threshold(int(n)) for n in numbers], color=MUTED, linewidth=0.9, linestyle="--")
    khats.annotate("limit", (numbers[0], khat_threshold(int(numbers[0]))), xytext=(0, -9), textcoords="offset points",
                   fontsize=8, color=MUTED)  # fmt: skip
    low, high = khats.get_ylim()
    khats.set_ylim(min(low, 0.0) - 0.05, max(high, 1.0))
    for axes in (evidence, khats):
        axes.yaxis.set_major_locator(MaxNLocator(5))


def _limit_evidence(axes: Axes) -> None:
    lines = [np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.lines]
    late = [values[len(values) // 3 :] for values in lines if len(values)]
    if not late:
        return
    low, high = min(float(v.min()) for v in late), max(float(v.max()) for v in late)
    room = max(0.35 * (high - low), 0.15)
    axes.set_ylim(low - room, high + room)
