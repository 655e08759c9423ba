"""Write what a view looks at into a store of its own: whole traces, with the weights of the view.

The job of the new store records the engine, the stores it came from and what was done, so that the result opens as a
posterior and an interrupted call continues.
"""

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from tracestore.errors import InvalidInputError
from tracestore.events import Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.posteriors.draw_view import DrawView
from tracestore.posteriors.origin import engine_fields
from tracestore.store.job import Job
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracestore.formats.document import JSON

__all__ = ["save_view"]

_SEGMENT_BYTES = 2**28


def save_view(view: DrawView, path: StorePath, *, observer: Observer | None = None) -> TraceStore:
    """Write the traces of a view, some at a time.

    Parameters
    ----------
    view
        The draws.
    path
        Where the store is to be. When the same view is there already, it is continued or returned.
    observer
        Told of progress, in traces.

    Returns
    -------
    TraceStore
        The store.

    Raises
    ------
    InvalidInputError
        When the view was reobserved.
    StoreExistsError
        When the path holds something else.
    """
    if view.reobserved:
        message = (
            f"A posterior that was reobserved ({', '.join(view.reobserved)}) cannot be saved: its traces hold the old"
            " observation. Save the posterior before, and reobserve what is opened."
        )
        raise InvalidInputError(message, names=tuple(view.reobserved))
    store = TraceStore.open_or_create(path, _job(view))
    done = store.completed_work()
    num_done, start = 0, time.perf_counter()
    if observer is not None:
        observer(PhaseStarted("save", len(view.table)))
    chain, draw = view.table.chain, view.table.draw
    with store.writer(segment_bytes=_SEGMENT_BYTES) as writer:
        for unit, (rows, batch) in enumerate(view.table.batches()):
            if unit not in done:
                weighted = replace(
                    batch,
                    log_weight=view.log_weights[rows],
                    chain=chain[rows].astype(np.int32),
                    draw=draw[rows],
                )
                writer.append(weighted, work=[unit])
            num_done += len(rows)
            if observer is not None:
                observer(PhaseAdvanced("save", num_done, len(view.table)))
    if observer is not None:
        observer(PhaseFinished("save", time.perf_counter() - start))
    store.refresh()
    return store


def _job(view: DrawView) -> Job:
    """Job of a view: the same for the same rows and weights of the same snapshots."""
    fields = [engine_fields(store) for store in view.table.stores]
    content = xxhash.xxh3_128()
    for column in (view.table.store_rows, view.log_weights):
        content.update(np.ascontiguousarray(column).tobytes())
    sources: list[JSON] = [{"uuid": store.uuid, "snapshot": store.snapshot_id} for store in view.table.stores]
    kept: Mapping[str, JSON] = {name: fields[0].get(name) for name in ("simulator", "fingerprint", "observation")}
    steps: list[JSON] = [dict(step) for step in view.steps]
    return Job(
        "infer",
        {
            **kept,
            "engine": view.engine,
            "num_draws": len(view.table),
            "num_proposed": view.num_proposed,
            "reweighted": view.is_reweighted,
            "steps": steps,
            "sources": sources,
            "content": content.hexdigest(),
            # they say which traces a unit of work stands for
            "batch_sizes": list(view.table.batch_sizes),
        },
    )
