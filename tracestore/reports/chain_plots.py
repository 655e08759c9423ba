"""Figures of Markov chains: values, ranks and autocorrelation of each variable, and how R-hat and sizes settle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracestore._extras import extra
from tracestore.diagnostics import chains as chain_statistics
from tracestore.errors import TracestoreError
from tracestore.pages.figures import INK, MUTED, figure_style, to_svg
from tracestore.reports.data import COLORS, Engine, Variable
from tracestore.reports.numbers import format_rhat
from tracestore.reports.plots import TRUTH, TRUTH_DASHES, WIDTH, decade_ticks, new_figure, plain

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.colors import to_rgb
    from matplotlib.ticker import EngFormatter, MaxNLocator

__all__ = ["chains_svg", "running_svg"]

Floats = NDArray[np.float64]

MOST_POINTS = 300
"""Points drawn for one chain; longer chains are thinned for the figure."""
NUM_BINS = 20
MOST_LAGS = 200
MOST_SHADES = 8
"""Chains that are drawn one by one; of more, the first ones."""
MOST_VALUES = 400_000
"""Values beyond which ranks and autocorrelation are those of the last draws of each chain."""
NUM_RUNNING = 10
MOST_RUNNING = 6
"""Variables whose running R-hat and size are drawn: those that mix worst."""
RHAT_GOOD = 1.01


@dataclass(frozen=True, slots=True)
class _Chains:
    """One variable, chain by chain, cut to the length of the shortest."""

    values: Floats
    """(chains, draws); no draws when a chain lacks the variable."""

    @property
    def is_flat(self) -> bool:
        """Nothing can be said: too few draws, or they never vary."""
        return self.values.shape[1] < chain_statistics.MIN_DRAWS or chain_statistics.is_constant(self.values)


def chains_svg(variables: Sequence[Variable], engine: Engine) -> str:
    """Draw one row a variable: its values against the draw, ranks by chain, and autocorrelation.

    Parameters
    ----------
    variables
        The rows.
    engine
        An engine with chains.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with figure_style():
        figure = new_figure(WIDTH, 0.55 + 0.92 * len(variables), space=0.03)
        grid = figure.subplots(len(variables), 3, squeeze=False, width_ratios=(2.6, 1.2, 1.2))
        for row, variable in zip(grid, variables, strict=True):
            _values(row[0], variable, engine)
            chains = _by_chain(engine, variable)
            _ranks(row[1], chains, engine)
            _autocorrelation(row[2], chains, engine)
            row[2].set_xlim(0, min(MOST_LAGS, max(engine.num_draws // engine.num_chains - 1, 1)))
        for axes, title in zip(grid[0], (None, "ranks by chain", "autocorrelation"), strict=True):
            if title is not None:
                axes.set_title(title, loc="left", fontsize=8.5, color=INK, pad=2)
        for axes in grid[:-1].flat:
            axes.tick_params(axis="x", labelbottom=False)
        for axes, across in zip(grid[-1], ("draw", "rank among all chains [%]", "lag"), strict=True):
            axes.set_xlabel(across)
        return to_svg(figure, f"Chains of {engine.label}")


def _values(axes: Axes, variable: Variable, engine: Engine) -> None:
    marginal = engine.marginals[variable.name]
    chains = np.unique(marginal.chain)[:MOST_SHADES]
    for index, chain in enumerate(chains):
        mine = np.flatnonzero(marginal.chain == chain)
        mine = mine[np.argsort(marginal.draw[mine], kind="stable")]
        mine = mine[:: max(-(-len(mine) // MOST_POINTS), 1)]
        color = _shade(engine.color, index, len(chains))
        if variable.is_discrete or len(mine) < 20:
            # categories of several chains side by side instead of on top of each other
            offset = 0.5 * (index / max(len(chains) - 1, 1) - 0.5) if variable.is_discrete else 0.0
            axes.plot(marginal.draw[mine], marginal.values[mine] + offset, ".", color=color, markersize=1.8)
        else:
            axes.plot(marginal.draw[mine], marginal.values[mine], color=color, linewidth=0.7)
    if variable.truth is not None:
        axes.axhline(variable.truth, color=TRUTH, linewidth=0.8, linestyle=TRUTH_DASHES, zorder=3)
    words = [variable.label] if marginal.rhat is None else [variable.label, f"R-hat {format_rhat(marginal.rhat)}"]
    axes.set_title(plain(", ".join(words)), loc="left", fontsize=8.5, color=INK, pad=2)
    axes.yaxis.set_major_locator(MaxNLocator(2, integer=variable.is_discrete))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    length = max(engine.num_draws / engine.num_chains, 1.0)
    axes.set_xlim(-0.01 * length, 1.01 * length)
    axes.margins(y=0.12)


def _by_chain(engine: Engine, variable: Variable) -> _Chains:
    marginal = engine.marginals[variable.name]
    order = np.lexsort((marginal.draw, marginal.chain))
    chain, values = marginal.chain[order], marginal.values[order]
    starts = np.flatnonzero(np.diff(chain, prepend=-1))
    if len(starts) < engine.num_chains or not len(values):
        return _Chains(np.zeros((1, 0)))
    length = int(np.diff(starts, append=len(chain)).min())
    return _Chains(values[starts[:, None] + np.arange(length)])


def _ranks(axes: Axes, chains: _Chains, engine: Engine) -> None:
    """Draw a histogram of the ranks of each chain; chains that agree are flat, nine in ten times in the gray band."""
    if chains.is_flat:
        _say(axes, "constant, or too few draws")
        return
    values = _last(chains.values)
    number, length = values.shape
    flat = values.ravel()
    # ties are broken by place in the chain, alike for all chains
    order = np.lexsort((np.tile(np.arange(length), number), flat))
    ranks = np.empty(len(flat))
    ranks[order] = (np.arange(len(flat)) + 0.5) / len(flat)
    edges = np.linspace(0.0, 1.0, NUM_BINS + 1)
    for index, mine in enumerate(ranks.reshape(number, length)[:MOST_SHADES]):
        heights, _ = np.histogram(mine, bins=edges)
        relative = heights / (length / NUM_BINS)
        color = _shade(engine.color, index, min(number, MOST_SHADES))
        axes.stairs(relative, 100 * edges, color=color, linewidth=1.0)
    spread = 1.645 * np.sqrt((1 - 1 / NUM_BINS) * NUM_BINS / length) * np.sqrt(length / _size(chains, length))
    axes.axhspan(1 - spread, 1 + spread, color=MUTED, alpha=0.13, linewidth=0)
    axes.set_ylim(0, max(2.0, min(1.15 * axes.get_ylim()[1], 6.0)))
    axes.set_xlim(0, 100)
    axes.yaxis.set_major_locator(MaxNLocator(2))


def _size(chains: _Chains, length: int) -> float:
    """Effective draws of one chain."""
    try:
        found = chain_statistics.ess(_last(chains.values)) / len(chains.values)
    except TracestoreError:
        return float(length)
    return float(np.clip(found, 1.0, length)) if np.isfinite(found) else float(length)


def _autocorrelation(axes: Axes, chains: _Chains, engine: Engine) -> None:
    if chains.is_flat:
        _say(axes, "constant, or too few draws")
        return
    values = _last(chains.values)
    most = min(MOST_LAGS, values.shape[1] - 1)
    found = chain_statistics.autocorrelation(values, max_lag=most)
    lags = np.arange(found.shape[1])
    for index, mine in enumerate(found[:MOST_SHADES]):
        axes.plot(lags, mine, color=_shade(engine.color, index, min(len(found), MOST_SHADES)), linewidth=1.0)
    axes.axhline(0.0, color=MUTED, linewidth=0.8)
    axes.set_ylim(min(-0.15, 1.1 * float(found.min())), 1.05)
    axes.yaxis.set_major_locator(MaxNLocator(2))


def _last(values: Floats) -> Floats:
    return values[:, -max(MOST_VALUES // len(values), 1) :]


def _say(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=MUTED, fontsize=8.5)
    axes.set_yticks([])
    axes.grid(visible=False)


def _shade(color: str, index: int, number: int) -> tuple[float, float, float]:
    base = np.array(to_rgb(color))
    light = 0.55 * index / max(number - 1, 1)
    red, green, blue = base + (1 - base) * light
    return float(red), float(green), float(blue)


# ---------------------------------------------------------------------------------------------- running diagnostics


def running_svg(variables: Sequence[Variable], engine: Engine) -> str:
    """Draw R-hat and the effective sample size of the variables that mix worst against the length of the chains.

    Parameters
    ----------
    variables
        Candidates; those that never vary are left out.
    engine
        An engine with chains.

    Returns
    -------
    str
        An ``<svg>`` element; empty when no variable varies.
    """
    candidates = [(v, chains) for v in variables if not (chains := _by_chain(engine, v)).is_flat]
    # the worst first: infinite or large R-hat, then few effective draws
    candidates.sort(key=lambda pair: _badness(engine, pair[0]))
    shown = candidates[:MOST_RUNNING]
    if not shown or min(chains.values.shape[1] for _, chains in shown) < 4 * chain_statistics.MIN_DRAWS:
        return ""
    with figure_style():
        figure = new_figure(WIDTH, 3.0, space=0.05)
        left, right = figure.subplots(1, 2)
        ends: list[tuple[str, str, float, float]] = []
        for index, (variable, chains) in enumerate(shown):
            color = COLORS[index % len(COLORS)]
            lengths = np.unique(np.geomspace(16, chains.values.shape[1], NUM_RUNNING).astype(int))
            rhats = _running(chain_statistics.rhat, chains.values, lengths)
            sizes = _running(chain_statistics.ess, chains.values, lengths)
            left.plot(lengths, rhats, "o-", color=color, linewidth=1.3, markersize=3)
            right.plot(lengths, sizes, "o-", color=color, linewidth=1.3, markersize=3)
            ends.append((variable.label, color, float(lengths[-1]), float(sizes[-1])))
        _finish_running(left, right, engine)
        _name_lines(right, ends)
        return to_svg(figure, f"R-hat and effective sample size of {engine.label} against the length of the chains")


def _badness(engine: Engine, variable: Variable) -> tuple[float, float]:
    marginal = engine.marginals[variable.name]
    rhat = marginal.rhat if marginal.rhat is not None else 1.0
    return -rhat, marginal.ess if np.isfinite(marginal.ess) else np.inf


def _running(function: Callable[[Floats], float], values: Floats, lengths: NDArray[np.int64]) -> Floats:
    found = []
    for length in lengths:
        try:
            found.append(function(values[:, :length]))
        except TracestoreError:  # one chain has no R-hat
            found.append(np.nan)
    numbers = np.array(found)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _finish_running(left: Axes, right: Axes, engine: Engine) -> None:
    for axes, title in ((left, "R-hat"), (right, "Effective sample size")):
        axes.set_title(title, loc="left", fontsize=9.5, color=INK, pad=6)
        axes.set_xscale("log")
        axes.set_xlabel("draws of each chain")
        decade_ticks(axes, "x")
    left.set_ylabel("R-hat")
    # the shortest chains disagree by a lot and would flatten the rest
    late = [np.asarray(line.get_ydata(), dtype=np.float64)[NUM_RUNNING // 3 :] for line in left.lines]
    high = max((float(np.nanmax(part)) for part in late if np.isfinite(part).any()), default=1.05)
    left.axhline(RHAT_GOOD, color=MUTED, linewidth=0.9, linestyle="--")
    left.set_ylim(0.995, min(max(1.05 * high, 1.05), 3.0))
    right.set_yscale("log")
    low, high = right.get_ylim()
    independent = float(right.get_xlim()[1]) * engine.num_chains
    right.set_ylim(low, max(high, min(1.1 * independent, 12 * high)))
    right.set_ylabel("ESS, all chains")
    decade_ticks(right, "y")
    numbers = np.array(right.get_xlim())
    right.plot(
        numbers, numbers * engine.num_chains, color=MUTED, linewidth=0.8, linestyle=":", scalex=False, scaley=False
    )
    if engine.num_chains < 2:
        left.text(0.5, 0.5, "one chain has no R-hat", transform=left.transAxes, ha="center", color=MUTED)


def _name_lines(axes: Axes, ends: Sequence[tuple[str, str, float, float]]) -> None:
    """Write the name of each line beside its end, none over another and none above the axes."""
    low, high = np.log(axes.get_ylim())
    gap = 0.078 * (high - low)
    known = sorted((end for end in ends if end[3] > 0), key=lambda end: end[3])
    places = [float(np.log(end[3])) for end in known]
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + gap)
    for index in reversed(range(len(places))):
        places[index] = min(places[index], high - (len(places) - 1 - index) * gap)
    for (text, color, x, _), place in zip(known, places, strict=True):
        axes.annotate(
            plain(text), (x, float(np.exp(place))), xytext=(8, 0), textcoords="offset points", color=color,
            va="center", fontsize=8.5, annotation_clip=False,
        )  # fmt: skip
