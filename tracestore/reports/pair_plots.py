"""The pair plot: joint densities of every two variables for all engines, with the truth as cross lines."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tracestore._extras import extra
from tracestore.diagnostics.weights import weighted_quantile
from tracestore.pages.figures import INK, figure_style, to_svg
from tracestore.reports.data import Engine, Variable, top_categories
from tracestore.reports.plots import (
    DASHES,
    TRUTH,
    TRUTH_DASHES,
    bin_edges,
    draw_bars,
    draw_steps,
    new_figure,
    plain,
    wrapped,
)

with extra("report"):
    from matplotlib.axes import Axes

__all__ = ["joint_draws", "pairs_svg"]

Floats = NDArray[np.float64]

FEW_DRAWS = 80
"""Engines with a smaller ESS are drawn as points, not as contours."""
GRID_SIZE = 56
MASSES = (0.5, 0.9)
"""Probability inside each contour."""
NUM_POINTS = 150
NUM_CATEGORIES = 6


def joint_draws(engine: Engine, first: Variable, second: Variable) -> tuple[Floats, Floats, Floats]:
    """Return the draws that carry two variables.

    Parameters
    ----------
    engine
        Whose draws.
    first, second
        The two variables.

    Returns
    -------
    tuple[Floats, Floats, Floats]
        (M,) values of each and (M,) weights with sum one; empty when no draw carries both.
    """
    a, b = engine.marginals[first.name], engine.marginals[second.name]
    if np.array_equal(a.draw, b.draw) and np.array_equal(a.chain, b.chain):
        weights = a.weights
        return a.values, b.values, weights
    keys_a, keys_b = ((m.chain.astype(np.int64) << 40) + m.draw for m in (a, b))
    _, at_a, at_b = np.intersect1d(keys_a, keys_b, return_indices=True)
    total = float(a.weights[at_a].sum())
    if not total > 0:
        empty = np.zeros(0)
        return empty, empty, empty
    return a.values[at_a], b.values[at_b], a.weights[at_a] / total


def pairs_svg(variables: Sequence[Variable], engines: Sequence[Engine]) -> str:
    """Draw the matrix of joint posteriors.

    Discrete variables come last. Below the diagonal: contours around 50 % and 90 % of each engine's probability;
    for a discrete variable the central 50 % and 90 % of the other variable in each category. On the diagonal:
    marginals. Above: correlations.

    Parameters
    ----------
    variables
        Rows and columns, two or more.
    engines
        Engines without draws of a pair are left out of its panel.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    variables = sorted(variables, key=lambda v: v.is_discrete)
    number = len(variables)
    with figure_style():
        figure = new_figure(13.4, 13.4 * min(0.12 * number + 0.02, 0.86), space=0.015)
        grid = figure.subplots(number, number, squeeze=False)
        edges = {v.name: bin_edges(v, engines) for v in variables if not v.is_discrete}
        for row, down in enumerate(variables):
            for column, across in enumerate(variables):
                axes = grid[row, column]
                if row == column:
                    _diagonal(axes, across, engines, edges)
                elif row > column:
                    _joint(axes, across, down, engines, edges)
                else:
                    _correlations(axes, across, down, engines)
                _trim(axes, row, column, number, across, down)
        figure.align_ylabels(grid[:, 0])
        return to_svg(figure, "Joint posteriors of " + ", ".join(v.label for v in variables))


def _trim(axes: Axes, row: int, column: int, number: int, across: Variable, down: Variable) -> None:
    if row < column:
        return
    axes.tick_params(labelsize=8, length=2)
    if row == number - 1:
        words = "probability" if row == column and across.is_discrete else wrapped(across.label, 17)
        axes.set_xlabel(words, color=INK, fontsize=9)
    else:
        axes.set_xlabel("")
        axes.tick_params(axis="x", labelbottom=False)
    if column == 0:
        axes.set_ylabel(wrapped(down.label, 17), color=INK, fontsize=9)
    elif row != column:
        axes.tick_params(axis="y", labelleft=False)
    if row == column and column > 0:
        axes.set_ylabel("")
        axes.tick_params(axis="y", labelleft=False)


