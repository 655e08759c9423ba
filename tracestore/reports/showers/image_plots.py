"""Images of showers, mean ones and single ones, with one color scale for all sets; and matrices of correlations."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tracestore._extras import extra
from tracestore.pages.figures import INK, figure_style, to_svg
from tracestore.reports.plots import WIDTH, plain
from tracestore.reports.showers.curve_plots import panel_grid
from tracestore.reports.showers.numbers import ComparisonResult
from tracestore.reports.showers.sets import ANGLE, ENERGY

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = ["correlations_svg", "pictures_svg", "singles_svg"]

FloatArray = NDArray[np.float64]

DECADES = 5.0
"""Of the color scale, below the highest mean energy."""
COLORS_OF_ENERGY = "viridis"


def pictures_svg(result: ComparisonResult) -> str:
    """Draw the mean image of each set, a row for each bin, in projection.

    Parameters
    ----------
    result
        The comparison.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    sets = [result.reference, *(model.numbers for model in result.models)]
    rows = [one.words for one in result.picture_bins]
    images = [[numbers.pictures[place] for numbers in sets] for place in range(len(rows))]
    titles = [numbers.name for numbers in sets]
    return _images_svg(result, images, rows, titles, "Mean images of showers")


def singles_svg(result: ComparisonResult) -> str:
    """Draw single showers of each set, a row for each energy, in projection.

    Parameters
    ----------
    result
        The comparison.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    sets = [result.reference, *(model.numbers for model in result.models)]
    rows = []
    for labels in result.reference.single_labels:
        angle = f", {labels[ANGLE]:.0f} degrees" if ANGLE in labels else ""
        rows.append(f"{labels[ENERGY]:.3g} GeV{angle}")
    images = [[numbers.singles[place] for numbers in sets] for place in range(len(rows))]
    return _images_svg(result, images, rows, [numbers.name for numbers in sets], "Single showers")


def correlations_svg(result: ComparisonResult) -> str:
    """Draw the correlations of features in the reference, and what each model adds, in all showers and by bin.

    Parameters
    ----------
    result
        The comparison.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    rows = [None, *(place for place, one in enumerate(result.bins) if one.label == ENERGY)]
    words = ["all showers" if place is None else result.bins[place].words for place in rows]
    sets = [result.reference, *(model.numbers for model in result.models)]
    size = min(WIDTH / len(sets), 2.1)
    with figure_style(grid=False):
        whole = (size * len(sets) + 2.2, size * len(rows) + 1.3)
        figure, grid = panel_grid(whole, (len(rows), len(sets)), gaps=(0.12, 0.12), margins=(1.25, 0.95, 0.3, 1.0))
        shown: AxesImage | None = None
        for line, place in enumerate(rows):
            first = result.reference.correlations[0 if place is None else place + 1]
            for column, numbers in enumerate(sets):
                matrix = numbers.correlations[0 if place is None else place + 1]
                axes = grid[line, column]
                if first is None or matrix is None:
                    axes.set_axis_off()
                    continue
                values = matrix - first if column else matrix
                # differences are half as large at the same color
                shown = axes.imshow(values * (2.0 if column else 1.0), cmap="RdBu_r", vmin=-1.0, vmax=1.0)
                _name_features(axes, result.feature_names, is_left=not column, is_low=line == len(rows) - 1)
                if not line:
                    title = f"{numbers.name} \N{MINUS SIGN} reference, twice" if column else "reference"
                    axes.set_title(plain(title), loc="left", fontsize=9.5, color=INK, pad=5)
            grid[line, 0].set_ylabel(words[line], color=INK)
        _add_scale(figure, shown, "correlation")
        return to_svg(figure, "Correlations of features in the reference, and what each model adds to them")


def _images_svg(
    result: ComparisonResult, images: Sequence[Sequence[FloatArray]], rows: Sequence[str], titles: Sequence[str],
    words: str,
) -> str:  # fmt: skip
    across, depth = images[0][0].shape
    width = min((WIDTH - 1.75) / len(titles), 2.9, 3.4 * depth / across)
    with figure_style(grid=False):
        size = (width * len(titles) + 1.75, 0.8 + width * across / depth * len(rows))
        figure, grid = panel_grid(
            size, (len(rows), len(titles)), gaps=(0.12, 0.12), margins=(0.8, 0.95, 0.3, 0.5), sharex=True, sharey=True
        )
        highest = max(float(np.nanmax(line[0], initial=0.0)) for line in images) or 1.0
        norm = LogNorm(highest * 10.0**-DECADES, highest, clip=False)
        shown: AxesImage | None = None
        for line, several in enumerate(images):
            for column, image in enumerate(several):
                axes = grid[line, column]
                if np.isfinite(image).all():
                    shown = axes.imshow(
                        np.ma.masked_less_equal(image, 0.0), norm=norm, cmap=COLORS_OF_ENERGY, origin="lower",
                        aspect="equal", interpolation="nearest",
                    )  # fmt: skip
                else:
                    axes.text(0.5, 0.5, "no showers", transform=axes.transAxes, ha="center", color=INK)
            grid[line, 0].set_ylabel(f"{rows[line]}\ncell along {result.picture_axis}")
        for column, title in enumerate(titles):
            grid[0, column].set_title(plain(title), loc="left", fontsize=9.5, color=INK, pad=5)
            grid[-1, column].set_xlabel("cell along depth")
        _add_scale(figure, shown, "visible energy [GeV]")
        return to_svg(figure, f"{words}, projected onto {result.picture_axis} and depth: {', '.join(titles)}")


def _add_scale(figure: Figure, shown: AxesImage | None, words: str) -> None:
    """Put a color scale at the right margin."""
    if shown is not None:
        width, height = figure.get_size_inches()
        place = figure.add_axes((1.0 - 0.8 / width, 1.0 - 2.7 / height, 0.13 / width, 2.4 / height))
        figure.colorbar(shown, cax=place, label=words).minorticks_off()


def _name_features(axes: Axes, names: Sequence[str], *, is_left: bool, is_low: bool) -> None:
    words = [name.replace("log_hits_above_", "hits > ").replace("log_", "").replace("_", " ") for name in names]
    places = range(len(words))
    axes.set_xticks(places, words if is_low else [], rotation=90, fontsize=7)
    axes.set_yticks(places, words if is_left else [], fontsize=7)
    axes.tick_params(length=0)
