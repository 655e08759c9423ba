"""What a comparison of showers says, in words: which model is closest in what, and what each fails."""

from collections.abc import Sequence

from tracestore.posteriors.findings import Verdict
from tracestore.reports.numbers import format_number, format_share
from tracestore.reports.showers.numbers import ComparisonResult, Criterion, ModelComparison

__all__ = ["closest_models", "conclusions", "criterion_value", "explain_criterion", "verdict_sentence"]

EXPLANATIONS = {
    "auc": "how well a small classifier tells showers apart by the features below: 0.5 not at all, 1 always",
    "profile_x": "share of the energy that is in wrong cells along x",
    "profile_y": "share of the energy that is in wrong cells along y",
    "profile_depth": "share of the energy that is in wrong layers",
    "response": "relative change of the mean visible energy over that of the particle",
    "resolution": "change of the spread of the visible energy over its mean, in its logarithm",
    "hits": "relative change of the mean number of cells above the threshold",
    "spectrum": "share of the hit cells that have a wrong energy, in six bins a decade",
    "moments": "change of a mean center or width, in spreads of the reference",
    "moment_spreads": "change of the spread of a center or width, in its logarithm",
    "correlations": "change of a correlation between two features",
}
PLAIN = {"auc", "moments", "correlations"}


def explain_criterion(key: str) -> str:
    """Return what a criterion measures, as a phrase.

    Parameters
    ----------
    key
        Of the criterion.
    """
    return EXPLANATIONS[key]


def criterion_value(key: str, value: float) -> str:
    """Return a value of a criterion as people read it: a number, or a percentage.

    Parameters
    ----------
    key
        Of the criterion.
    value
        Its value, or one of its limits.

    Examples
    --------
    >>> criterion_value("auc", 0.6), criterion_value("hits", 0.034)
    ('0.600', '3.4 %')
    """
    if key == "auc":
        return f"{value:.3f}"
    if key in PLAIN or value >= 10.0:
        return format_number(value, 2) if key in PLAIN else f"{format_number(100.0 * value)} %"
    return format_share(value)


def closest_models(result: ComparisonResult) -> dict[str, list[str]]:
    """Return, by name of model, the titles of the criteria in which it is closer than all others.

    Criteria in which several are equally close, all within noise, are left out.

    Parameters
    ----------
    result
        The comparison.
    """
    found: dict[str, list[str]] = {model.name: [] for model in result.models}
    for criterion in result.models[0].criteria:
        several = {model.name: _distance(model.criterion(criterion.key)) for model in result.models}
        best = [name for name, distance in several.items() if distance == min(several.values())]
        if len(best) == 1:
            found[best[0]].append(criterion.title)
    return found


def verdict_sentence(model: ModelComparison) -> str:
    """Return one sentence with what a model fails, and in what it is off.

    Parameters
    ----------
    model
        The model.
    """
    failed = [one for one in model.criteria if one.verdict is Verdict.BAD]
    off = [one for one in model.criteria if one.verdict is Verdict.DOUBTFUL]
    number = len(model.criteria)
    if not failed and not off:
        return f"`{model.name}` is close to the reference in all {number} criteria."
    parts = []
    if failed:
        parts.append(f"fails {len(failed)} of {number} criteria: {_listed(failed)}")
    if off:
        parts.append(f"is off in {_listed(off)}")
    return f"`{model.name}` {'; it '.join(parts)}."


def conclusions(result: ComparisonResult) -> list[str]:
    """Return the sentences at the top of the page, the verdict of each model after which is closest in what.

    Parameters
    ----------
    result
        The comparison.
    """
    sentences = []
    if len(result.models) > 1:
        best = min(result.models, key=lambda model: _distance(model.criterion("auc")))
        area = best.auc
        sentences.append(
            f"`{best.name}` is hardest to tell from the reference: the classifier's area over all showers is "
            f"{area.value:.3f} ({area.lower:.3f} to {area.upper:.3f})."
        )
        found = closest_models(result)
        sentences += [f"`{name}` is closest in {', '.join(titles)}." for name, titles in found.items() if titles]
        told = [title for titles in found.values() for title in titles]
        open_ones = [one.title for one in best.criteria if one.title not in told]
        if open_ones:
            sentences.append(f"Several are equally close, as far as noise lets see, in {', '.join(open_ones)}.")
    return [*sentences, *(verdict_sentence(model) for model in result.models)]


def _distance(criterion: Criterion) -> float:
    """Return how far from the reference a criterion is; differences below the noise are none."""
    excess = criterion.excess - (0.5 if criterion.key == "auc" else 0.0)
    return excess if excess == excess else float("inf")


def _listed(criteria: Sequence[Criterion]) -> str:
    return ", ".join(
        f"{one.title} ({criterion_value(one.key, one.value)} {one.where}".rstrip() + ")" for one in criteria
    )
