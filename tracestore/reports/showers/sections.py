"""Sections of a page that compares showers: conclusions, tables, and figures with how to read them."""

from collections.abc import Sequence
from html import escape

from tracestore.diagnostics.showers import AXES
from tracestore.diagnostics.two_samples import AreaEstimate, ChiSquare
from tracestore.reports.elements import CSS_CLASS, prose, section, table
from tracestore.reports.numbers import NONE, format_number, format_share
from tracestore.reports.showers.curve_plots import SetStyle, distributions_svg, profiles_svg, set_styles, spectra_svg
from tracestore.reports.showers.image_plots import correlations_svg, pictures_svg, singles_svg
from tracestore.reports.showers.numbers import VERDICT_WORDS, ComparisonResult, Criterion, ModelComparison
from tracestore.reports.showers.sets import ANGLE, ENERGY
from tracestore.reports.showers.trend_plots import areas_svg, moments_svg, responses_svg
from tracestore.reports.showers.words import conclusions, criterion_value, explain_criterion

__all__ = ["set_key", "shower_sections"]

CHI = "\N{GREEK SMALL LETTER CHI}\N{SUPERSCRIPT TWO}"
PIXELS_A_POINT = 1.6
"""Of figures; others are as large when they take the whole page."""
WRAPPED = "white-space:normal;min-width:22ch"
"""Of cells with sentences in them."""


def shower_sections(result: ComparisonResult) -> dict[str, str]:
    """Return the sections of the page by title, in their order.

    Parameters
    ----------
    result
        The comparison.
    """
    labels = list(dict.fromkeys(one.label for one in result.bins))
    return {
        "Summary": _summary(result),
        "Classifier": _classifier(result),
        "Profiles": _profiles(result, labels),
        "Response": _responses(result, labels),
        "Cells": _cells(result),
        "Moments": _moments(result, labels),
        "Correlations": _correlations(result),
        "Images": _images(result),
    }


def set_key(result: ComparisonResult) -> str:
    """Return the list of lines that stand for the sets in all figures.

    Parameters
    ----------
    result
        The comparison.
    """
    names = ["reference", *(model.name for model in result.models)]
    items = [f"<li>{_line(style)}{escape(name)}</li>" for name, style in zip(names, set_styles(result), strict=True)]
    return f'<ul class="key">{"".join(items)}</ul>'


def _summary(result: ComparisonResult) -> str:
    words = "".join(f"<p>{prose(sentence)}</p>" for sentence in conclusions(result))
    worst = max((one.verdict.rank for model in result.models for one in model.criteria), default=0)
    remarks = [f"{model.name}: {remark}" for model in result.models for remark in model.remarks]
    notes = "".join(f'<p class="note">{prose(remark)}</p>' for remark in remarks)
    note = (
        "Every criterion is the largest difference in any bin of energy or angle; the classifier area is also that of "
        "all showers together. What two sets of this size differ by anyway is taken out before it is held against its "
        "limits, which are our choice: close up to the first, fails beyond the second, off between. The last column is "
        "one half of the reference against the other."
    )
    return section(
        "summary",
        "Summary",
        note,
        f'<div class="verdict {("good", "doubtful", "bad")[worst]}">{words}{notes}</div>',
        _criteria_table(result),
        _numbers_table(result),
    )


def _criteria_table(result: ComparisonResult) -> str:
    rows = []
    for criterion in result.models[0].criteria:
        limits = f"{criterion_value(criterion.key, criterion.good)} / {criterion_value(criterion.key, criterion.bad)}"
        cells = "".join(_criterion_cell(model.criterion(criterion.key)) for model in result.models)
        floor = criterion_value(criterion.key, result.floor.criterion(criterion.key).value)
        rows.append(
            f'<tr><th scope="row" style="{WRAPPED}">{escape(criterion.title)}<br>'
            f'<span class="note">{explain_criterion(criterion.key)}</span></th>'
            f"{cells}<td>{limits}</td><td>{floor}</td></tr>"
        )
    names = [f"{_line(style)}{escape(model.name)}" for model, style in _styled(result)]
    return table("Differences from the reference", ("criterion", *names, "limits", "half against half"), [rows])


