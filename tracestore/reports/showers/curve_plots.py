"""Figures of showers by bin: profiles with ratios, spectra of cells, distributions of response and hits."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracestore._extras import extra
from tracestore.diagnostics.bands import Band
from tracestore.pages.figures import INK, MUTED, figure_style, to_svg
from tracestore.reports.data import COLORS
from tracestore.reports.plots import DASHES, TRUTH, WIDTH
from tracestore.reports.showers.numbers import ComparisonResult, Histogram, SetNumbers, quotient_band

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

__all__ = [
    "RATIO_LIMITS", "Panels", "SetStyle", "distributions_svg", "draw_ratio_axes", "panel_grid", "profiles_svg",
    "set_styles", "spectra_svg",
]  # fmt: skip

FloatArray = NDArray[np.float64]
Panels = NDArray[np.object_]
"""Axes, by row and column."""

RATIO_LIMITS = (0.5, 1.5)
"""Widest range of a ratio panel; what lies outside is cut off."""
HEADROOM = 1.6
"""Of linear panels, over the highest of the reference."""
LEAST_RATIO = 0.06
LEAST_PROFILE = 3e-5
"""Smallest mean energy of a logarithmic panel, relative to the largest."""


class SetStyle(NamedTuple):
    """How one set is drawn everywhere."""

    color: str
    dash: str
    """One of the keys of `DASHES`."""
    width: float = 1.1


def set_styles(result: ComparisonResult) -> tuple[SetStyle, ...]:
    """Return the styles of the reference, black, and of each model."""
    dashes = list(DASHES)
    models = [
        SetStyle(COLORS[place % len(COLORS)], dashes[(place + place // len(COLORS)) % len(dashes)])
        for place in range(len(result.models))
    ]
    return (SetStyle(TRUTH, "solid", 2.2), *models)


def profiles_svg(result: ComparisonResult, axis: str, label: str) -> str:
    """Draw the mean profile along an axis: linear, logarithmic, and over the reference, a column for each bin.

    Parameters
    ----------
    result
        The comparison.
    axis
        One of ``x``, ``y``, ``depth``.
    label
        Which bins: those of ``energy`` or ``angle``.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    chosen = [place for place, one in enumerate(result.bins) if one.label == label]
    sets = _sets(result)
    with figure_style():
        figure, grid = panel_grid(
            (WIDTH, 6.2), (3, len(chosen)), gaps=(0.12, 0.16), heights=(1.1, 1.1, 0.9), sharex=True, sharey="row"
        )
        highest, lowest = 0.0, np.inf
        for column, place in enumerate(chosen):
            linear, logarithmic, ratio = grid[:, column]
            linear.set_title(result.bins[place].words, loc="left", fontsize=9.5, color=INK, pad=5)
            for (numbers, style), is_first in zip(sets, [True] + [False] * len(result.models), strict=True):
                band = numbers.profiles[axis][place]
                if band is None:
                    continue
                edges = np.arange(len(band.mean) + 1, dtype=np.float64) - 0.5
                highest = max(highest, float(band.mean.max()))
                lowest = min(lowest, float(band.mean.min()))
                for axes in (linear, logarithmic):
                    _draw_steps(axes, edges, band, style)
                over = None if is_first else numbers.ratios[axis][place]
                if over is not None:
                    _draw_steps(ratio, edges, over, style)
        top = max(
            (float(band.upper.max()) for band in result.reference.profiles[axis] if band is not None), default=1.0
        )
        grid[0, 0].set_ylim(0.0, min(1.05 * highest, HEADROOM * top))
        for axes in grid[1]:
            axes.set_yscale("log")
            axes.set_ylim(0.4 * max(lowest, top * LEAST_PROFILE), min(2.0 * highest, 100.0 * top))
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
            axes.yaxis.set_minor_locator(NullLocator())
        bands = [numbers.ratios[axis][place] for numbers, _ in sets[1:] for place in chosen]
        drawn = [
            _where_energy(result, band, axis, place)
            for band, place in zip(bands, chosen * len(result.models), strict=True)
        ]
        draw_ratio_axes(list(grid[2]), drawn)
        for axes in grid[2]:
            axes.set_xlabel(f"cell along {axis}")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for axes in grid[:2, 0]:
            axes.set_ylabel("energy [MeV per GeV]")
        grid[2, 0].set_ylabel("model / reference")
        figure.align_ylabels()
        return to_svg(figure, f"Mean profile along {axis} in bins of {label}, and over the reference")


