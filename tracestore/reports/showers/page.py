"""Compare models of showers with a reference: one page that opens offline, and all numbers beside it as JSON."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from os import PathLike
from pathlib import Path

from tracestore.errors import InvalidInputError
from tracestore.events import Observer
from tracestore.pages import render_document, write_page
from tracestore.reports.showers.measurement import measure_showers
from tracestore.reports.showers.numbers import ComparisonResult
from tracestore.reports.showers.sections import set_key, shower_sections
from tracestore.reports.showers.sets import ENERGY, LABEL_UNITS
from tracestore.reports.showers.sources import Showers
from tracestore.store.trace_store import TraceStore

__all__ = ["compare_showers", "write_shower_page"]


def compare_showers(
    reference: TraceStore | str | PathLike[str],
    models: Mapping[str, Showers] | Sequence[Showers] | Showers,
    path: str | PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    observation: str | None = None,
    num_showers: int = 20_000,
    threshold: float = 1e-5,
    energy_edges: Sequence[float] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    extrapolate: bool = False,
    title: str = "Showers compared",
    observer: Observer | None = None,
) -> ComparisonResult:
    """Compare models of showers with a reference, and write a page and, beside it, its numbers as JSON.

    Parameters
    ----------
    reference
        A store of showers, or its path; best one that no model has learned from.
    models
        Surrogates, which generate showers for the labels of the reference, and stores of showers, which are compared as
        they are; or their folders. A dict by name, or those that have a name by their folder.
    path
        The HTML file; the numbers get its name with the ending ``.json``.
    labels
        Names of the energy in GeV and perhaps of the angle in degrees; ``energy`` and, where the reference has one,
        ``angle`` when not given.
    observation
        Name of the images; the only observation with three axes when not given.
    num_showers
        Showers of each set at most.
    threshold
        In GeV: cells at or below it count as empty in all sets.
    energy_edges
        Edges in GeV of the bins that have panels of their own; chosen when not given.
    seed
        Of noise, classifiers and resampling; the same seed gives the same numbers.
    batch_size
        Images that a surrogate generates at once.
    extrapolate
        Whether surrogates are asked for labels outside of their trained ranges.
    title
        Heading of the page.
    observer
        Told of progress, in showers.

    Returns
    -------
    ComparisonResult
        All numbers; ``to_dict()`` is what is in the JSON file.

    Raises
    ------
    InvalidInputError
        When labels are missing or hardly overlap, there are too few showers, names repeat, or an argument is out of
        range.
    GeometryMismatchError
        When images of a model have another shape.
    StoreNotFoundError
        When a path is neither a store nor a surrogate.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.shower import ShowerConfig, shower_simulator
    >>> from tracestore.simulators.shower_geometry import ShowerBox
    >>> small = shower_simulator(ShowerConfig(box=ShowerBox(shape=(9, 9, 12), cell_size=14.0, layer_depth=10.0)))
    >>> stores = [ts.simulate(small, name, num_traces=300, seed=seed) for seed, name in ((1, "some"), (2, "others"))]
    >>> result = compare_showers(stores[0], {"again": stores[1]}, "page.html")
    >>> bool(0.4 < result["again"].auc.value < 0.6)
    True
    """
    target = Path(path)
    if target.suffix == ".json":
        message = f"`path` must be that of the page, and not end in .json, where the numbers go; got {target}."
        raise InvalidInputError(message, argument="path")
    result = measure_showers(
        reference,
        models,
        labels=labels,
        observation=observation,
        num_showers=num_showers,
        threshold=threshold,
        energy_edges=energy_edges,
        seed=seed,
        batch_size=batch_size,
        extrapolate=extrapolate,
        observer=observer,
    )
    write_shower_page(result, target, title=title)
    return result


def write_shower_page(result: ComparisonResult, path: str | PathLike[str], *, title: str = "Showers compared") -> Path:
    """Write the page of a comparison, and its numbers beside it with the ending ``.json``.

    Parameters
    ----------
    result
        What `measure_showers` returned.
    path
        The HTML file.
    title
        Its heading.

    Returns
    -------
    Path
        The page.
    """
    sections = {name: part for name, part in shower_sections(result).items() if part}
    links = "".join(f'<li><a href="#{name.lower()}">{name}</a></li>' for name in sections)
    origins = ", ".join(f"{model.name} ({model.origin})" for model in result.models)
    shape = " x ".join(str(side) for side in result.reference_shape)
    energies = [one for one in result.bins if one.label == ENERGY]
    lead = (
        f"{result.reference.num_showers:,} showers of {energies[0].low:.3g} to {energies[-1].high:.3g} "
        f"{LABEL_UNITS[ENERGY]} in {shape} cells, from {result.facts['reference']}; compared with {origins}. "
        f"Cells at or below {result.threshold:g} GeV count as empty."
    )
    head = (
        f'<p class="lead">{escape(lead)}</p>\n{set_key(result)}\n'
        f'<nav aria-label="Sections"><ul class="links">{links}</ul></nav>'
    )
    footer = f"tracestore {result.facts['tracestore']}, seed {result.facts['seed']}"
    target = Path(path)
    write_page(target.with_suffix(".json"), json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n")
    return write_page(target, render_document(title, head, "\n".join(sections.values()), footer))
