"""Small stores for the tests of this room."""

import numpy as np

from tests.suites.batches import make_batch
from tracestore.store import Job, TraceStore
from tracestore.traces import TraceBatch

JOB = Job("simulate", {"simulator": "fake", "seed": 1})


def make_chunk(number: int, num_traces: int = 40) -> TraceBatch:
    """Traces of one unit of work; their streams tell which."""
    return make_batch(number, num_traces, first_stream=number * num_traces, num_failed=number % 3)


def make_store(path, numbers=range(4), *, per_segment: int = 2, job: Job | None = JOB) -> TraceStore:
    store = TraceStore.create(path, job=job)
    with store.writer() as writer:
        for place, number in enumerate(numbers):
            writer.append(make_chunk(number), work=[number], state={"chunk": number})
            if place % per_segment == per_segment - 1:
                writer.seal()
    return store


def expected_batch(numbers) -> TraceBatch:
    return TraceBatch.concatenate([make_chunk(number) for number in numbers])


def by_stream(store: TraceStore) -> TraceBatch:
    """All traces in the order in which they were made."""
    return store.take(np.argsort(store.column("stream"), kind="stable"))
