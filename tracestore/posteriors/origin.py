"""Which stores are the output of an engine, and which of them belong together. Reads no traces."""

from collections.abc import Sequence

from tracestore.errors import InvalidInputError
from tracestore.formats.document import JSON
from tracestore.store.trace_store import TraceStore

__all__ = ["CHAIN_ENGINES", "common_engine", "engine_fields", "is_markov"]

CHAIN_ENGINES = ("rmh", "lmh", "hmc", "mala")
"""Engines whose draws are states of Markov chains, without weights."""


def is_markov(engine: str) -> bool:
    """Tell whether draws of an engine, or of several joined by ``+``, are states of Markov chains.

    Parameters
    ----------
    engine
        As `common_engine` gives it.

    Examples
    --------
    >>> is_markov("rmh+lmh"), is_markov("ic+is")
    (True, False)
    """
    return bool(set(engine.split("+")) & set(CHAIN_ENGINES))


def engine_fields(store: TraceStore) -> dict[str, JSON]:
    """Return the fields of the job of an engine's output.

    Parameters
    ----------
    store
        Output of an engine.

    Raises
    ------
    InvalidInputError
        When the store is something else.
    """
    if store.job is None or "engine" not in store.job.fields:
        verb = store.job.verb if store.job else "no job"
        message = f"The store {store.storage.url} is not the output of an inference engine; it was written by {verb!r}."
        raise InvalidInputError(message, path=store.storage.url)
    return store.job.fields


def common_engine(stores: Sequence[TraceStore]) -> str:
    """Return the engine that wrote the stores; several names joined by ``+``.

    Parameters
    ----------
    stores
        Outputs of engines for one observation.

    Raises
    ------
    InvalidInputError
        When a store is not an engine's output or holds many observations, or the stores do not belong together.
    """
    fields = [engine_fields(store) for store in stores]
    for store, field in zip(stores, fields, strict=True):
        if "num_observations" in field:
            message = (
                f"The store {store.storage.url} holds the posteriors of {field['num_observations']} observations;"
                " open it with `open_posterior_set` and take one by its number."
            )
            raise InvalidInputError(message, path=store.storage.url)
    for name in ("simulator", "fingerprint", "observation"):
        found = [field.get(name) for field in fields]
        if len(set(found)) > 1:
            message = f"These posteriors do not belong together: their jobs differ in {name!r}: {found}."
            raise InvalidInputError(message, field=name, found=tuple(found))
    engines = [str(field["engine"]) for field in fields]
    kinds = {(is_markov(engine), bool(field.get("reweighted"))) for engine, field in zip(engines, fields, strict=True)}
    if len({markov for markov, _ in kinds}) > 1 or ("prior" in engines and set(engines) != {"prior"}):
        message = f"Draws of the engines {engines} cannot be joined: their weights mean different things. Compare them."
        raise InvalidInputError(message, engines=tuple(engines))
    if len(stores) > 1 and (True, True) in kinds:
        message = (
            "Reweighted chains cannot be joined: the scales of their weights differ. Join the chains, then reweight."
        )
        raise InvalidInputError(message, engines=tuple(engines))
    return "+".join(dict.fromkeys(engines))
