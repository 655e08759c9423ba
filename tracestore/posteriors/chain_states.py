"""States that Markov chains committed with their draws."""

from typing import Any, cast

from tracestore.store.trace_store import TraceStore

__all__ = ["last_states"]


def last_states(store: TraceStore) -> dict[int, dict[str, Any]]:
    """Return the newest committed state of each chain, by number of the chain.

    Parameters
    ----------
    store
        Output of a Markov engine, finished or not.
    """
    last: dict[int, dict[str, Any]] = {}
    for _, document in store.work_states():
        state = cast("dict[str, Any]", document)
        found = last.get(state["chain"])
        # receipts of several writers come in no particular order
        if found is None or state["chunk"] > found["chunk"]:
            last[state["chain"]] = state
    return dict(sorted(last.items()))