def _criterion_cell(criterion: Criterion) -> str:
    color, word = CSS_CLASS[criterion.verdict], VERDICT_WORDS[criterion.verdict]
    noise = f"noise {criterion_value(criterion.key, criterion.noise)}, {criterion.where}"
    where = "" if criterion.key == "auc" else f'<br><span class="note">{escape(noise)}</span>'
    value = criterion_value(criterion.key, criterion.value)
    return f'<td style="{WRAPPED}">{value} <span class="badge {color}">{word}</span>{where}</td>'


def _numbers_table(result: ComparisonResult) -> str:
    rows = []
    for model, style in [*_styled(result), (result.floor, None)]:
        line = _line(style) if style is not None else ""
        name = model.name if style is not None else "half against half"
        chi = "".join(f"<td>{_chi_square(model.chi_square[axis])}</td>" for axis in AXES)
        rows.append(
            f'<tr><th scope="row">{line}{escape(name)}</th><td>{model.num_compared:,}</td><td>{_area(model.auc)}</td>'
            f"{chi}<td>{format_number(model.numbers.response, 4)}</td>"
            f"<td>{_signed_share(model.response_difference)}</td>"
            f"<td>{format_share(model.numbers.below_threshold)}</td><td>{format_share(model.numbers.negative_cells)}</td></tr>"
        )
    first = result.reference
    rows.append(
        f'<tr><th scope="row">{_line(set_styles(result)[0])}reference</th><td>{first.num_showers:,}</td>'
        f"{f'<td>{NONE}</td>' * 4}<td>{format_number(first.response, 4)}</td><td>{NONE}</td>"
        f"<td>{format_share(first.below_threshold)}</td><td>{format_share(first.negative_cells)}</td></tr>"
    )
    head = (
        "", "showers", "classifier area", *(f"{CHI} / degrees, {axis}" for axis in AXES),
        "Ecal / Ep", "change", "energy below threshold", "negative cells",
    )  # fmt: skip
    words = (
        f'<p class="note">{CHI} of the mean profile, with its covariance and without '
        "what energy and angle explain, over its degrees of freedom: about 1 for equal profiles. In brackets, how many "
        "standard deviations that is from chance. It grows with the number of showers.</p>"
    )
    return table("Whole sets", head, [rows]) + words


def _classifier(result: ComparisonResult) -> str:
    names = ", ".join(result.feature_names)
    words = (
        "Points are areas on showers that the classifier has not seen, with 95 % intervals of the scored showers; gray "
        f"is one half of the reference against the other. Features: {names}."
    )
    rows = [
        f'<tr><th scope="row">{escape(one.words)}</th>'
        + "".join(f"<td>{_area(model.auc_by_bin[place])}</td>" for model in (*result.models, result.floor))
        + "".join(f"<td>{_chi_square(model.chi_square_by_bin['depth'][place])}</td>" for model in result.models)
        + "</tr>"
        for place, one in enumerate(result.bins)
    ]
    names_of = [escape(model.name) for model in result.models]
    chi = [f"{CHI} depth, {name}" for name in names_of]
    head = ("showers", *(f"area, {name}" for name in names_of), "area, half against half", *chi)
    by_bin = f"<details><summary>Numbers by bin</summary>{table('', head, [rows])}</details>"
    figure = _wide("Can a classifier tell models from the reference?", areas_svg(result), words)
    return section("classifier", "Classifier", "", set_key(result), figure, by_bin)


def _profiles(result: ComparisonResult, labels: Sequence[str]) -> str:
    note = (
        "Mean visible energy of the cells with one index, in MeV for each GeV of the particle, summed over the other "
        "two axes. Above linear, in the middle logarithmic, below divided by the reference. Bands hold 95 %."
    )
    axes = ("depth", "x", "y")
    kinds = {"depth": "Longitudinal profile", "x": "Transverse profile along x", "y": "Transverse profile along y"}
    figures = []
    for label in labels:
        for axis in axes:
            words = (
                "A curve below the black line in one panel and above it in the next column means that the model's "
                f"{axis} profile changes with {label} in another way than the reference's. Ratios count where "
                "the energy is: the panels are scaled to cells with a hundredth of the highest mean. What lies outside "
                "of a panel is cut off."
            )
            title = f"{kinds[axis]}, in bins of {label}"
            figures.append(_wide(title, profiles_svg(result, axis, label), words))
    return section("profiles", "Profiles", note, set_key(result), *figures)