def spectra_svg(result: ComparisonResult, label: str) -> str:
    """Draw how many cells of a shower have which energy, and over the reference, a column for each bin.

    Parameters
    ----------
    result
        The comparison.
    label
        Which bins.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    threshold = result.threshold

    def finish(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.axvline(threshold, color=MUTED, linewidth=0.8, linestyle=":")

    return _histograms_svg(
        result, label, lambda numbers: numbers.spectra, finish,
        x="energy of a cell [GeV]", y="cells per shower and bin", words="Spectrum of the energies of cells",
    )  # fmt: skip


def distributions_svg(result: ComparisonResult, quantity: str, label: str) -> str:
    """Draw the distribution of response or hits, and over the reference, a column for each bin.

    Parameters
    ----------
    result
        The comparison.
    quantity
        ``response`` or ``hits``.
    label
        Which bins.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    x = {"response": "Ecal / Ep", "hits": "cells hit"}[quantity]

    def finish(axes: Axes) -> None:
        axes.set_ylim(bottom=0.0)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))

    return _histograms_svg(
        result, label, lambda numbers: numbers.histograms[quantity], finish,
        x=x, y="density", words=f"Distribution of {x}",
    )  # fmt: skip


def panel_grid(
    size: tuple[float, float], shape: tuple[int, int], *,
    gaps: tuple[float, float], heights: Sequence[float] | None = None,
    margins: tuple[float, float, float, float] = (0.75, 0.1, 0.3, 0.5),
    sharex: bool | Literal["col"] = False, sharey: bool | Literal["row"] = False,
) -> tuple[Figure, Panels]:  # fmt: skip
    """Return a figure with panels at fixed places: with this many, finding places takes longer than drawing.

    Parameters
    ----------
    size
        Width and height in inches.
    shape
        Rows and columns.
    gaps
        Between panels, across and down, in inches.
    heights
        Of the rows, relative to each other.
    margins
        Left, right, top and bottom, in inches.
    sharex, sharey
        Which panels share axes.
    """
    (width, height), (rows, columns), (left, right, top, bottom) = size, shape, margins
    across, down = width - left - right, height - top - bottom
    figure = Figure(figsize=size)
    grid = figure.subplots(
        rows, columns, squeeze=False, sharex=sharex, sharey=sharey,
        gridspec_kw={
            "left": left / width, "right": 1.0 - right / width, "top": 1.0 - top / height, "bottom": bottom / height,
            "wspace": gaps[0] * columns / max(across - gaps[0] * (columns - 1), 0.1),
            "hspace": gaps[1] * rows / max(down - gaps[1] * (rows - 1), 0.1),
            "height_ratios": heights,
        },
    )  # fmt: skip
    return figure, grid


def draw_ratio_axes(several: Sequence[Axes], bands: Sequence[Band | None]) -> None:
    """Give ratio panels that share an axis a line at one and limits that hold what is known well.

    Parameters
    ----------
    several
        The panels.
    bands
        What is drawn in them; only numbers decide that are finite.
    """
    parts = [np.concatenate([band.lower, band.upper]) for band in bands if band is not None]
    values = np.concatenate(parts) if parts else np.ones(1)
    values = values[np.isfinite(values)]
    reach = float(np.quantile(np.abs(values - 1.0), 0.97)) if len(values) else 0.0
    reach = max(1.1 * reach, LEAST_RATIO)
    for axes in several:
        axes.axhline(1.0, color=TRUTH, linewidth=1.0)
        axes.set_ylim(max(1.0 - reach, RATIO_LIMITS[0]), min(1.0 + reach, RATIO_LIMITS[1]))
        axes.yaxis.set_major_locator(MaxNLocator(5))


