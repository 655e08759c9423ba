"""Posteriors of many observations in one store."""

from tracestore.store.trace_store import TraceStore

__all__ = ["PosteriorSet"]


class PosteriorSet:
    """Posteriors of many observations."""

    def __init__(self, store: TraceStore) -> None:
        self.store = store