def _responses(result: ComparisonResult, labels: Sequence[str]) -> str:
    note = "Visible energy Ecal and number of hit cells of whole showers. Bands hold 95 %, from resampled showers."
    trends = [
        _wide(
            f"Sampling fraction, resolution and hits against {label}",
            responses_svg(result, label),
            "A calibrated model follows the black line in the first panel within a percent, or every energy that is "
            "measured with it is wrong. The second and the fourth panel show whether showers fluctuate as much as they "
            f"should: too low, and they are too much alike. Below: over the reference, by bin of {label}.",
        )
        for label in labels
    ]
    several = [
        _wide(
            f"Distribution of {name}, in bins of {label}",
            distributions_svg(result, quantity, label),
            "Width and tails count as much as the middle; below, divided by the reference where it has a thousandth of "
            "its highest bin or more.",
        )
        for label in labels
        for quantity, name in (("response", "the sampling fraction Ecal / Ep"), ("hits", "the number of hit cells"))
    ]
    return section("response", "Response", note, set_key(result), *trends, *several)


def _cells(result: ComparisonResult) -> str:
    words = (
        "Both axes are logarithmic, six bins a decade. The dotted line is the threshold: cells at or below it count as "
        "empty everywhere else on this page. Models often miss the faint end, which holds many cells and little energy."
    )
    figure = _wide("Spectrum of cells, in bins of energy", spectra_svg(result, ENERGY), words)
    return section("cells", "Cells", "", set_key(result), figure)


def _moments(result: ComparisonResult, labels: Sequence[str]) -> str:
    words = (
        "Center and width of a shower are mean and standard deviation of the cell, weighted by energy. Above, their "
        "means; below, how much they vary from shower to shower: too little, and showers are too much alike."
    )
    figures = [_wide(f"Centers and widths against {label}", moments_svg(result, label), words) for label in labels]
    return section("moments", "Moments", "", set_key(result), *figures)


def _correlations(result: ComparisonResult) -> str:
    words = (
        "First column: correlations of features in the reference, red together, blue against each other. Other "
        "columns: what the model adds to them, doubled for the eye; white is right. In all showers most follow the "
        "energy; in a bin of energy they show how a shower fluctuates."
    )
    return section(
        "correlations", "Correlations", "", _wide("Correlations of features", correlations_svg(result), words)
    )


def _images(result: ComparisonResult) -> str:
    plane = f"{result.picture_axis} and depth"
    mean = (
        f"Sums over the third axis, on the plane of {plane}, logarithmic, one color scale for all. White has no "
        "energy at all. Look for stripes and checkerboards, which sums of profiles hide."
    )
    single = (
        "One shower of each set with nearly the same labels. They differ as showers do; graininess, holes and reach of "
        "the faint cells should look alike."
    )
    return section(
        "images",
        "Images",
        "",
        _wide(f"Mean images, in bins of {ANGLE if result.picture_axis == 'y' else ENERGY}", pictures_svg(result), mean),
        _wide("Single showers", singles_svg(result), single),
    )


def _styled(result: ComparisonResult) -> list[tuple[ModelComparison, SetStyle]]:
    return list(zip(result.models, set_styles(result)[1:], strict=True))


def _wide(title: str, svg: str, words: str) -> str:
    """Return a figure that is as large as its text needs, and no wider than the page."""
    width = PIXELS_A_POINT * float(svg.split('viewBox="', 1)[1].split()[2])
    sized = svg.replace("<svg ", f'<svg style="min-width:min({0.6 * width:.0f}px,100%);max-width:{width:.0f}px" ', 1)
    return f'<figure class="wide"><h3>{escape(title)}</h3>{sized}<figcaption>{escape(words)}</figcaption></figure>'


def _line(style: SetStyle) -> str:
    dash = style.dash.replace("dashdot", "double")  # the nearest that CSS has
    return f'<span class="line" style="border-top:3px {dash} {style.color}"></span>'


def _area(area: AreaEstimate | None) -> str:
    return NONE if area is None else f"{area.value:.3f} ({area.lower:.3f} to {area.upper:.3f})"


def _chi_square(one: ChiSquare | None) -> str:
    return NONE if one is None else f"{format_number(one.reduced, 3)} ({format_number(one.deviations, 2)})"


def _signed_share(share: float) -> str:
    return f"{'+' if share > 0 else ''}{format_share(share)}"
