"""Read posteriors into the records that a report shows; the only part of the report that touches stores."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from tracestore.errors import (
    DegenerateWeightsError,
    DiagnosticError,
    InferenceError,
    InvalidInputError,
    UnknownAddressError,
)
from tracestore.posteriors.findings import Diagnosis
from tracestore.posteriors.posterior import Posterior
from tracestore.reports.data import COLORS, DASHES, Engine, Marginal, RunFacts, make_marginal
from tracestore.traces.layout import SiteKind

__all__ = ["ENGINE_WORDS", "choose_names", "label_posteriors", "read_engine"]

Row = TypeVar("Row")

MAX_JUDGED = 16
"""Longer vectors are not judged element by element."""
MAX_ELEMENTS = 6
"""Elements of a vector-valued variable that are shown."""
MAX_NAMES = 12
"""Variables that are chosen when the caller names none."""
RESULT = "result"
ENGINE_WORDS = {
    "is": "prior IS",
    "ic": "IC",
    "rmh": "RMH",
    "lmh": "LMH",
    "hmc": "HMC",
    "mala": "MALA",
    "prior": "prior",
}


def label_posteriors(posteriors: Posterior | Sequence[Posterior] | Mapping[str, Posterior]) -> dict[str, Posterior]:
    """Give every posterior a label of its own.

    Parameters
    ----------
    posteriors
        By label, or not: then by the engine's name, with the store's name where two engines are alike.

    Raises
    ------
    InvalidInputError
        When there is none.
    """
    if isinstance(posteriors, Posterior):
        posteriors = [posteriors]
    if len(posteriors) == 0:
        message = "A report needs at least one posterior; got none."
        raise InvalidInputError(message, argument="posteriors")
    if isinstance(posteriors, Mapping):
        return {str(label): posterior for label, posterior in posteriors.items()}
    words = [_engine_word(p) for p in posteriors]
    labels: dict[str, Posterior] = {}
    for word, posterior in zip(words, posteriors, strict=True):
        wanted = word if words.count(word) == 1 else f"{word} ({Path(posterior.store.path).name})"
        label, number = wanted, 1
        while label in labels:
            number += 1
            label = f"{wanted} {number}"
        labels[label] = posterior
    return labels


def _engine_word(posterior: Posterior) -> str:
    parts = dict.fromkeys(posterior.engine.split("+"))
    return " + ".join(ENGINE_WORDS.get(part, part) for part in parts)


def choose_names(posteriors: Sequence[Posterior]) -> list[str]:
    """Choose what to show when nobody said: named draws first, then named tags, as they come in the traces.

    Parameters
    ----------
    posteriors
        Posteriors of one observation.

    Returns
    -------
    list[str]
        Names, at most a dozen; addresses of controlled draws when nothing is named.
    """
    names = dict.fromkeys(name for posterior in posteriors for name in posterior.names)
    if set(names) - {RESULT}:
        # what the simulator returns is most often one of its named values
        names.pop(RESULT, None)
    return list(names)[:MAX_NAMES] or _addresses(posteriors[0])


def _addresses(posterior: Posterior) -> list[str]:
    """Addresses of the controlled draws of the most frequent layout."""
    runs = posterior.store.runs
    if len(runs.first) == 0:
        return []
    (layout,) = posterior.store.take(runs.first[[np.argmax(runs.num_traces)]]).layouts
    sites = [site for site in layout.sites if site.kind is SiteKind.SAMPLE and site.is_controlled]
    return [site.address for site in sites][:MAX_NAMES]


def read_engine(label: str, posterior: Posterior, names: Sequence[str], index: int) -> Engine:
    """Read one posterior.

    Parameters
    ----------
    label
        What people call it.
    posterior
        Its draws.
    names
        Names or addresses of the variables; vectors give one variable an element.
    index
        Position among the engines; decides color and line style.
    """
    marginals: dict[str, Marginal] = {}
    for name in names:
        marginals.update(_read_marginals(posterior, name))
    is_weighted = posterior.is_weighted
    ess = _number(lambda: posterior.ess)
    return Engine(
        label=label, color=COLORS[index % len(COLORS)], dash=DASHES[index % len(DASHES)],
        num_draws=len(posterior), num_chains=1 if is_weighted else posterior.num_chains, is_weighted=is_weighted,
        ess=math.nan if ess is None else ess,
        khat=_number(lambda: posterior.khat) if is_weighted else None,
        log_weights=posterior.log_weights if is_weighted else None,
        log_evidence=_number(lambda: posterior.log_evidence) if is_weighted else None,
        log_evidence_se=_number(lambda: posterior.log_evidence_se) if is_weighted else None,
        acceptance=None if is_weighted else _number(lambda: posterior.acceptance),
        moves=() if is_weighted else _or_nothing(lambda: posterior.acceptance_by_move),
        addresses=() if is_weighted else _or_nothing(lambda: posterior.acceptance_by_address),
        diagnosis=_diagnose(posterior, names), marginals=marginals, facts=_read_facts(posterior),
    )  # fmt: skip


def _diagnose(posterior: Posterior, names: Sequence[str]) -> Diagnosis:
    """Judge a posterior by the variables that the report shows; one that has none of them by all that it has."""
    known = [name for name in names if _is_short(posterior, name)]
    return posterior.diagnose(names=known or None)


def _is_short(posterior: Posterior, name: str) -> bool:
    try:
        return math.prod(posterior.table.present(name).values.shape[1:]) <= MAX_JUDGED
    except UnknownAddressError:
        return False


def _or_nothing(read: Callable[[], tuple[Row, ...]]) -> tuple[Row, ...]:
    try:
        return read()
    except InferenceError:  # views of chains may have none
        return ()


def _read_marginals(posterior: Posterior, name: str) -> dict[str, Marginal]:
    try:
        draws = posterior.values(name)
    except (UnknownAddressError, DegenerateWeightsError):
        return {name: make_marginal(np.zeros(0), None)}
    flat = np.asarray(draws.values, dtype=np.float64).reshape(len(draws.values), -1)
    size = flat.shape[1]
    mcse = _elements(lambda: posterior.mcse(name), size)
    ess = _elements(lambda: posterior.ess_of(name), size)
    rhat = _elements(lambda: posterior.rhat(name), size)
    labels = [name] if size == 1 else [f"{name}[{i}]" for i in range(min(size, MAX_ELEMENTS))]
    return {
        text: make_marginal(
            flat[:, i], draws.weights, draws.chain, draws.draw, share=float(min(draws.weights.sum(), 1.0)),
            mcse=mcse[i], ess=ess[i], rhat=None if math.isnan(rhat[i]) else rhat[i],
        )
        for i, text in enumerate(labels)
    }  # fmt: skip


def _elements(read: Callable[[], object], size: int) -> list[float]:
    try:
        found = np.asarray(read(), dtype=np.float64).reshape(-1)
    except (DiagnosticError, InvalidInputError):
        return [math.nan] * size
    return [float(x) for x in np.broadcast_to(found, size)] if len(found) in {1, size} else [math.nan] * size


def _number(read: Callable[[], float | None]) -> float | None:
    try:
        value = read()
    except InferenceError:
        return None
    return None if value is None or math.isnan(value) else float(value)


def _read_facts(posterior: Posterior) -> RunFacts:
    job = posterior.store.job
    place = ", ".join(Path(s.path).name for s in posterior.stores)
    verb, fields = (job.verb, job.fields) if job is not None else ("unknown", {})
    return RunFacts(place=place, verb=verb, fields=fields, num_failed=posterior.num_failed)