def _diagonal(axes: Axes, variable: Variable, engines: Sequence[Engine], edges: dict[str, Floats]) -> None:
    if variable.is_discrete:
        draw_bars(axes, variable, engines, NUM_CATEGORIES, small=True)
        return
    axes.grid(visible=False)
    for engine in engines:
        draw_steps(axes, engine, engine.marginals.get(variable.name), edges[variable.name])
    if variable.truth is not None:
        axes.axvline(variable.truth, color=TRUTH, linewidth=0.9, linestyle=TRUTH_DASHES)
    axes.set_xlim(edges[variable.name][0], edges[variable.name][-1])
    axes.set_ylim(bottom=0)
    axes.set_yticks([])


def _joint(axes: Axes, across: Variable, down: Variable, engines: Sequence[Engine], edges: dict[str, Floats]) -> None:
    places = _category_places(down, engines) if down.is_discrete else {}
    columns = _category_places(across, engines) if across.is_discrete else {}
    for index, engine in enumerate(engines):
        if across.name not in engine.marginals or down.name not in engine.marginals:
            continue
        x, y, weights = joint_draws(engine, across, down)
        if len(x) == 0:
            continue
        offset = 0.62 * ((index + 0.5) / len(engines) - 0.5)
        if places and columns:
            _bubbles(axes, engine, (x, y, weights), columns, places, offset)
        elif places:
            _intervals(axes, engine, (x, y, weights), places, offset)
        else:
            effective = _num_effective(engine, weights, across, down)
            if effective < FEW_DRAWS or np.ptp(x) == 0 or np.ptp(y) == 0:
                _points(axes, engine, x, y, weights)
            else:
                _contours(axes, engine, (x, y, weights, effective), edges[across.name], edges[down.name])
    for variable, draw in ((across, axes.axvline), (down, axes.axhline)):
        if variable.truth is not None and not variable.is_discrete:
            draw(variable.truth, color=TRUTH, linewidth=0.9, linestyle=TRUTH_DASHES, zorder=4)
    if places:
        axes.set_ylim(len(places) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_yticks(list(places.values()), [plain(down.category_label(value)) for value in places])
        if down.truth in places:
            place = places[down.truth]
            axes.axhspan(place - 0.47, place + 0.47, color=TRUTH, alpha=0.07, linewidth=0)
    else:
        axes.set_ylim(edges[down.name][0], edges[down.name][-1])
    if columns:
        axes.set_xticks(list(columns.values()), [plain(across.category_label(value)) for value in columns], rotation=90)
        axes.set_xlim(-0.6, len(columns) - 0.4)
    else:
        axes.set_xlim(edges[across.name][0], edges[across.name][-1])


def _category_places(variable: Variable, engines: Sequence[Engine]) -> dict[float, int]:
    return {value: place for place, (value, _) in enumerate(top_categories(variable, engines, NUM_CATEGORIES))}


def _num_effective(engine: Engine, weights: Floats, first: Variable, second: Variable) -> float:
    kish = 1.0 / float(np.sum(weights**2))
    own = [engine.marginals[v.name].ess for v in (first, second)]
    return min([kish, *(n for n in own if np.isfinite(n))])


def _contours(
    axes: Axes, engine: Engine, draws: tuple[Floats, Floats, Floats, float], across: Floats, down: Floats
) -> None:
    x, y, weights, effective = draws
    xs = np.linspace(across[0], across[-1], GRID_SIZE + 1)
    ys = np.linspace(down[0], down[-1], GRID_SIZE + 1)
    density, _, _ = np.histogram2d(x, y, bins=(xs, ys), weights=weights)
    for axis, (values, grid) in enumerate(((x, xs), (y, ys))):
        center = weights @ values
        spread = float(np.sqrt(weights @ (values - center) ** 2))
        width = 1.1 * spread * effective ** (-1 / 6) / (grid[1] - grid[0])
        density = _smooth(density, float(np.clip(width, 0.8, GRID_SIZE / 4)), axis)
    levels = _mass_levels(density)
    if len(levels) < len(MASSES):
        return
    centers = 0.5 * (xs[1:] + xs[:-1]), 0.5 * (ys[1:] + ys[:-1])
    axes.contourf(*centers, density.T, levels=[levels[0], density.max() * 1.01], colors=[engine.color], alpha=0.07)
    axes.contour(
        *centers,
        density.T,
        levels=levels,
        colors=[engine.color],
        linewidths=(0.9, 1.5),
        linestyles=[DASHES[engine.dash]],
    )


def _smooth(density: Floats, width: float, axis: int) -> Floats:
    reach = int(np.ceil(3.5 * width))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    kernel /= kernel.sum()
    # mirrored edges keep the density of a bounded variable at its bound
    around = [(reach, reach) if i == axis else (0, 0) for i in range(2)]
    padded = np.pad(density, around, mode="symmetric")
    return np.apply_along_axis(np.convolve, axis, padded, kernel, mode="valid")


def _mass_levels(density: Floats) -> list[float]:
    ordered = np.sort(density.ravel())[::-1]
    inside = np.cumsum(ordered) / ordered.sum()
    return sorted({float(ordered[np.searchsorted(inside, mass)]) for mass in MASSES})


def _points(axes: Axes, engine: Engine, x: Floats, y: Floats, weights: Floats) -> None:
    # spread evenly over the draws, so that every chain shows up; draws of large weight come several times
    marks = (np.arange(NUM_POINTS) + 0.5) / NUM_POINTS
    reached = np.cumsum(weights)
    chosen, times = np.unique(np.searchsorted(reached, marks * reached[-1]), return_counts=True)
    # a few sizes: marks of one size are written once and referred to
    sizes = np.rint(2.0 * np.log2(times)).astype(int)
    for size in np.unique(sizes):
        mine = chosen[sizes == size]
        axes.plot(
            x[mine], y[mine], "o", color=engine.color, alpha=0.45, markeredgewidth=0, markersize=2.0 * 2 ** (size / 4)
        )  # fmt: skip


def _intervals(
    axes: Axes, engine: Engine, draws: tuple[Floats, Floats, Floats], places: dict[float, int], offset: float
) -> None:
    x, y, weights = draws
    for value, place in places.items():
        mine = y == value
        if weights[mine].sum() < 0.002:
            continue
        low, start, middle, stop, high = weighted_quantile(x[mine], weights[mine], (0.05, 0.25, 0.5, 0.75, 0.95))
        axes.plot([low, high], [place + offset] * 2, color=engine.color, linewidth=0.9)
        axes.plot([start, stop], [place + offset] * 2, color=engine.color, linewidth=2.6, alpha=0.75)
        axes.plot([middle], [place + offset], "o", color="white", markeredgecolor=engine.color, markersize=3)


def _bubbles(
    axes: Axes, engine: Engine, draws: tuple[Floats, Floats, Floats], columns: dict[float, int],
    places: dict[float, int], offset: float,
) -> None:  # fmt: skip
    x, y, weights = draws
    cells = [(c, p, float(weights[(x == a) & (y == b)].sum())) for a, c in columns.items() for b, p in places.items()]
    at = np.array([cell for cell in cells if cell[2] > 0.002]).reshape(-1, 3)
    axes.scatter(at[:, 0] + offset, at[:, 1], s=90 * at[:, 2], color=engine.color, alpha=0.6, linewidths=0)


def _correlations(axes: Axes, across: Variable, down: Variable, engines: Sequence[Engine]) -> None:
    axes.axis("off")
    if across.is_discrete or down.is_discrete:
        return
    lines = [(e, r) for e in engines if (r := _correlation(e, across, down)) is not None]
    for index, (engine, value) in enumerate(lines):
        height = 0.5 + 0.17 * ((len(lines) - 1) / 2 - index)
        number = f"{round(value, 2) + 0.0:+.2f}".replace("-", "\N{MINUS SIGN}")
        axes.text(
            0.5, height, number, transform=axes.transAxes, ha="center", va="center", color=engine.color,
            fontsize=9.5, alpha=0.75 + 0.25 * abs(value),
        )  # fmt: skip


def _correlation(engine: Engine, first: Variable, second: Variable) -> float | None:
    if first.name not in engine.marginals or second.name not in engine.marginals:
        return None
    x, y, weights = joint_draws(engine, first, second)
    if len(x) < 3:
        return None
    x, y = x - weights @ x, y - weights @ y
    spread = float((weights @ x**2) * (weights @ y**2))
    return float(weights @ (x * y)) / np.sqrt(spread) if spread > 0 else None