def _histograms_svg(
    result: ComparisonResult, label: str, pick: Callable[[SetNumbers], Sequence[Histogram | None]],
    finish: Callable[[Axes], None], *, x: str, y: str, words: str,
) -> str:  # fmt: skip
    """Draw histograms above their ratios, a column for each bin; scales of columns are their own."""
    chosen = [place for place, one in enumerate(result.bins) if one.label == label]
    sets = _sets(result)
    with figure_style():
        figure, grid = panel_grid((WIDTH, 4.1), (2, len(chosen)), gaps=(0.55, 0.16), heights=(1.3, 0.8), sharex="col")
        bands: list[Band | None] = []
        for column, place in enumerate(chosen):
            above, below = grid[:, column]
            above.set_title(result.bins[place].words, loc="left", fontsize=9.5, color=INK, pad=5)
            for number, (numbers, style) in enumerate(sets):
                found = pick(numbers)[place]
                if found is None:
                    continue
                _draw_steps(above, found.edges, found.density, style)
                first = pick(result.models[number - 1].against)[place] if number else None
                if first is not None:
                    over = _where_common(quotient_band(found.density, first.density), first.density)
                    _draw_steps(below, found.edges, over, style)
                    bands.append(over)
            finish(above)
            below.set_xlabel(x)
        _limit_columns(grid[0], [[pick(numbers)[place] for numbers, _ in sets] for place in chosen])
        draw_ratio_axes(list(grid[1]), bands)
        for axes in grid[1, 1:]:
            axes.tick_params(labelleft=False)
        grid[0, 0].set_ylabel(y)
        grid[1, 0].set_ylabel("model / reference")
        figure.align_ylabels()
        return to_svg(figure, f"{words} in bins of {label}, and over the reference")


def _limit_columns(several: Sequence[Axes], found: Sequence[Sequence[Histogram | None]]) -> None:
    """Show the bins that any set reaches, and, on logarithmic axes, no fewer than one cell in a thousand showers."""
    for axes, sets in zip(several, found, strict=True):
        known = [one for one in sets if one is not None]
        if not known or axes.get_yscale() != "log":
            continue
        highest = np.max([one.density.mean for one in known], axis=0)
        reached = np.flatnonzero(highest > 1e-3)
        if len(reached):
            axes.set_xlim(known[0].edges[reached[0]], known[0].edges[reached[-1] + 1])
            axes.set_ylim(5e-4, 2.0 * float(highest.max()))


def _draw_steps(axes: Axes, edges: FloatArray, band: Band, style: SetStyle) -> None:
    lower, upper = (np.where(np.isfinite(values), values, band.mean) for values in (band.lower, band.upper))
    axes.fill_between(
        np.repeat(edges, 2)[1:-1], np.repeat(lower, 2), np.repeat(upper, 2), color=style.color, alpha=0.18, linewidth=0
    )
    axes.stairs(band.mean, edges, baseline=None, color=style.color, linewidth=style.width, linestyle=DASHES[style.dash])


def _where_common(ratio: Band, reference: Band) -> Band:
    """Leave out where the reference has next to nothing: less than a thousandth of its highest bin."""
    is_shown = reference.mean > 1e-3 * reference.mean.max()
    return Band(*(np.where(is_shown, values, np.nan) for values in ratio))


def _where_energy(result: ComparisonResult, band: Band | None, axis: str, place: int) -> Band | None:
    """Keep what decides the limits of ratio panels: cells with a hundredth of the highest mean energy or more."""
    reference = result.reference.profiles[axis][place]
    if band is None or reference is None:
        return None
    is_kept = reference.mean > 0.01 * reference.mean.max()
    return Band(*(values[is_kept] for values in band))


def _sets(result: ComparisonResult) -> list[tuple[SetNumbers, SetStyle]]:
    several = (result.reference, *(model.numbers for model in result.models))
    return list(zip(several, set_styles(result), strict=True))
