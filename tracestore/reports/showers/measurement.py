"""Compare models of showers with a reference, numbers only: opens, reads, compares. Needs neither figures nor torch."""

import time
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING

from tracestore import __version__
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.reports.showers.comparison import compare_sets
from tracestore.reports.showers.numbers import ComparisonResult
from tracestore.reports.showers.sets import plan_showers
from tracestore.reports.showers.sources import (
    REFERENCE,
    Showers,
    StoredShowers,
    generated_showers,
    named_models,
    open_model,
    open_showers,
    read_set,
    stored_source,
)
from tracestore.store.trace_store import TraceStore

if TYPE_CHECKING:
    from tracestore.formats.document import JSON

__all__ = ["measure_showers"]


def measure_showers(
    reference: TraceStore | str | PathLike[str],
    models: Mapping[str, Showers] | Sequence[Showers] | Showers,
    *,
    labels: Sequence[str] | None = None,
    observation: str | None = None,
    num_showers: int = 20_000,
    threshold: float = 1e-5,
    energy_edges: Sequence[float] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    extrapolate: bool = False,
    observer: Observer | None = None,
) -> ComparisonResult:
    """Do the same as `compare_showers` without a page.

    Parameters
    ----------
    reference, models, labels, observation, num_showers, threshold
        As there.
    energy_edges, seed, batch_size, extrapolate, observer
        As there.
    """
    store = reference if isinstance(reference, TraceStore) else TraceStore.open(str(reference))
    opened = {name: open_model(model, name) for name, model in named_models(models).items()}

    def read(one: TraceStore, name: str, needed: Sequence[str] = ()) -> StoredShowers:
        return open_showers(one, name, labels=labels, observation=observation, num_showers=num_showers, needed=needed)

    generators = {name: model for name, model in opened.items() if not isinstance(model, TraceStore)}
    known = read(store, REFERENCE, [label for one in generators.values() for label in one.labels])
    plan = plan_showers(known.labels, threshold=threshold, energy_edges=energy_edges)
    sources = [
        stored_source(read(model, name), name, known)
        if isinstance(model, TraceStore)
        else generated_showers(model, name, known, seed=seed, batch_size=batch_size, extrapolate=extrapolate)
        for name, model in opened.items()
    ]
    first = read_set(stored_source(known, REFERENCE, known), plan, observer)
    sets = [read_set(source, plan, observer) for source in sources]
    facts: dict[str, JSON] = {
        "reference": store.path.name,
        "num_showers": len(first),
        "shape": list(known.shape),
        "threshold": threshold,
        "seed": seed,
        "tracestore": __version__,
    }
    started = time.monotonic()
    total = len(sets) + 2
    tell: Observer = observer or (lambda event: None)
    tell(PhaseStarted("compare", total, unit="sets"))
    result = compare_sets(
        first,
        sets,
        plan,
        origins={source.name: source.origin for source in sources},
        is_paired={source.name: source.is_generated for source in sources},
        seed=seed,
        facts=facts,
        advance=lambda done: tell(PhaseAdvanced("compare", done, total)),
    )
    tell(PhaseFinished("compare", time.monotonic() - started))
    return result
